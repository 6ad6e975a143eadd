//! A scripted client: a connection with some exchanges one after another or pipelined, and every byte that comes back
//! compared.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use super::exchange::{ClientFault, EndpointFault, Exchange, Weather, framed};
use super::message::{Framing, Head, read_body};
use super::peer::{Gone, Peer};
use super::tls::Tls;
use crate::base::rng::Rng;
use crate::runtime::{Runtime, TcpStream};

/// What a client may be surprised by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expectations {
    pub(super) weather: Weather,
    /// The world itself breaks connections.
    pub(super) hostile: bool,
    /// A panic is injected somewhere: any one connection may break.
    pub(super) panics: bool,
    /// What is spoken; `None`: plain text.
    pub(super) tls: Option<&'static Tls>,
}

impl Expectations {
    /// Whether this exchange must succeed if its connection lives.
    fn must_succeed(self, exchange: &Exchange) -> bool {
        // Some endpoints of the others close connections that the proxy keeps.
        let steady = self.weather == Weather::Calm || exchange.plan.is_repeatable();
        exchange.plan.is_sound() && !self.hostile && !self.panics && steady
    }
}

/// How a conversation goes on, for its two halves.
#[derive(Debug, Default)]
struct Progress {
    /// Final responses read.
    answers: Cell<usize>,
    /// Interim 100 for the request being sent, or its answer.
    go_on: Cell<bool>,
    /// Nothing more will be written.
    written: Cell<bool>,
    /// The other side is gone, or said that it will be.
    over: Cell<bool>,
}

/// What the reading half found.
enum Read {
    /// The connection goes on.
    GoesOn,
    /// It is over.
    Over,
}

