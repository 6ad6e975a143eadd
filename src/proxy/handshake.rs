//! TLS of a client's connection: its handshake, before the first request, and what is remembered of it.
//!
//! A connection counts and holds its place from its accept on, so that handshakes are limited as connections are. One that
//! is refused is told why, and ends in order: a reset would destroy the alert before the client has read it.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::downstream::Connection;
use crate::base::clock::Now;
use crate::base::limits;
use crate::protocol::http::forwarding;
use crate::protocol::tls::{ServerTls, TlsError, TlsFacts, TlsStream, VerifyFailure, Wanted};
use crate::telemetry::names::{ListenerStat, ServerStat};

/// What is known of a connection once it is protected.
#[derive(Debug)]
pub(super) struct Protected {
    pub(super) facts: Rc<TlsFacts>,
    /// What its requests have in common in headers.
    pub(super) peer: Rc<forwarding::Downstream>,
}

/// Makes the handshake of a connection; `None`: it came to nothing, and is over.
pub(super) async fn make(connection: &Connection, tls: &ServerTls) -> Option<Protected> {
    let Connection { context, listener, channel, timer, .. } = connection;
    let stream = channel.connection()?.tls()?;
    let limit = tls.handshake_timeout.unwrap_or(Duration::from_millis(limits::TLS_HANDSHAKE_MS));
    let due = connection.opened.after(limit);
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
                refuse(connection, stream).await;
                return None;
            }
            Some(protected(connection, tls, stream))
        }
        Some(Err(error)) => {
            count_failed(connection, &error);
            connection.closed_by_peer.set(error.is_io());
            if !error.is_io() {
                refuse(connection, stream).await;
            }
            None
        }
        None => None,
    }
}

fn count_unverified(connection: &Connection, failure: VerifyFailure) {
    connection.listener.stats.inc(match failure {
        VerifyFailure::NoCertificate => ListenerStat::SslFailVerifyNoCert,
        VerifyFailure::Chain => ListenerStat::SslFailVerifyError,
        VerifyFailure::San => ListenerStat::SslFailVerifySan,
        VerifyFailure::Hash => ListenerStat::SslFailVerifyCertHash,
    });
}

fn count_failed(connection: &Connection, error: &TlsError) {
    let stats = &connection.listener.stats;
    match error.verify_failure() {
        Some(failure) => count_unverified(connection, failure),
        // Who goes away makes no mistake.
        None if error.is_io() => {}
        None => stats.inc(ListenerStat::SslConnectionError),
    }
    let context = &connection.context;
    context.server.raise(ServerStat::TlsLargeMessagesRefused, context.clusters.tls_meter().refused());
}

/// Lets the client read why: its end is waited for, for a short time.
async fn refuse(connection: &Connection, stream: &TlsStream) {
    let Connection { context, timer, .. } = connection;
    let due = context.runtime.now().after(Duration::from_millis(limits::TLS_REFUSAL_MS));
    stream.shutdown_write();
    poll_fn(|_| match stream.poll_rest() {
        Poll::Ready(()) => Poll::Ready(()),
        Poll::Pending => timer.poll_at(due),
    })
    .await;
}

fn protected(connection: &Connection, tls: &ServerTls, stream: &TlsStream) -> Protected {
    let Connection { listener, chain, remote, local, .. } = connection;
    let settings = &chain.manager.forwarding;
    let keeps_chain = settings.tells_client_cert_as_pem() || Wanted::DownstreamChain.is_noted();
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
    let mut peer = forwarding::Downstream::new(Some(remote.ip()), Some(*local), true, settings);
    if let Some(identity) = &facts.peer {
        peer = peer.with_client_cert(facts.local.as_deref(), identity, settings);
    }
    Protected { facts: Rc::new(facts), peer: Rc::new(peer) }
}
