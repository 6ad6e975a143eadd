//! HTTP/2 on either side, and between the versions: every byte, heads, trailers, resets, GOAWAY, limits and floods.

use std::sync::Mutex;
use std::sync::mpsc::channel;

use http::{HeaderMap, Request};

use crate::harness::{
    Config, Frame, Http2Client, Http2Upstream, Proxy, RawHttp2, TO_HTTP2, Upstream, ok, on_each_backend,
    pattern, until,
};

fn to_http2(upstream: &Http2Upstream) -> Config {
    Config::to(upstream.port).cluster(TO_HTTP2)
}

/// ENHANCE_YOUR_CALM.
const CALM: u32 = 11;

fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "42".parse().unwrap());
    trailers
}

on_each_backend! {
    fn http2_to_http1_request_and_response_pass(io) {
        let upstream = Upstream::start(|peer| while let Some(request) = peer.request() { peer.send(ok(&request.body)) });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let client = Http2Client::connect(proxy.port);
        let request = Request::post("http://a/path?q=1").header("cookie", "a=1").header("cookie", "b=2");
        let answer = client.send(request, b"body", None);
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"body"[..]));
        assert!(answer.headers.get("connection").is_none() && answer.headers.get("transfer-encoding").is_none());
        let seen = upstream.seen().pop().unwrap().request;
        assert_eq!((seen.method(), seen.path()), ("POST", "/path?q=1"));
        assert_eq!((seen.header("host"), seen.header("cookie")), (Some("a"), Some("a=1; b=2")));
        assert_eq!(seen.header("transfer-encoding"), Some("chunked"));
        assert_eq!(proxy.stat("http.test.downstream_cx_http2_total"), 1);
        assert_eq!(proxy.stat("http.test.downstream_rq_http2_total"), 1);
        drop(client);
        proxy.end();
    }

    fn http1_to_http2_request_and_response_pass(io) {
        let upstream = Http2Upstream::start(100);
        let proxy = Proxy::start(io, &to_http2(&upstream));
        let mut client = proxy.connect();
        let request = "POST /echo HTTP/1.1\r\nHost: b\r\nTE: trailers\r\nConnection: TE\r\nContent-Length: 4\r\n\r\nbody";
        let answer = client.ask(request);
        assert_eq!((answer.status(), answer.text().as_str()), (200, "body"));
        assert_eq!(answer.header("x-seen-authority"), Some("b"));
        assert_eq!((answer.header("x-seen-te"), answer.header("x-seen-content-length")), (Some("trailers"), Some("4")));
        assert_eq!(answer.header("x-seen-connection"), None);
        let answer = client.get("/early");
        assert_eq!((answer.status(), answer.header("x-connection")), (200, Some("0")));
        assert_eq!(proxy.stat("cluster.upstream.upstream_cx_http2_total"), 1);
        assert_eq!(proxy.stat("cluster.upstream.upstream_rq_total"), 2);
        proxy.end();
    }

    fn http2_to_http2_bodies_and_trailers_are_exact_both_ways(io) {
        let upstream = Http2Upstream::start(100);
        let proxy = Proxy::start(io, &to_http2(&upstream));
        let client = Http2Client::connect(proxy.port);
        for bytes in [0, 1, 2047, 2048, 5000, 16_385, 65_535, 65_536, 16 << 20] {
            let body = pattern(bytes);
            let answer = client.send(Request::post("http://a/echo"), &body, Some(trailers()));
            assert_eq!((answer.status, answer.broken), (200, None));
            assert!(answer.body == body, "{bytes} bytes, {} came", answer.body.len());
            assert_eq!(answer.trailers, Some(trailers()));
        }
        assert_eq!(upstream.connections(), 1);
        drop(client);
        proxy.end();
    }

    fn bodies_between_the_versions_are_exact(io) {
        let http2 = Http2Upstream::start(100);
        let proxy = Proxy::start(io, &to_http2(&http2));
        let mut client = proxy.connect();
        assert!(client.get(&format!("/body/{}", 20 << 20)).body == pattern(20 << 20));
        drop(client);
        proxy.end();
        let http1 = Upstream::start(|peer| while let Some(request) = peer.request() { peer.send(ok(&request.body)) });
        let proxy = Proxy::start(io, &Config::to(http1.port));
        let client = Http2Client::connect(proxy.port);
        let body = pattern(20 << 20);
        let answer = client.send(Request::put("http://a/"), &body, None);
        assert!(answer.status == 200 && answer.body == body, "{} bytes came", answer.body.len());
        drop(client);
        proxy.end();
    }

    fn many_streams_at_once_are_not_mixed(io) {
        let upstream = Http2Upstream::start(7);
        let proxy = Proxy::start(io, &to_http2(&upstream));
        let client = Http2Client::connect(proxy.port);
        let bodies: Vec<_> = (0..60).map(|n| pattern(n * 1777)).collect();
        let requests = bodies.iter().map(|body| (Request::post("http://a/echo"), body.clone(), None)).collect();
        for (answer, body) in client.all(requests).iter().zip(&bodies) {
            assert!(answer.status == 200 && answer.body == *body, "{answer:?}");
        }
        // More at once than a connection takes: others were opened, and none was asked for too much.
        let opened = upstream.connections();
        assert!(opened > 1 && opened <= 60_usize.div_ceil(7), "{opened} connections");
        assert_eq!(proxy.stat("cluster.upstream.upstream_cx_http2_total"), opened as u64);
        assert_eq!(proxy.stat("cluster.upstream.upstream_rq_retry_unprocessed"), 0);
        drop(client);
        proxy.end();
    }

    fn interim_response_passes(io) {
        let upstream = Http2Upstream::start(100);
        let proxy = Proxy::start(io, &to_http2(&upstream));
        let mut client = proxy.connect();
        client.send(b"GET /interim HTTP/1.1\r\nHost: a\r\n\r\n");
        let interim = client.head();
        assert_eq!((interim.status(), interim.header("link")), (103, Some("</a>")));
        assert_eq!(client.response().status(), 200);
        proxy.end();
    }

    fn refused_stream_is_sent_once_more_and_a_reset_one_is_not(io) {
        let upstream = Http2Upstream::start(100);
        let proxy = Proxy::start(io, &to_http2(&upstream));
        let mut client = proxy.connect();
        let refused = client.get("/refuse");
        assert_eq!((refused.status(), upstream.requests()), (503, 2), "once more, on a connection that has room");
        assert_eq!(proxy.stat("cluster.upstream.upstream_rq_retry_unprocessed"), 1);
        let reset = client.get("/reset");
        assert_eq!((reset.status(), upstream.requests()), (503, 3));
        assert!(reset.text().ends_with("reset reason: remote reset"), "{}", reset.text());
        proxy.end();
    }

    fn response_cut_off_by_a_reset_is_not_completed(io) {
        let upstream = Http2Upstream::start(100);
        let proxy = Proxy::start(io, &to_http2(&upstream));
        let client = Http2Client::connect(proxy.port);
        let answer = client.ending_late("/cut");
        assert_eq!(answer.status, 200);
        assert!(answer.broken.is_some(), "{answer:?}");
        assert_eq!(client.get("/early").status, 200);
        drop(client);
        proxy.end();
    }

    /// A body without bytes has an end, too, which is gone with the attempt that took it.
    fn request_whose_body_has_ended_is_not_sent_again_without_its_end(io) {
        // It answers once on a connection, and closes it when the next request comes.
        let upstream = Upstream::start(|peer| {
            if peer.request().is_some() {
                peer.send(ok(b"first"));
                peer.request_head();
            }
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let client = Http2Client::connect(proxy.port);
        assert_eq!(client.get("/").body, b"first");
        let answer = client.send(Request::put("http://a/"), b"", Some(trailers()));
        assert!(matches!(answer.status, 200 | 503), "{answer:?}");
        drop(client);
        proxy.end();
    }

    /// A connection that was told to end waits for a client that reads slowly, as HTTP/1 does.
    fn end_of_a_connection_does_not_cut_what_a_slow_client_has_not_read(io) {
        let body = pattern(12 << 20);
        let answered = ok(&body);
        let upstream = Upstream::answering(move |_| answered.clone());
        let config = Config::to(upstream.port)
            .manager("common_http_protocol_options: {max_requests_per_connection: 1, idle_timeout: 0.5s}")
            .manager("drain_timeout: 0.1s");
        let proxy = Proxy::start(io, &config);
        let mut raw = RawHttp2::connect(proxy.port);
        raw.keeps_little();
        // Windows that take all of it: SETTINGS_INITIAL_WINDOW_SIZE, and a WINDOW_UPDATE for the connection.
        let window: u32 = 64 << 20;
        raw.frame(4, 0, 0, &[&[0, 4][..], &window.to_be_bytes()].concat());
        raw.frame(8, 0, 0, &window.to_be_bytes());
        raw.get(1, 5);
        let (mut received, mut ended, mut waited) = (Vec::new(), false, false);
        while let Some(frame) = raw.read() {
            if frame.kind == 0 {
                received.extend(frame.payload);
                ended |= frame.flags & 1 != 0;
            }
            // Slower than it is sent, so that the end of it waits in the codec when its stream is over.
            waited |= proxy.stat("http.test.downstream_rq_active") == 0 && received.len() < body.len();
        }
        assert!(waited, "the client was too fast");
        assert!(ended && received == body, "{} of {} bytes, ended: {ended}", received.len(), body.len());
        proxy.end();
    }

    fn response_that_its_connection_ends_with_is_whole_although_its_request_is_not(io) {
        let upstream = RawHttp2::upstream(|raw| {
            // A head with 200, a byte that is the last, and the end of the connection.
            raw.write(&[0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88, 0, 0, 1, 0, 1, 0, 0, 0, 1, b'x']);
            raw.shutdown_write();
            while raw.read().is_some() {}
        });
        let proxy = Proxy::start(io, &Config::to(upstream).cluster(TO_HTTP2));
        for _ in 0..20 {
            let mut raw = RawHttp2::connect(proxy.port);
            raw.get(1, 4);
            let frames = raw.frames_until(|frame| frame.kind == 3 || frame.kind == 0 && frame.flags & 1 != 0);
            assert_eq!(frames.unwrap().last().unwrap().kind, 0, "reset");
            proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 0);
        }
        proxy.end();
    }

    fn goaway_of_the_endpoint_moves_requests_to_a_new_connection(io) {
        let upstream = Http2Upstream::start(100);
        let proxy = Proxy::start(io, &to_http2(&upstream));
        let mut client = proxy.connect();
        for n in 0..4 {
            let answer = client.get("/goaway");
            assert_eq!(answer.status(), 200, "request {n}");
        }
        assert!(upstream.connections() > 1);
        assert_eq!(proxy.stat("cluster.upstream.upstream_cx_close_notify"), upstream.connections() as u64);
        proxy.end();
    }

    fn drain_sends_goaway_and_streams_finish(io) {
        let (go, may_go) = channel::<()>();
        let may_go = Mutex::new(may_go);
        let upstream = Upstream::start(move |peer| {
            while peer.request().is_some() {
                may_go.lock().unwrap().recv().unwrap();
                peer.send(ok(b"hello"));
            }
        });
        let mut proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut raw = RawHttp2::connect(proxy.port);
        for stream in [1, 3, 5] {
            raw.get(stream, 5);
        }
        upstream.wait_for_requests(3);
        proxy.signal(libc::SIGTERM);
        // RFC 9113 section 6.8: first that it will end, then, a round trip later, which stream was the last.
        let is_goaway = |frame: &Frame| frame.kind == 7;
        let announced = raw.frames_until(is_goaway).unwrap().pop().unwrap().payload;
        assert_eq!(announced, [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        let ping = raw.frames_until(|frame| frame.kind == 6 && frame.flags == 0).unwrap().pop().unwrap();
        raw.frame(6, 1, 0, &ping.payload);
        let last = raw.frames_until(is_goaway).unwrap().pop().unwrap().payload;
        assert_eq!(last, [0, 0, 0, 5, 0, 0, 0, 0]);
        assert_eq!(proxy.stat("http.test.downstream_rq_active"), 3);
        (0..3).for_each(|_| go.send(()).unwrap());
        let (mut bodies, mut ended) = (Vec::new(), Vec::new());
        while let Some(frame) = raw.read() {
            if frame.kind == 0 {
                bodies.extend(frame.payload);
            }
            if matches!(frame.kind, 0 | 1) && frame.flags & 1 != 0 {
                ended.push(frame.stream);
            }
            assert_ne!(frame.kind, 3, "stream {} was reset", frame.stream);
        }
        ended.sort_unstable();
        assert_eq!((ended, bodies.as_slice()), (vec![1, 3, 5], &b"hellohellohello"[..]));
        assert_eq!(proxy.wait().code(), Some(0));
    }

    fn response_that_has_its_connection_drained_is_counted(io) {
        let upstream = Upstream::start(|peer| while peer.request().is_some() { peer.send(ok(b"hello")) });
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager("drain_timeout: 0.1s"));
        assert_eq!(proxy.admin("POST", "/healthcheck/fail").status(), 200);
        until("responses close", || proxy.connect().get("/").header("connection") == Some("close"));
        let before = proxy.stat("http.test.downstream_cx_drain_close");
        let mut raw = RawHttp2::connect(proxy.port);
        raw.get(1, 5);
        assert_eq!(raw.goaway(), Some(0));
        assert_eq!(proxy.stat("http.test.downstream_cx_drain_close"), before + 1);
        proxy.end();
    }

    fn client_that_goes_with_an_error_is_not_reset(io) {
        let upstream = Upstream::start(|peer| while peer.request().is_some() { peer.send(ok(b"hello")) });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut raw = RawHttp2::connect(proxy.port);
        raw.frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff]);
        assert_eq!(raw.goaway(), Some(0));
        // What crosses with its end is read and dropped: on a reset the second could not be sent.
        assert!(raw.frame(6, 0, 0, &[0; 8]) && raw.frame(6, 0, 0, &[0; 8]));
        proxy.end();
    }

    fn limits_of_requests_per_connection_end_in_goaway(io) {
        let upstream = Upstream::start(|peer| while peer.request().is_some() { peer.send(ok(b"hello")) });
        let config = Config::to(upstream.port).manager("common_http_protocol_options: {max_requests_per_connection: 2}, drain_timeout: 0.1s");
        let proxy = Proxy::start(io, &config);
        let mut raw = RawHttp2::connect(proxy.port);
        raw.get(1, 5);
        raw.get(3, 5);
        assert_eq!(raw.goaway(), Some(0));
        assert_eq!(proxy.stat("http.test.downstream_rq_2xx"), 2);
        proxy.end();
    }

    fn floods_end_the_connection_and_are_counted(io) {
        let upstream = Upstream::start(|peer| while peer.request().is_some() { peer.send(ok(b"hello")) });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let flood = |stat: &str, frame: &dyn Fn(&mut RawHttp2) -> bool| {
            let mut raw = RawHttp2::connect(proxy.port);
            raw.get(1, 4);
            for _ in 0..3000 {
                if !frame(&mut raw) {
                    break;
                }
            }
            until(stat, || proxy.stat(stat) == 1);
            assert_eq!(raw.goaway(), Some(CALM), "{stat}");
        };
        flood("http2.inbound_empty_frames_flood", &|raw| raw.frame(0, 0, 1, &[]));
        flood("http2.inbound_priority_frames_flood", &|raw| raw.frame(2, 0, 1, &[0, 0, 0, 0, 7]));
        flood("http2.inbound_window_update_frames_flood", &|raw| raw.frame(8, 0, 0, &[0, 0, 0, 1]));
        flood("http2.outbound_control_flood", &|raw| raw.frame(6, 0, 0, &[0; 8]));
        assert_eq!(proxy.stat("http2.goaway_sent"), 4);
        proxy.end();
    }

    fn floods_of_the_endpoint_end_its_connection_and_are_counted(io) {
        let flood = |stat: &str, frame: fn(&mut RawHttp2) -> bool| {
            let upstream = RawHttp2::upstream(move |raw| while frame(raw) {});
            let proxy = Proxy::start(io, &Config::to(upstream).cluster(TO_HTTP2));
            let answer = proxy.connect().get("/");
            assert!(matches!(answer.status(), 502 | 503), "{}", answer.status());
            until(stat, || proxy.stat(&format!("cluster.upstream.{stat}")) > 0);
            proxy.end();
        };
        flood("http2.inbound_empty_frames_flood", |raw| raw.write(&[0, 0, 0, 0, 0, 0, 0, 0, 1].repeat(100)));
        flood("http2.inbound_priority_frames_flood", |raw| raw.frame(2, 0, 1, &[0, 0, 0, 0, 7]));
        flood("http2.inbound_window_update_frames_flood", |raw| raw.frame(8, 0, 0, &[0, 0, 0, 1]));
        flood("http2.outbound_control_flood", |raw| raw.frame(6, 0, 0, &[0; 8]));
    }

    fn heads_without_end_end_the_connection_and_are_counted(io) {
        let upstream = Upstream::start(|peer| while peer.request().is_some() { peer.send(ok(b"hello")) });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut raw = RawHttp2::connect(proxy.port);
        raw.get(1, 1);
        for _ in 0..100 {
            // A field of a name and a value of one byte.
            raw.frame(9, 0, 1, &[0, 1, b'x', 1, b'y']);
        }
        assert_eq!(raw.goaway(), Some(CALM));
        assert_eq!(proxy.stat("http2.header_overflow"), 1);
        // One large field in the table, and as many references to it as a frame holds.
        let mut raw = RawHttp2::connect(proxy.port);
        // The authority stays out of it.
        let get = &[0x82, 0x86, 0x84, 0x01, 1, b'a'][..];
        let large = [&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e][..], &[b'y'; 4000]].concat();
        raw.frame(1, 5, 1, &[get, &large].concat());
        raw.frame(1, 5, 3, &[get, &[0xbe; 16_000]].concat());
        assert_eq!(raw.goaway(), Some(CALM));
        assert_eq!(proxy.stat("http2.header_overflow"), 2);
        assert_eq!(Http2Client::connect(proxy.port).get("/").status, 200);
        proxy.end();
    }

    fn streams_that_the_client_makes_us_reset_end_the_connection(io) {
        let upstream = Upstream::start(|peer| while peer.request().is_some() {});
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut raw = RawHttp2::connect(proxy.port);
        for n in 0..1000 {
            // A window beyond what there can be is an error of the stream alone.
            let sent = raw.get(2 * n + 1, 5) && raw.frame(8, 0, 2 * n + 1, &[0x7f, 0xff, 0xff, 0xff]);
            if !sent {
                break;
            }
        }
        assert_eq!(raw.goaway(), Some(CALM));
        assert_eq!(proxy.stat("http2.goaway_sent"), 1);
        assert_eq!(proxy.stat("http.test.downstream_cx_protocol_error"), 1);
        proxy.end();
    }

    fn bodies_refused_on_their_way_count_like_resets(io) {
        let upstream = Upstream::start(|peer| while peer.request().is_some() {});
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut raw = RawHttp2::connect(proxy.port);
        let mut code = None;
        for n in 0..600 {
            // :method POST; then a trailer whose value HTTP/1.1 could not carry.
            raw.frame(1, 4, 2 * n + 1, &[0x83, 0x86, 0x84, 0x41, 1, b'a']);
            raw.frame(1, 5, 2 * n + 1, &[0, 1, b'x', 2, b' ', b'y']);
            // One at a time, so that each is refused for itself.
            while let Some(frame) = raw.read() {
                if frame.kind == 7 {
                    code = frame.payload.get(4..8).map(|bytes| bytes[3]);
                }
                if frame.stream == 2 * n + 1 && frame.flags & 1 != 0 {
                    break;
                }
            }
            if code.is_some() {
                break;
            }
        }
        assert_eq!(code.map(u32::from).or_else(|| raw.goaway()), Some(CALM));
        assert_eq!(proxy.stat("http.test.downstream_rq_too_many_premature_resets"), 1);
        proxy.end();
    }

    fn streams_without_windows_stop_their_endpoints_and_not_each_other(io) {
        const STREAMS: u32 = 400;
        let answer = ok(&vec![b'x'; 1 << 20]);
        let upstream = Upstream::start(move |peer| {
            while peer.request().is_some() {
                let _ = peer.try_send(&answer);
            }
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut raw = RawHttp2::connect(proxy.port);
        // SETTINGS_INITIAL_WINDOW_SIZE of zero.
        raw.frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
        for n in 0..STREAMS {
            raw.get(2 * n + 1, 5);
        }
        let paused = "cluster.upstream.upstream_flow_control_paused_reading_total";
        until("all pause", || proxy.stat(paused) >= u64::from(STREAMS));
        let mut heads = 0;
        while heads < STREAMS {
            let frame = raw.read().expect("the connection lives");
            assert_ne!(frame.kind, 0, "DATA without a window");
            heads += u32::from(frame.kind == 1);
        }
        // The last one's window alone is opened: it gets its bytes.
        raw.frame(8, 0, 2 * STREAMS - 1, &[0, 0, 0x10, 0]);
        let data = std::iter::from_fn(|| raw.read()).find(|frame| frame.kind == 0).unwrap();
        assert_eq!((data.stream, data.payload.first()), (2 * STREAMS - 1, Some(&b'x')));
        drop(raw);
        proxy.end();
    }

    fn interim_responses_without_end_are_refused(io) {
        let upstream = Upstream::start(|peer| {
            while peer.request().is_some() {
                let early = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(1000);
                let _ = peer.try_send(early);
            }
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut raw = RawHttp2::connect(proxy.port);
        raw.get(1, 5);
        let frames = std::iter::from_fn(|| raw.read()).filter(|frame| frame.stream == 1);
        let heads = frames.take_while(|frame| frame.flags & 1 == 0).filter(|frame| frame.kind == 1).count();
        assert!((300..340).contains(&heads), "{heads} heads before the end");
        assert_eq!(proxy.stat("cluster.upstream.upstream_cx_protocol_error"), 1);
        drop(raw);
        proxy.end();
    }

    fn rapid_reset_ends_the_connection(io) {
        let upstream = Upstream::start(|peer| while peer.request().is_some() {});
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut raw = RawHttp2::connect(proxy.port);
        for n in 0..2000 {
            let sent = raw.get(2 * n + 1, 5) && raw.frame(3, 0, 2 * n + 1, &[0, 0, 0, 8]);
            if !sent {
                break;
            }
        }
        assert_eq!(raw.goaway(), Some(11), "ENHANCE_YOUR_CALM");
        proxy.end();
    }

    fn slow_reader_stops_the_endpoint(io) {
        let http2 = Http2Upstream::start(100);
        let proxy = Proxy::start(io, &to_http2(&http2).manager("codec_type: HTTP2"));
        let mut raw = RawHttp2::connect(proxy.port);
        // 16 MiB that nobody reads: no window is given beyond the first 64 KiB.
        raw.frame(1, 5, 1, &[&[0x82, 0x86, 0x44, 14][..], b"/body/16777216", &[0x41, 1, b'a']].concat());
        until("reading from the endpoint pauses", || {
            proxy.stat("cluster.upstream.upstream_flow_control_paused_reading_total") > 0
        });
        drop(raw);
        proxy.end();
    }
}
