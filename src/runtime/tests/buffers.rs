//! Hazards of the buffers that the kernel picks from: more takers than there are, and taking them back.

use super::hazards::{on_ring, pair, turns};
use super::*;
use crate::runtime::ring::{Ring, RingLevel};

#[test]
fn more_ready_sockets_than_buffers_are_all_served() {
    on_every_backend(|runtime| {
        let handle = runtime.clone();
        run(runtime, async move {
            burst(&handle, || ()).await;
            Ok(())
        });
    });
}

#[test]
fn buffers_taken_back_from_the_kernel_lose_no_byte() {
    on_every_kernel_backend(|runtime| {
        let handle = runtime.clone();
        run(runtime, async move {
            // While bytes arrive, then with nothing else to do.
            burst(&handle, || {
                on_ring(&handle, Ring::trim_for_test);
            })
            .await;
            burst(&handle, || ()).await;
            // What is spare by now goes with the next trim; what the ring gives back from here on only because it says so.
            handle.pool().trim();
            for _ in 0..10 {
                on_ring(&handle, Ring::trim_for_test);
            }
            let held = on_ring(&handle, |ring| (ring.level_for_test(), ring.small_held_for_test()));
            if let Some((RingLevel::Three, held)) = held {
                assert_eq!(held, 0, "nothing came for a while");
                handle.pool().trim();
                assert_eq!(handle.pool().resident_bytes(), handle.pool().bytes_in_use());
            }
            burst(&handle, || ()).await;
            Ok(())
        });
    });
}

/// Many sockets receive at once, more than there are buffers for.
async fn burst(runtime: &Runtime, mut each_turn: impl FnMut()) {
    const SOCKETS: usize = 300;
    let mut pairs = Vec::new();
    for _ in 0..SOCKETS {
        pairs.push(pair(runtime).await);
    }
    let left = Rc::new(Cell::new(SOCKETS));
    let mut senders = Vec::new();
    for (n, (near, far)) in pairs.into_iter().enumerate() {
        senders.push(near);
        let left = Rc::clone(&left);
        runtime.spawn(async move {
            let mut got = 0;
            while let Some(bytes) = far.recv().await.unwrap() {
                assert!(bytes.iter().all(|&byte| byte == n as u8));
                got += bytes.len();
            }
            assert_eq!(got, 10_000);
            left.set(left.get() - 1);
        });
    }
    turns(runtime, 3).await;
    for (n, near) in senders.iter().enumerate() {
        near.send(chunk(runtime, &[n as u8; 10_000]));
        near.shutdown_write();
    }
    while left.get() > 0 {
        turns(runtime, 1).await;
        each_turn();
    }
}
