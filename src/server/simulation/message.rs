//! HTTP/1.1 as the scripts read it: written apart from the proxy's parser, and strict, for what it reads the proxy wrote.

use super::peer::{Gone, Peer};

/// A head.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// Request line or status line.
    pub(super) start: String,
    /// Names in lower case.
    fields: Vec<(String, String)>,
}

/// How a body's end is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Head {
    /// The next head.
    pub(super) async fn read(peer: &Peer) -> Result<Self, Gone> {
        let text = String::from_utf8(peer.until(b"\r\n\r\n").await?).unwrap();
        let mut lines = text.strip_suffix("\r\n\r\n").unwrap().split("\r\n");
        let start = lines.next().unwrap().to_owned();
        let fields = lines.map(|line| {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no field: {line:?}"));
            assert!(!name.contains(' ') && !value.contains(['\r', '\n', '\0']), "{line:?}");
            (name.to_ascii_lowercase(), value.to_owned())
        });
        Ok(Self { fields: fields.collect(), start })
    }

    /// The one field of that name.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(field, _)| field == name);
        let first = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} twice: {self:?}");
        first
    }

    pub(super) fn status(&self) -> u16 {
        let status = self.start.strip_prefix("HTTP/1.").unwrap_or_else(|| panic!("{:?}", self.start));
        status[2..5].parse().unwrap()
    }

    /// Number of the exchange it belongs to.
    pub(super) fn id(&self) -> Option<usize> {
        self.field("x-id").map(|id| id.parse().unwrap())
    }

    pub(super) fn closes(&self) -> bool {
        self.field("connection").is_some_and(|options| options.eq_ignore_ascii_case("close"))
    }

    /// What it says of its body.
    pub(super) fn framing(&self) -> Option<Framing> {
        match (self.field("content-length"), self.field("transfer-encoding")) {
            (Some(length), None) => Some(Framing::Length(length.parse().unwrap())),
            (None, Some(coding)) => {
                assert_eq!(coding, "chunked");
                Some(Framing::Chunked)
            }
            (None, None) => None,
            both => panic!("ambiguous: {both:?}"),
        }
    }
}

/// Reads a body and compares it with `expected` as it comes. `Ok`: it is complete, that many bytes long.
pub(super) async fn read_body(
    peer: &Peer,
    framing: Framing,
    expected: &[u8],
) -> Result<usize, (usize, Gone)> {
    let mut at = 0;
    let mut check = |bytes: &[u8]| {
        assert!(at + bytes.len() <= expected.len(), "more than {} bytes of body", expected.len());
        let wanted = &expected[at..at + bytes.len()];
        if bytes != wanted {
            let off = bytes.iter().zip(wanted).position(|(got, want)| got != want).unwrap();
            panic!("byte {} of {} is another's", at + off, expected.len());
        }
        at += bytes.len();
        at
    };
    let mut got = 0;
    match framing {
        Framing::Length(length) => {
            while got < length {
                match peer.some(length - got).await {
                    Ok(bytes) => got = check(&bytes),
                    Err(gone) => return Err((got, gone)),
                }
            }
        }
        Framing::UntilClose => loop {
            match peer.some(usize::MAX).await {
                Ok(bytes) => got = check(&bytes),
                Err(Gone::Ended) => break,
                Err(gone) => return Err((got, gone)),
            }
        },
        Framing::Chunked => loop {
            let line = peer.until(b"\r\n").await.map_err(|gone| (got, gone))?;
            let line = std::str::from_utf8(&line).unwrap().trim_end();
            let size = usize::from_str_radix(line, 16).unwrap_or_else(|_| panic!("no chunk size: {line:?}"));
            let mut left = size;
            while left > 0 {
                let bytes = peer.some(left).await.map_err(|gone| (got, gone))?;
                left -= bytes.len();
                got = check(&bytes);
            }
            let end = peer.until(b"\r\n").await.map_err(|gone| (got, gone))?;
            assert_eq!(end, b"\r\n", "a chunk's end, or no trailers");
            if size == 0 {
                break;
            }
        },
    }
    Ok(got)
}
