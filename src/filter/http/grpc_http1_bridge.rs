//! `envoy.filters.http.grpc_http1_bridge`: gRPC for clients of HTTP/1 that cannot read trailers.
//!
//! The response is held until its trailers, whose status goes into the head: 200 for success, 503 for any other. With
//! `upgrade_protobuf_to_grpc` plain protobuf requests are framed, and their answers unframed. Source: Envoy's filter.

use super::{Context, Direction, EXHAUSTED, FilterReply, OnData, OnHead, Part};
use crate::buffer::{ChunkQueue, ChunkSize};
use crate::config::http_filter::GrpcHttp1BridgeConfig;
use crate::protocol::grpc::{self, FRAME_HEADER_BYTES};
use crate::protocol::http::head::{Head, Version};
use crate::protocol::http::headers;
use crate::protocol::http1::encode::{DECIMAL_DIGITS_MAX, decimal};

const PROTOBUF: &[u8] = b"application/x-protobuf";

/// One bridged request and its response.
#[derive(Debug)]
pub(crate) struct State {
    /// The request is to be framed.
    frames: bool,
    /// The response's first frame header is to be dropped.
    unframes: bool,
}

impl State {
    /// `None`: the request is not bridged.
    pub(super) fn decode_head(
        config: GrpcHttp1BridgeConfig,
        context: &mut Context<'_>,
        head: &mut Head,
    ) -> Option<Self> {
        let frames = config.upgrade_protobuf_to_grpc && is_protobuf(head);
        if frames {
            head.set(&headers::CONTENT_TYPE, grpc::CONTENT_TYPE);
            head.remove(&headers::CONTENT_LENGTH);
            context.clear_route = true;
        }
        // As in Envoy: protobuf of an HTTP/2 client changes its type all the same.
        if context.downstream >= Version::Http2 || !grpc::is_request(head) {
            return None;
        }
        if config.ignore_query_parameters
            && let Some(query) = memchr::memchr(b'?', head.path())
        {
            let path = head.path()[..query].to_vec();
            head.set_path(&path);
        }
        Some(Self { frames, unframes: frames })
    }

    pub(super) fn wants_data(&self, direction: Direction) -> bool {
        direction == Direction::Encode || self.frames
    }

    /// Holds the message until its length is known.
    pub(super) fn decode_data(&mut self, context: &Context<'_>, part: Part<'_>, ends: bool) -> OnData {
        if !self.frames {
            return OnData::Continue;
        }
        if !ends {
            return OnData::Hold;
        }
        self.frames = false;
        match frame(context, part.held, part.data) {
            Ok(()) => OnData::Continue,
            Err(reply) => OnData::Reply(reply),
        }
    }

    /// Trailers end the message, too.
    pub(super) fn decode_trailers(
        &mut self,
        context: &Context<'_>,
        part: Part<'_>,
    ) -> Result<(), FilterReply> {
        if !self.frames {
            return Ok(());
        }
        self.frames = false;
        frame(context, part.held, part.data)
    }

    /// Holds the head until the trailers.
    pub(super) fn encode_head(&self, ends: bool) -> OnHead {
        if ends { OnHead::Continue } else { OnHead::Stop }
    }

    /// Holds the message.
    pub(super) fn encode_data(&self, ends: bool) -> OnData {
        // As in Envoy: what ends without trailers is no gRPC, and passes as it is.
        if ends { OnData::Continue } else { OnData::Hold }
    }

    /// Brings the status into the head.
    pub(super) fn encode_trailers(&self, part: Part<'_>, trailers: &Head) {
        if let Some(status) = trailers.get(&headers::GRPC_STATUS) {
            let number = std::str::from_utf8(status).ok().and_then(|text| text.trim().parse::<u64>().ok());
            if number != Some(0) {
                part.head.set_status(503);
            }
            part.head.set(&headers::GRPC_STATUS, status);
        }
        if let Some(message) = trailers.get(&headers::GRPC_MESSAGE) {
            part.head.set(&headers::GRPC_MESSAGE, message);
        }
        // Only now is it known to be gRPC.
        if self.unframes {
            let dropped = FRAME_HEADER_BYTES.min(part.held.bytes());
            part.held.consume(dropped);
            part.data.consume((FRAME_HEADER_BYTES - dropped).min(part.data.bytes()));
        }
        let length = part.held.bytes() + part.data.bytes();
        let mut digits = [0; DECIMAL_DIGITS_MAX];
        part.head.set(&headers::CONTENT_LENGTH, decimal(length as u64, &mut digits));
    }
}

/// Puts a frame header before all of it.
fn frame(context: &Context<'_>, held: &mut ChunkQueue, data: &ChunkQueue) -> Result<(), FilterReply> {
    let header = grpc::frame_header(held.bytes() + data.bytes()).ok_or(EXHAUSTED)?;
    let mut chunk = context.pool.alloc(ChunkSize::Small).ok_or(EXHAUSTED)?;
    chunk.write(&header);
    held.push_front(chunk.freeze());
    Ok(())
}

/// Source: Envoy's `isProtobufRequestHeaders`.
fn is_protobuf(head: &Head) -> bool {
    !head.path().is_empty() && head.get(&headers::CONTENT_TYPE) == Some(PROTOBUF)
}
