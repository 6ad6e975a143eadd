//! [`Head`]: the head of one request or response, for every protocol.
//!
//! The codecs fill it (`http1::parse` with ranges into the head bytes copied once), routes, filters
//! and formatters read and edit it, the codecs write it out again. One head is recycled per stream.
//! Invariants: every span lies inside `text`; `present` has the bits of the known names in `headers`
//! and no others; the authority, method, path, scheme and status are never in the list; nothing
//! allocates once `text` and `headers` have grown to the traffic's usual size.

use super::field::{Field, Header, NAME_OF_TABLE, Span, TEXT_BYTES_MAX};
use super::headers::{HeaderName, Known, NAME_BYTES_MAX, NameSet};
use super::validate;
use crate::base::limits::CONNECTION_OPTIONS_MAX;

/// The version a message was received with, or is to be sent with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Http10,
    #[default]
    Http11,
    Http2,
}

/// The head of a request or response. See the file's head for its invariants.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The raw head as received, then every edit.
    pub(in crate::protocol) text: Vec<u8>,
    pub(in crate::protocol) headers: Vec<Header>,
    /// One bit per known name that is in `headers`: whether it is there costs one test.
    present: u128,
    method: Span,
    path: Span,
    authority: Span,
    scheme: Span,
    /// The reason phrase as received; written only where `forward_reason_phrase` asks for it.
    reason: Span,
    /// How the peer spelt `Host`; empty if it sent none.
    host_name: Span,
    has_authority: bool,
    unsendable: bool,
    status: u16,
    status_text: [u8; 3],
    version: Version,
}

/// Capacity of `text` that a recycled head keeps, in bytes; an oversize head gives the rest back.
const KEPT_TEXT_BYTES: usize = 16 * 1024;
/// Number of headers for which a recycled head keeps room.
const KEPT_HEADERS: usize = 128;

impl Head {
    /// An empty head. Allocates nothing until it is filled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Empties the head for the next message. Keeps its memory, up to 16 KiB of text.
    pub fn clear(&mut self) {
        let Self { text, headers, .. } = self;
        text.clear();
        if text.capacity() > KEPT_TEXT_BYTES {
            text.shrink_to(KEPT_TEXT_BYTES);
        }
        headers.clear();
        if headers.capacity() > KEPT_HEADERS {
            headers.shrink_to(KEPT_HEADERS);
        }
        *self = Self { text: std::mem::take(text), headers: std::mem::take(headers), ..Self::default() };
    }

    /// Bytes of the memory that it keeps.
    pub fn room_bytes(&self) -> usize {
        self.text.capacity() + self.headers.capacity() * size_of::<Header>()
    }

    /// Makes this head equal to `other`, within the memory it already has where that suffices.
    pub fn copy_from(&mut self, other: &Self) {
        let (mut text, mut headers) = (std::mem::take(&mut self.text), std::mem::take(&mut self.headers));
        text.clear();
        text.extend_from_slice(&other.text);
        headers.clear();
        headers.extend_from_slice(&other.headers);
        *self = Self { text, headers, ..*other };
    }

    /// Whether the head may be written to a peer: false once an edit could not be taken, because it
    /// held CR, LF or NUL (or, in a part of the start line, a space or control byte), or because the
    /// head had reached 64 MiB. The encoders refuse such a head.
    pub fn is_sendable(&self) -> bool {
        !self.unsendable
    }

    /// Bytes the head's text takes, edits included (Envoy's header-map byte size is close to it).
    pub fn text_bytes(&self) -> usize {
        self.text.len()
    }

    // === start line ===

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// The method, as sent (methods are case-sensitive). Empty in a response.
    pub fn method(&self) -> &[u8] {
        self.bytes(self.method)
    }

    pub fn set_method(&mut self, method: &[u8]) {
        self.method = self.store_word(method);
    }

