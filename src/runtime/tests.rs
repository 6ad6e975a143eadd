//! The same tests on every back end: what the path above relies on.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

mod accepting;
mod buffers;
mod hazards;
mod internal;
mod sharing;
mod sim;
mod waiting;

use super::listen::{ListenOptions, bind, local_addr};
use super::mailbox::{Mailbox, mailbox};
use super::sim::{SimConfig, SimNetwork};
use super::*;
use crate::base::socket_address::SocketAddress;
use crate::buffer::{Chunk, ChunkSize};

/// Runs a test on each back end that this host has, and in some simulated worlds.
fn on_every_backend(test: impl Fn(&Runtime)) {
    on_every_kernel_backend(&test);
    for seed in 1..=5 {
        let (_sender, mail) = mailbox::<()>().unwrap();
        let network = SimNetwork::new(seed, SimConfig::KIND);
        on(&format!("sim, seed {seed}"), &Runtime::sim(&network, mail.bell()).unwrap(), &test);
    }
}

/// Runs a test whose other side is the kernel's.
fn on_every_kernel_backend(test: impl Fn(&Runtime)) {
    let (_sender, mail) = mailbox::<()>().unwrap();
    for (name, runtime) in backends(&mail) {
        on(&name, &runtime, &test);
    }
}

fn on(name: &str, runtime: &Runtime, test: impl Fn(&Runtime)) {
    println!("back end: {name}");
    test(runtime);
    runtime.shut_down();
    settle(runtime);
    assert_eq!(runtime.leaks(), Leaks::default(), "{name} leaks");
}

/// epoll, and every level of the ring that works here. Set `RINGWAY_REQUIRE_IO_URING=1` to fail where one does not.
fn backends<T>(mail: &Mailbox<T>) -> Vec<(String, Runtime)> {
    let mut all = vec![("epoll".to_owned(), Runtime::epoll(mail.bell()).unwrap())];
    for level in [RingLevel::One, RingLevel::Two, RingLevel::Three] {
        let choice = IoChoice { backend: IoBackend::IoUring, level: Some(level) };
        match Runtime::new(choice, mail.bell()) {
            Ok((runtime, info)) => {
                assert_eq!(info.level, Some(level));
                all.push((level.to_string(), runtime));
            }
            Err(error) => {
                assert!(std::env::var_os("RINGWAY_REQUIRE_IO_URING").is_none(), "{level}: {error}");
                println!("back end: {level} not run: {error}");
            }
        }
    }
    all
}

/// Turns until the kernel holds nothing.
fn settle(runtime: &Runtime) {
    for _ in 0..1000 {
        if runtime.leaks() == Leaks::default() {
            return;
        }
        runtime.spawn(async {});
        runtime.turn().unwrap();
    }
}

/// Turns until `done`; the deadline makes a hang a failure.
fn turn_until(runtime: &Runtime, done: &Cell<bool>) {
    let deadline = runtime.now().0 + 60_000_000_000;
    let tick = runtime.clone();
    runtime.spawn(async move { tick.sleep_until(Now(deadline)).await });
    while !done.get() {
        assert!(runtime.now().0 < deadline, "no end within a minute");
        runtime.turn().unwrap();
    }
}

fn listener(runtime: &Runtime) -> (TcpListener, SocketAddr) {
    listener_with_backlog(runtime, 64)
}

/// The two ends of a connection to a listener.
async fn connected(
    runtime: &Runtime,
    listener: &TcpListener,
    address: SocketAddr,
) -> io::Result<(TcpStream, TcpStream)> {
    let near = TcpStream::connect(runtime, address, None, &[]).await?;
    Ok((near, poll_fn(|_| listener.poll_accept()).await?))
}

fn listener_with_backlog(runtime: &Runtime, backlog: i32) -> (TcpListener, SocketAddr) {
    let simulated = runtime.with_scope(|driver, _| match driver {
        Driver::Sim(sim) => Some(sim.network().clone()),
        _ => None,
    });
    if let Some(network) = simulated {
        let endpoint = network.listen("127.0.0.1:0".parse().unwrap());
        let address = endpoint.local_addr().unwrap();
        return (TcpListener::new(runtime, endpoint).unwrap(), address);
    }
    let options = ListenOptions::plain("127.0.0.1:0".parse().unwrap(), backlog);
    let fd = bind(&options, 1).unwrap().pop().unwrap();
    let address = local_addr(&fd).unwrap();
    (TcpListener::new(runtime, fd).unwrap(), address)
}

fn chunk(runtime: &Runtime, bytes: &[u8]) -> Chunk {
    let mut chunk = runtime.pool().alloc(ChunkSize::Large).unwrap();
    assert_eq!(chunk.write(bytes), bytes.len());
    chunk.freeze()
}

