//! Load reports (LRS): how many requests each cluster's localities have had, told to whoever asks, as often as it asks.
//!
//! What is told of which period is decided by [`Reports`], which knows no stream; [`run`] moves messages. Counts are those that
//! workers keep of each endpoint anyway: whoever reports adds them up and tells what has come since the last time; what endpoints
//! report of their load is taken from the workers' sums, where it begins anew. What
//! comes while there is no stream, or while the server does not read, is told with the next report; one that was on its way when a
//! stream broke is lost, as in Envoy.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::client::Grpc;
use tonic_prost::ProstCodec;

use super::backoff::Backoff;
use super::channel::{Upstream, innermost};
use super::stream::shown;
use crate::base::clock::{Clock, Now};
use crate::base::limits::LOAD_REPORT_INTERVAL_MIN;
use crate::base::socket_address::SocketAddress;
use crate::config::endpoint::Locality;
use crate::control::xds::pb;
use crate::telemetry::names::Stats;
use crate::telemetry::{ClusterStat, HostStat, LoadSum, Scope, ServerCells, ServerStat};
use pb::core::{
    AddressAddressOneOf, EnvoyInternalAddressAddressNameSpecifierOneOf, SocketAddressPortSpecifierOneOf,
};
use pb::load_stats::{
    ClusterStats, ClusterStatsDroppedRequests, EndpointLoadMetricStats, LoadStatsRequest, LoadStatsResponse,
    UpstreamEndpointStats, UpstreamLocalityStats,
};

/// Reports that wait for a server that does not read. Beyond it none is made: the next one tells of the longer period.
const REPORTS_QUEUED_MAX: usize = 2;
const METHOD: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";
/// By which servers know that they may ask for all clusters. Source: Envoy `LoadStatsReporterImpl`.
const SUPPORTS_ALL: &str = "envoy.lrs.supports_send_all_clusters";

/// Of which clusters reports tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reported {
    /// Of nobody yet.
    #[default]
    Nobody,
    All,
    Named(BTreeSet<String>),
}

/// Who knows the clusters that there are.
pub trait Loads: Send + Sync + std::fmt::Debug {
    /// Those of them that are there.
    fn loads(&self, of: &Reported) -> Vec<ClusterLoads>;
}

/// Where a cluster's requests are counted.
#[derive(Debug)]
pub struct ClusterLoads {
    pub name: String,
    /// Under which its endpoints are asked for; empty: its own.
    pub service_name: String,
    pub stats: Arc<Scope<ClusterStat>>,
    /// What the requests are called that its endpoints are spared now; `None`: none are.
    pub drop_category: Option<String>,
    /// Its endpoints, by priority and locality; none without any.
    pub localities: Vec<LocalityLoads>,
}

/// Where the requests to a locality's endpoints of a priority are counted.
#[derive(Debug)]
pub struct LocalityLoads {
    pub locality: Locality,
    pub priority: u32,
    pub hosts: Vec<(SocketAddress, Arc<Scope<HostStat>>)>,
}

/// What the server wants to hear.
#[derive(Debug)]
struct Order {
    of: Reported,
    every: Duration,
    /// Also of each endpoint by itself.
    per_endpoint: bool,
}

/// What has been told of which cluster.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// The last that was said; it outlives its stream.
    order: Option<Order>,
    clusters: BTreeMap<String, Told>,
}

/// What has been told of one of them.
#[derive(Debug)]
struct Told {
    /// When its period began.
    since: Now,
    dropped: Dropped,
    /// What requests were called last that its endpoints were spared.
    drop_category: String,
    /// By where each endpoint's counters are, which are kept so that no other's take their place. Without those of which nothing
    /// has been told.
    hosts: HashMap<usize, (Arc<Scope<HostStat>>, Counts)>,
}

/// Requests that no endpoint has had.
#[derive(Clone, Copy, Debug, Default)]
struct Dropped {
    /// That circuit breakers have refused.
    refused: u64,
    /// That endpoints were spared, by `drop_overloads`.
    spared: u64,
}

