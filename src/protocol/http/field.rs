//! What a [`Head`](super::head::Head) keeps of one header: ranges into its text.
//!
//! Inside `protocol` only. Invariant: a span lies inside the text of the head it belongs to, and a
//! wrong one reads as empty instead of panicking.

use super::headers::{HeaderName, Known};

/// A range of a head's `text`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::protocol) struct Span {
    pub(in crate::protocol) start: u32,
    pub(in crate::protocol) len: u32,
}

/// One header: where its name and its value stand in the text.
#[derive(Clone, Copy, Debug)]
pub(in crate::protocol) struct Header {
    /// [`NAME_OF_TABLE`] when the name is the table's spelling and not in the text.
    pub(super) name_start: u32,
    pub(super) name_len: u16,
    pub(super) known: Option<Known>,
    /// Whether a peer spelt the name (its case may be worth keeping), not an edit.
    pub(super) is_received: bool,
    pub(super) value: Span,
}

const _: () = assert!(size_of::<Header>() == 16);

/// One header as the codecs see it.
pub(in crate::protocol) struct Field<'a> {
    pub(in crate::protocol) known: Option<Known>,
    pub(in crate::protocol) name: &'a [u8],
    /// Whether the name is spelt as a peer sent it (and not by this proxy).
    pub(in crate::protocol) is_received: bool,
    pub(in crate::protocol) value: &'a [u8],
}

pub(super) const NAME_OF_TABLE: u32 = u32::MAX;

/// Most bytes one head's text may take, edits included. Beyond it an edit is dropped and the head is
/// no longer [sendable](super::head::Head::is_sendable).
/// Reason: spans are 32 bits; the largest head Envoy's `max_request_headers_kb` admits is 8 MiB.
pub(super) const TEXT_BYTES_MAX: usize = 64 * 1024 * 1024;

impl Span {
    /// A range of a text, whose length [`TEXT_BYTES_MAX`] bounds far below 32 bits.
    pub(in crate::protocol) fn of(start: usize, len: usize) -> Self {
        debug_assert!(start + len <= TEXT_BYTES_MAX);
        Self { start: start as u32, len: len as u32 }
    }

    /// This range of the text inside `outer`, as a range of the text `outer` is in.
    pub(in crate::protocol) fn within(self, outer: Self) -> Self {
        Self { start: outer.start + self.start, len: self.len }
    }

    pub(super) fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }

    pub(super) fn of_text(self, text: &[u8]) -> &[u8] {
        text.get(self.range()).unwrap_or_default()
    }
}

impl Header {
    pub(in crate::protocol) fn name<'a>(&'a self, text: &'a [u8]) -> &'a [u8] {
        match self.known {
            Some(known) if self.name_start == NAME_OF_TABLE => known.as_str().as_bytes(),
            _ => Span { start: self.name_start, len: u32::from(self.name_len) }.of_text(text),
        }
    }

    pub(super) fn is_named(&self, text: &[u8], name: &HeaderName) -> bool {
        match (self.known, name.known()) {
            (None, None) => self.name(text).eq_ignore_ascii_case(name.as_bytes()),
            (mine, asked) => mine == asked,
        }
    }
}
