//! Clients and endpoints that do not keep to TLS, or end without saying so: what it costs, what it counts as, and that no
//! body passes for whole.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;

use super::exchange::Weather;
use super::tls::Tls;
use super::{FRONT, World};
use crate::base::clock::Now;
use crate::base::limits;
use crate::base::rng::Rng;
use crate::protocol::transport::Transport;
use crate::runtime::sim::SimConfig;
use crate::runtime::{Runtime, TcpStream};
use crate::telemetry::{ClusterStat, ListenerStat};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nX-Id: 0\r\nConnection: close\r\n\r\n";

fn world(seed: u64) -> (World, &'static Tls) {
    let tls = Tls::unshared();
    let bootstrap = super::soak::bootstrap(&mut Rng::from_seed(seed), Weather::Faulty);
    (World::start_with(seed, SimConfig::KIND, &bootstrap, 1, Some(tls)), tls)
}

fn listener(world: &World, stat: ListenerStat) -> u64 {
    use crate::telemetry::names::Stats;
    world.registry.listener("sim").value(stat.index()).0
}

async fn connect(runtime: &Runtime) -> TcpStream {
    TcpStream::connect(runtime, FRONT.parse::<std::net::SocketAddr>().unwrap(), None, &[]).await.unwrap()
}

/// Runs a client to its end.
fn play(world: &World, client: impl AsyncFnOnce(Runtime) + 'static) {
    let done = Rc::new(Cell::new(false));
    let (over, runtime) = (Rc::clone(&done), world.clients.clone());
    world.clients.spawn(async move {
        client(runtime).await;
        over.set(true);
    });
    world.run(|| done.get());
}

/// Everything up to the end; whether that was an orderly one.
async fn read_all(stream: &Transport) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    loop {
        match poll_fn(|_| stream.poll_recv()).await {
            Ok(Some(bytes)) => all.extend_from_slice(&bytes),
            Ok(None) => return (all, !stream.is_truncated()),
            Err(_) => return (all, false),
        }
    }
}

#[test]
fn silent_and_slow_handshakes_hold_little_and_end_in_time() {
    let (world, _) = world(1);
    // A hello that is never whole, a byte at a time.
    for bytes in [&b""[..], &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]] {
        let proxy = world.cores[0].2.clone();
        play(&world, async move |runtime: Runtime| {
            let stream = connect(&runtime).await;
            let begun = runtime.now();
            for byte in bytes {
                assert!(stream.send_copy(&[*byte]));
                stream.flush();
                runtime.sleep_until(Now(runtime.now().0 + 1_000_000_000)).await;
                assert!(proxy.leaks().chunks <= 1);
            }
            assert!(matches!(stream.recv().await, Ok(None) | Err(_)), "it is ended");
            let took = runtime.now().since(begun).as_millis() as u64;
            let limit = limits::TLS_HANDSHAKE_MS;
            assert!((limit - 1000..limit + 2000).contains(&took), "{took} ms");
        });
    }
    assert_eq!(listener(&world, ListenerStat::DownstreamCxTransportSocketConnectTimeout), 2);
    assert_eq!(listener(&world, ListenerStat::SslConnectionError), 0);
    world.end();
}

#[test]
fn client_that_speaks_no_tls_is_told_by_an_alert() {
    let (world, _) = world(2);
    play(&world, async |runtime: Runtime| {
        let stream = connect(&runtime).await;
        assert!(stream.send_copy(REQUEST));
        stream.flush();
        let (answer, orderly) = read_all(&stream.into()).await;
        // A fatal alert, then the end.
        assert_eq!((answer.first(), answer.len(), orderly), (Some(&21), 7, true));
    });
    assert_eq!(listener(&world, ListenerStat::SslConnectionError), 1);
    assert_eq!(listener(&world, ListenerStat::SslHandshake), 0);
    world.end();
}

#[test]
fn later_connections_resume_the_first_ones_session() {
    let (world, tls) = world(3);
    let endpoint = world.endpoint(0);
    let serving = world.servers.clone();
    world.servers.spawn(async move {
        loop {
            let socket = poll_fn(|_| endpoint.poll_accept()).await.unwrap();
            let stream = tls.accept(socket);
            serving.spawn(async move { answer(&stream, b"", true).await });
        }
    });
    for _ in 0..3 {
        play(&world, async move |runtime: Runtime| {
            let (answer, orderly) = ask(&runtime, tls).await;
            // The second endpoint is not there.
            assert!(orderly && (answer.starts_with(b"HTTP/1.1 200") || answer.starts_with(b"HTTP/1.1 503")));
        });
    }
    assert_eq!(listener(&world, ListenerStat::SslHandshake), 3);
    assert_eq!(listener(&world, ListenerStat::SslSessionReused), 2);
    assert_eq!(listener(&world, ListenerStat::SslNoCertificate), 3);
    world.end();
}

async fn ask(runtime: &Runtime, tls: &Tls) -> (Vec<u8>, bool) {
    let stream = tls.connect(connect(runtime).await);
    stream.tls().unwrap().handshake().await.unwrap();
    assert!(stream.send_copy(REQUEST));
    stream.flush();
    read_all(&stream).await
}

/// An endpoint's connection: an answer that only its end delimits, announced or not.
async fn answer(stream: &Transport, body: &[u8], announced: bool) {
    let tls = stream.tls().unwrap();
    if tls.handshake().await.is_err() {
        return;
    }
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(Some(bytes)) = poll_fn(|_| stream.poll_recv()).await else { return };
        head.extend_from_slice(&bytes);
    }
    assert!(stream.send_copy(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n") && stream.send_copy(body));
    stream.flush();
    let _ = poll_fn(|_| stream.poll_sent(0)).await;
    if announced {
        stream.shutdown_write();
    } else {
        tls.socket().shutdown_write();
    }
    poll_fn(|_| stream.poll_rest()).await;
}

/// Without TLS's own end anybody on the way can cut such a body off: it must not pass for whole.
#[test]
fn body_that_only_an_unannounced_end_delimits_fails_as_truncated() {
    for announced in [true, false] {
        let (world, tls) = world(4);
        for index in 0..2 {
            let (endpoint, serving) = (world.endpoint(index), world.servers.clone());
            world.servers.spawn(async move {
                loop {
                    let socket = poll_fn(|_| endpoint.poll_accept()).await.unwrap();
                    let stream = tls.accept(socket);
                    serving.spawn(async move { answer(&stream, &[b'x'; 5000], announced).await });
                }
            });
        }
        let seen = Rc::new(RefCell::new(None));
        let see = Rc::clone(&seen);
        play(&world, async move |runtime: Runtime| *see.borrow_mut() = Some(ask(&runtime, tls).await));
        let (answer, orderly) = seen.take().unwrap();
        // A reset may overtake it.
        assert!(!announced || answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert_eq!((answer.ends_with(b"\r\n0\r\n\r\n"), orderly), (announced, announced));
        let ended = world.end();
        assert_eq!(ended.cluster(ClusterStat::SslHandshake), 1);
    }
}
