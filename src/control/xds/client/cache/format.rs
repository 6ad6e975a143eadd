//! What a file of kept resources holds: a head that says whose they are, then one record for each change. Nothing of a record
//! counts before all of it is there: its length and a checksum stand in front of it.
use std::collections::BTreeMap;

use prost::Message;

use crate::base::xx_hash::xx_hash;

/// Begins every file; another format has another number.
const MAGIC: &[u8] = b"ringway xds cache 1\n";
/// Before a record: its length and checksum.
const PREFIX_BYTES: usize = 12;

/// One change of a type's resources.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Change {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    /// What the control plane calls the state that it leads to.
    #[prost(string, tag = "2")]
    pub(super) version: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) put: Vec<Kept>,
    #[prost(string, repeated, tag = "4")]
    pub(super) removed: Vec<String>,
}

/// A resource that is kept.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Kept {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    /// Its own, where it has one.
    #[prost(string, tag = "2")]
    pub(crate) version: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) value: Vec<u8>,
}

/// The resources of a type.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Resources {
    pub(super) version: String,
    pub(super) by_name: BTreeMap<String, Kept>,
}

/// All that a file holds, by type.
pub(super) type Contents = BTreeMap<String, Resources>;

/// How far a file could be read.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Read {
    Whole(Contents),
    /// The last record is not all there: as it was before it. So many bytes are good.
    Torn(Contents, usize),
    /// Nothing of it is used.
    Unusable(&'static str),
}

/// The beginning of a file of that owner's.
pub(super) fn head(owner: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(record(owner));
    bytes
}

/// A change as it is appended.
pub(super) fn change(change: &Change) -> Vec<u8> {
    record(&change.encode_to_vec())
}

fn record(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + payload.len());
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(xx_hash(payload, 0).to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// Everything that is kept, as few changes as there are types.
pub(super) fn whole(owner: &[u8], contents: &Contents) -> Vec<u8> {
    let mut bytes = head(owner);
    for (type_url, Resources { version, by_name }) in contents {
        bytes.extend(change(&Change {
            type_url: type_url.clone(),
            version: version.clone(),
            put: by_name.values().cloned().collect(),
            removed: Vec::new(),
        }));
    }
    bytes
}

/// Reads a file that `owner` is to use.
pub(super) fn read(bytes: &[u8], owner: &[u8]) -> Read {
    let Some(records) = bytes.strip_prefix(MAGIC) else { return Read::Unusable("it is of another format") };
    let mut rest = records;
    match next(&mut rest) {
        Next::Record(payload) if payload == owner => {}
        Next::Record(_) => return Read::Unusable("it is another node's, or of another control plane"),
        Next::End | Next::Torn | Next::Corrupt => return Read::Unusable("its head is damaged"),
    }
    let mut contents = Contents::new();
    loop {
        let good = bytes.len() - rest.len();
        match next(&mut rest) {
            Next::End => return Read::Whole(contents),
            Next::Torn => return Read::Torn(contents, good),
            Next::Corrupt => return Read::Unusable("a record within it is damaged"),
            Next::Record(payload) => match Change::decode(payload) {
                Ok(change) => apply(&mut contents, change),
                Err(_) => return Read::Unusable("a record within it is of another format"),
            },
        }
    }
}

enum Next<'a> {
    Record(&'a [u8]),
    End,
    /// There is a beginning, and then the file ends.
    Torn,
    Corrupt,
}

fn next<'a>(rest: &mut &'a [u8]) -> Next<'a> {
    if rest.is_empty() {
        return Next::End;
    }
    let Some((prefix, behind)) = rest.split_at_checked(PREFIX_BYTES) else { return Next::Torn };
    let number = |range: std::ops::Range<usize>| {
        prefix[range].iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let (length, checksum) = (number(0..4) as usize, number(4..12));
    let Some((payload, behind)) = behind.split_at_checked(length) else { return Next::Torn };
    if xx_hash(payload, 0) != checksum {
        // Written, but not all of it: the system went down.
        return if behind.is_empty() { Next::Torn } else { Next::Corrupt };
    }
    *rest = behind;
    Next::Record(payload)
}

