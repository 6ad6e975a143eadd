//! HTTP/2 options. Source: Envoy `core.v3.Http2ProtocolOptions`.
use std::time::Duration;

/// HTTP/2 towards clients or endpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct Http2ProtocolOptions {
    /// Bytes of the table of header compression. Default 4096. Source: `hpack_table_size`.
    pub hpack_table_size: u32,
    /// Streams that the peer may have open at a time; towards an endpoint, streams of one connection beyond which another is
    /// opened. Default 1024, at least 1. Source: `max_concurrent_streams`.
    pub max_concurrent_streams: u32,
    /// Bytes that the peer may send on a stream ahead of their taking, 65535..=2^31-1. Default 256 KiB: what a peer that is
    /// not read from may have us hold (Envoy: 16 MiB). Source: `initial_stream_window_size`.
    pub initial_stream_window_size: u32,
    /// The same for all streams of a connection together. Default 1 MiB (Envoy: 24 MiB). Source:
    /// `initial_connection_window_size`.
    pub initial_connection_window_size: u32,
    /// Longest name or value in a head, in KiB, 64..=256. Default 64. Beyond it 431 or 502, as of a head that is too large (Envoy
    /// ends the connection). Source: `max_header_field_size_kb`.
    pub max_header_field_size_kb: u32,
    /// Whether extended CONNECT is offered to clients (RFC 8441). Default false. Source: `allow_connect`.
    pub allow_connect: bool,
    /// Frames within a second that ask for an answer, beyond which the connection ends; a DATA frame that is sent pays for one that
    /// came before. Default 1000. Answers are never queued: the codec reads on when the last is on its way. Source:
    /// `max_outbound_control_frames`.
    pub max_outbound_control_frames: u32,
    /// HEADERS, CONTINUATION and DATA frames in a row without content, padding being none, and end. Default 1. Beyond it the
    /// connection ends, and beyond 100 DATA frames of nothing but padding in its life. Source:
    /// `max_consecutive_inbound_frames_with_empty_payload`.
    pub max_consecutive_inbound_frames_with_empty_payload: u32,
    /// PRIORITY frames per stream (and one). Default 100. Beyond it the connection ends. Source:
    /// `max_inbound_priority_frames_per_stream`.
    pub max_inbound_priority_frames_per_stream: u32,
    /// WINDOW_UPDATE frames: 5, and two per stream, and twice this many per DATA frame sent. Default 10. Beyond it the
    /// connection ends. Source: `max_inbound_window_update_frames_per_data_frame_sent`.
    pub max_inbound_window_update_frames_per_data_frame_sent: u32,
    /// Requests under way that a client may reset at once. Default 1000. Beyond it the connection ends. Only towards clients.
    /// Source: `stream_reset_burst`.
    pub stream_reset_burst: u64,
    /// How many more it may reset each second, up to the burst. Default 33. Source: `stream_reset_rate`.
    pub stream_reset_rate: u64,
    /// Pings; `None`: none are sent. Source: `connection_keepalive`.
    pub connection_keepalive: Option<KeepaliveSettings>,
}

/// Pings that find out whether the peer is still there. Source: Envoy `core.v3.KeepaliveSettings`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KeepaliveSettings {
    /// Time between two pings. Default `None`: none are sent. Source: `interval`.
    pub interval: Option<Duration>,
    /// Longest time to the answer, then the connection ends. Source: `timeout`.
    pub timeout: Duration,
    /// A connection of which nothing has come for longer than this is pinged when it gets another request. Default `None`: it
    /// is not. Towards clients it has no effect, as in Envoy. Source: `connection_idle_interval`.
    pub connection_idle_interval: Option<Duration>,
    /// At most this part of the interval is added at random, in percent. Default 15. Source: `interval_jitter`.
    pub interval_jitter_percent: f64,
}

/// Which protocol endpoints are spoken to in. Source: Envoy `HttpProtocolOptions.upstream_protocol_options`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpstreamProtocol {
    /// HTTP/1.1. The default.
    #[default]
    Http1,
    /// HTTP/2, without asking.
    Http2,
    /// The protocol of the client. Source: `use_downstream_protocol_config`.
    Downstream,
    /// What the endpoint chooses by ALPN; HTTP/1.1 if it chooses nothing. Source: `auto_config`.
    Negotiated,
}

impl Default for Http2ProtocolOptions {
    fn default() -> Self {
        Self {
            hpack_table_size: 4096,
            max_concurrent_streams: 1024,
            initial_stream_window_size: 256 * 1024,
            initial_connection_window_size: 1024 * 1024,
            max_header_field_size_kb: 64,
            allow_connect: false,
            max_outbound_control_frames: 1000,
            max_consecutive_inbound_frames_with_empty_payload: 1,
            max_inbound_priority_frames_per_stream: 100,
            max_inbound_window_update_frames_per_data_frame_sent: 10,
            stream_reset_burst: 1000,
            stream_reset_rate: 33,
            connection_keepalive: None,
        }
    }
}
