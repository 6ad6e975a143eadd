//! How the end of a body is known ([`BodyLength`]), and [`BodyDecoder`], which finds it.
//!
//! `http1::parse` answers the length with the head; the connection then runs received bytes through
//! the decoder until it says `end`. Data is never copied: the decoder answers ranges of its input.

use std::ops::Range;

use super::error::BodyError;
use super::head::Head;
use crate::protocol::http1::chunked::ChunkedDecoder;
use crate::protocol::http1::head_reader::HeadLimits;

/// How the end of a body is known (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// No byte follows the head (no framing header, `Content-Length: 0`, or the rules forbid a body).
    None,
    /// Exactly that many bytes follow; never zero when received.
    Length(u64),
    /// Chunks follow, then trailers.
    Chunked,
    /// Everything until the peer closes: responses without framing, and tunnels.
    UntilClose,
}

/// What one call to the decoder found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Body bytes, as a range of the input; may be empty.
    pub data: Range<usize>,
    /// Bytes of the input that are dealt with, `data` included; the next call begins behind them.
    pub consumed: usize,
    /// Whether the body (with its trailers) is complete. What is not consumed belongs to the next
    /// message.
    pub end: bool,
}

/// Finds a body's data and end in received bytes.
#[derive(Clone, Copy, Debug)]
pub enum BodyDecoder {
    /// Nothing (more) belongs to the body.
    None,
    /// So many bytes are still to come.
    Length {
        left: u64,
    },
    Chunked(ChunkedDecoder),
    UntilClose,
}

impl BodyDecoder {
    /// A decoder for a body of that framing; `trailer_limits` bound the trailers of a chunked one.
    pub fn new(length: BodyLength, trailer_limits: HeadLimits) -> Self {
        match length {
            BodyLength::None | BodyLength::Length(0) => Self::None,
            BodyLength::Length(left) => Self::Length { left },
            BodyLength::Chunked => Self::Chunked(ChunkedDecoder::new(trailer_limits)),
            BodyLength::UntilClose => Self::UntilClose,
        }
    }

    /// Whether the body is complete.
    pub fn is_end(&self) -> bool {
        match self {
            Self::None => true,
            Self::Chunked(decoder) => decoder.is_end(),
            Self::Length { .. } | Self::UntilClose => false,
        }
    }

    /// Takes the front of `input`. Call it again with the rest until everything is consumed or the
    /// body has ended; each call makes progress on a non-empty input. Trailers, if any, are put into
    /// `trailers` (an empty head) by the call that answers `end`; fields that may not stand in
    /// trailers are left out. Passing them on or dropping them is the caller's choice.
    ///
    /// # Errors
    /// Every variant but `Truncated`; the decoder is then of no further use.
    pub fn decode(&mut self, input: &[u8], trailers: &mut Head) -> Result<Decoded, BodyError> {
        match self {
            Self::None => Ok(Decoded { data: 0..0, consumed: 0, end: true }),
            Self::Length { left } => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= taken as u64;
                let end = *left == 0;
                if end {
                    *self = Self::None;
                }
                Ok(Decoded { data: 0..taken, consumed: taken, end })
            }
            Self::Chunked(decoder) => decoder.decode(input, trailers),
            Self::UntilClose => Ok(Decoded { data: 0..input.len(), consumed: input.len(), end: false }),
        }
    }

    /// Bytes of a body of known length that are still to come, and nothing between them.
    pub fn left(&self) -> Option<u64> {
        match self {
            Self::Length { left } => Some(*left),
            Self::None | Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// So many bytes of a body of known length went another way. Whether that was all.
    pub fn skip(&mut self, bytes: u64) -> bool {
        if let Self::Length { left } = self {
            *left = left.saturating_sub(bytes);
            if *left == 0 {
                *self = Self::None;
            }
        }
        self.is_end()
    }

    /// The peer has closed its side: whether the body is complete by that.
    ///
    /// # Errors
    /// `Truncated`.
    pub fn finish(&self) -> Result<(), BodyError> {
        if self.is_end() || matches!(self, Self::UntilClose) { Ok(()) } else { Err(BodyError::Truncated) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_body_ends_at_its_length() {
        let mut trailers = Head::new();
        let mut body = BodyDecoder::new(BodyLength::Length(5), HeadLimits::default());
        assert_eq!(body.decode(b"abc", &mut trailers), Ok(Decoded { data: 0..3, consumed: 3, end: false }));
        assert_eq!(body.finish(), Err(BodyError::Truncated));
        assert_eq!(body.decode(b"deGET", &mut trailers), Ok(Decoded { data: 0..2, consumed: 2, end: true }));
        assert!(body.is_end());
        assert_eq!(body.decode(b"GET", &mut trailers), Ok(Decoded { data: 0..0, consumed: 0, end: true }));
        assert_eq!(body.finish(), Ok(()));
    }

    #[test]
    fn skipped_bytes_count_as_decoded_ones() {
        let mut body = BodyDecoder::new(BodyLength::Length(5), HeadLimits::default());
        assert!(body.left() == Some(5) && !body.skip(4) && body.left() == Some(1));
        assert_eq!(body.finish(), Err(BodyError::Truncated));
        assert!(body.skip(1) && body.left().is_none() && body.finish() == Ok(()));
        let mut other = BodyDecoder::new(BodyLength::UntilClose, HeadLimits::default());
        assert!(other.left().is_none() && !other.skip(9));
    }

    #[test]
    fn until_close_body_ends_with_the_connection_only() {
        let mut body = BodyDecoder::new(BodyLength::UntilClose, HeadLimits::default());
        assert_eq!(
            body.decode(b"abc", &mut Head::new()),
            Ok(Decoded { data: 0..3, consumed: 3, end: false })
        );
        assert_eq!(body.finish(), Ok(()));
    }

    #[test]
    fn length_zero_has_ended() {
        assert!(BodyDecoder::new(BodyLength::Length(0), HeadLimits::default()).is_end());
        assert!(BodyDecoder::new(BodyLength::None, HeadLimits::default()).is_end());
    }
}
