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
use crate::protocol::stream_info::{StreamInfo, set_text};
use crate::protocol::tls::{
    HandshakeFailure, ServerTls, Staple, TlsError, TlsFacts, TlsStream, VerifyFailure,
};
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
    /// `None`: one of the two went away.
    why: Option<Why>,
}

/// Why a handshake came to nothing.
#[derive(Clone, Copy, Debug)]
enum Why {
    Refused(HandshakeFailure),
    TimedOut,
}

impl Failed {
    /// A secret that it needs is still to come.
    pub(super) fn without_secret() -> Self {
        Self { by_peer: false, why: Some(Why::Refused(HandshakeFailure::NoSecret)) }
    }

    /// One of the two went away.
    pub(super) fn gone(by_peer: bool) -> Self {
        Self { by_peer, why: None }
    }

    /// Says in a connection's record why, as Envoy does, in words of this version's where TLS has it.
    pub(super) fn tell(self, info: &mut StreamInfo) {
        match self.why {
            None => {}
            Some(Why::Refused(failure)) => {
                set_text(&mut info.downstream_transport_failure_reason, failure.words());
            }
            Some(Why::TimedOut) => {
                set_text(&mut info.downstream_transport_failure_reason, "connect timeout");
                set_text(&mut info.connection_termination_details, "transport socket timeout was reached");
                info.downstream_local_close_reason = "transport_socket_timeout";
            }
        }
    }
}

/// Makes the handshake of a connection.
pub(super) async fn make(connection: Handshake<'_>, tls: &ServerTls) -> Result<TlsFacts, Failed> {
    let Handshake { context, listener, stream, timer, opened, .. } = connection;
    let limit = tls.handshake_timeout.unwrap_or(Duration::from_millis(limits::TLS_HANDSHAKE_MS));
    let due = opened.after(limit);
    let outcome = poll_fn(|_| {
        if let Poll::Ready(outcome) = stream.poll_handshake() {
            return Poll::Ready(Ok(outcome));
        }
        let is_due = |due: Option<Now>| due.is_some_and(|due| timer.poll_at(due).is_ready());
        if is_due(context.drain.idle_until()) {
            return Poll::Ready(Err(None));
        }
        if is_due(Some(due)) {
            listener.stats.inc(ListenerStat::DownstreamCxTransportSocketConnectTimeout);
            return Poll::Ready(Err(Some(Why::TimedOut)));
        }
        Poll::Pending
    })
    .await;
    if let Some(staple) = stream.staple() {
        listener.stats.inc(ListenerStat::SslOcspStapleRequests);
        listener.stats.inc(match staple {
            Staple::Sent => ListenerStat::SslOcspStapleResponses,
            Staple::Omitted => ListenerStat::SslOcspStapleOmitted,
            Staple::Failed => ListenerStat::SslOcspStapleFailed,
        });
    }
    match outcome {
        Ok(Ok(())) => {
            let resumed = stream.facts().is_some_and(|facts| facts.agreed.resumed && facts.peer_certificate);
            if resumed && let Err(failure) = stream.with_peer_certificates(|shown| tls.accepts_still(shown)) {
                count_unverified(connection, failure);
                refuse(connection).await;
                return Err(Failed { by_peer: false, why: Some(Why::Refused(failure.into())) });
            }
            Ok(protected(connection, tls))
        }
        Ok(Err(error)) => {
            count_failed(connection, &error);
            if error.is_io() {
                return Err(Failed::gone(true));
            }
            let why = Some(Why::Refused(HandshakeFailure::of(&error)));
            refuse(connection).await;
            Err(Failed { by_peer: false, why })
        }
        Err(why) => Err(Failed { by_peer: false, why }),
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
    context.server.raise(ServerStat::TlsUnfinishedMessagesRefused, context.clusters.tls_meter().refused());
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
        let (stats, agreed) = (&listener.stats, known.agreed);
        stats.inc(ListenerStat::SslHandshake);
        if agreed.resumed {
            stats.inc(ListenerStat::SslSessionReused);
        }
        stats.agreed([agreed.cipher_name(), agreed.group_name(), known.scheme, agreed.version_name()]);
        if !known.peer_certificate {
            stats.inc(ListenerStat::SslNoCertificate);
        }
        if let Some(failure) = known.forgiven {
            count_unverified(connection, failure);
        }
        let asked = stream.staple().is_some();
        facts.local = tls.certificate_for(known.server_name.as_deref(), asked).cloned();
    }
    facts
}
