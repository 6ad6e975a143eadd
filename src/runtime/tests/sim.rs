//! The simulated world itself: it replays by seed, breaks what may break, and loses nothing that TCP promises.

use super::*;
use crate::base::rng::Rng;

/// What one run of the soak saw: two runs of one seed must agree in all of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    echoed: u64,
    broken: u64,
    refused: u64,
    now_ns: u64,
    stats: Vec<Stats>,
}

const MESSAGES: usize = 8;

/// Two runtimes: one serves echoes, the other has clients that send, read back, leave early, half-close, or reset.
fn soak(seed: u64, config: SimConfig) -> Seen {
    let network = SimNetwork::new(seed, config);
    let (_sender, mail) = mailbox::<()>().unwrap();
    let runtimes: Vec<_> = (0..2).map(|_| Runtime::sim(&network, mail.bell()).unwrap()).collect();
    let [server, clients] = &runtimes[..] else { unreachable!() };
    let endpoint = network.listen("10.0.0.1:80".parse().unwrap());
    let address = endpoint.local_addr().unwrap();
    let listener = TcpListener::new(server, endpoint).unwrap();
    let acceptor = server.clone();
    server.spawn(async move {
        loop {
            match poll_fn(|_| listener.poll_accept()).await {
                Ok(stream) => drop(acceptor.spawn(async move { drop(echo(stream).await) })),
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EMFILE)),
            }
        }
    });
    let seen = Rc::new(RefCell::new(Seen::default()));
    let left = Rc::new(Cell::new(12));
    let mut rng = Rng::from_seed(seed ^ 0xfeed);
    for _ in 0..left.get() {
        let (client, seen, left) = (clients.clone(), Rc::clone(&seen), Rc::clone(&left));
        let rng = Rng::from_seed(rng.next_u64());
        clients.spawn(async move {
            match converse(&client, address, rng).await {
                Ok(bytes) => seen.borrow_mut().echoed += bytes,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    seen.borrow_mut().refused += 1;
                }
                Err(_) => seen.borrow_mut().broken += 1,
            }
            left.set(left.get() - 1);
        });
    }
    while left.get() > 0 {
        runtimes.iter().for_each(|runtime| runtime.turn().unwrap());
    }
    let mut seen = seen.take();
    seen.now_ns = network.now_ns();
    seen.stats = runtimes.iter().map(Runtime::stats).collect();
    for runtime in &runtimes {
        assert_eq!(runtime.panics(), 0, "seed {seed}");
        runtime.shut_down();
    }
    for _ in 0..10_000 {
        for runtime in &runtimes {
            runtime.spawn(async {});
            runtime.turn().unwrap();
        }
    }
    for runtime in &runtimes {
        assert_eq!(runtime.leaks(), Leaks::default(), "seed {seed} leaks");
    }
    seen
}

async fn echo(stream: TcpStream) -> io::Result<()> {
    while let Some(bytes) = stream.recv().await? {
        stream.send(bytes);
        stream.flush();
        poll_fn(|_| stream.poll_sent(16 << 10)).await?;
    }
    stream.shutdown_write();
    poll_fn(|_| stream.poll_sent(0)).await
}

/// Whatever breaks: the bytes that come back are the bytes that were sent, from the first on, and an orderly end comes
/// only after all of them.
async fn converse(client: &Runtime, address: SocketAddr, mut rng: Rng) -> io::Result<u64> {
    let stream = TcpStream::connect(client, address, None, &[]).await?;
    let (mut sent, mut got) = (0, 0);
    let check = |bytes: &Chunk, at: usize| {
        assert!(bytes.iter().zip(at..).all(|(&byte, n)| byte == (n % 251) as u8), "at {at}");
        bytes.len()
    };
    for _ in 0..MESSAGES {
        let len = 1 + rng.below(6_000) as usize;
        let bytes: Vec<u8> = (sent..sent + len).map(|n| (n % 251) as u8).collect();
        stream.send(chunk(client, &bytes));
        stream.flush();
        sent += len;
        stream.set_bulk(rng.below(4) == 0);
        while got < sent && rng.below(8) != 0 {
            match stream.recv().await? {
                Some(bytes) => got += check(&bytes, got),
                None => panic!("an end out of nowhere"),
            }
        }
        match rng.below(40) {
            0 => return Ok(got as u64),
            1 => {
                stream.set_reset_on_close();
                return Ok(got as u64);
            }
            2 => client.sleep_until(Now(client.now().0 + rng.below(50_000_000))).await,
            _ => {}
        }
    }
    stream.shutdown_write();
    while let Some(bytes) = stream.recv().await? {
        got += check(&bytes, got);
    }
    assert_eq!(got, sent, "an orderly end means everything came");
    Ok(got as u64)
}

