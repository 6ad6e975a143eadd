//! A request that has a value for everything, and the table of what every operator writes for it.

use std::net::SocketAddr;
use std::rc::Rc;

use super::context::FormatContext;
use super::error::FormatErrorKind;
use super::formatter::{DEFAULT_FORMAT, Formatter};
use crate::config::access_log::AccessLogType;
use crate::protocol::http::head::{Head, Version};
use crate::protocol::http::headers::HeaderName;
use crate::protocol::response_flags::ResponseFlag;
use crate::protocol::stream_info::{DetectedClose, EarlierAttempt, StreamAddress, StreamInfo};

/// A request and its facts.
pub(super) struct Example {
    pub(super) request: Head,
    pub(super) response: Head,
    pub(super) trailers: Head,
    pub(super) info: StreamInfo,
}

const START_NS: u64 = 5_000_000_000;
const MS: u64 = 1_000_000;

pub(super) fn header(head: &mut Head, name: &str, value: &[u8]) {
    head.append(&HeaderName::parse(name.as_bytes()).unwrap(), value);
}

fn address(text: &str) -> StreamAddress {
    StreamAddress::Ip(text.parse::<SocketAddr>().unwrap())
}

impl Example {
    pub(super) fn new() -> Self {
        let mut request = Head::new();
        for (name, value) in [
            (":method", &b"GET"[..]),
            (":authority", b"ex.com:80"),
            (":scheme", b"http"),
            (":path", b"/p?a=1%202&b=xyz"),
            ("user-agent", b"agent007"),
            ("x-empty", b""),
            ("x-two", b"1"),
            ("x-two", b"2"),
            ("sl", b"a/b\\c\"d"),
            ("bad", b"a\xff\xc3\xa9z\"\\/<"),
            ("u8", "é".as_bytes()),
            ("x-request-id", b"rid"),
            ("x-envoy-original-path", b"/orig?q"),
        ] {
            header(&mut request, name, value);
        }
        let mut response = Head::new();
        response.set_status(200);
        header(&mut response, "x-up", b"v");
        let mut trailers = Head::new();
        header(&mut trailers, "t", b"end");

        let mut info = StreamInfo::new();
        info.start_time_unix_ns = 1_795_362_929_953_732_000;
        info.start_ns = START_NS;
        info.complete_ns = Some(START_NS + 123 * MS + 999_999);
        info.downstream_timing.connection_start_ns = Some(START_NS - 20 * MS);
        info.downstream_timing.connection_end_ns = Some(START_NS + 90 * MS);
        info.downstream_timing.last_rx_ns = Some(START_NS + MS);
        info.downstream_timing.first_tx_ns = Some(START_NS + 60 * MS);
        info.downstream_timing.last_tx_ns = Some(START_NS + 80 * MS);
        let upstream = &mut info.upstream_timing;
        upstream.connect_start_ns = Some(START_NS + 2 * MS);
        upstream.connect_end_ns = Some(START_NS + 7 * MS);
        upstream.first_tx_ns = Some(START_NS + 8 * MS);
        upstream.last_tx_ns = Some(START_NS + 10 * MS);
        upstream.first_rx_ns = Some(START_NS + 50 * MS);
        upstream.first_rx_body_ns = Some(START_NS + 51 * MS);
        upstream.last_rx_ns = Some(START_NS + 70 * MS + 1_500);
        upstream.pool_ready_ns = Some(6 * MS);
        info.bytes_received = 3;
        info.bytes_sent = 8;
        info.downstream_bytes.wire_received = 113;
        info.downstream_bytes.wire_sent = 181;
        info.downstream_bytes.header_received = 65;
        info.downstream_bytes.header_sent = 152;
        info.upstream_bytes.wire_received = 147;
        info.upstream_bytes.wire_sent = 200;
        info.upstream_bytes.header_received = 115;
        info.upstream_bytes.header_sent = 174;
        info.protocol = Some(Version::Http11);
        info.upstream_protocol = Some(Version::Http10);
        info.response_code = Some(200);
        info.response_code_details = "reset{a\tb c}".to_owned();
        info.connection_termination_details = "why not".to_owned();
        info.downstream_remote_address = address("10.1.2.3:40000");
        info.downstream_direct_remote_address = address("10.9.9.9:1");
        info.downstream_local_address = address("[2001:db8::1]:443");
        info.downstream_direct_local_address = address("127.0.0.1:10000");
        info.upstream_host = address("10.5.5.5:8080");
        info.upstream_host_name = "hosty:8080".to_owned();
        info.upstream_remote_address = address("10.5.5.6:8080");
        info.upstream_local_address = address("10.5.5.1:50000");
        info.upstream_transport_failure_reason = "delayed connect error".to_owned();
        info.upstream_detected_close = DetectedClose::RemoteReset;
        info.downstream_local_close_reason = "on_idle_timeout";
        info.upstream_local_close_reason = "on_idle_timeout";
        info.attempt_count = 2;
        for (host, host_name, connection_id) in
            [("10.5.5.4:8080", "one:8080", 7), ("[2001:db8::2]:80", "", 0)]
        {
            let (host, host_name) = (address(host), host_name.to_owned());
            info.note_earlier_attempt(EarlierAttempt { host, host_name, connection_id });
        }
        info.counts_last_attempt = true;
        info.upstream_cluster = "up".to_owned();
        info.route_name = "direct route".to_owned();
        info.route_resolution_count = 1;
        info.listener_name = "l".to_owned();
        info.filter_chain_name = "fc".to_owned();
        info.request_id = b"rid".to_vec();
        info.requested_server_name = "ex_am$ple-1.com".to_owned();
        info.connection_id = 4;
        info.upstream_connection_id = 9;
        Self { request, response, trailers, info }
    }

