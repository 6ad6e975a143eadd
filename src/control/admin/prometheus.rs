//! `/stats/prometheus`: the text exposition format under Envoy's names.
//!
//! Written here and not by a library: those that keep metrics themselves cannot take over numbers that live in
//! per-worker cells, and the format is a page. A family's samples must be together, so it is the outer loop;
//! numbers are merged as they are written and nothing is gathered first.
use super::Admin;
use super::body::{ReplyBody, Steps};
use super::request::{Reply, Request, TEXT};
use super::stats::{HistogramMode, Selection};
use crate::telemetry::family::{Family, FamilyKind, ViewKind};
use crate::telemetry::histogram::{BOUNDS, QUANTILES};
use crate::telemetry::view::View;
use hyper::StatusCode;
use std::fmt::Write;

/// `/stats/prometheus`, and `/stats?format=prometheus`.
pub(super) fn prometheus(admin: &Admin, request: &Request) -> Reply {
    let mut selection = match Selection::parse(request) {
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
        views[view.kind as usize].push(view);
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
            selection,
            views,
            tags: admin.stats_tags.clone(),
            next_family: 0,
            next_view: 0,
            typed: String::new(),
        }),
    }
}

/// One family of some views is one step.
struct Render {
    selection: Selection,
    /// By kind.
    views: [Vec<View>; ViewKind::ALL.len()],
    families: Vec<(ViewKind, Family)>,
    /// Labels of every sample.
    tags: Vec<(String, String)>,
    next_family: usize,
    next_view: usize,
    /// The name whose type has been written.
    typed: String,
}

impl Steps for Render {
    fn step(&mut self, out: &mut String) -> bool {
        let Some((kind, family)) = self.families.get(self.next_family) else {
            return false;
        };
        let views = &self.views[*kind as usize];
        let end = views.len().min(self.next_view + VIEWS_PER_STEP);
        let mut sample = Sample {
            selection: &self.selection,
            name: format!("envoy_{}{}", kind.prometheus_prefix(), family.prometheus),
            family,
            tags: &self.tags,
            typed: &mut self.typed,
            out,
        };
        for view in &views[self.next_view..end] {
            match family.kind {
                FamilyKind::Histogram => sample.histogram(view),
                FamilyKind::Counter | FamilyKind::Gauge => sample.points(view),
            }
        }
        self.next_view = end;
        if end == views.len() {
            self.next_view = 0;
            self.next_family += 1;
        }
        self.next_family < self.families.len()
    }
}

/// Writes the samples of one family.
struct Sample<'a> {
    selection: &'a Selection,
    name: String,
    family: &'a Family,
    tags: &'a [(String, String)],
    typed: &'a mut String,
    out: &'a mut String,
}

impl Sample<'_> {
    fn points(&mut self, view: &View) {
        view.points(self.family, |point| {
            let wanted = self.selection.matches(&view.name(self.family, point.code));
            if wanted && (point.used || !self.selection.used_only) {
                self.type_line(if self.family.kind == FamilyKind::Counter { "counter" } else { "gauge" });
                self.line(view, "", point.code, None, point.value);
            }
        });
    }

    fn histogram(&mut self, view: &View) {
        if !self.selection.matches(&view.name(self.family, None)) {
            return;
        }
        let values = view.histograms(self.family).cumulative;
        if values.is_empty() && self.selection.used_only {
            return;
        }
        if self.selection.mode == HistogramMode::Summary {
            self.type_line("summary");
            let quantiles = values.quantiles();
            for (at, (_, quantile)) in QUANTILES.iter().enumerate() {
                let value = quantiles.map_or(f64::NAN, |quantiles| quantiles[at]);
                let quantile = quantile.to_string();
                self.line(view, "", None, Some(("quantile", &quantile)), value);
            }
        } else {
            self.type_line("histogram");
            for (bound, count) in BOUNDS.iter().zip(values.cumulative()) {
                let bound = bound.to_string();
                self.line(view, "_bucket", None, Some(("le", &bound)), count);
            }
            self.line(view, "_bucket", None, Some(("le", "+Inf")), values.count());
        }
        self.line(view, "_sum", None, None, values.sum());
        self.line(view, "_count", None, None, values.count());
    }

    fn type_line(&mut self, kind: &str) {
        if *self.typed != self.name {
            self.typed.clone_from(&self.name);
            // Writing to a String cannot fail; so below.
            let _ = writeln!(self.out, "# TYPE {} {kind}", self.name);
        }
    }

    fn line(
        &mut self,
        view: &View,
        suffix: &str,
        code: Option<u16>,
        last: Option<(&str, &str)>,
        value: impl ToString,
    ) {
        let Self { name, out, .. } = self;
        out.push_str(name);
        out.push_str(suffix);
        out.push('{');
        let mut label = |name: &str, value: &str| {
            if !out.ends_with('{') {
                out.push(',');
            }
            out.push_str(name);
            out.push_str("=\"");
            escape(value, out);
            out.push('"');
        };
        view.labels(self.family, code, &mut label);
        self.tags.iter().for_each(|(name, value)| label(name, value));
        if let Some((name, value)) = last {
            label(name, value);
        }
        let _ = writeln!(out, "}} {}", value.to_string());
    }
}

/// Escapes a label's value as the exposition format wants it.
fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

/// Views of one family rendered in one step: 64 lines, 1,400 for histograms.
const VIEWS_PER_STEP: usize = 64;
