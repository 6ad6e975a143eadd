//! `/stats`: every metric as text or JSON.
use super::body::{ReplyBody, Steps};
use super::request::{JSON, Reply, Request, TEXT, regex};
use super::stats_policy::StatsPolicy;
use super::{Admin, prometheus};
use crate::base::regex::RegexCaches;
use crate::telemetry::family::{Family, FamilyKind, ViewKind};
use crate::telemetry::histogram::{Distribution, QUANTILES};
use crate::telemetry::view::{Histograms, View};
use hyper::StatusCode;
use regex_automata::meta::Regex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// `/stats`.
pub(super) fn stats(admin: &Admin, request: &Request) -> Reply {
    match request.parameter("format") {
        Some("prometheus") => return prometheus::prometheus(admin, request),
        None | Some("" | "text" | "json") => {}
        Some(_) => return Reply::bad_request("usage: /stats?format=(json|prometheus|text)\n\n"),
    }
    let json = request.parameter("format") == Some("json");
    let selection = match Selection::parse(admin, request) {
        Ok(selection) => selection,
        Err(reason) => return Reply::bad_request(reason),
    };
    let render = Render::new(admin, selection, json);
    Reply {
        status: StatusCode::OK,
        content_type: if json { JSON } else { TEXT },
        body: ReplyBody::stepped(render),
    }
}

/// Which metrics a request wants.
pub(super) struct Selection {
    pub(super) policy: Arc<StatsPolicy>,
    pub(super) caches: RegexCaches,
    pub(super) used_only: bool,
    filter: Option<Regex>,
    invert: bool,
    /// `None`: all kinds.
    kind: Option<FamilyKind>,
    pub(super) mode: HistogramMode,
}

/// How histograms are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HistogramMode {
    Summary,
    Cumulative,
    Disjoint,
}

impl Selection {
    pub(super) fn parse(admin: &Admin, request: &Request) -> Result<Self, String> {
        let filter = request.parameter("filter").filter(|pattern| !pattern.is_empty());
        Ok(Self {
            policy: Arc::clone(&admin.stats_policy),
            caches: RegexCaches::new(),
            used_only: request.has("usedonly"),
            filter: filter
                .map(regex)
                .transpose()
                .map_err(|reason| format!("Invalid re2 regex: {reason}\n"))?,
            invert: request.has("invert_filter"),
            kind: match request.parameter("type") {
                None | Some("" | "All") => None,
                Some("Counters") => Some(FamilyKind::Counter),
                Some("Gauges") => Some(FamilyKind::Gauge),
                Some("Histograms") => Some(FamilyKind::Histogram),
                Some(_) => return Err("invalid &type= param".into()),
            },
            mode: match request.parameter("histogram_buckets") {
                None | Some("" | "summary" | "none") => HistogramMode::Summary,
                Some("cumulative") => HistogramMode::Cumulative,
                Some("disjoint") => HistogramMode::Disjoint,
                Some(_) => {
                    return Err("usage: /stats?histogram_buckets=(cumulative|disjoint|summary)\n".into());
                }
            },
        })
    }

    pub(super) fn wants(&self, family: &Family) -> bool {
        self.kind.is_none_or(|kind| kind == family.kind)
    }

    /// Whether a metric of this full name is there, and the filter lets it through.
    pub(super) fn matches(&mut self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.is_match(name) != self.invert)
            && self.policy.keeps(name, &mut self.caches)
    }

    /// Bounds of a histogram's buckets.
    pub(super) fn bounds(&mut self, name: &str) -> &[f64] {
        self.policy.bounds(name, &mut self.caches)
    }
}

/// All metrics in two passes, as in Envoy: counters and gauges, then histograms. One view is one step.
struct Render {
    selection: Selection,
    views: Vec<View>,
    families: BTreeMap<ViewKind, Vec<Family>>,
    json: bool,
    histograms: bool,
    next_view: usize,
    /// Whether an element has been written to the list that is open.
    listed: bool,
    /// Whether the list of histograms is open, which is an element of the list of metrics.
    nested: bool,
}

impl Render {
    fn new(admin: &Admin, selection: Selection, json: bool) -> Self {
        admin.refresh_server_metrics();
        Self {
            selection,
            views: admin.registry.views(),
            families: ViewKind::ALL
                .into_iter()
                .map(|kind| (kind, kind.families(admin.registry.workers())))
                .collect(),
            json,
            histograms: false,
            next_view: 0,
            listed: false,
            nested: false,
        }
    }

