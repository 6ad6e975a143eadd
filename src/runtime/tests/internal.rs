//! Connections within the worker: what passes, what is bounded, and how they end.

use super::*;
use crate::base::limits;
use crate::base::rng::Rng;
use crate::base::socket_address::{InternalAddress, SocketAddress};

fn address(name: &str) -> InternalAddress {
    InternalAddress::new(name, "id")
}

async fn connect(runtime: &Runtime, name: &str) -> io::Result<TcpStream> {
    TcpStream::connect(runtime, Target::Internal(&address(name)), None, &[]).await
}

/// Both ends of a connection.
async fn pair(runtime: &Runtime) -> (TcpStream, TcpStream) {
    let listener = TcpListener::internal(runtime, address("a"));
    let near = connect(runtime, "a").await.unwrap();
    (near, poll_fn(|_| listener.poll_accept()).await.unwrap())
}

fn errno<T: std::fmt::Debug>(outcome: io::Result<T>) -> Option<i32> {
    outcome.unwrap_err().raw_os_error()
}

/// Everything up to the end, and what that was.
async fn rest(stream: &TcpStream) -> (Vec<u8>, io::Result<()>) {
    let mut received = Vec::new();
    loop {
        match stream.recv().await {
            Ok(Some(chunk)) => received.extend_from_slice(&chunk),
            Ok(None) => return (received, Ok(())),
            Err(error) => return (received, Err(error)),
        }
    }
}

#[test]
fn name_is_found_as_long_as_somebody_listens_and_its_successor_has_it() {
    on_every_backend(|runtime| {
        let handle = runtime.clone();
        run(runtime, async move {
            assert_eq!(errno(connect(&handle, "a").await), Some(libc::EINVAL));
            let first = TcpListener::internal(&handle, address("a"));
            let waiting = connect(&handle, "a").await?;
            let second = TcpListener::internal(&handle, address("a"));
            let taken = connect(&handle, "a").await?;
            drop(first);
            assert_eq!(errno(waiting.recv().await), Some(libc::ECONNRESET), "nobody took it");
            let accepted = poll_fn(|_| second.poll_accept()).await?;
            let listener = SocketAddress::Internal(address("a"));
            assert_eq!(accepted.ends()?, [listener.clone(), listener.clone()]);
            assert_eq!(second.address()?, listener);
            assert!(accepted.local_addr().is_err() && accepted.original_destination().is_none());
            assert!(!accepted.may_splice() && second.is_internal());
            drop(second);
            assert_eq!(errno(connect(&handle, "a").await), Some(libc::EINVAL));
            assert!(taken.send_copy(b"still there"));
            taken.flush();
            expect_bytes(&accepted, b"still there").await;
            Ok(())
        });
    });
}

#[test]
fn ends_are_orderly_apart_for_each_direction_unless_something_is_unread() {
    on_every_backend(|runtime| {
        let handle = runtime.clone();
        run(runtime, async move {
            let (near, far) = pair(&handle).await;
            let destination = "10.0.0.1:80".parse().unwrap();
            near.tell_destination(destination);
            assert_eq!((near.original_destination(), far.original_destination()), (None, Some(destination)));
            assert!(near.send_copy(b"request"));
            near.shutdown_write();
            assert_eq!(far.poll_peer_closed(), Poll::Ready(()), "it is known ahead of the bytes");
            let (received, end) = rest(&far).await;
            assert!(received == b"request" && end.is_ok());
            assert!(far.send_copy(b"response"));
            far.flush();
            drop(far);
            let (received, end) = rest(&near).await;
            assert!(received == b"response" && end.is_ok());

            let (near, far) = pair(&handle).await;
            assert!(near.poll_broken().is_pending() && far.poll_broken().is_pending());
            drop(far);
            assert!(near.recv().await?.is_none());
            assert!(near.send_copy(b"too late"));
            near.flush();
            assert_eq!(errno(poll_fn(|_| near.poll_sent(0)).await), Some(libc::EPIPE));

            for unread in [false, true] {
                let (near, far) = pair(&handle).await;
                assert!(far.send_copy(b"arrived"));
                far.flush();
                if unread {
                    assert!(near.send_copy(b"unread"));
                    near.flush();
                } else {
                    far.set_reset_on_close();
                }
                drop(far);
                let (received, end) = rest(&near).await;
                assert_eq!((&received[..], errno(end)), (&b"arrived"[..], Some(libc::ECONNRESET)));
                assert_eq!(errno(poll_fn(|_| near.poll_sent(0)).await), Some(libc::ECONNRESET));
            }
            Ok(())
        });
    });
}

