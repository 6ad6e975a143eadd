//! `envoy.filters.http.grpc_web`: gRPC-Web of browsers becomes gRPC, and the answer gRPC-Web again.
//!
//! Requests change their content type, and with the text types their Base64 is decoded. Of a gRPC response the trailers
//! become the last frame of the body. A response that is no gRPC, replies of our own among them, becomes a status in
//! headers with its text as the message. Source: gRPC-Web protocol (gRPC project, PROTOCOL-WEB.md); Envoy's filter where
//! it leaves a choice.

mod frames;

use crate::base::base64::{Decoder, Encoder, Invalid};
use frames::TextFrames;

use super::{Context, Direction, EXHAUSTED, FilterReply, OnData, OnHead, Part};
use crate::filter::body::{Exhausted, Writer};
use crate::protocol::grpc;
use crate::protocol::http::head::Head;
use crate::protocol::http::headers;
use crate::protocol::http1::encode::{DECIMAL_DIGITS_MAX, decimal};

const WEB: &[u8] = b"application/grpc-web";
const WEB_PROTO: &[u8] = b"application/grpc-web+proto";
const WEB_TEXT: &[u8] = b"application/grpc-web-text";
const WEB_TEXT_PROTO: &[u8] = b"application/grpc-web-text+proto";

/// What a client that says nothing is taken to accept. Source: Envoy's filter.
const ACCEPT_ENCODING: &[u8] = b"identity";
/// First byte of the frame that holds the trailers.
const TRAILERS_FRAME: u8 = 0x80;
/// Most bytes of a response that is no gRPC that become its message. Source: Envoy's filter.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

const BAD_SIZE: FilterReply = FilterReply { details: "grpc_base_64_decode_failed_bad_size", ..BAD_DATA };
const BAD_DATA: FilterReply = FilterReply {
    status: 400,
    body: "Bad gRPC-web request, invalid base64 data.",
    details: "grpc_base_64_decode_failed",
    flag: None,
};

/// One gRPC-Web request and its response.
#[derive(Debug)]
pub(crate) struct State {
    /// The request's body is Base64.
    text_request: bool,
    /// The response's is to be.
    text_response: bool,
    decoder: Decoder,
    frames: TextFrames,
    /// The response is no gRPC: what arrived of its body.
    message: Option<Vec<u8>>,
}

/// Why writing decoded bytes stopped.
enum Stopped {
    Invalid,
    Exhausted,
}

impl From<Invalid> for Stopped {
    fn from(_: Invalid) -> Self {
        Self::Invalid
    }
}

impl From<Exhausted> for Stopped {
    fn from(_: Exhausted) -> Self {
        Self::Exhausted
    }
}

impl State {
    /// Turns the request into gRPC; `None`: it is no gRPC-Web.
    pub(super) fn decode_head(head: &mut Head) -> Option<Self> {
        let is = |value: Option<&[u8]>, kinds: [&[u8]; 2]| value.is_some_and(|value| kinds.contains(&value));
        let kind = head.get(&headers::CONTENT_TYPE);
        let text_request = is(kind, [WEB_TEXT, WEB_TEXT_PROTO]);
        if head.path().is_empty() || !(text_request || is(kind, [WEB, WEB_PROTO])) {
            return None;
        }
        let text_response = is(head.get(&headers::ACCEPT), [WEB_TEXT, WEB_TEXT_PROTO]);
        head.remove(&headers::CONTENT_LENGTH);
        head.set(&headers::CONTENT_TYPE, grpc::CONTENT_TYPE);
        head.set(&headers::TE, b"trailers");
        if head.get(&headers::GRPC_ACCEPT_ENCODING).is_none() {
            head.set(&headers::GRPC_ACCEPT_ENCODING, ACCEPT_ENCODING);
        }
        Some(Self {
            text_request,
            text_response,
            decoder: Decoder::default(),
            frames: TextFrames::default(),
            message: None,
        })
    }

    pub(super) fn wants_data(&self, direction: Direction) -> bool {
        direction == Direction::Encode || self.text_request
    }

    /// Decodes Base64.
    pub(super) fn decode_data(&mut self, context: &Context<'_>, part: Part<'_>, ends: bool) -> OnData {
        if !self.text_request {
            return OnData::Continue;
        }
        let encoded = std::mem::take(part.data);
        let mut writer = Writer::new(context.pool, part.data, encoded.bytes());
        for chunk in encoded.iter() {
            match self.decoder.decode(chunk, |bytes| writer.write(bytes).map_err(Stopped::from)) {
                Ok(()) => {}
                Err(Stopped::Invalid) => return OnData::Reply(BAD_DATA),
                Err(Stopped::Exhausted) => return OnData::Reply(EXHAUSTED),
            }
        }
        writer.finish();
        if ends && !self.decoder.is_at_end_of_group() { OnData::Reply(BAD_SIZE) } else { OnData::Continue }
    }