    /// `:path`: path and query, `*` for the asterisk form, empty for CONNECT and in a response.
    pub fn path(&self) -> &[u8] {
        self.bytes(self.path)
    }

    pub fn set_path(&mut self, path: &[u8]) {
        self.path = self.store_word(path);
    }

    /// `:authority`, the value of `Host`; empty when there is none.
    pub fn authority(&self) -> &[u8] {
        self.bytes(self.authority)
    }

    /// Whether the message named an authority at all, be it an empty one.
    pub fn has_authority(&self) -> bool {
        self.has_authority
    }

    pub fn set_authority(&mut self, authority: &[u8]) {
        self.authority = self.store_word(authority);
        self.has_authority = true;
    }

    /// `:scheme`; empty until the target or the connection manager has set it.
    pub fn scheme(&self) -> &[u8] {
        self.bytes(self.scheme)
    }

    pub fn set_scheme(&mut self, scheme: &[u8]) {
        self.scheme = self.store_word(scheme);
    }

    /// The status code of a response, 0 in a request.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The status code as three digits.
    pub(in crate::protocol) fn status_text(&self) -> &[u8; 3] {
        &self.status_text
    }

    /// Sets the status code; values above 999 are held at 999 (the wire has three digits).
    pub fn set_status(&mut self, status: u16) {
        self.status = status.min(999);
        let digit = |value: u16| b'0' + (value % 10) as u8;
        self.status_text = [digit(self.status / 100), digit(self.status / 10), digit(self.status)];
    }

    /// The reason phrase received with a response, empty if there was none.
    pub fn reason(&self) -> &[u8] {
        self.bytes(self.reason)
    }

    // === headers ===

    /// The first value of `name`. Pseudo headers (`:path`, `:status`, ..., `host`) answer from the
    /// start line; those that are not set are `None`.
    #[inline]
    pub fn get(&self, name: &HeaderName) -> Option<&[u8]> {
        match name.known() {
            // Most that is asked for is not there.
            Some(known) if !known.is_pseudo() && !self.has(known) => None,
            _ => self.find(name),
        }
    }