/// Receives exactly these bytes, in however many pieces.
async fn expect_bytes(stream: &TcpStream, expected: &[u8]) {
    let mut got = Vec::new();
    while got.len() < expected.len() {
        got.extend_from_slice(&stream.recv().await.unwrap().expect("more bytes"));
    }
    assert_eq!(got, expected);
}

fn run(runtime: &Runtime, future: impl Future<Output = io::Result<()>> + 'static) {
    let done = Rc::new(Cell::new(false));
    let outcome = Rc::new(RefCell::new(None));
    let (seen, result) = (Rc::clone(&done), Rc::clone(&outcome));
    runtime.spawn(async move {
        *result.borrow_mut() = Some(future.await);
        seen.set(true);
    });
    turn_until(runtime, &done);
    outcome.borrow_mut().take().unwrap().unwrap();
}

#[test]
fn bytes_both_ways_then_orderly_end() {
    on_every_backend(|runtime| {
        let (listener, address) = listener(runtime);
        let server = runtime.clone();
        runtime.spawn(async move {
            let stream = poll_fn(|_| listener.poll_accept()).await.unwrap();
            while let Some(bytes) = stream.recv().await.unwrap() {
                stream.send(bytes);
                stream.flush();
            }
            stream.send(chunk(&server, b"bye"));
            stream.shutdown_write();
            poll_fn(|_| stream.poll_sent(0)).await.unwrap();
        });
        let client = runtime.clone();
        run(runtime, async move {
            let stream = TcpStream::connect(&client, address, None, &[]).await?;
            let mut got = Vec::new();
            for n in 0..100u8 {
                stream.send(chunk(&client, &[n; 10]));
                stream.flush();
                while got.len() < 10 * (n as usize + 1) {
                    got.extend_from_slice(&stream.recv().await?.expect("the echo"));
                }
            }
            stream.shutdown_write();
            while let Some(bytes) = stream.recv().await? {
                got.extend_from_slice(&bytes);
            }
            assert_eq!(got.len(), 1003);
            assert!(got.ends_with(b"bye"));
            Ok(())
        });
    });
}

#[test]
fn slow_reader_holds_the_sender_back_and_loses_nothing() {
    const TOTAL: usize = 24 << 20;
    on_every_backend(|runtime| {
        let (listener, address) = listener(runtime);
        let server = runtime.clone();
        runtime.spawn(async move {
            let stream = poll_fn(|_| listener.poll_accept()).await.unwrap();
            let mut sent = 0;
            while sent < TOTAL {
                let bytes: Vec<u8> =
                    (sent..sent + 50_000.min(TOTAL - sent)).map(|n| (n % 251) as u8).collect();
                sent += bytes.len();
                stream.send(chunk(&server, &bytes));
                stream.flush();
                poll_fn(|_| stream.poll_sent(256 << 10)).await.unwrap();
                assert!(stream.queued() <= 256 << 10);
            }
            stream.shutdown_write();
            poll_fn(|_| stream.poll_sent(0)).await.unwrap();
        });
        let client = runtime.clone();
        run(runtime, async move {
            let stream = TcpStream::connect(&client, address, None, &[]).await?;
            stream.set_bulk(true);
            let mut got = 0;
            while let Some(bytes) = stream.recv().await? {
                assert!(bytes.iter().zip(got..).all(|(&byte, n)| byte == (n % 251) as u8), "at {got}");
                got += bytes.len();
                if got % 8 == 0 {
                    client.sleep_until(Now(client.now().0 + 100_000)).await;
                }
            }
            assert_eq!(got, TOTAL);
            Ok(())
        });
    });
}

#[test]
fn refused_connect_is_an_error() {
    on_every_backend(|runtime| {
        let (listener, address) = listener(runtime);
        drop(listener);
        settle(runtime);
        let client = runtime.clone();
        run(runtime, async move {
            let error = TcpStream::connect(&client, address, None, &[]).await.expect_err("nobody listens");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            Ok(())
        });
    });
}

