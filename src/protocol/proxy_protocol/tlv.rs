//! What a header of version 2 has behind the addresses: type, length, value. A checksum (type 3) is not verified: Envoy does not.

/// Bytes before a value.
pub(super) const PREFIX_BYTES: usize = 3;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlv<'a> {
    pub kind: u8,
    pub value: &'a [u8],
}

/// Those of a header, in order; ends before one that is not whole.
#[derive(Clone, Copy, Debug)]
pub struct Tlvs<'a>(&'a [u8]);

impl<'a> Tlvs<'a> {
    /// Those in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether all of them are.
    pub(super) fn are_whole(mut self) -> bool {
        while self.next().is_some() {}
        self.0.is_empty()
    }
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = Tlv<'a>;

    fn next(&mut self) -> Option<Tlv<'a>> {
        let (&[kind, high, low], rest) = self.0.split_first_chunk::<PREFIX_BYTES>()?;
        let (value, rest) = rest.split_at_checked(usize::from(high) << 8 | usize::from(low))?;
        self.0 = rest;
        Some(Tlv { kind, value })
    }
}
