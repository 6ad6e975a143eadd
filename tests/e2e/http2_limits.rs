//! What HTTP/2 options say is what happens: told to the peer, kept, and counted when it is reached; and clients that do not
//! take what they have asked for.

use crate::harness::{
    Config, Frame, Http2Client, Http2Upstream, Proxy, RawHttp2, TO_HTTP2, Upstream, free_port, ok,
    on_each_backend, until,
};

/// REFUSED_STREAM, INTERNAL_ERROR and ENHANCE_YOUR_CALM.
const REFUSED: u32 = 7;
const INTERNAL: u32 = 2;
const CALM: u32 = 11;
/// Parameters of SETTINGS.
const TABLE: u16 = 1;
const STREAMS: u16 = 3;
const WINDOW: u16 = 4;
const CONNECT: u16 = 8;
/// The window of a connection before anybody changes it.
const WINDOW_BYTES: u32 = 65_535;
const FLUSHED_LATE: &str = "http2.tx_flush_timeout";

/// A listener with these HTTP/2 options.
fn front(port: u16, options: &str) -> Config {
    Config::to(port).manager(&format!("http2_protocol_options: {{{options}}}"))
}

/// A cluster with these HTTP/2 options.
fn behind(port: u16, options: &str) -> Config {
    Config::to(port).cluster(&TO_HTTP2.replace("max_concurrent_streams: 100", options))
}

fn parameter(frames: &[Frame], name: u16) -> Option<u32> {
    let settings = frames.iter().find(|frame| frame.kind == 4 && frame.flags & 1 == 0)?;
    settings.settings().into_iter().find_map(|(known, value)| (known == name).then_some(value))
}

fn is_connection_window(frame: &Frame) -> bool {
    frame.kind == 8 && frame.stream == 0
}

/// The windows of a client for everything: SETTINGS_INITIAL_WINDOW_SIZE, and a WINDOW_UPDATE of the connection.
fn opens_windows(raw: &mut RawHttp2, bytes: u32) {
    raw.frame(4, 0, 0, &[&[0, 4][..], &bytes.to_be_bytes()].concat());
    raw.frame(8, 0, 0, &bytes.to_be_bytes());
}