#[test]
fn sender_waits_when_the_receiver_holds_as_much_as_it_may() {
    on_every_backend(|runtime| {
        let handle = runtime.clone();
        run(runtime, async move {
            for buffer in [1024, 256 * 1024] {
                handle.set_internal_buffer(buffer);
                let (near, far) = pair(&handle).await;
                let piece = vec![7; limits::LARGE_CHUNK_BYTES];
                for _ in 0..32 {
                    near.send(chunk(&handle, &piece));
                    near.flush();
                }
                let taken = 32 * piece.len() - near.queued();
                assert!((buffer.min(taken)..buffer + piece.len()).contains(&taken), "{taken} of {buffer}");
                assert!(near.poll_sent(0).is_pending());
                let mut received = 0;
                while received < 32 * piece.len() {
                    received += far.recv().await?.map_or(0, |chunk| chunk.len());
                    assert!(32 * piece.len() - near.queued() - received <= buffer + piece.len());
                }
                assert!(near.poll_sent(0).is_ready());
                let before = handle.pool().chunks_in_use();
                for _ in 0..100_000 {
                    assert!(near.send_copy(b"x"));
                    near.flush();
                }
                let held = handle.pool().chunks_in_use() - before;
                assert!(
                    held <= 100_000 / limits::SMALL_CHUNK_BYTES as u32 + 2,
                    "{held} chunks for single bytes"
                );
            }
            Ok(())
        });
    });
}

#[test]
fn connections_that_lead_into_each_other_are_refused_at_some_depth() {
    on_every_backend(|runtime| {
        let depth = Rc::new(Cell::new(0));
        let (handle, reached) = (runtime.clone(), Rc::clone(&depth));
        let listener = TcpListener::internal(runtime, address("loop"));
        let accepting = runtime.clone();
        runtime.spawn(async move {
            loop {
                let Ok(taken) = poll_fn(|_| listener.poll_accept()).await else { return };
                let (handle, reached) = (accepting.clone(), Rc::clone(&reached));
                accepting.spawn(async move {
                    reached.set(reached.get() + 1);
                    // What a task starts is as deep as it.
                    let inner = handle.clone();
                    handle.spawn(async move {
                        let further = connect(&inner, "loop").await;
                        if let Ok(further) = &further {
                            let _ = further.recv().await;
                        } else {
                            assert_eq!(errno(further), Some(libc::ELOOP));
                        }
                        drop(taken);
                    });
                });
            }
        });
        run(runtime, async move {
            for round in 1..=3 {
                let stream = connect(&handle, "loop").await?;
                assert!(stream.recv().await?.is_none(), "all of them end");
                assert_eq!(depth.get(), round * u32::from(limits::INTERNAL_NESTING_MAX));
            }
            assert_eq!(handle.stats().internal_refused, 3);
            Ok(())
        });
    });
}

#[test]
fn ends_of_one_worker_are_bounded() {
    let (_sender, mail) = mailbox::<()>().unwrap();
    let runtime = Runtime::epoll(mail.bell()).unwrap();
    on("epoll", &runtime, |runtime| {
        let handle = runtime.clone();
        run(runtime, async move {
            let listener = TcpListener::internal(&handle, address("a"));
            let mut open = Vec::new();
            while open.len() < limits::INTERNAL_ENDS_MAX / 2 {
                open.push(connect(&handle, "a").await?);
            }
            assert_eq!(errno(connect(&handle, "a").await), Some(libc::ENOBUFS));
            drop(listener);
            drop(open);
            let _listener = TcpListener::internal(&handle, address("a"));
            drop(connect(&handle, "a").await?);
            Ok(())
        });
    });
}

/// What one end of a drawn connection does, and what the other must see of it.
#[derive(Clone, Debug)]
struct Script {
    bytes: Vec<u8>,
    resets: bool,
    /// Reads before it sends, so that its sender has to wait.
    reads_first: bool,
}

