//! HTTP/2 connections shared by streams that get on and streams that do not: who stalls stops nobody else, and frames that say
//! nothing are no flood while others are between them.

use http::Request;

use crate::harness::{
    Config, Http2Client, Http2Upstream, Proxy, RawHttp2, TO_HTTP2, Upstream, ok, on_each_backend, pattern,
    until,
};

/// Streams that stall: with windows of 256 KiB they would hold 16 MiB.
const STALLED: u64 = 64;
const BODY_BYTES: usize = 600_000;

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
    fn clients_that_stall_leave_the_others_of_their_endpoint_alone(io) {
        let upstream = Http2Upstream::start(1000);
        let proxy = Proxy::start(io, &Config::to(upstream.port).cluster(TO_HTTP2).manager("codec_type: AUTO"));
        let paused = "cluster.upstream.upstream_flow_control_paused_reading_total";
        let path = format!("/body/{BODY_BYTES}");
        let bystander = Http2Client::connect(proxy.port);
        assert_eq!(bystander.get(&path).status, 200);
        let before = proxy.resident_bytes();
        let mut stalled: Vec<_> = (1..=STALLED).map(|number| {
            let mut raw = RawHttp2::connect(proxy.port);
            raw.keeps_little();
            let length = [path.len() as u8];
            raw.frame(1, 5, 1, &[&[0x82, 0x86, 0x44][..], &length, path.as_bytes(), &[0x41, 1, b'a']].concat());
            until("it stalls", || proxy.stat(paused) >= number);
            raw
        }).collect();
        for _ in 0..3 {
            let answer = bystander.get(&path);
            assert!(answer.status == 200 && answer.body == pattern(BODY_BYTES), "{} bytes", answer.body.len());
        }
        let grown = proxy.resident_bytes().saturating_sub(before);
        assert!(grown < 40 << 20, "{grown} bytes");
        // Those that stalled go on, one after the other, and lack nothing.
        for raw in &mut stalled {
            for stream in [0, 1] {
                raw.frame(8, 0, stream, &[0, 0x10, 0, 0]);
            }
            let mut body = Vec::<u8>::new();
            while let Some(frame) = raw.read() {
                if frame.kind == 0 {
                    body.extend(&frame.payload);
                    if frame.flags & 1 != 0 {
                        break;
                    }
                }
            }
            assert!(body == pattern(BODY_BYTES), "{} bytes", body.len());
        }
        assert_eq!(upstream.connections(), 1, "they shared it");
        drop((stalled, bystander));
        proxy.end();
    }

    fn uploads_that_stall_leave_the_others_of_their_client_alone(io) {
        let upstream = Upstream::start(|peer| {
            peer.keeps_little();
            while let Some(mut request) = peer.request_head() {
                while request.path() == "/stall" {
                    // Nothing is read for as long as the test lasts.
                    std::thread::park();
                }
                if !peer.body(&mut request) {
                    return;
                }
                peer.send(ok(&request.body));
            }
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let client = Http2Client::connect(proxy.port);
        let paused = "http.test.downstream_flow_control_paused_reading_total";
        for _ in 0..8 {
            client.stall("/stall", 8 << 20);
        }
        let send = |bytes: usize| {
            let answer = client.send(Request::post("http://a/"), &pattern(bytes), None);
            assert!(answer.status == 200 && answer.body == pattern(bytes), "{} bytes", answer.body.len());
        };
        until("all stall", || {
            send(1000);
            proxy.stat(paused) >= 8
        });
        for _ in 0..3 {
            send(BODY_BYTES);
        }
        drop(client);
        proxy.end();
    }

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
