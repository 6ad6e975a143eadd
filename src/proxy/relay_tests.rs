//! Relays by seed in the simulated world, and over loopback: every byte, in order, and each end as it was sent.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

use super::relay::Relay;
use crate::base::limits;
use crate::base::rng::Rng;
use crate::buffer::ChunkSize;
use crate::protocol::transport::{Channel, Transport};
use crate::runtime::listen::{ListenOptions, bind, local_addr};
use crate::runtime::mailbox::{Mailbox, mailbox};
use crate::runtime::sim::{SimConfig, SimNetwork};
use crate::runtime::{IoBackend, IoChoice, Leaks, Runtime, TaskId, TcpListener, TcpStream};

/// Cases by seed; each is a world of its own.
const CASES: u64 = 10_000;
const WATERMARK: usize = 256 * 1024;

/// What an end of a relayed connection does.
#[derive(Clone, Copy, Debug)]
struct Script {
    /// Bytes it sends.
    bytes: usize,
    /// The most it hands over at once.
    write: usize,
    /// It resets after sending them instead of finishing.
    resets: bool,
    seed: u64,
}

/// What an end saw.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    bytes: usize,
    ended: bool,
    broke: bool,
}

fn byte(seed: u64, at: usize) -> u8 {
    (seed as usize).wrapping_add(at).wrapping_mul(0x9e37_79b9).to_le_bytes()[3]
}

fn script(rng: &mut Rng, most: u64, resets: u64) -> Script {
    let bytes = if rng.below(3) == 0 { rng.below(64) } else { rng.below(most) } as usize;
    let write = [1 + rng.below(64), 1 + rng.below(8 * 1024), 64 * 1024][rng.below(3) as usize];
    // Tiny writes of much would only take long.
    let write = (write as usize).max(bytes / 64 + 1).min(64 * 1024);
    Script { bytes, write, resets: resets != 0 && rng.below(resets) == 0, seed: rng.next_u64() }
}

/// Sends and receives at once until both directions have ended, or it broke.
async fn act(
    runtime: Runtime,
    stream: TcpStream,
    script: Script,
    from: Script,
    seen: Rc<Cell<Seen>>,
    reads: Rc<Cell<bool>>,
) {
    let (mut sent, mut finished) = (0, false);
    let mut now = Seen::default();
    stream.set_bulk(true);
    poll_fn(|_| {
        while !finished {
            match stream.poll_sent(64 * 1024) {
                Poll::Pending => break,
                Poll::Ready(Err(_)) => now.broke = true,
                Poll::Ready(Ok(())) => {}
            }
            if now.broke || (sent == script.bytes && script.resets) {
                finished = true;
            } else if sent == script.bytes {
                finished = true;
                stream.shutdown_write();
            } else if let Some(mut chunk) = runtime.pool().alloc(ChunkSize::Large) {
                let end = script.bytes.min(sent + script.write);
                let bytes: Vec<u8> = (sent..end).map(|at| byte(script.seed, at)).collect();
                sent += chunk.write(&bytes);
                stream.send(chunk.freeze());
                stream.flush();
            }
        }
        if finished && script.resets {
            stream.set_reset_on_close();
            return Poll::Ready(());
        }
        if !reads.get() {
            return Poll::Pending;
        }
        while !now.ended && !now.broke {
            match stream.poll_recv() {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Some(chunk))) => {
                    for (at, &got) in chunk.iter().enumerate() {
                        assert_eq!(got, byte(from.seed, now.bytes + at), "at {}", now.bytes + at);
                    }
                    now.bytes += chunk.len();
                    assert!(now.bytes <= from.bytes, "bytes out of nowhere");
                }
                Poll::Ready(Ok(None)) => now.ended = true,
                Poll::Ready(Err(_)) => now.broke = true,
            }
        }
        if now.broke {
            return Poll::Ready(());
        }
        if finished && stream.poll_sent(0).is_ready() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    seen.set(now);
}

/// Relays between two sockets until both directions have ended or one broke; perhaps it is dropped at some poll.
async fn relay(runtime: Runtime, sides: [TcpStream; 2], drop_at: Option<u64>) {
    let [near, far] = sides.map(|stream| Channel::from(Transport::from(stream)));
    let (mut up, mut down) = (Relay::new(), Relay::new());
    let mut polls = 0;
    let broke = poll_fn(|_| {
        polls += 1;
        let ways = [up.poll(&runtime, &near, &far, WATERMARK), down.poll(&runtime, &far, &near, WATERMARK)];
        if ways.iter().any(|way| matches!(way, Poll::Ready(Err(_)))) || Some(polls) == drop_at {
            return Poll::Ready(true);
        }
        if !up.is_done() || !down.is_done() {
            return Poll::Pending;
        }
        let sent = [near.poll_sent(0), far.poll_sent(0)];
        if sent.iter().all(Poll::is_ready) { Poll::Ready(false) } else { Poll::Pending }
    })
    .await;
    if broke {
        for channel in [&near, &far] {
            channel.connection().unwrap().set_reset_on_close();
        }
    }
}

