//! The stream: opened, listened to, opened again. Every response gets exactly one answer, in order; what was to be said on
//! a stream that has ended is never said on the next.
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::backoff::Backoff;
use super::cache::{Cache, Kept};
use super::channel::{Upstream, innermost};
use super::counters::Event;
use super::damping::Damping;
use super::gate::now;
use super::judge::{Considered, Kind, Outcome};
use super::messages::{self, Responses};
use super::subscribers::{Changes, Subscribers};
use super::{Protocol, Taken};
use crate::telemetry::{Cells, ServerStat};

/// Requests that wait for a control plane that does not read. Beyond it nothing more is read from it either.
const REQUESTS_QUEUED_MAX: usize = 16;

/// So long after its first response a stream has told what there is to be told; what else was kept, or is listed as refused on streams
/// before it, goes.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

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

/// What a stream works with.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) upstream: Upstream,
    pub(super) subscribers: Arc<Subscribers>,
    /// Where resources are kept; `None`: nowhere.
    pub(super) cache: Option<Cache>,
    /// Where it shows whether the aggregated stream is there; `None`: it is another.
    pub(super) server: Option<Cells<ServerStat>>,
    pub(super) seed: u64,
}

/// Asks until dropped.
pub(super) async fn run<P: Protocol>(types: Vec<P>, stream: Stream) {
    let Stream { mut upstream, subscribers, cache, server, seed } = stream;
    let mut backoff = Backoff::new(seed);
    let line = |mut protocol: P| {
        if cache.is_some() && Kind::KEPT.contains(&protocol.kind()) {
            protocol.keep();
        }
        Line { protocol, damping: Damping::default(), held: None }
    };
    let mut lines: Vec<_> = types.into_iter().map(line).collect();
    let kinds: Vec<_> = lines.iter().map(|line| line.protocol.kind()).collect();
    let mut said = None;
    let mut changes = subscribers.all_changes();
    restore(&mut lines, &subscribers, &cache).await;
    loop {
        let End { answered, reason } =
            hold(&mut lines, &subscribers, &mut changes, &mut upstream, &cache, &server, &mut backoff).await;
        // What was to be said on this stream is not said on the next.
        lines.iter_mut().for_each(|line| line.held = None);
        show(&server, 0);
        subscribers.count(&kinds, Event::Failure);
        // As Envoy: what has failed is tried again.
        subscribers.count(&kinds, Event::Attempt);
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
        let wait = sleep(backoff.wait());
        restoring(wait, &mut lines, &subscribers, &mut changes, &cache).await;
    }
}

