//! One test per hazard of completion-based and readiness-based I/O, named after it, on every back end where it can
//! happen. Each ends with all leak counters at zero.

use super::*;
use crate::runtime::ring::{QueueSize, Ring};
use crate::runtime::socket::SocketKey;

/// A connected pair on one runtime: the connecting and the accepted end.
pub(super) async fn pair(runtime: &Runtime) -> (TcpStream, TcpStream) {
    let (listener, address) = listener(runtime);
    let near = TcpStream::connect(runtime, address, None, &[]).await.unwrap();
    let far = poll_fn(|_| listener.poll_accept()).await.unwrap();
    (near, far)
}

/// Lets `turns` turns pass.
pub(super) async fn turns(runtime: &Runtime, turns: usize) {
    for _ in 0..turns {
        next_turn(runtime).await;
    }
}

async fn next_turn(runtime: &Runtime) {
    let started = runtime.now();
    poll_fn(|_| {
        if runtime.now() != started {
            return Poll::Ready(());
        }
        runtime.wake(runtime.current_task());
        Poll::Pending
    })
    .await;
}

pub(super) fn on_ring<T>(runtime: &Runtime, work: impl FnOnce(&mut Ring) -> T) -> Option<T> {
    runtime.with_scope(|driver, _| match driver {
        Driver::Ring(ring) => Some(work(ring)),
        _ => None,
    })
}

fn pattern(at: usize, len: usize) -> Vec<u8> {
    (at..at + len).map(|n| (n % 251) as u8).collect()
}

/// Reads to the end and checks each byte against [`pattern`].
async fn read_pattern(stream: &TcpStream) -> usize {
    let mut got = 0;
    while let Some(bytes) = stream.recv().await.unwrap() {
        assert!(bytes.iter().zip(got..).all(|(&byte, n)| byte == (n % 251) as u8), "at {got}");
        got += bytes.len();
    }
    got
}

async fn send_pattern(runtime: &Runtime, stream: &TcpStream, total: usize) {
    let mut sent = 0;
    while sent < total {
        let bytes = pattern(sent, 60_000.min(total - sent));
        stream.send(chunk(runtime, &bytes));
        stream.flush();
        sent += bytes.len();
        poll_fn(|_| stream.poll_sent(512 << 10)).await.unwrap();
    }
    stream.shutdown_write();
    poll_fn(|_| stream.poll_sent(0)).await.unwrap();
}

#[test]
fn short_send_is_continued_where_it_stopped() {
    const TOTAL: usize = 16 << 20;
    on_every_backend(|runtime| {
        let handle = runtime.clone();
        run(runtime, async move {
            let (near, far) = pair(&handle).await;
            let (sender, key) = (handle.clone(), near.key_for_test());
            let _sender = handle.spawn(async move { send_pattern(&sender, &near, TOTAL).await });
            // The reader waits, so that sends get stuck half-way; an interrupted one reports what it did.
            for _ in 0..20 {
                turns(&handle, 20).await;
                on_ring(&handle, |ring| ring.interrupt_for_test(key, true));
                turns(&handle, 4).await;
                if let Some(bytes) = far.recv().await? {
                    far.unread(bytes);
                }
            }
            assert_eq!(read_pattern(&far).await, TOTAL);
            assert!(handle.stats().short_sends > 0);
            Ok(())
        });
    });
}

#[test]
fn handle_dropped_while_a_send_is_under_way_keeps_its_chunks_until_the_kernel_is_done() {
    on_every_backend(|runtime| {
        let handle = runtime.clone();
        run(runtime, async move {
            let (near, far) = pair(&handle).await;
            // More than both kernel buffers take: the send stays under way.
            for _ in 0..300 {
                near.send(chunk(&handle, &[b'A'; 60_000]));
            }
            near.flush();
            assert!(matches!(near.poll_recv(), Poll::Pending));
            turns(&handle, 200).await;
            drop(near);
            if on_ring(&handle, |_| ()).is_some() {
                assert!(handle.leaks().operations > 0 && handle.leaks().chunks > 0, "{:?}", handle.leaks());
            }
            // Whatever is allocated now must not be what the kernel still reads.
            let mut others: Vec<_> = (0..400).map(|_| chunk(&handle, &[b'B'; 60_000])).collect();
            loop {
                match far.recv().await {
                    Ok(Some(bytes)) => assert!(bytes.iter().all(|&byte| byte == b'A')),
                    Ok(None) | Err(_) => break,
                }
                if others.len() < 1000 {
                    others.push(chunk(&handle, &[b'B'; 60_000]));
                }
            }
            Ok(())
        });
    });
}

