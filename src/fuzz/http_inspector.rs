//! Invariants of the look at a connection's first bytes in plain text: the cut of the input does not matter, and nothing beyond what
//! decides is needed.

use crate::protocol::http::inspector::{Seen, look};

/// One byte of cut, then a connection's first bytes.
pub fn http_inspector(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else { return };
    let cut = usize::from(*cut) + 1;
    let whole = look(bytes, &mut 0);
    let pieces = (1..=bytes.len().div_ceil(cut)).map(|piece| (piece * cut).min(bytes.len()));
    let (first, needed) = first_answer(bytes, pieces);
    assert_eq!(first, whole, "in pieces of {cut} bytes");
    assert_eq!(look(&bytes[..needed], &mut 0), whole);
    assert_eq!(first_answer(bytes, [cut.min(bytes.len()), bytes.len()]).0, whole, "cut behind {cut} bytes");
}

/// What is told first of bytes that come up to these ends, one after the other, and how many have come by then.
fn first_answer(bytes: &[u8], ends: impl IntoIterator<Item = usize>) -> (Seen, usize) {
    let mut searched = 0;
    for end in ends {
        let seen = look(&bytes[..end], &mut searched);
        assert!(searched <= end);
        if seen != Seen::More {
            return (seen, end);
        }
    }
    (Seen::More, bytes.len())
}
