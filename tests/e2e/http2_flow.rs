//! Frames of HTTP/2 that say nothing, or little: no flood while others are between them, or while nobody reads.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::harness::{Config, PATIENCE, Proxy, RawHttp2, TO_HTTP2, Upstream, ok, on_each_backend, until};

/// A frame without content and end, on the first stream.
const VOID: [u8; 9] = [0, 0, 0, 0, 0, 0, 0, 0, 1];
/// A byte on the first stream.
const BYTE: [u8; 10] = [0, 0, 1, 0, 0, 0, 0, 0, 1, b'x'];
/// The end of the first stream.
const END: [u8; 9] = [0, 0, 0, 0, 1, 0, 0, 0, 1];

/// SETTINGS_INITIAL_WINDOW_SIZE of zero.
const NO_WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 0];
/// SETTINGS_ENABLE_CONNECT_PROTOCOL: 1.
const ENABLE_CONNECT: [u8; 6] = [0, 8, 0, 0, 0, 1];
/// A request for a WebSocket.
const CHAT: &[u8] = b"\x02\x07CONNECT\x00\x09:protocol\x09websocket\x86\x84\x41\x01a";

/// Bytes and frames that say nothing, by turns, and the end; many more of them than the codec takes.
fn bytes_and_voids() -> Vec<u8> {
    [[&BYTE[..], &VOID].concat().repeat(300), END.to_vec()].concat()
}

/// Bytes of a short message, and of its frame.
const SHORT: usize = 20;
const SHORT_FRAME: usize = 9 + SHORT;

/// So many short messages on the first stream, and the end: more bytes than are taken for a receiver that has stopped, fewer than
/// the windows let in.
fn short_messages(count: usize) -> Vec<u8> {
    let frame = [&[0, 0, SHORT as u8, 0, 0, 0, 0, 0, 1][..], &[b'x'; SHORT]].concat();
    [frame.repeat(count), END.to_vec()].concat()
}

/// Opens the windows of the connection and of the first stream.
fn opens_windows(raw: &mut RawHttp2) {
    for stream in [0, 1] {
        raw.frame(8, 0, stream, &(1u32 << 20).to_be_bytes());
    }
}

/// Acknowledges the peer's SETTINGS: it counts with the windows that they tell from then on.
fn acknowledges(raw: &mut RawHttp2) {
    raw.frame(4, 1, 0, &[]);
}

/// A client that counts with the windows that it is told.
fn connects(port: u16) -> RawHttp2 {
    let mut raw = RawHttp2::connect(port);
    // The connection's window comes behind the SETTINGS.
    raw.frames_until(|frame| frame.kind == 8).unwrap();
    acknowledges(&mut raw);
    raw
}

/// WebSockets of clients of HTTP/2 go to an endpoint that speaks it.
fn tunnels_to(port: u16) -> Config {
    let config = Config::to(port).cluster(TO_HTTP2).manager("upgrade_configs: [{upgrade_type: websocket}]");
    config.manager("http2_protocol_options: {allow_connect: true}")
}

/// Waits until so many short messages of clients have come.
fn have_come(proxy: &Proxy, count: usize) {
    let come = || proxy.stat("http.test.downstream_cx_rx_bytes_total");
    until("all of them have come", || come() >= (count * SHORT_FRAME) as u64);
}

/// So many short messages wait until their endpoint may go on, and arrive there; the client's connection lives.
fn wait_and_arrive(
    proxy: Proxy,
    mut raw: RawHttp2,
    count: usize,
    go: &Sender<()>,
    has_heard: &Receiver<usize>,
) {
    have_come(&proxy, count);
    go.send(()).unwrap();
    assert_eq!(has_heard.recv_timeout(PATIENCE), Ok(count * SHORT));
    assert!(raw.frames_until(|frame| frame.kind == 1).is_some(), "the connection lives");
    assert_eq!(proxy.stat("http.test.downstream_cx_protocol_error"), 0);
    drop(raw);
    proxy.end();
}

/// Answers the connection's second request.
fn answers_another(raw: &mut RawHttp2) {
    if raw.frames_until(|frame| frame.kind == 1).is_some() {
        raw.frame(1, 5, 3, &[0x88]);
    }
    while raw.read().is_some() {}
}

/// So many short messages of the endpoint come, and another request has its answer on the same connection.
fn others_go_on(proxy: &Proxy, count: usize) {
    let come = || proxy.stat("cluster.upstream.upstream_cx_rx_bytes_total");
    until("all of them have come", || come() >= (count * SHORT_FRAME) as u64);
    assert_eq!(proxy.connect().get("/").status(), 200);
    assert_eq!(proxy.stat("cluster.upstream.upstream_cx_total"), 1, "the other's connection");
}

