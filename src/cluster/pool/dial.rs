//! Opening a connection to a host, for pools of either kind: bound, bounded by `connect_timeout`, counted when it fails.

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::connection::ConnectError;
use super::turns::Connecting;
use crate::base::limits;
use crate::cluster::host::Host;
use crate::cluster::local::Cluster;
use crate::config::proxy_protocol::ProxyProtocolVersion;
use crate::protocol::proxy_protocol::{encode_local, encode_v1};
use crate::protocol::tls::{
    Alpn, ClientContext, Endpoint, Fault, HandshakeFailure, Offer, Secured, TlsError, TlsStream,
    VerifyFailure,
};
use crate::protocol::transport::Transport;
use crate::runtime::{Recycled, Runtime, TcpStream, Timer};
use crate::telemetry::names::{ClusterHistogram, ClusterStat, HostStat};

/// Opens a connection that will speak what is offered, behind what connections of this host begin with.
///
/// # Errors
/// [`ConnectError`].
pub async fn dial(
    cluster: &Rc<Cluster>,
    host: &Rc<Host>,
    timer: &Timer,
    offer: Offer,
) -> Result<Transport, ConnectError> {
    let runtime = cluster.runtime();
    let begun = runtime.now();
    let (source, options) = cluster.bind_for(host);
    let connect = TcpStream::connect(runtime, host.address(), source, options);
    let stats = cluster.stats();
    let due = begun.after(cluster.config().connect_timeout);
    // One that is being made counts already.
    let _connecting = Connecting::new(cluster, host, offer);
    let outcome = timer.at(due, connect).await;
    let socket = match outcome {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            if source.is_some() && matches!(errno, libc::EADDRNOTAVAIL | libc::EADDRINUSE | libc::EACCES) {
                stats.inc(ClusterStat::BindErrors);
            }
            count_failed(cluster, host, runtime.now().since(begun), false, offer);
            return Err(ConnectError::Failed(errno));
        }
        Err(_) => {
            count_failed(cluster, host, runtime.now().since(begun), true, offer);
            return Err(ConnectError::Timeout);
        }
    };
    let tls = match cluster.tls(host.socket()) {
        None => None,
        Some(Secured::By(context)) => Some(context),
        Some(Secured::NotReady) => {
            // As Envoy: the connection is there, and nothing is sent on it.
            stats.inc(ClusterStat::UpstreamContextSecretsNotReady);
            count_failed(cluster, host, runtime.now().since(begun), false, offer);
            return Err(ConnectError::Tls(HandshakeFailure::NoSecret));
        }
    };
    if let Some(original) = host.original_dst() {
        socket.tell_destination(original);
    }
    if !send_header(cluster, host, &socket) {
        count_failed(cluster, host, runtime.now().since(begun), false, offer);
        return Err(ConnectError::Failed(libc::ENOBUFS));
    }
    let transport = match shake_hands(cluster, host, socket, offer, tls) {
        Protection::None(socket) => Transport::from(socket),
        Protection::Tls(handshake) => {
            // One limit for all of it, as in Envoy.
            let outcome = match timer.at(due, handshake).await {
                Ok(Ok(transport)) => Ok(transport),
                Ok(Err(error)) => {
                    count_handshake_failed(cluster, &error);
                    Err(ConnectError::Tls(HandshakeFailure::of(&error)))
                }
                Err(_) => Err(ConnectError::Timeout),
            };
            match outcome {
                Ok(transport) => transport,
                Err(error) => {
                    let timed_out = error == ConnectError::Timeout;
                    count_failed(cluster, host, runtime.now().since(begun), timed_out, offer);
                    return Err(error);
                }
            }
        }
    };
    if let Some(keepalive) = cluster.keepalive() {
        // Probes are a help, not a promise: a refusal is no reason to fail the request.
        let _ = transport.set_keepalive(keepalive);
    }
    let took = u64::try_from(runtime.now().since(begun).as_millis()).unwrap_or(u64::MAX);
    stats.record(ClusterHistogram::UpstreamCxConnectMs, took);
    Ok(transport)
}

/// Sends the PROXY header that the connection begins with, if it begins with one: at once, before a handshake too, since the
/// endpoint may be the one that speaks first. False when there is no memory for it.
fn send_header(cluster: &Cluster, host: &Host, socket: &TcpStream) -> bool {
    let mut nobodys = Vec::new();
    let header = match (host.header(), cluster.config().sockets().proxy_protocol_of(host.socket())) {
        (Some(clients), _) => clients,
        (None, Some(settings)) => {
            write_nobodys(settings.version, socket, &mut nobodys);
            &nobodys
        }
        (None, None) => return true,
    };
    let is_queued = socket.send_copy(header);
    if is_queued {
        cluster.stats().add(ClusterStat::UpstreamCxTxBytesTotal, header.len() as u64);
        socket.flush();
    }
    is_queued
}

/// Writes the header of a connection that stands for no client: version 1, which has no word for it, names the connection's own
/// ends, as in Envoy.
fn write_nobodys(version: ProxyProtocolVersion, socket: &TcpStream, out: &mut Vec<u8>) {
    match version {
        ProxyProtocolVersion::V1 => {
            let ends = socket.ends().ok().and_then(|[peer, local]| Some([local.socket()?, peer.socket()?]));
            encode_v1(ends, out);
        }
        ProxyProtocolVersion::V2 => encode_local(out),
    }
}

/// What comes between connecting and a connection of use.
enum Protection<F> {
    None(TcpStream),
    Tls(F),
}

