//! [`ChunkedDecoder`]: data and trailers out of the chunked coding (RFC 9112 §7.1).
//!
//! Driven by `http::body::BodyDecoder`. Strict where leniency lets two readers see two bodies: sizes
//! are one to sixteen hexadecimal digits with nothing around them, every line ends in CR LF, and
//! extensions (skipped, never forwarded) hold no control byte and are bounded. Invariants: data is
//! answered as a range of the input, nothing behind the final CR LF is consumed, and the result does
//! not depend on how the input is cut.

use super::head_reader::{HeadLimits, HeadReader};
use super::parse;
use crate::base::limits::{CHUNK_EXTENSION_BYTES_MAX, CHUNK_EXTENSION_EXCESS_BYTES_MAX};
use crate::protocol::http::body::Decoded;
use crate::protocol::http::error::BodyError;
use crate::protocol::http::head::Head;

/// The state between two calls.
#[derive(Clone, Copy, Debug)]
pub struct ChunkedDecoder {
    state: State,
    /// The size being read, then what of the chunk's data is still to come.
    left: u64,
    /// Bytes of extension in this chunk.
    extension_bytes: u32,
    /// By how much extensions outweigh data so far.
    excess_bytes: u64,
    trailer_limits: HeadLimits,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Size { digits: u8 },
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers(HeadReader),
    End,
}

/// No overflow: sixteen digits are 64 bits.
const SIZE_DIGITS_MAX: u8 = 16;

impl ChunkedDecoder {
    pub(in crate::protocol) fn new(trailer_limits: HeadLimits) -> Self {
        Self {
            state: State::Size { digits: 0 },
            left: 0,
            extension_bytes: 0,
            excess_bytes: 0,
            trailer_limits,
        }
    }

    pub(in crate::protocol) fn is_end(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// See [`BodyDecoder::decode`](crate::protocol::http::body::BodyDecoder::decode). Answers the data
    /// of one chunk at most, with all framing before it and behind it that the input holds.
    pub(in crate::protocol) fn decode(
        &mut self,
        input: &[u8],
        trailers: &mut Head,
    ) -> Result<Decoded, BodyError> {
        let mut data = 0..0;
        let mut at = 0;
        while let Some(byte) = input.get(at) {
            match self.state {
                State::Size { digits } => self.size_byte(*byte, digits)?,
                State::Extension => self.extension_byte(*byte)?,
                State::SizeLf if *byte == b'\n' => self.begin_data(trailers),
                State::DataCr if *byte == b'\r' => self.state = State::DataLf,
                State::DataLf if *byte == b'\n' => {
                    self.extension_bytes = 0;
                    self.state = State::Size { digits: 0 };
                }
                State::SizeLf | State::DataCr | State::DataLf => return Err(BodyError::ChunkEnd),
                State::Data if !data.is_empty() => break,
                State::Data => {
                    let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len() - at);
                    data = at..at + taken;
                    at += taken;
                    self.take_data(taken as u64);
                    continue;
                }
                State::Trailers(ref mut reader) => {
                    let fed = reader
                        .feed(trailers, &input[at..], &self.trailer_limits)
                        .map_err(BodyError::Trailers)?;
                    at += fed.consumed;
                    if fed.complete {
                        parse::parse_trailers(trailers).map_err(BodyError::Trailers)?;
                        self.state = State::End;
                    }
                    continue;
                }
                State::End => break,
            }
            at += 1;
        }
        Ok(Decoded { data, consumed: at, end: self.is_end() })
    }

