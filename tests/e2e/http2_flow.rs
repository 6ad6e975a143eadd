//! Frames of HTTP/2 that say nothing are no flood while others are between them; a client that takes nothing holds back its own
//! stream alone.

use crate::harness::{
    Client, Config, Http2Upstream, Proxy, RawHttp2, TO_HTTP2, Upstream, ok, on_each_backend, pattern,
    set_receive_buffer, until,
};

/// A frame without content and end, on the first stream.
const VOID: [u8; 9] = [0, 0, 0, 0, 0, 0, 0, 0, 1];
/// A byte on the first stream.
const BYTE: [u8; 10] = [0, 0, 1, 0, 0, 0, 0, 0, 1, b'x'];
/// The end of the first stream.
const END: [u8; 9] = [0, 0, 0, 0, 1, 0, 0, 0, 1];

/// Bytes and frames that say nothing, by turns, and the end; many more of them than the codec takes.
fn bytes_and_voids() -> Vec<u8> {
    [[&BYTE[..], &VOID].concat().repeat(300), END.to_vec()].concat()
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

    /// What lay unread of some streams had used up the window that all of a connection share.
    fn clients_that_take_nothing_do_not_starve_others_on_the_same_connection(io) {
        let upstream = Http2Upstream::start(100);
        let config = Config::to(upstream.port).cluster(TO_HTTP2).arguments(&["--concurrency", "1"]);
        let proxy = Proxy::start(io, &config);
        let bytes = 16 << 20;
        let mut stalled: Vec<Client> = (0..12)
            .map(|_| {
                let mut client = proxy.connect();
                set_receive_buffer(client.stream(), 16 * 1024);
                client.send(format!("GET /body/{bytes} HTTP/1.1\r\nHost: a\r\n\r\n"));
                client
            })
            .collect();
        let paused = "cluster.upstream.upstream_flow_control_paused_reading_total";
        until("all are held back", || proxy.stat(paused) >= 12);
        let mut live = proxy.connect();
        for _ in 0..8 {
            let answer = live.get("/body/400000");
            assert!(answer.status() == 200 && answer.body == pattern(400_000), "{} bytes", answer.body.len());
        }
        let received = proxy.stat("cluster.upstream.upstream_cx_rx_bytes_total");
        assert!(received < 12 * (12 << 20), "each is held back by a window of its own: {received}");
        assert!(stalled.remove(0).response().body == pattern(bytes), "it goes on where it was");
        assert_eq!(upstream.connections(), 1);
        drop((stalled, live));
        proxy.wait_for_stat("cluster.upstream.upstream_rq_active", 0);
        proxy.end();
    }
}
