//! What load reports tell, of which period and of whom.
use std::sync::Arc;
use std::time::Duration;

use super::load_reports::{ClusterLoads, LocalityLoads, Reported, Reports};
use crate::base::clock::Now;
use crate::base::limits::LOAD_REPORT_INTERVAL_MIN;
use crate::config::endpoint::Locality;
use crate::control::xds::pb;
use crate::telemetry::{ClusterStat, HostStat, Registry, Scope, Slot};
use pb::load_stats::{ClusterStats, LoadStatsResponse};

/// Counters of a cluster's endpoints: each is a locality and a priority.
struct World {
    cluster: Arc<Scope<ClusterStat>>,
    hosts: Vec<(&'static str, u32, Arc<Scope<HostStat>>)>,
}

/// Those of an endpoint.
fn counters() -> Arc<Scope<HostStat>> {
    Arc::new(Scope::new(2))
}

impl World {
    fn new(hosts: &[(&'static str, u32)]) -> Self {
        let hosts = hosts.iter().map(|(zone, priority)| (*zone, *priority, counters())).collect();
        Self { cluster: Registry::new(2).cluster("svc"), hosts }
    }

    /// Requests to an endpoint, spread over the workers.
    fn serve(&self, host: usize, good: usize, bad: usize) {
        for nth in 0..good + bad {
            let cells = self.hosts[host].2.cells(Slot::Worker(nth % 2));
            cells.inc(HostStat::RqTotal);
            cells.inc(if nth < good { HostStat::RqSuccess } else { HostStat::RqError });
        }
    }

    fn loads(&self, name: &str) -> ClusterLoads {
        let mut localities: Vec<LocalityLoads> = Vec::new();
        for (nth, (zone, priority, stats)) in self.hosts.iter().enumerate() {
            let port = u16::try_from(nth).unwrap() + 1;
            let host = (std::net::SocketAddr::from(([10, 0, 0, 1], port)).into(), Arc::clone(stats));
            match localities.iter_mut().find(|one| &*one.locality.zone == *zone && one.priority == *priority)
            {
                Some(one) => one.hosts.push(host),
                None => localities.push(LocalityLoads {
                    locality: Locality { zone: (*zone).into(), ..Locality::default() },
                    priority: *priority,
                    hosts: vec![host],
                }),
            }
        }
        ClusterLoads {
            name: name.to_owned(),
            service_name: "service".to_owned(),
            stats: Arc::clone(&self.cluster),
            drop_category: None,
            localities,
        }
    }
}

fn order(clusters: &[&str]) -> LoadStatsResponse {
    LoadStatsResponse {
        clusters: clusters.iter().map(ToString::to_string).collect(),
        load_reporting_interval: Some(pb::google::Duration { seconds: 2, nanos: 500_000_000 }),
        ..LoadStatsResponse::default()
    }
}

fn at(ms: u64) -> Now {
    Now(ms * 1_000_000)
}

/// By zone and priority: successful, failed, issued, in progress.
fn shown(stats: &ClusterStats) -> Vec<(&str, u32, [u64; 4])> {
    let shown = stats.upstream_locality_stats.iter().map(|one| {
        let counts = [
            one.total_successful_requests,
            one.total_error_requests,
            one.total_issued_requests,
            one.total_requests_in_progress,
        ];
        (one.locality.as_ref().unwrap().zone.as_str(), one.priority, counts)
    });
    shown.collect()
}

#[test]
fn nothing_is_told_before_somebody_has_asked() {
    let world = World::new(&[("a", 0)]);
    let mut reports = Reports::default();
    assert_eq!(reports.reported(), Reported::Nobody);
    assert_eq!(reports.begin(&[world.loads("svc")], at(0)), None);
    assert!(reports.report(&[world.loads("svc")], at(1)).is_empty());
}

#[test]
fn report_has_what_has_come_since_the_last_of_each_locality_and_priority() {
    let world = World::new(&[("a", 0), ("a", 0), ("b", 0), ("a", 1)]);
    let mut reports = Reports::default();
    world.serve(0, 7, 7);
    reports.order(order(&["svc"]));
    let loads = || [world.loads("svc")];
    assert_eq!(reports.begin(&loads(), at(1_000)), Some(Duration::from_millis(2_500)));
    world.serve(0, 3, 1);
    world.serve(1, 2, 0);
    world.serve(3, 0, 1);
    let told = reports.report(&loads(), at(3_500)).remove(0);
    assert_eq!(
        shown(&told),
        [("a", 0, [5, 1, 6, 0]), ("a", 1, [0, 1, 1, 0])],
        "not what was before, nor who had none"
    );
    assert_eq!((told.cluster_name.as_str(), told.cluster_service_name.as_str()), ("svc", "service"));
    assert_eq!(told.load_report_interval, Some(pb::google::Duration { seconds: 2, nanos: 500_000_000 }));
    assert!(told.upstream_locality_stats.iter().all(|one| one.upstream_endpoint_stats.is_empty()));
    reports.begin(&loads(), at(3_500));
    world.serve(2, 1, 0);
    let told = reports.report(&loads(), at(3_501)).remove(0);
    assert_eq!(shown(&told), [("b", 0, [1, 0, 1, 0])]);
    assert_eq!(told.load_report_interval, Some(pb::google::Duration { seconds: 0, nanos: 1_000_000 }));
}

#[test]
fn request_in_progress_is_told_beside_those_issued_and_told_as_over_later() {
    let world = World::new(&[("a", 0), ("a", 0)]);
    let mut reports = Reports::default();
    reports.order(LoadStatsResponse { report_endpoint_granularity: true, ..order(&["svc"]) });
    let loads = || [world.loads("svc")];
    reports.begin(&loads(), at(0));
    let cells = world.hosts[1].2.cells(Slot::Worker(0));
    cells.inc(HostStat::RqTotal);
    cells.gauge_inc(HostStat::RqActive);
    let told = reports.report(&loads(), at(1)).remove(0);
    assert_eq!(shown(&told), [("a", 0, [0, 0, 1, 1])]);
    let endpoints = &told.upstream_locality_stats[0].upstream_endpoint_stats;
    assert_eq!(endpoints.len(), 1, "without those that had nothing");
    assert_eq!((endpoints[0].total_issued_requests, endpoints[0].total_requests_in_progress), (1, 1));
    let address = format!("{:?}", endpoints[0].address);
    assert!(address.contains("10.0.0.1") && address.contains("PortValue(2)"), "{address}");
    assert_eq!(shown(&reports.report(&loads(), at(2))[0]), [("a", 0, [0, 0, 0, 1])], "as long as it lasts");
    cells.gauge_dec(HostStat::RqActive);
    cells.inc(HostStat::RqSuccess);
    assert_eq!(shown(&reports.report(&loads(), at(3))[0]), [("a", 0, [1, 0, 0, 0])]);
    assert_eq!(shown(&reports.report(&loads(), at(4))[0]), []);
}

#[test]
fn load_that_endpoints_report_is_told_by_name_once_also_of_those_that_had_no_request() {
    let world = World::new(&[("a", 0), ("a", 0), ("b", 0)]);
    let mut reports = Reports::default();
    reports.order(LoadStatsResponse { report_endpoint_granularity: true, ..order(&["svc"]) });
    let report_load = |host: usize, worker, name: &[u8], value| {
        let cells = world.hosts[host].2.cells(Slot::Worker(worker));
        assert!(cells.load_metrics().add("named_metrics.", name, value));
    };
    report_load(0, 0, b"x", 1.0);
    let loads = || [world.loads("svc")];
    reports.begin(&loads(), at(0));
    report_load(0, 1, b"x", 2.0);
    report_load(1, 0, b"x", 4.0);
    report_load(1, 0, b"\xff", 8.0);
    let named = |stats: &[pb::load_stats::EndpointLoadMetricStats]| {
        let all = stats.iter().map(|one| {
            format!(
                "{}: {} in {}",
                one.metric_name, one.total_metric_value, one.num_requests_finished_with_metric
            )
        });
        all.collect::<Vec<_>>()
    };
    let mut told = reports.report(&loads(), at(1)).remove(0).upstream_locality_stats;
    assert_eq!(told.len(), 1, "not of who reported nothing");
    let told = told.remove(0);
    // As in Envoy with what was before anybody asked.
    let other = "named_metrics.\u{fffd}: 8 in 1";
    assert_eq!(named(&told.load_metric_stats), ["named_metrics.x: 7 in 3", other]);
    let endpoints: Vec<_> =
        told.upstream_endpoint_stats.iter().map(|one| named(&one.load_metric_stats)).collect();
    assert_eq!(endpoints, [vec!["named_metrics.x: 3 in 2"], vec!["named_metrics.x: 4 in 1", other]]);
    assert_eq!(shown(&reports.report(&loads(), at(2))[0]), []);
}

#[test]
fn refused_requests_are_told_as_dropped_once() {
    let world = World::new(&[("a", 0)]);
    let mut reports = Reports::default();
    reports.order(order(&["svc"]));
    let cells = world.cluster.cells(Slot::Worker(1));
    cells.inc(ClusterStat::UpstreamRqPendingOverflow);
    let loads = || [world.loads("svc")];
    reports.begin(&loads(), at(0));
    cells.inc(ClusterStat::UpstreamRqPendingOverflow);
    cells.inc(ClusterStat::UpstreamRqActiveOverflow);
    let told = [1, 2].map(|ms| reports.report(&loads(), at(ms))[0].total_dropped_requests);
    assert_eq!(told, [2, 0]);
}

#[test]
fn spared_requests_are_told_by_their_category_and_among_all_that_were_dropped() {
    let world = World::new(&[("a", 0)]);
    let mut reports = Reports::default();
    reports.order(order(&["svc"]));
    let loads = |category: Option<&str>| {
        [ClusterLoads { drop_category: category.map(str::to_owned), ..world.loads("svc") }]
    };
    let spare = || world.cluster.cells(Slot::Worker(1)).inc(ClusterStat::UpstreamRqDropOverload);
    spare();
    reports.begin(&loads(Some("lb")), at(0));
    let mut told = |category, ms| {
        let stats = reports.report(&loads(category), at(ms)).remove(0);
        let by_category = stats.dropped_requests.into_iter().map(|one| (one.category, one.dropped_count));
        (stats.total_dropped_requests, by_category.collect::<Vec<_>>())
    };
    assert_eq!(told(Some("lb"), 1), (0, vec![]), "not what was before");
    spare();
    spare();
    world.cluster.cells(Slot::Worker(0)).inc(ClusterStat::UpstreamRqPendingOverflow);
    assert_eq!(told(Some("lb"), 2), (3, vec![("lb".to_owned(), 2)]));
    assert_eq!(told(Some("lb"), 3), (0, vec![]));
    spare();
    assert_eq!(told(None, 4), (1, vec![("lb".to_owned(), 1)]), "what they were called");
    spare();
    assert_eq!(told(Some("throttle"), 5), (1, vec![("throttle".to_owned(), 1)]));
}

/// Another answer of the server begins no period anew for those of which it had asked before, and neither does another stream.
#[test]
fn counts_go_on_for_clusters_that_are_asked_for_again() {
    let world = World::new(&[("a", 0)]);
    let mut reports = Reports::default();
    let loads = || [world.loads("svc"), world.loads("other")];
    reports.order(order(&["svc"]));
    reports.begin(&loads(), at(0));
    world.serve(0, 1, 0);
    reports.order(LoadStatsResponse { send_all_clusters: true, ..order(&[]) });
    assert_eq!(reports.reported(), Reported::All);
    reports.begin(&loads(), at(10));
    world.serve(0, 1, 0);
    let told = reports.report(&loads(), at(20));
    let told: Vec<_> = told.iter().map(|one| (one.cluster_name.as_str(), shown(one))).collect();
    assert_eq!(told, [("svc", vec![("a", 0, [2, 0, 2, 0])]), ("other", vec![("a", 0, [1, 0, 1, 0])])]);
    reports.order(order(&["nobody"]));
    reports.begin(&loads(), at(30));
    assert!(reports.report(&loads(), at(40)).is_empty(), "nobody is there");
    reports.order(order(&["svc"]));
    reports.begin(&loads(), at(50));
    assert_eq!(shown(&reports.report(&loads(), at(60))[0]), [], "what came while nobody asked is nobody's");
}

#[test]
fn cluster_that_comes_later_is_told_of_from_its_beginning() {
    let mut world = World::new(&[]);
    let mut reports = Reports::default();
    reports.order(order(&["svc"]));
    reports.begin(&[], at(0));
    world.hosts.push(("a", 0, counters()));
    world.serve(0, 2, 0);
    let told = reports.report(&[world.loads("svc")], at(10)).remove(0);
    assert_eq!(shown(&told), [("a", 0, [2, 0, 2, 0])]);
    // And endpoints that come later.
    world.hosts.push(("b", 0, counters()));
    world.serve(1, 0, 1);
    assert_eq!(shown(&reports.report(&[world.loads("svc")], at(20))[0]), [("b", 0, [0, 1, 1, 0])]);
}

#[test]
fn interval_that_is_none_is_the_shortest() {
    let mut reports = Reports::default();
    for interval in [None, Some((0, 1)), Some((-5, -1)), Some((0, i32::MAX))] {
        let load_reporting_interval =
            interval.map(|(seconds, nanos)| pb::google::Duration { seconds, nanos });
        reports.order(LoadStatsResponse { load_reporting_interval, ..order(&[]) });
        let every = reports.begin(&[], at(0)).unwrap();
        assert!(every >= LOAD_REPORT_INTERVAL_MIN && every < Duration::from_secs(1), "{every:?}");
    }
    reports.order(LoadStatsResponse {
        load_reporting_interval: Some(pb::google::Duration { seconds: i64::MAX, nanos: 0 }),
        ..order(&[])
    });
    assert!(reports.begin(&[], at(0)).is_some());
}
