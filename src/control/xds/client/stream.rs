//! The stream: opened, listened to, opened again. Every response gets exactly one answer, in order; what was to be said on
//! a stream that has ended is never said on the next.
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic_prost::ProstCodec;

use super::backoff::Backoff;
use super::channel::{Upstream, innermost};
use super::counters::Event;
use super::damping::Damping;
use super::subscribers::Subscribers;
use super::{Protocol, Taken};
use crate::telemetry::{Cells, ServerStat};

/// Requests that wait for a control plane that does not read. Beyond it nothing more is read from it either.
const REQUESTS_QUEUED_MAX: usize = 16;

/// How a stream has ended.
struct End {
    /// Whether there was a response.
    answered: bool,
    /// Why; `None`: the control plane has closed it.
    reason: Option<String>,
}

/// One type of resources on its way over the streams.
struct Line<P: Protocol> {
    protocol: P,
    damping: Damping,
    /// A refusal that is held back.
    held: Option<(Pin<Box<Sleep>>, P::Request)>,
}

/// Asks until dropped.
pub(super) async fn run<P: Protocol>(
    types: Vec<P>,
    mut upstream: Upstream,
    subscribers: Arc<Subscribers>,
    server: Cells<ServerStat>,
    seed: u64,
) {
    let mut backoff = Backoff::new(seed);
    let line = |protocol| Line { protocol, damping: Damping::default(), held: None };
    let mut lines: Vec<_> = types.into_iter().map(line).collect();
    let mut said = None;
    subscribers.count(Event::Attempt);
    loop {
        let End { answered, reason } =
            hold(&mut lines, &subscribers, &mut upstream, &server, &mut backoff).await;
        // What was to be said on this stream is not said on the next.
        lines.iter_mut().for_each(|line| line.held = None);
        server.gauge_set(ServerStat::ControlPlaneConnectedState, 0);
        subscribers.count(Event::Failure);
        // As Envoy: what has failed is tried again.
        subscribers.count(Event::Attempt);
        match reason {
            // Control planes close streams to spread their clients.
            None if answered => log::info!("xDS: the control plane has closed the stream"),
            reason => {
                let reason = reason.unwrap_or_else(|| "closed without an answer".to_owned());
                // Said once until there is something else to say.
                if said.as_ref() == Some(&reason) && !answered {
                    log::debug!("xDS: {reason}");
                } else {
                    log::warn!("xDS: {reason}; what is configured stays, trying again");
                }
                said = Some(reason);
            }
        }
        sleep(backoff.wait()).await;
    }
}

/// One stream, to its end.
async fn hold<P: Protocol>(
    lines: &mut [Line<P>],
    subscribers: &Subscribers,
    upstream: &mut Upstream,
    server: &Cells<ServerStat>,
    backoff: &mut Backoff,
) -> End {
    let failed = |reason: String| End { answered: false, reason: Some(reason) };
    let mut grpc = match upstream.connect().await {
        Ok(grpc) => grpc,
        Err(reason) => return failed(reason),
    };
    if let Err(error) = grpc.ready().await {
        return failed(innermost(&error));
    }
    let (requests, queued) = mpsc::channel(REQUESTS_QUEUED_MAX);
    let mut is_first = true;
    for line in &mut *lines {
        if let Some(request) = line.protocol.open(is_first) {
            is_first = false;
            let _ = requests.send(request).await;
        }
    }
    if is_first {
        return failed("there is nothing to ask for".to_owned());
    }
    let mut request = Request::new(ReceiverStream::new(queued));
    *request.metadata_mut() = upstream.metadata();
    let codec = ProstCodec::<P::Request, P::Response>::default();
    server.gauge_set(ServerStat::ControlPlaneConnectedState, 1);
    let opened = grpc.streaming(request, PathAndQuery::from_static(P::METHOD), codec).await;
    let mut responses = match opened {
        Ok(response) => response.into_inner(),
        Err(status) => return failed(shown(&status)),
    };
    let mut answered = false;
    loop {
        tokio::select! {
            reply = due(lines) => {
                if requests.send(reply).await.is_err() {
                    return End { answered, reason: None };
                }
            }
            response = responses.message() => {
                let response = match response {
                    Ok(Some(response)) => response,
                    Ok(None) => return End { answered, reason: None },
                    Err(status) => return End { answered, reason: Some(shown(&status)) },
                };
                if !answered {
                    answered = true;
                    log::info!("xDS: the control plane answers");
                }
                backoff.answered();
                let mut lines = lines.iter_mut();
                let taken = lines
                    .find(|line| line.protocol.is_of(P::type_url(&response)))
                    .and_then(|line| Some((line.protocol.take(response)?, line)));
                let Some((Taken { kind, reply, outcome, version, refused }, line)) = taken else {
                    log::debug!("xDS: a response of a type that nobody asked for");
                    continue;
                };
                // Answers keep the order of what they answer.
                if let Some((_, earlier)) = line.held.take()
                    && requests.send(earlier).await.is_err()
                {
                    return End { answered, reason: None };
                }
                let hold = match refused {
                    Some(content) => line.damping.refused(content),
                    None => {
                        line.damping.clear();
                        Duration::ZERO
                    }
                };
                if !hold.is_zero() {
                    line.held = Some((Box::pin(sleep(hold)), reply));
                } else if requests.send(reply).await.is_err() {
                    return End { answered, reason: None };
                }
                subscribers.apply(kind, outcome, &version).await;
            }
        }
    }
}

/// The next answer that is held back, when its time has come; never if there is none.
async fn due<P: Protocol>(lines: &mut [Line<P>]) -> P::Request {
    poll_fn(|context| {
        for line in &mut *lines {
            if let Some((until, _)) = &mut line.held
                && until.as_mut().poll(context).is_ready()
                && let Some((_, reply)) = line.held.take()
            {
                return Poll::Ready(reply);
            }
        }
        Poll::Pending
    })
    .await
}

/// `Unavailable: connection refused`
fn shown(status: &tonic::Status) -> String {
    let cause = std::error::Error::source(status).map(innermost);
    format!("{:?}: {}", status.code(), cause.as_deref().unwrap_or_else(|| status.message()))
}
