//! Families of metrics: what a kind of scope shows, and under which name, in text and towards Prometheus.
//!
//! Envoy derives Prometheus names by taking tags out of the dotted names with regular expressions. Here tags were
//! never part of a name: a family has both spellings from the start. One consequence is meant: a cluster or
//! prefix with dots in its name keeps its whole name as label, where Envoy cuts it at the first dot and turns the
//! rest into part of the metric's name.
use std::ops::Range;

use super::codes::Origin;
use super::names::{
    AGREED, ClusterStat, EcdsStat, HttpStat, Kind, ListenerStat, ProxyProtocolStat, RbacStat, RdsStat, Row,
    ScopedRdsStat, SdsStat, ServerStat, Stats, VhdsStat,
};
use super::names::{ClusterHistogram, HistogramIndex};
use super::plain::PlainKind;
use crate::config::told_filter::FilterKind;

/// Metrics of one name in all scopes of a kind.
#[derive(Clone, Debug)]
pub struct Family {
    /// Envoy's dotted name below the prefix of the scope. For codes the stem that the code completes.
    pub text: String,
    /// Prometheus's name below `envoy_` and the kind's prefix.
    pub prometheus: String,
    /// A label that the whole family shares, such as the class of response codes.
    pub label: Option<Label>,
    pub kind: FamilyKind,
    pub(super) at: At,
}

/// A label of a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub name: &'static str,
    pub value: String,
    /// Which part of the family's text says so.
    pub cut: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKind {
    Counter,
    Gauge,
    Histogram,
}

/// Where a view finds the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    Row(usize),
    /// A row that appears when it is first counted.
    Agreed(usize),
    /// One worker's part of a row.
    Worker {
        row: usize,
        worker: usize,
    },
    /// One value per code; `None` sums both origins.
    Codes(Option<Origin>),
    Class(Option<Origin>, u16),
    Completed(Option<Origin>),
    /// Sum of histograms: indices `.0 ..= .1`.
    Histogram(usize, usize),
}

/// Kinds of scopes that are shown. Differs from the kinds that are written: some are sums or excerpts of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ViewKind {
    Cluster,
    Http,
    Listener,
    /// The responses of a connection manager below its listener.
    ListenerHttp,
    /// Of network filters.
    Plain(PlainKind),
    Server,
    /// Access by role of a connection manager's requests.
    HttpRbac,
    /// One policy of it.
    HttpRbacPolicy,
    /// Access by role of connections.
    Rbac,
    /// The PROXY protocol's listener filters of one `stat_prefix`.
    ProxyProtocol,
    /// A routing table that a connection manager has from a control plane.
    HttpRds,
    /// A secret that is told.
    Sds,
    /// A filter of that kind that is told.
    Ecds(FilterKind),
    /// Access by role in one.
    ToldRbac,
    /// One policy of it.
    ToldRbacPolicy,
    /// Virtual hosts that are told of a table that a connection manager has from a control plane.
    HttpVhds,
    /// Scopes that a connection manager has from a control plane.
    HttpScopedRds,
}

impl ViewKind {
    /// The process before this one and the one after it tell kinds by their place: new ones stand at the end.
    pub const ALL: [Self; 21] = [
        Self::Cluster,
        Self::Http,
        Self::Listener,
        Self::ListenerHttp,
        Self::Server,
        Self::HttpRbac,
        Self::HttpRbacPolicy,
        Self::Rbac,
        Self::Plain(PlainKind::ConnectionLimit),
        Self::Plain(PlainKind::LocalRateLimit),
        Self::Plain(PlainKind::Tcp),
        Self::ProxyProtocol,
        Self::HttpRds,
        Self::Sds,
        Self::Ecds(FilterKind::Http),
        Self::ToldRbac,
        Self::ToldRbacPolicy,
        Self::Ecds(FilterKind::Network),
        Self::Ecds(FilterKind::Listener),
        Self::HttpVhds,
        Self::HttpScopedRds,
    ];

