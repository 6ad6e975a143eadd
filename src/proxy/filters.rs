//! Where the filter chain meets the path: heads, bodies on their way up and down, replies of our own.
//!
//! A chain with nothing but the router never comes here: its bodies pass as the views they arrived in.

use super::copy::{BodyFilters, CopyError, Framing};
use super::downstream::Connection;
use super::error::ProxyError;
use super::http::Request;
use super::load_metrics;
use super::response::{self, Prepared};
use super::routing::Forward;
use super::stream::Stream;
use super::upstream_request;
use super::wire;
use crate::buffer::ChunkQueue;
use crate::cluster::pool::UpstreamConnection;
use crate::filter::chain::{FilterChain, Passed, StreamFilters};
use crate::filter::http::{Arrival, Context, Direction, FilterReply};
use crate::filter::rbac::{Facts, of_socket};
use crate::protocol::http::body::BodyLength;
use crate::protocol::http::head::{Head, Version};
use crate::protocol::http::headers;
use crate::protocol::http::matcher::MatchScratch;
use crate::protocol::http1::framing::ResponseMeta;
use crate::protocol::stream_info::StreamInfo;
use crate::route::OverrideLevels;

/// What filters of this connection see of it.
fn context(connection: &Connection, protocol: Option<Version>) -> Context<'_> {
    Context {
        pool: connection.context.runtime.pool(),
        downstream: protocol.unwrap_or_default(),
        held_bytes_max: wire::watermark(connection.listener.config.per_connection_buffer_limit_bytes),
        clear_route: false,
    }
}

/// The request's head passes the filters. Whether the route has to be looked for again, or the reply of a filter.
pub(super) fn decode_head(
    connection: &Connection,
    stream: &mut Stream,
    request: &mut Request,
    levels: &OverrideLevels,
    matching: &mut MatchScratch,
) -> Result<bool, FilterReply> {
    let chain = &connection.chain.manager.filters;
    let mut context = context(connection, stream.info.protocol);
    chain.begin(levels, &stream.request, &mut stream.filters);
    let Stream { info, filters, request: head, .. } = stream;
    let StreamInfo { dynamic_metadata, response_code_details, .. } = info;
    let inspected = connection.inspected.as_deref();
    let mut arrival = Arrival {
        connection: Facts {
            peer: connection.remote.ip().map(of_socket),
            direct_remote: info.downstream_direct_remote_address.ip().map(of_socket),
            // What a header says is taken by its word.
            remote: info.downstream_remote_address.ip().map(|address| {
                if Some(address) == connection.remote.ip() { of_socket(address) } else { address }
            }),
            remote_port: info.downstream_remote_address.port().unwrap_or_default(),
            local: info
                .downstream_local_address
                .socket()
                .map(|address| (of_socket(address.ip()), address.port()).into()),
            // Envoy knows it where a listener filter has looked, and nowhere else.
            server_name: inspected.and_then(|known| known.server_name.as_deref()).unwrap_or_default(),
            tls: info.downstream_tls.as_deref(),
            request: None,
            metadata: None,
        },
        metadata: dynamic_metadata,
        details: response_code_details,
        matching,
        counters: &connection.chain.filter_stats,
    };
    chain.decode_head(filters, &mut context, &mut arrival, head)?;
    // A filter that changes the body takes its length away.
    if let BodyLength::Length(1..) = request.length
        && !stream.request.contains(&headers::CONTENT_LENGTH)
    {
        request.length = BodyLength::Chunked;
    }
    Ok(context.clear_route)
}

/// The response's head passes the filters. Whether it goes on at once.
pub(super) fn encode_head(connection: &Connection, stream: &mut Stream, ends: bool) -> bool {
    let chain = &connection.chain.manager.filters;
    if chain.is_empty() {
        return true;
    }
    chain.encode_head(&mut stream.filters, &mut stream.response, ends)
}

/// How long a response's body is once the filters have had its head: what they left of `content-length` says.
pub(super) fn length(stream: &Stream, received: BodyLength) -> BodyLength {
    if !stream.filters.want_data(Direction::Encode) {
        return received;
    }
    let head = &stream.response;
    let length = head.get(&headers::CONTENT_LENGTH).and_then(|text| std::str::from_utf8(text).ok());
    match received {
        // What speaks of a body elsewhere says nothing of its length; what has none says that.
        BodyLength::None | BodyLength::Length(0)
            if matches!(head.status(), 204 | 304) || stream.request.method() == b"HEAD" =>
        {
            received
        }
        BodyLength::None | BodyLength::Length(0) => BodyLength::Length(0),
        _ => length.and_then(|text| text.parse().ok()).map_or(BodyLength::Chunked, BodyLength::Length),
    }
}