#[test]
fn soak_of_many_seeds_breaks_connections_and_never_bytes() {
    let mut total = Seen::default();
    for seed in 0..300 {
        println!("seed {seed}");
        let seen = soak(seed, SimConfig::HOSTILE);
        total.echoed += seen.echoed;
        total.broken += seen.broken;
        total.refused += seen.refused;
    }
    println!("{total:?}");
    assert!(total.echoed > 10_000_000 && total.broken > 100 && total.refused > 50);
}

#[test]
fn kind_world_completes_every_conversation() {
    for seed in 0..50 {
        println!("seed {seed}");
        let seen = soak(seed, SimConfig::KIND);
        assert_eq!((seen.broken, seen.refused), (0, 0), "seed {seed}");
    }
}

#[test]
fn same_seed_replays_the_same_run() {
    for seed in [1, 77, 4711] {
        assert_eq!(soak(seed, SimConfig::HOSTILE), soak(seed, SimConfig::HOSTILE));
    }
    assert_ne!(soak(1, SimConfig::HOSTILE), soak(2, SimConfig::HOSTILE));
}

#[test]
fn connect_into_a_black_hole_ends_by_deadline_in_virtual_time() {
    let network = SimNetwork::new(3, SimConfig::KIND);
    let (_sender, mail) = mailbox::<()>().unwrap();
    let runtime = Runtime::sim(&network, mail.bell()).unwrap();
    let nowhere = "10.9.9.9:80".parse().unwrap();
    network.blackhole(nowhere);
    let client = runtime.clone();
    run(&runtime, async move {
        let timer = client.timer();
        let due = Now(client.now().0 + 5_000_000_000);
        assert!(timer.at(due, TcpStream::connect(&client, nowhere, None, &[])).await.is_err());
        assert!(client.now() >= due && client.now().0 < due.0 + 10_000_000);
        Ok(())
    });
    runtime.shut_down();
    assert_eq!(runtime.leaks(), Leaks::default());
}

#[test]
fn world_where_nothing_will_ever_happen_is_an_error_not_a_hang() {
    let network = SimNetwork::new(4, SimConfig::KIND);
    let (_sender, mail) = mailbox::<()>().unwrap();
    let runtime = Runtime::sim(&network, mail.bell()).unwrap();
    runtime.spawn(std::future::pending());
    assert!((0..100).any(|_| runtime.turn().is_err()));
    runtime.shut_down();
}

#[test]
fn worker_without_work_comes_to_rest_once_and_then_sleeps() {
    let network = SimNetwork::new(5, SimConfig::KIND);
    let (_sender, mail) = mailbox::<()>().unwrap();
    let runtime = Runtime::sim(&network, mail.bell()).unwrap();
    *runtime.0.rest.borrow_mut() = Some(Rest::default());
    let (handle, due) = (runtime.clone(), Now(runtime.now().0 + 3_000_000_000));
    runtime.spawn(async move { handle.sleep_until(due).await });
    let mut found = Vec::new();
    let sleeps = (0..1000).any(|_| {
        let stands_still = runtime.turn().is_err();
        if runtime.has_trimmed() {
            runtime.trimmed(false);
            found.push(runtime.0.found.get());
        }
        stands_still
    });
    let rests = found.iter().position(|found| matches!(found, Found::ComesToRest { .. })).unwrap();
    let (before, after) = (&found[..rests], &found[rests + 1..]);
    assert!(sleeps && network.now_ns() > due.0, "{found:?}");
    assert!(before.len() >= 5 && before.iter().all(|found| *found == Found::Awake), "{found:?}");
    assert!(after.iter().all(|found| *found == Found::AtRest), "{found:?}");
    runtime.shut_down();
}
