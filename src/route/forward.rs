//! [`Forward`]: which cluster a request goes to, and what the route says about getting it there.

use std::time::Duration;

use super::hash_policy::HashPolicy;
use super::mutation::Mutations;
use super::overrides::OverrideSlot;
use super::rewrite::{HostRewrite, PathRewrite};
use crate::config::cluster::RoutingPriority;
use crate::config::route::{ConnectConfig, MaxStreamDuration};
use crate::config::runtime::RuntimeKey;
use crate::protocol::http::head::Head;
use crate::protocol::http::headers::HeaderName;

/// Number of a cluster among those a table names: the worker resolves each name once, when it takes the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterSlot(pub u32);

/// A compiled forwarding action. Source: `RouteAction`.
#[derive(Debug)]
pub struct Forward {
    /// Answer when the cluster does not exist. Source: `cluster_not_found_response_code`.
    pub cluster_not_found_status: u16,
    /// Source: `timeout`; zero: no limit. [`Self::timeouts`](Forward::timeouts) is what counts for a request.
    pub timeout: Duration,
    /// Which limits of the cluster requests count for. Source: `priority`.
    pub priority: RoutingPriority,
    pub(super) append_x_forwarded_host: bool,
    pub(super) specifier: Specifier,
    /// `None`: nothing of it.
    pub(super) details: Option<Box<Details>>,
}

/// There is one for each of thousands of routes.
const _: () = assert!(size_of::<Forward>() <= 48);

/// What most routes say nothing about.
#[derive(Debug)]
pub(super) struct Details {
    pub(super) idle_timeout: Option<Duration>,
    pub(super) flush_timeout: Option<Duration>,
    pub(super) max_stream_duration: Option<MaxStreamDuration>,
    pub(super) max_grpc_timeout: Option<Duration>,
    pub(super) grpc_timeout_offset: Option<Duration>,
    pub(super) path_rewrite: PathRewrite,
    pub(super) host_rewrite: HostRewrite,
    pub(super) upgrades: Vec<UpgradeRule>,
    /// Empty: requests have no hash.
    pub(super) hash_policy: Vec<HashPolicy>,
}

/// Those of a route that says nothing about them.
static NOTHING: Details = Details {
    idle_timeout: None,
    flush_timeout: None,
    max_stream_duration: None,
    max_grpc_timeout: None,
    grpc_timeout_offset: None,
    path_rewrite: PathRewrite::None,
    host_rewrite: HostRewrite::None,
    upgrades: Vec::new(),
    hash_policy: Vec::new(),
};

impl Details {
    /// As routes keep it.
    pub(super) fn kept(self) -> Option<Box<Self>> {
        let Self {
            idle_timeout,
            flush_timeout,
            max_stream_duration,
            max_grpc_timeout,
            grpc_timeout_offset,
            path_rewrite,
            host_rewrite,
            upgrades,
            hash_policy,
        } = &self;
        let times = [idle_timeout, flush_timeout, max_grpc_timeout, grpc_timeout_offset];
        let has_times = max_stream_duration.is_some() || times.into_iter().any(Option::is_some);
        let is_plain = matches!((path_rewrite, host_rewrite), (PathRewrite::None, HostRewrite::None));
        let has_rules = !upgrades.is_empty() || !hash_policy.is_empty();
        (has_times || !is_plain || has_rules).then(|| Box::new(self))
    }
}

/// An upgrade the route allows or forbids, over the connection manager's word.
#[derive(Debug, Clone)]
pub struct UpgradeRule {
    /// `websocket`, `connect`, in lower case.
    pub upgrade_type: Box<str>,
    /// Whether it passes.
    pub enabled: bool,
    /// For CONNECT: the tunnel ends here.
    pub connect: Option<ConnectConfig>,
}

#[derive(Debug)]
pub(super) enum Specifier {
    One(Target),
    Weighted(Box<Weighted>),
}

/// Clusters drawn by weight.
#[derive(Debug)]
pub(super) struct Weighted {
    pub(super) targets: Box<[WeightedTarget]>,
    /// Sum of their weights.
    pub(super) total: u64,
    /// Header whose number is drawn in place of a random one.
    pub(super) header: Option<HeaderName>,
    /// One of the keys under which there may be other weights; `None`: there are none.
    pub(super) runtime_key: Option<RuntimeKey>,
}

#[derive(Debug)]
pub(super) enum Target {
    Slot(ClusterSlot),
    /// Boxed: few routes have one.
    Header(Box<HeaderName>),
}

#[derive(Debug)]
pub(super) struct WeightedTarget {
    pub(super) target: Target,
    pub(super) weight: u64,
    /// Under which there may be another weight.
    pub(super) runtime_key: Option<RuntimeKey>,
    pub(super) mutations: Mutations,
    pub(super) filters: Option<OverrideSlot>,
    pub(super) host_rewrite: Option<Box<[u8]>>,
}