/// One stream, to its end.
async fn hold<P: Protocol>(
    lines: &mut [Line<P>],
    subscribers: &Subscribers,
    changes: &mut Changes,
    upstream: &mut Upstream,
    cache: &Option<Cache>,
    server: &Option<Cells<ServerStat>>,
    backoff: &mut Backoff,
) -> End {
    let failed = |reason: String| End { answered: false, reason: Some(reason) };
    something_is_wanted(lines, subscribers, changes, cache).await;
    let channel = match restoring(upstream.connect(), lines, subscribers, changes, cache).await {
        Ok(channel) => channel,
        Err(reason) => return failed(reason),
    };
    let (requests, queued) = mpsc::channel(REQUESTS_QUEUED_MAX);
    let mut is_first = true;
    // What is wanted may have changed while the connection was made. Whatever is asked first says who asks.
    something_is_wanted(lines, subscribers, changes, cache).await;
    for line in &mut *lines {
        if let Some(request) = line.protocol.open(is_first) {
            is_first = false;
            let _ = requests.send(request).await;
        }
    }
    show(server, 1);
    let Some(line) = lines.first() else { return failed("nothing to ask for".to_owned()) };
    let method = line.protocol.method(server.is_none());
    // Many control planes say nothing, not even that the stream is open, before their first response: meanwhile other things may
    // be wanted.
    let (metadata, bytes_max) = (upstream.metadata(), upstream.message_bytes_max());
    let mut opening = pin!(messages::open(channel, metadata, queued, method, bytes_max));
    let mut responses = None;
    let mut answered = false;
    let refused_before = subscribers.heard();
    let settles = sleep(SETTLED_AFTER);
    tokio::pin!(settles);
    let mut is_settled = false;
    loop {
        let expiry = next_expiry(lines);
        tokio::select! {
            now = reached(expiry) => expire(lines, subscribers, now).await,
            () = &mut settles, if !is_settled && answered => {
                is_settled = true;
                let open = lines.iter().filter(|line| line.protocol.is_open());
                let kinds: Vec<_> = open.map(|line| line.protocol.kind()).collect();
                subscribers.settle(&kinds, refused_before);
                if let Some(cache) = cache {
                    cache.settle();
                }
            }
            reply = due(lines) => {
                if requests.send(reply).await.is_err() {
                    return End { answered, reason: None };
                }
            }
            kind = changes.next() => {
                // What was kept of virtual hosts is there since all of them are asked for. Other types may have thousands of names.
                if kind.is_none() {
                    restore(lines, subscribers, cache).await;
                }
                for line in &mut *lines {
                    if kind.is_some_and(|kind| kind != line.protocol.kind()) {
                        continue;
                    }
                    let wanted = subscribers.ask(line.protocol.kind());
                    if let Some(cache) = cache {
                        cache.wants(line.protocol.kind(), wanted.clone());
                    }
                    let held = line.held.as_mut().map(|(_, reply)| reply);
                    if let Some(request) = line.protocol.want(wanted, held)
                        && requests.send(request).await.is_err()
                    {
                        return End { answered, reason: None };
                    }
                }
            }
            opened = &mut opening, if responses.is_none() => match opened {
                Ok(opened) => responses = Some(opened),
                Err(status) => return failed(shown(&status)),
            },
            response = next(&mut responses) => {
                let response = match response {
                    Ok(Some(response)) => response,
                    Ok(None) => return End { answered, reason: None },
                    Err(status) => return End { answered, reason: Some(shown(&status)) },
                };
                if !answered {
                    answered = true;
                    settles.as_mut().reset(sleep(SETTLED_AFTER).deadline());
                    log::info!("xDS: the control plane answers");
                }
                backoff.answered();
                let mut lines = lines.iter_mut();
                // As in Envoy nothing is said of a type that the stream has not asked for.
                let taken = lines
                    .find(|line| line.protocol.is_open() && line.protocol.is_of(P::type_url(&response)))
                    .and_then(|line| Some((line.protocol.consider(response)?, line)));
                let Some((mut considered, line)) = taken else {
                    log::debug!("xDS: a response of a type that nobody asked for");
                    continue;
                };
                let Considered { outcome, version, .. } = &mut considered;
                subscribers.try_out(line.protocol.kind(), outcome, version).await;
                if !take(line, considered, &requests, subscribers, cache).await {
                    return End { answered, reason: None };
                }
            }
        }
    }
}

/// Answers a response and uses what is good of it; whether the stream is still there to hear the answer. It is used in any case: from
/// now on it counts as known, and is not told again.
async fn take<P: Protocol>(
    line: &mut Line<P>,
    considered: Considered,
    requests: &mpsc::Sender<P::Request>,
    subscribers: &Subscribers,
    cache: &Option<Cache>,
) -> bool {
    let Taken { kind, reply, outcome, version, refused } = line.protocol.answer(considered);
    let hold = match refused {
        Some(content) => line.damping.refused(content),
        None => {
            line.damping.clear();
            Duration::ZERO
        }
    };
    // Answers keep the order of what they answer.
    let mut replies: Vec<_> = line.held.take().into_iter().map(|(_, earlier)| earlier).collect();
    if hold.is_zero() {
        replies.push(reply);
    } else {
        line.held = Some((Box::pin(sleep(hold)), reply));
    }
    let mut is_there = true;
    for reply in replies {
        is_there &= requests.send(reply).await.is_ok();
    }
    if let Some(cache) = cache {
        note(cache, line, &outcome, if refused.is_some() { "" } else { &version });
    }
    subscribers.apply(kind, outcome, &version).await;
    is_there
}

