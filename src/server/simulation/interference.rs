//! Somebody between: every connection, of clients and to endpoints, passes through a relay that ends it, resets it or
//! changes a bit at a byte that the seed picks, within the handshake, within a record, or between two.
//!
//! TLS promises that what arrives is what was sent, as far as it arrives. What the proxy owes on top of that: a part is
//! never passed on as the whole, and nothing that was changed is ever read as HTTP.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use super::exchange::Weather;
use super::message::{Framing, Head, read_body};
use super::peer::{Pace, Peer};
use super::tls::Tls;
use super::{ENDPOINTS, FRONT, World, for_seeds};
use crate::base::rng::Rng;
use crate::config::tls::TlsVersion;
use crate::runtime::sim::SimConfig;
use crate::runtime::{Runtime, TcpListener, TcpStream};
use crate::telemetry::HttpStat;

/// Where clients meet their relay.
const BEFORE_FRONT: &str = "10.0.9.1:80";
/// Where the endpoints are that the relays at [`ENDPOINTS`] lead to.
const BEHIND: [&str; ENDPOINTS.len()] = ["10.0.8.1:80", "10.0.8.2:80"];
/// Exchanges of a seed, each on a connection of its own.
const EXCHANGES: usize = 40;
/// A handshake and a small exchange are about so many bytes.
const BYTES: u64 = 3500;

/// What happens to one direction of a connection.
#[derive(Clone, Copy, Debug)]
enum Interference {
    None,
    /// It ends behind so many bytes, in order, as far as TCP goes.
    End(usize),
    /// Both directions are reset behind so many bytes of this one.
    Reset(usize),
    /// A bit of that byte is another.
    Flip(usize),
}

impl Interference {
    fn random(rng: &mut Rng) -> Self {
        let at = rng.below(BYTES) as usize;
        match rng.below(12) {
            0 | 1 => Self::End(at),
            2 => Self::Reset(at),
            3 => Self::Flip(at),
            _ => Self::None,
        }
    }
}

/// Passes one direction on; whether all of the connection is to be reset.
async fn pass(from: &TcpStream, to: &TcpStream, interference: Interference, cut: &Cell<bool>) -> bool {
    let mut passed = 0;
    while let Ok(Some(chunk)) = from.recv().await {
        let mut bytes = chunk.to_vec();
        let within = |at: usize| at.checked_sub(passed).filter(|at| *at < bytes.len());
        let mut over = None;
        match interference {
            Interference::None => {}
            Interference::End(at) => over = within(at).map(|at| (at, false)),
            Interference::Reset(at) => over = within(at).map(|at| (at, true)),
            Interference::Flip(at) => {
                // Not all of a record is looked at: the version in its head is not.
                if let Some(at) = within(at) {
                    bytes[at] ^= 1 << (at % 8);
                }
            }
        }
        if let Some((left, _)) = over {
            cut.set(true);
            bytes.truncate(left);
        }
        passed += bytes.len();
        assert!(to.send_copy(&bytes));
        to.flush();
        if poll_fn(|_| to.poll_sent(0)).await.is_err() {
            break;
        }
        match over {
            None => {}
            Some((_, true)) => return true,
            Some((_, false)) => break,
        }
    }
    to.shutdown_write();
    // Whoever is cut off may still write.
    while let Ok(Some(_)) = from.recv().await {}
    false
}

async fn relay(near: TcpStream, far: TcpStream, plan: [Interference; 2], cut: [Rc<Cell<bool>>; 2]) {
    let mut there = pin!(pass(&near, &far, plan[0], &cut[0]));
    let mut back = pin!(pass(&far, &near, plan[1], &cut[1]));
    let mut ended = [false; 2];
    let reset = poll_fn(|context| {
        for (ended, direction) in ended.iter_mut().zip([there.as_mut(), back.as_mut()]) {
            if !*ended && let Poll::Ready(reset) = direction.poll(context) {
                *ended = true;
                if reset {
                    return Poll::Ready(true);
                }
            }
        }
        if ended == [true; 2] { Poll::Ready(false) } else { Poll::Pending }
    });
    if reset.await {
        near.set_reset_on_close();
        far.set_reset_on_close();
    }
}

/// What the endpoints know of the relays before them.
type Cut = Rc<RefCell<HashMap<SocketAddr, Rc<Cell<bool>>>>>;