    pub(super) fn context(&self) -> FormatContext<'_> {
        FormatContext {
            request: Some(&self.request),
            response: Some(&self.response),
            trailers: Some(&self.trailers),
            local_reply_body: b"the body",
            log_type: AccessLogType::DownstreamEnd,
            ..FormatContext::new(&self.info, START_NS + 2_000 * MS, 1)
        }
    }

    pub(super) fn write(&self, format: &str) -> String {
        let mut out = b"before ".to_vec();
        Formatter::parse(format).unwrap().write(&self.context(), &mut out);
        String::from_utf8(out).unwrap().strip_prefix("before ").unwrap().to_owned()
    }
}

#[test]
fn operators_with_values_write_them() {
    let table = [
        ("ACCESS_LOG_TYPE", "DownstreamEnd"),
        ("BYTES_RECEIVED", "3"),
        ("BYTES_SENT", "8"),
        ("BYTES_RETRANSMITTED", "0"),
        ("PACKETS_RETRANSMITTED", "0"),
        ("DOWNSTREAM_CX_RTT", "0"),
        ("CONNECTION_ID", "4"),
        ("UPSTREAM_CONNECTION_ID", "9"),
        ("UPSTREAM_CONNECTION_IDS_ATTEMPTED", "7,9"),
        ("CONNECTION_TERMINATION_DETAILS", "why not"),
        ("CUSTOM_FLAGS", ""),
        ("DOWNSTREAM_WIRE_BYTES_RECEIVED", "113"),
        ("DOWNSTREAM_WIRE_BYTES_SENT", "181"),
        ("DOWNSTREAM_HEADER_BYTES_RECEIVED", "65"),
        ("DOWNSTREAM_HEADER_BYTES_SENT", "152"),
        ("DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED", "65"),
        ("UPSTREAM_WIRE_BYTES_RECEIVED", "147"),
        ("UPSTREAM_WIRE_BYTES_SENT", "200"),
        ("UPSTREAM_HEADER_BYTES_RECEIVED", "115"),
        ("UPSTREAM_HEADER_BYTES_SENT", "174"),
        ("DOWNSTREAM_REMOTE_ADDRESS", "10.1.2.3:40000"),
        ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "10.1.2.3"),
        ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(8)", "10.0.0.0/8"),
        ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT( 8)", "10.0.0.0/8"),
        ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(300)", "10.1.2.3/32"),
        ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(0x8)", "10.1.2.3"),
        ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(-1)", ""),
        ("DOWNSTREAM_REMOTE_PORT", "40000"),
        ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", "10.9.9.9:1"),
        ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", "10.9.9.9"),
        ("DOWNSTREAM_DIRECT_REMOTE_PORT", "1"),
        ("DOWNSTREAM_LOCAL_ADDRESS", "[2001:db8::1]:443"),
        ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", "2001:db8::1"),
        ("DOWNSTREAM_LOCAL_PORT", "443"),
        ("DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID", ""),
        ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS", "127.0.0.1:10000"),
        ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT", "127.0.0.1"),
        ("DOWNSTREAM_DIRECT_LOCAL_PORT", "10000"),
        ("UPSTREAM_HOST", "10.5.5.5:8080"),
        ("UPSTREAM_HOST_NAME", "hosty:8080"),
        ("UPSTREAM_HOST_NAME_WITHOUT_PORT", "hosty"),
        ("UPSTREAM_HOSTS_ATTEMPTED", "10.5.5.4:8080,[2001:db8::2]:80,10.5.5.5:8080"),
        ("UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT", "10.5.5.4,2001:db8::2,10.5.5.5"),
        ("UPSTREAM_HOST_NAMES_ATTEMPTED", "one:8080,[2001:db8::2]:80,hosty:8080"),
        ("UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT", "one,[2001:db8::2],hosty"),
        ("UPSTREAM_LOCAL_ADDRESS", "10.5.5.1:50000"),
        ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", "10.5.5.1"),
        ("UPSTREAM_LOCAL_PORT", "50000"),
        ("UPSTREAM_REMOTE_ADDRESS", "10.5.5.6:8080"),
        ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "10.5.5.6"),
        ("UPSTREAM_REMOTE_PORT", "8080"),
        ("UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID", ""),
        ("DURATION", "123"),
        ("REQUEST_DURATION", "1"),
        ("REQUEST_TX_DURATION", "10"),
        ("RESPONSE_DURATION", "50"),
        ("RESPONSE_TX_DURATION", "30"),
        ("UPSTREAM_CONNECTION_POOL_READY_DURATION", "6"),
        ("COMMON_DURATION(DS_RX_BEG:DS_TX_END)", "80"),
        ("COMMON_DURATION(DS_RX_END:DS_TX_BEG:us)", "59000"),
        ("COMMON_DURATION(US_RX_BODY_BEG:US_RX_END:ns)", "19001500"),
        ("COMMON_DURATION(US_CX_BEG:US_CX_END:ms)", "5"),
        ("COMMON_DURATION(US_TX_BEG:US_TX_END:ms)", "2"),
        ("COMMON_DURATION(DS_CX_BEG:DS_RX_BEG)", "20"),
        ("COMMON_DURATION(DS_RX_BEG:DS_CX_END:us)", "90000"),
        ("START_TIME", "2026-11-22T15:55:29.953Z"),
        ("START_TIME(%s.%6f)", "1795362929.953732"),
        ("EMIT_TIME", "2026-11-22T15:55:31.953Z"),
        ("FILTER_CHAIN_NAME", "fc"),
        ("LISTENER_NAME", "l"),
        ("ROUTE_NAME", "direct route"),
        ("ROUTE_RESOLUTION_COUNT", "1"),
        ("UPSTREAM_CLUSTER", "up"),
        ("UPSTREAM_CLUSTER_RAW", "up"),
        ("LOCAL_REPLY_BODY", "the body"),
        ("PATH", "/orig?q"),
        ("PATH(NQ)", "/orig"),
        ("PATH(:PATH)", "/p?a=1%202&b=xyz"),
        ("PATH(NQ:PATH):1", "/"),
        ("QUERY_PARAM(a)", "1 2"),
        ("QUERY_PARAM(b):2", "xy"),
        ("QUERY_PARAMS", "a=1%202&b=xyz"),
        ("QUERY_PARAMS:3", "a=1"),
        ("QUERY_PARAMS(DECODED)", "a=1%202&b=xyz"),
        ("PROTOCOL", "HTTP/1.1"),
        ("UPSTREAM_PROTOCOL", "HTTP/1.0"),
        ("REQ(:method)", "GET"),
        ("REQ(HOST)", "ex.com:80"),
        ("REQ(x-two)", "1"),
        ("REQ(x-none?User-Agent)", "agent007"),
        ("REQ(x-empty?user-agent)", ""),
        ("REQ(?user-agent)", "agent007"),
        ("REQ(user-agent):5", "agent"),
        ("REQ(user-agent):0", ""),
        ("REQUEST_HEADER(user-agent)", "agent007"),
        ("STREAM_INFO_REQ(user-agent)", "agent007"),
        ("RESP(:status)", "200"),
        ("RESPONSE_HEADER(x-up)", "v"),
        ("TRAILER(t)", "end"),
        ("RESPONSE_TRAILER(t)", "end"),
        ("RESPONSE_HEADERS_BYTES", "15"),
        ("RESPONSE_TRAILERS_BYTES", "4"),
        ("REQUESTED_SERVER_NAME", "ex_am_ple-1.com"),
        ("RESPONSE_CODE", "200"),
        ("RESPONSE_CODE_DETAILS", "reset{a_b_c}"),
        ("RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)", "reset{a\tb c}"),
        ("RESPONSE_FLAGS", "-"),
        ("RESPONSE_FLAGS_LONG", "-"),
        ("STREAM_ID", "rid"),
        ("UPSTREAM_REQUEST_ATTEMPT_COUNT", "2"),
        ("UPSTREAM_TRANSPORT_FAILURE_REASON", "delayed_connect_error"),
        ("DOWNSTREAM_DETECTED_CLOSE_TYPE", "Normal"),
        ("UPSTREAM_DETECTED_CLOSE_TYPE", "RemoteReset"),
        ("DOWNSTREAM_LOCAL_CLOSE_REASON", "on_idle_timeout"),
        ("UPSTREAM_LOCAL_CLOSE_REASON", "on_idle_timeout"),
        ("ENVIRONMENT(RINGWAY_NOT_SET_ANYWHERE)", "-"),
        (r#"COALESCE({"operators":["TRACE_ID",{"command":"REQ","param":"x-empty"},"PROTOCOL"]}):4"#, "HTTP"),
        (
            r#"COALESCE({"operators":[{"command":"REQ","param":"user-agent","max_length":3},"PROTOCOL"]})"#,
            "age",
        ),
        (r#"COALESCE({"operators":["RESPONSE_CODE"]}):1"#, "200"),
    ];
    let example = Example::new();
    for (operator, expected) in table {
        assert_eq!(example.write(&format!("%{operator}%")), expected, "{operator}");
    }
}

