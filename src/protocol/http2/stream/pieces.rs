//! Received bytes that nobody takes for now: long pieces as they came, short ones put together.
//!
//! The codec keeps hundreds of bytes for each frame, however short, and ends a connection of which it keeps too many. So what
//! waits for a slow taker waits here.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Shorter pieces are copied: each would hold on to the memory that it was received in.
const WHOLE_BYTES_MIN: usize = 2048;
/// So many bytes that were put together are a piece: its memory is let go when the last of them was taken.
const GATHERED_BYTES_MIN: usize = 16 * 1024;

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    whole: VecDeque<Bytes>,
    /// Short ones, behind all others.
    gathered: BytesMut,
    len: usize,
}

impl Pieces {
    /// Bytes of all of them.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts one behind the others.
    pub(super) fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        if piece.len() < WHOLE_BYTES_MIN {
            self.gathered.extend_from_slice(&piece);
            if self.gathered.len() >= GATHERED_BYTES_MIN {
                self.close_gathered();
            }
        } else {
            self.close_gathered();
            self.whole.push_back(piece);
        }
    }

    /// Takes the first; those that were put together are one.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        if self.whole.is_empty() {
            self.close_gathered();
        }
        let piece = self.whole.pop_front()?;
        self.len -= piece.len();
        Some(piece)
    }

    fn close_gathered(&mut self) {
        if !self.gathered.is_empty() {
            self.whole.push_back(std::mem::take(&mut self.gathered).freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_out_in_their_order_and_short_ones_as_one() {
        let mut pieces = Pieces::default();
        let long = Bytes::from(vec![b'l'; WHOLE_BYTES_MIN]);
        for piece in [b"ab", b"cd"] {
            pieces.push(Bytes::from_static(piece));
        }
        pieces.push(long.clone());
        pieces.push(Bytes::new());
        pieces.push(Bytes::from_static(b"e"));
        assert_eq!(pieces.len(), WHOLE_BYTES_MIN + 5);
        assert_eq!(pieces.pop().as_deref(), Some(&b"abcd"[..]));
        let first = pieces.pop().unwrap();
        assert!(first == long && first.as_ptr() == long.as_ptr(), "not copied");
        pieces.push(Bytes::from_static(b"f"));
        assert_eq!(pieces.pop().as_deref(), Some(&b"ef"[..]));
        assert!(pieces.is_empty() && pieces.pop().is_none());
    }

    #[test]
    fn short_pieces_are_put_together_up_to_a_bound() {
        let mut pieces = Pieces::default();
        let short = Bytes::from_static(&[b's'; 1024]);
        (0..40).for_each(|_| pieces.push(short.clone()));
        let lengths: Vec<_> = std::iter::from_fn(|| pieces.pop()).map(|piece| piece.len()).collect();
        assert_eq!(lengths, [GATHERED_BYTES_MIN, GATHERED_BYTES_MIN, 8 * 1024]);
    }
}