/// The next response of a stream; never one before it is open.
async fn next<R: prost::Message + Default>(
    responses: &mut Option<Responses<R>>,
) -> Result<Option<R>, tonic::Status> {
    match responses {
        Some(responses) => responses.next().await,
        None => pending().await,
    }
}

/// Shows whether the aggregated stream is there.
fn show(server: &Option<Cells<ServerStat>>, value: u64) {
    if let Some(server) = server {
        server.gauge_set(ServerStat::ControlPlaneConnectedState, value);
    }
}

/// Keeps what was accepted, but for what goes by itself: the next process may have no control plane.
fn note<P: Protocol>(cache: &Cache, line: &Line<P>, outcome: &Outcome, version: &str) {
    let (kind, ttls) = (line.protocol.kind(), line.protocol.ttls());
    let lasting = outcome.accepted.iter().flatten().filter(|(name, _)| !ttls.has(name));
    let accepted = lasting.map(|(name, value)| Kept {
        name: name.clone(),
        version: line.protocol.version(name).to_owned(),
        value: value.clone(),
    });
    // Nor is what is kept all that a version stands for where some was told with a time to live.
    let version = if ttls.are_unused() { version } else { "" };
    cache.note(kind, version, accepted.collect(), outcome.gone(kind).chain(ttls.names()));
}

/// Uses what was kept of that which is wanted by now and has not been told.
async fn restore<P: Protocol>(lines: &mut [Line<P>], subscribers: &Subscribers, cache: &Option<Cache>) {
    let Some(cache) = cache else { return };
    for line in lines {
        let kind = line.protocol.kind();
        let wanted = subscribers.wanted(kind);
        let Some(restored) = cache.restore(kind, &wanted) else { continue };
        let version = restored.version.clone();
        let mut outcome = line.protocol.restore(&restored, &wanted);
        subscribers.try_out(kind, &mut outcome, &version).await;
        line.protocol.take_restored(restored, &outcome, &wanted);
        cache.wants(kind, wanted);
        subscribers.apply(kind, outcome, &version).await;
    }
}

/// Does so, and lets go what expires, while something else is waited for.
async fn restoring<P: Protocol, T>(
    waited: impl Future<Output = T>,
    lines: &mut [Line<P>],
    subscribers: &Subscribers,
    changes: &mut Changes,
    cache: &Option<Cache>,
) -> T {
    tokio::pin!(waited);
    loop {
        let expiry = next_expiry(lines);
        tokio::select! {
            done = &mut waited => return done,
            now = reached(expiry) => expire(lines, subscribers, now).await,
            kind = changes.next(), if cache.is_some() => {
                if kind.is_none() {
                    restore(lines, subscribers, cache).await;
                }
            }
        }
    }
}

/// When the time to live of a resource is over next, of whatever type; `None`: of none is it.
fn next_expiry<P: Protocol>(lines: &[Line<P>]) -> Option<Instant> {
    lines.iter().filter_map(|line| line.protocol.ttls().due()).min()
}

/// Waits until then, or for ever; what time it is by then.
async fn reached(time: Option<Instant>) -> Instant {
    match time {
        Some(time) => {
            sleep_until(time).await;
            now().max(time)
        }
        None => pending().await,
    }
}

/// Takes away what nobody has told again in time. It is not among what is kept.
async fn expire<P: Protocol>(lines: &mut [Line<P>], subscribers: &Subscribers, now: Instant) {
    for line in lines {
        let Some(mut outcome) = line.protocol.expire(now) else { continue };
        let kind = line.protocol.kind();
        for name in outcome.absent.iter().chain(outcome.kept.keys()) {
            log::warn!("xDS: {kind} {name} were not told again in their time to live: as if removed");
        }
        // As in Envoy no version is of the state that is left.
        subscribers.try_out(kind, &mut outcome, "").await;
        subscribers.apply(kind, outcome, "").await;
    }
}

