//! What ends a wait, and what does not: deadlines that move, sends that nobody waits for, sockets without room.

use std::io::{Read, Write};

use super::hazards::pair;
use super::*;

#[test]
fn deadline_set_later_and_due_earlier_ends_the_wait() {
    on_every_backend(|runtime| {
        let far = runtime.now().after(std::time::Duration::from_secs(3600));
        let late = runtime.clone();
        runtime.spawn(async move { late.sleep_until(far).await });
        for wait_ms in [30, 7, 3] {
            let early = runtime.clone();
            run(runtime, async move {
                let due = early.now().after(std::time::Duration::from_millis(wait_ms));
                early.sleep_until(due).await;
                assert!(early.now() >= due);
                Ok(())
            });
        }
    });
}

#[test]
fn deadlines_one_after_the_other_each_end_a_wait() {
    on_every_backend(|runtime| {
        let handle = runtime.clone();
        run(runtime, async move {
            for _ in 0..8 {
                handle.sleep_until(handle.now().after(std::time::Duration::from_millis(6))).await;
            }
            Ok(())
        });
    });
}

#[test]
fn small_sends_into_a_socket_without_room_wait_and_lose_nothing() {
    const PIECE: usize = 4000;
    on_every_backend(|runtime| {
        let handle = runtime.clone();
        run(runtime, async move {
            let (near, far) = pair(&handle).await;
            let mut sent = Vec::new();
            // Until several pieces find no room.
            while near.queued() < 3 * PIECE {
                let piece: Vec<u8> = (sent.len()..sent.len() + PIECE).map(|n| (n % 251) as u8).collect();
                near.send(chunk(&handle, &piece));
                near.flush();
                sent.extend(piece);
                hazards::turns(&handle, 2).await;
            }
            near.shutdown_write();
            let mut got = Vec::new();
            while let Some(bytes) = far.recv().await? {
                got.extend_from_slice(&bytes);
            }
            assert_eq!(got.len(), sent.len());
            assert!(got == sent, "bytes differ");
            Ok(())
        });
    });
}

/// A task that copies flushes whenever it runs. The task that connected was once told of its connection; on epoll every
/// flush told it again, and an idle tunnel kept a core busy.
#[test]
fn flush_of_nothing_wakes_nobody() {
    const WAIT_MS: u64 = 30;
    on_every_backend(|runtime| {
        let handle = runtime.clone();
        run(runtime, async move {
            let (near, far) = pair(&handle).await;
            near.send(chunk(&handle, b"x"));
            near.flush();
            expect_bytes(&far, b"x").await;
            let due = handle.now().after(std::time::Duration::from_millis(WAIT_MS));
            let timer = handle.timer();
            let mut runs = 0;
            poll_fn(|_| {
                runs += 1;
                near.flush();
                timer.poll_at(due)
            })
            .await;
            assert!(runs < WAIT_MS / 2, "run {runs} times with nothing to do");
            Ok(())
        });
    });
}

/// The ring learns of a finished send when it next wakes; it does not wake for that.
#[test]
fn send_that_nobody_waits_for_ends_no_wait() {
    const EXCHANGES: u64 = 200;
    on_every_kernel_backend(|runtime| {
        let (listener, address) = listener(runtime);
        let echo = std::thread::spawn(move || {
            let mut peer = std::net::TcpStream::connect(address).unwrap();
            let mut byte = [0];
            while peer.read(&mut byte).unwrap() == 1 {
                peer.write_all(&byte).unwrap();
            }
        });
        let handle = runtime.clone();
        run(runtime, async move {
            let stream = poll_fn(|_| listener.poll_accept()).await?;
            let before = handle.stats().visits;
            for number in 0..EXCHANGES {
                stream.send(chunk(&handle, &[number as u8]));
                stream.flush();
                expect_bytes(&stream, &[number as u8]).await;
            }
            let visits = handle.stats().visits - before;
            assert!(visits < EXCHANGES * 3 / 2, "{visits} visits for {EXCHANGES} exchanges");
            Ok(())
        });
        // The ring closes with its next visit.
        settle(runtime);
        echo.join().unwrap();
    });
}
