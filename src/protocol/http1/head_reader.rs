//! [`HeadReader`]: collects one head (or trailer section) from received bytes.
//!
//! First step of the codec: the connection feeds it whatever arrives, in pieces of any size; complete,
//! the head's text goes to `parse`. Invariants: every byte is looked at once; nothing after the head's
//! last LF is consumed; a text it completes has CR and LF only as line ends and no NUL (`httparse`
//! would take a bare LF); the result does not depend on how the input is cut.

use crate::base::limits::HEADERS_MAX;
use crate::protocol::http::error::HeadError;
use crate::protocol::http::head::Head;

/// Limits of one head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Most bytes of the head, start line and final empty line included. Default 60 KiB. Beyond it:
    /// 431, or 502 for a response. Source: Envoy `max_request_headers_kb`, `max_response_headers_kb`.
    pub bytes_max: u32,
    /// Most header lines. Default 100. Beyond it: 431, or 502 for a response. Source: Envoy
    /// `max_headers_count`; more than [`HEADERS_MAX`] are never taken.
    pub headers_max: u32,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { bytes_max: 60 * 1024, headers_max: 100 }
    }
}

/// What a feed took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fed {
    /// Bytes of the input that belong to the head. The rest is body, or the next message.
    pub consumed: usize,
    /// Whether the head is complete.
    pub complete: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Request,
    Response,
    Trailers,
}

/// The state between two feeds. Make a new one for every head.
#[derive(Clone, Copy, Debug)]
pub struct HeadReader {
    section: Section,
    /// The last byte was CR: only LF may follow.
    after_cr: bool,
    /// The current line has no byte yet.
    at_line_start: bool,
    /// The one empty line allowed before a request line is behind us.
    skipped_empty_line: bool,
    lines: u32,
}

impl HeadReader {
    /// For a request head. One empty line before it is skipped (RFC 9112 §2.2), a second is an error.
    pub fn request() -> Self {
        Self::new(Section::Request)
    }

    /// The same for a request before which that empty line has come, if `skipped`.
    #[must_use]
    pub fn behind_empty_line(mut self, skipped: bool) -> Self {
        self.skipped_empty_line |= skipped;
        self
    }

    /// For a response head.
    pub fn response() -> Self {
        Self::new(Section::Response)
    }

    /// For a trailer section, which has no start line.
    pub fn trailers() -> Self {
        Self::new(Section::Trailers)
    }

    fn new(section: Section) -> Self {
        Self { section, after_cr: false, at_line_start: true, skipped_empty_line: false, lines: 0 }
    }

    /// Whether nothing of the message has come yet: closing now is no truncation.
    pub fn is_idle(&self) -> bool {
        self.lines == 0 && self.at_line_start && !self.after_cr
    }

    /// Takes bytes into the head's text until the head is complete.
    ///
    /// # Errors
    /// `TooLarge`, `TooManyHeaders`, `BareCr`, `BareLf`, `Nul`, `EmptyStartLine`.
    pub fn feed(&mut self, head: &mut Head, bytes: &[u8], limits: &HeadLimits) -> Result<Fed, HeadError> {
        let bytes_max = limits.bytes_max as usize;
        // One byte more than may be taken tells "full" from "too large".
        let mut window = bytes.get(..bytes_max.saturating_sub(head.text.len()) + 1).unwrap_or(bytes);
        let mut taken_from = 0;
        let mut at = 0;
        let mut complete = false;
        while !complete {
            let Some(line_end) = self.find_line_end(window, at)? else {
                at = window.len();
                break;
            };
            at = line_end;
            if !self.at_line_start {
                self.end_line(limits)?;
            } else if self.section == Section::Request && self.lines == 0 && !self.skipped_empty_line {
                self.skipped_empty_line = true;
                head.text.clear();
                taken_from = at;
                window = bytes.get(..at + bytes_max + 1).unwrap_or(bytes);
            } else if self.lines == 0 && self.section != Section::Trailers {
                return Err(HeadError::EmptyStartLine);
            } else {
                complete = true;
            }
        }
        if head.text.len() + (at - taken_from) > bytes_max {
            return Err(HeadError::TooLarge);
        }
        head.text.extend_from_slice(&window[taken_from..at]);
        Ok(Fed { consumed: at, complete })
    }

    /// Where the line that `from` lies in ends (behind its LF), if that is in the window.
    fn find_line_end(&mut self, window: &[u8], from: usize) -> Result<Option<usize>, HeadError> {
        let mut cr_at = from;
        if !self.after_cr {
            let rest = &window[from..];
            let found = memchr::memchr3(b'\r', b'\n', 0, rest);
            self.at_line_start &= found.unwrap_or(rest.len()) == 0;
            let Some(found) = found else { return Ok(None) };
            match rest[found] {
                b'\r' => cr_at = from + found + 1,
                b'\n' => return Err(HeadError::BareLf),
                _ => return Err(HeadError::Nul),
            }
        }
        let next = window.get(cr_at);
        self.after_cr = next.is_none();
        match next {
            None => Ok(None),
            Some(b'\n') => Ok(Some(cr_at + 1)),
            Some(_) => Err(HeadError::BareCr),
        }
    }

