//! A filter chain that serves HTTP, on this core: configuration compiled once, counters, access logs.

use std::sync::Arc;

use crate::config::http::{HttpConnectionManager, HttpFilter, RouterConfig};
use crate::protocol::http1::head_reader::HeadLimits;
use crate::protocol::http1::parse::ParseOptions;
use crate::telemetry::metrics::HttpCells;

/// An HTTP connection manager on this core.
#[derive(Debug)]
pub struct HttpChain {
    /// Its configuration.
    pub config: Arc<HttpConnectionManager>,
    /// Its counters on this core.
    pub stats: HttpCells,
    /// Options of the router filter.
    pub(super) router: RouterConfig,
    pub(super) request_limits: HeadLimits,
    pub(super) parse_options: ParseOptions,
}

impl HttpChain {
    /// The chain of `config`.
    pub fn new(config: Arc<HttpConnectionManager>, stats: HttpCells) -> Self {
        let HttpFilter::Router(router) =
            config.http_filters.last().cloned().unwrap_or(HttpFilter::Router(RouterConfig::default()));
        let request_limits = HeadLimits {
            bytes_max: config.max_request_headers_kb.saturating_mul(1024),
            headers_max: config.common.max_headers_count,
        };
        let parse_options = ParseOptions {
            accept_http_10: config.http1.accept_http_10,
            allow_absolute_url: config.http1.allow_absolute_url,
            allow_custom_methods: config.http1.allow_custom_methods,
            allow_chunked_length: config.http1.allow_chunked_length,
        };
        Self { config, stats, router, request_limits, parse_options }
    }
}
