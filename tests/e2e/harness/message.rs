//! HTTP/1.1 messages as a test reads them: from a stream, whole, byte for byte.

use std::io::{self, Read};

/// A request or response with its body decoded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// Request line or status line.
    pub(crate) start: String,
    /// Names in lower case, values as they came.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// Whether its end was seen. A body that the connection's end delimits is complete at an orderly end.
    pub(crate) complete: bool,
}

impl Message {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    pub(crate) fn path(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.header("transfer-encoding") == Some("chunked")
    }
}

/// What delimits a body when its headers do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Otherwise {
    /// There is none (requests, and responses that may have none).
    NoBody,
    /// The connection's end.
    UntilClose,
    /// None whatever the headers say (HEAD, 1xx, 204, 304).
    NeverABody,
}

/// A stream with what was read of it ahead.
#[derive(Debug)]
pub(super) struct Reader<S> {
    pub(super) stream: S,
    pub(super) ahead: Vec<u8>,
}

impl<S: Read> Reader<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, ahead: Vec::new() }
    }

    /// Reads more; 0 is the end.
    pub(super) fn fill(&mut self) -> io::Result<usize> {
        let mut room = [0; 64 * 1024];
        let count = loop {
            match self.stream.read(&mut room) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome?,
            }
        };
        self.ahead.extend_from_slice(&room[..count]);
        Ok(count)
    }

    fn line(&mut self) -> io::Result<Option<String>> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.ahead[searched..].windows(2).position(|two| two == b"\r\n") {
                let line = self.ahead.drain(..searched + end + 2).collect::<Vec<_>>();
                return Ok(Some(String::from_utf8_lossy(&line[..line.len() - 2]).into_owned()));
            }
            searched = self.ahead.len().saturating_sub(1);
            if self.fill()? == 0 {
                return Ok(None);
            }
        }
    }

    fn fields(&mut self) -> io::Result<Option<Vec<(String, String)>>> {
        let mut fields = Vec::new();
        loop {
            let Some(line) = self.line()? else { return Ok(None) };
            if line.is_empty() {
                return Ok(Some(fields));
            }
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no colon in {line:?}"));
            assert!(!name.contains(' '), "a space in the name of {line:?}");
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// The head alone; `None` at the end of the stream, wherever it comes.
    pub(super) fn head(&mut self) -> io::Result<Option<Message>> {
        let Some(start) = self.line()? else { return Ok(None) };
        let Some(headers) = self.fields()? else { return Ok(None) };
        Ok(Some(Message { start, headers, ..Message::default() }))
    }

    /// What follows a head. An end or break within the body leaves `complete` false.
    pub(super) fn body(&mut self, message: &mut Message, otherwise: Otherwise) -> io::Result<()> {
        if otherwise == Otherwise::NeverABody {
            message.complete = true;
            return Ok(());
        }
        let lengths = message.headers.iter().filter(|(name, _)| name == "content-length").count();
        assert!(lengths <= 1 && !(lengths == 1 && message.is_chunked()), "ambiguous framing: {message:?}");
        if message.is_chunked() {
            return self.chunks(message);
        }
        if let Some(length) = message.header("content-length") {
            let length = length.parse::<usize>().unwrap();
            message.complete = self.exactly(length, &mut message.body)?;
            return Ok(());
        }
        if otherwise == Otherwise::UntilClose {
            while self.fill()? > 0 {}
            message.body.append(&mut self.ahead);
        }
        message.complete = true;
        Ok(())
    }

    fn chunks(&mut self, message: &mut Message) -> io::Result<()> {
        loop {
            let Some(line) = self.line()? else { return Ok(()) };
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("chunk size {line:?}"));
            if size == 0 {
                let Some(trailers) = self.fields()? else { return Ok(()) };
                message.trailers = trailers;
                message.complete = true;
                return Ok(());
            }
            if !self.exactly(size, &mut message.body)? {
                return Ok(());
            }
            match self.line()? {
                Some(end) => assert!(end.is_empty(), "a chunk is followed by {end:?}"),
                None => return Ok(()),
            }
        }
    }

    /// Appends that many bytes to `to`; false if the stream ended before.
    pub(super) fn exactly(&mut self, count: usize, to: &mut Vec<u8>) -> io::Result<bool> {
        let end = to.len() + count;
        loop {
            let taken = self.ahead.len().min(end - to.len());
            to.extend(self.ahead.drain(..taken));
            if to.len() == end {
                return Ok(true);
            }
            if self.fill()? == 0 {
                return Ok(false);
            }
        }
    }
}

/// A chunked body of these pieces, with trailer lines.
pub(crate) fn chunked(pieces: &[&[u8]], trailers: &str) -> Vec<u8> {
    let mut text = Vec::new();
    for piece in pieces {
        text.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        text.extend_from_slice(piece);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(format!("0\r\n{trailers}\r\n").as_bytes());
    text
}