fn draw(rng: &mut Rng) -> Script {
    let len = [0, 1, 5000, 300_000, 3_000_000][rng.below(5) as usize];
    let len = rng.below(len + 1) as usize;
    Script {
        bytes: (0..len).map(|_| rng.next_u64() as u8).collect(),
        resets: rng.below(5) == 0,
        reads_first: rng.below(2) == 0,
    }
}

async fn send(runtime: &Runtime, stream: &TcpStream, script: &Script, mut rng: Rng) -> io::Result<()> {
    let mut left = &script.bytes[..];
    while !left.is_empty() {
        let most = [1, 100, 5000, 64 * 1024][rng.below(4) as usize];
        let (piece, rest) = left.split_at(left.len().min(1 + rng.below(most) as usize));
        left = rest;
        if rng.below(2) == 0 {
            assert!(stream.send_copy(piece));
        } else {
            stream.send(chunk(runtime, piece));
        }
        if rng.below(3) == 0 {
            stream.flush();
            poll_fn(|_| stream.poll_sent(64 * 1024)).await?;
        }
    }
    stream.flush();
    poll_fn(|_| stream.poll_sent(0)).await?;
    if script.resets {
        stream.set_reset_on_close()
    } else {
        stream.shutdown_write()
    }
    Ok(())
}

/// Plays one end: what it has received, and how that ended.
async fn play(runtime: Runtime, stream: TcpStream, script: Script, rng: Rng) -> (Vec<u8>, Option<i32>) {
    let stream = Rc::new(stream);
    let read = async |stream: &TcpStream| {
        let (received, end) = rest(stream).await;
        (received, end.err().and_then(|error| error.raw_os_error()))
    };
    if script.resets {
        // It leaves as soon as all is sent.
        let _ = send(&runtime, &stream, &script, rng).await;
        return (Vec::new(), None);
    }
    if script.reads_first {
        let seen = read(&stream).await;
        let _ = send(&runtime, &stream, &script, rng).await;
        return seen;
    }
    let (sender, handle) = (Rc::clone(&stream), runtime.clone());
    runtime.spawn(async move { drop(send(&handle, &sender, &script, rng).await) });
    // One task is woken for each direction.
    read(&stream).await
}

#[test]
fn drawn_connections_bring_every_byte_in_order_and_end_as_they_should() {
    on_every_backend(|runtime| {
        for seed in 1..=12 {
            println!("seed {seed}");
            let mut rng = Rng::from_seed(seed);
            let scripts = [draw(&mut rng), draw(&mut rng)];
            if scripts.iter().all(|script| script.reads_first && !script.resets) {
                // Both would wait for the other.
                continue;
            }
            let rngs = [Rng::from_seed(rng.next_u64()), Rng::from_seed(rng.next_u64())];
            let buffer = 1024 << rng.below(11);
            let handle = runtime.clone();
            run(runtime, async move {
                handle.set_internal_buffer(buffer);
                let (near, far) = pair(&handle).await;
                let seen: Rc<RefCell<Vec<_>>> = Rc::default();
                let all = scripts.clone().into_iter().zip(rngs).zip([near, far]).enumerate();
                for (side, ((script, rng), stream)) in all {
                    let (handle, seen) = (handle.clone(), Rc::clone(&seen));
                    handle.clone().spawn(async move {
                        let outcome = play(handle, stream, script, rng).await;
                        seen.borrow_mut().push((side, outcome));
                    });
                }
                while seen.borrow().len() < 2 {
                    handle.wake(handle.current_task());
                    let mut waited = false;
                    poll_fn(|_| {
                        if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }
                    })
                    .await;
                }
                for (side, (received, end)) in seen.borrow().iter() {
                    let (own, other) = (&scripts[*side], &scripts[1 - *side]);
                    if own.resets {
                        continue;
                    }
                    if other.resets {
                        // It may have been reset before it had all of it, by what it sent itself.
                        assert!(other.bytes.starts_with(received), "seed {seed}");
                        assert_eq!(*end, Some(libc::ECONNRESET), "seed {seed}");
                    } else {
                        assert!(*received == other.bytes, "seed {seed}: {} bytes", received.len());
                        assert_eq!(*end, None, "seed {seed}");
                    }
                }
                Ok(())
            });
        }
    });
}
