//! HTTP/2 options, of listeners and clusters alike.
use super::at::At;
use super::fields::classify;
use crate::config::http2::{Http2ProtocolOptions, KeepaliveSettings};
use crate::control::xds::pb;

const WINDOW_BYTES_MIN: u32 = 65_535;
const WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;

/// HTTP/2 options; the defaults without them. `heads`: the field that bounds a head as a whole, and its value.
pub(super) fn http2(
    at: &At<'_>,
    message: Option<pb::http::Http2ProtocolOptions>,
    (heads, heads_kb_max): (&str, u32),
) -> Http2ProtocolOptions {
    let defaults = Http2ProtocolOptions::default();
    let Some(message) = message else { return defaults };
    classify!(at, message => pb::http::Http2ProtocolOptions {
        implemented: hpack_table_size, max_concurrent_streams,
            initial_stream_window_size = "256 KiB unless set (Envoy: 16 MiB): what a peer may have us hold",
            initial_connection_window_size = "1 MiB unless set (Envoy: 24 MiB)",
            max_header_field_size_kb = "of a name or a value; beyond it 431 or 502, where Envoy ends the connection", allow_connect,
            max_outbound_control_frames = "frames a second that ask for an answer, but for one with each DATA frame sent; none is queued",
            max_consecutive_inbound_frames_with_empty_payload = "frames of nothing but padding count; at most 100 of those in a connection's life",
            max_inbound_priority_frames_per_stream,
            max_inbound_window_update_frames_per_data_frame_sent, connection_keepalive,
            stream_reset_burst = "of requests under way, towards clients; beyond it ENHANCE_YOUR_CALM (Envoy: INTERNAL_ERROR)",
            stream_reset_rate;
        no_effect: max_outbound_frames = "frames are not queued: a peer that does not read is not read from",
            stream_error_on_invalid_http_messaging = "a message against the protocol always costs its stream only",
            override_stream_error_on_invalid_http_message = "a message against the protocol always costs its stream only",
            use_oghttp2_codec = "there is one codec", max_metadata_size = "METADATA frames are ignored",
            enable_huffman_encoding = "the codec decides";
        not_yet: disallow_obs_text;
        refused: allow_metadata, custom_settings_parameters;
    });
    let at_least = |field: &str, value: u32, min: u32, max: u32| {
        if !(min..=max).contains(&value) {
            at.field(field).error(format!("must be between {min} and {max}"));
        }
        value
    };
    if max_header_field_size_kb.is_some_and(|kb| kb > heads_kb_max) {
        at.field("max_header_field_size_kb").error(format!("must not exceed {heads}"));
    }
    Http2ProtocolOptions {
        max_header_field_size_kb: at_least(
            "max_header_field_size_kb",
            max_header_field_size_kb.unwrap_or(defaults.max_header_field_size_kb),
            64,
            256,
        ),
        hpack_table_size: hpack_table_size.unwrap_or(defaults.hpack_table_size),
        max_concurrent_streams: at_least(
            "max_concurrent_streams",
            max_concurrent_streams.unwrap_or(defaults.max_concurrent_streams),
            1,
            WINDOW_BYTES_MAX,
        ),
        initial_stream_window_size: at_least(
            "initial_stream_window_size",
            initial_stream_window_size.unwrap_or(defaults.initial_stream_window_size),
            WINDOW_BYTES_MIN,
            WINDOW_BYTES_MAX,
        ),
        initial_connection_window_size: at_least(
            "initial_connection_window_size",
            initial_connection_window_size.unwrap_or(defaults.initial_connection_window_size),
            WINDOW_BYTES_MIN,
            WINDOW_BYTES_MAX,
        ),
        allow_connect,
        max_outbound_control_frames: at_least(
            "max_outbound_control_frames",
            max_outbound_control_frames.unwrap_or(defaults.max_outbound_control_frames),
            1,
            u32::MAX,
        ),
        max_consecutive_inbound_frames_with_empty_payload: max_consecutive_inbound_frames_with_empty_payload
            .unwrap_or(defaults.max_consecutive_inbound_frames_with_empty_payload),
        max_inbound_priority_frames_per_stream: max_inbound_priority_frames_per_stream
            .unwrap_or(defaults.max_inbound_priority_frames_per_stream),
        max_inbound_window_update_frames_per_data_frame_sent: at_least(
            "max_inbound_window_update_frames_per_data_frame_sent",
            max_inbound_window_update_frames_per_data_frame_sent
                .unwrap_or(defaults.max_inbound_window_update_frames_per_data_frame_sent),
            1,
            u32::MAX,
        ),
        stream_reset_burst: stream_reset_burst.unwrap_or(defaults.stream_reset_burst),
        stream_reset_rate: stream_reset_rate.unwrap_or(defaults.stream_reset_rate),
        connection_keepalive: connection_keepalive
            .and_then(|message| keepalive(&at.field("connection_keepalive"), message)),
    }
}

fn keepalive(at: &At<'_>, message: pb::http::KeepaliveSettings) -> Option<KeepaliveSettings> {
    classify!(at, message => pb::http::KeepaliveSettings {
        implemented: interval, timeout, interval_jitter,
            connection_idle_interval = "towards endpoints: clients begin the requests";
    });
    let interval = at.duration("interval", interval);
    let connection_idle_interval = at.duration("connection_idle_interval", connection_idle_interval);
    let Some(timeout) = at.duration("timeout", timeout) else {
        at.field("timeout").error("must be set");
        return None;
    };
    let millisecond = std::time::Duration::from_millis(1);
    let given = [interval, connection_idle_interval].into_iter().flatten();
    if given.chain([timeout]).any(|time| time < millisecond) {
        at.error("timeout and intervals must be at least 1 ms");
    }
    // 15 % where nothing is said, as in Envoy.
    let interval_jitter_percent = interval_jitter.map_or(15.0, |percent| percent.value);
    Some(KeepaliveSettings { interval, timeout, connection_idle_interval, interval_jitter_percent })
}