#[test]
fn close_with_operations_in_flight_ends_the_connection() {
    on_every_backend(|runtime| {
        let handle = runtime.clone();
        run(runtime, async move {
            let (near, far) = pair(&handle).await;
            assert!(matches!(near.poll_recv(), Poll::Pending));
            turns(&handle, 3).await;
            drop(near);
            // An armed receive keeps the file alive: without a cancel this end would never come.
            assert!(far.recv().await?.is_none());
            Ok(())
        });
    });
}

#[test]
fn stale_completion_touches_no_successor() {
    on_every_backend(|runtime| {
        let handle = runtime.clone();
        run(runtime, async move {
            let (near, far) = pair(&handle).await;
            let stale = near.key_for_test();
            drop(near);
            assert!(far.recv().await?.is_none());
            drop(far);
            turns(&handle, 10).await;
            let (near, far) = pair(&handle).await;
            let slots = [near.key_for_test().slot, far.key_for_test().slot];
            assert!(slots.contains(&stale.slot), "the slot is used again");
            let forged = on_ring(&handle, |ring| {
                (1..=5).for_each(|op| ring.forge_for_test(op, stale));
                (6..=7).for_each(|op| ring.forge_for_test(op, stale));
                ring.forge_for_test(99, SocketKey { slot: u32::MAX, generation: 0 });
            });
            turns(&handle, 3).await;
            if forged.is_some() {
                assert_eq!(handle.stats().stale_completions, 5);
            }
            near.send(chunk(&handle, b"still here"));
            near.flush();
            expect_bytes(&far, b"still here").await;
            // The operation that was not tracked as one of ours is not counted as ended either.
            Ok(())
        });
    });
}

#[test]
fn connect_that_succeeds_after_its_owner_left_is_closed() {
    on_every_kernel_backend(|runtime| {
        let (listener, address) = listener(runtime);
        let handle = runtime.clone();
        run(runtime, async move {
            let mut connecting = Box::pin(TcpStream::connect(&handle, address, None, &[]));
            let first = poll_fn(|context| Poll::Ready(connecting.as_mut().poll(context))).await;
            // The ring has only queued it; epoll may have connected at once.
            on_ring(&handle, Ring::visit_for_test);
            drop(connecting);
            drop(first);
            let accepted = poll_fn(|_| listener.poll_accept()).await?;
            assert!(accepted.recv().await?.is_none());
            Ok(())
        });
    });
}

#[test]
fn receive_without_memory_waits_and_loses_nothing() {
    const TOTAL: usize = 600_000;
    on_every_backend(|runtime| {
        for bulk in [false, true] {
            let handle = runtime.clone();
            run(runtime, async move {
                let (near, far) = pair(&handle).await;
                far.set_bulk(bulk);
                (0..10).for_each(|n| near.send(chunk(&handle, &pattern(n * 60_000, 60_000))));
                // All of the pool, and what comes back as the message is sent.
                let mut hoard = Vec::new();
                let all = || std::iter::from_fn(|| handle.pool().alloc(ChunkSize::Large));
                hoard.extend(all());
                near.flush();
                let mut got = Vec::new();
                for _ in 0..200 {
                    hoard.extend(all());
                    match far.poll_recv() {
                        Poll::Ready(bytes) => got.push(bytes?.expect("bytes")),
                        Poll::Pending => turns(&handle, 1).await,
                    }
                }
                let early: usize = got.iter().map(|bytes| bytes.len()).sum();
                assert!(early < TOTAL, "the ring had at most 64 chunks ready");
                if on_ring(&handle, |_| ()).is_some() {
                    assert!(handle.stats().recv_enobufs > 0);
                }
                hoard.clear();
                let mut at = 0;
                let mut check = |bytes: &Chunk| {
                    assert_eq!(**bytes, pattern(at, bytes.len()));
                    at += bytes.len();
                    at
                };
                for bytes in got {
                    check(&bytes);
                }
                while check(&far.recv().await?.expect("bytes")) < TOTAL {}
                Ok(())
            });
        }
    });
}

#[test]
fn full_queues_lose_no_completion_and_no_submission() {
    let (_sender, mail) = mailbox::<()>().unwrap();
    for level in [RingLevel::One, RingLevel::Two, RingLevel::Three] {
        let pool = Pool::new().unwrap();
        let size = QueueSize { submissions: 32, completions: 32 };
        let ring = match Ring::open(level, size, mail.bell().as_raw_fd(), &pool) {
            Ok(ring) => ring,
            Err(error) => {
                println!("back end: {level} not run: {error}");
                continue;
            }
        };
        let runtime = Runtime::with_driver(Driver::Ring(Box::new(ring)), pool);
        let handle = runtime.clone();
        run(&runtime, async move {
            let mut pairs = Vec::new();
            for _ in 0..60 {
                pairs.push(pair(&handle).await);
            }
            for (near, far) in &pairs {
                assert!(far.poll_recv().is_pending());
                near.send(chunk(&handle, b"0123456789"));
                near.flush();
            }
            for (_, far) in &pairs {
                expect_bytes(far, b"0123456789").await;
            }
            Ok(())
        });
        assert!(runtime.stats().cq_overflows > 0, "{:?}", runtime.stats());
        runtime.shut_down();
        settle(&runtime);
        assert_eq!(runtime.leaks(), Leaks::default(), "{level} leaks");
    }
}

