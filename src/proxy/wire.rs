//! Heads and trailers onto a connection: encoded into a chunk of the size they need.

use std::io;

use super::copy::CopyError;
use crate::base::limits;
use crate::buffer::ChunkSize;
use crate::cluster::pool::UpstreamConnection;
use crate::config::http::HeaderKeyFormat;
use crate::protocol::http::head::Head;
use crate::protocol::http1::encode::{self, EncodeError, ResponseEncoding};
use crate::protocol::http2::Unsendable;
use crate::protocol::transport::{Channel, Transport};
use crate::runtime::Runtime;

/// Envoy's meaning of a buffer limit of zero.
const NO_LIMIT: usize = usize::MAX / 2;

/// The high watermark in bytes of a configured buffer limit.
pub(super) fn watermark(buffer_limit_bytes: u32) -> usize {
    if buffer_limit_bytes == 0 { NO_LIMIT } else { buffer_limit_bytes as usize }
}

/// Bytes that may wait for an endpoint before reading for it pauses.
pub(super) fn upstream_watermark(upstream: &UpstreamConnection) -> usize {
    let limit = watermark(upstream.cluster().config().per_connection_buffer_limit_bytes);
    match upstream.channel() {
        Channel::Connection(_) => limit,
        Channel::Stream(_) => limit.min(limits::LARGE_CHUNK_BYTES),
    }
}

/// Whether a receiver has room, for what notes its pauses: whether one lasts, how many began, how many ended. When not, the task
/// is woken once half of the watermark has drained.
///
/// # Errors
/// The receiver broke.
pub(super) fn has_room(
    to: &Channel,
    high_watermark: usize,
    (paused, pauses, resumes): (&mut bool, &mut u64, &mut u64),
) -> io::Result<bool> {
    if !*paused {
        if to.queued() <= high_watermark {
            return Ok(true);
        }
        to.flush();
        if to.queued() <= high_watermark {
            return Ok(true);
        }
        *pauses += 1;
    }
    *paused = to.poll_sent(high_watermark / 2)?.is_pending();
    *resumes += u64::from(!*paused);
    Ok(!*paused)
}

/// Queues a response's head for the client; `ends`: no byte follows. Its length, before compression.
pub(super) fn send_response(
    runtime: &Runtime,
    to: &Channel,
    head: &Head,
    encoding: &ResponseEncoding,
    ends: bool,
) -> Result<usize, SendError> {
    match to {
        Channel::Connection(to) => {
            send_encoded(runtime, to, |room| encode::encode_response(head, encoding, room))
        }
        Channel::Stream(to) => match to.send_response(head, encoding.body, ends) {
            Ok(()) => Ok(head.text_bytes()),
            Err(Unsendable) => Err(SendError::Unsendable),
        },
    }
}

/// Why a head was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendError {
    /// The head is not fit to be sent.
    Unsendable,
    /// No memory in the pool.
    Exhausted,
}

/// Queues what `encode` writes; returns its length. The common head fits a small chunk; one beyond a large chunk is
/// put together on the heap, the one allocation of this path.
pub(super) fn send_encoded(
    runtime: &Runtime,
    to: &Transport,
    encode: impl Fn(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<usize, SendError> {
    let mut size = ChunkSize::Small;
    loop {
        let mut chunk = runtime.pool().alloc(size).ok_or(SendError::Exhausted)?;
        match encode(chunk.spare()) {
            Ok(written) => {
                chunk.advance(written);
                to.send(chunk.freeze());
                return Ok(written);
            }
            Err(EncodeError::Unsendable) => return Err(SendError::Unsendable),
            Err(EncodeError::NeedsRoom(needed))
                if needed <= limits::LARGE_CHUNK_BYTES && size == ChunkSize::Small =>
            {
                size = ChunkSize::Large;
            }
            Err(EncodeError::NeedsRoom(needed)) => {
                let mut room = vec![0; needed];
                let written = encode(&mut room).map_err(|_| SendError::Unsendable)?;
                return if to.send_copy(&room[..written]) { Ok(written) } else { Err(SendError::Exhausted) };
            }
        }
    }
}

/// Queues the last chunk with trailers; the bytes that are.
pub(super) fn send_trailers(
    runtime: &Runtime,
    to: &Transport,
    trailers: &Head,
    names: HeaderKeyFormat,
) -> Result<usize, CopyError> {
    match send_encoded(runtime, to, |room| encode::encode_trailers(trailers, names, room)) {
        Ok(bytes) => Ok(bytes),
        Err(SendError::Exhausted) => Err(CopyError::Exhausted),
        // Trailers cannot be refused any more; the body itself is whole.
        Err(SendError::Unsendable) if to.send_copy(encode::LAST_CHUNK) => Ok(encode::LAST_CHUNK.len()),
        Err(SendError::Unsendable) => Err(CopyError::Exhausted),
    }
}
