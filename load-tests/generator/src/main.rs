//! `generator ADDRESS PATH CONNECTIONS (--rate R --seconds S | --requests N) [--body BYTES]`: HTTP/1.1 load that wrk
//! and h2load do not make, as one line of JSON; with `--authority PEM` over TLS. `--handshakes full|resumed --authority PEM
//! --seconds S`: the same of TLS connections with one request each.
//!
//! *At a fixed rate* each connection has its share of the schedule. A request whose turn comes while the previous answer
//! is still owed goes out late, and its latency counts from its turn: a stalled server is charged for every request
//! that it held up (coordinated omission). One that goes out in time counts from its sending, so that the imprecision of
//! this program's own sleep is nobody's latency. *An exact count* runs each request to its end: nothing is cut off, which
//! matters where a second holds only a few large bodies. Every status, length and head is checked.
//!
//! One blocking thread per connection: the standard library only, but for TLS.
#![allow(clippy::disallowed_methods, reason = "measuring time is what this program is for")]

mod handshakes;
mod tls;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

/// A thread needs little: thousands may run.
const STACK_BYTES: usize = 64 * 1024;
const READ_BYTES: usize = 32 * 1024;
/// No answer for this long is an error.
const PATIENCE: Duration = Duration::from_secs(30);

struct Plan {
    address: SocketAddr,
    path: String,
    connections: u32,
    /// Requests per second over all connections; 0: as fast as they are answered.
    rate: f64,
    /// Requests over all connections.
    requests: u32,
    body: usize,
    seconds: f64,
    /// Who issued the server's certificate, PEM; `None`: no TLS.
    authority: Option<PathBuf>,
    /// A TLS connection for each request.
    handshakes: Option<handshakes::Plan>,
}

/// A connection, whatever is under its bytes.
trait Bytes: Read + Write {}

impl<T: Read + Write> Bytes for T {}

/// What one connection saw.
#[derive(Default)]
struct Seen {
    latencies: Vec<Duration>,
    errors: u32,
}

fn main() -> ExitCode {
    let Some(plan) = Plan::parse(std::env::args().skip(1)) else {
        eprintln!(
            "usage: generator ADDRESS PATH CONNECTIONS (--rate R --seconds S | --requests N | \
             --handshakes full|resumed --seconds S) [--authority PEM] [--body BYTES]"
        );
        return ExitCode::from(2);
    };
    match run(plan) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("generator: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Plan {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let address = arguments.next()?.parse().ok()?;
        let path = arguments.next()?;
        let connections = arguments.next()?.parse().ok().filter(|&count| count > 0)?;
        let (mut rate, mut seconds, mut requests, mut body) = (0.0, 0.0, 0, 0);
        let (mut resumes, mut authority) = (None, None);
        while let Some(name) = arguments.next() {
            let value = arguments.next()?;
            match name.as_str() {
                "--rate" => rate = value.parse().ok()?,
                "--seconds" => seconds = value.parse().ok()?,
                "--requests" => requests = value.parse().ok()?,
                "--body" => body = value.parse().ok()?,
                "--handshakes" => {
                    resumes = Some(["full", "resumed"].iter().position(|&kind| kind == value)? == 1)
                }
                "--authority" => authority = Some(PathBuf::from(value)),
                _ => return None,
            }
        }
        if rate > 0.0 && seconds > 0.0 {
            requests = (rate * seconds) as u32;
        }
        let handshakes = match resumes {
            Some(resumes) => Some(handshakes::Plan { resumes, authority: authority.clone()? }),
            None => None,
        };
        let is_bounded = requests > 0 || (handshakes.is_some() && seconds > 0.0);
        is_bounded.then_some(Self {
            address,
            path,
            connections,
            rate,
            requests,
            body,
            seconds,
            authority,
            handshakes,
        })
    }
}

fn run(plan: Plan) -> io::Result<String> {
    let plan = Arc::new(plan);
    let ready = Arc::new(Barrier::new(plan.connections as usize + 1));
    let threads: Vec<_> = (0..plan.connections)
        .map(|index| {
            let (plan, ready) = (Arc::clone(&plan), Arc::clone(&ready));
            thread::Builder::new().stack_size(STACK_BYTES).spawn(move || connection(&plan, index, &ready))
        })
        .collect::<io::Result<_>>()?;
    ready.wait();
    let begun = Instant::now();
    let mut all = Seen::default();
    for thread in threads {
        let seen = thread.join().map_err(|_| io::Error::other("a connection's thread panicked"))?;
        all.latencies.extend(seen.latencies);
        all.errors += seen.errors;
    }
    Ok(report(all, begun.elapsed()))
}