    fn size_byte(&mut self, byte: u8, digits: u8) -> Result<(), BodyError> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b';' if digits > 0 => {
                self.state = State::Extension;
                return Ok(());
            }
            b'\r' if digits > 0 => {
                self.state = State::SizeLf;
                return Ok(());
            }
            b'\n' if digits > 0 => return Err(BodyError::ChunkEnd),
            _ => return Err(BodyError::ChunkSize),
        };
        if digits == SIZE_DIGITS_MAX {
            return Err(BodyError::ChunkSize);
        }
        self.left = if digits == 0 { 0 } else { self.left << 4 } | u64::from(digit);
        self.state = State::Size { digits: digits + 1 };
        Ok(())
    }

    fn extension_byte(&mut self, byte: u8) -> Result<(), BodyError> {
        match byte {
            b'\r' => {
                self.state = State::SizeLf;
                return Ok(());
            }
            b'\n' => return Err(BodyError::ChunkEnd),
            b'\t' | b' '..=b'~' | 0x80.. => {}
            _ => return Err(BodyError::ChunkExtensionBytes),
        }
        self.extension_bytes += 1;
        self.excess_bytes += 1;
        if self.extension_bytes > CHUNK_EXTENSION_BYTES_MAX
            || self.excess_bytes > CHUNK_EXTENSION_EXCESS_BYTES_MAX
        {
            return Err(BodyError::ChunkExtensionTooLarge);
        }
        Ok(())
    }

    fn begin_data(&mut self, trailers: &mut Head) {
        if self.left > 0 {
            self.state = State::Data;
        } else {
            trailers.clear();
            self.state = State::Trailers(HeadReader::trailers());
        }
    }

    fn take_data(&mut self, bytes: u64) {
        self.left -= bytes;
        self.excess_bytes = self.excess_bytes.saturating_sub(bytes);
        if self.left == 0 {
            self.state = State::DataCr;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_all(input: &[u8], step: usize) -> Result<(Vec<u8>, usize, bool), BodyError> {
        let mut decoder = ChunkedDecoder::new(HeadLimits::default());
        let (mut trailers, mut body, mut at) = (Head::new(), Vec::new(), 0);
        while at < input.len() && !decoder.is_end() {
            let piece = &input[at..input.len().min(at + step)];
            let decoded = decoder.decode(piece, &mut trailers)?;
            body.extend_from_slice(&piece[decoded.data]);
            at += decoded.consumed;
        }
        Ok((body, at, decoder.is_end()))
    }

    #[test]
    fn decode_any_cut_gives_the_same_body() {
        let input = b"3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n00\r\nT: v\r\n\r\nGET / HTTP/1.1\r\n";
        for step in 1..input.len() {
            assert_eq!(
                decode_all(input, step),
                Ok((b"abc0123456789".to_vec(), input.len() - 16, true)),
                "{step}"
            );
        }
    }

    #[test]
    fn decode_last_data_comes_with_the_end() {
        let mut decoder = ChunkedDecoder::new(HeadLimits::default());
        let decoded = decoder.decode(b"3\r\nabc\r\n0\r\n\r\nX", &mut Head::new());
        assert_eq!(decoded, Ok(Decoded { data: 3..6, consumed: 13, end: true }));
    }

    #[test]
    fn decode_extensions_are_bounded_per_chunk_and_per_body() {
        let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(CHUNK_EXTENSION_BYTES_MAX as usize + 1));
        assert_eq!(decode_all(long.as_bytes(), 4096), Err(BodyError::ChunkExtensionTooLarge));
        let chunk = format!("1;{}\r\na\r\n", "x".repeat(1000));
        assert_eq!(decode_all(chunk.repeat(20).as_bytes(), 4096), Err(BodyError::ChunkExtensionTooLarge));
        let fair = format!("100;{}\r\n{}\r\n", "x".repeat(90), "y".repeat(256)).repeat(1000);
        assert_eq!(decode_all(fair.as_bytes(), 4096).map(|(body, ..)| body.len()), Ok(256_000));
    }

    #[test]
    fn decode_trailers_are_kept_but_the_barred_ones() {
        let mut decoder = ChunkedDecoder::new(HeadLimits::default());
        let mut trailers = Head::new();
        let input = b"0\r\nX-Sum: 1\r\nContent-Length: 5\r\nHost: evil\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(decoder.decode(input, &mut trailers).unwrap().end);
        assert_eq!(trailers.iter().collect::<Vec<_>>(), [(&b"X-Sum"[..], &b"1"[..])]);
        assert!(!trailers.has_authority());
    }
}