/// Takes a change.
pub(super) fn apply(contents: &mut Contents, change: Change) {
    let Change { type_url, version, put, removed } = change;
    let resources = contents.entry(type_url).or_default();
    // Of a response that was refused in part the rest is kept, and the version is the last good one.
    if !version.is_empty() {
        resources.version = version;
    }
    for name in removed {
        resources.by_name.remove(&name);
    }
    for kept in put {
        resources.by_name.insert(kept.name.clone(), kept);
    }
}

/// Holds over arbitrary bytes, as a file and as a record of one: what is read is written so that it is read again.
pub fn arbitrary(input: &[u8]) {
    const OWNER: &[u8] = b"me";
    let mut framed = head(OWNER);
    framed.extend(record(input));
    for bytes in [input, &framed] {
        if let Read::Whole(contents) | Read::Torn(contents, _) = read(bytes, OWNER) {
            assert_eq!(read(&whole(OWNER, &contents), OWNER), Read::Whole(contents));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(name: &str, value: &[u8]) -> Kept {
        Kept { name: name.into(), version: "7".into(), value: value.into() }
    }

    fn changed(version: &str, put: Vec<Kept>, removed: &[&str]) -> Vec<u8> {
        let removed = removed.iter().map(ToString::to_string).collect();
        change(&Change { type_url: "t".into(), version: version.into(), put, removed })
    }

    fn file() -> Vec<u8> {
        let mut bytes = head(b"me");
        bytes.extend(changed("1", vec![kept("a", b"1"), kept("b", b"2")], &[]));
        bytes.extend(changed("2", vec![kept("b", b"3")], &["a"]));
        bytes
    }

    fn names(contents: &Contents) -> Vec<(&str, &[u8])> {
        contents["t"].by_name.values().map(|kept| (kept.name.as_str(), kept.value.as_slice())).collect()
    }

    #[test]
    fn last_state_is_read_and_written_whole() {
        let Read::Whole(contents) = read(&file(), b"me") else { panic!() };
        assert_eq!((names(&contents), contents["t"].version.as_str()), (vec![("b", &b"3"[..])], "2"));
        let again = whole(b"me", &contents);
        assert!(again.len() < file().len() && read(&again, b"me") == Read::Whole(contents));
    }

    /// Wherever it is cut off, the state is that before the record that is not whole.
    #[test]
    fn torn_file_is_as_it_was_before_the_last_record() {
        let (bytes, begun) = (file(), head(b"me").len());
        let first = begun + changed("1", vec![kept("a", b"1"), kept("b", b"2")], &[]).len();
        for cut in begun + 1..bytes.len() {
            match read(&bytes[..cut], b"me") {
                Read::Whole(contents) => assert_eq!((cut, names(&contents).len()), (first, 2)),
                Read::Torn(contents, good) => {
                    assert_eq!(good, if cut < first { begun } else { first }, "{cut}");
                    assert_eq!(contents.is_empty(), cut < first);
                }
                Read::Unusable(reason) => panic!("{cut}: {reason}"),
            }
        }
        for cut in 0..begun {
            assert!(matches!(read(&bytes[..cut], b"me"), Read::Unusable(_)), "{cut}");
        }
    }

    /// Whichever bit is another, nothing that was not written is read.
    #[test]
    fn damaged_file_is_never_applied_in_part() {
        let bytes = file();
        let Read::Whole(last) = read(&bytes, b"me") else { panic!() };
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                match read(&damaged, b"me") {
                    Read::Whole(contents) => assert_eq!(contents, last, "{at}"),
                    Read::Torn(contents, good) => {
                        assert_eq!(read(&bytes[..good], b"me"), Read::Whole(contents))
                    }
                    Read::Unusable(_) => {}
                }
            }
        }
    }

    #[test]
    fn file_of_another_owner_is_not_used() {
        assert!(matches!(read(&file(), b"you"), Read::Unusable(_)));
        assert!(matches!(read(b"something else", b"me"), Read::Unusable(_)));
        assert!(matches!(read(b"", b"me"), Read::Unusable(_)));
    }
}
