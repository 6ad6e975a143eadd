//! A client's hello, looked at before any session begins: is this TLS, for which server, to speak what?
//!
//! A listener chooses among its filter chains by it. It sees the bytes from the first on, as they arrive, in whatever
//! pieces and records; it changes none of them and keeps none. It agrees with rustls, which reads the same bytes next, but
//! for records of SSL 2's version (0x0002): those are not TLS, as with BoringSSL.

use std::borrow::Cow;

use rustls::pki_types::{DnsName, ServerName};

use super::record;

/// Type of a handshake record. Source: RFC 8446 section 5.1.
const HANDSHAKE: u8 = 22;
/// Type of a hello, and what stands before its body. Source: RFC 8446 section 4.
const CLIENT_HELLO: u8 = 1;
const MESSAGE_HEADER_BYTES: usize = 4;
/// Longest hello: rustls refuses longer messages.
const HELLO_BYTES_MAX: usize = 0xffff;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_STATUS_REQUEST: u16 = 5;
const EXTENSION_ALPN: u16 = 16;
const NAME_TYPE_HOST: u8 = 0;
/// Longest name of a host. Source: RFC 1035 section 2.3.4.
const HOST_NAME_BYTES_MAX: usize = 255;

/// Follows a connection's first bytes, all of which it is shown each time; it looks at each record once.
#[derive(Clone, Debug, Default)]
pub struct Inspector {
    /// Where the next record begins.
    at: usize,
    /// Bytes of the message in the records before it.
    have: usize,
    /// The message's first bytes, which may be spread over records.
    header: [u8; MESSAGE_HEADER_BYTES],
}

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Not to be told yet.
    More,
    /// A whole hello.
    Hello,
    /// Something else.
    Other,
}

/// What a hello asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The server's name, in lower case.
    pub server_name: Option<Box<str>>,
    /// Protocols by ALPN, the client's favourite first.
    pub protocols: Vec<Box<[u8]>>,
}

impl Inspector {
    /// Looks at all bytes received so far.
    pub fn look(&mut self, bytes: &[u8]) -> Seen {
        loop {
            let rest = bytes.get(self.at..).unwrap_or_default();
            let Some(&kind) = rest.first() else { return Seen::More };
            if kind != HANDSHAKE || rest.get(1).is_some_and(|&major| major != 3) {
                return Seen::Other;
            }
            if self.have == 0 && rest.get(record::HEADER_BYTES).is_some_and(|&kind| kind != CLIENT_HELLO) {
                return Seen::Other;
            }
            let Some(len) = record::length(rest) else { return Seen::More };
            if len == record::HEADER_BYTES {
                return Seen::Other;
            }
            let Some(payload) = rest.get(record::HEADER_BYTES..len) else { return Seen::More };
            let missing = self.header.get_mut(self.have..).unwrap_or_default();
            missing.iter_mut().zip(payload).for_each(|(to, from)| *to = *from);
            self.have += payload.len();
            self.at += len;
            if self.have >= MESSAGE_HEADER_BYTES {
                if self.header[0] != CLIENT_HELLO || self.hello_bytes() > HELLO_BYTES_MAX {
                    return Seen::Other;
                }
                if self.have >= MESSAGE_HEADER_BYTES + self.hello_bytes() {
                    return Seen::Hello;
                }
            }
        }
    }

    /// Bytes of the records that were looked at: those of the hello, once it was seen.
    pub fn looked_at(&self) -> usize {
        self.at
    }

    fn hello_bytes(&self) -> usize {
        let [_, high, middle, low] = self.header;
        usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)
    }

    /// What the hello asks for, once it has been seen in these bytes; `None`: it is malformed.
    pub fn hello(&self, bytes: &[u8]) -> Option<Hello> {
        self.with_hello(bytes, parse)
    }

    /// The server's name as it stands there, in lower case: also an address, or with a dot at its end. Outer `None`:
    /// BoringSSL, with which Envoy looks, takes none of it.
    pub fn written_name(&self, bytes: &[u8]) -> Option<Option<Box<str>>> {
        self.with_hello(bytes, |hello| {
            let mut found = None;
            extensions(hello, |kind, body| {
                if kind == EXTENSION_SERVER_NAME {
                    found = Some(written_name(body)?);
                }
                Some(())
            })?;
            Some(found)
        })
    }

    /// Whether it asks for an OCSP response: with whatever words (RFC 6066 section 8), as in Envoy.
    pub fn asks_for_staple(&self, bytes: &[u8]) -> bool {
        let mut asks = false;
        let look = |kind: u16, _: Reader<'_>| {
            asks |= kind == EXTENSION_STATUS_REQUEST;
            Some(())
        };
        self.with_hello(bytes, |hello| extensions(hello, look)).is_some() && asks
    }

    fn with_hello<T>(&self, bytes: &[u8], read: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
        let end = MESSAGE_HEADER_BYTES.checked_add(self.hello_bytes())?;
        let message = message(bytes.get(..self.at)?, end)?;
        read(message.get(MESSAGE_HEADER_BYTES..end)?)
    }
}

