//! `/stats` as text and JSON: rows, selection, resetting.

use super::*;

#[test]
fn stats_as_text_are_those_of_envoy() {
    let served = Served::start();
    let body = served.get("/stats").body;
    for line in [
        "cluster.a.b.upstream_cx_total: 1",
        "cluster.a.b.upstream_rq_200: 1",
        "cluster.a.b.external.upstream_rq_5xx: 1",
        "cluster.a.b.upstream_rq_completed: 2",
        "http.in\"gress.downstream_rq_4xx: 1",
        "listener.127.0.0.1_80.http.in\"gress.downstream_rq_completed: 1",
        "listener.127.0.0.1_80.worker_1.downstream_cx_total: 1",
        "server.live: 1",
        "server.uptime: 3661",
        "server.concurrency: 2",
        "server.version: 11259375",
        "server.state: 0",
        "cluster.a.b.upstream_cx_connect_ms: No recorded values",
    ] {
        assert!(body.lines().any(|other| other == line), "{line} is missing in\n{body}");
    }
    assert!(body.contains("\ncluster.a.b.upstream_rq_time: P0(nan,7.05) P25(nan,7.05)"));
    let names: Vec<_> = body.lines().filter_map(|line| line.split_once(": ")).map(|(name, _)| name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "every name once");
}

#[test]
fn version_is_the_configured_one() {
    let served = Served::with(|admin| admin.server_version = Some(7));
    assert_eq!(served.get("/stats?filter=server.version").body, "server.version: 7\n");
}

#[test]
fn stats_are_selected_as_asked() {
    let served = Served::start();
    assert_eq!(served.get("/stats?filter=%5Eserver%5C.live").body, "server.live: 1\n");
    // What istio's agent asks before it reports ready.
    let filter = "/stats?usedonly&filter=^(server\\.state|listener_manager\\.workers_started)";
    assert_eq!(served.get(filter).body, "server.state: 0\n");
    served.registry.server(Slot::Control).gauge_set(ServerStat::ListenerManagerWorkersStarted, 1);
    assert_eq!(served.get(filter).body, "listener_manager.workers_started: 1\nserver.state: 0\n");
    assert_eq!(served.get("/stats?type=Counters&filter=server.live").body, "");
    assert_eq!(
        served.get("/stats?usedonly&filter=downstream_rq_[0-9]xx").body,
        "http.in\"gress.downstream_rq_4xx: 1\nlistener.127.0.0.1_80.http.in\"gress.downstream_rq_4xx: 1\n"
    );
    let buckets = served.get("/stats?histogram_buckets=cumulative&filter=downstream_rq_time$").body;
    assert!(
        buckets
            .starts_with("http.in\"gress.downstream_rq_time: B0.5(0,0) B1(0,0) B5(0,0) B10(0,0) B25(0,1) ")
    );
    let inverted = served
        .get("/stats?invert_filter&filter=^(cluster|control_plane|downstream|http|listener|load_reporter|server|ringway|filesystem)")
        .body;
    assert!(inverted.starts_with("runtime.admin_overrides_active: 0\n"), "{inverted}");
    for path in ["/stats?filter=[", "/stats?type=Foo", "/stats?format=foo", "/stats?histogram_buckets=foo"] {
        assert_eq!(served.get(path).status, 400, "{path}");
    }
}

#[test]
fn stats_as_json_are_one_list() {
    let served = Served::start();
    let answer = served.get("/stats?format=json&filter=^listener\\..*\\.downstream_cx_total$");
    assert_eq!(
        answer.body,
        "{\"stats\":[{\"name\":\"listener.127.0.0.1_80.downstream_cx_total\",\"value\":1},\
         {\"name\":\"listener.127.0.0.1_80.worker_0.downstream_cx_total\",\"value\":0},\
         {\"name\":\"listener.127.0.0.1_80.worker_1.downstream_cx_total\",\"value\":1}]}"
    );
    let all = served.get("/stats?format=json").json();
    let list = all["stats"].as_array().unwrap();
    let histograms = &list.last().unwrap()["histograms"];
    assert_eq!(histograms["supported_quantiles"], json!([0, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 100]));
    let time = histograms["computed_quantiles"].as_array().unwrap().iter();
    let time =
        time.filter(|histogram| histogram["name"] == "cluster.a.b.upstream_rq_time").collect::<Vec<_>>();
    assert_eq!(time[0]["values"][9], json!({ "cumulative": 7.05, "interval": null }));
    assert_eq!(served.get("/stats?format=json&filter=zzz").body, "{\"stats\":[]}");
    for mode in ["cumulative", "disjoint"] {
        let path =
            format!("/stats?format=json&usedonly&histogram_buckets={mode}&filter=external.upstream_rq_time");
        let buckets = &served.get(&path).json()["stats"][0]["histograms"][0]["buckets"];
        assert_eq!(buckets[3], json!({ "upper_bound": 10, "interval": 0, "cumulative": 1 }), "{mode}");
        assert_eq!(buckets[4]["cumulative"], json!(if mode == "disjoint" { 0 } else { 1 }));
    }
}

#[test]
fn reset_counters_shows_zero_and_counts_on() {
    let served = Served::start();
    let path = "/stats?filter=^http.*downstream_rq_4xx";
    assert_eq!(served.get(path).body, "http.in\"gress.downstream_rq_4xx: 1\n");
    assert_eq!(served.post("/reset_counters").body, "OK\n");
    assert_eq!(served.get(path).body, "http.in\"gress.downstream_rq_4xx: 0\n");
    served.cells.downstream_response(404);
    assert_eq!(served.get(path).body, "http.in\"gress.downstream_rq_4xx: 1\n");
}
