//! `/stats/prometheus`: names, labels, selection, many clusters.

use super::*;

/// A strict reader of the exposition format: one TYPE per name, before its samples; samples of a name together; no
/// label and no sample twice; values are numbers; histograms whole, cumulative and ended by `+Inf`.
fn exposition(text: &str) -> BTreeMap<Sample, f64> {
    let mut samples = BTreeMap::new();
    let mut types: BTreeMap<String, String> = BTreeMap::new();
    let mut current = String::new();
    let mut buckets: Vec<(BTreeMap<String, String>, f64, f64)> = Vec::new();
    assert!(text.is_empty() || text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram", "summary"].contains(&kind), "{line}");
            assert!(types.insert(name.into(), kind.into()).is_none(), "{name} has two types");
            current = name.into();
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        let (name, rest) = series.split_once('{').unwrap();
        let mut rest = rest.strip_suffix('}').unwrap();
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line}");
        let mut labels = BTreeMap::new();
        while !rest.is_empty() {
            let (label, after) = rest.split_once("=\"").unwrap();
            assert!(
                !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
                "{line}"
            );
            let mut text = String::new();
            let mut chars = after.chars();
            loop {
                match chars.next().unwrap() {
                    '"' => break,
                    '\\' => text.push(match chars.next().unwrap() {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        c => panic!("\\{c} in {line}"),
                    }),
                    c => text.push(c),
                }
            }
            assert!(labels.insert(label.to_string(), text).is_none(), "{line}");
            rest = chars.as_str();
            if !rest.is_empty() {
                rest = rest.strip_prefix(',').unwrap();
                assert!(!rest.is_empty());
            }
        }
        let kind = &*types[&current];
        let suffix =
            name.strip_prefix(&*current).unwrap_or_else(|| panic!("{line} after the type of {current}"));
        match (kind, suffix) {
            ("histogram", "_bucket") => {
                let bound = labels["le"].parse().unwrap_or_else(|_| panic!("{line}"));
                let mut series = labels.clone();
                series.remove("le");
                match buckets.last() {
                    Some((other, last, count)) if *other == series => {
                        assert!(*last < bound && *count <= value, "{line}")
                    }
                    before => assert!(before.is_none_or(|(_, last, _)| last.is_infinite()), "{line}"),
                }
                buckets.push((series, bound, value));
            }
            ("histogram", "_sum") => {}
            ("histogram", "_count") => {
                let (series, bound, count) = buckets.pop().unwrap();
                assert!(series == labels && bound.is_infinite() && count == value, "{line}");
                buckets.clear();
            }
            ("summary", "_sum" | "_count" | "") | ("counter" | "gauge", "") => {}
            _ => panic!("{line} is no {kind}"),
        }
        assert!(
            samples.insert(Sample { name: name.into(), labels }, value).is_none(),
            "{line} is there twice"
        );
    }
    samples
}

fn sample(samples: &BTreeMap<Sample, f64>, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    samples.get(&Sample { name: name.into(), labels }).copied()
}

#[test]
fn prometheus_has_the_names_and_labels_of_envoy() {
    let served = Served::start();
    let samples = exposition(&served.get("/stats/prometheus").body);
    let cluster = ("envoy_cluster_name", "a.b");
    let prefix = ("envoy_http_conn_manager_prefix", "in\"gress");
    let address = ("envoy_listener_address", "127.0.0.1_80");
    let class = |class| ("envoy_response_code_class", class);
    for (name, labels, expected) in [
        ("envoy_cluster_upstream_cx_total", vec![cluster], 1.0),
        ("envoy_cluster_upstream_rq", vec![("envoy_response_code", "503"), cluster], 1.0),
        ("envoy_cluster_upstream_rq_xx", vec![class("2"), cluster], 1.0),
        ("envoy_cluster_external_upstream_rq", vec![("envoy_response_code", "200"), cluster], 1.0),
        ("envoy_cluster_external_upstream_rq_completed", vec![cluster], 2.0),
        ("envoy_cluster_upstream_rq_time_bucket", vec![cluster, ("le", "5")], 0.0),
        ("envoy_cluster_upstream_rq_time_bucket", vec![cluster, ("le", "10")], 1.0),
        ("envoy_cluster_upstream_rq_time_sum", vec![cluster], 7.0),
        ("envoy_http_downstream_rq_xx", vec![class("4"), prefix], 1.0),
        ("envoy_http_downstream_rq_xx", vec![class("2"), prefix], 0.0),
        ("envoy_http_downstream_cx_active", vec![prefix], 0.0),
        ("envoy_listener_http_downstream_rq_xx", vec![class("4"), prefix, address], 1.0),
        ("envoy_listener_downstream_cx_total", vec![address], 1.0),
        ("envoy_listener_worker_downstream_cx_total", vec![("envoy_worker_id", "1"), address], 1.0),
        ("envoy_server_live", vec![], 1.0),
    ] {
        assert_eq!(sample(&samples, name, &labels), Some(expected), "{name} {labels:?}");
    }
    assert_eq!(
        served.get("/stats?format=prometheus&filter=server.live").body,
        "# TYPE envoy_server_live gauge\nenvoy_server_live{} 1\n"
    );
}