#[test]
fn reset_reaches_reader_and_sender() {
    on_every_backend(|runtime| {
        let (listener, address) = listener(runtime);
        runtime.spawn(async move {
            let stream = poll_fn(|_| listener.poll_accept()).await.unwrap();
            stream.recv().await.unwrap();
            stream.set_reset_on_close();
        });
        let client = runtime.clone();
        run(runtime, async move {
            let stream = TcpStream::connect(&client, address, None, &[]).await?;
            stream.send(chunk(&client, b"x"));
            stream.flush();
            poll_fn(|_| stream.poll_peer_closed()).await;
            assert_eq!(stream.recv().await.expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
            stream.send(chunk(&client, b"x"));
            stream.flush();
            assert!(poll_fn(|_| stream.poll_sent(0)).await.is_err());
            Ok(())
        });
    });
}

/// Who does not read because nobody takes the bytes yet would else hear of it when the wait is over.
#[test]
fn break_is_known_behind_bytes_that_nobody_has_read() {
    on_every_kernel_backend(|runtime| {
        let (listener, address) = listener(runtime);
        let server = runtime.clone();
        runtime.spawn(async move {
            let stream = poll_fn(|_| listener.poll_accept()).await.unwrap();
            stream.send(chunk(&server, b"unread"));
            stream.flush();
            poll_fn(|_| stream.poll_sent(0)).await.unwrap();
            stream.set_reset_on_close();
        });
        let client = runtime.clone();
        run(runtime, async move {
            let stream = TcpStream::connect(&client, address, None, &[]).await?;
            poll_fn(|_| stream.poll_broken()).await;
            assert_eq!(&*stream.recv().await?.expect("bytes"), b"unread");
            assert_eq!(stream.recv().await.expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
            Ok(())
        });
    });
}

/// A splice takes no more than it is asked for, and no receive has seen what lies behind.
#[test]
fn bytes_behind_those_that_were_spliced_are_known_of() {
    on_every_kernel_backend(|runtime| {
        let (listener, address) = listener(runtime);
        let handle = runtime.clone();
        run(runtime, async move {
            let (near, far) = connected(&handle, &listener, address).await?;
            assert!(!near.has_any_unread());
            for behind in [&b""[..], b"more"] {
                far.send(chunk(&handle, &[&b"some"[..], behind].concat()));
                far.flush();
                let pipe = handle.pipe().expect("a pipe");
                let spliced = poll_fn(|_| near.poll_splice_in(&pipe, 4)).await?;
                assert_eq!(spliced, Spliced::Bytes(4));
                assert_eq!(near.has_any_unread(), !behind.is_empty());
            }
            near.end_splice();
            expect_bytes(&near, b"more").await;
            assert!(!near.has_any_unread());
            Ok(())
        });
    });
}

#[test]
fn unread_bytes_come_first() {
    on_every_backend(|runtime| {
        let (listener, address) = listener(runtime);
        let server = runtime.clone();
        runtime.spawn(async move {
            let stream = poll_fn(|_| listener.poll_accept()).await.unwrap();
            stream.send(chunk(&server, b"onetwo"));
            stream.shutdown_write();
            poll_fn(|_| stream.poll_sent(0)).await.unwrap();
        });
        let client = runtime.clone();
        run(runtime, async move {
            let stream = TcpStream::connect(&client, address, None, &[]).await?;
            let mut got = Vec::new();
            while let Some(mut bytes) = stream.recv().await? {
                let first = bytes.split_to(1);
                if !bytes.is_empty() {
                    stream.unread(bytes);
                    assert!(stream.has_unread());
                }
                got.extend_from_slice(&first);
            }
            assert_eq!(got, b"onetwo");
            Ok(())
        });
    });
}

#[test]
fn deadline_cuts_a_silent_peer() {
    on_every_backend(|runtime| {
        let (listener, address) = listener(runtime);
        let client = runtime.clone();
        run(runtime, async move {
            let stream = TcpStream::connect(&client, address, None, &[]).await?;
            let timer = client.timer();
            let due = Now(client.now().0 + 5_000_000);
            assert!(timer.at(due, stream.recv()).await.is_err());
            assert!(client.now() >= due);
            drop(listener);
            Ok(())
        });
    });
}

#[test]
fn mailbox_message_ends_the_wait() {
    let (sender, mail) = mailbox::<u32>().unwrap();
    let mail = Rc::new(mail);
    for (name, runtime) in backends(&mail) {
        println!("back end: {name}");
        for round in 0..3 {
            let got = Rc::new(Cell::new(false));
            let (seen, handle, mail) = (Rc::clone(&got), runtime.clone(), Rc::clone(&mail));
            runtime.spawn(async move {
                while !seen.get() {
                    handle.mailbox_rung().await;
                    while let Some(number) = mail.try_recv() {
                        assert_eq!(number, round);
                        seen.set(true);
                    }
                }
            });
            runtime.turn().unwrap();
            let sender = sender.clone();
            let thread = std::thread::spawn(move || assert!(sender.send(round)));
            turn_until(&runtime, &got);
            thread.join().unwrap();
        }
        runtime.shut_down();
    }
}

#[test]
fn accepted_connection_sends_without_delay_as_its_listener() {
    on_every_kernel_backend(|runtime| {
        let (listener, address) = listener(runtime);
        let handle = runtime.clone();
        run(runtime, async move {
            let (near, far) = connected(&handle, &listener, address).await?;
            for stream in [near, far] {
                let fd = handle.with_socket(stream.key_for_test(), |socket, _| socket.raw_fd());
                assert_eq!(sys::option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY)?, 1);
            }
            Ok(())
        });
    });
}

#[test]
fn both_ends_of_a_connection_on_loopback_send_as_soon_as_they_may() {
    on_every_kernel_backend(|runtime| {
        let (listener, address) = listener(runtime);
        let handle = runtime.clone();
        run(runtime, async move {
            let (near, far) = connected(&handle, &listener, address).await?;
            let plain = sys::tcp_socket(address)?;
            let usual = sys::congestion_control(plain.as_raw_fd())?;
            let wanted = if usual.starts_with(b"bbr") { b"reno".to_vec() } else { usual };
            for stream in [near, far] {
                let fd = handle.with_socket(stream.key_for_test(), |socket, _| socket.raw_fd());
                assert_eq!(sys::congestion_control(fd)?, wanted);
            }
            Ok(())
        });
    });
}

#[test]
fn congestion_control_that_was_asked_for_stands() {
    on_every_kernel_backend(|runtime| {
        let (listener, address) = listener(runtime);
        let handle = runtime.clone();
        run(runtime, async move {
            let option = |name: &[u8]| RawOption {
                level: libc::IPPROTO_TCP,
                name: libc::TCP_CONGESTION,
                value: name.to_vec().into(),
            };
            let usual = sys::congestion_control(sys::tcp_socket(address)?.as_raw_fd())?;
            for name in [usual, b"reno".to_vec()] {
                let options = [option(&name)];
                let stream = TcpStream::connect(&handle, address, None, &options).await?;
                let fd = handle.with_socket(stream.key_for_test(), |socket, _| socket.raw_fd());
                assert_eq!(sys::congestion_control(fd)?, name);
            }
            drop(listener);
            Ok(())
        });
    });
}

#[test]
fn unix_sockets_are_connected_to_by_path_and_by_abstract_name() {
    on_every_kernel_backend(|runtime| {
        use std::io::{Read, Write};
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::{SocketAddr, UnixListener};
        let unique = format!("ringway-runtime-{}", std::process::id());
        let path = std::env::temp_dir().join(&unique);
        let _ = std::fs::remove_file(&path);
        let by_path = UnixListener::bind(&path).unwrap();
        let by_name = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&unique).unwrap()).unwrap();
        let name = format!("@{unique}");
        for (target, listener) in [(path.to_str().unwrap(), by_path), (&*name, by_name)] {
            let (target, handle) = (target.to_owned(), runtime.clone());
            let peer = std::thread::spawn(move || {
                let (mut peer, _) = listener.accept().unwrap();
                let mut received = Vec::new();
                peer.write_all(b"first").unwrap();
                peer.read_to_end(&mut received).unwrap();
                received
            });
            run(runtime, async move {
                let stream = TcpStream::connect(&handle, Target::Pipe(&target), None, &[]).await?;
                assert!(stream.local_addr().is_err(), "it has no address of IP");
                expect_bytes(&stream, b"first").await;
                assert!(stream.send_copy(b"second"));
                stream.flush();
                poll_fn(|_| stream.poll_sent(0)).await?;
                stream.shutdown_write();
                assert!(stream.recv().await?.is_none());
                Ok(())
            });
            assert_eq!(peer.join().unwrap(), b"second");
        }
        std::fs::remove_file(&path).unwrap();
        for (target, errno) in [
            (path.to_str().unwrap().to_owned(), libc::ENOENT),
            (name, libc::ECONNREFUSED),
            ("/".repeat(200), libc::EINVAL),
            ("a\0b".to_owned(), libc::EINVAL),
        ] {
            let handle = runtime.clone();
            run(runtime, async move {
                let error = TcpStream::connect(&handle, Target::Pipe(&target), None, &[]).await.unwrap_err();
                assert_eq!(error.raw_os_error(), Some(errno), "{target:?}");
                Ok(())
            });
        }
    });
}

/// The kernel does not wait for room either, and what was never connected looks ready all the same.
#[test]
fn unix_socket_whose_queue_is_full_is_not_connected_to() {
    on_every_kernel_backend(|runtime| {
        use std::os::unix::net::UnixStream;
        let path = std::env::temp_dir().join(format!("ringway-full-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let name = path.to_str().unwrap().to_owned();
        let options = ListenOptions {
            address: SocketAddress::Pipe(name.as_str().into()),
            ..ListenOptions::plain("127.0.0.1:0".parse().unwrap(), 1)
        };
        let listener = bind(&options, 1).unwrap();
        // One more than the backlog says may wait.
        let waiting = [(); 2].map(|()| UnixStream::connect(&path).unwrap());
        let handle = runtime.clone();
        run(runtime, async move {
            let error = TcpStream::connect(&handle, Target::Pipe(&name), None, &[]).await.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
            Ok(())
        });
        drop((waiting, listener));
        std::fs::remove_file(&path).unwrap();
    });
}
