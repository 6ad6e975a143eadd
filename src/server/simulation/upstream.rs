//! A scripted endpoint: answers every request by its exchange's plan, and compares every byte of it.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use super::exchange::{ClientFault, EndpointFault, Exchange, Exchanges, Plan, Weather, framed};
use super::message::{Framing, Head, read_body};
use super::peer::{Gone, Peer};
use super::tls::Tls;
use super::{ENDPOINTS, World};
use crate::base::rng::Rng;
use crate::runtime::{Runtime, TcpListener};

/// Starts all endpoints of a world.
pub(super) fn serve_all(world: &World, exchanges: &Exchanges, weather: Weather, rng: &mut Rng) {
    for index in 0..ENDPOINTS.len() {
        let rng = Rng::from_seed(rng.next_u64());
        let serving = world.servers.clone();
        world.servers.spawn(listen(
            serving,
            world.endpoint(index),
            exchanges.clone(),
            weather,
            rng,
            world.tls,
        ));
    }
}

/// Accepts for ever.
async fn listen(
    runtime: Runtime,
    listener: TcpListener,
    exchanges: Exchanges,
    weather: Weather,
    mut rng: Rng,
    tls: Option<&'static Tls>,
) {
    loop {
        // In a hostile world some accepts fail; whoever waits stays in line.
        let Ok(stream) = poll_fn(|_| listener.poll_accept()).await else {
            runtime.wake(runtime.current_task());
            poll_fn(once()).await;
            continue;
        };
        let rng = Rng::from_seed(rng.next_u64());
        let stream = match tls {
            None => stream.into(),
            Some(tls) => tls.accept(stream),
        };
        let peer = Peer::new(&runtime, stream, rng.clone());
        let exchanges = exchanges.clone();
        runtime.spawn(async move {
            if peer.shake_hands().await.is_ok() {
                serve(&peer, &exchanges, weather, rng).await;
            }
        });
    }
}

/// Pending once.
fn once() -> impl FnMut(&mut std::task::Context<'_>) -> Poll<()> {
    let mut waited = false;
    move |_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }
}

/// Serves a connection until either side ends it.
async fn serve(peer: &Peer, exchanges: &Exchanges, weather: Weather, mut rng: Rng) {
    while let Ok(head) = Head::read(peer).await {
        let exchange = exchanges.get(head.id().unwrap());
        let goes_on = answer(peer, &head, &exchange, &mut rng).await;
        if !goes_on {
            return;
        }
        if weather == Weather::Fickle && rng.below(3) == 0 {
            if rng.below(2) == 0 {
                peer.rest(rng.below(20)).await;
            }
            if !peer.has_ahead() {
                leave(peer).await;
                return;
            }
        }
    }
}

/// Plays one exchange; whether the connection goes on.
async fn answer(peer: &Peer, head: &Head, exchange: &Exchange, rng: &mut Rng) -> bool {
    let plan = &exchange.plan;
    check_head(head, plan);
    exchange.heads_seen.set(exchange.heads_seen.get() + 1);
    let most = 1 + u32::from(plan.is_repeatable());
    assert!(exchange.heads_seen.get() <= most, "{} came {} times", plan.id, exchange.heads_seen.get());
    peer.set_read_pace(plan.paces[2]);
    if plan.upgrade {
        tunnel(peer, exchange).await;
        return false;
    }
    let framing = head.framing().unwrap_or(Framing::Length(0));
    match plan.endpoint_fault {
        EndpointFault::LeaveReading { after, reset } => {
            let mut left = after;
            while left > 0
                && let Ok(bytes) = peer.some(left).await
            {
                left -= bytes.len();
            }
            if reset {
                peer.stream.set_reset_on_close();
            }
            return false;
        }
        EndpointFault::AnswerEarly { leave: leaves } => {
            let written = write_response(peer, exchange, rng).await;
            // What still comes, until the proxy has done with us.
            let read = written && !leaves && read_request(peer, exchange, framing).await;
            return read && leave(peer).await;
        }
        _ => {}
    }
    if !read_request(peer, exchange, framing).await {
        return false;
    }
    let written = write_response(peer, exchange, rng).await;
    written && plan.response != Framing::UntilClose
}

fn check_head(head: &Head, plan: &Plan) {
    assert_eq!(head.start, format!("{} /exchange/{}?x HTTP/1.1", plan.method, plan.id));
    assert_eq!(head.field("host"), Some("sim"));
    let options = head.field("connection");
    assert_eq!(options.map(str::to_ascii_lowercase).as_deref(), plan.upgrade.then_some("upgrade"));
    let framing = match plan.request {
        None if plan.method == "POST" || plan.method == "PUT" => Some(Framing::Length(0)),
        framing => framing,
    };
    assert_eq!(head.framing(), framing);
}

