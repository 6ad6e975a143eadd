//! Which protocol a connection speaks by its first bytes, wherever they are cut, and however long they take.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use super::listener_filters::{bootstrap, play};
use super::{FRONT, World, for_seeds};
use crate::base::clock::Now;
use crate::protocol::http2::guard::PREFACE;
use crate::runtime::sim::SimConfig;
use crate::runtime::{Runtime, TcpStream};
use crate::telemetry::HttpStat;

/// Virtual time in which a head has to arrive.
const HEADERS_MS: u64 = 2000;

fn world(seed: u64) -> World {
    let text = bootstrap("");
    let limited = "stream_idle_timeout: 600s\n          request_headers_timeout: 2s";
    World::start(seed, SimConfig::KIND, &text.replace("stream_idle_timeout: 600s", limited), 1)
}

/// What a client of HTTP/2 begins with: its preface, empty SETTINGS, and a GET that is complete.
fn http2_request() -> Vec<u8> {
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let head = [0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0x41, 1, b'a'];
    [&PREFACE[..], &settings, &head].concat()
}

/// Where the first stream's last frame ends, if it has come.
fn end_of_response(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some([a, b, c, kind, flags, stream @ ..]) = bytes[at..].first_chunk::<9>() {
        let end = at + 9 + u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if end > bytes.len() {
            return None;
        }
        if matches!(kind, 0 | 1) && u32::from_be_bytes(*stream) == 1 && flags & 1 != 0 {
            return Some(end);
        }
        at = end;
    }
    None
}

/// Writes `pieces`, resting for a millisecond between them; whether the request is answered with a whole response.
async fn ask(runtime: &Runtime, pieces: Vec<Vec<u8>>) -> bool {
    let front: SocketAddr = FRONT.parse().unwrap();
    let stream = TcpStream::connect(runtime, front, None, &[]).await.unwrap();
    for piece in pieces {
        assert!(stream.send_copy(&piece));
        stream.flush();
        runtime.sleep_until(Now(runtime.now().0 + 1_000_000)).await;
    }
    let mut received = Vec::new();
    while end_of_response(&received).is_none() {
        match stream.recv().await {
            Ok(Some(bytes)) => received.extend_from_slice(&bytes),
            Ok(None) | Err(_) => return false,
        }
    }
    received.windows(6).any(|six| six == b"served")
}

fn cuts(bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut ways: Vec<_> =
        (1..bytes.len()).map(|at| vec![bytes[..at].to_vec(), bytes[at..].to_vec()]).collect();
    ways.push(bytes.chunks(1).map(<[u8]>::to_vec).collect());
    ways
}

#[test]
fn preface_of_http2_is_known_wherever_it_is_cut() {
    for_seeds(2, |seed| {
        let world = world(seed);
        let ways = cuts(&http2_request());
        let count = ways.len() as u64;
        let done = Rc::new(Cell::new(false));
        let (over, runtime) = (Rc::clone(&done), world.clients.clone());
        world.clients.spawn(async move {
            for pieces in ways {
                let told = format!("{:?}", pieces.iter().map(Vec::len).collect::<Vec<_>>());
                assert!(ask(&runtime, pieces).await, "{told}");
            }
            over.set(true);
        });
        world.run(|| done.get());
        let ended = world.end();
        assert_eq!(ended.downstream(HttpStat::DownstreamCxHttp2Total), count);
        assert_eq!(ended.downstream(HttpStat::DownstreamRq2xx), count);
    });
}

#[test]
fn requests_of_http1_that_begin_like_a_preface_are_none_wherever_they_are_cut() {
    for_seeds(2, |seed| {
        let world = world(seed);
        let (mut clients, mut expected) = (Vec::new(), Vec::new());
        // The last is no method of HTTP/1, which says so in its own way.
        for (start, answer) in [("POST /", "200 OK"), ("PUT /", "200 OK"), ("PRI /", "400")] {
            let text =
                format!("{start} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let ways = cuts(text.as_bytes());
            expected.extend(std::iter::repeat_n(format!("HTTP/1.1 {answer}"), ways.len()));
            clients.extend(ways.into_iter().map(|pieces| (pieces, 1)));
        }
        let count = clients.len() as u64;
        for ((answer, _), expected) in play(&world, clients).into_iter().zip(expected) {
            let answer = String::from_utf8(answer.unwrap_or_default()).unwrap();
            assert!(answer.starts_with(&expected), "{expected}: {answer}");
        }
        let ended = world.end();
        assert_eq!(ended.downstream(HttpStat::DownstreamCxHttp1Total), count);
        assert_eq!(ended.downstream(HttpStat::DownstreamCxHttp2Total), 0);
    });
}

#[test]
fn preface_that_does_not_go_on_is_waited_for_as_a_head_is() {
    for_seeds(2, |seed| {
        let world = world(seed);
        let beginnings: Vec<_> = (1..12).map(|at| (vec![PREFACE[..at].to_vec()], 0)).collect();
        for (answer, took) in play(&world, beginnings) {
            let answer = answer.unwrap_or_default();
            assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
            // First nobody knows what it is, then that it is no request; and the client is waited for at the end.
            assert!((HEADERS_MS..3 * HEADERS_MS).contains(&took), "{took} ms");
        }
        let ended = world.end();
        assert_eq!(ended.downstream(HttpStat::DownstreamRqHeaderTimeout), 11);
    });
}