/// The message without the records around it.
fn message(records: &[u8], bytes: usize) -> Option<Cow<'_, [u8]>> {
    let first = records.get(record::HEADER_BYTES..record::length(records)?)?;
    if first.len() >= bytes {
        return Some(Cow::Borrowed(first));
    }
    let mut whole = Vec::with_capacity(bytes);
    let mut rest = records;
    while !rest.is_empty() {
        let (record, behind) = rest.split_at_checked(record::length(rest)?)?;
        whole.extend_from_slice(record.get(record::HEADER_BYTES..)?);
        rest = behind;
    }
    Some(Cow::Owned(whole))
}

/// Shows the extensions of a hello; `None`: it is malformed, or whoever looks says so. RFC 8446 section 4.1.2.
fn extensions<'a>(hello: &'a [u8], mut look: impl FnMut(u16, Reader<'a>) -> Option<()>) -> Option<()> {
    let mut hello = Reader(hello);
    // Version and random.
    hello.take(2 + 32)?;
    hello.list8().filter(|session| session.0.len() <= 32)?;
    hello.list16()?;
    hello.list8()?;
    if hello.0.is_empty() {
        return Some(());
    }
    let mut extensions = hello.list16().filter(|_| hello.0.is_empty())?;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        look(kind, extensions.list16()?)?;
    }
    Some(())
}

fn parse(hello: &[u8]) -> Option<Hello> {
    let mut found = Hello::default();
    let (mut named, mut listed) = (false, false);
    extensions(hello, |kind, body| {
        match kind {
            // Not more than once each (RFC 8446 section 4.2).
            EXTENSION_SERVER_NAME if named => return None,
            EXTENSION_SERVER_NAME => (named, found.server_name) = (true, server_name(body)?),
            EXTENSION_ALPN if listed => return None,
            EXTENSION_ALPN => (listed, found.protocols) = (true, protocols(body)?),
            _ => {}
        }
        Some(())
    })?;
    Some(found)
}

/// One name of a host, of 1 to 255 bytes without NUL, as BoringSSL has it. `None`: it is not so.
fn written_name(mut extension: Reader<'_>) -> Option<Box<str>> {
    let mut names = extension.list16().filter(|_| extension.0.is_empty())?;
    names.u8().filter(|kind| *kind == NAME_TYPE_HOST)?;
    let name = names.list16().filter(|_| names.0.is_empty())?.0;
    let fits = !name.is_empty() && name.len() <= HOST_NAME_BYTES_MAX && !name.contains(&0);
    fits.then(|| String::from_utf8_lossy(name).to_ascii_lowercase().into())
}

/// RFC 6066 section 3. Outer `None`: it is malformed; inner: no name of a host.
fn server_name(mut extension: Reader<'_>) -> Option<Option<Box<str>>> {
    let mut names = extension.list16().filter(|names| !names.0.is_empty() && extension.0.is_empty())?;
    let mut found = None;
    while !names.0.is_empty() {
        // The length of what is not a host's name is unknown.
        if names.u8()? != NAME_TYPE_HOST {
            break;
        }
        let name = names.list16().filter(|name| !name.0.is_empty() && found.is_none())?;
        // An address is no name, and what is neither is ignored: as rustls does.
        found = Some(match ServerName::try_from(name.0) {
            Ok(ServerName::DnsName(name)) => Some(lower(&name)),
            _ => None,
        });
    }
    Some(found.flatten())
}

fn lower(name: &DnsName<'_>) -> Box<str> {
    name.as_ref().to_ascii_lowercase().into()
}

/// RFC 7301 section 3.1.
fn protocols(mut extension: Reader<'_>) -> Option<Vec<Box<[u8]>>> {
    let mut list = extension.list16().filter(|list| !list.0.is_empty() && extension.0.is_empty())?;
    let mut found = Vec::new();
    while !list.0.is_empty() {
        found.push(list.list8().filter(|name| !name.0.is_empty())?.0.into());
    }
    Some(found)
}

/// Reads from the front; `None`: there is less.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What a length in one byte delimits.
    fn list8(&mut self) -> Option<Self> {
        let len = self.u8()?;
        self.take(usize::from(len)).map(Reader)
    }

    /// What a length in two bytes delimits.
    fn list16(&mut self) -> Option<Self> {
        let len = self.u16()?;
        self.take(usize::from(len)).map(Reader)
    }
}

#[cfg(test)]
mod tests;