/// Reads the request's body; whether all of it came.
async fn read_request(peer: &Peer, exchange: &Exchange, framing: Framing) -> bool {
    let plan = &exchange.plan;
    match read_body(peer, framing, &plan.request_body).await {
        Ok(bytes) => {
            assert_eq!(bytes, plan.request_body.len(), "{} is complete too early", plan.id);
            let whole = exchange.sent.get() || plan.client_fault == ClientFault::None || is_written(plan);
            assert!(whole, "{} was never sent as a whole", plan.id);
            exchange.requests_seen.set(exchange.requests_seen.get() + 1);
            true
        }
        Err(_) => false,
    }
}

/// Whether a client that leaves or stalls while it writes may have written everything.
fn is_written(plan: &Plan) -> bool {
    match plan.client_fault {
        ClientFault::LeaveWriting { after, .. } | ClientFault::Stall { after } => {
            after >= plan.request_head().len() + plan.request_body.len()
        }
        _ => true,
    }
}

/// Writes the response as far as the plan has it; whether it is whole and the connection still good.
async fn write_response(peer: &Peer, exchange: &Exchange, rng: &mut Rng) -> bool {
    let plan = &exchange.plan;
    let mut bytes = plan.response_head().into_bytes();
    let head_len = bytes.len();
    if plan.has_response_body() {
        bytes.extend_from_slice(&framed(&plan.response_body, plan.response, rng));
    }
    let pace = plan.paces[3];
    let (stop, reset) = match plan.endpoint_fault {
        EndpointFault::LeaveWriting { after, reset } => (after, reset),
        EndpointFault::Stall { after } => (after, false),
        EndpointFault::Garbage => {
            let _ = peer.write(b"HTTP/1.1 2000 Many\r\nX: y\r\n\r\n", pace).await;
            peer.drain().await;
            return false;
        }
        _ => (usize::MAX, false),
    };
    if stop >= bytes.len() {
        // Before the last byte is on its way.
        exchange.answered.set(true);
        if peer.write(&bytes, pace).await.is_err() {
            return false;
        }
        if plan.response == Framing::UntilClose {
            return leave(peer).await;
        }
        return true;
    }
    let cut = &bytes[..stop];
    if matches!(plan.endpoint_fault, EndpointFault::Stall { .. }) {
        let _ = peer.write(cut, pace).await;
        peer.drain().await;
        return false;
    }
    if plan.response == Framing::UntilClose && plan.has_response_body() && stop >= head_len && !reset {
        // An orderly end here is the body's end.
        exchange.ended_at.set(Some(stop - head_len));
    }
    if peer.write(cut, pace).await.is_err() {
        return false;
    }
    if reset {
        peer.stream.set_reset_on_close();
        return false;
    }
    leave(peer).await
}

/// Ends our direction and waits for the other's end: closing with unread bytes would reset the connection.
async fn leave(peer: &Peer) -> bool {
    if peer.flushed().await.is_ok() {
        peer.stream.shutdown_write();
        // Under TLS the end is announced: that must be on its way, too.
        let _ = peer.flushed().await;
        peer.drain().await;
    }
    false
}

/// Switches protocols, then reads and writes the two bodies at once.
async fn tunnel(peer: &Peer, exchange: &Exchange) {
    let plan = &exchange.plan;
    let mut bytes = plan.response_head().into_bytes();
    bytes.extend_from_slice(&plan.response_body);
    let (stop, reset) = match plan.endpoint_fault {
        EndpointFault::LeaveWriting { after, reset } | EndpointFault::LeaveReading { after, reset } => {
            (after.min(bytes.len()), reset)
        }
        EndpointFault::Stall { after } => (after.min(bytes.len()), false),
        EndpointFault::Garbage => (0, false),
        _ => (bytes.len(), false),
    };
    exchange.answered.set(stop == bytes.len());
    let mut writing = pin!(peer.write(&bytes[..stop], plan.paces[3]));
    let mut reading = pin!(read_body(peer, Framing::Length(plan.request_body.len()), &plan.request_body));
    let (mut wrote, mut read) = (None, None);
    poll_fn(|context| {
        if wrote.is_none()
            && let Poll::Ready(outcome) = writing.as_mut().poll(context)
        {
            wrote = Some(outcome.is_ok());
        }
        if read.is_none()
            && let Poll::Ready(outcome) = reading.as_mut().poll(context)
        {
            read = Some(outcome.is_ok());
        }
        let failed = wrote == Some(false) || read == Some(false);
        if failed || (wrote.is_some() && read.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    let stalls = matches!(plan.endpoint_fault, EndpointFault::Stall { .. });
    if wrote == Some(true) && read == Some(true) && !stalls && !reset {
        exchange.requests_seen.set(1);
        let end = if stop == bytes.len() { Some(peer.end().await) } else { None };
        // The client ends first, in order; then so do we.
        if end == Some(Gone::Ended) {
            leave(peer).await;
        }
        return;
    }
    if stalls {
        peer.drain().await;
    } else if reset {
        peer.stream.set_reset_on_close();
    }
}
