//! Clusters, rewrites, timeouts, upgrades and redirects of whole tables.

use super::*;
use crate::config::runtime::{RuntimeKey, RuntimeState, RuntimeValue};
use serde_json::json;

// === forwarding ===

fn forwarding(path: config::PathMatch, edit: impl FnOnce(&mut config::RouteAction)) -> RouteTable {
    let mut action = config::RouteAction::to(config::ClusterSpecifier::Cluster("c".into()));
    edit(&mut action);
    compile_routes(vec![route(path, config::Action::Forward(Box::new(action)))])
}

fn chosen(table: &RouteTable, head: &Head, random: u64) -> String {
    match forward_of(table).1.choose_cluster(head, random).name(head) {
        ClusterName::Slot(slot) => table.cluster_name(slot).unwrap().to_owned(),
        ClusterName::Text(text) => format!("header {}", String::from_utf8_lossy(text)),
    }
}

#[test]
fn route_has_room_for_details_where_it_says_something_of_them() {
    let limit = Some(Duration::from_secs(1));
    let of_stream = config::MaxStreamDuration::default();
    let upgrade = config::UpgradeConfig { upgrade_type: "a".into(), enabled: true, connect_config: None };
    let hashed = config::HashPolicy { source: config::HashSource::SourceIp, terminal: false };
    type Edit<'a> = &'a dyn Fn(&mut config::RouteAction);
    let edits: [(bool, Edit<'_>); 11] = [
        (false, &|_| {}),
        (false, &|it| (it.timeout, it.append_x_forwarded_host) = (Duration::ZERO, true)),
        (true, &|it| it.idle_timeout = limit),
        (true, &|it| it.flush_timeout = limit),
        (true, &|it| it.max_stream_duration = Some(of_stream)),
        (true, &|it| it.max_grpc_timeout = limit),
        (true, &|it| it.grpc_timeout_offset = limit),
        (true, &|it| it.path_rewrite = config::PathRewrite::Prefix("/x".into())),
        (true, &|it| it.host_rewrite = config::HostRewrite::Auto),
        (true, &|it| it.upgrade_configs = vec![upgrade.clone()]),
        (true, &|it| it.hash_policy = vec![hashed.clone()]),
    ];
    for (nth, (expected, edit)) in edits.into_iter().enumerate() {
        let table = forwarding(prefix("/"), edit);
        assert_eq!(forward_of(&table).1.details.is_some(), expected, "{nth}");
    }
}

#[test]
fn flush_timeout_is_the_routes_else_that_of_silence_else_the_general_one() {
    let [general, flush, idle] = [9, 1, 2].map(Duration::from_secs).map(Some);
    let off = Some(Duration::ZERO);
    for (flush_timeout, idle_timeout, of_its_own, following) in [
        (None, None, general, general),
        (flush, None, flush, flush),
        (None, idle, general, idle),
        (flush, idle, flush, flush),
        (off, idle, None, None),
        (None, off, general, None),
    ] {
        let table = forwarding(prefix("/"), |it| {
            (it.flush_timeout, it.idle_timeout) = (flush_timeout, idle_timeout);
        });
        let (_, forward) = forward_of(&table);
        assert_eq!(forward.flush_timeout(general, false), of_its_own, "{flush_timeout:?} {idle_timeout:?}");
        assert_eq!(forward.flush_timeout(general, true), following, "{flush_timeout:?} {idle_timeout:?}");
    }
}

#[test]
fn weighted_clusters_share_by_weight_header_and_runtime() {
    let table =
        forwarding(prefix("/"), |it| it.cluster = weighted(&[("a", 1), ("zero", 0), ("b", 3)], |_| {}));
    let head = request("h", "/", &[]);
    let drawn: Vec<_> = (0..5).map(|random| chosen(&table, &head, random)).collect();
    assert_eq!(drawn, ["a", "b", "b", "b", "a"]);
    assert_eq!(table.clusters.iter().map(|name| &**name).collect::<Vec<_>>(), ["a", "zero", "b"]);

    let by_header = forwarding(prefix("/"), |it| {
        it.cluster = weighted(&[("a", 1), ("b", 3)], |it| it.header_name = Some("x-r".into()));
    });
    assert_eq!(chosen(&by_header, &request("h", "/", &[("x-r", "4")]), 1), "a");
    assert_eq!(chosen(&by_header, &request("h", "/", &[("x-r", "junk")]), 1), "b");
    assert_eq!(
        chosen(&by_header, &request("h", "/", &[("x-r", "0"), ("x-r", "0")]), 1),
        "b",
        "two values do not count"
    );

    let state = RuntimeState::default();
    let weights =
        ["weights.a", "weights.b"].map(|name| RuntimeKey::new(name, RuntimeValue::default(), &state));
    let by_runtime = forwarding(prefix("/"), |it| {
        it.cluster = weighted(&[("a", 1), ("b", 3)], |it| {
            it.clusters.iter_mut().zip(&weights).for_each(|(one, key)| one.runtime_key = Some(key.clone()));
        });
    });
    let set = |values: [Option<u64>; 2]| {
        for (key, value) in weights.iter().zip(values) {
            key.prepare(value.map_or_else(RuntimeValue::default, |value| RuntimeValue::of(&json!(value))));
        }
        state.proceed();
    };
    let counts = |values| {
        set(values);
        ["a", "b"].map(|name| (0..8).filter(|random| chosen(&by_runtime, &head, *random) == name).count())
    };
    assert_eq!(counts([None, None]), [2, 6]);
    assert_eq!(counts([None, Some(0)]), [8, 0]);
    assert_eq!(counts([Some(4), Some(4)]), [4, 4]);
    for nothing in [[Some(0), Some(0)], [Some(1), Some(u64::from(u32::MAX))]] {
        set(nothing);
        assert_eq!(outcome(&by_runtime, &head, 0), "*/-");
    }
}

#[test]
fn cluster_header_names_the_cluster() {
    let table =
        forwarding(prefix("/"), |it| it.cluster = config::ClusterSpecifier::ClusterHeader("x-c".into()));
    assert_eq!(chosen(&table, &request("h", "/", &[("x-c", "a")]), 0), "header a");
    assert_eq!(chosen(&table, &request("h", "/", &[]), 0), "header ");
}

fn rewritten(path: config::PathMatch, rewrite: config::PathRewrite, asked: &str) -> (String, String) {
    let table = forwarding(path, |it| it.path_rewrite = rewrite);
    let (route, forward) = forward_of(&table);
    let mut head = request("h", asked, &[]);
    route.rewrite(forward, &mut head, true, &mut RouteScratch::default());
    (text(&head, ":path"), text(&head, "x-envoy-original-path"))
}

/// As observed from Envoy 1.40.
#[test]
fn path_is_rewritten_by_prefix_or_regex() {
    let to = |text: &str| config::PathRewrite::Prefix(text.into());
    let regex = |regex: &str, substitution: &str| {
        config::PathRewrite::Regex(RegexRewrite { regex: regex.into(), substitution: substitution.into() })
    };
    for (path, rewrite, asked, expected) in [
        (prefix("/up"), to("/"), "/up/a?b", "//a?b"),
        (prefix("/up"), to("/"), "/up", "/"),
        (prefix("/up/"), to("/"), "/up/a", "/a"),
        (config::PathMatch::PathSeparatedPrefix("/up".into()), to("/new"), "/up/a?b", "/new/a?b"),
        (config::PathMatch::Path("/up".into()), to("/new"), "/up?b", "/new?b"),
        (config::PathMatch::SafeRegex("/u.*".into()), to("/new"), "/up/a?b", "/new?b"),
        (prefix("/sub"), regex("^/sub(.*)$", r"/x\1"), "/sub/1?2", "/x/1?2"),
        (prefix("/sub"), regex("^/sub(.*)$", r"/x\1"), "/sub?2", "/x?2"),
    ] {
        assert_eq!(rewritten(path, rewrite, asked), (expected.into(), asked.into()), "{asked}");
    }
    assert_eq!(rewritten(prefix("/rx"), regex("^/rx.*$", ""), "/rx/1?2"), ("/rx/1?2".into(), String::new()));
    assert_eq!(rewritten(prefix("/a"), to(""), "/a"), ("/a".into(), String::new()));
}

/// As observed from Envoy 1.40.
#[test]
fn host_is_rewritten_and_the_old_one_kept() {
    let regex = RegexRewrite { regex: "^/([^/]+)/.*$".into(), substitution: r"\1.internal".into() };
    for (rewrite, sent, expected, forwarded) in [
        (config::HostRewrite::Literal("o".into()), &[][..], "o", "h:80"),
        (config::HostRewrite::Literal("o".into()), &[("x-forwarded-host", "z")], "o", "z,h:80"),
        (config::HostRewrite::Literal("o".into()), &[("x-forwarded-host", "z,h:80")], "o", "z,h:80"),
        (config::HostRewrite::Header("x-h".into()), &[("x-h", "o")], "o", "h:80"),
        (config::HostRewrite::Header("x-h".into()), &[], "h:80", ""),
        (config::HostRewrite::PathRegex(regex), &[], "a.internal", "h:80"),
        (config::HostRewrite::Auto, &[], "h:80", ""),
    ] {
        let table = forwarding(prefix("/"), |it| {
            (it.host_rewrite, it.append_x_forwarded_host) = (rewrite.clone(), true);
        });
        let (route, forward) = forward_of(&table);
        let mut head = request("h:80", "/a/b", sent);
        route.rewrite(forward, &mut head, true, &mut RouteScratch::default());
        assert_eq!(text(&head, ":authority"), expected, "{rewrite:?}");
        assert_eq!(text(&head, "x-forwarded-host"), forwarded, "{rewrite:?}");
        assert_eq!(text(&head, "x-envoy-original-host"), if expected == "h:80" { "" } else { "h:80" });
        assert_eq!(forward.takes_host_of_endpoint(), rewrite == config::HostRewrite::Auto);
    }
}

#[test]
fn timeouts_come_from_route_trusted_headers_and_grpc() {
    let secs = |secs| Some(Duration::from_secs(secs));
    let table = forwarding(prefix("/"), |_| {});
    let timeouts = |table: &RouteTable, sent: &[(&str, &str)], options: TimeoutOptions| {
        let mut head = request("h", "/", sent);
        let limits = forward_of(table).1.timeouts(&mut head, options);
        assert_eq!(text(&head, "x-envoy-upstream-rq-timeout-ms"), "");
        (limits, text(&head, "x-envoy-expected-rq-timeout-ms"), text(&head, "grpc-timeout"))
    };
    let plain = TimeoutOptions::default();
    let (limits, told, _) = timeouts(&table, &[], plain);
    assert_eq!((limits.response, limits.per_try, &*told), (secs(15), None, "15000"));
    let (limits, told, _) = timeouts(&table, &[("x-envoy-upstream-rq-timeout-ms", "2000")], plain);
    assert_eq!((limits.response, &*told), (secs(2), "2000"));
    assert_eq!(timeouts(&table, &[("x-envoy-upstream-rq-timeout-ms", "junk")], plain).0.response, secs(15));
    assert_eq!(timeouts(&table, &[("x-envoy-upstream-rq-timeout-ms", "0")], plain).0.response, None);
    let (limits, told, _) = timeouts(&table, &[("x-envoy-upstream-rq-per-try-timeout-ms", "1000")], plain);
    assert_eq!((limits.per_try, &*told), (secs(1), "1000"));
    assert_eq!(
        timeouts(&table, &[("x-envoy-upstream-rq-per-try-timeout-ms", "15000")], plain).0.per_try,
        None
    );
    assert!(!timeouts(&table, &[], plain).0.alternative);
    assert!(timeouts(&table, &[("x-envoy-upstream-rq-timeout-alt-response", "0")], plain).0.alternative);
    let respecting = TimeoutOptions { respect_expected: true, ..plain };
    assert_eq!(
        timeouts(&table, &[("x-envoy-expected-rq-timeout-ms", "3000")], respecting).0.response,
        secs(3)
    );
    let silent = TimeoutOptions { suppress_envoy_headers: true, ..plain };
    assert_eq!(timeouts(&table, &[], silent).1, "");

    let grpc = [("content-type", "application/grpc"), ("grpc-timeout", "5S")];
    let capped = forwarding(prefix("/"), |it| it.max_grpc_timeout = secs(3));
    let (limits, _, sent) = timeouts(&capped, &grpc, plain);
    assert_eq!((limits.response, &*sent), (secs(3), "3000m"));
    let open = forwarding(prefix("/"), |it| {
        (it.max_grpc_timeout, it.grpc_timeout_offset) = (Some(Duration::ZERO), secs(1));
    });
    assert_eq!(timeouts(&open, &grpc, plain).0.response, secs(4));
    assert_eq!(timeouts(&open, &grpc[..1], plain).0.response, None);

    let stream = forwarding(prefix("/"), |it| {
        it.max_stream_duration =
            Some(config::MaxStreamDuration { grpc_timeout_header_max: secs(2), ..Default::default() });
    });
    let (limits, ..) = timeouts(&stream, &grpc, plain);
    assert_eq!((limits.response, limits.stream), (None, secs(2)), "the route's own timeout is off then");
}

#[test]
fn grpc_timeout_of_the_stream_is_capped_shortened_and_told_to_the_endpoint() {
    let secs = |secs| Some(Duration::from_secs(secs));
    let timeouts =
        |duration: config::MaxStreamDuration, kind: &str, asked: &str, general: Option<Duration>| {
            let table = forwarding(prefix("/"), |it| it.max_stream_duration = Some(duration));
            let sent = [("content-type", kind), ("grpc-timeout", asked)];
            let mut head = request("h", "/", &sent[..if asked.is_empty() { 1 } else { 2 }]);
            let options = TimeoutOptions { max_stream_duration: general, ..TimeoutOptions::default() };
            let limits = forward_of(&table).1.timeouts(&mut head, options);
            (limits.stream, text(&head, "grpc-timeout"))
        };
    let grpc = "application/grpc";
    let told = |limit, text: &str| (limit, text.to_owned());
    let none = config::MaxStreamDuration::default();
    let max = |max| config::MaxStreamDuration { grpc_timeout_header_max: Some(max), ..Default::default() };
    let offset = |offset| config::MaxStreamDuration {
        grpc_timeout_header_offset: Some(offset),
        ..max(Duration::from_secs(2))
    };
    assert_eq!(timeouts(max(Duration::from_secs(2)), grpc, "5S", None), told(secs(2), "2000m"));
    assert_eq!(timeouts(max(Duration::from_secs(9)), grpc, "5S", None), told(secs(5), "5000m"));
    assert_eq!(timeouts(max(Duration::ZERO), grpc, "99999999H", None).1, "99999999H", "no cap");
    assert_eq!(timeouts(offset(Duration::from_secs(1)), grpc, "5S", None), told(secs(1), "1000m"));
    let at_once = Some(Duration::ZERO);
    assert_eq!(
        timeouts(offset(Duration::from_secs(3)), grpc, "5S", None),
        told(at_once, "0m"),
        "nothing is left"
    );
    assert_eq!(
        timeouts(max(Duration::from_secs(2)), grpc, "0S", None),
        told(at_once, "0m"),
        "nothing was granted"
    );
    assert_eq!(timeouts(max(Duration::from_secs(2)), "text/plain", "5S", None), told(secs(2), "5S"));
    // Without a word about the header, the route's own limit or the connection manager's.
    let own = config::MaxStreamDuration { max_stream_duration: secs(7), ..Default::default() };
    assert_eq!(timeouts(own, grpc, "5S", None), told(secs(7), "7000m"));
    assert_eq!(timeouts(own, grpc, "", None), told(secs(7), "7000m"));
    assert_eq!(timeouts(none, grpc, "5S", secs(4)), told(None, "4000m"));
    assert_eq!(timeouts(none, grpc, "5S", None), told(None, "5S"), "nobody limits it");
    let off = config::MaxStreamDuration { max_stream_duration: secs(0), ..Default::default() };
    assert_eq!(timeouts(off, grpc, "5S", secs(4)), told(secs(0), ""));
    assert_eq!(timeouts(off, grpc, "5S", None), told(secs(0), "5S"));
}

#[test]
fn upgrades_are_found_without_case() {
    let rule = |upgrade_type: &str, enabled| config::UpgradeConfig {
        upgrade_type: upgrade_type.into(),
        enabled,
        connect_config: None,
    };
    let table = forwarding(prefix("/"), |it| {
        it.upgrade_configs = vec![rule("WebSocket", true), rule("CONNECT", false)]
    });
    let forward = forward_of(&table).1;
    assert!(forward.upgrade(b"websocket").unwrap().enabled);
    assert!(!forward.upgrade(b"CONNECT").unwrap().enabled);
    assert!(forward.upgrade(b"h2c").is_none());
}

// === redirects ===

#[test]
fn redirect_location_follows_envoy() {
    let redirect = |edit: &dyn Fn(&mut config::RedirectAction)| {
        let mut action = config::RedirectAction::default();
        edit(&mut action);
        action
    };
    let path = |path: &str| config::RedirectPathRewrite::Path(path.into());
    let https = config::SchemeRedirect::Https;
    let cases: Vec<(config::RedirectAction, &str, &str, &str)> = vec![
        (redirect(&|it| it.host_redirect = Some("n".into())), "h:8080", "/r/a?b", "http://n/r/a?b"),
        (redirect(&|it| it.scheme = https.clone()), "h:80", "/r/a?b", "https://h/r/a?b"),
        (redirect(&|it| it.scheme = https.clone()), "h:8080", "/r", "https://h:8080/r"),
        (redirect(&|it| it.scheme = https.clone()), "[::1]:80", "/r", "https://[::1]/r"),
        (redirect(&|it| it.scheme = https.clone()), "[::1]", "/r", "https://[::1]/r"),
        (redirect(&|it| it.port_redirect = Some(8443)), "h:80", "/r", "http://h:8443/r"),
        (redirect(&|it| it.path = path("/n")), "h", "/r?b", "http://h/n?b"),
        (redirect(&|it| (it.path, it.strip_query) = (path("/n"), true)), "h", "/r?b", "http://h/n"),
        (redirect(&|it| (it.path, it.strip_query) = (path("/n?q"), true)), "h", "/r?b", "http://h/n?q"),
        (redirect(&|it| it.path = path("n")), "h", "/r", "http://h/n"),
        (redirect(&|it| it.strip_query = true), "h", "/r/a?b", "http://h/r/a"),
        (
            redirect(&|it| {
                (it.path, it.scheme) = (config::RedirectPathRewrite::Prefix("/new".into()), https.clone())
            }),
            "h:80",
            "/r/x?q=1",
            "https://h/new/x?q=1",
        ),
        (
            redirect(&|it| {
                let rewrite = RegexRewrite { regex: "/r/(.*)".into(), substitution: r"/s/\1".into() };
                it.path = config::RedirectPathRewrite::Regex(rewrite);
            }),
            "h",
            "/r/x?q",
            "http://h/s/x?q",
        ),
        (redirect(&|_| {}), "h", "/r", "http://h/r"),
    ];
    for (action, authority, asked, expected) in cases {
        let table =
            compile_routes(vec![route(prefix("/r"), config::Action::Redirect(Box::new(action.clone())))]);
        let route = &table.virtual_hosts[0].routes[0];
        let Action::Redirect(redirect) = &route.action else { panic!() };
        let mut head = request(authority, asked, &[("x-forwarded-proto", "http")]);
        let mut location = Vec::new();
        route.redirect(redirect, &mut head, true, &mut RouteScratch::default(), &mut location);
        assert_eq!(String::from_utf8(location).unwrap(), expected, "{action:?}");
        assert_eq!(redirect.status, 301);
    }
}