/// Relays every connection to `listener` on to `to`; who is at the far end finds out whether what it sends is cut off.
async fn relay_all(runtime: Runtime, listener: TcpListener, to: SocketAddr, mut rng: Rng, known: Cut) {
    loop {
        let Ok(near) = poll_fn(|_| listener.poll_accept()).await else { continue };
        let far = TcpStream::connect(&runtime, to, None, &[]).await.unwrap();
        let cut = [Rc::default(), Rc::default()];
        known.borrow_mut().insert(far.local_addr().unwrap(), Rc::clone(&cut[1]));
        let plan = [Interference::random(&mut rng), Interference::random(&mut rng)];
        runtime.spawn(relay(near, far, plan, cut));
    }
}

/// One exchange: the same body both ways.
#[derive(Debug)]
struct Exchange {
    body: Vec<u8>,
    /// How the request and how the endpoint's response are delimited.
    framing: [Framing; 2],
    /// Whether what its endpoint sent was cut off, once it has one.
    cut: RefCell<Option<Rc<Cell<bool>>>>,
    requests_seen: Cell<u32>,
    complete: Cell<bool>,
}

impl Exchange {
    fn random(rng: &mut Rng) -> Rc<Self> {
        let body: Vec<u8> = (0..rng.below(2000)).map(|_| rng.next_u64() as u8).collect();
        let framed = |rng: &mut Rng| [Framing::Chunked, Framing::Length(body.len())][rng.below(2) as usize];
        let request = framed(rng);
        let response = if rng.below(2) == 0 { Framing::UntilClose } else { framed(rng) };
        Rc::new(Self {
            body,
            framing: [request, response],
            cut: RefCell::default(),
            requests_seen: Cell::new(0),
            complete: Cell::new(false),
        })
    }

    /// A head's last lines, and the body.
    fn rest(&self, framing: Framing) -> Vec<u8> {
        let mut text = match framing {
            Framing::Length(length) => format!("Content-Length: {length}\r\n\r\n").into_bytes(),
            Framing::Chunked if self.body.is_empty() => b"Transfer-Encoding: chunked\r\n\r\n".to_vec(),
            Framing::Chunked => {
                format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", self.body.len()).into_bytes()
            }
            Framing::UntilClose => b"Connection: close\r\n\r\n".to_vec(),
        };
        text.extend_from_slice(&self.body);
        match framing {
            Framing::Chunked if self.body.is_empty() => text.extend_from_slice(b"0\r\n\r\n"),
            Framing::Chunked => text.extend_from_slice(b"\r\n0\r\n\r\n"),
            Framing::Length(_) | Framing::UntilClose => {}
        }
        text
    }
}

type All = Rc<RefCell<Vec<Rc<Exchange>>>>;

/// Answers with the body that came, which has to be the whole of it.
async fn serve(peer: &Peer, all: &All, cut: Option<Rc<Cell<bool>>>, mut rng: Rng) {
    if peer.shake_hands().await.is_err() {
        return;
    }
    while let Ok(head) = Head::read(peer).await {
        let exchange = Rc::clone(&all.borrow()[head.id().unwrap()]);
        exchange.cut.borrow_mut().clone_from(&cut);
        let Ok(bytes) = read_body(peer, head.framing().unwrap(), &exchange.body).await else { return };
        assert_eq!(bytes, exchange.body.len(), "a part came as the whole");
        exchange.requests_seen.set(exchange.requests_seen.get() + 1);
        let response = exchange.framing[1];
        let mut text = format!("HTTP/1.1 200 OK\r\nX-Id: {}\r\n", head.id().unwrap()).into_bytes();
        text.extend_from_slice(&exchange.rest(response));
        // A record for each piece, or one for all.
        let pace = Pace::random(&mut rng, text.len());
        if peer.write(&text, pace).await.is_err() {
            return;
        }
        if response == Framing::UntilClose {
            if peer.flushed().await.is_ok() {
                peer.stream.shutdown_write();
                let _ = peer.flushed().await;
                peer.drain().await;
            }
            return;
        }
    }
}