impl Dropped {
    /// All that were counted of a cluster.
    fn of(stats: &Scope<ClusterStat>) -> Self {
        let value = |stat: ClusterStat| stats.value(stat.index()).0;
        Self {
            refused: value(ClusterStat::UpstreamRqPendingOverflow)
                + value(ClusterStat::UpstreamRqActiveOverflow),
            spared: value(ClusterStat::UpstreamRqDropOverload),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            refused: self.refused.saturating_sub(before.refused),
            spared: self.spared.saturating_sub(before.spared),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    successful: u64,
    failed: u64,
    issued: u64,
}

impl Counts {
    /// All that was counted of an endpoint.
    fn of(stats: &Scope<HostStat>) -> Self {
        let value = |stat: HostStat| stats.value(stat.index()).0;
        Self {
            successful: value(HostStat::RqSuccess),
            failed: value(HostStat::RqError),
            issued: value(HostStat::RqTotal),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            successful: self.successful.saturating_sub(before.successful),
            failed: self.failed.saturating_sub(before.failed),
            issued: self.issued.saturating_sub(before.issued),
        }
    }

    fn add(&mut self, other: Self) {
        self.successful += other.successful;
        self.failed += other.failed;
        self.issued += other.issued;
    }
}

/// What endpoints have reported of their load, by name.
#[derive(Debug, Default)]
struct Metrics(BTreeMap<Box<[u8]>, LoadSum>);

impl Metrics {
    fn add(&mut self, name: &[u8], sum: LoadSum) {
        let all = self.0.entry(name.into()).or_default();
        all.count += sum.count;
        all.total += sum.total;
    }

    fn told(&self) -> Vec<EndpointLoadMetricStats> {
        let told = self.0.iter().map(|(name, sum)| EndpointLoadMetricStats {
            // Envoy tells bytes that are no text as they are, and its server cannot read the message.
            metric_name: String::from_utf8_lossy(name).into_owned(),
            num_requests_finished_with_metric: sum.count,
            total_metric_value: sum.total,
        });
        told.collect()
    }
}

impl Told {
    /// Nothing yet, of a cluster that is there: what was before is nobody's.
    fn begin(loads: Option<&ClusterLoads>, now: Now) -> Self {
        let mut told = Self {
            since: now,
            dropped: Dropped::default(),
            drop_category: loads.and_then(|loads| loads.drop_category.clone()).unwrap_or_default(),
            hosts: HashMap::new(),
        };
        let Some(loads) = loads else { return told };
        told.dropped = Dropped::of(&loads.stats);
        for (_, stats) in loads.localities.iter().flat_map(|locality| &locality.hosts) {
            told.take(stats, Counts::of(stats));
        }
        told
    }

    /// What was told of an endpoint.
    fn take(&mut self, stats: &Arc<Scope<HostStat>>, counts: Counts) {
        if counts != Counts::default() {
            self.hosts.insert(Arc::as_ptr(stats).addr(), (Arc::clone(stats), counts));
        }
    }
}

impl Reports {
    /// Of which clusters reports tell.
    pub(super) fn reported(&self) -> Reported {
        self.order.as_ref().map(|order| order.of.clone()).unwrap_or_default()
    }

    /// Takes what the server wants to hear from now on.
    pub(super) fn order(&mut self, response: LoadStatsResponse) {
        let LoadStatsResponse {
            clusters,
            send_all_clusters,
            load_reporting_interval,
            report_endpoint_granularity,
        } = response;
        let every = load_reporting_interval.map(|interval| {
            let seconds = u64::try_from(interval.seconds).unwrap_or_default();
            Duration::new(seconds, u32::try_from(interval.nanos).unwrap_or_default().min(999_999_999))
        });
        self.order = Some(Order {
            of: if send_all_clusters {
                Reported::All
            } else {
                Reported::Named(clusters.into_iter().collect())
            },
            every: every.unwrap_or_default().max(LOAD_REPORT_INTERVAL_MIN),
            per_endpoint: report_endpoint_granularity,
        });
    }

    /// A period begins, with the clusters that there are: counts of those that were told of before go on, those of others begin
    /// now. How long it is; `None`: nobody has asked.
    pub(super) fn begin(&mut self, loads: &[ClusterLoads], now: Now) -> Option<Duration> {
        let order = self.order.as_ref()?;
        let loads: BTreeMap<&str, &ClusterLoads> = loads.iter().map(|one| (one.name.as_str(), one)).collect();
        let names: BTreeSet<&str> = match &order.of {
            Reported::Nobody => BTreeSet::new(),
            Reported::All => loads.keys().copied().collect(),
            Reported::Named(names) => names.iter().map(String::as_str).collect(),
        };
        self.clusters.retain(|name, _| names.contains(name.as_str()));
        for name in names {
            if !self.clusters.contains_key(name) {
                self.clusters.insert(name.to_owned(), Told::begin(loads.get(name).copied(), now));
            }
        }
        Some(order.every)
    }

    /// The report of the period that is over, of the clusters that it has begun with and that are there.
    pub(super) fn report(&mut self, loads: &[ClusterLoads], now: Now) -> Vec<ClusterStats> {
        let per_endpoint = self.order.as_ref().is_some_and(|order| order.per_endpoint);
        let mut all = Vec::new();
        for loads in loads {
            let Some(told) = self.clusters.get_mut(&loads.name) else { continue };
            // As in Envoy all of a period are called what they are called at its end, or were last.
            let drop_category = loads.drop_category.clone();
            let next = Told {
                since: now,
                dropped: Dropped::of(&loads.stats),
                drop_category: drop_category.unwrap_or_else(|| std::mem::take(&mut told.drop_category)),
                hosts: HashMap::new(),
            };
            let before = std::mem::replace(told, next);
            let dropped = told.dropped.since(before.dropped);
            let spared = (dropped.spared > 0).then(|| ClusterStatsDroppedRequests {
                category: told.drop_category.clone(),
                dropped_count: dropped.spared,
            });
            let localities = loads.localities.iter();
            let stats = localities
                .filter_map(|locality| of_locality(locality, &before, told, per_endpoint))
                .collect();
            let interval = now.since(before.since);
            all.push(ClusterStats {
                cluster_name: loads.name.clone(),
                cluster_service_name: loads.service_name.clone(),
                upstream_locality_stats: stats,
                total_dropped_requests: dropped.refused + dropped.spared,
                dropped_requests: spared.into_iter().collect(),
                load_report_interval: Some(pb::google::Duration {
                    seconds: i64::try_from(interval.as_secs()).unwrap_or(i64::MAX),
                    // As Envoy: whole microseconds.
                    nanos: i32::try_from(interval.subsec_micros() * 1000).unwrap_or_default(),
                }),
            });
        }
        let there: BTreeSet<&str> = loads.iter().map(|one| one.name.as_str()).collect();
        for (_, gone) in self.clusters.iter_mut().filter(|(name, _)| !there.contains(name.as_str())) {
            gone.hosts.clear();
        }
        all
    }
}

/// What a locality's endpoints have had since they were told of; `None`, as in Envoy, where that is nothing and nothing is in
/// progress.
fn of_locality(
    loads: &LocalityLoads,
    before: &Told,
    told: &mut Told,
    per_endpoint: bool,
) -> Option<UpstreamLocalityStats> {
    let mut sum = Counts::default();
    let mut in_progress = 0;
    let mut metrics = Metrics::default();
    let mut endpoints = Vec::new();
    for (address, stats) in &loads.hosts {
        let counts = Counts::of(stats);
        let known =
            before.hosts.get(&Arc::as_ptr(stats).addr()).map(|(_, counts)| *counts).unwrap_or_default();
        told.take(stats, counts);
        let (new, active) = (counts.since(known), stats.value(HostStat::RqActive.index()).0);
        let mut own = Metrics::default();
        stats.take_load_metrics(|name, sum| own.add(name, sum));
        if new == Counts::default() && active == 0 && own.0.is_empty() {
            continue;
        }
        own.0.iter().for_each(|(name, sum)| metrics.add(name, *sum));
        sum.add(new);
        in_progress += active;
        if per_endpoint {
            endpoints.push(UpstreamEndpointStats {
                address: Some(address_of(address)),
                total_successful_requests: new.successful,
                total_requests_in_progress: active,
                total_error_requests: new.failed,
                total_issued_requests: new.issued,
                load_metric_stats: own.told(),
                ..UpstreamEndpointStats::default()
            });
        }
    }
    let Locality { region, zone, sub_zone } = &loads.locality;
    let [region, zone, sub_zone] = [region, zone, sub_zone].map(|text| text.to_string());
    let is_idle = sum == Counts::default() && in_progress == 0 && metrics.0.is_empty();
    (!is_idle).then(|| UpstreamLocalityStats {
        locality: Some(pb::core::Locality { region, zone, sub_zone }),
        priority: loads.priority,
        total_successful_requests: sum.successful,
        total_requests_in_progress: in_progress,
        total_error_requests: sum.failed,
        total_issued_requests: sum.issued,
        load_metric_stats: metrics.told(),
        upstream_endpoint_stats: endpoints,
        ..UpstreamLocalityStats::default()
    })
}

fn address_of(address: &SocketAddress) -> pb::core::Address {
    let one = match address {
        SocketAddress::Ip(ip) => AddressAddressOneOf::SocketAddress(pb::core::SocketAddress {
            address: ip.ip().to_string(),
            port_specifier: Some(SocketAddressPortSpecifierOneOf::PortValue(u32::from(ip.port()))),
            ..pb::core::SocketAddress::default()
        }),
        SocketAddress::Pipe(path) => {
            AddressAddressOneOf::Pipe(pb::core::Pipe { path: path.to_string(), ..pb::core::Pipe::default() })
        }
        SocketAddress::Internal(internal) => {
            AddressAddressOneOf::EnvoyInternalAddress(pb::core::EnvoyInternalAddress {
                address_name_specifier: Some(
                    EnvoyInternalAddressAddressNameSpecifierOneOf::ServerListenerName(
                        internal.listener().to_owned(),
                    ),
                ),
                endpoint_id: internal.endpoint_id().to_owned(),
            })
        }
    };
    pb::core::Address { address: Some(one) }
}

/// What a stream works with.
struct Reporter {
    upstream: Upstream,
    node: pb::core::Node,
    loads: Arc<dyn Loads>,
    cells: ServerCells,
    clock: Clock,
    reports: Reports,
    backoff: Backoff,
}

/// Tells until dropped.
pub(super) async fn run(
    upstream: Upstream,
    mut node: pb::core::Node,
    loads: Arc<dyn Loads>,
    cells: ServerCells,
    seed: u64,
) {
    if node.client_features.iter().all(|feature| feature != SUPPORTS_ALL) {
        node.client_features.push(SUPPORTS_ALL.to_owned());
    }
    let (clock, reports, backoff) = (Clock::start(), Reports::default(), Backoff::new(seed));
    let mut reporter = Reporter { upstream, node, loads, cells, clock, reports, backoff };
    let mut said = None;
    loop {
        match reporter.hold().await {
            // As in Envoy no failure.
            Ok(()) => log::info!("load reports: the server has closed the stream"),
            Err(reason) => {
                reporter.cells.inc(ServerStat::LoadReporterErrors);
                // Said once until there is something else to say.
                if said.as_ref() == Some(&reason) {
                    log::debug!("load reports: {reason}");
                } else {
                    log::warn!("load reports: {reason}; trying again");
                }
                said = Some(reason);
            }
        }
        sleep(reporter.backoff.wait()).await;
        reporter.cells.inc(ServerStat::LoadReporterRetries);
    }
}

impl Reporter {
    /// One stream, to its end; the reason, unless the server has closed it in order.
    async fn hold(&mut self) -> Result<(), String> {
        let channel = self.upstream.connect().await?;
        let mut grpc = Grpc::new(channel).max_decoding_message_size(self.upstream.message_bytes_max());
        grpc.ready().await.map_err(|error| innermost(&error))?;
        let (requests, queued) = mpsc::channel(REPORTS_QUEUED_MAX);
        let mut request = Request::new(ReceiverStream::new(queued));
        *request.metadata_mut() = self.upstream.metadata();
        let codec = ProstCodec::<LoadStatsRequest, LoadStatsResponse>::default();
        let mut timer = self.tell(&requests);
        let opening = grpc.streaming(request, PathAndQuery::from_static(METHOD), codec);
        tokio::pin!(opening);
        // A server may say nothing, not even that it listens, before it wants something else than on the stream before.
        let opened = loop {
            tokio::select! {
                () = due(&mut timer) => timer = self.tell(&requests),
                opened = &mut opening => break opened,
            }
        };
        let mut responses = opened.map_err(|status| shown(&status))?.into_inner();
        loop {
            tokio::select! {
                () = due(&mut timer) => timer = self.tell(&requests),
                response = responses.message() => {
                    let Some(response) = response.map_err(|status| shown(&status))? else { return Ok(()) };
                    self.cells.inc(ServerStat::LoadReporterRequests);
                    self.backoff.answered();
                    self.reports.order(response);
                    let loads = self.loads.loads(&self.reports.reported());
                    timer = self.begin(&loads, self.clock.now());
                }
            }
        }
    }

    /// Tells what there is to be told, and begins the next period; its end, if somebody has asked.
    fn tell(&mut self, requests: &mpsc::Sender<LoadStatsRequest>) -> Option<Pin<Box<Sleep>>> {
        let (loads, now) = (self.loads.loads(&self.reports.reported()), self.clock.now());
        // What is not told now is told later.
        if let Ok(place) = requests.try_reserve() {
            let cluster_stats = self.reports.report(&loads, now);
            place.send(LoadStatsRequest { node: Some(self.node.clone()), cluster_stats });
            self.cells.inc(ServerStat::LoadReporterResponses);
        }
        self.begin(&loads, now)
    }

    fn begin(&mut self, loads: &[ClusterLoads], now: Now) -> Option<Pin<Box<Sleep>>> {
        let every = self.reports.begin(loads, now)?;
        Some(Box::pin(sleep(every)))
    }
}

/// Waits for the end of a period, which may be that of nobody.
async fn due(timer: &mut Option<Pin<Box<Sleep>>>) {
    match timer {
        Some(sleep) => sleep.await,
        None => pending().await,
    }
}