struct Ends {
    listeners: [TcpListener; 2],
    addresses: [SocketAddr; 2],
}

/// A relayed connection under way.
struct Conversation {
    seen: [Rc<Cell<Seen>>; 2],
    left: Rc<Cell<i32>>,
    made: Rc<Cell<bool>>,
    /// Its ends read what comes.
    reads: Rc<Cell<bool>>,
    /// Runs once they do.
    acting: Vec<TaskId>,
}

/// Begins one relayed connection with these scripts.
fn begin(runtime: &Runtime, ends: Ends, scripts: [Script; 2], drop_at: Option<u64>) -> Conversation {
    let Ends { listeners: [front, back], addresses: [front_at, back_at] } = ends;
    let seen = [(); 2].map(|()| Rc::new(Cell::new(Seen::default())));
    let left = Rc::new(Cell::new(3));
    let made = Rc::new(Cell::new(true));
    let reads = Rc::new(Cell::new(true));
    let done = |left: &Rc<Cell<i32>>| left.set(left.get() - 1);
    let (rt, ours, l, m, r) =
        (runtime.clone(), Rc::clone(&seen[0]), Rc::clone(&left), Rc::clone(&made), Rc::clone(&reads));
    let near = runtime.spawn(async move {
        match TcpStream::connect(&rt, front_at, None, &[]).await {
            Ok(stream) => act(rt.clone(), stream, scripts[0], scripts[1], ours, r).await,
            Err(_) => m.set(false),
        }
        done(&l);
    });
    let (rt, l, m) = (runtime.clone(), Rc::clone(&left), Rc::clone(&made));
    runtime.spawn(async move {
        let near = poll_fn(|_| front.poll_accept()).await.unwrap();
        let far = TcpStream::connect(&rt, back_at, None, &[]).await;
        match far {
            Ok(far) => relay(rt.clone(), [near, far], drop_at).await,
            Err(_) => m.set(false),
        }
        done(&l);
    });
    let (rt, theirs, l, r) = (runtime.clone(), Rc::clone(&seen[1]), Rc::clone(&left), Rc::clone(&reads));
    let far = runtime.spawn(async move {
        let stream = poll_fn(|_| back.poll_accept()).await.unwrap();
        act(rt.clone(), stream, scripts[1], scripts[0], theirs, r).await;
        done(&l);
    });
    Conversation { seen, left, made, reads, acting: vec![near, far] }
}

/// Turns until it has ended; `None`: it was not made.
fn finish(runtime: &Runtime, of: &Conversation) -> Option<[Seen; 2]> {
    for _ in 0..2_000_000 {
        if of.left.get() == 0 || !of.made.get() {
            break;
        }
        runtime.turn().unwrap();
    }
    assert!(of.left.get() == 0 || !of.made.get(), "it ends");
    of.made.get().then(|| [of.seen[0].get(), of.seen[1].get()])
}

/// One relayed connection with these scripts; whether all went well is the caller's to know.
fn converse(runtime: &Runtime, ends: Ends, scripts: [Script; 2], drop_at: Option<u64>) -> Option<[Seen; 2]> {
    finish(runtime, &begin(runtime, ends, scripts, drop_at))
}

/// Listeners of the kernel, on loopback.
fn loopback(runtime: &Runtime) -> Ends {
    let sockets = [(); 2].map(|()| {
        let options = ListenOptions::plain("127.0.0.1:0".parse().unwrap(), 16);
        bind(&options, 1).unwrap().pop().unwrap()
    });
    let addresses = [0, 1].map(|side: usize| local_addr(&sockets[side]).unwrap());
    Ends { listeners: sockets.map(|socket| TcpListener::new(runtime, socket).unwrap()), addresses }
}

/// Listeners of the simulation.
fn simulated(runtime: &Runtime, network: &SimNetwork) -> Ends {
    let endpoints = [(); 2].map(|()| network.listen("127.0.0.1:0".parse().unwrap()));
    let addresses = [0, 1].map(|side: usize| endpoints[side].local_addr().unwrap());
    Ends { listeners: endpoints.map(|endpoint| TcpListener::new(runtime, endpoint).unwrap()), addresses }
}