#[test]
fn operators_without_values_write_a_dash_or_nothing() {
    let table = [
        "REQ(x-none)",
        "REQ(x-none?x-none-either)",
        "REQ(:protocol)",
        "RESP(x-none)",
        "TRAILER(x-none)",
        "PATH",
        "QUERY_PARAM(a)",
        "QUERY_PARAMS",
        "GRPC_STATUS",
        "REQUEST_DURATION",
        "RESPONSE_TX_DURATION",
        "COMMON_DURATION(DS_TX_END:DS_RX_BEG)",
        "COMMON_DURATION(never:DS_RX_BEG)",
        "COMMON_DURATION(DS_CX_BEG:DS_CX_END)",
        "UPSTREAM_CONNECTION_POOL_READY_DURATION",
        "CONNECTION_TERMINATION_DETAILS",
        "RESPONSE_CODE_DETAILS",
        "DOWNSTREAM_REMOTE_ADDRESS",
        "DOWNSTREAM_REMOTE_PORT",
        "UPSTREAM_HOST",
        "UPSTREAM_HOST_NAME",
        "UPSTREAM_HOSTS_ATTEMPTED",
        "UPSTREAM_HOST_NAMES_ATTEMPTED",
        "UPSTREAM_CONNECTION_IDS_ATTEMPTED",
        "UPSTREAM_DETECTED_CLOSE_TYPE",
        "UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID",
        "UPSTREAM_CLUSTER",
        "UPSTREAM_PROTOCOL",
        "PROTOCOL",
        "ROUTE_NAME",
        "STREAM_ID",
        "REQUESTED_SERVER_NAME",
        "DYNAMIC_METADATA(a:b):5",
        "METADATA(ROUTE:a)",
        "CLUSTER_METADATA(a)",
        "FILTER_STATE(a:PLAIN):3",
        "DOWNSTREAM_TLS_VERSION",
        "DOWNSTREAM_PEER_CERT_V_START(%Y)",
        "TRACE_ID",
        "ROUTE_RESOLUTION_TIME_US",
        "VIRTUAL_CLUSTER_NAME",
        r#"COALESCE({"operators":["TRACE_ID","ROUTE_NAME"]})"#,
    ];
    // An id that is not UTF-8 is none.
    let info = StreamInfo { request_id: vec![b'a', 0xff], ..StreamInfo::new() };
    let context = FormatContext::new(&info, 0, 0);
    for operator in table {
        let formatter = Formatter::parse(&format!("%{operator}%")).unwrap();
        let mut out = Vec::new();
        formatter.write(&context, &mut out);
        assert_eq!(out, b"-", "{operator}");
        out.clear();
        formatter.omitting_empty().write(&context, &mut out);
        assert_eq!(out, b"", "{operator}");
    }
    // Numbers that are counts are never absent, and neither are flags.
    for (operator, expected) in [("RESPONSE_CODE", "0"), ("REQUEST_HEADERS_BYTES", "0"), ("DURATION", "0")] {
        let mut out = Vec::new();
        Formatter::parse(&format!("%{operator}%")).unwrap().write(&context, &mut out);
        assert_eq!(out, expected.as_bytes());
    }
}