#[test]
fn receive_that_the_kernel_ended_is_armed_again() {
    on_every_backend(|runtime| {
        let handle = runtime.clone();
        run(runtime, async move {
            let (near, far) = pair(&handle).await;
            for round in 0..50u8 {
                assert!(far.poll_recv().is_pending());
                turns(&handle, 1).await;
                on_ring(&handle, |ring| ring.interrupt_for_test(far.key_for_test(), false));
                if round % 2 == 0 {
                    turns(&handle, 2).await;
                }
                near.send(chunk(&handle, &[round]));
                near.flush();
                expect_bytes(&far, &[round]).await;
            }
            Ok(())
        });
    });
}

#[test]
fn unread_bytes_are_bounded_and_stay_in_order() {
    const TOTAL: usize = 8 << 20;
    on_every_backend(|runtime| {
        let handle = runtime.clone();
        run(runtime, async move {
            let (near, far) = pair(&handle).await;
            let sender = handle.clone();
            handle.spawn(async move { send_pattern(&sender, &near, TOTAL).await });
            assert!(far.poll_recv().is_pending());
            turns(&handle, 100).await;
            let held = handle.with_socket(far.key_for_test(), |socket, _| socket.received.capacity());
            // The cap, and what one visit may bring before the cancel takes effect.
            assert!(held <= (64 << 10) + 64 * 4096, "{held}");
            assert_eq!(read_pattern(&far).await, TOTAL);
            Ok(())
        });
    });
}

#[test]
fn bulk_mode_toggled_while_bytes_stream_keeps_their_order() {
    const TOTAL: usize = 12 << 20;
    on_every_backend(|runtime| {
        let handle = runtime.clone();
        run(runtime, async move {
            let (near, far) = pair(&handle).await;
            let sender = handle.clone();
            handle.spawn(async move { send_pattern(&sender, &near, TOTAL).await });
            let mut rng = crate::base::rng::Rng::from_seed(7);
            let mut got = 0;
            while let Some(bytes) = far.recv().await? {
                assert!(bytes.iter().zip(got..).all(|(&byte, n)| byte == (n % 251) as u8), "at {got}");
                got += bytes.len();
                match rng.below(16) {
                    0 => far.set_bulk(true),
                    1 => far.set_bulk(false),
                    2 => turns(&handle, rng.below(20) as usize).await,
                    3 => drop(far.poll_recv().map_ok(|bytes| bytes.map(|bytes| far.unread(bytes)))),
                    _ => {}
                }
            }
            assert_eq!(got, TOTAL);
            Ok(())
        });
    });
}

#[test]
fn reused_descriptors_and_slots_are_not_mistaken_for_their_predecessors() {
    on_every_backend(|runtime| {
        let handle = runtime.clone();
        run(runtime, async move {
            let mut old = Vec::new();
            for round in 0..200u8 {
                let (near, far) = pair(&handle).await;
                assert!(near.poll_recv().is_pending());
                far.send(chunk(&handle, &[round; 100]));
                far.flush();
                if round % 3 == 0 {
                    // Closed with bytes on their way to it.
                    old.push(far);
                    continue;
                }
                expect_bytes(&near, &[round; 100]).await;
                old.truncate(3);
            }
            Ok(())
        });
    });
}

#[test]
fn reset_that_a_send_has_reported_is_no_orderly_end_for_the_reader() {
    on_every_backend(|runtime| {
        let handle = runtime.clone();
        run(runtime, async move {
            let (near, far) = pair(&handle).await;
            far.set_reset_on_close();
            drop(far);
            turns(&handle, 3).await;
            // Nobody reads: a send is the first to meet the error.
            loop {
                near.send(chunk(&handle, b"x"));
                near.flush();
                if poll_fn(|_| near.poll_sent(0)).await.is_err() {
                    break;
                }
            }
            assert!(near.recv().await.is_err(), "a cut-off message must not look complete");
            Ok(())
        });
    });
}

