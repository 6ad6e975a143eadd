//! gRPC-Web and the HTTP/1 bridge between a client and an upstream that speak HTTP/1.1 with trailers, and replies of our
//! own to gRPC clients.

use crate::harness::{Config, Proxy, Upstream, chunked, on_each_backend};

const TRAILERS: &str = "http_protocol_options: {enable_trailers: true}";
const FRAME: &[u8] = b"\0\0\0\0\x02hi";

/// A gRPC response with this status in its trailers.
fn grpc(pieces: &[&[u8]], status: &str) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n";
    [head.as_bytes(), &chunked(pieces, &format!("Grpc-Status: {status}\r\ngrpc-message: why\r\n"))].concat()
}

fn request(path: &str, kind: &str, more: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\n{more}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn web(port: u16) -> Config {
    Config::to(port).manager(TRAILERS).cluster(TRAILERS).filter("grpc_web", "GrpcWeb", "")
}

fn bridge(port: u16, fields: &str) -> Config {
    Config::to(port).manager(TRAILERS).cluster(TRAILERS).filter("grpc_http1_bridge", "Config", fields)
}

on_each_backend! {
    fn grpc_web_becomes_grpc_and_its_answer_grpc_web(io) {
        let upstream = Upstream::answering(|request| {
            assert_eq!(request.body, FRAME);
            grpc(&[FRAME, FRAME], "0")
        });
        let proxy = Proxy::start(io, &web(upstream.port));
        let mut client = proxy.connect();
        for _ in 0..3 {
            client.send(request("/s/m", "application/grpc-web+proto", "", FRAME));
            let response = client.response();
            assert_eq!(response.status(), 200);
            assert_eq!(response.header("content-type"), Some("application/grpc-web+proto"));
            let trailers = b"\x80\0\0\0\x21grpc-status:0\r\ngrpc-message:why\r\n";
            assert_eq!(response.body, [FRAME, FRAME, trailers].concat());
        }
        for seen in upstream.seen() {
            let asked = ["content-type", "te", "content-length"].map(|name| seen.request.header(name));
            assert_eq!(asked, [Some("application/grpc"), Some("trailers"), None]);
        }
        assert_eq!(upstream.connections(), 1);
        proxy.end();
    }

    fn grpc_web_text_is_decoded_and_encoded_frame_by_frame(io) {
        let upstream = Upstream::answering(|request| {
            assert_eq!(request.body, [FRAME, b"\0\0\0\0\0"].concat());
            grpc(&[&FRAME[..3], &FRAME[3..]], "5")
        });
        let proxy = Proxy::start(io, &web(upstream.port));
        let mut client = proxy.connect();
        let accept = "Accept: application/grpc-web-text\r\n";
        for _ in 0..3 {
            client.send(request("/s/m", "application/grpc-web-text", accept, b"AAAAAAJoaQ==AAAAAAA="));
            let response = client.response();
            assert_eq!(response.header("content-type"), Some("application/grpc-web-text+proto"));
            // The frame, then the trailers: 0x80, 33 bytes, their text.
            let expected = "AAAAAAJoaQ==gAAAACFncnBjLXN0YXR1czo1DQpncnBjLW1lc3NhZ2U6d2h5DQo=";
            assert_eq!(response.text(), expected);
        }
        proxy.end();
    }

    fn grpc_web_text_that_is_no_base64_is_answered_in_grpc_web(io) {
        let upstream = Upstream::answering(|_| grpc(&[FRAME], "0"));
        let proxy = Proxy::start(io, &web(upstream.port));
        for garbage in [&b"AAAAAAJoaQ=!"[..], b"AAAAA", b"\0\xff\0\xff"] {
            let mut client = proxy.connect();
            client.send(request("/s/m", "application/grpc-web-text", "", garbage));
            let response = client.response();
            assert_eq!(response.status(), 400);
            let told = ["grpc-status", "grpc-message", "content-length"].map(|name| response.header(name));
            let message = "Bad gRPC-web request, invalid base64 data.";
            assert_eq!(told, [Some("13"), Some(message), Some("0")]);
        }
        proxy.wait_until_idle();
        proxy.end();
    }

    fn reply_of_our_own_reaches_grpc_and_grpc_web_clients_as_a_status(io) {
        let routes = "{match: {prefix: /}, direct_response: {status: 503, body: {inline_string: \"no, 100%\"}}}";
        let mut config = web(1);
        config.routes = Some(routes.to_owned());
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        for (kind, status, answered, message) in [
            ("application/grpc", 200, "application/grpc", Some("no, 100%25")),
            ("application/grpc-web", 503, "application/grpc-web+proto", Some("no, 100%25")),
            ("text/plain", 503, "text/plain", None),
        ] {
            client.send(request("/s/m", kind, "", FRAME));
            let response = client.response();
            assert_eq!((response.status(), response.header("content-type")), (status, Some(answered)));
            assert_eq!(response.header("grpc-status"), message.map(|_| "14"));
            assert_eq!(response.header("grpc-message"), message);
            assert_eq!(response.body.is_empty(), message.is_some());
        }
        proxy.end();
    }

    fn bridged_response_has_status_and_length_in_its_head(io) {
        let upstream = Upstream::answering(|request| grpc(&[FRAME, FRAME], if request.path() == "/s/m" { "0" } else { "7" }));
        let proxy = Proxy::start(io, &bridge(upstream.port, "ignore_query_parameters: true"));
        let mut client = proxy.connect();
        for (path, status, grpc_status) in [("/s/m?x=1", 200, "0"), ("/s/n", 503, "7"), ("/s/m", 200, "0")] {
            client.send(request(path, "application/grpc", "", FRAME));
            let response = client.response();
            assert_eq!((response.status(), response.header("grpc-status")), (status, Some(grpc_status)));
            assert_eq!(response.header("content-length"), Some("14"));
            assert_eq!(response.header("grpc-message"), Some("why"));
            assert_eq!(response.body, [FRAME, FRAME].concat());
        }
        assert_eq!(upstream.connections(), 1);
        proxy.end();
    }

    fn protobuf_is_framed_towards_the_endpoint(io) {
        let upstream = Upstream::answering(|request| {
            assert_eq!(request.body, b"\0\0\0\0\x05hello");
            grpc(&[FRAME], "0")
        });
        let proxy = Proxy::start(io, &bridge(upstream.port, "upgrade_protobuf_to_grpc: true"));
        let mut client = proxy.connect();
        client.send(request("/s/m", "application/x-protobuf", "", b"hello"));
        let response = client.response();
        assert_eq!((response.status(), &*response.body), (200, &b"hi"[..]));
        let seen = &upstream.seen()[0].request;
        assert_eq!(seen.header("content-type"), Some("application/grpc"));
        proxy.end();
    }

    fn response_too_large_for_the_bridge_is_answered_and_does_not_stay_in_memory(io) {
        let frame = [&b"\0\0\x01\0\0"[..], &vec![7; 65536]].concat();
        let upstream = Upstream::answering(move |_| grpc(&[&frame], "0"));
        let config = bridge(upstream.port, "").listener("per_connection_buffer_limit_bytes: 20000");
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        client.send(request("/s/m", "application/grpc", "", FRAME));
        let response = client.response();
        assert_eq!((response.status(), response.header("grpc-status")), (200, Some("2")));
        assert_eq!(proxy.stat("http.test.rs_too_large"), 1);
        proxy.end();
    }

    fn filter_is_off_where_a_route_says_so_and_on_where_one_says_that(io) {
        let upstream = Upstream::answering(|_| grpc(&[FRAME], "0"));
        let mut config = web(upstream.port);
        let word = |word: &str| {
            format!("typed_per_filter_config: {{grpc_web: {{\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, {word}}}}}")
        };
        let off = word("disabled: true");
        config.routes = Some(format!(
            "{{match: {{prefix: /off}}, route: {{cluster: upstream}}, {off}}}, {{match: {{prefix: /}}, route: {{cluster: upstream}}}}"
        ));
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        for (path, kind) in [("/off", "application/grpc"), ("/on", "application/grpc-web+proto")] {
            client.send(request(path, "application/grpc-web", "", FRAME));
            let response = client.response();
            assert_eq!(response.header("content-type"), Some(kind), "{path}");
        }
        let kinds: Vec<_> = upstream.seen().iter().map(|seen| seen.request.header("content-type").map(str::to_owned)).collect();
        assert_eq!(kinds, [Some("application/grpc-web".to_owned()), Some("application/grpc".to_owned())]);
        proxy.end();
        let on = word("config: {}");
        config.filters = config.filters.replace("name: grpc_web,", "name: grpc_web, disabled: true,");
        config.routes = Some(format!(
            "{{match: {{prefix: /on}}, route: {{cluster: upstream}}, {on}}}, {{match: {{prefix: /}}, route: {{cluster: upstream}}}}"
        ));
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        for (path, kind) in [("/off", "application/grpc"), ("/on", "application/grpc-web+proto")] {
            client.send(request(path, "application/grpc-web", "", FRAME));
            assert_eq!(client.response().header("content-type"), Some(kind), "{path}");
        }
        proxy.end();
    }

    fn large_bodies_pass_the_filters_whole(io) {
        let frame: Vec<u8> = [&b"\0\0\x10\0\0"[..], &(0..1 << 20).map(|byte: u32| (byte % 251) as u8).collect::<Vec<_>>()].concat();
        let sent = frame.clone();
        let upstream = Upstream::answering(move |request| {
            grpc(&[&sent], if request.body == sent { "0" } else { "13" })
        });
        let proxy = Proxy::start(io, &web(upstream.port));
        let mut client = proxy.connect();
        let text = base64(&frame);
        client.send(request("/s/m", "application/grpc-web-text", "Accept: application/grpc-web-text\r\n", text.as_bytes()));
        let response = client.response();
        let trailers = base64(b"\x80\0\0\0\x21grpc-status:0\r\ngrpc-message:why\r\n");
        assert!(response.text() == text + &trailers);
        drop(client);
        proxy.wait_until_idle();
        proxy.end();
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for digit in 0..=group.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * digit) & 63) as usize]));
        }
        text.extend(std::iter::repeat_n('=', 3 - group.len()));
    }
    text
}