    /// Trailers end the body, too.
    pub(super) fn decode_trailers(&self) -> Result<(), FilterReply> {
        if self.text_request && !self.decoder.is_at_end_of_group() { Err(BAD_SIZE) } else { Ok(()) }
    }

    /// Turns the response's head into gRPC-Web's.
    pub(super) fn encode_head(&mut self, head: &mut Head, ends: bool) -> OnHead {
        let is_rpc = grpc::is_response(head, ends) || is_web_response(head);
        head.remove(&headers::CONTENT_LENGTH);
        let kind = if self.text_response { WEB_TEXT_PROTO } else { WEB_PROTO };
        head.set(&headers::CONTENT_TYPE, kind);
        if ends || is_rpc {
            return OnHead::Continue;
        }
        self.message = Some(Vec::new());
        OnHead::Stop
    }

    /// Gathers the text of a response that is no gRPC; encodes the frames of one that is, if they are to be text.
    pub(super) fn encode_data(&mut self, context: &Context<'_>, part: Part<'_>, ends: bool) -> OnData {
        if let Some(message) = &mut self.message {
            for chunk in part.data.iter() {
                let room = MESSAGE_BYTES_MAX - message.len().min(MESSAGE_BYTES_MAX);
                message.extend_from_slice(&chunk[..chunk.len().min(room)]);
            }
            part.data.clear();
            if !ends {
                return OnData::Consumed;
            }
            self.write_message(part.head);
            return OnData::Continue;
        }
        if !self.text_response {
            return OnData::Continue;
        }
        let plain = std::mem::take(part.data);
        let mut writer = Writer::new(context.pool, part.data, plain.bytes() / 3 * 4);
        for chunk in plain.iter() {
            if self.frames.encode(chunk, |bytes| writer.write(bytes)).is_err() {
                return OnData::Reply(EXHAUSTED);
            }
        }
        if ends && self.frames.finish(|bytes| writer.write(bytes)).is_err() {
            return OnData::Reply(EXHAUSTED);
        }
        writer.finish();
        OnData::Continue
    }

    /// Moves the trailers into the body.
    pub(super) fn encode_trailers(
        &mut self,
        context: &Context<'_>,
        part: Part<'_>,
        trailers: &mut Head,
    ) -> Result<(), FilterReply> {
        if self.message.is_some() {
            self.write_message(part.head);
            return Ok(());
        }
        let mut frame = vec![TRAILERS_FRAME, 0, 0, 0, 0];
        for (name, value) in trailers.iter() {
            frame.extend(name.iter().map(u8::to_ascii_lowercase));
            frame.push(b':');
            frame.extend_from_slice(value);
            frame.extend_from_slice(b"\r\n");
        }
        trailers.clear();
        let length = frame.len() - grpc::FRAME_HEADER_BYTES;
        let Some([_, length @ ..]) = grpc::frame_header(length) else { return Err(EXHAUSTED) };
        frame[1..grpc::FRAME_HEADER_BYTES].copy_from_slice(&length);
        let mut writer = Writer::new(context.pool, part.data, frame.len());
        let mut emit = |bytes: &[u8]| writer.write(bytes);
        let written = if self.text_response {
            let mut encoder = Encoder::default();
            self.frames
                .finish(&mut emit)
                .and_then(|()| encoder.encode(&frame, &mut emit))
                .and_then(|()| encoder.finish(&mut emit))
        } else {
            emit(&frame)
        };
        writer.finish();
        written.map_err(|Exhausted| EXHAUSTED)
    }

    /// The response's text becomes `grpc-message`, its HTTP status `grpc-status`.
    fn write_message(&mut self, head: &mut Head) {
        let Some(message) = self.message.take() else { return };
        let mut encoded = Vec::with_capacity(message.len());
        grpc::percent_encode(&message, &mut encoded);
        head.set(&headers::GRPC_MESSAGE, &encoded);
        let mut digits = [0; DECIMAL_DIGITS_MAX];
        let status = decimal(grpc::status_of_http(head.status()), &mut digits);
        head.set(&headers::GRPC_STATUS, status);
        head.set(&headers::CONTENT_LENGTH, b"0");
    }
}

/// Whether the endpoint speaks gRPC-Web itself. Only the binary types are known to be it, as in Envoy.
fn is_web_response(head: &Head) -> bool {
    let kind = head.get(&headers::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii_end();
    head.status() == 200 && (kind.eq_ignore_ascii_case(WEB_PROTO) || kind.eq_ignore_ascii_case(WEB))
}