/// Bytes of data up to their end.
fn data_to_the_end(raw: &mut RawHttp2) -> usize {
    let frames = raw.frames_until(|frame| frame.kind == 3 || frame.kind == 0 && frame.flags & 1 != 0);
    let frames = frames.expect("the connection lives");
    assert_eq!(frames.last().unwrap().kind, 0, "reset");
    frames.iter().filter(|frame| frame.kind == 0).map(|frame| frame.payload.len()).sum()
}

on_each_backend! {
    fn frames_that_say_nothing_between_others_are_no_flood_of_the_client(io) {
        let upstream = Upstream::start(|peer| while let Some(request) = peer.request() { peer.send(ok(&request.body)) });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        for cut in [1, 7, 5000] {
            let mut raw = RawHttp2::connect(proxy.port);
            raw.get(1, 4);
            bytes_and_voids().chunks(cut).for_each(|piece| assert!(raw.write(piece)));
            let mut body = 0;
            while let Some(frame) = raw.read() {
                assert!(frame.kind != 7 && frame.kind != 3, "{frame:?}");
                if frame.kind == 0 {
                    body += frame.payload.len();
                    if frame.flags & 1 != 0 {
                        break;
                    }
                }
            }
            assert_eq!(body, 300, "{cut}");
        }
        assert_eq!(proxy.stat("http2.inbound_empty_frames_flood"), 0);
        proxy.end();
    }

    fn frames_that_say_nothing_between_others_are_no_flood_of_the_endpoint(io) {
        let upstream = RawHttp2::upstream(|raw| {
            raw.frame(1, 4, 1, &[0x88]);
            raw.write(&bytes_and_voids());
            while raw.read().is_some() {}
        });
        let proxy = Proxy::start(io, &Config::to(upstream).cluster(TO_HTTP2));
        let answer = proxy.connect().get("/");
        assert_eq!((answer.status(), answer.body.len()), (200, 300));
        assert_eq!(proxy.stat("cluster.upstream.http2.inbound_empty_frames_flood"), 0);
        proxy.end();
    }

    fn short_messages_to_a_client_that_does_not_read_cost_the_others_nothing(io) {
        const MESSAGES: usize = 10_000;
        let upstream = RawHttp2::upstream(|raw| {
            acknowledges(raw);
            raw.frame(1, 4, 1, &[0x88]);
            raw.write(&short_messages(MESSAGES));
            answers_another(raw);
        });
        let proxy = Proxy::start(io, &Config::to(upstream).cluster(TO_HTTP2));
        let mut slow = RawHttp2::connect(proxy.port);
        slow.frame(4, 0, 0, &NO_WINDOW);
        slow.get(1, 5);
        others_go_on(&proxy, MESSAGES);
        opens_windows(&mut slow);
        assert_eq!(data_to_the_end(&mut slow), MESSAGES * SHORT);
        assert_eq!(proxy.stat("cluster.upstream.upstream_cx_protocol_error"), 0);
        drop(slow);
        proxy.end();
    }

    fn short_messages_of_a_request_that_was_given_up_cost_the_others_nothing(io) {
        const MESSAGES: usize = 10_000;
        let upstream = RawHttp2::upstream(|raw| {
            acknowledges(raw);
            raw.frame(1, 4, 1, &[0x88]);
            // As if they had been on their way.
            if raw.frames_until(|frame| frame.kind == 3).is_some() {
                raw.write(&short_messages(MESSAGES));
            }
            answers_another(raw);
        });
        let proxy = Proxy::start(io, &Config::to(upstream).cluster(TO_HTTP2));
        let mut raw = RawHttp2::connect(proxy.port);
        raw.get(1, 5);
        raw.frames_until(|frame| frame.kind == 1).unwrap();
        raw.frame(3, 0, 1, &[0, 0, 0, 8]);
        others_go_on(&proxy, MESSAGES);
        assert_eq!(proxy.stat("cluster.upstream.upstream_cx_protocol_error"), 0);
        drop(raw);
        proxy.end();
    }

    fn short_messages_that_come_faster_than_they_go_on_end_no_connection(io) {
        const MESSAGES: usize = 10_000;
        let upstream = RawHttp2::upstream(|raw| {
            acknowledges(raw);
            raw.frame(1, 4, 1, &[0x88]);
            raw.write(&short_messages(MESSAGES));
            while raw.read().is_some() {}
        });
        let proxy = Proxy::start(io, &Config::to(upstream).cluster(TO_HTTP2));
        let mut raw = RawHttp2::connect(proxy.port);
        raw.get(1, 5);
        opens_windows(&mut raw);
        assert_eq!(data_to_the_end(&mut raw), MESSAGES * SHORT);
        assert_eq!(proxy.stat("cluster.upstream.upstream_cx_protocol_error"), 0);
        drop(raw);
        proxy.end();
    }

    fn short_messages_to_an_endpoint_that_does_not_read_wait_and_arrive(io) {
        const MESSAGES: usize = 12_500;
        let (go, may_go) = channel::<()>();
        let (heard, has_heard) = channel();
        let (may_go, heard) = (Mutex::new(may_go), Mutex::new(heard));
        let upstream = RawHttp2::upstream(move |raw| {
            may_go.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            opens_windows(raw);
            heard.lock().unwrap().send(data_to_the_end(raw)).unwrap();
            raw.frame(1, 5, 1, &[0x88]);
            while raw.read().is_some() {}
        });
        let proxy = Proxy::start(io, &Config::to(upstream).cluster(TO_HTTP2));
        let mut raw = connects(proxy.port);
        raw.get(1, 4);
        assert!(raw.write(&short_messages(MESSAGES)));
        wait_and_arrive(proxy, raw, MESSAGES, &go, &has_heard);
    }

    fn short_messages_before_their_tunnel_is_made_wait_and_arrive(io) {
        const MESSAGES: usize = 12_500;
        let (go, may_go) = channel::<()>();
        let (heard, has_heard) = channel();
        let (may_go, heard) = (Mutex::new(may_go), Mutex::new(heard));
        let upstream = RawHttp2::server(move |raw| {
            raw.frame(4, 0, 0, &ENABLE_CONNECT);
            raw.frames_until(|frame| frame.kind == 1).unwrap();
            may_go.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            opens_windows(raw);
            raw.frame(1, 4, 1, &[0x88]);
            heard.lock().unwrap().send(data_to_the_end(raw)).unwrap();
            while raw.read().is_some() {}
        });
        let proxy = Proxy::start(io, &tunnels_to(upstream));
        let mut raw = connects(proxy.port);
        raw.frame(1, 4, 1, CHAT);
        assert!(raw.write(&short_messages(MESSAGES)));
        wait_and_arrive(proxy, raw, MESSAGES, &go, &has_heard);
    }

    fn short_messages_to_a_tunnel_whose_endpoint_has_broken_off_end_no_connection(io) {
        const MESSAGES: usize = 12_500;
        let upstream = RawHttp2::server(|raw| {
            raw.frame(4, 0, 0, &ENABLE_CONNECT);
            raw.frames_until(|frame| frame.kind == 1).unwrap();
            acknowledges(raw);
            raw.frame(1, 4, 1, &[0x88]);
            // More than is taken for a client that has stopped.
            for _ in 0..12 {
                raw.frame(0, 0, 1, &[b'x'; 16_000]);
            }
            raw.frame(3, 0, 1, &[0, 0, 0, 8]);
            while raw.read().is_some() {}
        });
        let proxy = Proxy::start(io, &tunnels_to(upstream));
        let mut raw = connects(proxy.port);
        raw.frame(4, 0, 0, &NO_WINDOW);
        raw.frame(1, 4, 1, CHAT);
        raw.frames_until(|frame| frame.kind == 1).unwrap();
        proxy.wait_for_stat("cluster.upstream.http2.rx_reset", 1);
        assert!(raw.write(&short_messages(MESSAGES)));
        have_come(&proxy, MESSAGES);
        opens_windows(&mut raw);
        assert!(raw.frames_until(|frame| frame.kind == 3).is_some(), "the connection lives");
        assert_eq!(proxy.stat("http.test.downstream_cx_protocol_error"), 0);
        drop(raw);
        proxy.end();
    }

    fn short_messages_behind_a_response_that_is_not_taken_end_no_connection(io) {
        const MESSAGES: usize = 12_500;
        let upstream = RawHttp2::upstream(|raw| {
            raw.frame(1, 4, 1, &[0x88]);
            raw.frame(0, 1, 1, b"early");
            while raw.read().is_some() {}
        });
        let proxy = Proxy::start(io, &Config::to(upstream).cluster(TO_HTTP2));
        let mut raw = connects(proxy.port);
        raw.frame(4, 0, 0, &NO_WINDOW);
        raw.get(1, 4);
        raw.frames_until(|frame| frame.kind == 1).unwrap();
        assert!(raw.write(&short_messages(MESSAGES)));
        have_come(&proxy, MESSAGES);
        opens_windows(&mut raw);
        assert_eq!(data_to_the_end(&mut raw), 5);
        assert_eq!(proxy.stat("http.test.downstream_cx_protocol_error"), 0);
        drop(raw);
        proxy.end();
    }
}
