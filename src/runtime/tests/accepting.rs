//! Hazards of accepting: cancelled accepts that succeed, stopping, connections nobody takes, no descriptors.

use super::hazards::{on_ring, turns};
use super::*;
use crate::runtime::ring::Ring;

#[test]
fn accept_that_succeeds_while_being_cancelled_leaks_no_descriptor() {
    on_every_kernel_backend(|runtime| {
        let (listener, address) = listener(runtime);
        assert!(matches!(listener.poll_accept(), Poll::Pending));
        runtime.spawn(async {});
        runtime.turn().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        let on_ring = on_ring(runtime, Ring::visit_for_test).is_some();
        drop(listener);
        settle(runtime);
        if on_ring {
            assert_eq!(runtime.stats().accepts_dropped, 1);
        }
        client.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let ended = std::io::Read::read(&mut &client, &mut [0; 1]);
        assert!(matches!(&ended, Ok(0)) || ended.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionReset));
    });
}

#[test]
fn listener_that_stops_hands_out_every_completed_handshake() {
    on_every_kernel_backend(|runtime| {
        let (listener, address) = listener(runtime);
        let handle = runtime.clone();
        run(runtime, async move {
            assert!(matches!(listener.poll_accept(), Poll::Pending));
            turns(&handle, 2).await;
            let mut clients = Vec::new();
            (0..20).for_each(|_| clients.push(std::net::TcpStream::connect(address).unwrap()));
            turns(&handle, 1).await;
            // These the kernel has completed and not handed over.
            (0..20).for_each(|_| clients.push(std::net::TcpStream::connect(address).unwrap()));
            let mut accepted = 0;
            while let Some(taken) = poll_fn(|_| listener.poll_take_rest(true)).await? {
                let stream = TcpStream::adopt(&handle, taken)?;
                assert!(stream.peer_addr().is_ok());
                accepted += 1;
            }
            assert_eq!(accepted, clients.len());
            Ok(())
        });
    });
}

#[test]
fn untaken_connections_are_bounded_and_all_served_later() {
    const CLIENTS: usize = 700;
    on_every_kernel_backend(|runtime| {
        let (listener, address) = listener_with_backlog(runtime, CLIENTS as i32);
        let handle = runtime.clone();
        run(runtime, async move {
            assert!(listener.poll_accept().is_pending());
            let mut clients = Vec::new();
            for _ in 0..CLIENTS / 50 {
                for _ in 0..50 {
                    clients.push(std::net::TcpStream::connect(address)?);
                }
                turns(&handle, 4).await;
                let untaken = handle
                    .with_socket(listener.key_for_test(), |socket, _| socket.accepting().accepted.len());
                assert!(untaken <= 256 + 64, "{untaken}");
            }
            for _ in 0..CLIENTS {
                drop(poll_fn(|_| listener.poll_accept()).await?);
            }
            Ok(())
        });
    });
}

/// Runs a test of these files in a process of its own, where it may change limits.
pub(super) fn alone(name: &str) -> bool {
    if std::env::var_os("RINGWAY_TEST_ALONE").is_some() {
        return true;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("runtime::tests::{name}"), "--nocapture"])
        .env("RINGWAY_TEST_ALONE", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    false
}

#[test]
fn accept_without_descriptors_reports_it_and_recovers() {
    if !alone("accepting::accept_without_descriptors_reports_it_and_recovers") {
        return;
    }
    on_every_kernel_backend(|runtime| {
        let (listener, address) = listener(runtime);
        let handle = runtime.clone();
        run(runtime, async move {
            let client = std::net::TcpStream::connect(address)?;
            // Use up all descriptors.
            sys::set_descriptor_limit_for_test(64);
            let mut hoard = Vec::new();
            while let Ok(file) = client.try_clone() {
                hoard.push(file);
            }
            let error = poll_fn(|_| listener.poll_accept()).await.expect_err("no descriptor is left");
            assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
            hoard.clear();
            turns(&handle, 2).await;
            let stream = poll_fn(|_| listener.poll_accept()).await?;
            drop(client);
            assert!(stream.recv().await?.is_none());
            Ok(())
        });
        sys::set_descriptor_limit_for_test(1024);
    });
}
