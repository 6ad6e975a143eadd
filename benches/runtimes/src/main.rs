//! A minimal HTTP/1.1 forwarder on one of several event loops: what forwarding costs before a proxy does anything.
//!
//! `runtimes LOOP LISTEN UPSTREAM`, with LOOP one of `ring`, `epoll` (both Ringway's), `monoio`, `glommio`. One thread,
//! one route, keep-alive on both sides, no timers, no counters, no limits. The four differ in I/O only: heads are read
//! and written by the same pure functions (`http`). benches/README.md says what it leaves out.

mod glommio_loop;
mod http;
mod monoio_loop;
mod ringway_loop;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use ringway::runtime::IoBackend;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bodies of which more than this is to come are read into large buffers, as Ringway does.
const BULK_BYTES_MIN: u64 = 16 * 1024;
/// A buffer for heads and small bodies.
const SMALL_BYTES: usize = 4 * 1024;
/// A buffer for the others.
const LARGE_BYTES: usize = 64 * 1024;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, listen, upstream] = arguments.as_slice() else {
        eprintln!("usage: runtimes ring|epoll|monoio|glommio LISTEN UPSTREAM");
        return ExitCode::from(2);
    };
    let (Ok(listen), Ok(upstream)) = (listen.parse(), upstream.parse()) else {
        eprintln!("runtimes: LISTEN and UPSTREAM are addresses with ports, like 127.0.0.1:8080");
        return ExitCode::from(2);
    };
    match serve(name, listen, upstream) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("runtimes {name}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(name: &str, listen: SocketAddr, upstream: SocketAddr) -> io::Result<()> {
    match name {
        "ring" => ringway_loop::serve(IoBackend::IoUring, listen, upstream),
        "epoll" => ringway_loop::serve(IoBackend::Epoll, listen, upstream),
        "monoio" => monoio_loop::serve(listen, upstream),
        "glommio" => glommio_loop::serve(listen, upstream),
        _ => Err(io::Error::other("no such event loop: ring, epoll, monoio, glommio")),
    }
}

/// The connection ended inside a message, or the message cannot be forwarded.
fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
