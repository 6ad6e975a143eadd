//! What `stats_config` and `--stats-tag` say, compiled: which metrics are shown, under which Prometheus name and labels,
//! and in which buckets histograms are counted.
//!
//! Envoy takes tags out of the dotted name with expressions. Its own tags are known here without one (`telemetry::family`);
//! those of the configuration are searched for when somebody scrapes, and both kinds say which part of the name they cut.
use std::borrow::Cow;
use std::fmt::Write;
use std::ops::Range;

use crate::base::regex::{RegexCaches, RegexSlots, TagRegex};
use crate::config::bootstrap::{StatsConfig, StatsMatcher, TagSpecifier, TagValue};
use crate::config::matcher as config;
use crate::protocol::http::matcher::StringMatcher;
use crate::telemetry::family::Family;
use crate::telemetry::histogram::BOUNDS;
use crate::telemetry::view::View;

/// The policy of the process.
#[derive(Debug)]
pub struct StatsPolicy {
    kept: Kept,
    /// Labels of every sample: `--stats-tag`, then `fixed_value`.
    fixed: Vec<(String, String)>,
    /// Envoy's own tags that are taken out; `None`: all.
    own: Option<Vec<String>>,
    /// Own tags that one of the configuration replaces.
    replaced: Vec<String>,
    searched: Vec<Searched>,
    buckets: Vec<(StringMatcher, Box<[f64]>)>,
}

/// Which metrics are shown, by name.
#[derive(Debug)]
enum Kept {
    All,
    None,
    Matching(Vec<StringMatcher>),
    NotMatching(Vec<StringMatcher>),
}

/// A tag of the configuration that is searched for.
#[derive(Debug)]
struct Searched {
    label: String,
    regex: TagRegex,
    /// Whether its name begins with a fixed token. Envoy tries those after its own tags, others before them, and the first
    /// of two tags of one name wins.
    is_late: bool,
}

/// How a metric is shown to Prometheus.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity<'a> {
    pub(super) name: Cow<'a, str>,
    /// Rendered, without braces.
    pub(super) labels: String,
}