/// A reply of our own passes the filters.
pub(super) fn encode_reply(connection: &Connection, stream: &mut Stream, text: &mut Vec<u8>) {
    let chain = &connection.chain.manager.filters;
    if !chain.is_empty() {
        let mut context = context(connection, stream.info.protocol);
        chain.reply(&mut stream.filters, &mut context, &mut stream.response, text);
    }
}

/// A request's body on its way through the filters.
#[derive(Debug)]
pub(super) struct Upload<'a> {
    chain: &'a FilterChain,
    filters: &'a mut StreamFilters,
    context: Context<'a>,
    head: &'a mut Head,
    /// The client's trailers count.
    takes_trailers: bool,
}

impl<'a> Upload<'a> {
    /// `None`: no filter looks at the body.
    pub(super) fn new(
        connection: &'a Connection,
        filters: &'a mut StreamFilters,
        head: &'a mut Head,
        protocol: Option<Version>,
    ) -> Option<Self> {
        if !filters.want_data(Direction::Decode) {
            return None;
        }
        let manager = &connection.chain.manager;
        let takes_trailers = connection.shared().is_some() || manager.config.http1.enable_trailers;
        Some(Self {
            chain: &manager.filters,
            filters,
            context: context(connection, protocol),
            head,
            takes_trailers,
        })
    }
}

impl BodyFilters for Upload<'_> {
    fn data(&mut self, data: &mut ChunkQueue, ends: bool) -> Result<Option<Framing>, CopyError> {
        let Self { chain, filters, context, head, .. } = self;
        match chain.data(Direction::Decode, filters, context, head, data, ends) {
            Passed::On | Passed::Held => Ok(None),
            Passed::Reply(reply) => Err(CopyError::Filter(reply)),
        }
    }

    fn trailers(&mut self, trailers: &mut Head, data: &mut ChunkQueue) -> Result<Option<Framing>, CopyError> {
        if !self.takes_trailers || trailers.is_empty() {
            trailers.clear();
            return self.data(data, true);
        }
        let Self { chain, filters, context, head, .. } = self;
        match chain.trailers(Direction::Decode, filters, context, head, trailers, data) {
            Passed::On | Passed::Held => Ok(None),
            Passed::Reply(reply) => Err(CopyError::Filter(reply)),
        }
    }
}

/// A response's body on its way through the filters.
#[derive(Debug)]
pub(super) struct Download<'a> {
    pub(super) connection: &'a Connection,
    pub(super) stream: &'a mut Stream,
    pub(super) forward: &'a Forward<'a>,
    pub(super) request: &'a Request,
    pub(super) meta: &'a ResponseMeta,
    /// What came of the head; `None`: a filter holds it.
    pub(super) sent: &'a mut Option<Prepared>,
    pub(super) upstream: &'a UpstreamConnection,
}

impl Download<'_> {
    /// The head goes out as soon as no filter holds it.
    fn passed(&mut self, passed: Passed) -> Result<Option<Framing>, CopyError> {
        match passed {
            Passed::Held => Ok(None),
            Passed::Reply(reply) => Err(CopyError::Filter(reply)),
            Passed::On if self.sent.is_some() => Ok(None),
            Passed::On => {
                let client = upstream_request::client(self.connection, self.request, self.upstream);
                let Self { connection, stream, forward, meta, .. } = self;
                let finished = response::finish_final(connection, stream, forward, meta, client, None);
                let prepared = finished.map_err(|error| match error {
                    ProxyError::HeadOverflow => CopyError::Overflow,
                    _ => CopyError::SinkGone,
                })?;
                *self.sent = Some(prepared);
                Ok(Some(prepared.framing))
            }
        }
    }
}

impl BodyFilters for Download<'_> {
    fn data(&mut self, data: &mut ChunkQueue, ends: bool) -> Result<Option<Framing>, CopyError> {
        let Stream { filters, response, info, .. } = &mut *self.stream;
        let mut context = context(self.connection, info.protocol);
        let chain = &self.connection.chain.manager.filters;
        let passed = chain.data(Direction::Encode, filters, &mut context, response, data, ends);
        self.passed(passed)
    }

    fn trailers(&mut self, trailers: &mut Head, data: &mut ChunkQueue) -> Result<Option<Framing>, CopyError> {
        if !self.upstream.takes_trailers() || trailers.is_empty() {
            trailers.clear();
            return self.data(data, true);
        }
        // Before filters change them.
        load_metrics::take(self.connection, self.upstream, trailers, &mut self.stream.load_reported);
        let Stream { filters, response, info, .. } = &mut *self.stream;
        let mut context = context(self.connection, info.protocol);
        let chain = &self.connection.chain.manager.filters;
        let passed = chain.trailers(Direction::Encode, filters, &mut context, response, trailers, data);
        self.passed(passed)
    }
}
