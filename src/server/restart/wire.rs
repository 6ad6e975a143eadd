//! What two processes say to each other in a hot restart, as bytes: one message a request or a reply, the newer process
//! asks and the older one answers.
//!
//! Everything is bounded, and arbitrary bytes are taken or refused, never feared (`fuzz/`, target `restart_message`). Numbers
//! are little-endian, texts have their length in front. Descriptors travel beside a message; what they are its reply says.
//! The greeting keeps its form in every version, so that two that do not understand each other can say so.

use crate::base::socket_address::SocketAddress;
use crate::telemetry::family::ViewKind;
use crate::telemetry::{Bequest, Origin};

/// Version of everything but the greeting. Processes of different versions do not restart into each other.
pub(crate) const VERSION: u32 = 1;
/// Bytes of one message. The kernel takes some 200 KiB at once.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a name in a message. Scopes with longer ones are left out.
const TEXT_BYTES_MAX: usize = 4096;
/// A number of a metric, at most: sums of several cannot overflow.
const NUMBER_MAX: u64 = 1 << 56;
/// What every message begins with.
const MAGIC: [u8; 2] = *b"RW";

/// What the newer process asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// The first of all: its version and epoch.
    Hello { version: u32, epoch: u32 },
    /// The listening sockets of an address, from the one of that number; a port 0 is told apart by the listener's name.
    Sockets { address: SocketAddress, listener: Box<str>, from: u32 },
    /// The admin endpoint's socket, if it is at that address.
    Admin { address: Box<str> },
    /// Stop accepting, close the admin endpoint, ask clients to go.
    Drain,
    /// What has been counted, from the part of that number.
    Stats { part: u32 },
    /// End.
    Terminate,
}

/// What the older process answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// It is ready to be replaced. When the first process of the chain began, in seconds since 1970, and how many there
    /// were.
    Welcome { started_s: u64, generation: u64 },
    /// It cannot be replaced, for this reason.
    Refused(Refusal),
    /// So many sockets there are in all; some are beside the message.
    Sockets { total: u32 },
    /// The admin endpoint's socket is beside the message, or there is none.
    Admin,
    /// It accepts no more.
    Draining,
    /// Counts, and connections that are left.
    Stats { connections: u64, ended: bool, more: bool, bequests: Vec<Bequest> },
    /// It ends.
    Terminating,
}

/// Why a process cannot be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It speaks this version.
    Version(u32),
    /// It is of this epoch, and only the next one can replace it.
    Epoch(u32),
    /// It does not serve yet.
    Initializing,
    /// It has been replaced.
    Replaced,
    /// It was told to end.
    Ending,
}

impl Request {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(match self {
            Self::Hello { .. } => 1,
            Self::Sockets { .. } => 2,
            Self::Admin { .. } => 3,
            Self::Drain => 4,
            Self::Stats { .. } => 5,
            Self::Terminate => 6,
        });
        match self {
            Self::Hello { version, epoch } => {
                out.u32(*version);
                out.u32(*epoch);
            }
            Self::Sockets { address, listener, from } => {
                out.text(&address.to_string());
                out.text(listener);
                out.u32(*from);
            }
            Self::Admin { address } => out.text(address),
            Self::Stats { part } => out.u32(*part),
            Self::Drain | Self::Terminate => {}
        }
        out.0
    }

    /// `None`: it is none.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, mut rest) = Reader::new(bytes)?;
        let request = match kind {
            // A later version may add to it.
            1 => return Some(Self::Hello { version: rest.u32()?, epoch: rest.u32()? }),
            2 => Self::Sockets {
                address: SocketAddress::parse(rest.text()?),
                listener: rest.text()?.into(),
                from: rest.u32()?,
            },
            3 => Self::Admin { address: rest.text()?.into() },
            4 => Self::Drain,
            5 => Self::Stats { part: rest.u32()? },
            6 => Self::Terminate,
            _ => return None,
        };
        rest.is_empty().then_some(request)
    }
}

