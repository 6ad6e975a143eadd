//! TLS of a client's connection: its handshake, before the first request, and what is remembered of it.
//!
//! A connection counts and holds its place from its accept on, so that handshakes are limited as connections are. One that
//! is refused is told why, and ends in order: a reset would destroy the alert before the client has read it.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use super::context::WorkerContext;
use super::listener::Listener;
use crate::base::clock::Now;
use crate::base::limits;
use crate::protocol::tls::{ServerTls, TlsError, TlsFacts, TlsStream, VerifyFailure};
use crate::runtime::Timer;
use crate::telemetry::names::{ListenerStat, ServerStat};

/// A connection of a listener whose handshake is to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handshake<'a> {
    pub(super) context: &'a WorkerContext,
    pub(super) listener: &'a Listener,
    pub(super) stream: &'a TlsStream,
    pub(super) timer: &'a Timer,
    pub(super) opened: Now,
    /// Whether what is remembered of the client has its whole chain of certificates.
    pub(super) keeps_chain: bool,
}

/// A handshake came to nothing, and the connection is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failed {
    /// The client ended it.
    pub(super) by_peer: bool,
}

/// Makes the handshake of a connection.
pub(super) async fn make(connection: Handshake<'_>, tls: &ServerTls) -> Result<TlsFacts, Failed> {
    let Handshake { context, listener, stream, timer, opened, .. } = connection;
    let limit = tls.handshake_timeout.unwrap_or(Duration::from_millis(limits::TLS_HANDSHAKE_MS));
    let due = opened.after(limit);
    let outcome = poll_fn(|_| {
        if let Poll::Ready(outcome) = stream.poll_handshake() {
            return Poll::Ready(Some(outcome));
        }
        let is_due = |due: Option<Now>| due.is_some_and(|due| timer.poll_at(due).is_ready());
        if is_due(context.drain.idle_until()) {
            return Poll::Ready(None);
        }
        if is_due(Some(due)) {
            listener.stats.inc(ListenerStat::DownstreamCxTransportSocketConnectTimeout);
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await;
    let [sent, omitted, missing] = tls.take_ocsp_counts();
    listener.stats.add(ListenerStat::SslOcspStapleResponses, sent);
    listener.stats.add(ListenerStat::SslOcspStapleOmitted, omitted);
    listener.stats.add(ListenerStat::SslOcspStapleFailed, missing);
    match outcome {
        Some(Ok(())) => {
            let resumed = stream.facts().is_some_and(|facts| facts.resumed && facts.peer_certificate);
            if resumed && let Err(failure) = stream.with_peer_certificates(|shown| tls.accepts_still(shown)) {
                count_unverified(connection, failure);
                refuse(connection).await;
                return Err(Failed { by_peer: false });
            }
            Ok(protected(connection, tls))
        }
        Some(Err(error)) => {
            count_failed(connection, &error);
            if !error.is_io() {
                refuse(connection).await;
            }
            Err(Failed { by_peer: error.is_io() })
        }
        None => Err(Failed { by_peer: false }),
    }
}

fn count_unverified(connection: Handshake<'_>, failure: VerifyFailure) {
    connection.listener.stats.inc(match failure {
        VerifyFailure::NoCertificate => ListenerStat::SslFailVerifyNoCert,
        VerifyFailure::Chain => ListenerStat::SslFailVerifyError,
        VerifyFailure::San => ListenerStat::SslFailVerifySan,
        VerifyFailure::Hash => ListenerStat::SslFailVerifyCertHash,
    });
}

fn count_failed(connection: Handshake<'_>, error: &TlsError) {
    let stats = &connection.listener.stats;
    match error.verify_failure() {
        Some(failure) => count_unverified(connection, failure),
        // Who goes away makes no mistake.
        None if error.is_io() => {}
        None => stats.inc(ListenerStat::SslConnectionError),
    }
    let context = connection.context;
    context.server.raise(ServerStat::TlsLargeMessagesRefused, context.clusters.tls_meter().refused());
}

/// Lets the client read why: its end is waited for, for a short time.
async fn refuse(connection: Handshake<'_>) {
    let Handshake { context, stream, timer, .. } = connection;
    let due = context.runtime.now().after(Duration::from_millis(limits::TLS_REFUSAL_MS));
    stream.shutdown_write();
    poll_fn(|_| match stream.poll_rest() {
        Poll::Ready(()) => Poll::Ready(()),
        Poll::Pending => timer.poll_at(due),
    })
    .await;
}

fn protected(connection: Handshake<'_>, tls: &ServerTls) -> TlsFacts {
    let Handshake { listener, stream, keeps_chain, .. } = connection;
    let mut facts = TlsFacts::of(stream, keeps_chain);
    if let Some(known) = stream.facts() {
        let stats = &listener.stats;
        stats.inc(ListenerStat::SslHandshake);
        if known.resumed {
            stats.inc(ListenerStat::SslSessionReused);
        }
        stats.agreed([known.cipher, known.group, known.version]);
        if !known.peer_certificate {
            stats.inc(ListenerStat::SslNoCertificate);
        }
        facts.local = tls.certificate_for(known.server_name.as_deref()).cloned();
    }
    facts
}