    fn end_line(&mut self, limits: &HeadLimits) -> Result<(), HeadError> {
        self.at_line_start = true;
        self.lines += 1;
        let start_lines = u32::from(self.section != Section::Trailers);
        if self.lines - start_lines > limits.headers_max.min(HEADERS_MAX as u32) {
            return Err(HeadError::TooManyHeaders);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reader: HeadReader, input: &[u8], limits: HeadLimits) -> (Result<usize, HeadError>, Vec<u8>) {
        let mut head = Head::new();
        let mut whole = reader;
        let outcome = whole.feed(&mut head, input, &limits).map(|fed| {
            assert!(fed.complete, "{:?}", String::from_utf8_lossy(input));
            fed.consumed
        });
        let mut by_byte = reader;
        let mut copy = Head::new();
        let mut consumed = Ok(0);
        for byte in input {
            match by_byte.feed(&mut copy, std::slice::from_ref(byte), &limits) {
                Ok(fed) => {
                    consumed = consumed.map(|before| before + fed.consumed);
                    if fed.complete {
                        break;
                    }
                }
                Err(error) => {
                    consumed = Err(error);
                    break;
                }
            }
        }
        assert_eq!(consumed, outcome, "one-byte feeds");
        if outcome.is_ok() {
            assert_eq!(copy.text, head.text);
        }
        (outcome, head.text)
    }

    #[test]
    fn feed_stops_behind_the_head() {
        let (outcome, text) =
            read(HeadReader::request(), b"GET / HTTP/1.1\r\na: b\r\n\r\nBODY", HeadLimits::default());
        assert_eq!(outcome, Ok(24));
        assert_eq!(text, b"GET / HTTP/1.1\r\na: b\r\n\r\n");
    }

    #[test]
    fn feed_skips_one_empty_line_before_a_request_only() {
        let limits = HeadLimits::default();
        let (outcome, text) = read(HeadReader::request(), b"\r\nGET / HTTP/1.1\r\n\r\n", limits);
        assert_eq!((outcome, text.as_slice()), (Ok(20), &b"GET / HTTP/1.1\r\n\r\n"[..]));
        assert_eq!(read(HeadReader::request(), b"\r\n\r\nGET", limits).0, Err(HeadError::EmptyStartLine));
        assert_eq!(read(HeadReader::response(), b"\r\nHTTP", limits).0, Err(HeadError::EmptyStartLine));
        let second = HeadReader::request().behind_empty_line(true);
        assert_eq!(read(second, b"\r\nGET", limits).0, Err(HeadError::EmptyStartLine));
        assert_eq!(read(second, b"GET / HTTP/1.1\r\n\r\n", limits).0, Ok(18));
    }

    #[test]
    fn feed_empty_trailer_section_is_complete() {
        assert_eq!(
            read(HeadReader::trailers(), b"\r\nGET", HeadLimits::default()),
            (Ok(2), b"\r\n".to_vec())
        );
    }

    #[test]
    fn feed_bare_line_ends_and_nul_are_refused() {
        let limits = HeadLimits::default();
        for (input, error) in [
            (&b"GET / HTTP/1.1\n\n"[..], HeadError::BareLf),
            (b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", HeadError::BareCr),
            (b"GET / HTTP/1.1\r\r\n", HeadError::BareCr),
            (b"GET /\0", HeadError::Nul),
            (b"\nGET / HTTP/1.1\r\n\r\n", HeadError::BareLf),
        ] {
            assert_eq!(read(HeadReader::request(), input, limits).0, Err(error));
        }
    }

    #[test]
    fn feed_limits_are_exact() {
        let input = b"GET / HTTP/1.1\r\na: b\r\nc: d\r\n\r\n";
        let exact = HeadLimits { bytes_max: input.len() as u32, headers_max: 2 };
        assert_eq!(read(HeadReader::request(), input, exact).0, Ok(input.len()));
        let smaller = HeadLimits { bytes_max: exact.bytes_max - 1, ..exact };
        assert_eq!(read(HeadReader::request(), input, smaller).0, Err(HeadError::TooLarge));
        let fewer = HeadLimits { headers_max: 1, ..exact };
        assert_eq!(read(HeadReader::request(), input, fewer).0, Err(HeadError::TooManyHeaders));
        let trailers = HeadLimits { bytes_max: 100, headers_max: 1 };
        assert_eq!(read(HeadReader::trailers(), b"a: b\r\n\r\n", trailers).0, Ok(8));
        assert_eq!(
            read(HeadReader::trailers(), b"a: b\r\nc: d\r\n\r\n", trailers).0,
            Err(HeadError::TooManyHeaders)
        );
    }
}