on_each_backend! {
    fn options_of_a_listener_are_what_clients_are_told(io) {
        let upstream = Upstream::echo();
        let options = "hpack_table_size: 1234, max_concurrent_streams: 5, initial_stream_window_size: 70000, \
            initial_connection_window_size: 3000000, allow_connect: true";
        for (options, expected, window) in [
            (options, [Some(1234), Some(5), Some(70_000), Some(1)], 3_000_000),
            ("", [None, Some(1024), Some(256 * 1024), None], 1024 * 1024),
        ] {
            let proxy = Proxy::start(io, &front(upstream.port, options));
            let mut raw = RawHttp2::connect(proxy.port);
            let frames = raw.frames_until(is_connection_window).unwrap();
            assert_eq!(frames.last().unwrap().number(), window - WINDOW_BYTES);
            let [table, others @ ..] = [TABLE, STREAMS, WINDOW, CONNECT].map(|name| parameter(&frames, name));
            assert_eq!(others, expected[1..]);
            // The default may be said or not.
            assert_eq!(table.unwrap_or(4096), expected[0].unwrap_or(4096));
            drop(raw);
            proxy.end();
        }
    }

    fn options_of_a_cluster_are_what_endpoints_are_told(io) {
        let options = "hpack_table_size: 1234, initial_stream_window_size: 70000, initial_connection_window_size: 3000000";
        for (options, table, stream_window, window) in
            [(options, 1234, 70_000, 3_000_000), ("max_concurrent_streams: 9", 4096, 256 * 1024, 1024 * 1024)]
        {
            let (told, has_told) = std::sync::mpsc::channel();
            let told = std::sync::Mutex::new(told);
            let port = RawHttp2::server(move |raw| {
                raw.frame(4, 0, 0, &[]);
                let (mut frames, mut is_asked, mut is_open) = (Vec::new(), false, false);
                while !(is_asked && is_open) {
                    let frame = raw.read().unwrap();
                    is_asked |= frame.kind == 1;
                    is_open |= is_connection_window(&frame);
                    frames.push(frame);
                }
                told.lock().unwrap().send(frames).unwrap();
                raw.frame(1, 5, 1, &[0x88]);
                raw.frames_until(|_| false);
            });
            let proxy = Proxy::start(io, &behind(port, options));
            assert_eq!(proxy.connect().get("/").status(), 200);
            let frames = has_told.recv().unwrap();
            assert_eq!(parameter(&frames, TABLE).unwrap_or(4096), table);
            assert_eq!(parameter(&frames, WINDOW), Some(stream_window));
            let update = frames.iter().find(|frame| is_connection_window(frame)).unwrap();
            assert_eq!(update.number(), window - WINDOW_BYTES);
            proxy.end();
        }
    }

    fn streams_beyond_the_limit_are_refused(io) {
        let upstream = Upstream::echo();
        let proxy = Proxy::start(io, &front(upstream.port, "max_concurrent_streams: 3"));
        let mut raw = RawHttp2::connect(proxy.port);
        // Requests that do not end.
        for stream in [1, 3, 5, 7] {
            raw.get(stream, 4);
        }
        let refused = raw.frames_until(|frame| frame.kind == 3).unwrap().pop().unwrap();
        assert_eq!((refused.stream, refused.number()), (7, REFUSED));
        // One that is over makes room.
        raw.frame(0, 1, 3, b"body");
        raw.frames_until(|frame| frame.stream == 3 && frame.flags & 1 != 0).unwrap();
        raw.get(9, 5);
        let frames = raw.frames_until(|frame| frame.stream == 9 && frame.flags & 1 != 0).unwrap();
        assert!(frames.iter().all(|frame| frame.kind != 3));
        drop(raw);
        proxy.end();
    }

    fn connections_to_an_endpoint_have_no_more_streams_than_the_limit(io) {
        let upstream = Http2Upstream::start(100);
        let proxy = Proxy::start(io, &behind(upstream.port, "max_concurrent_streams: 2"));
        let client = Http2Client::connect(proxy.port);
        let requests = (0..12).map(|_| (http::Request::get("http://a/echo"), Vec::new(), None));
        assert!(client.all(requests.collect()).iter().all(|answer| answer.status == 200));
        let opened = upstream.connections();
        assert!((2..=6).contains(&opened), "{opened} connections");
        drop(client);
        proxy.end();
    }

    /// Names and values have a limit beside that of the whole head: 64 KiB, or what is configured.
    fn long_values_are_refused_and_others_pass(io) {
        const KIB: usize = 1024;
        let answered = "{match: {prefix: /}, direct_response: {status: 200}}".to_owned();
        for (option, most) in [("", 64 * KIB), ("max_header_field_size_kb: 96", 96 * KIB)] {
            let config = Config { routes: Some(answered.clone()), ..front(free_port(), option) };
            let proxy = Proxy::start(io, &config.manager("max_request_headers_kb: 256"));
            let client = Http2Client::connect(proxy.port);
            let get = |bytes: usize| {
                let request = http::Request::get("http://a/").header("x-long", "v".repeat(bytes));
                client.all(vec![(request, Vec::new(), None)]).remove(0).status
            };
            assert_eq!((get(most), get(most + 1), get(1)), (200, 431, 200), "{option}");
            assert_eq!(proxy.stat("http.test.downstream_cx_active"), 1);
            drop(client);
            proxy.end();
        }
        // Of an endpoint: its answers tell what it was sent.
        let upstream = Http2Upstream::start(100);
        for (option, status) in [("max_concurrent_streams: 100", 502), ("max_header_field_size_kb: 96", 200)] {
            let heads = "common_http_protocol_options: {max_response_headers_kb: 256}, explicit_http_config";
            let cluster =
                TO_HTTP2.replace("max_concurrent_streams: 100", option).replace("explicit_http_config", heads);
            let config = Config::to(upstream.port).cluster(&cluster).manager("max_request_headers_kb: 256");
            let proxy = Proxy::start(io, &config);
            let mut client = proxy.connect();
            for (bytes, status) in [(1, 200), (70 * KIB, status), (1, 200)] {
                let told = "v".repeat(bytes);
                let answer = client.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Type: {told}\r\n\r\n"));
                assert_eq!(answer.status(), status, "{option}");
            }
            drop(client);
            proxy.end();
        }
    }

    /// Each limit is kept where it was put: so many frames pass, and the next is one too many.
    fn floods_are_what_the_options_say(io) {
        const EMPTY: (u8, u32, &[u8]) = (0, 1, &[]);
        const PRIORITY: (u8, u32, &[u8]) = (2, 1, &[0, 0, 0, 0, 7]);
        const PING: (u8, u32, &[u8]) = (6, 0, &[0; 8]);
        let upstream = Upstream::echo();
        for (option, value, allowed, frame, counter) in [
            ("max_consecutive_inbound_frames_with_empty_payload", 4, 4, EMPTY, "inbound_empty_frames_flood"),
            // Per stream, and one.
            ("max_inbound_priority_frames_per_stream", 150, 300, PRIORITY, "inbound_priority_frames_flood"),
            ("max_inbound_priority_frames_per_stream", 3, 6, PRIORITY, "inbound_priority_frames_flood"),
            // One was the SETTINGS of the client.
            ("max_outbound_control_frames", 20, 19, PING, "outbound_control_flood"),
        ] {
            let proxy = Proxy::start(io, &front(upstream.port, &format!("{option}: {value}")));
            let counter = format!("http2.{counter}");
            let send = |raw: &mut RawHttp2, times: u32| {
                let (kind, stream, payload) = frame;
                (0..times).all(|_| raw.frame(kind, 0, stream, payload))
            };
            let mut raw = RawHttp2::connect(proxy.port);
            raw.get(1, 4);
            send(&mut raw, allowed);
            raw.frame(0, 1, 1, b"body");
            raw.frames_until(|frame| frame.stream == 1 && frame.flags & 1 != 0).expect("it is served");
            assert_eq!(proxy.stat(&counter), 0, "{option}: {value}");
            drop(raw);
            let mut raw = RawHttp2::connect(proxy.port);
            raw.get(1, 4);
            // Twice as many and more, lest a second ends among them, which begins to count anew.
            let times = if frame == PING { 2 * allowed + 2 } else { allowed + 1 };
            send(&mut raw, times);
            assert_eq!(raw.goaway(), Some(CALM), "{option}: {value}");
            assert_eq!(proxy.stat(&counter), 1, "{option}: {value}");
            proxy.end();
        }
    }

    /// As gRPC's peers send them, to find out how much is on its way.
    fn pings_with_data_are_no_flood(io) {
        let upstream = Upstream::answering(|_| ok(b"hello"));
        let proxy = Proxy::start(io, &front(upstream.port, "max_outbound_control_frames: 5"));
        let mut raw = RawHttp2::connect(proxy.port);
        for n in 0..30 {
            raw.get(2 * n + 1, 5);
            raw.frames_until(|frame| frame.kind == 0).expect("it is served");
            raw.frame(6, 0, 0, &[0; 8]);
            raw.frames_until(|frame| frame.kind == 6).expect("it is answered");
        }
        assert_eq!(proxy.stat("http2.outbound_control_flood"), 0);
        drop(raw);
        proxy.end();
    }

    fn window_updates_are_a_flood_by_the_data_that_was_sent(io) {
        let upstream = Upstream::echo();
        for value in [1, 100] {
            let option = format!("max_inbound_window_update_frames_per_data_frame_sent: {value}");
            let proxy = Proxy::start(io, &front(upstream.port, &option));
            let mut raw = RawHttp2::connect(proxy.port);
            raw.get(1, 5);
            let frames = raw.frames_until(|frame| frame.stream == 1 && frame.flags & 1 != 0).unwrap();
            let data = frames.iter().filter(|frame| frame.kind == 0).count();
            // Five, and two per stream, and twice as many as the option says per DATA frame.
            for _ in 0..5 + 2 * (1 + value * data) {
                raw.frame(8, 0, 0, &[0, 0, 0, 1]);
            }
            raw.frame(6, 0, 0, &[0; 8]);
            raw.frames_until(|frame| frame.kind == 6 && frame.flags & 1 != 0).expect("so many are allowed");
            raw.frame(8, 0, 0, &[0, 0, 0, 1]);
            assert_eq!(raw.goaway(), Some(CALM), "{value}");
            assert_eq!(proxy.stat("http2.inbound_window_update_frames_flood"), 1);
            proxy.end();
        }
    }

    fn requests_are_reset_as_often_as_the_options_say(io) {
        // It answers nothing: what is reset is under way.
        let upstream = Upstream::start(|peer| while peer.request().is_some() {});
        let proxy = Proxy::start(io, &front(upstream.port, "stream_reset_burst: 3, stream_reset_rate: 0"));
        let mut raw = RawHttp2::connect(proxy.port);
        for n in 1..=4 {
            let stream = 2 * n - 1;
            raw.get(stream, 5);
            // CANCEL.
            raw.frame(3, 0, stream, &[0, 0, 0, 8]);
            proxy.wait_for_stat("http.test.downstream_rq_rx_reset", u64::from(n));
            if n == 3 {
                raw.frame(6, 0, 0, &[0; 8]);
                raw.frames_until(|frame| frame.kind == 6 && frame.flags & 1 != 0).expect("so many are allowed");
                assert_eq!(proxy.stat("http.test.downstream_cx_protocol_error"), 0);
            }
        }
        assert_eq!(raw.goaway(), Some(CALM));
        assert_eq!(proxy.stat("http.test.downstream_cx_protocol_error"), 1);
        assert_eq!(proxy.stat("http.test.downstream_rq_too_many_premature_resets"), 0);
        proxy.end();
    }

    /// All of them come in one turn of the connection.
    fn requests_that_are_reset_as_they_come_end_no_connection(io) {
        let upstream = Upstream::echo();
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut raw = RawHttp2::connect(proxy.port);
        let asked_and_reset = |stream: u8| {
            let head = [0, 0, 6, 1, 5, 0, 0, 0, stream, 0x82, 0x86, 0x84, 0x41, 1, b'a'];
            [&head[..], &[0, 0, 4, 3, 0, 0, 0, 0, stream, 0, 0, 0, 8]].concat()
        };
        let all: Vec<u8> = (0..30).flat_map(|n| asked_and_reset(2 * n + 1)).collect();
        assert!(raw.write(&all));
        raw.get(61, 5);
        let answer = raw.frames_until(|frame| frame.kind == 1 && frame.stream == 61);
        assert!(answer.is_some(), "the connection lives");
        assert_eq!(proxy.stat("http.test.downstream_cx_protocol_error"), 0);
        drop(raw);
        proxy.end();
    }

    /// REFUSED_STREAM is a server's word; where the body is what meets it first, it is a reset like others all the same.
    fn reset_of_an_upload_counts_whatever_its_client_calls_it(io) {
        let upstream = Upstream::start(|peer| while peer.request().is_some() {});
        let proxy = Proxy::start(io, &front(upstream.port, "stream_reset_burst: 1, stream_reset_rate: 0"));
        let mut raw = RawHttp2::connect(proxy.port);
        for n in 1..=2 {
            let stream = 2 * n - 1;
            // :method POST, :scheme http, :path /, :authority a; its body is still to come.
            raw.frame(1, 4, stream, &[0x83, 0x86, 0x84, 0x41, 1, b'a']);
            proxy.wait_for_stat("cluster.upstream.upstream_rq_total", u64::from(n));
            raw.frame(3, 0, stream, &REFUSED.to_be_bytes());
            proxy.wait_for_stat("http.test.downstream_rq_rx_reset", u64::from(n));
        }
        assert_eq!(raw.goaway(), Some(CALM));
        assert_eq!(proxy.stat("http.test.downstream_cx_protocol_error"), 1);
        proxy.end();
    }

    fn client_that_does_not_answer_a_ping_is_gone(io) {
        let upstream = Upstream::echo();
        let options = "connection_keepalive: {interval: 0.1s, timeout: 1.5s, interval_jitter: {value: 0}}";
        let proxy = Proxy::start(io, &front(upstream.port, options));
        let mut raw = RawHttp2::connect(proxy.port);
        let is_ping = |frame: &Frame| frame.kind == 6 && frame.flags & 1 == 0;
        for _ in 0..3 {
            let ping = raw.frames_until(is_ping).unwrap().pop().unwrap();
            assert_eq!((ping.stream, ping.payload.len()), (0, 8));
            raw.frame(6, 1, 0, &ping.payload);
        }
        assert_eq!(proxy.stat("http2.keepalive_timeout"), 0);
        // The next is not answered.
        assert!(raw.frames_until(|_| false).is_none());
        assert_eq!(proxy.stat("http2.keepalive_timeout"), 1);
        until("it is closed", || proxy.stat("http.test.downstream_cx_active") == 0);
        proxy.end();
    }

    fn endpoint_that_does_not_answer_a_ping_is_gone(io) {
        let port = RawHttp2::upstream(|raw| {
            let is_ping = |frame: &Frame| frame.kind == 6 && frame.flags & 1 == 0;
            let Some(ping) = raw.frames_until(is_ping).and_then(|mut frames| frames.pop()) else { return };
            raw.frame(6, 1, 0, &ping.payload);
            // The next is not, and the request never.
            raw.frames_until(|_| false);
        });
        let options = "connection_keepalive: {interval: 0.1s, timeout: 1.5s}";
        let proxy = Proxy::start(io, &behind(port, options));
        let answer = proxy.connect().get("/");
        assert_eq!(answer.status(), 503);
        assert!(answer.text().ends_with("reset reason: connection termination"), "{}", answer.text());
        assert_eq!(proxy.stat("cluster.upstream.http2.keepalive_timeout"), 1);
        proxy.end();
    }

    fn endpoint_that_was_silent_is_pinged_with_the_next_request(io) {
        let (told, has_told) = std::sync::mpsc::channel();
        let told = std::sync::Mutex::new(told);
        // It answers requests, and no ping.
        let port = RawHttp2::server(move |raw| {
            raw.frame(4, 0, 0, &[]);
            while let Some(frame) = raw.read() {
                match (frame.kind, frame.flags & 1) {
                    (1, _) => {
                        raw.frame(1, 5, frame.stream, &[0x88]);
                    }
                    (6, 0) => told.lock().unwrap().send(()).unwrap(),
                    _ => {}
                }
            }
        });
        let options = "connection_keepalive: {connection_idle_interval: 1s, timeout: 0.5s}";
        let proxy = Proxy::start(io, &behind(port, options));
        let mut client = proxy.connect();
        let begun = std::time::Instant::now();
        for _ in 0..5 {
            assert_eq!(client.get("/").status(), 200);
        }
        let spoken = std::time::Instant::now();
        assert!(has_told.try_recv().is_err() || begun.elapsed().as_millis() >= 1000, "pinged though it has just spoken");
        until("it was silent for longer", || spoken.elapsed().as_millis() > 1100);
        assert_eq!(client.get("/").status(), 200);
        assert_eq!(has_told.recv_timeout(crate::harness::PATIENCE), Ok(()));
        proxy.wait_for_stat("cluster.upstream.http2.keepalive_timeout", 1);
        proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 0);
        proxy.end();
    }

    /// A window of zero: the response is whole here, and nobody takes it.
    fn stream_that_is_not_taken_in_time_is_reset_and_counted(io) {
        let upstream = Upstream::answering(|_| ok(&[b'x'; 20_000]));
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager("stream_flush_timeout: 0.8s"));
        let mut raw = RawHttp2::connect(proxy.port);
        raw.frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
        // Beside it another stream of the connection, whose window is open.
        raw.get(1, 5);
        raw.get(3, 5);
        raw.frame(8, 0, 3, &[0, 1, 0, 0]);
        let (mut taken, mut reset) = (0, None);
        while taken < 20_000 || reset.is_none() {
            let frame = raw.read().expect("the connection lives");
            match frame.kind {
                0 => {
                    assert_eq!(frame.stream, 3);
                    taken += frame.payload.len();
                }
                3 => {
                    assert_eq!((frame.stream, reset), (1, None));
                    reset = Some(frame.number());
                }
                _ => {}
            }
        }
        assert_eq!(reset, Some(INTERNAL), "what has come is no whole response");
        assert_eq!(proxy.stat(FLUSHED_LATE), 1);
        // The connection goes on, and others do.
        raw.get(5, 5);
        raw.frame(8, 0, 5, &[0, 1, 0, 0]);
        raw.frames_until(|frame| frame.stream == 5 && frame.flags & 1 != 0).expect("the connection lives");
        assert_eq!(Http2Client::connect(proxy.port).get("/").body.len(), 20_000);
        assert_eq!(proxy.stat(FLUSHED_LATE), 1);
        drop(raw);
        proxy.end();
    }

    /// By its own word, or by what bounds silence where the connection manager has no word about that.
    fn route_says_how_long_its_response_waits(io) {
        let upstream = Upstream::answering(|_| ok(&[b'x'; 20_000]));
        for said in ["flush_timeout: 0.5s", "idle_timeout: 0.5s"] {
            let mut config = Config::to(upstream.port);
            config.routes = Some(format!("{{match: {{prefix: /}}, route: {{cluster: upstream, {said}}}}}"));
            let proxy = Proxy::start(io, &config);
            let mut raw = RawHttp2::connect(proxy.port);
            raw.frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
            raw.get(1, 5);
            let frames = raw.frames_until(|frame| frame.kind == 3).expect("the connection lives");
            let reset = frames.last().map(|frame| (frame.stream, frame.number()));
            assert_eq!(reset, Some((1, INTERNAL)), "{said}");
            assert_eq!(proxy.stat(FLUSHED_LATE), 1, "{said}");
            drop(raw);
            proxy.end();
        }
    }

    /// Windows for everything, and nothing is read.
    fn client_that_reads_nothing_is_cut_and_counted(io) {
        let answer = ok(&[b'x'; 60_000]);
        let upstream = Upstream::answering(move |_| answer.clone());
        let config = Config::to(upstream.port)
            .manager("stream_flush_timeout: 0.5s, common_http_protocol_options: {idle_timeout: 2s}, delayed_close_timeout: 0.2s")
            .manager("stream_idle_timeout: 2s");
        let proxy = Proxy::start(io, &config);
        let mut raw = RawHttp2::connect(proxy.port);
        raw.keeps_little();
        opens_windows(&mut raw, 1 << 30);
        // Until what is between them is full, and the next response has no place.
        let mut asked = 0;
        while proxy.stat(FLUSHED_LATE) == 0 {
            asked += 1;
            assert!(asked < 1000, "somebody takes all of it");
            raw.get(2 * asked - 1, 5);
            until("it is answered", || {
                proxy.stat("http.test.downstream_rq_completed") == u64::from(asked) || proxy.stat(FLUSHED_LATE) > 0
            });
        }
        assert_eq!(Http2Client::connect(proxy.port).get("/").body.len(), 60_000);
        until("it is cut", || proxy.stat("http.test.downstream_cx_active") == 0);
        drop(raw);
        proxy.end();
    }

    /// They are whole, and their requests over: nobody but the client's resets end them before a limit passes.
    fn resets_of_responses_that_wait_for_their_turn_are_heard(io) {
        let answer = ok(&[b'x'; 3_000]);
        let upstream = Upstream::answering(move |_| answer.clone());
        let proxy = Proxy::start(io, &front(upstream.port, "stream_reset_burst: 1, stream_reset_rate: 0"));
        let mut raw = RawHttp2::connect(proxy.port);
        raw.keeps_little();
        opens_windows(&mut raw, 1 << 30);
        let sent = || proxy.stat("http.test.downstream_cx_tx_bytes_total");
        // Until nothing goes out any more, and the codec has as much as it takes.
        let (mut asked, mut without) = (0, 0);
        while without < 5 {
            assert!(asked < 10_000, "somebody takes all of it");
            let before = sent();
            for _ in 0..50 {
                asked += 1;
                raw.get(2 * asked - 1, 5);
            }
            let answered = || proxy.stat("http.test.downstream_rq_completed");
            until("they are answered", || answered() == u64::from(asked));
            without = if sent() == before { without + 1 } else { 0 };
        }
        for stream in [2 * asked - 3, 2 * asked - 1] {
            raw.frame(3, 0, stream, &[0, 0, 0, 8]);
        }
        until("they are heard", || proxy.stat("http.test.downstream_cx_protocol_error") == 1);
        drop(raw);
        proxy.end();
    }

    /// HTTP/1.1: a connection that is to end waits for its client as long.
    fn http1_client_that_reads_nothing_is_cut_and_counted(io) {
        let answer = ok(&vec![b'x'; 12 << 20]);
        let upstream = Upstream::answering(move |_| answer.clone());
        let config = Config::to(upstream.port)
            .listener("per_connection_buffer_limit_bytes: 33554432")
            .manager("stream_flush_timeout: 0.3s");
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        crate::harness::set_receive_buffer(client.stream(), 32 * 1024);
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let late = "http.test.downstream_cx_delayed_close_timeout";
        until("it is cut", || proxy.stat(late) == 1);
        until("it is closed", || proxy.stat("http.test.downstream_cx_active") == 0);
        assert_eq!(proxy.connect().get("/").body.len(), 12 << 20);
        assert_eq!((proxy.stat(late), proxy.stat(FLUSHED_LATE)), (1, 0));
        drop(client);
        proxy.end();
    }
}
