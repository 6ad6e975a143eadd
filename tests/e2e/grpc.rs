//! gRPC, gRPC-Web and the HTTP/1 bridge between clients and upstreams that speak HTTP/2 or HTTP/1.1 with trailers, and
//! replies of our own to gRPC clients.

use http::Request;

use crate::harness::{
    Config, Http2Client, Http2Upstream, Proxy, RawHttp2, TO_HTTP2, Upstream, chunked, on_each_backend,
    pattern,
};
use crate::scoped_routes::{scope, scoped};

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

/// Both filters, and an endpoint that speaks HTTP/2.
fn both(upstream: &Http2Upstream) -> Config {
    let bridge = "upgrade_protobuf_to_grpc: true";
    Config::to(upstream.port).cluster(TO_HTTP2).filter("grpc_web", "GrpcWeb", "").filter(
        "grpc_http1_bridge",
        "Config",
        bridge,
    )
}

/// The last frame of a gRPC-Web body with this status.
fn web_trailers(status: &str) -> Vec<u8> {
    let text = format!("grpc-status:{status}\r\ngrpc-message:why\r\n");
    [&[0x80, 0, 0, 0, text.len() as u8], text.as_bytes()].concat()
}

on_each_backend! {
    fn grpc_passes_the_filters_over_http2_with_its_trailers(io) {
        let upstream = Http2Upstream::start(100);
        let proxy = Proxy::start(io, &both(&upstream));
        let client = Http2Client::connect(proxy.port);
        let post = |path: &str| {
            Request::post(format!("http://a{path}")).header("content-type", "application/grpc").header("te", "trailers")
        };
        for body in [&b""[..], FRAME, &pattern(1 << 20)] {
            for status in ["0", "7"] {
                let answer = client.send(post(&format!("/grpc/{status}")), body, None);
                assert_eq!((answer.status, answer.broken), (200, None));
                assert_eq!(answer.headers["content-type"], "application/grpc");
                assert!(answer.body == body, "{} of {} bytes came", answer.body.len(), body.len());
                let trailers = answer.trailers.unwrap();
                assert_eq!((&trailers["grpc-status"], &trailers["grpc-message"]), (&status.parse().unwrap(), &"why".parse().unwrap()));
            }
        }
        let alone = client.send(post("/grpc-status/5"), FRAME, None);
        assert_eq!((alone.status, &alone.headers["grpc-status"], alone.trailers), (200, &"5".parse().unwrap(), None));
        drop(client);
        proxy.wait_until_idle();
        proxy.end();
    }

    /// gRPC leaves spaces of a message as they are, at its ends too, where HTTP/2 has none.
    fn message_of_a_status_keeps_the_spaces_at_its_ends(io) {
        let literal = |name: &str, value: &str| {
            [&[0, name.len() as u8][..], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
        };
        let trailers = [literal("grpc-status", "13"), literal("grpc-message", " not now: ")].concat();
        let upstream = RawHttp2::upstream(move |raw| {
            raw.frame(1, 4, 1, &[0x88]);
            raw.frame(1, 5, 1, &trailers);
            while raw.read().is_some() {}
        });
        let proxy = Proxy::start(io, &Config::to(upstream).cluster(TO_HTTP2));
        let answer = Http2Client::connect(proxy.port).get("/");
        assert_eq!((answer.status, answer.broken), (200, None));
        let trailers = answer.trailers.unwrap();
        assert_eq!((&trailers["grpc-status"], &trailers["grpc-message"]), (&"13".parse().unwrap(), &"%20not now:%20".parse().unwrap()));
        proxy.end();
    }

    fn grpc_web_of_either_version_becomes_grpc_over_http2(io) {
        let upstream = Http2Upstream::start(100);
        // Alone: the bridge would take what this filter has made of HTTP/1 for its own, as in Envoy.
        let config = Config::to(upstream.port).cluster(TO_HTTP2).filter("grpc_web", "GrpcWeb", "");
        let proxy = Proxy::start(io, &config);
        let mut http1 = proxy.connect();
        let http2 = Http2Client::connect(proxy.port);
        for body in [FRAME.to_vec(), [&b"\0\0\x10\0\0"[..], &pattern(1 << 20)].concat()] {
            let expected = [body.as_slice(), &web_trailers("9")].concat();
            http1.send(request("/grpc/9", "application/grpc-web+proto", "", &body));
            let answer = http1.response();
            assert_eq!((answer.status(), answer.header("content-type")), (200, Some("application/grpc-web+proto")));
            assert!(answer.body == expected, "{} bytes came", answer.body.len());
            let post = Request::post("http://a/grpc/9").header("content-type", "application/grpc-web");
            let answer = http2.send(post.header("content-length", body.len()), &body, None);
            assert_eq!((answer.status, &answer.headers["content-type"]), (200, &"application/grpc-web+proto".parse().unwrap()));
            assert!(answer.body == expected && answer.trailers.is_none(), "{} bytes came", answer.body.len());
            // Text: its length on the way up, and the end of the way down, are the filter's.
            let (encoded, text) = (base64(&body), "application/grpc-web-text");
            let accept = format!("Accept: {text}\r\n");
            let expected = base64(&body) + &base64(&web_trailers("9"));
            http1.send(request("/grpc/9", text, &accept, encoded.as_bytes()));
            assert!(http1.response().text() == expected);
            let post = Request::post("http://a/grpc/9").header("content-type", text).header("accept", text);
            let answer = http2.send(post.header("content-length", encoded.len()), encoded.as_bytes(), None);
            assert!(answer.body == expected.as_bytes() && answer.trailers.is_none(), "{} bytes came", answer.body.len());
        }
        let post = || Request::post("http://a/grpc-status/5").header("content-type", "application/grpc-web");
        let alone = http2.send(post(), FRAME, None);
        assert_eq!((&alone.headers["grpc-status"], alone.body.len()), (&"5".parse().unwrap(), 0));
        // What is no gRPC is told in the head, and nothing follows it.
        let post = Request::post("http://a/echo").header("content-type", "application/grpc-web");
        let other = http2.send(post, b"text", None);
        assert_eq!((other.status, &other.headers["grpc-message"], other.body.len()), (200, &"text".parse().unwrap(), 0));
        drop((http1, http2));
        proxy.wait_until_idle();
        proxy.end();
    }

    fn http2_client_whose_text_is_no_base64_is_answered_and_keeps_its_connection(io) {
        let upstream = Http2Upstream::start(100);
        let proxy = Proxy::start(io, &both(&upstream));
        let client = Http2Client::connect(proxy.port);
        let post = || Request::post("http://a/grpc/0").header("content-type", "application/grpc-web-text");
        for garbage in [&b"AAAAAAJoaQ==!"[..], b"AAAAA", b"\0\xff\0\xff"] {
            let answer = client.send(post(), garbage, None);
            assert_eq!((answer.status, &answer.headers["grpc-status"]), (400, &"13".parse().unwrap()));
            let answer = client.send(post(), b"AAAAAAJoaQ==", None);
            assert_eq!((answer.status, answer.body), (200, [FRAME, &web_trailers("0")].concat()));
        }
        drop(client);
        proxy.wait_until_idle();
        proxy.end();
    }

    fn bridge_leads_to_grpc_over_http2(io) {
        let upstream = Http2Upstream::start(100);
        let proxy = Proxy::start(io, &both(&upstream));
        let mut client = proxy.connect();
        for (path, status, grpc_status) in [("/grpc/0", 200, "0"), ("/grpc/7", 503, "7"), ("/grpc/0", 200, "0")] {
            client.send(request(path, "application/grpc", "", FRAME));
            let answer = client.response();
            assert_eq!((answer.status(), answer.header("grpc-status")), (status, Some(grpc_status)));
            let told = ["content-length", "grpc-message", "transfer-encoding"].map(|name| answer.header(name));
            assert_eq!((told, &*answer.body), ([Some("7"), Some("why"), None], FRAME));
            // Framed on the way up, unframed on the way down.
            client.send(request(path, "application/x-protobuf", "", b"hello"));
            let answer = client.response();
            assert_eq!((answer.header("content-length"), &*answer.body), (Some("5"), &b"hello"[..]));
        }
        client.send(request("/grpc-status/5", "application/grpc", "", FRAME));
        assert_eq!(client.response().header("grpc-status"), Some("5"));
        drop(client);
        proxy.wait_until_idle();
        proxy.end();
    }

    fn http2_client_reaches_grpc_over_http1_and_its_trailers(io) {
        let upstream = Upstream::answering(|request| {
            assert_eq!(request.body, FRAME);
            grpc(&[FRAME], "3")
        });
        let proxy = Proxy::start(io, &web(upstream.port));
        let client = Http2Client::connect(proxy.port);
        let post = |kind| Request::post("http://a/s/m").header("content-type", kind);
        let answer = client.send(post("application/grpc"), FRAME, None);
        assert_eq!((answer.body.as_slice(), &answer.trailers.unwrap()["grpc-status"]), (FRAME, &"3".parse().unwrap()));
        let answer = client.send(post("application/grpc-web"), FRAME, None);
        assert_eq!((answer.body, answer.trailers), ([FRAME, &web_trailers("3")].concat(), None));
        drop(client);
        proxy.end();
    }

    fn reply_of_our_own_to_grpc_over_http2_is_one_frame(io) {
        let mut config = web(1);
        config.routes = Some("{match: {prefix: /}, direct_response: {status: 503, body: {inline_string: \"no\"}}}".to_owned());
        let proxy = Proxy::start(io, &config);
        let mut raw = RawHttp2::connect(proxy.port);
        // :method POST, :scheme http, :path /, :authority a, content-type application/grpc; END_STREAM and END_HEADERS.
        let head = [&[0x83, 0x86, 0x84, 0x41, 1, b'a', 0x0f, 16, 16][..], b"application/grpc"].concat();
        raw.frame(1, 5, 1, &head);
        let frame = std::iter::from_fn(|| raw.read()).find(|frame| frame.stream == 1).unwrap();
        assert_eq!((frame.kind, frame.flags), (1, 5), "HEADERS with END_HEADERS and END_STREAM");
        drop(raw);
        let client = Http2Client::connect(proxy.port);
        let post = Request::post("http://a/s/m").header("content-type", "application/grpc");
        let answer = client.send(post, FRAME, None);
        assert_eq!((answer.status, &answer.headers["grpc-status"]), (200, &"14".parse().unwrap()));
        assert_eq!((&answer.headers["grpc-message"], answer.body.len(), answer.trailers), (&"no".parse().unwrap(), 0, None));
        drop(client);
        proxy.end();
    }

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

    /// The scope is looked for again with the route.
    fn protobuf_that_becomes_grpc_goes_to_the_scope_of_grpc(io) {
        let upstream = Upstream::answering(|_| grpc(&[FRAME], "0"));
        let scopes = [
            scope("protobuf", "application/x-protobuf", "{match: {prefix: /}, direct_response: {status: 418}}"),
            scope("grpc", "application/grpc", "{match: {prefix: /}, route: {cluster: upstream}}"),
        ];
        let mut config = bridge(upstream.port, "upgrade_protobuf_to_grpc: true");
        config.scoped_routes = Some(scoped("name: content-type, index: 0", &scopes));
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        for _ in 0..2 {
            client.send(request("/s/m", "application/x-protobuf", "", b"hello"));
            let response = client.response();
            assert_eq!((response.status(), &*response.body), (200, &b"hi"[..]));
            assert_eq!(client.get("/").status(), 404, "in no scope");
        }
        assert_eq!(upstream.seen().len(), 2);
        drop(client);
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

    /// The head that the bridge holds is not the one that the client gets.
    fn early_response_that_is_too_large_for_the_bridge_is_counted_once(io) {
        let frame = [&b"\0\0\x01\0\0"[..], &vec![7; 65536]].concat();
        let upstream = Upstream::start(move |peer| {
            if peer.request_head().is_some() && peer.try_send(grpc(&[&frame], "0")).is_ok() {
                peer.sees_end();
            }
        });
        let config = bridge(upstream.port, "").listener("per_connection_buffer_limit_bytes: 20000");
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        client.send("POST /s/m HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 9\r\n\r\nhalf");
        let response = client.response();
        assert_eq!((response.status(), response.header("grpc-status")), (200, Some("2")));
        assert_eq!(proxy.stat("http.test.rs_too_large"), 1);
        assert_eq!(proxy.stat("http.test.downstream_rq_response_before_rq_complete"), 1);
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