impl StatsPolicy {
    /// Compiles the configuration; `command_line` are the tags of `--stats-tag`.
    ///
    /// # Errors
    /// An expression that does not compile, which conversion has refused before.
    pub fn compile(config: &StatsConfig, command_line: &[(String, String)]) -> Result<Self, String> {
        let slots = &mut RegexSlots::default();
        let mut matchers = |list: &[config::StringMatcher]| {
            let compiled = list.iter().map(|matcher| StringMatcher::compile(matcher, "stats_matcher", slots));
            compiled.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())
        };
        let kept = match &config.matcher {
            StatsMatcher::All => Kept::All,
            StatsMatcher::RejectAll => Kept::None,
            StatsMatcher::Include(list) => Kept::Matching(matchers(list)?),
            StatsMatcher::Exclude(list) => Kept::NotMatching(matchers(list)?),
        };
        let buckets = config.histogram_buckets.iter().filter(|entry| !entry.bounds.is_empty());
        let buckets = buckets.map(|entry| {
            let matcher = StringMatcher::compile(&entry.matcher, "histogram_bucket_settings.match", slots);
            Ok((matcher.map_err(|error| error.to_string())?, entry.bounds.clone().into()))
        });
        let buckets = buckets.collect::<Result<_, String>>()?;
        let mut policy = Self {
            kept,
            fixed: command_line.iter().map(|(name, value)| (sanitized(name), value.clone())).collect(),
            own: (!config.use_all_default_tags).then(Vec::new),
            replaced: Vec::new(),
            searched: Vec::new(),
            buckets,
        };
        for tag in &config.tags {
            policy.add(tag, config.tags_replace_default)?;
        }
        Ok(policy)
    }

    fn add(&mut self, tag: &TagSpecifier, replaces: bool) -> Result<(), String> {
        let label = sanitized(&tag.name);
        match &tag.value {
            TagValue::Default => {
                self.own.iter_mut().for_each(|own| own.push(label.clone()));
                return Ok(());
            }
            TagValue::Fixed(value) => self.fixed.push((label.clone(), value.to_string())),
            TagValue::Regex(pattern) => {
                let regex = TagRegex::compile(pattern).map_err(|error| error.to_string())?;
                let is_late = begins_with_token(pattern);
                self.searched.push(Searched { label: label.clone(), regex, is_late });
            }
        }
        if replaces {
            self.replaced.push(label);
        }
        Ok(())
    }

    /// Whether a metric is shown at all.
    pub(super) fn keeps(&self, name: &str, caches: &mut RegexCaches) -> bool {
        let mut any =
            |list: &[StringMatcher]| list.iter().any(|matcher| matcher.matches(name.as_bytes(), caches));
        match &self.kept {
            Kept::All => true,
            Kept::None => false,
            Kept::Matching(list) => any(list),
            Kept::NotMatching(list) => !any(list),
        }
    }

    /// Upper bounds of a histogram's buckets.
    pub(super) fn bounds(&self, name: &str, caches: &mut RegexCaches) -> &[f64] {
        let found = self.buckets.iter().find(|(matcher, _)| matcher.matches(name.as_bytes(), caches));
        found.map_or(&BOUNDS, |(_, bounds)| bounds)
    }

    /// Whether the names of families are those of Envoy's own tags, so that all samples of a family share one.
    pub(super) fn keeps_families(&self) -> bool {
        self.own.is_none() && self.searched.is_empty() && self.replaced.is_empty()
    }

    /// Name and labels of a metric; `family_name` is the name by Envoy's own tags.
    pub(super) fn identity<'a>(
        &self,
        view: &View,
        family: &Family,
        code: Option<u16>,
        family_name: &'a str,
    ) -> Identity<'a> {
        let mut labels = Labels::default();
        if self.keeps_families() {
            self.fixed.iter().for_each(|(name, value)| labels.add(name, value));
            view.tags(family, code, |name, value, _| labels.add(name, value));
            return Identity { name: Cow::Borrowed(family_name), labels: labels.text };
        }
        let full = view.name(family, code);
        let mut cut: Vec<Range<usize>> = Vec::new();
        let mut seen: Vec<&str> = Vec::new();
        let mut search = |late: bool, labels: &mut Labels, seen: &mut Vec<&'_ str>| {
            let mut found = Vec::new();
            for tag in self.searched.iter().filter(|tag| tag.is_late == late) {
                if seen.contains(&&*tag.label) || found.contains(&&*tag.label) {
                    continue;
                }
                if let Some(groups) = tag.regex.find(&full) {
                    labels.add(&tag.label, &full[groups.second.unwrap_or_else(|| groups.first.clone())]);
                    cut.push(groups.first);
                    found.push(&*tag.label);
                }
            }
            found
        };
        for (name, value) in &self.fixed {
            if !seen.contains(&&**name) {
                labels.add(name, value);
                seen.push(name);
            }
        }
        seen.extend(search(false, &mut labels, &mut seen.clone()));
        let mut own = Vec::new();
        let mut own_cut = Vec::new();
        view.tags(family, code, |name, value, range| {
            let is_wanted = self.own.as_ref().is_none_or(|own| own.iter().any(|wanted| wanted == name));
            let is_taken = seen.contains(&name) || self.replaced.iter().any(|replaced| replaced == name);
            if is_wanted && !is_taken {
                labels.add(name, value);
                own.push(name);
                own_cut.push(range);
            }
        });
        seen.extend(own);
        search(true, &mut labels, &mut seen);
        cut.extend(own_cut);
        Identity {
            name: Cow::Owned(format!("envoy_{}", sanitized(&without(&full, cut)))),
            labels: labels.text,
        }
    }
}

/// Labels being rendered.
#[derive(Default)]
struct Labels {
    text: String,
}

