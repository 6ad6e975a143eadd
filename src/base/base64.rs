//! Base64 as it streams: any cut of the input, padding at the end of each piece that was encoded on its own.
//!
//! The decoder takes a padded group anywhere: clients encode message by message, and where one ends must not depend on
//! how the network cut the body. Bits that padding leaves over must be zero, as in Envoy.

/// Encoded bytes per group.
const GROUP: usize = 4;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const NO_DIGIT: u8 = 64;
static DIGITS: [u8; 256] = digits();

/// The text is not Base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Invalid;

/// Finds groups in received bytes. At most three bytes wait for the rest of theirs.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    group: [u8; GROUP],
    len: u8,
}

/// Encodes received bytes. At most two bytes wait for the rest of their group.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    left: [u8; 2],
    len: u8,
}

impl Decoder {
    /// Decodes what is complete and gives it to `emit` in pieces.
    pub(crate) fn decode<E: From<Invalid>>(
        &mut self,
        mut input: &[u8],
        mut emit: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while self.len > 0 && usize::from(self.len) < GROUP {
            let Some((&first, rest)) = input.split_first() else { return Ok(()) };
            self.group[usize::from(self.len)] = first;
            self.len += 1;
            input = rest;
        }
        let mut piece = Piece::default();
        if usize::from(self.len) == GROUP {
            piece.add(&self.group)?;
            self.len = 0;
        }
        let (groups, rest) = input.as_chunks::<GROUP>();
        for group in groups {
            if piece.is_full() {
                emit(piece.take())?;
            }
            piece.add(group)?;
        }
        emit(piece.take())?;
        self.group[..rest.len()].copy_from_slice(rest);
        self.len = rest.len() as u8;
        Ok(())
    }

    /// Whether no group is incomplete.
    pub(crate) fn is_at_end_of_group(&self) -> bool {
        self.len == 0
    }
}

/// Decoded bytes on their way out.
#[derive(Debug)]
struct Piece {
    bytes: [u8; 192],
    len: usize,
    taken: bool,
}

impl Default for Piece {
    fn default() -> Self {
        Self { bytes: [0; 192], len: 0, taken: false }
    }
}

impl Piece {
    fn is_full(&self) -> bool {
        !self.taken && self.len + 3 > self.bytes.len()
    }

    fn take(&mut self) -> &[u8] {
        self.taken = true;
        &self.bytes[..self.len]
    }

    fn add(&mut self, group: &[u8; GROUP]) -> Result<(), Invalid> {
        if self.taken {
            (self.len, self.taken) = (0, false);
        }
        let padding = match group {
            [.., b'=', b'='] => 2,
            [.., b'='] => 1,
            _ => 0,
        };
        let mut bits = 0u32;
        for &byte in &group[..GROUP - padding] {
            let digit = DIGITS[usize::from(byte)];
            if digit == NO_DIGIT {
                return Err(Invalid);
            }
            bits = bits << 6 | u32::from(digit);
        }
        bits <<= 6 * padding;
        let [_, bytes @ ..] = bits.to_be_bytes();
        let kept = 3 - padding;
        if bytes[kept..].iter().any(|&left_over| left_over != 0) {
            return Err(Invalid);
        }
        if let Some(room) = self.bytes.get_mut(self.len..self.len + kept) {
            room.copy_from_slice(&bytes[..kept]);
            self.len += kept;
        }
        Ok(())
    }
}

impl Encoder {
    /// Encodes what is complete and gives it to `emit` in pieces.
    pub(crate) fn encode<E>(
        &mut self,
        mut input: &[u8],
        mut emit: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.len > 0 {
            let mut group = [self.left[0], self.left[1], 0];
            let mut len = usize::from(self.len);
            while len < 3 {
                let Some((&first, rest)) = input.split_first() else {
                    self.left.copy_from_slice(&group[..2]);
                    self.len = len as u8;
                    return Ok(());
                };
                group[len] = first;
                len += 1;
                input = rest;
            }
            self.len = 0;
            emit(&encoded(group))?;
        }
        let (groups, rest) = input.as_chunks::<3>();
        let mut piece = [0; 64 * GROUP];
        for groups in groups.chunks(64) {
            for (group, room) in groups.iter().zip(piece.as_chunks_mut::<GROUP>().0) {
                *room = encoded(*group);
            }
            emit(&piece[..groups.len() * GROUP])?;
        }
        self.left[..rest.len()].copy_from_slice(rest);
        self.len = rest.len() as u8;
        Ok(())
    }

    /// Ends what was encoded so far, with padding: the next byte begins a group.
    pub(crate) fn finish<E>(&mut self, mut emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let group = match self.len {
            0 => return Ok(()),
            1 => {
                let [a, b, ..] = encoded([self.left[0], 0, 0]);
                [a, b, b'=', b'=']
            }
            _ => {
                let [a, b, c, _] = encoded([self.left[0], self.left[1], 0]);
                [a, b, c, b'=']
            }
        };
        self.len = 0;
        emit(&group)
    }
}

fn encoded([a, b, c]: [u8; 3]) -> [u8; GROUP] {
    let bits = u32::from_be_bytes([0, a, b, c]);
    [18, 12, 6, 0].map(|shift| ALPHABET[(bits >> shift & 63) as usize])
}

const fn digits() -> [u8; 256] {
    let mut digits = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < ALPHABET.len() {
        digits[ALPHABET[digit] as usize] = digit as u8;
        digit += 1;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(pieces: &[&[u8]]) -> Result<Vec<u8>, Invalid> {
        let (mut decoder, mut out) = (Decoder::default(), Vec::new());
        for piece in pieces {
            decoder.decode(piece, |bytes| {
                out.extend_from_slice(bytes);
                Ok::<_, Invalid>(())
            })?;
        }
        if decoder.is_at_end_of_group() { Ok(out) } else { Err(Invalid) }
    }

    fn encoded(pieces: &[&[u8]]) -> String {
        let (mut encoder, mut out) = (Encoder::default(), Vec::new());
        let mut emit = |bytes: &[u8]| {
            out.extend_from_slice(bytes);
            Ok::<_, Invalid>(())
        };
        for piece in pieces {
            encoder.encode(piece, &mut emit).unwrap();
        }
        encoder.finish(&mut emit).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn vectors_of_rfc_4648_go_both_ways() {
        for (plain, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encoded(&[plain.as_bytes()]), text);
            assert_eq!(decoded(&[text.as_bytes()]).unwrap(), plain.as_bytes());
        }
    }

    #[test]
    fn every_cut_gives_the_same() {
        let plain: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let text = encoded(&[&plain]);
        for cut in 0..=20 {
            let (a, b) = plain.split_at(cut);
            assert_eq!(encoded(&[a, b]), text);
            let (a, b) = text.as_bytes().split_at(cut);
            assert_eq!(decoded(&[a, b]).unwrap(), plain);
        }
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(decoded(&bytes).unwrap(), plain);
        assert_eq!(encoded(&plain.chunks(1).collect::<Vec<_>>()), text);
    }

    #[test]
    fn pieces_that_were_padded_on_their_own_are_one_body() {
        assert_eq!(decoded(&[b"Zg==Zm8=Zm9v"]).unwrap(), b"ffofoo");
    }

    #[test]
    fn garbage_is_refused() {
        for text in
            ["Zg=", "Z", "Zm9v\n", "Zm-_", "====", "Z===", "Zg=v", "Zh==", "Zm9=", "\u{e9}aa", "Zm9v Zm9v"]
        {
            assert_eq!(decoded(&[text.as_bytes()]), Err(Invalid), "{text}");
        }
    }
}
