//! Bytes of one stream that wait for the codec, in the order of their coming.
//!
//! The first piece lies in place, as there is seldom another: a list is made with the second. Few bytes are gathered behind the
//! last, so that pieces of a byte each are one, however long they wait.

use std::collections::VecDeque;

use bytes::Bytes;

/// Fewer bytes are copied on their way to the codec.
pub(super) const SHARED_BYTES_MIN: usize = 2048;

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Empty: there is none, and none in the list.
    first: Bytes,
    list: VecDeque<Bytes>,
    gathered: Vec<u8>,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty() && self.gathered.is_empty()
    }

    /// Puts a piece behind all others; not an empty one.
    pub(super) fn push(&mut self, piece: Bytes) {
        self.close_gathered();
        self.append(piece);
    }

    /// Puts a copy of a few bytes behind all others.
    pub(super) fn gather(&mut self, bytes: &[u8]) {
        if self.gathered.is_empty() {
            // Often this is all, and then it goes without another copy.
            self.gathered = Vec::with_capacity(bytes.len());
        }
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= SHARED_BYTES_MIN {
            self.close_gathered();
        }
    }

    /// Whether there is a piece to be taken. Behind pieces that wait what is gathered goes on being gathered.
    pub(super) fn has_first(&mut self) -> bool {
        if self.first.is_empty() {
            self.close_gathered();
        }
        !self.first.is_empty()
    }

    /// The first piece, or so many bytes of it.
    pub(super) fn take(&mut self, most: usize) -> Bytes {
        if most < self.first.len() {
            return self.first.split_to(most);
        }
        std::mem::replace(&mut self.first, self.list.pop_front().unwrap_or_default())
    }

    /// What was gathered waits as a piece like others.
    fn close_gathered(&mut self) {
        if !self.gathered.is_empty() {
            let piece = std::mem::take(&mut self.gathered).into();
            self.append(piece);
        }
    }

    fn append(&mut self, piece: Bytes) {
        if self.first.is_empty() {
            self.first = piece;
        } else {
            self.list.push_back(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(waiting: &mut Waiting) -> Vec<Bytes> {
        std::iter::from_fn(|| waiting.has_first().then(|| waiting.take(usize::MAX))).collect()
    }

    #[test]
    fn pieces_come_in_their_order_and_few_bytes_together() {
        let mut waiting = Waiting::default();
        assert!(waiting.is_empty() && !waiting.has_first());
        waiting.gather(b"a");
        waiting.gather(b"b");
        waiting.push(Bytes::from_static(b"cde"));
        waiting.gather(b"f");
        assert!(!waiting.is_empty());
        assert_eq!(waiting.take(1), "a");
        assert!(waiting.has_first(), "the rest of it");
        waiting.gather(b"g");
        assert_eq!(all(&mut waiting), ["b", "cde", "fg"]);
        assert!(waiting.is_empty());
        waiting.gather(&[b'x'; SHARED_BYTES_MIN]);
        waiting.gather(b"y");
        assert_eq!(all(&mut waiting).iter().map(Bytes::len).collect::<Vec<_>>(), [SHARED_BYTES_MIN, 1]);
    }

    #[test]
    fn message_in_one_piece_makes_no_list() {
        let mut waiting = Waiting::default();
        waiting.gather(b"body");
        assert_eq!(all(&mut waiting), ["body"]);
        assert_eq!(waiting.list.capacity(), 0);
    }
}