/// Sends an exchange's request and reads what comes of it.
async fn ask(runtime: &Runtime, tls: &Tls, id: usize, exchange: &Exchange, rng: &mut Rng) {
    let Ok(socket) =
        TcpStream::connect(runtime, BEFORE_FRONT.parse::<std::net::SocketAddr>().unwrap(), None, &[]).await
    else {
        return;
    };
    let peer = Peer::new(runtime, tls.connect(socket), Rng::from_seed(rng.next_u64()));
    if peer.shake_hands().await.is_err() {
        return;
    }
    let mut text = format!("PUT / HTTP/1.1\r\nHost: sim\r\nX-Id: {id}\r\n").into_bytes();
    text.extend_from_slice(b"Connection: close\r\n");
    text.extend_from_slice(&exchange.rest(exchange.framing[0]));
    if peer.write(&text, Pace::random(rng, text.len())).await.is_err() {
        return;
    }
    let Ok(head) = Head::read(&peer).await else { return };
    let status = head.status();
    if status != 200 {
        // Never 400: the session breaks before anything that was changed is looked at.
        assert!([408, 502, 503, 504].contains(&status), "{head:?}");
        return;
    }
    assert_eq!(head.id(), Some(id), "the answer to another request");
    let Ok(bytes) = read_body(&peer, head.framing().unwrap(), &exchange.body).await else { return };
    assert_eq!(bytes, exchange.body.len(), "a part of the response came as the whole");
    assert_eq!(exchange.requests_seen.get(), 1);
    if exchange.framing[1] == Framing::UntilClose {
        let cut = exchange.cut.borrow().as_ref().is_some_and(|cut| cut.get());
        assert!(!cut, "an end that was not announced passed for the body's");
    }
    exchange.complete.set(true);
}

#[test]
fn whoever_cuts_or_changes_bytes_passes_nothing_off_as_whole() {
    let (mut complete, mut broken) = (0, 0);
    for_seeds(40, |seed| {
        let mut rng = Rng::from_seed(seed);
        let version = [TlsVersion::Tls13, TlsVersion::Tls12][(seed % 2) as usize];
        let tls = Tls::of(version, seed % 3 == 0);
        let bootstrap = super::soak::bootstrap(&mut rng, Weather::Faulty);
        let config = SimConfig { window_bytes_min: 1 << rng.below(13), ..SimConfig::KIND };
        let world = World::start_with(seed, config, &bootstrap, 1 + rng.below(2) as usize, Some(tls));
        let (all, cut) = (All::default(), Cut::default());
        let relay = |runtime: &Runtime, at: &str, to: &str, rng: Rng| {
            let listener = TcpListener::new(runtime, world.network.listen(at.parse().unwrap())).unwrap();
            let known = Rc::clone(&cut);
            runtime.spawn(relay_all(runtime.clone(), listener, to.parse().unwrap(), rng, known));
        };
        relay(&world.clients, BEFORE_FRONT, FRONT, Rng::from_seed(rng.next_u64()));
        for (at, to) in ENDPOINTS.iter().zip(BEHIND) {
            relay(&world.servers, at, to, Rng::from_seed(rng.next_u64()));
            let listener =
                TcpListener::new(&world.servers, world.network.listen(to.parse().unwrap())).unwrap();
            let (runtime, all, cut) = (world.servers.clone(), Rc::clone(&all), Rc::clone(&cut));
            let seeds = Cell::new(rng.next_u64());
            world.servers.spawn(async move {
                loop {
                    let Ok(socket) = poll_fn(|_| listener.poll_accept()).await else { continue };
                    let cut = cut.borrow().get(&socket.peer_addr().unwrap()).cloned();
                    seeds.set(seeds.get() + 1);
                    let rng = Rng::from_seed(seeds.get());
                    let peer = Peer::new(&runtime, tls.accept(socket), rng.clone());
                    let all = Rc::clone(&all);
                    runtime.spawn(async move { serve(&peer, &all, cut, rng).await });
                }
            });
        }
        let done = Rc::new(Cell::new(false));
        let (over, runtime, exchanges) = (Rc::clone(&done), world.clients.clone(), Rc::clone(&all));
        world.clients.spawn(async move {
            for id in 0..EXCHANGES {
                let exchange = Exchange::random(&mut rng);
                exchanges.borrow_mut().push(Rc::clone(&exchange));
                ask(&runtime, tls, id, &exchange, &mut rng).await;
            }
            over.set(true);
        });
        world.run(|| done.get());
        let ended = world.end();
        assert_eq!(ended.panics, 0);
        assert_eq!(ended.downstream(HttpStat::DownstreamCxTotal), EXCHANGES as u64);
        let whole = all.borrow().iter().filter(|exchange| exchange.complete.get()).count();
        complete += whole;
        broken += EXCHANGES - whole;
    });
    println!("{complete} complete, {broken} broken off");
    assert!(std::env::var_os("RINGWAY_SEED").is_some() || (complete > 100 && broken > 100));
}