    /// Its place in [`Self::ALL`].
    pub fn place(self) -> usize {
        Self::ALL.iter().position(|kind| *kind == self).unwrap_or_default()
    }

    /// The rows of its scopes.
    pub(super) fn rows(self) -> &'static [Row] {
        match self {
            Self::Cluster => ClusterStat::ROWS,
            Self::Http | Self::ListenerHttp => HttpStat::ROWS,
            Self::Listener => ListenerStat::ROWS,
            Self::Plain(kind) => kind.rows(),
            Self::Server => ServerStat::ROWS,
            Self::HttpRbac | Self::HttpRbacPolicy | Self::Rbac | Self::ToldRbac | Self::ToldRbacPolicy => {
                RbacStat::ROWS
            }
            Self::ProxyProtocol => ProxyProtocolStat::ROWS,
            Self::HttpRds => RdsStat::ROWS,
            Self::HttpVhds => VhdsStat::ROWS,
            Self::HttpScopedRds => ScopedRdsStat::ROWS,
            Self::Sds => SdsStat::ROWS,
            Self::Ecds(_) => EcdsStat::ROWS,
        }
    }

    /// What stands between `envoy_` and the name of the family.
    pub fn prometheus_prefix(self) -> &'static str {
        match self {
            Self::Cluster => "cluster_",
            Self::Http => "http_",
            Self::Listener => "listener_",
            Self::ListenerHttp => "listener_http_",
            Self::Plain(kind) => kind.prometheus_prefix(),
            Self::Server => "",
            Self::HttpRbac => "http_rbac_",
            Self::HttpRbacPolicy => "http_rbac_policy_",
            Self::Rbac => "rbac_",
            Self::ProxyProtocol => "proxy_proto_",
            Self::HttpRds => "http_rds_",
            Self::HttpVhds => "http_vhds_",
            Self::HttpScopedRds => "http_scoped_rds_",
            Self::Sds => "sds_",
            Self::Ecds(FilterKind::Http) => "extension_config_discovery_http_filter_",
            Self::Ecds(FilterKind::Network) => "extension_config_discovery_network_filter_",
            Self::Ecds(FilterKind::Listener) => "extension_config_discovery_tcp_listener_filter_",
            Self::ToldRbac => "extension_config_discovery_http_filter_rbac_",
            Self::ToldRbacPolicy => "extension_config_discovery_http_filter_rbac_policy_",
        }
    }

    /// All families, sorted by text within counters and gauges and within histograms, which come last. Families
    /// that share a Prometheus name are next to each other.
    pub fn families(self, workers: usize) -> Vec<Family> {
        let mut families = match self {
            Self::Cluster => cluster(),
            Self::Http => http(),
            Self::Listener => listener(workers),
            Self::ListenerHttp => http().into_iter().filter(|family| is_response(family.at)).collect(),
            Self::Plain(kind) => rows(kind.rows()),
            Self::Server => with_histograms(rows(ServerStat::ROWS), ServerStat::HISTOGRAMS),
            Self::HttpRbac | Self::HttpRbacPolicy | Self::Rbac | Self::ToldRbac | Self::ToldRbacPolicy => {
                rows(RbacStat::ROWS)
            }
            Self::ProxyProtocol => proxy_protocol(),
            Self::HttpRds => rows(RdsStat::ROWS),
            Self::HttpVhds => rows(VhdsStat::ROWS),
            Self::HttpScopedRds => rows(ScopedRdsStat::ROWS),
            Self::Sds => rows(SdsStat::ROWS),
            Self::Ecds(_) => rows(EcdsStat::ROWS),
        };
        families.sort_by(|a, b| (a.rank(), &a.prometheus, &a.text).cmp(&(b.rank(), &b.prometheus, &b.text)));
        families
    }
}

impl Family {
    fn new(text: impl Into<String>, kind: FamilyKind, at: At) -> Self {
        let text = text.into();
        Self { prometheus: text.replace('.', "_"), text, label: None, kind, at }
    }

    fn named(mut self, prometheus: impl Into<String>) -> Self {
        self.prometheus = prometheus.into();
        self
    }