impl Reply {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(match self {
            Self::Welcome { .. } => 129,
            Self::Refused(_) => 130,
            Self::Sockets { .. } => 131,
            Self::Admin => 132,
            Self::Draining => 133,
            Self::Stats { .. } => 134,
            Self::Terminating => 135,
        });
        match self {
            Self::Welcome { started_s, generation } => {
                out.u64(*started_s);
                out.u64(*generation);
            }
            Self::Refused(reason) => {
                let (reason, number) = match reason {
                    Refusal::Version(version) => (1, *version),
                    Refusal::Epoch(epoch) => (2, *epoch),
                    Refusal::Initializing => (3, 0),
                    Refusal::Replaced => (4, 0),
                    Refusal::Ending => (5, 0),
                };
                out.0.push(reason);
                out.u32(number);
            }
            Self::Sockets { total } => out.u32(*total),
            Self::Stats { connections, ended, more, bequests } => {
                out.u64(*connections);
                out.0.push(u8::from(*ended));
                out.0.push(u8::from(*more));
                bequests.iter().for_each(|bequest| out.bequest(bequest));
            }
            Self::Admin | Self::Draining | Self::Terminating => {}
        }
        out.0
    }

    /// `None`: it is none.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, mut rest) = Reader::new(bytes)?;
        let reply = match kind {
            129 => Self::Welcome { started_s: rest.u64()?, generation: rest.u64()?.min(NUMBER_MAX) },
            130 => {
                let (reason, number) = (rest.u8()?, rest.u32()?);
                return Some(Self::Refused(match reason {
                    1 => Refusal::Version(number),
                    2 => Refusal::Epoch(number),
                    3 => Refusal::Initializing,
                    4 => Refusal::Replaced,
                    5 => Refusal::Ending,
                    _ => return None,
                }));
            }
            131 => Self::Sockets { total: rest.u32()? },
            132 => Self::Admin,
            133 => Self::Draining,
            134 => {
                let (connections, ended, more) = (rest.number()?, rest.flag()?, rest.flag()?);
                let mut bequests = Vec::new();
                while !rest.is_empty() {
                    bequests.push(rest.bequest()?);
                }
                Self::Stats { connections, ended, more, bequests }
            }
            135 => Self::Terminating,
            _ => return None,
        };
        rest.is_empty().then_some(reply)
    }
}

/// Parts of a long list of bequests, each of which fits into a message.
pub(crate) fn parts(bequests: Vec<Bequest>) -> Vec<Vec<Bequest>> {
    let mut parts = vec![Vec::new()];
    let mut room = MESSAGE_BYTES_MAX / 2;
    for bequest in bequests {
        let Some(bytes) = size(&bequest) else { continue };
        if bytes > room {
            parts.push(Vec::new());
            room = MESSAGE_BYTES_MAX / 2;
        }
        room = room.saturating_sub(bytes);
        if let Some(part) = parts.last_mut() {
            part.push(bequest);
        }
    }
    parts
}

/// Bytes of a bequest in a message; `None`: it does not fit into one.
fn size(bequest: &Bequest) -> Option<usize> {
    let mut out = Writer(Vec::new());
    out.bequest(bequest);
    (bequest.prefix.len() <= TEXT_BYTES_MAX && out.0.len() <= MESSAGE_BYTES_MAX / 2).then_some(out.0.len())
}

const KINDS: [ViewKind; ViewKind::ALL.len()] = ViewKind::ALL;

struct Writer(Vec<u8>);