/// Takes note of what is wanted before a stream asks for it, once that is anything; of it what was kept is used.
async fn something_is_wanted<P: Protocol>(
    lines: &mut [Line<P>],
    subscribers: &Subscribers,
    changes: &mut Changes,
    cache: &Option<Cache>,
) {
    while !ask_anew(lines, subscribers) {
        changes.next().await;
        restore(lines, subscribers, cache).await;
    }
}

/// Takes note of what is wanted before a stream asks for it; whether that is anything.
fn ask_anew<P: Protocol>(lines: &mut [Line<P>], subscribers: &Subscribers) -> bool {
    let mut is_anything = false;
    for line in lines {
        let wanted = subscribers.ask(line.protocol.kind());
        is_anything |= !wanted.is_nothing();
        // The stream's first request says it.
        let _ = line.protocol.want(wanted, None);
    }
    is_anything
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
pub(super) fn shown(status: &tonic::Status) -> String {
    let cause = std::error::Error::source(status).map(innermost);
    format!("{:?}: {}", status.code(), cause.as_deref().unwrap_or_else(|| status.message()))
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::delta::Delta;
    use super::super::filter_tests::subscribers;
    use super::super::judge::Judge;
    use super::super::sotw::Sotw;
    use super::super::wanted::Wanted;
    use super::super::{ENDPOINTS, RUNTIME, Update};
    use super::*;
    use crate::config::ads::{Eds, ResourceSource, Rtds};
    use crate::control::xds::pb;
    use pb::discovery::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};
    use pb::endpoint::ClusterLoadAssignment;
    use pb::google::{Any, Duration as Seconds, Struct, Value, ValueKindOneOf};

    /// A layer of that name with one value, which lives for so many seconds; `None`: as long as it is not taken away.
    fn layer(name: &str, ttl_s: Option<i64>) -> Resource {
        let value = Value { kind: Some(ValueKindOneOf::NumberValue(1.0)) };
        let layer = Some(Struct { fields: [("k".to_owned(), value)].into() });
        let message = pb::runtime::Runtime { name: name.into(), layer };
        Resource {
            name: name.into(),
            version: "1".into(),
            resource: Some(Any { type_url: RUNTIME.into(), value: message.encode_to_vec() }),
            ttl: ttl_s.map(|seconds| Seconds { seconds, nanos: 0 }),
            ..Resource::default()
        }
    }

    /// A control plane that says something and goes at once has said it: nobody tells it again, since it is known.
    #[tokio::test]
    async fn response_is_used_where_nobody_hears_the_answer_any_more() {
        let (all, mut told, registry) = subscribers();
        let eds = Eds { source: ResourceSource::Ads, service_name: None, initial_fetch_timeout: None };
        assert!(all.add(&"a".into(), 1, &eds, registry.cluster("a")).is_none());
        let asked = all.wanted(Kind::Endpoints);
        assert_eq!(asked, Wanted::Names([Arc::<str>::from("a")].into()));
        let protocol = Delta::new(Judge::Endpoints, pb::core::Node::default(), asked, true);
        let mut line = Line { protocol, damping: Damping::default(), held: None };
        line.protocol.open(true);
        let assignment =
            ClusterLoadAssignment { cluster_name: "a".into(), ..ClusterLoadAssignment::default() };
        let any = pb::google::Any { type_url: ENDPOINTS.into(), value: assignment.encode_to_vec() };
        let response = DeltaDiscoveryResponse {
            nonce: "n".into(),
            type_url: ENDPOINTS.into(),
            resources: vec![Resource {
                name: "a".into(),
                version: "1".into(),
                resource: Some(any),
                ..Resource::default()
            }],
            ..DeltaDiscoveryResponse::default()
        };
        let considered = line.protocol.consider(response).unwrap();
        let (requests, heard) = mpsc::channel(1);
        drop(heard);
        assert!(!take(&mut line, considered, &requests, &all, &None).await);
        let updates = told.try_recv().unwrap();
        assert!(matches!(&updates[..], [Update::Endpoints(update)] if update.instance == 1), "{updates:?}");
        assert_eq!(line.protocol.open(true).unwrap().initial_resource_versions["a"], "1");
    }

    /// It is for what must not outlive its control plane.
    #[tokio::test(start_paused = true)]
    async fn what_is_told_for_a_time_goes_also_where_there_is_no_stream() {
        let (all, mut told, registry) = subscribers();
        let rtds = Rtds { source: ResourceSource::Ads, name: "a".into(), initial_fetch_timeout: None };
        all.add_runtime(&rtds, &registry);
        let asked = all.wanted(Kind::Runtime);
        let protocol = Delta::new(Judge::Runtime, pb::core::Node::default(), asked, true);
        let mut lines = [Line { protocol, damping: Damping::default(), held: None }];
        lines[0].protocol.open(true);
        let response = DeltaDiscoveryResponse {
            nonce: "n".into(),
            type_url: RUNTIME.into(),
            resources: vec![layer("a", Some(2))],
            ..DeltaDiscoveryResponse::default()
        };
        let considered = lines[0].protocol.consider(response).unwrap();
        let (requests, _heard) = mpsc::channel(1);
        assert!(take(&mut lines[0], considered, &requests, &all, &None).await);
        let mut changes = all.all_changes();
        for values in [1, 0] {
            let updates = told.try_recv().unwrap();
            let [Update::Runtime(update)] = &updates[..] else { panic!("{updates:?}") };
            assert_eq!(update.values.as_ref().map(|values| values.len()), Some(values));
            // It is connected, or waited, for so long.
            restoring(sleep(Duration::from_secs(1)), &mut lines, &all, &mut changes, &None).await;
            assert!(told.try_recv().is_err(), "it lives, or it goes once");
            restoring(sleep(Duration::from_secs(2)), &mut lines, &all, &mut changes, &None).await;
        }
        assert!(lines[0].protocol.open(true).unwrap().initial_resource_versions.is_empty());
    }

    /// Nor does it outlive the process: the next one may have no control plane.
    #[tokio::test(start_paused = true)]
    async fn what_is_told_for_a_time_is_not_kept() {
        let folder = std::env::temp_dir().join(format!("ringway-ttl-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let cache = Some(Cache::open(&folder, b"me".to_vec()).unwrap());
        cache.iter().for_each(Cache::begin);
        let (all, _told, _registry) = subscribers();
        let asked = Wanted::Names(["a", "b"].map(Arc::<str>::from).into());
        let mut protocol = Sotw::new(Judge::Runtime, pb::core::Node::default(), asked.clone(), true);
        protocol.keep();
        let mut line = Line { protocol, damping: Damping::default(), held: None };
        let (requests, _heard) = mpsc::channel(8);
        let kept = || {
            let next = Cache::open(&folder, b"me".to_vec()).unwrap();
            let restored = next.restore(Kind::Runtime, &asked).unwrap();
            let names: Vec<_> = restored.resources.into_iter().map(|kept| kept.name).collect();
            (restored.version, names.join(" "))
        };
        // Whoever says that it has the third of these would not be told all of it.
        for (version, ttl_s, is_kept) in [("1", None, "a b"), ("2", Some(9), "b"), ("3", Some(9), "b")] {
            let told = [layer("a", ttl_s), layer("b", None)].map(|resource| Any {
                type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".into(),
                value: resource.encode_to_vec(),
            });
            let response = DiscoveryResponse {
                version_info: version.into(),
                type_url: RUNTIME.into(),
                resources: told.into(),
                ..DiscoveryResponse::default()
            };
            let considered = line.protocol.consider(response).unwrap();
            assert!(take(&mut line, considered, &requests, &all, &cache).await);
            assert_eq!(kept(), ("1".to_owned(), is_kept.to_owned()), "{version}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