#[test]
fn filter_state_is_what_tlvs_say_by_field() {
    let tlvs: [(Box<str>, Box<str>); 2] = [("vpc".into(), "abc".into()), ("other".into(), "x".into())];
    let info = StreamInfo { proxy_tlvs: Some(Rc::from(tlvs)), ..StreamInfo::new() };
    for (operator, expected) in [
        ("FILTER_STATE(envoy.network.proxy_protocol.tlv:FIELD:vpc)", "abc"),
        ("FILTER_STATE(envoy.network.proxy_protocol.tlv:FIELD:vpc):2", "ab"),
        ("FILTER_STATE(envoy.network.proxy_protocol.tlv:FIELD:none)", "-"),
        ("FILTER_STATE(another:FIELD:vpc)", "-"),
        ("UPSTREAM_FILTER_STATE(envoy.network.proxy_protocol.tlv:FIELD:vpc)", "-"),
    ] {
        let mut out = Vec::new();
        let formatter = Formatter::parse(&format!("%{operator}%")).unwrap();
        formatter.write(&FormatContext::new(&info, 0, 0), &mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected, "{operator}");
    }
}

/// Verdicts as Envoy 1.40 gives them.
#[test]
fn parameters_are_accepted_and_refused_as_in_envoy() {
    use FormatErrorKind::*;
    let accepted = [
        "PROTOCOL()",
        "CUSTOM_FLAGS()",
        "REQ(x?)",
        "REQ(X-Y_z.1!#$'*+^`|~)",
        "REQ(a?:path)",
        "START_TIME(%Q)",
        "START_TIME(aé)",
        "START_TIME(%10n)",
        "RESPONSE_CODE_DETAILS(x)",
        "PATH()",
        "PATH(NQ:)",
        "PATH(NQ:PATH:x)",
        "QUERY_PARAMS(ORIG)",
        "FILTER_STATE(a:)",
        "FILTER_STATE(a:FIELD:x:y)",
        "METADATA(LISTENER_FILTER_CHAIN:a):3",
        "DYNAMIC_METADATA(:b)",
        "COMMON_DURATION(:DS_RX_BEG)",
        "COMMON_DURATION(DS_RX_BEG::ms)",
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT(a)",
        "GRPC_STATUS(SNAKE_STRING)",
        "CEL(request.path)",
        r#"COALESCE({"operators":[{"command":"REQ","param":"a","x":1}]})"#,
        r#"COALESCE({"operators":[{"command":"COALESCE","param":"{\"operators\":[\"PROTOCOL\"]}"}]})"#,
    ];
    for operator in accepted {
        let verdict = Formatter::parse(&format!("%{operator}%"));
        assert!(verdict.is_ok(), "{operator}: {verdict:?}");
    }
    type IsExpected = fn(&FormatErrorKind) -> bool;
    let refused: [(&str, IsExpected); 43] = [
        ("NOPE", |kind| matches!(kind, UnknownOperator(_))),
        ("VIRTUAL_HOST_NAME", |kind| matches!(kind, UnknownOperator(_))),
        ("REQ_WITHOUT_QUERY(a)", |kind| matches!(kind, UnknownOperator(_))),
        ("REQUEST_TRAILER(x)", |kind| matches!(kind, UnknownOperator(_))),
        ("REQ", |kind| matches!(kind, ParametersRequired(_))),
        ("REQ():3", |kind| matches!(kind, ParametersRequired(_))),
        ("QUERY_PARAM", |kind| matches!(kind, ParametersRequired(_))),
        ("ENVIRONMENT()", |kind| matches!(kind, ParametersRequired(_))),
        ("CLUSTER_METADATA()", |kind| matches!(kind, ParametersRequired(_))),
        ("DYNAMIC_METADATA:5", |kind| matches!(kind, ParametersRequired(_))),
        ("PROTOCOL(x)", |kind| matches!(kind, ParametersNotAllowed(_))),
        ("PROTOCOL:5", |kind| matches!(kind, ParametersNotAllowed(_))),
        ("CUSTOM_FLAGS():3", |kind| matches!(kind, ParametersNotAllowed(_))),
        ("TRACE_ID(a)", |kind| matches!(kind, ParametersNotAllowed(_))),
        ("START_TIME():5", |kind| matches!(kind, LengthNotAllowed(_))),
        ("RESPONSE_CODE_DETAILS():5", |kind| matches!(kind, LengthNotAllowed(_))),
        ("UPSTREAM_METADATA(a):3", |kind| matches!(kind, LengthNotAllowed(_))),
        ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT(8):3", |kind| matches!(kind, LengthNotAllowed(_))),
        ("REQ(x y)", |kind| matches!(kind, InvalidHeaderName(_))),
        ("REQ( x )", |kind| matches!(kind, InvalidHeaderName(_))),
        ("REQ(a(b)", |kind| matches!(kind, InvalidHeaderName(_))),
        ("REQ(x)(y)", |kind| matches!(kind, InvalidHeaderName(_))),
        ("REQ(a:b)", |kind| matches!(kind, InvalidHeaderName(_))),
        ("REQ(aé)", |kind| matches!(kind, InvalidHeaderName(_))),
        ("REQ(x?y?z)", |kind| matches!(kind, TooManyAlternatives(_))),
        ("START_TIME(%En)", |kind| matches!(kind, NewlineInTime)),
        ("UPSTREAM_PEER_CERT_V_START(%n)", |kind| matches!(kind, NewlineInTime)),
        ("PATH(XX)", |kind| matches!(kind, InvalidParameter { .. })),
        ("PATH(NQ:XX)", |kind| matches!(kind, InvalidParameter { .. })),
        ("QUERY_PARAMS(ORIG:x)", |kind| matches!(kind, InvalidParameter { .. })),
        ("GRPC_STATUS(x)", |kind| matches!(kind, InvalidParameter { .. })),
        ("COMMON_DURATION(DS_RX_BEG)", |kind| matches!(kind, InvalidParameter { .. })),
        ("COMMON_DURATION(DS_RX_BEG:DS_TX_END:xs)", |kind| matches!(kind, InvalidParameter { .. })),
        ("COMMON_DURATION(DS_RX_BEG:DS_TX_END:ms:x)", |kind| matches!(kind, InvalidParameter { .. })),
        ("METADATA(NOPE:a)", |kind| matches!(kind, InvalidParameter { .. })),
        ("METADATA()", |kind| matches!(kind, InvalidParameter { .. })),
        ("FILTER_STATE", |kind| matches!(kind, InvalidParameter { .. })),
        ("FILTER_STATE(a:b)", |kind| matches!(kind, InvalidParameter { .. })),
        ("FILTER_STATE(a:FIELD)", |kind| matches!(kind, InvalidParameter { .. })),
        ("FILTER_STATE(a:PLAIN:x)", |kind| matches!(kind, InvalidParameter { .. })),
        ("COALESCE(x)", |kind| matches!(kind, Coalesce(_))),
        (r#"COALESCE({"operators":[]})"#, |kind| matches!(kind, Coalesce(_))),
        (r#"COALESCE({"operators":[{"command":"REQ"}]})"#, |kind| matches!(kind, Coalesce(_))),
    ];
    for (operator, is_expected) in refused {
        let error = Formatter::parse(&format!("ab %{operator}%")).unwrap_err();
        assert!(is_expected(&error.kind), "{operator}: {error}");
        assert_eq!(error.position, 3, "{operator}");
    }
}

#[test]
fn default_format_writes_the_usual_line() {
    let mut example = Example::new();
    example.info.response_flags.set(ResponseFlag::UpstreamConnectionFailure);
    example.info.response_flags.set(ResponseFlag::UpstreamRetryLimitExceeded);
    assert_eq!(
        example.write(DEFAULT_FORMAT),
        concat!(
            "[2026-11-22T15:55:29.953Z] \"GET /orig?q HTTP/1.1\" 200 UF,URX 3 8 123 - ",
            "\"-\" \"agent007\" \"rid\" \"ex.com:80\" \"10.5.5.5:8080\"\n"
        )
    );
    assert_eq!(
        example.write("%RESPONSE_FLAGS_LONG%"),
        "UpstreamConnectionFailure,UpstreamRetryLimitExceeded"
    );
}

/// The right side is what Envoy 1.40 wrote.
#[test]
fn grpc_status_is_written_as_in_envoy() {
    let table = [
        ("application/grpc", Some("0"), 200, "OK OK 0"),
        ("application/grpc", Some("1"), 200, "Canceled CANCELLED 1"),
        ("application/grpc+proto", Some("4"), 200, "DeadlineExceeded DEADLINE_EXCEEDED 4"),
        ("application/grpc", Some("x"), 200, "-1 -1 -1"),
        ("application/grpc", Some("99999999999"), 200, "99999999999 99999999999 99999999999"),
        ("application/grpc", None, 503, "Unavailable UNAVAILABLE 14"),
        ("application/grpc", None, 404, "Unimplemented UNIMPLEMENTED 12"),
        ("application/grpc", None, 200, "Unknown UNKNOWN 2"),
        ("application/grpc-web", Some("0"), 200, "- - -"),
        ("application/grpc;x", Some("0"), 200, "- - -"),
        ("text/plain", Some("0"), 200, "- - -"),
    ];
    for (content_type, status, code, expected) in table {
        let mut example = Example::new();
        header(&mut example.request, "content-type", content_type.as_bytes());
        example.info.response_code = Some(code);
        if let Some(status) = status {
            header(&mut example.response, "grpc-status", status.as_bytes());
        }
        let text = example.write("%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER%");
        assert_eq!(text, expected, "{content_type} {status:?} {code}");
    }
}

#[test]
fn unique_ids_differ_within_a_record_and_between_records() {
    let example = Example::new();
    let ids = example.write("%UNIQUE_ID% %UNIQUE_ID%");
    let (first, second) = ids.split_once(' ').unwrap();
    assert_eq!((first.len(), second.len()), (36, 36));
    assert_ne!(first, second);
}

#[test]
fn operators_that_never_have_a_value_are_listed() {
    let formatter = Formatter::parse("%CEL(a)% %REQ(b)% %METADATA(ROUTE:x)% %METADATA(DYNAMIC:x)%").unwrap();
    assert_eq!(formatter.without_value().collect::<Vec<_>>(), ["%CEL(a)%", "%METADATA(ROUTE:x)%"]);
    for lacking in ["UPSTREAM_SERVER_NAME", "COMMON_DURATION(DS_CX_BEG:US_HS_END)"] {
        let operator = format!("%{lacking}%");
        let formatter = Formatter::parse(&operator).unwrap();
        assert_eq!(formatter.without_value().collect::<Vec<_>>(), [&*operator]);
    }
    for known in ["COMMON_DURATION(DS_CX_BEG:US_CX_END:us)", "UPSTREAM_LOCAL_CLOSE_REASON", "TRACE_ID"] {
        assert_eq!(Formatter::parse(&format!("%{known}%")).unwrap().without_value().count(), 0, "{known}");
    }
}

#[test]
fn coalesce_nested_too_deeply_is_refused() {
    let mut operator = "PROTOCOL".to_owned();
    for _ in 0..9 {
        let entry = serde_json::json!({ "operators": [{ "command": "COALESCE", "param": operator }] });
        operator = entry.to_string();
    }
    assert!(Formatter::parse(&format!("%COALESCE({operator})%")).is_err());
}