/// Connects and plays the exchanges. Returns bytes written and received on the connection.
pub(super) async fn converse(
    runtime: Runtime,
    address: SocketAddr,
    exchanges: Vec<Rc<Exchange>>,
    expect: Expectations,
    rng: Rng,
) -> (usize, usize) {
    let stream = match TcpStream::connect(&runtime, address, None, &[]).await {
        Ok(stream) => stream,
        Err(error) => {
            assert!(expect.hostile, "{error}");
            return (0, 0);
        }
    };
    let stream = match expect.tls {
        None => stream.into(),
        Some(tls) => tls.connect(stream),
    };
    let peer = Peer::new(&runtime, stream, rng.clone());
    if let Err(gone) = peer.shake_hands().await {
        assert!(expect.hostile || expect.panics, "{gone:?}");
        return (0, 0);
    }
    let progress = Progress::default();
    let mut writing = pin!(write_requests(&peer, &progress, &exchanges, rng));
    let mut reading = pin!(read_responses(&peer, &progress, &exchanges, expect));
    let mut left = false;
    poll_fn(|context| {
        // Each half waits for what the other does.
        for _ in 0..2 {
            if !progress.written.get()
                && let Poll::Ready(leaves) = writing.as_mut().poll(context)
            {
                progress.written.set(true);
                left = leaves;
            }
            if left || reading.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    })
    .await;
    (peer.written.get(), peer.received.get())
}

/// Writes the requests; whether the client leaves at once.
async fn write_requests(peer: &Peer, progress: &Progress, exchanges: &[Rc<Exchange>], mut rng: Rng) -> bool {
    for (index, exchange) in exchanges.iter().enumerate() {
        let plan = &exchange.plan;
        if progress.over.get() {
            return false;
        }
        progress.go_on.set(false);
        let mut head = plan.request_head().into_bytes();
        let body = framed(&plan.request_body, plan.request.unwrap_or(Framing::UntilClose), &mut rng);
        let early = plan.expect_continue && rng.below(2) == 0;
        if !plan.expect_continue || early {
            head.extend_from_slice(&body);
        }
        let (stop, reset, stall) = match plan.client_fault {
            ClientFault::LeaveWriting { after, reset } => (after.min(head.len()), reset, false),
            ClientFault::Stall { after } => (after.min(head.len()), false, true),
            _ => (usize::MAX, false, false),
        };
        if peer.write(&head[..head.len().min(stop)], plan.paces[0]).await.is_err() {
            return false;
        }
        if stop < head.len() && stall {
            // Until the proxy loses patience.
            return poll_fn(|_| if progress.over.get() { Poll::Ready(false) } else { Poll::Pending }).await;
        }
        if stop <= head.len() && !stall {
            if reset {
                peer.stream.set_reset_on_close();
            }
            return true;
        }
        if plan.expect_continue && !early {
            poll_fn(|_| {
                let told = progress.go_on.get() || progress.answers.get() > index || progress.over.get();
                if told { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            // Answered without an invitation: what was not sent cannot follow any more.
            if progress.over.get() || (progress.answers.get() > index && !body.is_empty()) {
                return false;
            }
            if peer.write(&body, plan.paces[0]).await.is_err() {
                return false;
            }
        }
        exchange.sent.set(true);
        if plan.client_fault == ClientFault::HalfClose {
            peer.stream.shutdown_write();
            return false;
        }
        if !plan.pipelined {
            poll_fn(|_| {
                if progress.answers.get() > index || progress.over.get() {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
        }
    }
    false
}

async fn read_responses(peer: &Peer, progress: &Progress, exchanges: &[Rc<Exchange>], expect: Expectations) {
    let mut sound = true;
    for (index, exchange) in exchanges.iter().enumerate() {
        // Whatever a fault has done to the connection may cost those behind it, and those before it that wait for their
        // answers.
        let last = exchanges[index..].iter().position(|exchange| !exchange.plan.pipelined);
        let waiting = &exchanges[index..last.map_or(exchanges.len(), |last| index + last + 1)];
        sound &= expect.must_succeed(exchange);
        sound &= waiting.iter().all(|exchange| exchange.plan.client_fault == ClientFault::None);
        let read = read_response(peer, progress, exchange, expect, sound).await;
        progress.answers.set(progress.answers.get() + 1);
        if let Read::Over = read {
            break;
        }
    }
    progress.over.set(true);
}

async fn read_response(
    peer: &Peer,
    progress: &Progress,
    exchange: &Exchange,
    expect: Expectations,
    sound: bool,
) -> Read {
    let plan = &exchange.plan;
    peer.set_read_pace(plan.paces[1]);
    let head = loop {
        let head = match Head::read(peer).await {
            Ok(head) => head,
            Err(gone) => {
                assert!(!sound, "no response to {plan}: {gone:?}");
                return Read::Over;
            }
        };
        match head.status() {
            100 => {
                assert!(plan.expect_continue, "100 to {}", plan.id);
                progress.go_on.set(true);
            }
            103 => assert!(plan.interim && !plan.http_10),
            _ => break head,
        }
    };
    let status = head.status();
    exchange.status.set(Some(status));
    let Some(id) = head.id() else {
        assert!(!sound, "{status} to {}: {head:?}", plan.id);
        check_refusal(exchange, status, expect);
        let Some(Framing::Length(length)) = head.framing() else { panic!("{head:?}") };
        for _ in 0..if plan.method == "HEAD" { 0 } else { length } {
            if peer.some(1).await.is_err() {
                return Read::Over;
            }
        }
        if plan.method == "HEAD" && status == 408 {
            // The method had not arrived: there is a body.
            peer.drain().await;
            return Read::Over;
        }
        return after(peer, &head).await;
    };
    assert_eq!(id, plan.id, "the answer to another request");
    assert_eq!(status, plan.status);
    if plan.upgrade {
        return tunnel(peer, progress, exchange, sound).await;
    }
    let framing = match head.framing() {
        _ if !plan.has_response_body() => Framing::Length(0),
        Some(framing) => framing,
        None => {
            assert!(plan.http_10, "an HTTP/1.1 client gets chunks instead: {head:?}");
            Framing::UntilClose
        }
    };
    if plan.method == "HEAD"
        && plan.status == 200
        && let Framing::Length(bytes) = plan.response
    {
        assert_eq!(head.framing(), Some(Framing::Length(bytes)));
    }
    if let ClientFault::LeaveReading { after, reset } = plan.client_fault {
        let after = after.min(plan.response_body.len());
        // Only so much of it is looked at.
        let framing =
            if let Framing::Length(length) = framing { Framing::Length(after.min(length)) } else { framing };
        if framing != Framing::UntilClose && framing != Framing::Chunked {
            let _ = read_body(peer, framing, &plan.response_body).await;
        }
        if reset {
            peer.stream.set_reset_on_close();
        }
        return Read::Over;
    }
    match read_body(peer, framing, &plan.response_body).await {
        Ok(bytes) => {
            exchange.complete.set(true);
            let whole = if plan.has_response_body() { plan.response_body.len() } else { 0 };
            let meant = exchange.ended_at.get().unwrap_or(whole);
            assert_eq!(bytes, meant, "{} is complete for the client at {bytes} bytes", plan.id);
            let answered = exchange.answered.get() || exchange.ended_at.get().is_some();
            assert!(answered, "{} is complete for the client alone", plan.id);
            if framing == Framing::UntilClose {
                return Read::Over;
            }
            after(peer, &head).await
        }
        Err((got, gone)) => {
            assert!(!sound, "{} ends after {got} bytes: {gone:?}", plan.id);
            Read::Over
        }
    }
}

/// The response is read: a connection that was said to end does, without another byte.
async fn after(peer: &Peer, head: &Head) -> Read {
    if !head.closes() {
        return Read::GoesOn;
    }
    peer.end().await;
    Read::Over
}

/// What may be answered by the proxy itself.
fn check_refusal(exchange: &Exchange, status: u16, expect: Expectations) {
    let plan = &exchange.plan;
    let allowed: &[u16] = match (plan.client_fault, plan.endpoint_fault) {
        _ if expect.hostile || expect.panics => &[408, 502, 503, 504],
        (ClientFault::Stall { .. }, _) => &[408, 504],
        // Its endpoint reads and writes at once, and may stall over either.
        _ if plan.upgrade && plan.endpoint_fault != EndpointFault::None => &[502, 503, 504],
        // It may wait for more than there is.
        (_, EndpointFault::LeaveReading { .. }) => &[502, 503, 504],
        (_, EndpointFault::LeaveWriting { .. }) => &[502, 503],
        (_, EndpointFault::Stall { .. }) => &[504],
        (_, EndpointFault::Garbage) => &[502, 503, 504],
        // It may leave before it has answered.
        (_, EndpointFault::AnswerEarly { .. }) => &[502, 503],
        // An idle connection that was closed just then.
        (_, EndpointFault::None) => &[503],
    };
    assert!(allowed.contains(&status), "{status} to {plan}");
}

/// Both bodies at once, without framing.
async fn tunnel(peer: &Peer, progress: &Progress, exchange: &Exchange, sound: bool) -> Read {
    let plan = &exchange.plan;
    // The request's "body" was written behind the head. The endpoint ends when it has all of it; then we may.
    let outcome = read_body(peer, Framing::Length(plan.response_body.len()), &plan.response_body).await;
    match outcome {
        Ok(_) if matches!(plan.client_fault, ClientFault::Stall { .. }) => drop(peer.end().await),
        Ok(_) => {
            poll_fn(|_| {
                let ended = exchange.sent.get() || progress.written.get();
                if ended { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            peer.stream.shutdown_write();
            let gone = peer.end().await;
            exchange.complete.set(gone == Gone::Ended);
            assert!(!sound || exchange.complete.get(), "tunnel {} broke at its end", plan.id);
        }
        Err((got, gone)) => assert!(!sound, "tunnel {} ends after {got} bytes: {gone:?}", plan.id),
    }
    Read::Over
}
