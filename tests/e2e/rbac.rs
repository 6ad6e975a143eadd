//! Access by role: what rules of the chain and of routes let pass, what a denial looks like, what is counted and noted.

use http::Request;

use crate::harness::{Config, Http2Client, Proxy, TempFolder, Upstream, on_each_backend, until};
use crate::tcp::LOGS_ENDS;
use crate::upstream_failures::log_to;

const PER_ROUTE: &str = r#""@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute"#;

/// A policy that matches requests whose path begins so, of anybody.
fn policy(name: &str, prefix: &str) -> String {
    format!(
        "\"{name}\": {{permissions: [{{url_path: {{path: {{prefix: {prefix}}}}}}}], principals: [{{any: true}}]}}"
    )
}

fn route(prefix: &str, more: &str) -> String {
    format!("{{name: \"{prefix}\", match: {{prefix: {prefix}}}, route: {{cluster: upstream}}, {more}}}")
}

fn per_route(prefix: &str, options: &str) -> String {
    let word = format!("typed_per_filter_config: {{rbac: {{{PER_ROUTE}, {options}}}}}");
    route(prefix, &word)
}

/// An input of matchers: the ends of its package's and its message's name, and its fields.
fn input(package: &str, message: &str, fields: &str) -> String {
    format!(
        "input: {{name: i, typed_config: {{\"@type\": type.googleapis.com/envoy.{package}.v3.{message}, \
         {fields}}}}}"
    )
}

fn header(name: &str) -> String {
    input("type.matcher", "HttpRequestHeaderMatchInput", &format!("header_name: \"{name}\""))
}

fn on_the_network(message: &str, fields: &str) -> String {
    input("extensions.matching.common_inputs.network", message, fields)
}

/// Where a matcher leads.
fn action(name: &str, action: &str) -> String {
    format!(
        "{{action: {{name: a, typed_config: {{\"@type\": type.googleapis.com/envoy.config.rbac.v3.Action, \
         name: \"{name}\", action: {action}}}}}}}"
    )
}

/// Where addresses of a range lead.
fn range(input: &str, address: &str, length: u8, leads: &str) -> String {
    format!(
        "matcher_tree: {{{input}, custom_match: {{name: c, typed_config: {{\"@type\": \
         type.googleapis.com/xds.type.matcher.v3.IPMatcher, range_matchers: [{{ranges: [{{address_prefix: {address}, \
         prefix_len: {length}}}], on_match: {leads}}}]}}}}}}"
    )
}

