//! A few seconds of everything at once. The seed is printed; `RINGWAY_SOAK_SEED` sets it, `RINGWAY_SOAK_SECONDS` the time.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::harness::{Client, Config, Message, Proxy, Random, Upstream, chunked, ok, on_each_backend};

const CLIENTS: u64 = 8;
const LARGE: usize = 1 << 20;
/// A slow client's pause.
const BETWEEN_PIECES: Duration = Duration::from_millis(1);
/// How much resident memory may grow from one round to the next, in bytes: what clients that abort leave is given back, so
/// only a leak grows with the number of requests.
const GROWTH_BYTES_MAX: u64 = 4 << 20;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The body that the upstream gives for a path: `/SIZE/SEED`, twice over the request's own body's length and sum.
fn expected(path: &str, body: &[u8]) -> Vec<u8> {
    let mut parts = path.split('/').skip(1).map(|part| part.parse::<u64>().unwrap());
    let (size, seed) = (parts.next().unwrap(), parts.next().unwrap());
    let mut text = Random::new(seed).bytes(usize::try_from(size).unwrap());
    let sum = body.iter().fold(0_u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    text.extend_from_slice(format!("|{}:{sum}", body.len()).as_bytes());
    text
}

/// Answers by length or in chunks, whole or broken off, as the request asks.
fn answer(request: &Message) -> Vec<u8> {
    let body = expected(request.path(), &request.body);
    match request.header("x-style") {
        Some("chunked") => {
            let pieces = body.chunks(10_000).collect::<Vec<_>>();
            [&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..], &chunked(&pieces, "")].concat()
        }
        Some("interim") => [&b"HTTP/1.1 103 Early Hints\r\n\r\n"[..], &ok(&body)].concat(),
        _ => ok(&body),
    }
}

fn random_request(random: &mut Random) -> (String, Vec<u8>, Vec<u8>) {
    let sizes = [0, 1, 100, 4096, 5000, 70_000];
    let size = if random.below(20) == 0 { LARGE } else { sizes[random.below(sizes.len())] };
    let path = format!("/{size}/{}", random.next() % 1000);
    let style = ["length", "chunked", "interim"][random.below(3)];
    let head = format!("Host: a\r\nX-Style: {style}\r\n");
    match random.below(4) {
        0 | 1 => {
            let text = format!("GET {path} HTTP/1.1\r\n{head}\r\n").into_bytes();
            (path, Vec::new(), text)
        }
        2 => {
            let length = if random.below(10) == 0 { LARGE } else { random.below(9000) };
            let body = random.bytes(length);
            let mut text =
                format!("POST {path} HTTP/1.1\r\n{head}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
            text.extend_from_slice(&body);
            (path, body, text)
        }
        _ => {
            let length = 1 + random.below(20_000);
            let body = random.bytes(length);
            let mut text =
                format!("POST {path} HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
            let pieces = body.chunks(1 + random.below(5000)).collect::<Vec<_>>();
            text.extend(chunked(&pieces, ""));
            (path, body, text)
        }
    }
}

/// One client's life; how many responses were checked.
fn client(port: u16, seed: u64, until: Instant) -> u64 {
    let mut random = Random::new(seed);
    let mut checked = 0;
    while Instant::now() < until {
        let mut client = Client::connect(port);
        for _ in 0..random.below(20) {
            let batch = (0..1 + random.below(4)).map(|_| random_request(&mut random)).collect::<Vec<_>>();
            let bytes = batch.iter().flat_map(|(_, _, text)| text.iter().copied()).collect::<Vec<_>>();
            // Pipelined beyond what sockets and watermarks hold, a client must read while it writes.
            let mut writer = client.stream().try_clone().unwrap();
            let abort_at = (random.below(8) == 0).then(|| random.below(bytes.len()));
            let sent = bytes[..abort_at.unwrap_or(bytes.len())].to_vec();
            let slow_writer = random.below(6) == 0;
            let writing = std::thread::spawn(move || {
                if !slow_writer {
                    return writer.write_all(&sent);
                }
                // In small pieces, and now and then a pause: what arrives is cut everywhere.
                sent.chunks(1 + sent.len() / 64).try_for_each(|piece| {
                    std::thread::park_timeout(BETWEEN_PIECES);
                    writer.write_all(piece)
                })
            });
            let slow_reader = random.below(6) == 0;
            if abort_at.is_some() {
                if random.below(2) == 0 {
                    client.reset_on_close();
                }
                let _ = client.stream().shutdown(std::net::Shutdown::Both);
                let _ = writing.join().unwrap();
                break;
            }
            for (path, body, _) in &batch {
                if slow_reader {
                    std::thread::park_timeout(BETWEEN_PIECES * 20);
                }
                let response = client.response();
                assert_eq!(response.status(), 200, "seed {seed}: {path}");
                assert!(response.body == expected(path, body), "seed {seed}: {path} came back changed");
                checked += 1;
            }
            writing.join().unwrap().unwrap();
        }
    }
    checked
}

on_each_backend! {
    fn everything_at_once_stays_exact_and_leaves_nothing_behind(io) {
        let seed = setting("RINGWAY_SOAK_SEED").unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            now.as_secs() * 1_000_003 + u64::from(now.subsec_nanos())
        });
        println!("RINGWAY_SOAK_SEED={seed}");
        let upstream = Upstream::answering(answer);
        let proxy = Proxy::start(io, &Config::to(upstream.port).arguments(&["--concurrency", "2"]));
        let port = proxy.port;
        let seconds = setting("RINGWAY_SOAK_SECONDS").unwrap_or(3);
        let round = |seed: u64| {
            let until = Instant::now() + Duration::from_secs(seconds.div_ceil(2));
            let clients = (0..CLIENTS)
                .map(|number| std::thread::spawn(move || client(port, seed.wrapping_add(number), until)))
                .collect::<Vec<_>>();
            let checked = clients.into_iter().map(|client| client.join().unwrap()).sum::<u64>();
            println!("{checked} responses checked");
            assert!(checked > 0);
            proxy.wait_until_idle();
        };
        round(seed);
        let resident = proxy.resident_bytes();
        round(seed.wrapping_add(CLIENTS));
        crate::harness::until("memory is as it was after the first round", || {
            proxy.resident_bytes() <= resident + GROWTH_BYTES_MAX
        });
        for gauge in [
            "cluster.upstream.upstream_rq_active",
            "cluster.upstream.upstream_rq_pending_active",
            "http.test.downstream_cx_http1_active",
        ] {
            proxy.wait_for_stat(gauge, 0);
        }
        assert_eq!(proxy.stat("ringway.panics"), 0);
        assert_eq!(proxy.stat("cluster.upstream.upstream_cx_protocol_error"), 0);
        assert_eq!(proxy.stat("http.test.downstream_cx_protocol_error"), 0);
        // What the ring keeps ready for receiving is out of the pool: up to 512 small chunks per worker after a burst.
        let kept = if io == crate::harness::Io::Epoll { 0 } else { 2 * 512 };
        crate::harness::until("chunks are back in the pool", || proxy.stat("ringway.buffer.chunks_in_use") <= kept);
        proxy.end();
    }
}
