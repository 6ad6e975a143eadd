//! The stream: opened, listened to, opened again. Every response gets exactly one answer, in order; what was to be said on
//! a stream that has ended is never said on the next.
use std::pin::Pin;
use std::sync::Arc;

use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic_prost::ProstCodec;

use super::backoff::Backoff;
use super::channel::{Upstream, innermost};
use super::damping::Damping;
use super::subscribers::Subscribers;
use super::{Protocol, Taken};
use crate::telemetry::{Cells, ClusterStat, ServerStat};

/// Requests that wait for a control plane that does not read. Beyond it nothing more is read from it either.
const REQUESTS_QUEUED_MAX: usize = 16;

/// How a stream has ended.
struct End {
    /// Whether there was a response.
    answered: bool,
    /// Why; `None`: the control plane has closed it.
    reason: Option<String>,
}

/// Asks until dropped.
pub(super) async fn run<P: Protocol>(
    mut protocol: P,
    mut upstream: Upstream,
    subscribers: Arc<Subscribers>,
    server: Cells<ServerStat>,
    seed: u64,
) {
    let mut backoff = Backoff::new(seed);
    let mut damping = Damping::default();
    let mut said = None;
    subscribers.count(ClusterStat::UpdateAttempt);
    loop {
        let mut talk = Talk { protocol: &mut protocol, damping: &mut damping, subscribers: &subscribers };
        let End { answered, reason } = talk.hold(&mut upstream, &server, &mut backoff).await;
        server.gauge_set(ServerStat::ControlPlaneConnectedState, 0);
        subscribers.count(ClusterStat::UpdateFailure);
        // As Envoy: what has failed is tried again.
        subscribers.count(ClusterStat::UpdateAttempt);
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

/// What one stream works with.
struct Talk<'a, P> {
    protocol: &'a mut P,
    damping: &'a mut Damping,
    subscribers: &'a Subscribers,
}

impl<P: Protocol> Talk<'_, P> {
    /// One stream, to its end.
    async fn hold(
        &mut self,
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
        let Some(first) = self.protocol.open() else {
            return failed("there is nothing to ask for".to_owned());
        };
        let (requests, queued) = mpsc::channel(REQUESTS_QUEUED_MAX);
        let _ = requests.send(first).await;
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
        // A refusal that is held back.
        let mut held: Option<(Pin<Box<Sleep>>, P::Request)> = None;
        loop {
            tokio::select! {
                reply = due(&mut held) => {
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
                    let Some(Taken { reply, outcome, version, refused }) = self.protocol.take(response) else {
                        log::debug!("xDS: a response of a type that nobody asked for");
                        continue;
                    };
                    // Answers keep the order of what they answer.
                    if let Some((_, earlier)) = held.take()
                        && requests.send(earlier).await.is_err()
                    {
                        return End { answered, reason: None };
                    }
                    let hold = match refused {
                        Some(content) => self.damping.refused(content),
                        None => {
                            self.damping.clear();
                            std::time::Duration::ZERO
                        }
                    };
                    if !hold.is_zero() {
                        held = Some((Box::pin(sleep(hold)), reply));
                    } else if requests.send(reply).await.is_err() {
                        return End { answered, reason: None };
                    }
                    self.subscribers.apply(outcome, &version).await;
                }
            }
        }
    }
}

/// The answer that is held back, when its time has come; never if there is none.
async fn due<R>(held: &mut Option<(Pin<Box<Sleep>>, R)>) -> R {
    if let Some((until, _)) = held {
        until.as_mut().await;
    }
    match held.take() {
        Some((_, reply)) => reply,
        None => std::future::pending().await,
    }
}

/// `Unavailable: connection refused`
fn shown(status: &tonic::Status) -> String {
    let cause = std::error::Error::source(status).map(innermost);
    format!("{:?}: {}", status.code(), cause.as_deref().unwrap_or_else(|| status.message()))
}
