//! TLS 1.3 connections with one request each, one after the other: what a proxy's handshakes cost.
//!
//! The certificate is verified. Every handshake must be of the kind that was asked for, full or resumed from the newest
//! ticket, and every connection must end with a close_notify: anything else is an error.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use rustls::{ClientConfig, HandshakeKind, Stream};

use crate::{Seen, open, tls};

pub struct Plan {
    pub resumes: bool,
    /// Who issued the certificate, PEM.
    pub authority: PathBuf,
}

/// One thread's connections, until the time is over.
pub fn one_after_the_other(all: &crate::Plan, plan: &Plan, ready: &Barrier) -> Seen {
    let mut seen = Seen::default();
    let config = tls::config(&plan.authority, plan.resumes);
    // A first session to resume.
    let first = match (&config, plan.resumes) {
        (Ok(config), true) => exchange(all, config, HandshakeKind::Full).map(drop),
        _ => Ok(()),
    };
    ready.wait();
    let until = Instant::now() + Duration::from_secs_f64(all.seconds);
    let kind = if plan.resumes { HandshakeKind::Resumed } else { HandshakeKind::Full };
    let work = || -> io::Result<()> {
        first?;
        let config = config?;
        while Instant::now() < until {
            seen.latencies.push(exchange(all, &config, kind)?);
        }
        Ok(())
    };
    if let Err(error) = work() {
        eprintln!("generator: {error}");
        seen.errors += 1;
    }
    seen
}

/// A whole connection; how long it took until the handshake was over.
fn exchange(all: &crate::Plan, config: &Arc<ClientConfig>, kind: HandshakeKind) -> io::Result<Duration> {
    let begun = Instant::now();
    let mut socket = open(all.address)?;
    let mut tls = tls::greet(config, &mut socket)?;
    let took = begun.elapsed();
    if tls.handshake_kind() != Some(kind) {
        return Err(io::Error::other(format!("a handshake was {:?}, not {kind:?}", tls.handshake_kind())));
    }
    let mut stream = Stream::new(&mut tls, &mut socket);
    write!(stream, "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", all.path, tls::NAME)?;
    let mut answer = Vec::new();
    // A connection that ends without a close_notify is an error here.
    stream.read_to_end(&mut answer)?;
    match answer.starts_with(b"HTTP/1.1 200 ") {
        true => Ok(took),
        false => Err(io::Error::other("not the answer")),
    }
}
