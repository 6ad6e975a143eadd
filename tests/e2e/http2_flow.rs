//! Frames of HTTP/2 that say nothing are no flood while others are between them.

use crate::harness::{Config, Proxy, RawHttp2, TO_HTTP2, Upstream, ok, on_each_backend};

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
}