impl Writer {
    fn new(kind: u8) -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.push(kind);
        Self(bytes)
    }

    fn u16(&mut self, number: u16) {
        self.0.extend(number.to_le_bytes());
    }

    fn u32(&mut self, number: u32) {
        self.0.extend(number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    /// Longer ones are cut: nobody has such an address or listener, and scopes were left out before.
    fn text(&mut self, text: &str) {
        let end = (0..=text.len().min(TEXT_BYTES_MAX)).rev().find(|end| text.is_char_boundary(*end));
        let text = &text[..end.unwrap_or(0)];
        self.u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
        self.0.extend(text.as_bytes());
    }

    fn bequest(&mut self, bequest: &Bequest) {
        let kind = KINDS.iter().position(|kind| *kind == bequest.kind);
        self.0.push(kind.and_then(|kind| u8::try_from(kind).ok()).unwrap_or(u8::MAX));
        self.text(&bequest.prefix);
        self.u16(u16::try_from(bequest.values.len()).unwrap_or(u16::MAX));
        for (name, value) in &bequest.values {
            self.text(name);
            self.u64(*value);
        }
        self.u16(u16::try_from(bequest.codes.len()).unwrap_or(u16::MAX));
        for (origin, code, count) in &bequest.codes {
            self.0.push(*origin as u8);
            self.u16(*code);
            self.u64(*count);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A message's kind, and what follows.
    fn new(bytes: &'a [u8]) -> Option<(u8, Self)> {
        let (kind, rest) = bytes.strip_prefix(&MAGIC)?.split_first()?;
        Some((*kind, Self(rest)))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn flag(&mut self) -> Option<bool> {
        self.u8().map(|byte| byte != 0)
    }

    fn number(&mut self) -> Option<u64> {
        self.u64().map(|number| number.min(NUMBER_MAX))
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::from(self.u16()?);
        let (text, rest) = self.0.split_at_checked(length).filter(|_| length <= TEXT_BYTES_MAX)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    fn bequest(&mut self) -> Option<Bequest> {
        let kind = *KINDS.get(usize::from(self.u8()?))?;
        let prefix = self.text()?.into();
        // Nothing is set aside for what is only announced.
        let values = (0..self.u16()?).map(|_| Some((self.text()?.into(), self.number()?)));
        let values = values.collect::<Option<Vec<_>>>()?;
        let codes = (0..self.u16()?).map(|_| {
            let origin = if self.flag()? { Origin::External } else { Origin::Internal };
            Some((origin, self.u16()?, self.number()?))
        });
        Some(Bequest { kind, prefix, values, codes: codes.collect::<Option<Vec<_>>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bequest(prefix: &str) -> Bequest {
        Bequest {
            kind: ViewKind::Cluster,
            prefix: prefix.into(),
            values: vec![("upstream_cx_total".into(), 7), ("upstream_rq_active".into(), 1)],
            codes: vec![(Origin::External, 200, 5), (Origin::Internal, 503, 2)],
        }
    }

    fn requests() -> Vec<Request> {
        vec![
            Request::Hello { version: VERSION, epoch: 3 },
            Request::Sockets {
                address: SocketAddress::Ip("[::1]:80".parse().unwrap()),
                listener: "l".into(),
                from: 64,
            },
            Request::Sockets { address: SocketAddress::Pipe("@l".into()), listener: "l".into(), from: 0 },
            Request::Admin { address: "@admin".into() },
            Request::Drain,
            Request::Stats { part: 2 },
            Request::Terminate,
        ]
    }

    fn replies() -> Vec<Reply> {
        let bequests = vec![bequest("cluster.a."), bequest("")];
        let refusals = [
            Refusal::Version(9),
            Refusal::Epoch(1),
            Refusal::Initializing,
            Refusal::Replaced,
            Refusal::Ending,
        ];
        let mut replies = vec![
            Reply::Welcome { started_s: 1_700_000_000, generation: 4 },
            Reply::Sockets { total: 100 },
            Reply::Admin,
            Reply::Draining,
            Reply::Stats { connections: 9, ended: true, more: false, bequests },
            Reply::Terminating,
        ];
        replies.extend(refusals.map(Reply::Refused));
        replies
    }

    #[test]
    fn messages_come_out_as_they_went_in() {
        for request in requests() {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        for reply in replies() {
            assert_eq!(Reply::decode(&reply.encode()), Some(reply));
        }
    }

    #[test]
    fn message_that_is_cut_or_has_more_is_none() {
        for bytes in requests().iter().map(Request::encode) {
            for end in 0..bytes.len() {
                assert_eq!(Request::decode(&bytes[..end]), None, "{:?}", &bytes[..end]);
            }
            assert!(bytes[2] == 1 || Request::decode(&[&bytes[..], &[0]].concat()).is_none());
        }
        for reply in replies() {
            let bytes = reply.encode();
            for end in 0..bytes.len() {
                // A list may end after any of its entries.
                assert!(Reply::decode(&bytes[..end]).is_none_or(|other| other != reply));
            }
        }
        assert_eq!(Request::decode(b""), None);
        assert_eq!(Request::decode(b"GET / HTTP/1.1\r\n\r\n"), None);
    }

    #[test]
    fn long_list_is_divided_into_messages_and_loses_nothing() {
        let all: Vec<_> = (0..5000).map(|number| bequest(&format!("cluster.c{number}."))).collect();
        let parts = parts(all.clone());
        assert!(parts.len() > 5);
        let encoded = parts.iter().map(|part| {
            Reply::Stats { connections: 0, ended: false, more: true, bequests: part.clone() }.encode()
        });
        assert!(encoded.into_iter().all(|bytes| bytes.len() <= MESSAGE_BYTES_MAX));
        assert_eq!(parts.concat(), all);
        assert_eq!(super::parts(vec![bequest(&"x".repeat(5000))]).concat(), []);
        assert_eq!(super::parts(Vec::new()).len(), 1);
    }

    #[test]
    fn numbers_are_bounded() {
        let endless = Bequest { values: vec![("a".into(), u64::MAX)], codes: Vec::new(), ..bequest("p") };
        let sent = Reply::Stats { connections: u64::MAX, ended: false, more: false, bequests: vec![endless] };
        let Some(Reply::Stats { connections, bequests, .. }) = Reply::decode(&sent.encode()) else {
            panic!()
        };
        assert_eq!((connections, bequests[0].values[0].1), (NUMBER_MAX, NUMBER_MAX));
    }
}