on_each_backend! {
    /// What shadow rules say was noted before the enforced ones were asked, so that these could go by it; Envoy's cannot.
    fn rules_do_not_hear_what_the_shadow_rules_of_their_filter_said(io) {
        let upstream = Upstream::echo();
        let heard = "permissions: [{any: true}], principals: [{metadata: {filter: envoy.filters.http.rbac, \
            path: [{key: shadow_engine_result}], value: {present_match: true}}}]";
        let own = format!(
            "shadow_rules: {{action: DENY, policies: {{{}}}}}, rules: {{policies: {{heard: {{{heard}}}}}}}",
            policy("all", "/")
        );
        let proxy = Proxy::start(io, &Config::to(upstream.port).filter("rbac", "RBAC", &own));
        assert_eq!(proxy.connect().get("/").status(), 403);
        proxy.end();
    }

    fn rules_of_the_chain_and_of_routes_decide_and_tell_why(io) {
        let upstream = Upstream::echo();
        let folder = TempFolder::new();
        let path = folder.path().join("access.log");
        let format = "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %ROUTE_NAME% %UPSTREAM_CLUSTER% \
            %DYNAMIC_METADATA(envoy.filters.http.rbac)% %DYNAMIC_METADATA(envoy.common:access_log_hint)%";
        let own = format!(
            "track_per_rule_stats: true, shadow_rules_stat_prefix: try, \
             rules: {{policies: {{{}, {}}}}}, shadow_rules: {{action: DENY, policies: {{{}}}}}",
            policy("open door", "/open"), policy("too", "/route"), policy("s", "/open/s"),
        );
        let routes = [
            route("/open", ""),
            per_route("/route/deny", &format!("rbac: {{rules: {{action: DENY, policies: {{{}}}}}}}", policy("no way", "/"))),
            per_route("/route/none", ""),
            per_route("/route/log", &format!("rbac: {{rules: {{action: LOG, policies: {{{}}}}}}}", policy("l", "/route/log/y"))),
            route("/", ""),
        ];
        let mut config = Config::to(upstream.port)
            .manager(&log_to(&path, format))
            .arguments(&["--file-flush-interval-msec", "20"])
            .filter("rbac", "RBAC", &own);
        config.routes = Some(routes.join(", "));
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        let asked = [
            ("/open/a", 200), ("/open/s", 200), ("/closed", 403), ("/route/deny", 403), ("/route/none", 200),
            ("/route/log/y", 200), ("/route/log/n", 200),
        ];
        for (path, status) in asked {
            let answer = client.get(path);
            assert_eq!(answer.status(), status, "{path}");
            if status == 403 {
                assert_eq!(answer.text(), "RBAC: access denied");
            }
        }
        until("all lines are written", || std::fs::read_to_string(&path).is_ok_and(|text| text.lines().count() == asked.len()));
        let mine = |what: &str| format!("rbac_access_denied_matched_policy[{what}]");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().collect::<Vec<_>>(), [
            r#"/open/a 200 - via_upstream /open upstream {"enforced_effective_policy_id":"open door","enforced_engine_result":"allowed","tryshadow_engine_result":"allowed"} -"#.to_owned(),
            r#"/open/s 200 - via_upstream /open upstream {"enforced_effective_policy_id":"open door","enforced_engine_result":"allowed","tryshadow_effective_policy_id":"s","tryshadow_engine_result":"denied"} -"#.to_owned(),
            format!(r#"/closed 403 - {} / upstream {{"enforced_engine_result":"denied","tryshadow_engine_result":"allowed"}} -"#, mine("none")),
            format!(r#"/route/deny 403 - {} /route/deny upstream {{"enforced_effective_policy_id":"no way","enforced_engine_result":"denied"}} -"#, mine("no_way")),
            "/route/none 200 - via_upstream /route/none upstream - -".to_owned(),
            r#"/route/log/y 200 - via_upstream /route/log upstream {"enforced_effective_policy_id":"l","enforced_engine_result":"allowed"} true"#.to_owned(),
            r#"/route/log/n 200 - via_upstream /route/log upstream {"enforced_engine_result":"allowed"} false"#.to_owned(),
        ]);
        for (name, value) in [
            ("http.test.rbac.allowed", 4), ("http.test.rbac.denied", 2),
            ("http.test.rbac.try.shadow_allowed", 2), ("http.test.rbac.try.shadow_denied", 1),
            ("http.test.rbac.policy.open door.allowed", 2), ("http.test.rbac.try.policy.s.shadow_denied", 1),
            ("http.test.no_route", 0), ("http.test.rq_total", 5),
        ] {
            assert_eq!(proxy.stat(name), value, "{name}");
        }
        let metrics = proxy.admin("GET", "/stats/prometheus").text();
        let line = r#"envoy_http_rbac_policy_allowed{envoy_rbac_policy_name="open door",envoy_http_conn_manager_prefix="test"} 2"#;
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
        drop(client);
        proxy.end();
    }

    fn denial_leaves_the_connection_and_is_a_grpc_status_to_grpc(io) {
        let upstream = Upstream::echo();
        let rules = format!("rules: {{action: DENY, policies: {{{}}}}}", policy("p", "/no"));
        let proxy = Proxy::start(io, &Config::to(upstream.port).filter("rbac", "RBAC", &rules));
        let mut client = proxy.connect();
        let denied = client.ask("POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
        assert_eq!((denied.status(), denied.text()), (403, "RBAC: access denied".to_owned()));
        assert_eq!(client.get("/yes").status(), 200, "on the same connection");
        drop(client);
        let client = Http2Client::connect(proxy.port);
        let denied = client.send(Request::post("http://a/no").header("content-type", "application/grpc"), b"", None);
        let said = ["grpc-status", "grpc-message"].map(|name| denied.headers[name].to_str().unwrap().to_owned());
        assert_eq!((denied.status, said), (200, ["7".to_owned(), "RBAC: access denied".to_owned()]));
        assert_eq!(client.get("/yes").status, 200);
        drop(client);
        proxy.wait_until_idle();
        proxy.end();
    }

    fn client_behind_a_proxy_is_told_by_x_forwarded_for_and_by_its_socket(io) {
        let upstream = Upstream::echo();
        let rules = r#"rules: {policies: {remote: {permissions: [{url_path: {path: {exact: /remote}}}], principals: [{remote_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}]},
            direct: {permissions: [{url_path: {path: {exact: /direct}}}], principals: [{direct_remote_ip: {address_prefix: 127.0.0.0, prefix_len: 8}}]},
            source: {permissions: [{url_path: {path: {exact: /source}}}], principals: [{source_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}]}}}"#;
        let proxy = Proxy::start(io, &Config::to(upstream.port).filter("rbac", "RBAC", rules));
        let mut client = proxy.connect();
        for (path, forwarded, status) in [
            ("/remote", "10.1.2.3", 200), ("/remote", "192.0.2.1", 403), ("/direct", "192.0.2.1", 200), ("/source", "10.1.2.3", 403),
        ] {
            let answer = client.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {forwarded}\r\n\r\n"));
            assert_eq!(answer.status(), status, "{path} {forwarded}");
        }
        drop(client);
        proxy.end();
    }

    /// Rules beside a matcher are without effect; what leads to no action is denied.
    fn matchers_of_the_chain_and_of_routes_decide_and_tell_why(io) {
        let upstream = Upstream::echo();
        let folder = TempFolder::new();
        let path = folder.path().join("access.log");
        let format = "%REQ(:PATH)% %REQ(x-who)% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% \
            %DYNAMIC_METADATA(envoy.filters.http.rbac)% %DYNAMIC_METADATA(envoy.common:access_log_hint)%";
        let own = format!(
            "track_per_rule_stats: true, shadow_rules_stat_prefix: try, rules: {{action: DENY, policies: {{{}}}}}, \
             matcher: {{matcher_tree: {{{}, exact_match_map: {{map: {{ann: {}, bob: {}}}}}}}}}, \
             shadow_matcher: {{matcher_tree: {{{}, prefix_match_map: {{map: {{/open: {}}}}}}}}}",
            policy("all", "/"), header("x-who"), action("open door", "ALLOW"), action("no way", "DENY"),
            header(":path"), action("s", "ALLOW"),
        );
        let local = range(&on_the_network("DirectSourceIPInput", ""), "127.0.0.0", 8, &action("l", "LOG"));
        let mut config = Config::to(upstream.port)
            .manager(&log_to(&path, format))
            .arguments(&["--file-flush-interval-msec", "20"])
            .filter("rbac", "RBAC", &own);
        config.routes = Some([per_route("/route", &format!("rbac: {{matcher: {{{local}}}}}")), route("/", "")].join(", "));
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        let asked = [("/a", "ann", 200), ("/open", "ann", 200), ("/a", "bob", 403), ("/a", "eve", 403), ("/route", "bob", 200)];
        for (path, who, status) in asked {
            let answer = client.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\nx-who: {who}\r\n\r\n"));
            assert_eq!(answer.status(), status, "{path} {who}");
        }
        until("all lines are written", || std::fs::read_to_string(&path).is_ok_and(|text| text.lines().count() == asked.len()));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().collect::<Vec<_>>(), [
            r#"/a ann 200 via_upstream {"enforced_effective_policy_id":"open door","enforced_engine_result":"allowed","tryshadow_engine_result":"denied"} -"#,
            r#"/open ann 200 via_upstream {"enforced_effective_policy_id":"open door","enforced_engine_result":"allowed","tryshadow_effective_policy_id":"s","tryshadow_engine_result":"allowed"} -"#,
            r#"/a bob 403 rbac_access_denied_matched_policy[no_way] {"enforced_effective_policy_id":"no way","enforced_engine_result":"denied","tryshadow_engine_result":"denied"} -"#,
            r#"/a eve 403 rbac_access_denied_matched_policy[none] {"enforced_engine_result":"denied","tryshadow_engine_result":"denied"} -"#,
            r#"/route bob 200 via_upstream {"enforced_effective_policy_id":"l","enforced_engine_result":"allowed"} true"#,
        ]);
        for (name, value) in [
            ("http.test.rbac.allowed", 3), ("http.test.rbac.denied", 2),
            ("http.test.rbac.try.shadow_allowed", 1), ("http.test.rbac.try.shadow_denied", 3),
            ("http.test.rbac.policy.open door.allowed", 2), ("http.test.rbac.policy.no way.denied", 1),
            ("http.test.rbac.try.policy.s.shadow_allowed", 1),
        ] {
            assert_eq!(proxy.stat(name), value, "{name}");
        }
        drop(client);
        proxy.end();
    }

    fn matcher_asks_what_the_filter_before_it_has_noted(io) {
        let upstream = Upstream::echo();
        let first = format!("shadow_rules: {{policies: {{{}, {}}}}}", policy("quick", "/quick"), policy("slow", "/slow"));
        let noted = on_the_network(
            "DynamicMetadataInput", "filter: envoy.filters.http.rbac, path: [{key: shadow_effective_policy_id}]"
        );
        let second = format!(
            "matcher: {{matcher_list: {{matchers: [{{predicate: {{single_predicate: {{{noted}, custom_match: {{name: m, \
             typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.matching.input_matchers.metadata.v3.Metadata, \
             value: {{string_match: {{exact: quick}}}}}}}}}}}}, on_match: {}}}]}}}}",
            action("a", "ALLOW")
        );
        let mut config = Config::to(upstream.port).filter("rbac", "RBAC", &first);
        config.filters.push_str(&format!(
            "{{name: second, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, {second}}}}}, "
        ));
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        for (path, status) in [("/quick", 200), ("/slow", 403), ("/other", 403), ("/quick", 200)] {
            assert_eq!(client.get(path).status(), status, "{path}");
        }
        drop(client);
        proxy.end();
    }

    fn connections_are_decided_by_matchers_and_told_apart_by_their_actions(io) {
        let log = LOGS_ENDS.replace(
            "%RESPONSE_FLAGS%",
            "%CONNECTION_TERMINATION_DETAILS% %DYNAMIC_METADATA(envoy.filters.network.rbac)%",
        );
        let source = on_the_network("SourceIPInput", "");
        let near = |leads: &str| range(&source, "127.0.0.0", 8, leads);
        let far = range(&source, "10.0.0.0", 8, &action("far", "ALLOW"));
        let noted = r#"{"shadow_effective_policy_id":"dry run","shadow_engine_result":"denied"}"#;
        for (matcher, denied, details) in [
            (near(&action("near", "ALLOW")), false, "-"),
            (near(&action("near", "LOG")), false, "-"),
            (near(&action("not here", "DENY")), true, "rbac_access_denied_matched_policy[not_here]"),
            (far, true, "rbac_access_denied_matched_policy[none]"),
        ] {
            let dry = near(&action("dry run", "DENY"));
            let filters = format!(
                "{{filters: [{{name: rbac, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, \
                 stat_prefix: who, matcher: {{{matcher}}}, shadow_matcher: {{{dry}}}}}}}, {{name: echo, typed_config: {{\"@type\": \
                 type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}}}]}}"
            );
            let proxy = Proxy::start(io, &Config::to(1).chains(&[filters]).listener(&log));
            let mut client = proxy.connect();
            client.send("x");
            if denied {
                client.expect_closed();
            } else {
                assert_eq!(client.read(1), b"x", "{matcher}");
            }
            drop(client);
            proxy.wait_for_log(&format!("ended <{details} {noted}>"));
            assert_eq!(proxy.stat("who.rbac.denied"), u64::from(denied), "{matcher}");
            assert_eq!(proxy.stat("who.rbac.allowed"), u64::from(!denied), "{matcher}");
            assert_eq!(proxy.stat("who.rbac.shadow_denied"), 1, "{matcher}");
            proxy.end();
        }
    }
}