#[test]
fn prometheus_is_selected_and_tagged_as_asked() {
    let served = Served::with(|admin| {
        let tags = [("zone".into(), "a\\b".into())];
        admin.stats_policy = Arc::new(StatsPolicy::compile(&StatsConfig::default(), &tags).unwrap());
    });
    let samples = exposition(&served.get("/stats/prometheus?usedonly&filter=^cluster").body);
    let labels = [("envoy_cluster_name", "a.b"), ("zone", "a\\b")];
    assert_eq!(sample(&samples, "envoy_cluster_upstream_cx_total", &labels), Some(1.0));
    assert_eq!(sample(&samples, "envoy_cluster_upstream_cx_active", &labels), None);
    assert!(samples.keys().all(|sample| sample.name.starts_with("envoy_cluster_")));
    let samples = exposition(&served.get("/stats/prometheus?histogram_buckets=summary&filter=rq_time").body);
    let quantile = [labels[0], ("quantile", "0.5"), labels[1]];
    assert_eq!(sample(&samples, "envoy_cluster_upstream_rq_time", &quantile), Some(7.05));
    assert_eq!(served.get("/stats/prometheus?histogram_buckets=disjoint").status, 400);
}

#[test]
fn prometheus_of_searched_tags_is_gathered_by_name() {
    let served = Served::with(|admin| {
        // Makes one name of two families, which are no neighbours.
        let tag = |name: &str, regex: &str| TagSpecifier {
            name: name.into(),
            value: TagValue::Regex(regex.into()),
        };
        let tags = vec![
            tag("what", r"_cx(_(?:total|connect_fail))$"),
            tag("zone", r"^cluster\.((a).*?)\.upstream_cx_(?:total|connect_fail)$"),
        ];
        let config = StatsConfig { tags, ..StatsConfig::default() };
        admin.stats_policy = Arc::new(StatsPolicy::compile(&config, &[]).unwrap());
    });
    let page = served.get("/stats/prometheus").body;
    let samples = exposition(&page);
    let labels = |what: &'static str| [("envoy_cluster_name", "a.b"), ("what", what), ("zone", "a")];
    assert_eq!(sample(&samples, "envoy_cluster_upstream_cx", &labels("_total")), Some(1.0), "{page}");
    assert_eq!(sample(&samples, "envoy_cluster_upstream_cx", &labels("_connect_fail")), Some(0.0));
    assert_eq!(page.matches("# TYPE envoy_cluster_upstream_cx counter\n").count(), 1);
}

#[test]
fn rejected_metrics_are_shown_nowhere() {
    let served = Served::with(|admin| {
        let pattern = StringPattern::Prefix("cluster.".into());
        let matcher = StatsMatcher::Exclude(vec![StringMatcher { pattern, ignore_case: false }]);
        let config = StatsConfig { matcher, ..StatsConfig::default() };
        admin.stats_policy = Arc::new(StatsPolicy::compile(&config, &[]).unwrap());
    });
    for page in ["/stats", "/stats?format=json", "/stats/prometheus"] {
        let body = served.get(page).body;
        assert!(!body.contains("cluster.") && !body.contains("envoy_cluster_upstream"), "{body}");
        assert!(body.contains("server"), "{body}");
    }
}

#[test]
fn prometheus_of_many_clusters_comes_whole_in_pieces() {
    let served = Served::start();
    let held: Vec<_> = (0..500).map(|number| served.registry.cluster(&format!("c{number}"))).collect();
    held.iter().for_each(|cluster| cluster.cells(Slot::Worker(0)).inc(ClusterStat::UpstreamCxTotal));
    let samples = exposition(&served.get("/stats/prometheus").body);
    let count = samples.keys().filter(|sample| sample.name == "envoy_cluster_upstream_cx_total").count();
    assert_eq!(count, 501);
    assert_eq!(
        served.get("/stats?usedonly&filter=^cluster.c[0-9]*.upstream_cx_total").body.lines().count(),
        500
    );
}
