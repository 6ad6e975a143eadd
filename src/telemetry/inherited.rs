//! Numbers of the process before this one, after a hot restart: counters go on, and gauges of what it still serves are
//! added while it lives.
//!
//! They lie beside this process's own cells and are added when somebody looks, so that no writer knows of them. Scopes and
//! rows are told by name: the other process may be of another version. What has no place here is forgotten.
use super::codes::Origin;
use super::family::ViewKind;
use super::names::{Kind, Row};
use super::registry::Registry;
use super::view::{Totals, View};
use std::sync::Arc;

/// What one scope leaves to the next process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bequest {
    pub kind: ViewKind,
    /// Envoy's prefix of the names, with its final dot.
    pub prefix: Box<str>,
    /// Counters and gauges that are not zero, by the name of their row.
    pub values: Vec<(Box<str>, u64)>,
    /// Responses by code.
    pub codes: Vec<(Origin, u16, u64)>,
}

impl Registry {
    /// Everything that has been counted and not reset, what was inherited included; scopes without any are left out.
    pub fn bequests(&self) -> Vec<Bequest> {
        self.views().iter().map(View::bequest).filter(|bequest| !bequest.is_empty()).collect()
    }

    /// Takes the numbers of the process before this one, in place of those it gave before.
    pub fn inherit(&self, bequests: &[Bequest]) {
        self.put_inherited(
            bequests
                .iter()
                .map(|bequest| ((bequest.kind, bequest.prefix.clone().into()), Arc::new(bequest.totals()))),
        );
    }

    /// The process before this one is gone: its counters stay, what it served does not.
    pub fn parent_is_gone(&self) {
        self.map_inherited(|kind, totals| {
            for (value, row) in totals.values.iter_mut().zip(kind.rows()) {
                if row.kind == Kind::Gauge {
                    *value = 0;
                }
            }
        });
    }
}

impl Bequest {
    fn is_empty(&self) -> bool {
        self.values.is_empty() && self.codes.is_empty()
    }

    fn totals(&self) -> Totals {
        let rows = self.kind.rows();
        let mut totals = Totals { values: vec![0; rows.len()], ..Totals::default() };
        for (name, value) in &self.values {
            // Rows are sorted by name.
            if let Ok(row) = rows.binary_search_by(|row| row.name.cmp(name))
                && is_left(self.kind, &rows[row])
            {
                totals.values[row] = *value;
            }
        }
        for (origin, code, count) in &self.codes {
            if (100..600).contains(code) {
                totals.codes[*origin as usize].add(*code, *count);
            }
        }
        totals
    }
}

impl View {
    fn bequest(&self) -> Bequest {
        let rows = self.kind.rows().iter().enumerate().filter(|(_, row)| is_left(self.kind, row));
        let values = rows.map(|(index, row)| (row.name.into(), self.shown(index, row.kind)));
        let mut codes = Vec::new();
        for origin in [Origin::Internal, Origin::External] {
            let counts = self.codes(Some(origin));
            codes.extend(
                counts.iter().filter(|(_, count)| *count != 0).map(|(code, count)| (origin, code, count)),
            );
        }
        Bequest {
            kind: self.kind,
            prefix: self.prefix.as_str().into(),
            values: values.filter(|(_, value)| *value != 0).collect(),
            codes,
        }
    }
}

/// Whether the next process goes on with it: counters, and gauges of connections and requests that last. Others say how
/// a process is, and each has its own.
fn is_left(kind: ViewKind, row: &Row) -> bool {
    row.kind == Kind::Counter || (kind != ViewKind::Server && row.name.ends_with("_active"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Slot;
    use crate::telemetry::names::{ClusterStat, HttpStat, ServerStat};

    fn value(registry: &Registry, name: &str) -> Option<u64> {
        let mut found = None;
        for view in registry.views() {
            for family in view.kind.families(registry.workers()) {
                view.points(&family, |point| {
                    if view.name(&family, point.code) == name {
                        found = Some(point.value);
                    }
                });
            }
        }
        found
    }

    #[test]
    fn counters_go_on_over_three_processes_and_gauges_while_the_parent_lives() {
        let mut bequests = Vec::new();
        for epoch in 1..=3 {
            let registry = Registry::new(1);
            let (cluster, http) = (registry.cluster("c"), registry.http("p", "l"));
            registry.inherit(&bequests);
            let cells = cluster.cells(Slot::Worker(0));
            cells.add(ClusterStat::UpstreamCxTotal, 10);
            cells.gauge_inc(ClusterStat::UpstreamCxActive);
            cells.gauge_set(ClusterStat::MembershipTotal, 7);
            cells.upstream_response(Origin::External, 200);
            http.cells(Slot::Worker(0)).downstream_response(404);
            registry.server(Slot::Control).gauge_set(ServerStat::Workers, 1);
            for (name, expected) in [
                ("cluster.c.upstream_cx_total", 10 * epoch),
                ("cluster.c.upstream_cx_active", 1 + u64::from(epoch > 1)),
                ("cluster.c.membership_total", 7),
                ("cluster.c.upstream_rq_200", epoch),
                ("cluster.c.external.upstream_rq_2xx", epoch),
                ("http.p.downstream_rq_4xx", epoch),
                ("listener.l.http.p.downstream_rq_4xx", epoch),
                ("ringway.workers", 1),
            ] {
                assert_eq!(value(&registry, name), Some(expected), "{name} in process {epoch}");
            }
            registry.parent_is_gone();
            assert_eq!(value(&registry, "cluster.c.upstream_cx_active"), Some(1));
            assert_eq!(value(&registry, "cluster.c.upstream_cx_total"), Some(10 * epoch));
            bequests = registry.bequests();
        }
    }

    #[test]
    fn parent_that_counts_on_replaces_what_it_gave_before() {
        let (parent, child) = (Registry::new(1), Registry::new(2));
        let scopes = [&parent, &child].map(|registry| registry.http("p", "l"));
        let cells = scopes[0].cells(Slot::Worker(0));
        for total in 1..=3 {
            cells.inc(HttpStat::DownstreamCxTotal);
            child.inherit(&parent.bequests());
            assert_eq!(value(&child, "http.p.downstream_cx_total"), Some(total));
        }
        child.reset_counters();
        assert_eq!(value(&child, "http.p.downstream_cx_total"), Some(0));
        cells.inc(HttpStat::DownstreamCxTotal);
        child.inherit(&parent.bequests());
        assert_eq!(value(&child, "http.p.downstream_cx_total"), Some(1));
        parent.reset_counters();
        assert!(
            parent.bequests().iter().all(|bequest| bequest.prefix.is_empty()),
            "nothing but the process's"
        );
    }

    #[test]
    fn scopes_and_rows_that_are_not_there_are_forgotten() {
        let registry = Registry::new(1);
        let _cluster = registry.cluster("c");
        let bequest = |prefix: &str, row: &str| Bequest {
            kind: ViewKind::Cluster,
            prefix: prefix.into(),
            values: vec![(row.into(), 5)],
            codes: vec![(Origin::Internal, 65535, 1)],
        };
        registry.inherit(&[
            bequest("cluster.gone.", "upstream_cx_total"),
            bequest("cluster.c.", "of_another_version"),
        ]);
        registry.inherit(&[bequest("cluster.c.", "membership_total")]);
        assert_eq!(value(&registry, "cluster.c.membership_total"), Some(0));
        assert_eq!(value(&registry, "cluster.gone.upstream_cx_total"), None);
    }
}
