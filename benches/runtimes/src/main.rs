//! A minimal HTTP/1.1 forwarder and a bare TCP relay on one of several event loops: what forwarding costs before a proxy
//! does anything.
//!
//! `runtimes LOOP LISTEN UPSTREAM [tcp|splice]`, with LOOP one of `ring`, `epoll` (both Ringway's), `monoio`, `glommio`.
//! One thread, one route, no timers, no counters, no limits. Without a last word HTTP/1.1 is forwarded, with keep-alive on
//! both sides, and the four differ in I/O only: heads are read and written by the same pure functions (`http`). `tcp`
//! relays bytes through buffers; `splice`, on Ringway's loops, through pipes of the kernel. benches/README.md says what
//! they leave out.

mod glommio_loop;
mod glommio_relay;
mod http;
mod monoio_loop;
mod monoio_relay;
#[cfg(test)]
mod relay_tests;
mod ringway_loop;
mod ringway_relay;

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

/// What is done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// Its requests are forwarded, HTTP/1.1.
    Http,
    /// Its bytes are relayed through buffers, large ones once there are many.
    Tcp,
    /// Its bytes are relayed through pipes of the kernel.
    Splice,
}

fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = given.iter().map(String::as_str).collect();
    let (name, listen, upstream, work) = match arguments[..] {
        [name, listen, upstream] => (name, listen, upstream, Work::Http),
        [name, listen, upstream, "tcp"] => (name, listen, upstream, Work::Tcp),
        [name, listen, upstream, "splice"] => (name, listen, upstream, Work::Splice),
        _ => {
            eprintln!("usage: runtimes ring|epoll|monoio|glommio LISTEN UPSTREAM [tcp|splice]");
            return ExitCode::from(2);
        }
    };
    let (Ok(listen), Ok(upstream)) = (listen.parse(), upstream.parse()) else {
        eprintln!("runtimes: LISTEN and UPSTREAM are addresses with ports, like 127.0.0.1:8080");
        return ExitCode::from(2);
    };
    match serve(name, work, listen, upstream) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("runtimes {name}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(name: &str, work: Work, listen: SocketAddr, upstream: SocketAddr) -> io::Result<()> {
    match name {
        "ring" => ringway_loop::serve(IoBackend::IoUring, work, listen, upstream),
        "epoll" => ringway_loop::serve(IoBackend::Epoll, work, listen, upstream),
        "monoio" | "glommio" if work == Work::Splice => Err(io::Error::other("only ring and epoll splice")),
        "monoio" => monoio_loop::serve(work, listen, upstream),
        "glommio" => glommio_loop::serve(work, listen, upstream),
        _ => Err(io::Error::other("no such event loop: ring, epoll, monoio, glommio")),
    }
}

/// The connection ended inside a message, or the message cannot be forwarded.
fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