    /// With a label whose value the text names: the class of `upstream_rq_2xx`, the number of `worker_0.`.
    fn labelled(mut self, name: &'static str, value: impl ToString) -> Self {
        let value = value.to_string();
        let (before, behind) = if name == CLASS_LABEL { ("_rq_", "") } else { ("worker_", ".") };
        let start = self.text.find(before).map_or(0, |at| at + before.len());
        let cut = start..start + value.len() + behind.len();
        self.label = Some(Label { name, value, cut });
        self
    }

    /// Whether the family's values are one per response code.
    pub fn is_codes(&self) -> bool {
        matches!(self.at, At::Codes(_))
    }

    fn rank(&self) -> u8 {
        u8::from(self.kind == FamilyKind::Histogram)
    }
}

/// Label of a response code, and of its first digit.
pub const CODE_LABEL: &str = "envoy_response_code";
const CLASS_LABEL: &str = "envoy_response_code_class";

fn rows(rows: &[Row]) -> Vec<Family> {
    let family = |(index, row): (usize, &Row)| {
        let kind = match row.kind {
            Kind::Counter => FamilyKind::Counter,
            Kind::Gauge => FamilyKind::Gauge,
        };
        let agreed = AGREED.iter().find(|(group, _)| row.name.starts_with(group));
        let Some((group, label)) = agreed else { return Family::new(row.name, kind, At::Row(index)) };
        // The dot before the value goes with it.
        let group = group.trim_end_matches('.');
        Family {
            label: Some(Label {
                name: label,
                value: row.name[group.len() + 1..].to_owned(),
                cut: group.len()..row.name.len(),
            }),
            ..Family::new(row.name, kind, At::Agreed(index)).named(group.replace('.', "_"))
        }
    };
    rows.iter().enumerate().map(family).collect()
}

fn with_histograms(mut families: Vec<Family>, names: &[&str]) -> Vec<Family> {
    let family = |(index, name): (usize, &&str)| {
        Family::new(*name, FamilyKind::Histogram, At::Histogram(index, index))
    };
    families.extend(names.iter().enumerate().map(family));
    families
}

fn http() -> Vec<Family> {
    let mut families = with_histograms(rows(HttpStat::ROWS), HttpStat::HISTOGRAMS);
    for (class, stat) in (1..).zip(HTTP_CLASSES) {
        let family = &mut families[stat.index()];
        *family = family.clone().named("downstream_rq_xx").labelled(CLASS_LABEL, class);
    }
    families
}

/// What `listener.<address>.http.<stat_prefix>.` repeats.
fn is_response(at: At) -> bool {
    let stats = HTTP_CLASSES.iter().chain([&HttpStat::DownstreamRqCompleted]);
    stats.into_iter().any(|stat| at == At::Row(stat.index()))
}

fn listener(workers: usize) -> Vec<Family> {
    let mut families = with_histograms(rows(ListenerStat::ROWS), ListenerStat::HISTOGRAMS);
    for stat in [ListenerStat::DownstreamCxActive, ListenerStat::DownstreamCxTotal] {
        let row = &families[stat.index()];
        let (name, kind) = (row.text.clone(), row.kind);
        families.extend((0..workers).map(|worker| {
            Family::new(format!("worker_{worker}.{name}"), kind, At::Worker { row: stat.index(), worker })
                .named(format!("worker_{name}"))
                .labelled("envoy_worker_id", worker)
        }));
    }
    families
}

/// The version of a header is a label.
fn proxy_protocol() -> Vec<Family> {
    let mut families = rows(ProxyProtocolStat::ROWS);
    for family in &mut families {
        let parts = family.text.strip_prefix("versions.v").and_then(|rest| rest.split_once('.'));
        let Some((version, name)) = parts else { continue };
        let label = Label {
            name: "envoy_proxy_protocol_version",
            value: version.to_owned(),
            cut: 0..family.text.len() - name.len(),
        };
        (family.prometheus, family.label) = (name.to_owned(), Some(label));
    }
    families
}

