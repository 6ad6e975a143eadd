//! Hazards of what is shared: a worker's turns, its bell, the kernel's interfaces, and memory across a fork.

use std::io::{Read, Write};

use super::hazards::on_ring;
use super::*;
use crate::runtime::ring::Ring;

#[test]
fn busy_worker_still_hears_its_sockets_and_its_bell() {
    let (sender, mail) = mailbox::<()>().unwrap();
    for (name, runtime) in backends(&mail) {
        println!("back end: {name}");
        let (listener, address) = listener(&runtime);
        let handle = runtime.clone();
        let heard = Rc::new(Cell::new(false));
        let (hears, rung) = (Rc::clone(&heard), runtime.clone());
        // Never idle: the runtime never waits in the kernel, which on a ring is what lets operations complete.
        let spinner = runtime.clone();
        runtime.spawn(async move {
            poll_fn(|_| {
                spinner.wake(spinner.current_task());
                Poll::<()>::Pending
            })
            .await;
        });
        runtime.spawn(async move {
            rung.mailbox_rung().await;
            hears.set(true);
        });
        let peer = std::thread::spawn(move || {
            let mut peer = std::net::TcpStream::connect(address).unwrap();
            peer.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
            peer.write_all(b"ping").unwrap();
            let mut answer = [0; 4];
            peer.read_exact(&mut answer).unwrap();
            answer
        });
        run(&runtime, async move {
            let stream = poll_fn(|_| listener.poll_accept()).await?;
            expect_bytes(&stream, b"ping").await;
            stream.send(chunk(&handle, b"pong"));
            stream.flush();
            poll_fn(|_| stream.poll_sent(0)).await?;
            assert!(stream.recv().await?.is_none());
            Ok(())
        });
        assert_eq!(&peer.join().unwrap(), b"pong");
        assert!(sender.send(()));
        turn_until(&runtime, &heard);
        runtime.shut_down();
    }
}

#[test]
fn bell_that_the_kernel_stopped_watching_is_watched_again() {
    let (sender, mail) = mailbox::<()>().unwrap();
    for (name, runtime) in backends(&mail) {
        println!("back end: {name}");
        for round in 0..20 {
            let heard = Rc::new(Cell::new(false));
            let (hears, handle) = (Rc::clone(&heard), runtime.clone());
            runtime.spawn(async move {
                handle.mailbox_rung().await;
                hears.set(true);
            });
            runtime.turn().unwrap();
            on_ring(&runtime, Ring::interrupt_bell_for_test);
            if round % 2 == 0 {
                runtime.spawn(async {});
                runtime.turn().unwrap();
            }
            assert!(sender.send(()));
            turn_until(&runtime, &heard);
        }
        runtime.shut_down();
    }
}

#[test]
fn ring_refuses_what_is_not_used_here() {
    let (_sender, mail) = mailbox::<()>().unwrap();
    for (name, runtime) in backends(&mail) {
        if let Some(refusals) = on_ring(&runtime, Ring::forbidden_for_test) {
            assert_eq!(refusals, [-libc::EACCES; 2], "{name}");
        }
        runtime.shut_down();
    }
}

#[test]
fn child_process_inherits_no_descriptor_and_no_buffer() {
    const NAME: &str = "sharing::child_process_inherits_no_descriptor_and_no_buffer";
    if !accepting::alone(NAME) {
        return;
    }
    let descriptors = || {
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect::<Vec<_>>()
    };
    let before = descriptors();
    on_every_kernel_backend(|runtime| {
        let (handle, before) = (runtime.clone(), before.clone());
        let (listener, address) = listener(runtime);
        run(runtime, async move {
            let near = TcpStream::connect(&handle, address, None, &[]).await?;
            let far = poll_fn(|_| listener.poll_accept()).await?;
            near.send(chunk(&handle, b"x"));
            near.flush();
            let held = far.recv().await?.expect("a byte");
            for descriptor in descriptors().iter().filter(|descriptor| !before.contains(descriptor)) {
                // The one that lists the folder is gone.
                let Ok(about) = std::fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")) else {
                    continue;
                };
                let flags = about.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
                let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
                assert!(flags & libc::O_CLOEXEC != 0, "descriptor {descriptor}: {about}");
            }
            let maps = std::fs::read_to_string("/proc/self/smaps")?;
            let mut shared = 0;
            let (mut inside, mut name) = (false, "");
            for line in maps.lines() {
                if let Some((from, to)) = range(line) {
                    let address = held.as_ptr() as u64;
                    name = line;
                    inside = (from..to).contains(&address) || line.contains("io_uring");
                } else if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| inside) {
                    shared += 1;
                    assert!(flags.split(' ').any(|flag| flag == "dc"), "copied by fork: {name}");
                }
            }
            assert!(shared > usize::from(on_ring(&handle, |_| ()).is_some()), "{maps}");
            Ok(())
        });
    });
}

/// The addresses of a mapping, in a heading of `/proc/self/smaps`.
fn range(line: &str) -> Option<(u64, u64)> {
    let (from, to) = line.split(' ').next()?.split_once('-')?;
    Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?))
}