    /// All values of `name`, in order.
    pub fn get_all<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> + 'a {
        let pseudo = name.known().filter(|known| known.is_pseudo()).and_then(|known| self.pseudo(known));
        pseudo.into_iter().chain(self.fields_named(name).map(|header| self.bytes(header.value)))
    }

    #[inline]
    pub fn contains(&self, name: &HeaderName) -> bool {
        match name.known() {
            Some(known) if !known.is_pseudo() => self.has(known),
            _ => self.find(name).is_some(),
        }
    }

    /// Adds a header after all others. A pseudo header is set instead.
    pub fn append(&mut self, name: &HeaderName, value: &[u8]) {
        if let Some(known) = name.known().filter(|known| known.is_pseudo()) {
            return self.set_pseudo(known, value);
        }
        let value = self.store(value);
        self.push(name, value);
    }

    /// Makes `value` the only value of `name`: in place of the first if there is one, else appended.
    pub fn set(&mut self, name: &HeaderName, value: &[u8]) {
        if let Some(known) = name.known().filter(|known| known.is_pseudo()) {
            return self.set_pseudo(known, value);
        }
        let value = self.store(value);
        self.set_span(name, value);
    }

    /// Joins `value` to the last value of `name` with `delimiter` between, or sets it when there is
    /// none: what Envoy does to `x-forwarded-for` and `via`.
    pub fn join(&mut self, name: &HeaderName, value: &[u8], delimiter: &[u8]) {
        let Some(index) = self.headers.iter().rposition(|header| header.is_named(&self.text, name)) else {
            return self.append(name, value);
        };
        let old = self.headers[index].value;
        if old.len > 0 && old.range().end == self.text.len() {
            // What grows piece by piece lies at the end, and stays where it is.
            if self.admits(delimiter.len() + value.len(), value) {
                self.text.extend_from_slice(delimiter);
                self.text.extend_from_slice(value);
                self.headers[index].value = Span::of(old.range().start, self.text.len() - old.range().start);
            }
            return;
        }
        let start = self.text.len();
        if old.len > 0 && self.admits(old.len as usize + delimiter.len() + value.len(), value) {
            self.text.extend_from_within(old.range());
            self.text.extend_from_slice(delimiter);
        }
        let end = self.store(value);
        self.headers[index].value = if old.len > 0 { Span::of(start, self.text.len() - start) } else { end };
    }

    /// Removes every header of that name; whether there was one. Pseudo headers stay.
    #[inline]
    pub fn remove(&mut self, name: &HeaderName) -> bool {
        match name.known() {
            // Most that is to go is not there.
            Some(known) if !self.has(known) => false,
            _ => self.take_out(name),
        }
    }

    /// Removes every header whose name is in the set.
    pub fn remove_set(&mut self, names: NameSet) {
        if self.present & names.0 != 0 {
            self.present &= !names.0;
            self.headers.retain(|header| header.known.is_none_or(|known| known.bit() & names.0 == 0));
        }
    }

    /// Removes the headers for which `keep` (given name and value) answers false.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        let text = &self.text;
        self.headers.retain(|header| keep(header.name(text), header.value.of_text(text)));
        self.note_present();
    }

    /// Name (in the case received) and value of every header, in order; no pseudo headers.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.headers.iter().map(|header| (header.name(&self.text), self.bytes(header.value)))
    }

    /// How many headers there are, pseudo headers not counted.
    pub fn len(&self) -> usize {
        self.headers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    // === for the codecs ===

    pub(in crate::protocol) fn bytes(&self, span: Span) -> &[u8] {
        span.of_text(&self.text)
    }

    /// Whether there is a header of that name of the table; of a pseudo header there is none.
    pub(in crate::protocol) fn has(&self, known: Known) -> bool {
        self.present & known.bit() != 0
    }

    /// The values of a name of the table, in order; none of a pseudo header.
    pub(in crate::protocol) fn values(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        let named = self.headers.iter().filter(move |header| header.known == Some(known));
        named.map(|header| self.bytes(header.value))
    }

    pub(in crate::protocol) fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        self.headers.iter().map(|header| Field {
            known: header.known,
            name: header.name(&self.text),
            is_received: header.is_received,
            value: self.bytes(header.value),
        })
    }

    /// Takes a received header; its name and value stand in the text.
    pub(in crate::protocol) fn push_received(&mut self, known: Option<Known>, name: Span, value: Span) {
        debug_assert!(name.len as usize <= NAME_BYTES_MAX);
        self.present |= known.map_or(0, Known::bit);
        self.headers.push(Header {
            name_start: name.start,
            name_len: name.len as u16,
            known,
            is_received: true,
            value,
        });
    }

    /// Takes a received header whose name and value are not in the text yet; neither may split a line, as their types promise.
    pub(in crate::protocol) fn push_received_text(
        &mut self,
        known: Option<Known>,
        name: &[u8],
        value: &[u8],
    ) {
        debug_assert!(name.len() <= NAME_BYTES_MAX && !splits_line(name) && !splits_line(value));
        let start = self.text.len();
        if start + name.len() + value.len() > TEXT_BYTES_MAX {
            self.unsendable = true;
            return;
        }
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(value);
        let name_span = Span::of(start, name.len());
        self.push_received(known, name_span, Span::of(start + name.len(), value.len()));
    }

    pub(in crate::protocol) fn set_method_span(&mut self, span: Span) {
        self.method = span;
    }

    /// Makes `rest` of the text, the part of an absolute target behind its authority, the path:
    /// with a slash before it when it is empty or a bare query.
    pub(in crate::protocol) fn set_path_at_root(&mut self, rest: Span) {
        if self.bytes(rest).starts_with(b"/") {
            self.path = rest;
            return;
        }
        let start = self.text.len();
        self.text.push(b'/');
        self.text.extend_from_within(rest.range());
        self.path = Span::of(start, 1 + rest.len as usize);
    }

    /// Removes the headers that the `Connection` headers list. `Upgrade` and `TE` stay: whether they
    /// pass is not the peer's choice alone.
    pub(in crate::protocol) fn remove_nominated(&mut self) {
        let Self { text, headers, .. } = self;
        let mut options: [&[u8]; CONNECTION_OPTIONS_MAX] = [&[]; CONNECTION_OPTIONS_MAX];
        let lists = headers.iter().filter(|header| header.known == Some(Known::CONNECTION));
        let listed = lists.flat_map(|header| validate::list(header.value.of_text(text)));
        options.iter_mut().zip(listed).for_each(|(slot, option)| *slot = option);
        headers.retain(|header| {
            matches!(header.known, Some(Known::UPGRADE | Known::TE))
                || !options.iter().any(|option| header.name(text).eq_ignore_ascii_case(option))
        });
        self.note_present();
    }

    /// Removes the headers of the table for which `keep` answers false.
    pub(in crate::protocol) fn retain_known(&mut self, mut keep: impl FnMut(Known) -> bool) {
        self.headers.retain(|header| header.known.is_none_or(&mut keep));
        self.note_present();
    }

    pub(in crate::protocol) fn set_path_span(&mut self, span: Span) {
        self.path = span;
    }

    /// How the peer spelt `Host`; empty if it sent none.
    pub(in crate::protocol) fn host_name(&self) -> &[u8] {
        self.bytes(self.host_name)
    }

    pub(in crate::protocol) fn set_host_name_span(&mut self, span: Span) {
        self.host_name = span;
    }

    pub(in crate::protocol) fn set_reason_span(&mut self, span: Span) {
        self.reason = span;
    }

    pub(in crate::protocol) fn set_authority_span(&mut self, span: Span) {
        self.authority = span;
        self.has_authority = true;
    }

    // === inside ===

    #[inline(never)]
    fn find(&self, name: &HeaderName) -> Option<&[u8]> {
        match name.known() {
            Some(known) if known.is_pseudo() => self.pseudo(known),
            _ => self.fields_named(name).map(|header| self.bytes(header.value)).next(),
        }
    }

    #[inline(never)]
    fn take_out(&mut self, name: &HeaderName) -> bool {
        self.present &= !name.known().map_or(0, Known::bit);
        let (before, text) = (self.headers.len(), &self.text);
        self.headers.retain(|header| !header.is_named(text, name));
        self.headers.len() < before
    }

    /// Headers have gone, whichever they were.
    fn note_present(&mut self) {
        let left = self.headers.iter().filter_map(|header| header.known);
        self.present = left.fold(0, |bits, known| bits | known.bit());
    }

    fn fields_named<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a Header> {
        let absent = name.known().is_some_and(|known| !self.has(known));
        let headers = if absent { &[] } else { self.headers.as_slice() };
        headers.iter().filter(move |header| header.is_named(&self.text, name))
    }

    fn pseudo(&self, known: Known) -> Option<&[u8]> {
        let set = |bytes: &'_ [u8]| !bytes.is_empty();
        match known {
            Known::METHOD => Some(self.method()).filter(|bytes| set(bytes)),
            Known::PATH => Some(self.path()).filter(|bytes| set(bytes)),
            Known::SCHEME => Some(self.scheme()).filter(|bytes| set(bytes)),
            Known::AUTHORITY => self.has_authority.then(|| self.authority()),
            Known::STATUS if self.status != 0 => Some(&self.status_text),
            _ => None,
        }
    }

    fn set_pseudo(&mut self, known: Known, value: &[u8]) {
        match known {
            Known::METHOD => self.set_method(value),
            Known::PATH => self.set_path(value),
            Known::SCHEME => self.set_scheme(value),
            Known::AUTHORITY => self.set_authority(value),
            Known::STATUS => {
                let parsed = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                self.set_status(parsed.unwrap_or(0));
            }
            _ => {}
        }
    }

    fn set_span(&mut self, name: &HeaderName, value: Span) {
        if name.known().is_some_and(|known| !self.has(known)) {
            return self.push(name, value);
        }
        let text = &self.text;
        let mut named = self.headers.iter_mut().filter(|header| header.is_named(text, name));
        let Some(first) = named.next() else {
            return self.push(name, value);
        };
        first.value = value;
        // Most names stand there once.
        if named.next().is_some() {
            let mut seen = false;
            self.headers.retain(|header| !header.is_named(text, name) || !std::mem::replace(&mut seen, true));
        }
    }

    fn push(&mut self, name: &HeaderName, value: Span) {
        let known = name.known();
        let (name_start, name_len) = match known {
            Some(known) => {
                self.present |= known.bit();
                (NAME_OF_TABLE, 0)
            }
            None => {
                let span = self.store(name.as_bytes());
                (span.start, span.len as u16)
            }
        };
        self.headers.push(Header { name_start, name_len, known, is_received: false, value });
    }

    fn store(&mut self, bytes: &[u8]) -> Span {
        if !self.admits(bytes.len(), bytes) {
            return Span::default();
        }
        let start = self.text.len();
        self.text.extend_from_slice(bytes);
        Span::of(start, bytes.len())
    }

    /// Stores a part of the start line, where a space would split the line.
    fn store_word(&mut self, bytes: &[u8]) -> Span {
        self.unsendable |= splits_word(bytes);
        self.store(bytes)
    }

    /// Whether `added` bytes, of which `checked` come from outside, may be stored.
    fn admits(&mut self, added: usize, checked: &[u8]) -> bool {
        let admitted = !splits_line(checked) && self.text.len() + added <= TEXT_BYTES_MAX;
        self.unsendable |= !admitted;
        admitted
    }
}