impl Labels {
    fn add(&mut self, name: &str, value: &str) {
        let comma = if self.text.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(self.text, "{comma}{name}=\"");
        escape(value, &mut self.text);
        self.text.push('"');
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

/// A name as Prometheus takes it: what is no letter, digit or underscore becomes an underscore.
fn sanitized(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let mut text: String = name.chars().map(plain).collect();
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        text.insert(0, '_');
    }
    text
}

/// `text` without these parts, which may overlap.
fn without(text: &str, mut cut: Vec<Range<usize>>) -> String {
    cut.sort_by_key(|range| range.start);
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for range in cut {
        out.push_str(text.get(at..range.start).unwrap_or_default());
        at = at.max(range.end);
    }
    out.push_str(text.get(at..).unwrap_or_default());
    out
}

/// Whether an expression begins with the whole first token of a name: `^cluster\.`.
fn begins_with_token(pattern: &str) -> bool {
    let Some(rest) = pattern.strip_prefix('^') else { return false };
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
    end > 0 && [r"\.", "$", r"(?=\.)"].iter().any(|next| rest[end..].starts_with(next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::bootstrap::HistogramBuckets;
    use crate::config::matcher::StringPattern;
    use crate::config::told_filter::FilterKind;
    use crate::telemetry::family::ViewKind;
    use crate::telemetry::{Origin, RbacOwner, RbacPart, RbacStat, Registry, Slot};

    fn tag(name: &str, value: TagValue) -> TagSpecifier {
        TagSpecifier { name: name.into(), value }
    }

    fn policy(tags: Vec<TagSpecifier>, change: impl FnOnce(&mut StatsConfig)) -> StatsPolicy {
        let mut config = StatsConfig { tags, ..StatsConfig::default() };
        change(&mut config);
        StatsPolicy::compile(&config, &[]).unwrap()
    }

    fn regex(pattern: &str) -> TagValue {
        TagValue::Regex(pattern.into())
    }

    fn matcher(pattern: StringPattern) -> config::StringMatcher {
        config::StringMatcher { pattern, ignore_case: false }
    }

    /// `name{labels}` of every metric, by its dotted name.
    fn shown(policy: &StatsPolicy) -> Vec<(String, String)> {
        let registry = Registry::new(1);
        let cluster = registry.cluster("up");
        let _http = registry.http("in", "1.2.3.4:80");
        let _listener = registry.listener("1.2.3.4:80");
        let _tcp = registry.tcp("relay");
        let _limits = (registry.connection_limit("few"), registry.local_rate_limit("slow"));
        let _rbac = registry.rbac(RbacOwner::Http("in"), RbacPart::Enforced, "", None);
        let policy_scope = registry.rbac(RbacOwner::Http("in"), RbacPart::Enforced, "r", Some("q"));
        policy_scope.cells(Slot::Control).inc(RbacStat::Denied);
        let _network = registry.rbac(RbacOwner::Network("net"), RbacPart::Enforced, "", None);
        let _rds = (registry.rds("in", "table"), registry.vhds("in", "table"));
        let _scoped_rds = registry.scoped_rds("in", "scopes");
        let _sds = registry.sds("own");
        let kinds = [FilterKind::Http, FilterKind::Network, FilterKind::Listener];
        let _ecds = kinds.map(|kind| registry.ecds(kind, "access"));
        let _told = registry.rbac(RbacOwner::Told("access"), RbacPart::Enforced, "", None);
        let told_policy = registry.rbac(RbacOwner::Told("access"), RbacPart::Enforced, "r", Some("q"));
        told_policy.cells(Slot::Control).inc(RbacStat::Denied);
        let _proxy_protocol = ["", "edge"].map(|prefix| registry.proxy_protocol(prefix));
        cluster.cells(Slot::Control).upstream_response(Origin::External, 200);
        let mut all = Vec::new();
        for view in registry.views() {
            for family in view.kind.families(1) {
                let by_own = format!("envoy_{}{}", view.kind.prometheus_prefix(), family.prometheus);
                let mut add = |code| {
                    let Identity { name, labels } = policy.identity(&view, &family, code, &by_own);
                    all.push((view.name(&family, code), format!("{name}{{{labels}}}")));
                };
                if family.kind == crate::telemetry::family::FamilyKind::Histogram {
                    add(None);
                } else {
                    view.points(&family, |point| add(point.code));
                }
            }
        }
        assert_eq!(ViewKind::ALL.len(), 21, "all kinds are above");
        all
    }

    fn one(policy: &StatsPolicy, name: &str) -> String {
        let all = shown(policy);
        all.iter()
            .find(|(other, _)| other == name)
            .unwrap_or_else(|| panic!("{name} is not in {all:?}"))
            .1
            .clone()
    }

    #[test]
    fn names_cut_from_dotted_ones_are_those_of_the_families() {
        // A tag that is in no name makes the policy cut; nothing else may change.
        let plain = shown(&policy(Vec::new(), |_| {}));
        let cut = shown(&policy(vec![tag("none", regex("(there is no such)"))], |_| {}));
        assert_eq!(plain, cut);
        let registered = StatsConfig::default();
        assert!(StatsPolicy::compile(&registered, &[]).unwrap().keeps_families());
    }

    #[test]
    fn tags_of_the_configuration_are_those_of_envoy() {
        // Printed by Envoy 1.40 for the same tags; labels in another order.
        let tags = vec![
            tag("fx", TagValue::Fixed("v.1".into())),
            tag("kind", regex(r"^cluster\.up\.((upstream)_)")),
            tag("dotted.name", regex(r"_rq_(\d)xx$")),
        ];
        let policy = policy(tags, |_| {});
        let line = one(&policy, "cluster.up.upstream_rq_total");
        assert_eq!(line, "envoy_cluster_rq_total{fx=\"v.1\",envoy_cluster_name=\"up\",kind=\"upstream\"}");
        assert_eq!(one(&policy, "server.live"), "envoy_server_live{fx=\"v.1\"}");
        let line = one(&policy, "http.in.downstream_rq_2xx");
        let labels = "fx=\"v.1\",dotted_name=\"2\",envoy_response_code_class=\"2\",envoy_http_conn_manager_prefix=\"in\"";
        assert_eq!(line, format!("envoy_http_downstream_rq_xx{{{labels}}}"));
    }

    #[test]
    fn own_tags_only_where_asked_for() {
        let tags = vec![tag("envoy.cluster_name", TagValue::Default), tag("x", regex("_rq(_total)$"))];
        let policy = policy(tags, |config| config.use_all_default_tags = false);
        for (name, expected) in [
            (
                "cluster.up.external.upstream_rq_200",
                "envoy_cluster_external_upstream_rq_200{envoy_cluster_name=\"up\"}",
            ),
            (
                "cluster.up.upstream_rq_total",
                "envoy_cluster_upstream_rq{x=\"_total\",envoy_cluster_name=\"up\"}",
            ),
            ("http.in.downstream_rq_2xx", "envoy_http_in_downstream_rq_2xx{}"),
            (
                "listener.1.2.3.4_80.worker_0.downstream_cx_total",
                "envoy_listener_1_2_3_4_80_worker_0_downstream_cx_total{}",
            ),
        ] {
            assert_eq!(one(&policy, name), expected);
        }
    }

    #[test]
    fn own_tag_wins_over_one_of_its_name_unless_replaced() {
        let tags = || vec![tag("envoy.cluster_name", regex(r"^cluster\.((u).*?)\."))];
        let name = "cluster.up.upstream_rq_total";
        let line = one(&policy(tags(), |_| {}), name);
        assert_eq!(line, "envoy_cluster_upstream_rq_total{envoy_cluster_name=\"up\"}");
        let line = one(&policy(tags(), |config| config.tags_replace_default = true), name);
        assert_eq!(line, "envoy_cluster__upstream_rq_total{envoy_cluster_name=\"u\"}");
        // Without a fixed first token it comes before Envoy's own.
        let early = policy(vec![tag("envoy.cluster_name", regex(r"er\.((u).*?\.)"))], |_| {});
        assert_eq!(one(&early, name), "envoy_cluster_upstream_rq_total{envoy_cluster_name=\"u\"}");
    }

    #[test]
    fn matcher_keeps_what_envoy_keeps() {
        let caches = &mut RegexCaches::new();
        let patterns = vec![
            matcher(StringPattern::Prefix("cluster.up.".into())),
            matcher(StringPattern::Suffix("connect_ms".into())),
            matcher(StringPattern::SafeRegex(r"server\.l.*".into())),
        ];
        let names =
            ["cluster.up.x", "cluster.down.x", "cluster.down.connect_ms", "server.live", "server.uptime"];
        let kept = |matcher: StatsMatcher, caches: &mut RegexCaches| {
            let policy = policy(Vec::new(), |config| config.matcher = matcher);
            names.map(|name| policy.keeps(name, caches))
        };
        assert_eq!(kept(StatsMatcher::Include(patterns.clone()), caches), [true, false, true, true, false]);
        assert_eq!(kept(StatsMatcher::Exclude(patterns), caches), [false, true, false, false, true]);
        assert_eq!(kept(StatsMatcher::RejectAll, caches), [false; 5]);
        assert_eq!(kept(StatsMatcher::All, caches), [true; 5]);
    }

    #[test]
    fn bounds_are_those_of_the_first_entry_that_matches() {
        let buckets = |pattern, bounds| HistogramBuckets { matcher: matcher(pattern), bounds };
        let policy = policy(Vec::new(), |config| {
            config.histogram_buckets = vec![
                buckets(StringPattern::Prefix("cluster.a.".into()), Vec::new()),
                buckets(StringPattern::Suffix("_ms".into()), vec![1.0, 2.5]),
                buckets(StringPattern::Prefix("cluster.".into()), vec![7.0]),
            ];
        });
        let caches = &mut RegexCaches::new();
        assert_eq!(policy.bounds("cluster.a.connect_ms", caches), [1.0, 2.5]);
        assert_eq!(policy.bounds("cluster.a.time", caches), [7.0]);
        assert_eq!(policy.bounds("http.a.time", caches), BOUNDS);
    }

    #[test]
    fn labels_are_escaped_and_names_plain() {
        let policy =
            StatsPolicy::compile(&StatsConfig::default(), &[("a.b-c".into(), "x\"y\\z\n".into())]).unwrap();
        assert_eq!(one(&policy, "server.live"), "envoy_server_live{a_b_c=\"x\\\"y\\\\z\\n\"}");
        assert_eq!(sanitized("9.lives"), "_9_lives");
        assert_eq!(without("abcdef", vec![3..5, 0..2, 1..4]), "f");
    }
}