/// The handshake, in recycled memory, where the endpoint is reached through TLS. Apart from the dial, whose future a local in
/// it would enlarge.
fn shake_hands<'a>(
    cluster: &'a Cluster,
    host: &'a Host,
    socket: TcpStream,
    offer: Offer,
    tls: Option<Arc<ClientContext>>,
) -> Protection<Recycled<impl Future<Output = Result<Transport, TlsError>> + use<'a>>> {
    let runtime = cluster.runtime();
    let Some(context) = tls else { return Protection::None(socket) };
    Protection::Tls(runtime.recycled(async move {
        // With the first connection; in time like the handshake.
        runtime.made(&context).await;
        let Some(tls) = context.get() else { return Err(TlsError::Session(Fault::Unexpected("no context"))) };
        let connecting = host.with_hostname(|host_name| {
            // Only a name that is not sent.
            let address = host.address().ip().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            let (auto_sni, auto_san) = names(cluster, host);
            tls.connect(&Endpoint { address, host_name, offer, auto_sni, auto_san })
        });
        let (config, name) = (Arc::clone(&connecting.config), connecting.name.clone());
        let stream = TlsStream::client(socket, config, name, cluster.tls_meter().clone());
        let mut made = poll_fn(|_| stream.poll_handshake()).await;
        let facts = stream.facts();
        if facts.as_ref().is_some_and(|facts| facts.agreed.resumed) {
            made = stream.with_peer_certificates(|shown| connecting.accepts_still(shown));
        }
        if let Err(error) = made {
            if !error.is_io() {
                refuse(cluster.runtime(), stream);
            }
            return Err(error);
        }
        if let Some(facts) = facts {
            let (stats, agreed) = (cluster.stats(), facts.agreed);
            stats.inc(ClusterStat::SslHandshake);
            if agreed.resumed {
                stats.inc(ClusterStat::SslSessionReused);
            }
            stats.agreed([agreed.cipher_name(), agreed.group_name(), facts.scheme, agreed.version_name()]);
            if !facts.peer_certificate {
                stats.inc(ClusterStat::SslNoCertificate);
            }
            if let Some(failure) = facts.forgiven {
                count_unverified(cluster, failure);
            }
        }
        Ok(stream.into())
    }))
}

/// Lets the endpoint read why: its end is waited for, for a short time, in which a reset would destroy the alert. The request
/// does not wait.
fn refuse(runtime: &Runtime, stream: Box<TlsStream>) {
    let handle = runtime.clone();
    runtime.spawn_isolated(async move {
        let timer = handle.timer();
        let due = handle.now().after(Duration::from_millis(limits::TLS_REFUSAL_MS));
        stream.shutdown_write();
        poll_fn(|_| match stream.poll_rest() {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => timer.poll_at(due),
        })
        .await;
    });
}

/// Server name, and name that the certificate must have, as requests want them. An address is no server name.
fn names<'a>(cluster: &Cluster, host: &'a Host) -> (Option<&'a str>, Option<&'a str>) {
    let (Some(names), Some(name)) = (&cluster.config().request_names, host.name()) else {
        return (None, None);
    };
    let is_name = names.server_name && name.parse::<IpAddr>().is_err();
    (is_name.then_some(name), names.subject_alt_name.then_some(name))
}

/// Whether both sides agreed on HTTP/2.
pub(super) fn agreed_on_http2(transport: &Transport) -> bool {
    transport.tls().and_then(TlsStream::facts).is_some_and(|facts| facts.agreed.alpn == Alpn::Http2)
}

fn count_handshake_failed(cluster: &Cluster, error: &TlsError) {
    match error.verify_failure() {
        Some(failure) => count_unverified(cluster, failure),
        // Who goes away makes no mistake.
        None if error.is_io() => {}
        None => cluster.stats().inc(ClusterStat::SslConnectionError),
    }
}

fn count_unverified(cluster: &Cluster, failure: VerifyFailure) {
    cluster.stats().inc(match failure {
        VerifyFailure::NoCertificate => ClusterStat::SslFailVerifyNoCert,
        VerifyFailure::Chain => ClusterStat::SslFailVerifyError,
        VerifyFailure::San => ClusterStat::SslFailVerifySan,
        VerifyFailure::Hash => ClusterStat::SslFailVerifyCertHash,
    });
}

/// Counts a connection that was never there, as Envoy does: made, and gone at once; the
/// request it was for failed.
fn count_failed(cluster: &Cluster, host: &Host, lived: Duration, timed_out: bool, offer: Offer) {
    let stats = cluster.stats();
    let side =
        if timed_out { ClusterStat::UpstreamCxDestroyLocal } else { ClusterStat::UpstreamCxDestroyRemote };
    match offer {
        Offer::Http1 => stats.inc(ClusterStat::UpstreamCxHttp1Total),
        Offer::Http2 => stats.inc(ClusterStat::UpstreamCxHttp2Total),
        // It has not become either, or is neither.
        Offer::Either | Offer::Opaque => {}
    }
    for counter in [
        ClusterStat::UpstreamCxTotal,
        ClusterStat::UpstreamCxConnectFail,
        ClusterStat::UpstreamCxDestroy,
        ClusterStat::UpstreamRqPendingFailureEject,
        side,
    ] {
        stats.inc(counter);
    }
    if timed_out {
        stats.inc(ClusterStat::UpstreamCxConnectTimeout);
    }
    stats.record(ClusterHistogram::UpstreamCxLengthMs, u64::try_from(lived.as_millis()).unwrap_or(u64::MAX));
    host.stats().inc(HostStat::CxTotal);
    host.stats().inc(HostStat::CxConnectFail);
    // A relayed connection is no request.
    if offer != Offer::Opaque {
        host.stats().inc(HostStat::RqError);
    }
}