/// Whether a value holds what ends a line, or what some peers take for the end of a text.
fn splits_line(value: &[u8]) -> bool {
    // Most edits are a few bytes long: a search by vectors costs more than it saves.
    if value.len() <= 64 {
        return any_byte(
            value,
            |word| has_zero(word) | has_zero(word ^ of_each(b'\r')) | has_zero(word ^ of_each(b'\n')),
            |byte| matches!(byte, b'\r' | b'\n' | 0),
        );
    }
    memchr::memchr3(b'\r', b'\n', 0, value).is_some()
}

/// Whether a part of the start line holds a space or a control byte.
fn splits_word(word: &[u8]) -> bool {
    any_byte(
        word,
        |word| has_at_most_space(word) | has_zero(word ^ of_each(0x7f)),
        |byte| byte <= b' ' || byte == 0x7f,
    )
}

/// Whether any byte is such a one, asked eight at a time, the last eight overlapping those before: `of_eight` is zero when none
/// of eight is.
#[inline]
fn any_byte(bytes: &[u8], of_eight: impl Fn(u64) -> u64, of_one: impl Fn(u8) -> bool) -> bool {
    let word = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
    match bytes.last_chunk::<8>() {
        Some(last) => {
            let words = bytes.as_chunks::<8>().0.iter().chain([last]);
            words.fold(0, |found, bytes| found | of_eight(word(bytes))) != 0
        }
        None => bytes.iter().any(|&byte| of_one(byte)),
    }
}

const fn of_each(byte: u8) -> u64 {
    byte as u64 * 0x0101_0101_0101_0101
}

/// Not zero when a byte is.
const fn has_zero(word: u64) -> u64 {
    word.wrapping_sub(of_each(1)) & !word & of_each(0x80)
}

/// Not zero when a byte is a space or below.
const fn has_at_most_space(word: u64) -> u64 {
    word.wrapping_sub(of_each(b' ' + 1)) & !word & of_each(0x80)
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
