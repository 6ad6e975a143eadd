//! The TCP relays over loopback: every byte, each side's end behind its last one, and a reset as one.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::{Work, serve};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
const OURS: [(&str, Work); 4] =
    [("ring", Work::Tcp), ("ring", Work::Splice), ("epoll", Work::Tcp), ("epoll", Work::Splice)];
const OTHERS: [(&str, Work); 2] = [("monoio", Work::Tcp), ("glommio", Work::Tcp)];

/// A relay, which serves as long as the tests run, and the server that it connects to.
struct Relay {
    named: String,
    address: SocketAddr,
    server: TcpListener,
    /// Connected when it was found to listen.
    first: Option<TcpStream>,
}

impl Relay {
    /// `None`: this host has no io_uring, and need not have it (`RINGWAY_REQUIRE_IO_URING`).
    fn start(name: &'static str, work: Work, ports: &mut impl Iterator<Item = u16>) -> Option<Self> {
        let named = format!("{name}, {work:?}");
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        server.set_nonblocking(true).unwrap();
        let upstream = server.local_addr().unwrap();
        let mut addresses = ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let address = addresses.find(|address| TcpListener::bind(address).is_ok()).unwrap();
        let serving = thread::spawn(move || serve(name, work, address, upstream));
        let due = Instant::now() + PATIENCE;
        loop {
            match TcpStream::connect(address) {
                Ok(first) => return Some(Self { named, address, server, first: Some(first) }),
                Err(_) if serving.is_finished() => break,
                Err(error) => assert!(Instant::now() < due, "{named}: {error}"),
            }
            thread::yield_now();
        }
        let ended = serving.join().unwrap();
        let is_required = name == "epoll" || std::env::var_os("RINGWAY_REQUIRE_IO_URING").is_some();
        assert!(!is_required, "{named}: {ended:?}");
        println!("{named} not run: {ended:?}");
        None
    }

    /// Both ends of a new relayed connection: the client's and the server's.
    fn connect(&mut self) -> [TcpStream; 2] {
        let client = self.first.take().unwrap_or_else(|| TcpStream::connect(self.address).unwrap());
        let due = Instant::now() + PATIENCE;
        let server = loop {
            match self.server.accept() {
                Ok((server, _)) => break server,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    assert!(Instant::now() < due, "{}: no connection", self.named);
                }
                Err(error) => panic!("{}: {error}", self.named),
            }
            thread::yield_now();
        };
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
            end.set_write_timeout(Some(PATIENCE)).unwrap();
        }
        [client, server]
    }
}

/// Those of the relays that this host has, on ports that the kernel does not give out itself: who asks there before
/// somebody listens never meets himself.
fn relays(
    first_port: u16,
    which: impl IntoIterator<Item = (&'static str, Work)>,
) -> impl Iterator<Item = Relay> {
    let mut ports = first_port..32_000;
    which.into_iter().filter_map(move |(name, work)| Relay::start(name, work, &mut ports))
}

/// Bytes whose places can be told apart.
fn content(seed: u64, count: u64) -> Vec<u8> {
    (0..count).map(|at| ((seed + at).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn send(mut end: &TcpStream, content: &[u8]) {
    end.write_all(content).unwrap();
    end.shutdown(Shutdown::Write).unwrap();
}

fn receive(mut end: &TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    end.read_to_end(&mut received).unwrap();
    received
}

/// One end sends and ends its direction, the other one receives it all.
fn pass(named: &str, from: &TcpStream, to: &TcpStream, content: &[u8]) {
    thread::scope(|scope| {
        scope.spawn(|| send(from, content));
        let received = receive(to);
        assert!(received == content, "{named}: {} bytes instead of {}", received.len(), content.len());
    });
}

#[test]
fn bytes_pass_both_ways_and_each_end_by_itself() {
    let (much, more, little) = (content(1, 5_000_001), content(2, 3_000_007), content(3, 190));
    for mut relay in relays(10_000, OURS.into_iter().chain(OTHERS)) {
        let named = relay.named.clone();
        // One direction goes on after the other has ended, whichever that is.
        for (first, second) in [(&much, &more), (&little, &much), (&much, &little), (&Vec::new(), &more)] {
            let [client, server] = relay.connect();
            pass(&named, &client, &server, first);
            pass(&named, &server, &client, second);
            let [client, server] = relay.connect();
            pass(&named, &server, &client, first);
            pass(&named, &client, &server, second);
        }
        let [client, server] = relay.connect();
        thread::scope(|scope| {
            scope.spawn(|| pass(&named, &client, &server, &much));
            pass(&named, &server, &client, &more);
        });
    }
}

#[test]
fn single_bytes_do_not_wait_for_more() {
    for mut relay in relays(16_000, OURS.into_iter().chain(OTHERS)) {
        let [mut client, mut server] = relay.connect();
        for byte in 0..100 {
            let mut received = [0];
            client.write_all(&[byte]).unwrap();
            server.read_exact(&mut received).unwrap();
            server.write_all(&received).unwrap();
            client.read_exact(&mut received).unwrap();
            assert_eq!(received, [byte], "{}", relay.named);
        }
    }
}

#[test]
fn reset_is_one_on_the_other_side_of_our_own_loops() {
    for mut relay in relays(22_000, OURS) {
        for by_client in [true, false] {
            let [client, server] = relay.connect();
            let (breaking, mut other) = if by_client { (client, server) } else { (server, client) };
            SockRef::from(&breaking).set_linger(Some(Duration::ZERO)).unwrap();
            drop(breaking);
            let seen = other.read(&mut [0]).unwrap_err();
            assert_eq!(seen.kind(), ErrorKind::ConnectionReset, "{}", relay.named);
        }
    }
}
