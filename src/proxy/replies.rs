//! Chains that answer for themselves: the client's own bytes (Envoy's echo filter), bytes of the configuration
//! (its direct response filter), or nothing: no filter, or a limit.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::access;
use super::context::WorkerContext;
use super::filter_chain::Stopped;
use super::handover::Place;
use super::handshake::{self, Failed, Handshake};
use super::listener::Admitted;
use super::wire;
use crate::base::clock::Now;
use crate::base::limits;
use crate::protocol::tls::{ServerTls, TlsFacts};
use crate::protocol::transport::Transport;
use crate::runtime::{TcpStream, Timer};
use crate::telemetry::names::ListenerStat;

/// What a connection is answered with.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// What it sends.
    Echo,
    /// These bytes, then its end.
    Bytes(Arc<[u8]>),
    /// Its end: there is nothing that would answer, or a limit has stopped it.
    Nothing(Option<Stopped>),
}

/// A connection that is counted for its whole life.
#[derive(Debug)]
struct Answered {
    context: Rc<WorkerContext>,
    listener: Place,
    opened: Now,
    admitted: Admitted,
}

/// Answers a connection in a task of its own; `tls`: after a handshake.
pub(super) fn spawn(
    context: &Rc<WorkerContext>,
    listener: Place,
    answer: Answer,
    transport: Transport,
    tls: Option<Arc<ServerTls>>,
    mut admitted: Admitted,
) {
    let asked = admitted.asked.take();
    context.open.set(context.open.get() + 1);
    listener.count_open();
    let answered =
        Answered { context: Rc::clone(context), listener, opened: context.runtime.now(), admitted };
    answered.admitted.record.id(context.next_id());
    context.runtime.spawn_isolated(async move {
        let Answered { context, listener, opened, admitted } = &answered;
        let record = &admitted.record;
        let timer = context.runtime.timer();
        if let (Some(tls), Some(stream)) = (&tls, transport.tls()) {
            let handshake =
                Handshake { context, listener, stream, timer: &timer, opened: *opened, keeps_chain: false };
            match handshake::make(handshake, tls).await {
                Ok(facts) => record.tls(&Rc::new(facts)),
                Err(failed) => return record.failed(failed),
            }
        }
        // What is sent without a look at the client's first byte is sent to everybody, as in Envoy.
        if let Some(asked) = asked.filter(|_| matches!(answer, Answer::Echo)) {
            let tls = transport.tls().map(|stream| TlsFacts::of(stream, false));
            // The first byte, or the client's end.
            poll_fn(|_| match transport.poll_recv() {
                Poll::Ready(Ok(Some(chunk))) => {
                    transport.unread(chunk);
                    Poll::Ready(())
                }
                Poll::Ready(Ok(None) | Err(_)) => Poll::Ready(()),
                Poll::Pending => Poll::Pending,
            })
            .await;
            let decided = asked.decide(tls.as_ref());
            record.noted(&asked);
            if let Err(denied) = decided {
                record.denied(denied.details);
                if access::deny(context, &transport, &timer, denied.delay).await {
                    record.closed_for(access::DENY_CLOSE);
                }
                return;
            }
        }
        match answer {
            Answer::Echo => {
                echo(&answered, &transport).await;
                if transport.has_broken_tls() {
                    listener.stats.inc(ListenerStat::SslConnectionError);
                }
            }
            Answer::Bytes(bytes) => {
                send(&transport, &bytes);
                record.answered();
            }
            Answer::Nothing(stopped) => {
                let (delay, reason) = stopped.map_or((None, ""), |stopped| (stopped.delay, stopped.reason));
                if access::deny(context, &transport, &timer, delay).await {
                    record.closed_for(reason);
                }
                return;
            }
        }
        end(&answered, &transport, &timer).await;
    });
}

/// Ends a connection at once whose TLS waits for a secret: never is it served in plain text.
pub(super) fn refuse(context: &Rc<WorkerContext>, listener: Place, stream: TcpStream, admitted: Admitted) {
    listener.stats.inc(ListenerStat::DownstreamContextSecretsNotReady);
    // As a close does that leaves something unread in the kernel.
    if stream.has_unread() {
        stream.set_reset_on_close();
    }
    context.open.set(context.open.get() + 1);
    listener.count_open();
    admitted.record.id(context.next_id());
    admitted.record.failed(Failed::without_secret());
    drop(Answered { context: Rc::clone(context), listener, opened: context.runtime.now(), admitted });
}

fn send(transport: &Transport, bytes: &[u8]) {
    // Without memory for it the answer would be cut.
    if !bytes.is_empty() && !transport.send_copy(bytes) {
        transport.set_reset_on_close();
    }
}

/// Sends everything back until the client's end, or until the process goes.
async fn echo(answered: &Answered, transport: &Transport) {
    let Answered { context, listener, .. } = answered;
    let watermark = wire::watermark(listener.config.per_connection_buffer_limit_bytes);
    let mut waits = false;
    poll_fn(|_| {
        for _ in 0..CHUNKS_PER_POLL {
            if waits || transport.queued() > watermark {
                transport.flush();
                waits = true;
                match transport.poll_sent(watermark / 2) {
                    Poll::Ready(Ok(())) => waits = false,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
            match transport.poll_recv() {
                Poll::Ready(Ok(Some(chunk))) => transport.send(chunk),
                Poll::Ready(Ok(None) | Err(_)) => return Poll::Ready(()),
                Poll::Pending => {
                    transport.flush();
                    return Poll::Pending;
                }
            }
        }
        transport.flush();
        context.runtime.wake(context.runtime.current_task());
        Poll::Pending
    })
    .await;
}

/// Chunks sent back before other tasks get their turn.
const CHUNKS_PER_POLL: usize = 16;

/// Ends in order: what is queued, our end, then the client's, for a short time, and on as long as the client takes some of what
/// is queued. Closing with unread bytes would reset the connection and could destroy the answer.
async fn end(answered: &Answered, transport: &Transport, timer: &Timer) {
    let runtime = &answered.context.runtime;
    let patience = Duration::from_millis(limits::TLS_REFUSAL_MS);
    let (mut due, mut left) = (runtime.now().after(patience), usize::MAX);
    transport.shutdown_write();
    poll_fn(|_| {
        // The client may have ended long before. Who has broken off takes nothing more.
        let is_sent = transport.poll_sent(0).is_ready();
        if transport.poll_rest().is_ready() && is_sent {
            return Poll::Ready(());
        }
        while timer.poll_at(due).is_ready() {
            let queued = transport.queued();
            if queued == 0 || queued >= left {
                return Poll::Ready(());
            }
            (due, left) = (runtime.now().after(patience), queued);
        }
        Poll::Pending
    })
    .await;
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.context.open.set(self.context.open.get() - 1);
        self.listener.count_closed(self.context.runtime.now().since(self.opened));
    }
}