/// The kernel's back ends; without the ring only where it need not be (`RINGWAY_REQUIRE_IO_URING`).
fn runtime_of(backend: IoBackend, mail: &Mailbox<()>) -> Option<Runtime> {
    match Runtime::new(IoChoice { backend, level: None }, mail.bell()) {
        Ok((runtime, _)) => Some(runtime),
        Err(error) => {
            let required =
                backend == IoBackend::Epoll || std::env::var_os("RINGWAY_REQUIRE_IO_URING").is_some();
            assert!(!required, "{backend:?}: {error}");
            println!("{backend:?} not run: {error}");
            None
        }
    }
}

fn check(name: &str, scripts: [Script; 2], seen: Option<[Seen; 2]>, dropped: bool) {
    let Some(seen) = seen else { return };
    for (side, other) in [(0, 1), (1, 0)] {
        // An orderly end comes behind every byte; without a break each comes.
        if seen[side].ended {
            assert_eq!(seen[side].bytes, scripts[other].bytes, "{name}: {scripts:?} {seen:?}");
            assert!(!scripts[other].resets, "{name}: a reset shown as an end");
        }
        if !dropped && !scripts[0].resets && !scripts[1].resets {
            assert!(seen[side].ended && !seen[side].broke, "{name}: {scripts:?} {seen:?}");
        }
    }
}

fn settle(name: &str, runtime: &Runtime) {
    runtime.shut_down();
    for _ in 0..10_000 {
        if runtime.leaks() == Leaks::default() {
            break;
        }
        runtime.spawn(async {});
        runtime.turn().unwrap();
    }
    assert_eq!(runtime.leaks(), Leaks::default(), "{name} leaks");
    assert_eq!(runtime.stats().pipes, 0, "{name}: pipes");
    assert_eq!(runtime.panics(), 0, "{name}");
}

#[test]
fn bytes_and_ends_pass_as_they_were_sent_by_seed() {
    let (_sender, mail) = mailbox::<()>().unwrap();
    let mut spliced = 0;
    for seed in 0..CASES {
        let mut rng = Rng::from_seed(seed);
        let world = SimConfig { delay_ns_max: 100_000, window_bytes_min: 1024, ..SimConfig::KIND };
        let network = SimNetwork::new(seed, world);
        let runtime = Runtime::sim(&network, mail.bell()).unwrap();
        let ends = simulated(&runtime, &network);
        // One in sixteen is long enough to be spliced.
        let most = if seed % 16 == 0 { 700 * 1024 } else { 6 * 1024 };
        let scripts = [(); 2].map(|()| script(&mut rng, most, 5));
        let drop_at = (rng.below(5) == 0).then(|| 1 + rng.below(20));
        let seen = converse(&runtime, ends, scripts, drop_at);
        check(&format!("seed {seed}"), scripts, seen, drop_at.is_some());
        spliced += runtime.stats().spliced_bytes;
        settle(&format!("seed {seed}"), &runtime);
    }
    assert!(spliced > 1024 * 1024, "the cases do splice: {spliced}");
}

#[test]
fn bytes_and_ends_pass_over_loopback() {
    let (_sender, mail) = mailbox::<()>().unwrap();
    for backend in [IoBackend::Epoll, IoBackend::IoUring] {
        let mut spliced = 0;
        for seed in 0..40 {
            let Some(runtime) = runtime_of(backend, &mail) else { break };
            let mut rng = Rng::from_seed(seed);
            let ends = loopback(&runtime);
            let scripts = [(); 2].map(|()| script(&mut rng, 4 * 1024 * 1024, 6));
            let drop_at = (rng.below(6) == 0).then(|| 1 + rng.below(30));
            let seen = converse(&runtime, ends, scripts, drop_at);
            check(&format!("{backend:?}, seed {seed}"), scripts, seen, drop_at.is_some());
            spliced += runtime.stats().spliced_bytes;
            settle(&format!("{backend:?}, seed {seed}"), &runtime);
            assert!(seed < 39 || spliced > 4 * 1024 * 1024, "{backend:?}: {spliced} bytes spliced");
        }
    }
}

/// A stream one way, and its end.
const STREAM: [Script; 2] = [
    Script { bytes: 4 * 1024 * 1024, write: 64 * 1024, resets: false, seed: 1 },
    Script { bytes: 0, write: 64 * 1024, resets: false, seed: 2 },
];