    fn view(&mut self, at: usize, out: &mut String) {
        let Some((view, families)) =
            self.views.get(at).and_then(|view| Some((view, self.families.get(&view.kind)?)))
        else {
            return;
        };
        let selection = &mut self.selection;
        for family in families {
            if !selection.wants(family) || (family.kind == FamilyKind::Histogram) != self.histograms {
                continue;
            }
            if self.histograms {
                let name = view.name(family, None);
                if !selection.matches(&name) {
                    continue;
                }
                let values = view.histograms(family);
                if !(selection.used_only && values.cumulative.is_empty()) {
                    let before = Separator { listed: &mut self.listed, nested: &mut self.nested };
                    let (mode, json) = (selection.mode, self.json.then_some(before));
                    histogram(&name, &values, mode, selection.bounds(&name), json, out);
                }
                continue;
            }
            view.points(family, |point| {
                let name = view.name(family, point.code);
                if (selection.used_only && !point.used) || !selection.matches(&name) {
                    return;
                }
                // Writing to a String cannot fail.
                let _ = if self.json {
                    let comma = if std::mem::replace(&mut self.listed, true) { "," } else { "" };
                    write!(out, "{comma}{{\"name\":{},\"value\":{}}}", quoted(&name), point.value)
                } else {
                    writeln!(out, "{name}: {}", point.value)
                };
            });
        }
    }
}

impl Steps for Render {
    fn step(&mut self, out: &mut String) -> bool {
        if self.json && !self.histograms && self.next_view == 0 {
            out.push_str("{\"stats\":[");
        }
        self.view(self.next_view, out);
        self.next_view += 1;
        if self.next_view < self.views.len() {
            return true;
        }
        if !std::mem::replace(&mut self.histograms, true) {
            self.next_view = 0;
            return true;
        }
        if self.json {
            let end = match (self.nested, self.selection.mode) {
                (false, _) => "]}",
                (true, HistogramMode::Summary) => "]}}]}",
                (true, _) => "]}]}",
            };
            out.push_str(end);
        }
        false
    }
}

/// What a histogram has to know of the JSON around it.
struct Separator<'a> {
    listed: &'a mut bool,
    nested: &'a mut bool,
}

/// One histogram; as JSON when there is something to separate it from.
fn histogram(
    name: &str,
    values: &Histograms,
    mode: HistogramMode,
    bounds: &[f64],
    json: Option<Separator<'_>>,
    out: &mut String,
) {
    let Some(separator) = json else {
        out.push_str(name);
        out.push_str(if values.cumulative.is_empty() { ": No recorded values" } else { ":" });
        if !values.cumulative.is_empty() {
            each(values, mode, bounds, |at, interval, cumulative| {
                let (interval, cumulative) = (number(interval, "nan"), number(cumulative, "nan"));
                match mode {
                    HistogramMode::Summary => {
                        let _ = write!(out, " {}({interval},{cumulative})", QUANTILES[at].0);
                    }
                    _ => {
                        let _ = write!(out, " B{}({interval},{cumulative})", bounds[at]);
                    }
                }
            });
        }
        return out.push('\n');
    };
    if std::mem::replace(separator.nested, true) {
        out.push(',');
    } else {
        out.push_str(if std::mem::replace(separator.listed, true) {
            ",{\"histograms\":"
        } else {
            "{\"histograms\":"
        });
        if mode == HistogramMode::Summary {
            let quantiles = QUANTILES.map(|(name, _)| &name[1..]).join(",");
            let _ = write!(out, "{{\"supported_quantiles\":[{quantiles}],\"computed_quantiles\":");
        }
        out.push('[');
    }
    let list = if mode == HistogramMode::Summary { "values" } else { "buckets" };
    let _ = write!(out, "{{\"name\":{},\"{list}\":[", quoted(name));
    each(values, mode, bounds, |at, interval, cumulative| {
        let comma = if at > 0 { "," } else { "" };
        let (interval, cumulative) = (number(interval, "null"), number(cumulative, "null"));
        let _ = match mode {
            HistogramMode::Summary => {
                write!(out, "{comma}{{\"cumulative\":{cumulative},\"interval\":{interval}}}")
            }
            _ => write!(
                out,
                "{comma}{{\"upper_bound\":{},\"interval\":{interval},\"cumulative\":{cumulative}}}",
                bounds[at]
            ),
        };
    });
    out.push_str("]}");
}

/// Calls `f` with the interval's and the cumulative value of each quantile or bucket.
fn each(
    values: &Histograms,
    mode: HistogramMode,
    bounds: &[f64],
    mut f: impl FnMut(usize, Option<f64>, Option<f64>),
) {
    if mode == HistogramMode::Summary {
        let (interval, cumulative) = (values.interval.quantiles(), values.cumulative.quantiles());
        for at in 0..QUANTILES.len() {
            f(at, interval.map(|quantiles| quantiles[at]), cumulative.map(|quantiles| quantiles[at]));
        }
        return;
    }
    let buckets = |distribution: &Distribution| {
        let mut counts: Vec<_> = bounds.iter().map(|bound| distribution.count_to(*bound)).collect();
        if mode == HistogramMode::Disjoint {
            for at in (1..counts.len()).rev() {
                counts[at] -= counts[at - 1];
            }
        }
        counts
    };
    let (interval, cumulative) = (buckets(&values.interval), buckets(&values.cumulative));
    for at in 0..bounds.len() {
        f(at, Some(interval[at] as f64), Some(cumulative[at] as f64));
    }
}

fn number(value: Option<f64>, none: &str) -> String {
    value.map_or_else(|| none.to_string(), |value| value.to_string())
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