#[test]
fn idle_connection_hears_of_the_peers_end() {
    on_every_backend(|runtime| {
        for bulk in [false, true] {
            let handle = runtime.clone();
            run(runtime, async move {
                let (near, far) = pair(&handle).await;
                near.set_bulk(bulk);
                far.send(chunk(&handle, b"response"));
                far.flush();
                expect_bytes(&near, b"response").await;
                near.set_bulk(false);
                // The pool's keeper watches; the task that used the connection is gone.
                let heard = Rc::new(Cell::new(false));
                let (hears, near) = (Rc::clone(&heard), Rc::new(near));
                let watched = Rc::clone(&near);
                let keeper = handle.spawn(async move {
                    let mut first = true;
                    poll_fn(|_| {
                        if std::mem::take(&mut first) {
                            return Poll::Pending;
                        }
                        hears.set(true);
                        watched.poll_peer_closed()
                    })
                    .await;
                });
                near.watch_by(keeper);
                turns(&handle, 3).await;
                assert!(!heard.get());
                drop(far);
                while !heard.get() {
                    turns(&handle, 1).await;
                }
                assert!(near.poll_peer_closed().is_ready());
                Ok(())
            });
        }
    });
}

#[test]
fn half_closed_peer_still_gets_everything() {
    on_every_backend(|runtime| {
        let handle = runtime.clone();
        run(runtime, async move {
            let (near, far) = pair(&handle).await;
            near.send(chunk(&handle, b"request"));
            near.shutdown_write();
            expect_bytes(&far, b"request").await;
            assert!(far.recv().await?.is_none());
            let sender = handle.clone();
            handle.spawn(async move { send_pattern(&sender, &far, 5 << 20).await });
            assert_eq!(read_pattern(&near).await, 5 << 20);
            Ok(())
        });
    });
}

#[test]
fn many_connections_at_once_echo_their_own_bytes() {
    const CLIENTS: usize = 300;
    on_every_backend(|runtime| {
        let (listener, address) = listener_with_backlog(runtime, CLIENTS as i32);
        let server = runtime.clone();
        let acceptor = runtime.spawn(async move {
            loop {
                let stream = poll_fn(|_| listener.poll_accept()).await.unwrap();
                server.spawn(async move {
                    while let Some(bytes) = stream.recv().await.unwrap() {
                        stream.send(bytes);
                        stream.flush();
                    }
                    poll_fn(|_| stream.poll_sent(0)).await.unwrap();
                });
            }
        });
        let left = Rc::new(Cell::new(CLIENTS));
        let done = Rc::new(Cell::new(false));
        for n in 0..CLIENTS {
            let (client, left, done) = (runtime.clone(), Rc::clone(&left), Rc::clone(&done));
            runtime.spawn(async move {
                let stream = TcpStream::connect(&client, address, None, &[]).await.unwrap();
                for round in 0..10 {
                    let message = pattern(n * 7 + round, 1 + n * 13 % 5000);
                    stream.send(chunk(&client, &message));
                    stream.flush();
                    let mut got = Vec::new();
                    while got.len() < message.len() {
                        got.extend_from_slice(&stream.recv().await.unwrap().expect("the echo"));
                    }
                    assert_eq!(got, message);
                }
                left.set(left.get() - 1);
                done.set(left.get() == 0);
            });
        }
        turn_until(runtime, &done);
        assert_eq!(runtime.panics(), 0);
        runtime.wake(acceptor);
    });
}

#[test]
fn stale_tail_of_a_buffer_never_shows() {
    on_every_backend(|runtime| {
        let handle = runtime.clone();
        run(runtime, async move {
            let secrets: Vec<_> = (0..200)
                .map(|_| {
                    let mut chunk = handle.pool().alloc(ChunkSize::Small).unwrap();
                    chunk.write(&[b'S'; 4096]);
                    chunk
                })
                .collect();
            drop(secrets);
            let (near, far) = pair(&handle).await;
            for _ in 0..300 {
                near.send(chunk(&handle, b"abc"));
                near.flush();
                expect_bytes(&far, b"abc").await;
            }
            Ok(())
        });
    });
}

#[test]
fn runtime_dropped_with_operations_in_flight_lets_go_of_everything() {
    let (_sender, mail) = mailbox::<()>().unwrap();
    for (name, runtime) in backends(&mail) {
        let pool = runtime.pool().clone();
        let streams = Rc::new(RefCell::new(Vec::new()));
        let (kept, handle) = (Rc::clone(&streams), runtime.clone());
        run(&runtime, async move {
            for _ in 0..10 {
                let (near, far) = pair(&handle).await;
                assert!(near.poll_recv().is_pending());
                (0..200).for_each(|_| near.send(chunk(&handle, &[1; 60_000])));
                near.flush();
                kept.borrow_mut().push((near, far));
            }
            turns(&handle, 5).await;
            Ok(())
        });
        runtime.shut_down();
        streams.borrow_mut().clear();
        // Not settled: the cancels have not even been submitted.
        drop(runtime);
        assert_eq!(pool.chunks_in_use(), 0, "{name}");
    }
}