#[test]
fn smaller_pipes_serve_and_too_small_ones_are_refused() {
    let (_sender, mail) = mailbox::<()>().unwrap();
    // More than the kernel knows is refused, and the pipe stays as it is; a page is of no use.
    for (asked, serves) in [(usize::MAX, true), (4096, false)] {
        let runtime = runtime_of(IoBackend::Epoll, &mail).unwrap();
        runtime.ask_of_pipes_for_test(asked);
        let seen = converse(&runtime, loopback(&runtime), STREAM, None);
        check("refused", STREAM, seen, false);
        let stats = runtime.stats();
        assert_eq!(
            (stats.spliced_bytes > 0, stats.splices_refused > 0),
            (serves, !serves),
            "{asked}: {stats:?}"
        );
        settle("refused", &runtime);
    }
}

/// A relay that breaks off while a pipe holds bytes: they were counted, and go before the break.
#[test]
fn what_lies_in_a_pipe_is_handed_on_when_a_relay_is_over() {
    let (_sender, mail) = mailbox::<()>().unwrap();
    for backend in [IoBackend::Epoll, IoBackend::IoUring] {
        let Some(runtime) = runtime_of(backend, &mail) else { break };
        let Ends { listeners: [front, back], addresses: [front_at, back_at] } = loopback(&runtime);
        let source = std::thread::spawn(move || {
            let mut source = std::net::TcpStream::connect(front_at).unwrap();
            let bytes: Vec<u8> = (0..16 * 1024 * 1024).map(|at| byte(1, at)).collect();
            // As far as it is taken.
            let _ = source.write_all(&bytes);
        });
        let (told, hears) = std::sync::mpsc::channel::<()>();
        let sink = std::thread::spawn(move || {
            let mut sink = std::net::TcpStream::connect(back_at).unwrap();
            hears.recv().unwrap();
            let mut received = Vec::new();
            sink.read_to_end(&mut received).unwrap();
            received
        });
        let (rt, counted) = (runtime.clone(), Rc::new(Cell::new(None)));
        let count = Rc::clone(&counted);
        runtime.spawn(async move {
            let near = Channel::from(Transport::from(poll_fn(|_| front.poll_accept()).await.unwrap()));
            let far = Channel::from(Transport::from(poll_fn(|_| back.poll_accept()).await.unwrap()));
            let mut up = Relay::new();
            poll_fn(|_| match up.poll(&rt, &near, &far, WATERMARK) {
                Poll::Pending if rt.stats().pipes > 0 => Poll::Ready(()),
                other => other.map(|outcome| panic!("{outcome:?} before a pipe held bytes")),
            })
            .await;
            up.release(&rt, &far);
            assert_eq!(rt.stats().pipes, 0);
            told.send(()).unwrap();
            far.flush();
            poll_fn(|_| far.poll_sent(0)).await.unwrap();
            far.shutdown_write();
            count.set(Some(up.bytes));
        });
        while counted.get().is_none() {
            runtime.turn().unwrap();
        }
        settle("released", &runtime);
        let received = sink.join().unwrap();
        source.join().unwrap();
        assert_eq!(Some(received.len() as u64), counted.get(), "{backend:?}");
        assert!(received.iter().enumerate().all(|(at, &got)| got == byte(1, at)), "{backend:?}");
    }
}

#[test]
fn relays_beyond_the_bound_of_pipes_go_by_chunks() {
    let (_sender, mail) = mailbox::<()>().unwrap();
    let world = SimConfig { delay_ns_max: 1000, window_bytes_min: 128 * 1024, ..SimConfig::KIND };
    let network = SimNetwork::new(7, world);
    let runtime = Runtime::sim(&network, mail.bell()).unwrap();
    let scripts = STREAM.map(|script| Script { bytes: script.bytes / 2, ..script });
    let all: Vec<_> = (0..limits::PIPES_MAX + 16)
        .map(|_| {
            let conversation = begin(&runtime, simulated(&runtime, &network), scripts, None);
            conversation.reads.set(false);
            conversation
        })
        .collect();
    // Until nothing moves any more.
    while runtime.turn().is_ok() {
        assert!(runtime.stats().pipes <= limits::PIPES_MAX as u64);
    }
    assert!(
        runtime.stats().pipes > limits::PIPES_MAX as u64 / 2,
        "receivers that wait: {:?}",
        runtime.stats()
    );
    for conversation in &all {
        conversation.reads.set(true);
        conversation.acting.iter().for_each(|&task| runtime.wake(task));
    }
    for conversation in &all {
        check("many", scripts, finish(&runtime, conversation), false);
    }
    settle("many", &runtime);
    // All are taken: one more is counted and goes by chunks.
    let taken: Vec<_> = (0..limits::PIPES_MAX).map(|_| runtime.pipe().unwrap()).collect();
    let before = runtime.stats();
    assert!(runtime.pipe().is_none() && runtime.stats().splices_refused == before.splices_refused + 1);
    drop(taken);
    assert!(runtime.pipe().is_some() && runtime.stats().pipes == 0);
}
