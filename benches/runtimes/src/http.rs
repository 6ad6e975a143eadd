//! Heads as the forwarders read and write them: parsed by httparse, hop-by-hop fields dropped, all else as received.
//!
//! Pure functions. Bodies are delimited by Content-Length only: what is chunked, interim or upgraded is refused, never
//! passed on wrongly.

use std::io::{self, Write};

use crate::broken;

/// Field lines of a head at most.
const HEADERS_MAX: usize = 64;

/// A head that was read and written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Its length as received.
    pub(crate) bytes: usize,
    /// Body bytes that follow it.
    pub(crate) body: u64,
    /// The sender ends the connection after this message.
    pub(crate) close: bool,
    /// A request whose response has no body whatever its Content-Length.
    pub(crate) is_head: bool,
}

/// Reads a request's head and writes the one to forward; `None` while it is incomplete.
pub(crate) fn request(received: &[u8], out: &mut impl Write) -> io::Result<Option<Head>> {
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut lines);
    let bytes = match request.parse(received) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(broken("not a request head")),
    };
    let method = request.method.unwrap_or_default();
    for part in [method, " ", request.path.unwrap_or_default(), " HTTP/1.1\r\n"] {
        out.write_all(part.as_bytes())?;
    }
    let mut head = fields(request.headers, request.version, out)?;
    out.write_all(b"\r\n")?;
    (head.bytes, head.is_head) = (bytes, method == "HEAD");
    Ok(Some(head))
}

/// The same for the response to a request.
pub(crate) fn response(received: &[u8], asked: Head, out: &mut impl Write) -> io::Result<Option<Head>> {
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut lines);
    let bytes = match response.parse(received) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(broken("not a response head")),
    };
    let status = response.code.unwrap_or_default();
    if status < 200 {
        return Err(broken("an interim response"));
    }
    let digits =
        [b'0' + (status / 100 % 10) as u8, b'0' + (status / 10 % 10) as u8, b'0' + (status % 10) as u8];
    out.write_all(b"HTTP/1.1 ")?;
    out.write_all(&digits)?;
    out.write_all(b" ")?;
    out.write_all(response.reason.unwrap_or_default().as_bytes())?;
    out.write_all(b"\r\n")?;
    let has_length = response.headers.iter().any(|line| line.name.eq_ignore_ascii_case("content-length"));
    let mut head = fields(response.headers, response.version, out)?;
    if asked.close {
        out.write_all(b"Connection: close\r\n")?;
    }
    out.write_all(b"\r\n")?;
    head.bytes = bytes;
    if asked.is_head || status == 204 || status == 304 {
        head.body = 0;
    } else if !has_length {
        return Err(broken("a response body of unknown length"));
    }
    Ok(Some(head))
}

/// Writes the field lines that go on, and notes what they say of the message.
fn fields(lines: &[httparse::Header<'_>], version: Option<u8>, out: &mut impl Write) -> io::Result<Head> {
    let mut head = Head { bytes: 0, body: 0, close: version == Some(0), is_head: false };
    for line in lines {
        let name = line.name;
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        // The length first: most names differ in it from all of these.
        match name.len() {
            7 if is("upgrade") => continue,
            10 if is("connection") => {
                head.close = line.value.eq_ignore_ascii_case(b"close");
                continue;
            }
            10 if is("keep-alive") => continue,
            14 if is("content-length") => {
                let text = std::str::from_utf8(line.value).unwrap_or_default();
                head.body = text.parse().map_err(|_| broken("not a Content-Length"))?;
            }
            17 if is("transfer-encoding") => return Err(broken("a chunked body")),
            _ => {}
        }
        out.write_all(name.as_bytes())?;
        out.write_all(b": ")?;
        out.write_all(line.value)?;
        out.write_all(b"\r\n")?;
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_is_written_without_hop_by_hop_fields() {
        let mut out = Vec::new();
        let received = b"POST /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc";
        let head = request(received, &mut out).unwrap().unwrap();
        assert_eq!(out, b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n");
        assert_eq!(head, Head { bytes: received.len() - 3, body: 3, close: true, is_head: false });
    }

    #[test]
    fn incomplete_head_asks_for_more() {
        assert_eq!(request(b"GET / HTTP/1.1\r\nHo", &mut Vec::new()).unwrap(), None);
    }

    #[test]
    fn response_to_head_has_no_body() {
        let mut out = Vec::new();
        let asked = Head { bytes: 0, body: 0, close: false, is_head: true };
        let head =
            response(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", asked, &mut out).unwrap().unwrap();
        assert_eq!((head.body, out.as_slice()), (0, &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"[..]));
    }

    #[test]
    fn client_that_wants_the_end_is_told_so() {
        let mut out = Vec::new();
        let asked = Head { bytes: 0, body: 0, close: true, is_head: false };
        response(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", asked, &mut out).unwrap();
        assert_eq!(out, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }

    #[test]
    fn chunked_body_is_refused() {
        let asked = Head { bytes: 0, body: 0, close: false, is_head: false };
        let received = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(response(received, asked, &mut Vec::new()).is_err());
    }
}
