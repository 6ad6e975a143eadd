//! [`TextFrames`]: a gRPC stream as `application/grpc-web-text`, each frame encoded on its own.
//!
//! Nothing is kept but what begins a group of three bytes: a frame that claims to be long, or never ends, costs nothing.

use crate::base::base64::Encoder;
use crate::protocol::grpc::FRAME_HEADER_BYTES;

/// Where in the stream of frames the bytes are.
#[derive(Debug, Default)]
pub(super) struct TextFrames {
    encoder: Encoder,
    header: [u8; FRAME_HEADER_BYTES],
    header_len: u8,
    /// Bytes of the frame still to come, once its header is complete.
    left: u64,
}

impl TextFrames {
    /// Encodes some of the stream; the end of each frame ends a piece of Base64.
    pub(super) fn encode<E>(
        &mut self,
        mut input: &[u8],
        mut emit: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while !input.is_empty() {
            let missing = FRAME_HEADER_BYTES - usize::from(self.header_len);
            let taken = if missing > 0 {
                let taken = missing.min(input.len());
                let at = usize::from(self.header_len);
                self.header[at..at + taken].copy_from_slice(&input[..taken]);
                self.header_len += taken as u8;
                if usize::from(self.header_len) == FRAME_HEADER_BYTES {
                    let [_, length @ ..] = self.header;
                    self.left = u64::from(u32::from_be_bytes(length));
                }
                taken
            } else {
                let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
                self.left -= taken as u64;
                taken
            };
            let (now, rest) = input.split_at(taken);
            self.encoder.encode(now, &mut emit)?;
            input = rest;
            if usize::from(self.header_len) == FRAME_HEADER_BYTES && self.left == 0 {
                self.finish(&mut emit)?;
            }
        }
        Ok(())
    }

    /// Ends the frame, be it complete or not.
    pub(super) fn finish<E>(&mut self, emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.header_len = 0;
        self.left = 0;
        self.encoder.finish(emit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pieces: &[&[u8]]) -> String {
        let (mut frames, mut out) = (TextFrames::default(), Vec::new());
        let mut emit = |bytes: &[u8]| {
            out.extend_from_slice(bytes);
            Ok::<_, ()>(())
        };
        for piece in pieces {
            frames.encode(piece, &mut emit).unwrap();
        }
        frames.finish(&mut emit).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_frame_is_padded_on_its_own_however_it_arrives() {
        // Base64 of 0,0,0,0,2,a,b and of 0,0,0,0,0 and of 0,0,0,0,1,c.
        let stream = b"\0\0\0\0\x02ab\0\0\0\0\0\0\0\0\0\x01c";
        let expected = "AAAAAAJhYg==AAAAAAA=AAAAAAFj";
        assert_eq!(text(&[stream]), expected);
        assert_eq!(text(&stream.chunks(1).collect::<Vec<_>>()), expected);
        for cut in 0..stream.len() {
            let (a, b) = stream.split_at(cut);
            assert_eq!(text(&[a, b]), expected);
        }
    }

    #[test]
    fn length_that_lies_delays_nothing() {
        assert_eq!(text(&[b"\0\xff\xff\xff\xffabc"]), "AP////9hYmM=");
    }
}