fn cluster() -> Vec<Family> {
    let mut families = with_histograms(rows(ClusterStat::ROWS), ClusterStat::HISTOGRAMS);
    let times =
        (ClusterHistogram::ExternalUpstreamRqTime.index(), ClusterHistogram::InternalUpstreamRqTime.index());
    families.push(Family::new("upstream_rq_time", FamilyKind::Histogram, At::Histogram(times.0, times.1)));
    for (prefix, origin) in
        [("", None), ("external.", Some(Origin::External)), ("internal.", Some(Origin::Internal))]
    {
        let counter = |name: String, at| Family::new(format!("{prefix}{name}"), FamilyKind::Counter, at);
        let prometheus = prefix.replace('.', "_");
        families.push(counter("upstream_rq_completed".into(), At::Completed(origin)));
        families.push(
            counter("upstream_rq_".into(), At::Codes(origin)).named(format!("{prometheus}upstream_rq")),
        );
        families.extend((1..=5).map(|class| {
            counter(format!("upstream_rq_{class}xx"), At::Class(origin, class))
                .named(format!("{prometheus}upstream_rq_xx"))
                .labelled(CLASS_LABEL, class)
        }));
    }
    families
}

const HTTP_CLASSES: [HttpStat; 5] = [
    HttpStat::DownstreamRq1xx,
    HttpStat::DownstreamRq2xx,
    HttpStat::DownstreamRq3xx,
    HttpStat::DownstreamRq4xx,
    HttpStat::DownstreamRq5xx,
];

// The sum of two histograms is a range of indices.
const _: () = assert!(
    ClusterHistogram::ExternalUpstreamRqTime as usize + 1
        == ClusterHistogram::InternalUpstreamRqTime as usize
);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn families_of_one_prometheus_name_are_neighbours_of_one_kind() {
        let mut seen = BTreeSet::new();
        for kind in ViewKind::ALL {
            let families = kind.families(2);
            for group in families.chunk_by(|a, b| a.prometheus == b.prometheus) {
                let name = format!("{}{}", kind.prometheus_prefix(), group[0].prometheus);
                assert!(group.iter().all(|family| family.kind == group[0].kind));
                assert!(seen.insert(name.clone()), "{name} is there twice");
            }
        }
    }

    #[test]
    fn names_of_both_kinds_are_those_of_envoy() {
        let find = |kind: ViewKind, text: &str| {
            let family = kind.families(2).into_iter().find(|family| family.text == text).unwrap();
            (
                format!("envoy_{}{}", kind.prometheus_prefix(), family.prometheus),
                family.label.map(|label| (label.name, label.value)),
            )
        };
        let class = |class: u16| Some((CLASS_LABEL, class.to_string()));
        assert_eq!(
            find(ViewKind::Cluster, "upstream_rq_total"),
            ("envoy_cluster_upstream_rq_total".into(), None)
        );
        assert_eq!(
            find(ViewKind::Cluster, "external.upstream_rq_2xx"),
            ("envoy_cluster_external_upstream_rq_xx".into(), class(2))
        );
        assert_eq!(
            find(ViewKind::Listener, "ssl.versions.TLSv1.3"),
            ("envoy_listener_ssl_versions".into(), Some(("envoy_ssl_version", "TLSv1.3".into())))
        );
        assert_eq!(
            find(ViewKind::Http, "downstream_rq_5xx"),
            ("envoy_http_downstream_rq_xx".into(), class(5))
        );
        assert_eq!(
            find(ViewKind::ListenerHttp, "downstream_rq_2xx"),
            ("envoy_listener_http_downstream_rq_xx".into(), class(2))
        );
        assert_eq!(
            find(ViewKind::Listener, "worker_1.downstream_cx_total"),
            ("envoy_listener_worker_downstream_cx_total".into(), Some(("envoy_worker_id", "1".into())))
        );
        assert_eq!(ViewKind::ListenerHttp.families(2).len(), 6);
        assert_eq!(find(ViewKind::Server, "server.live"), ("envoy_server_live".into(), None));
    }
}
