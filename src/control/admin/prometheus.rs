//! `/stats/prometheus`: the text exposition format under Envoy's names.
//!
//! Written here and not by a library: those that keep metrics themselves cannot take over numbers that live in
//! per-worker cells, and the format is a page. A family's samples must be together, so it is the outer loop;
//! numbers are merged as they are written and nothing is gathered first.
use super::Admin;
use super::body::{ReplyBody, Steps};
use super::request::{Reply, Request, TEXT};
use super::stats::{HistogramMode, Selection};
use super::stats_policy::Identity;
use crate::telemetry::family::{Family, FamilyKind, ViewKind};
use crate::telemetry::histogram::QUANTILES;
use crate::telemetry::view::View;
use hyper::StatusCode;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// `/stats/prometheus`, and `/stats?format=prometheus`.
pub(super) fn prometheus(admin: &Admin, request: &Request) -> Reply {
    let mut selection = match Selection::parse(admin, request) {
        Ok(selection) => selection,
        Err(reason) => return Reply::bad_request(reason),
    };
    selection.mode = match (request.has("histogram_buckets"), selection.mode) {
        (false, _) => HistogramMode::Cumulative,
        (true, HistogramMode::Disjoint) => {
            return Reply::bad_request("unsupported prometheus histogram bucket mode");
        }
        (true, mode) => mode,
    };
    admin.refresh_server_metrics();
    let mut views: [Vec<View>; ViewKind::ALL.len()] = Default::default();
    for view in admin.registry.views() {
        views[view.kind.place()].push(view);
    }
    let families = |kind: ViewKind| {
        kind.families(admin.registry.workers()).into_iter().map(move |family| (kind, family))
    };
    let families = ViewKind::ALL.into_iter().flat_map(families);
    Reply {
        status: StatusCode::OK,
        content_type: TEXT,
        body: ReplyBody::stepped(Render {
            families: families.filter(|(_, family)| selection.wants(family)).collect(),
            gathered: (!admin.stats_policy.keeps_families()).then(BTreeMap::new),
            selection,
            views,
            next_family: 0,
            next_view: 0,
            typed: String::new(),
        }),
    }
}

/// One family of some views is one step. Where tags of the configuration may give samples of a family other names, all are
/// gathered by name first, and then each name is a step.
struct Render {
    selection: Selection,
    /// By kind.
    views: [Vec<View>; ViewKind::ALL.len()],
    families: Vec<(ViewKind, Family)>,
    next_family: usize,
    next_view: usize,
    /// The name whose type has been written.
    typed: String,
    /// Samples by name and type.
    gathered: Option<BTreeMap<(String, &'static str), String>>,
}

impl Steps for Render {
    fn step(&mut self, out: &mut String) -> bool {
        let Some((kind, family)) = self.families.get(self.next_family) else {
            let Some((_, text)) = self.gathered.as_mut().and_then(BTreeMap::pop_first) else { return false };
            out.push_str(&text);
            return true;
        };
        let views = &self.views[kind.place()];
        let end = views.len().min(self.next_view + VIEWS_PER_STEP);
        let by_own_tags = format!("envoy_{}{}", kind.prometheus_prefix(), family.prometheus);
        for view in &views[self.next_view..end] {
            let sample = Sample {
                selection: &mut self.selection,
                by_own_tags: &by_own_tags,
                view,
                family,
                sink: match &mut self.gathered {
                    Some(gathered) => Sink::ByName(gathered),
                    None => Sink::InOrder(&mut self.typed, out),
                },
            };
            match family.kind {
                FamilyKind::Histogram => sample.histogram(),
                FamilyKind::Counter | FamilyKind::Gauge => sample.points(),
            }
        }
        self.next_view = end;
        if end == views.len() {
            self.next_view = 0;
            self.next_family += 1;
        }
        self.next_family < self.families.len() || self.gathered.as_ref().is_some_and(|all| !all.is_empty())
    }
}

/// Where samples are written to.
enum Sink<'a> {
    /// One family after the other; the name whose type was written last, and the page.
    InOrder(&'a mut String, &'a mut String),
    ByName(&'a mut BTreeMap<(String, &'static str), String>),
}

impl Sink<'_> {
    /// Where a sample of this name goes, behind the line that names its type.
    fn open(&mut self, name: &str, kind: &'static str) -> &mut String {
        match self {
            Self::InOrder(typed, out) => {
                if **typed != *name {
                    name.clone_into(typed);
                    // Writing to a String cannot fail; so below.
                    let _ = writeln!(out, "# TYPE {name} {kind}");
                }
                out
            }
            Self::ByName(all) => {
                all.entry((name.to_owned(), kind)).or_insert_with(|| format!("# TYPE {name} {kind}\n"))
            }
        }
    }
}

/// Writes the samples of one family and one view.
struct Sample<'a> {
    selection: &'a mut Selection,
    /// The family's name by Envoy's own tags.
    by_own_tags: &'a str,
    view: &'a View,
    family: &'a Family,
    sink: Sink<'a>,
}

impl Sample<'_> {
    fn points(mut self) {
        let policy = Arc::clone(&self.selection.policy);
        self.view.points(self.family, |point| {
            let wanted = (point.used || !self.selection.used_only)
                && self.selection.matches(&self.view.name(self.family, point.code));
            if wanted {
                let Identity { name, labels } =
                    policy.identity(self.view, self.family, point.code, self.by_own_tags);
                let kind = if self.family.kind == FamilyKind::Counter { "counter" } else { "gauge" };
                line(self.sink.open(&name, kind), &name, "", &labels, None, point.value);
            }
        });
    }

    fn histogram(mut self) {
        let full = self.view.name(self.family, None);
        if !self.selection.matches(&full) {
            return;
        }
        let values = self.view.histograms(self.family).cumulative;
        if values.is_empty() && self.selection.used_only {
            return;
        }
        let policy = Arc::clone(&self.selection.policy);
        let Identity { name, labels } = policy.identity(self.view, self.family, None, self.by_own_tags);
        let out;
        if self.selection.mode == HistogramMode::Summary {
            out = self.sink.open(&name, "summary");
            let quantiles = values.quantiles();
            for (at, (_, quantile)) in QUANTILES.iter().enumerate() {
                let value = quantiles.map_or(f64::NAN, |quantiles| quantiles[at]);
                line(out, &name, "", &labels, Some(("quantile", &quantile.to_string())), value);
            }
        } else {
            out = self.sink.open(&name, "histogram");
            for bound in self.selection.bounds(&full) {
                let le = Some(("le", &*bound.to_string()));
                line(out, &name, "_bucket", &labels, le, values.count_to(*bound));
            }
            line(out, &name, "_bucket", &labels, Some(("le", "+Inf")), values.count());
        }
        line(out, &name, "_sum", &labels, None, values.sum());
        line(out, &name, "_count", &labels, None, values.count());
    }
}

fn line(
    out: &mut String,
    name: &str,
    suffix: &str,
    labels: &str,
    last: Option<(&str, &str)>,
    value: impl std::fmt::Display,
) {
    let _ = match last {
        None => writeln!(out, "{name}{suffix}{{{labels}}} {value}"),
        Some((label, of)) => {
            let comma = if labels.is_empty() { "" } else { "," };
            writeln!(out, "{name}{suffix}{{{labels}{comma}{label}=\"{of}\"}} {value}")
        }
    };
}

/// Views of one family rendered in one step: 64 lines, 1,400 for histograms.
const VIEWS_PER_STEP: usize = 64;