/// One connection's share of the requests.
fn connection(plan: &Plan, index: u32, ready: &Barrier) -> Seen {
    if let Some(handshakes) = &plan.handshakes {
        return handshakes::one_after_the_other(plan, handshakes, ready);
    }
    let stream = open_for(plan);
    let request = request(plan);
    ready.wait();
    let mut seen = Seen::default();
    let begun = Instant::now();
    let Ok(stream) = stream else {
        seen.errors += 1;
        return seen;
    };
    let mut reader = BufReader::with_capacity(READ_BYTES, stream);
    let mut buffer = vec![0; READ_BYTES];
    for number in (index..plan.requests).step_by(plan.connections as usize) {
        let turn = match plan.rate {
            0.0 => Instant::now(),
            rate => begun + Duration::from_secs_f64(f64::from(number) / rate),
        };
        let from = match turn.checked_duration_since(Instant::now()) {
            Some(early) => {
                thread::sleep(early);
                Instant::now()
            }
            None => turn,
        };
        if let Err(error) = exchange(&mut reader, &request, &mut buffer) {
            eprintln!("generator: connection {index}, request {number}: {error}");
            seen.errors += 1;
            return seen;
        }
        seen.latencies.push(from.elapsed());
    }
    seen
}

fn open_for(plan: &Plan) -> io::Result<Box<dyn Bytes>> {
    let socket = open(plan.address)?;
    Ok(match &plan.authority {
        None => Box::new(socket),
        Some(authority) => Box::new(tls::over(authority, socket)?),
    })
}

fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn request(plan: &Plan) -> Vec<u8> {
    let Plan { path, body, .. } = plan;
    let mut request = match body {
        0 => format!("GET {path} HTTP/1.1\r\nHost: load.test\r\n\r\n"),
        _ => format!("POST {path} HTTP/1.1\r\nHost: load.test\r\nContent-Length: {body}\r\n\r\n"),
    }
    .into_bytes();
    request.resize(request.len() + body, b'x');
    request
}

fn exchange(reader: &mut BufReader<Box<dyn Bytes>>, request: &[u8], buffer: &mut [u8]) -> io::Result<()> {
    reader.get_mut().write_all(request)?;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if !line.starts_with("HTTP/1.1 200 ") {
        return Err(io::Error::other(format!("not the answer: {:?}", line.trim_end())));
    }
    let mut left = None;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            left = value.trim().parse::<usize>().ok();
        }
    }
    let mut left = left.ok_or_else(|| io::Error::other("an answer without Content-Length"))?;
    while left > 0 {
        let room = left.min(buffer.len());
        match reader.read(&mut buffer[..room])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => left -= count,
        }
    }
    Ok(())
}

fn report(mut seen: Seen, took: Duration) -> String {
    seen.latencies.sort_unstable();
    let at = |part: f64| {
        let last = seen.latencies.len().saturating_sub(1);
        let index = (seen.latencies.len() as f64 * part).ceil() as usize;
        seen.latencies.get(index.saturating_sub(1).min(last)).map_or(0.0, |time| time.as_secs_f64() * 1e6)
    };
    format!(
        "{{\"requests\": {}, \"per_second\": {:.1}, \"errors\": {}, \"latency_us\": \
         {{\"p50\": {:.1}, \"p90\": {:.1}, \"p99\": {:.1}, \"p99.9\": {:.1}, \"max\": {:.1}}}}}",
        seen.latencies.len(),
        seen.latencies.len() as f64 / took.as_secs_f64(),
        seen.errors,
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        at(1.0)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let latencies = (1..=1000).rev().map(Duration::from_micros).collect();
        let said = report(Seen { latencies, errors: 2 }, Duration::from_secs(2));
        assert_eq!(
            said,
            "{\"requests\": 1000, \"per_second\": 500.0, \"errors\": 2, \"latency_us\": \
             {\"p50\": 500.0, \"p90\": 900.0, \"p99\": 990.0, \"p99.9\": 999.0, \"max\": 1000.0}}"
        );
    }
}