/// The cluster chosen for one request.
#[derive(Debug, Clone, Copy)]
pub struct ClusterChoice<'t> {
    target: &'t Target,
    /// Set when it was drawn by weight: its own header changes and host.
    pub(super) weighted: Option<&'t WeightedTarget>,
}

/// How the cluster chosen is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterName<'a> {
    /// By its slot in the table.
    Slot(ClusterSlot),
    /// By this text from a request header; empty when the header is missing: no such cluster.
    Text(&'a [u8]),
}

impl Forward {
    pub(super) fn details(&self) -> &Details {
        self.details.as_deref().unwrap_or(&NOTHING)
    }

    /// Source: `idle_timeout`; none: the connection manager's; zero: no limit.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.details().idle_timeout
    }

    /// How long a finished response may wait for its client; `None`: as long as it likes. `general` is the connection manager's
    /// word; where that is what bounds silence, and no word of its own (`follows_idle`), it is the same with a route, as in
    /// Envoy. Source: `flush_timeout`, `idle_timeout`; zero: no limit.
    pub fn flush_timeout(&self, general: Option<Duration>, follows_idle: bool) -> Option<Duration> {
        let Details { flush_timeout, idle_timeout, .. } = self.details();
        match flush_timeout.or(idle_timeout.filter(|_| follows_idle)) {
            Some(limit) => (!limit.is_zero()).then_some(limit),
            None => general,
        }
    }

    /// Chooses the cluster. `random` is the one given to `find_route`.
    pub fn choose_cluster(&self, head: &Head, random: u64) -> ClusterChoice<'_> {
        match &self.specifier {
            Specifier::One(target) => ClusterChoice { target, weighted: None },
            Specifier::Weighted(weighted) => {
                let Weighted { targets, total, header, runtime_key } = &**weighted;
                let drawn = header.as_ref().and_then(|name| number(head, name)).unwrap_or(random);
                let chosen = match runtime_key {
                    None => chosen(targets, drawn, *total, |target| target.weight),
                    Some(key) => key.together(|value| {
                        let weight = |target: &WeightedTarget| {
                            target.runtime_key.as_ref().and_then(value).unwrap_or(target.weight)
                        };
                        let total = targets.iter().map(weight).try_fold(0, u64::checked_add)?;
                        // As in Envoy none is chosen of weights beyond what configuration may have.
                        chosen(targets, drawn, if total <= u32::MAX.into() { total } else { 0 }, weight)
                    }),
                };
                match chosen {
                    Some(chosen) => ClusterChoice { target: &chosen.target, weighted: Some(chosen) },
                    None => ClusterChoice { target: &NOWHERE, weighted: None },
                }
            }
        }
    }

    /// What the route says about an upgrade to `upgrade_type` (any case; CONNECT for that method).
    pub fn upgrade(&self, upgrade_type: &[u8]) -> Option<&UpgradeRule> {
        let mut rules = self.details().upgrades.iter();
        rules.find(|rule| upgrade_type.eq_ignore_ascii_case(rule.upgrade_type.as_bytes()))
    }

    /// Whether the host becomes that of the endpoint chosen; the caller knows it only then. Source:
    /// `auto_host_rewrite`.
    pub fn takes_host_of_endpoint(&self) -> bool {
        matches!(self.details().host_rewrite, HostRewrite::Auto)
    }
}

/// The one that `drawn` falls to; `None`: all weights are 0.
fn chosen(
    targets: &[WeightedTarget],
    drawn: u64,
    total: u64,
    weight: impl Fn(&WeightedTarget) -> u64,
) -> Option<&WeightedTarget> {
    let mut left = drawn.checked_rem(total)?;
    targets.iter().find(|target| {
        let weight = weight(target);
        let found = left < weight;
        left = left.saturating_sub(weight);
        found
    })
}

/// A target that never exists.
static NOWHERE: Target = Target::Slot(NOWHERE_SLOT);
const NOWHERE_SLOT: ClusterSlot = ClusterSlot(u32::MAX);

impl ClusterChoice<'_> {
    /// Whether there was none to choose: by runtime no cluster has a weight since the route was found. Then there is none.
    pub fn is_none(&self) -> bool {
        matches!(self.target, Target::Slot(slot) if *slot == NOWHERE_SLOT)
    }

    /// The cluster's name. Asked before the request's headers are changed.
    pub fn name<'a>(&self, head: &'a Head) -> ClusterName<'a> {
        match self.target {
            Target::Slot(slot) => ClusterName::Slot(*slot),
            Target::Header(name) => ClusterName::Text(head.get(name).unwrap_or_default()),
        }
    }
}

/// The decimal number that is the only value of `name`.
fn number(head: &Head, name: &HeaderName) -> Option<u64> {
    let mut values = head.get_all(name);
    let value = values.next().filter(|_| values.next().is_none())?;
    std::str::from_utf8(value.trim_ascii()).ok()?.parse().ok()
}
