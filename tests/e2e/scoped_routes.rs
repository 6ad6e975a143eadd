//! Scoped routes: which table a request goes by, and what becomes of those that are in no scope.

use http::Request;

use crate::harness::{Config, Http2Client, Proxy, TempFolder, Upstream, on_each_backend, until};
use crate::upstream_failures::log_to;

/// A scope whose key is one fragment, with these routes, each in braces.
pub(crate) fn scope(name: &str, key: &str, routes: &str) -> String {
    format!(
        "{{name: {name}, key: {{fragments: [{{string_key: {key}}}]}}, route_configuration: \
         {{name: {name}, virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{routes}]}}]}}}}"
    )
}

/// Scopes by one fragment, which stands where the fields of `extractor` say.
pub(crate) fn scoped(extractor: &str, scopes: &[String]) -> String {
    format!(
        "{{name: test, scope_key_builder: {{fragments: [{{header_value_extractor: {{{extractor}}}}}]}}, \
         scoped_route_configurations_list: {{scoped_route_configurations: [{}]}}}}",
        scopes.join(", ")
    )
}

/// A route that answers with its name.
fn answering(name: &str) -> String {
    format!(
        "{{name: {name}, match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: {name}}}}}}}"
    )
}

const TENANT: &str = r#"name: X-Route, element_separator: ";", element: {separator: "=", key: tenant}"#;

on_each_backend! {
    fn request_goes_by_the_table_of_its_scope_and_without_one_has_no_route(io) {
        let folder = TempFolder::new();
        let path = folder.path().join("access.log");
        let format = "%REQ(X-ROUTE)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %ROUTE_NAME%";
        let upstream = Upstream::echo();
        let second = "{name: second, match: {prefix: /}, route: {cluster: upstream}}";
        let mut config = Config::to(upstream.port)
            .manager(&log_to(&path, format))
            .arguments(&["--file-flush-interval-msec", "20"]);
        config.scoped_routes = Some(scoped(TENANT, &[scope("a", "one", &answering("first")), scope("b", "two", second)]));
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        let asked = [
            ("tenant=one", 200), ("x;tenant=two;tenant=one", 200), ("tenant=three", 404), ("tenant", 404), ("other=one", 404),
            ("tenant=one", 200),
        ];
        for (value, status) in asked {
            let answer = client.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX-Route: {value}\r\n\r\n"));
            assert_eq!(answer.status(), status, "{value}");
        }
        assert_eq!(client.get("/").status(), 404, "on the same connection");
        until("all lines are written", || {
            std::fs::read_to_string(&path).is_ok_and(|text| text.lines().count() == asked.len() + 1)
        });
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().collect::<Vec<_>>(), [
            "tenant=one 200 - direct_response first",
            "x;tenant=two;tenant=one 200 - via_upstream second",
            "tenant=three 404 NR route_not_found -",
            "tenant 404 NR route_not_found -",
            "other=one 404 NR route_not_found -",
            "tenant=one 200 - direct_response first",
            "- 404 NR route_not_found -",
        ]);
        assert_eq!((proxy.stat("http.test.no_route"), proxy.stat("http.test.rq_total")), (4, 7));
        drop(client);
        let client = Http2Client::connect(proxy.port);
        for (value, status, body) in [("tenant=one", 200, "first"), ("tenant=three", 404, ""), ("tenant=one", 200, "first")] {
            let answer = client.send(Request::get("http://a/").header("x-route", value), b"", None);
            assert_eq!((answer.status, String::from_utf8(answer.body).unwrap()), (status, body.to_owned()), "{value}");
        }
        drop(client);
        proxy.wait_until_idle();
        proxy.end();
    }

    fn policies_of_a_scopes_routes_are_counted(io) {
        let all = "permissions: [{any: true}], principals: [{any: true}]";
        let words = |name: &str| {
            format!(
                "typed_per_filter_config: {{rbac: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute, \
                 rbac: {{track_per_rule_stats: true, rules: {{action: DENY, policies: {{{name}: {{{all}}}}}}}}}}}}}"
            )
        };
        let route = |name: &str| format!("{{match: {{prefix: /}}, direct_response: {{status: 200}}, {}}}", words(name));
        let own = format!("track_per_rule_stats: true, rules: {{policies: {{own: {{{all}}}}}}}");
        let mut config = Config::to(1).filter("rbac", "RBAC", &own);
        let scopes = [
            scope("a", "one", &route("first")),
            scope("b", "two", &route("second")),
            scope("c", "three", &answering("third")),
        ];
        config.scoped_routes = Some(scoped(TENANT, &scopes));
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        for (value, status) in [("one", 403), ("two", 403), ("three", 200), ("two", 403), ("none", 404)] {
            let answer = client.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX-Route: tenant={value}\r\n\r\n"));
            assert_eq!(answer.status(), status, "{value}");
        }
        for (policy, count) in [("first.denied", 1), ("second.denied", 2), ("own.allowed", 2)] {
            assert_eq!(proxy.stat(&format!("http.test.rbac.policy.{policy}")), count, "{policy}");
        }
        let counted = ["denied", "allowed"].map(|what| proxy.stat(&format!("http.test.rbac.{what}")));
        assert_eq!(counted, [3, 2]);
        drop(client);
        proxy.end();
    }

    /// What the connection manager writes counts, as in Envoy.
    fn scope_is_that_of_the_request_as_it_is_routed(io) {
        let mut config = Config::to(1);
        let scopes = [scope("plain", "http", &answering("edited"))];
        config.scoped_routes = Some(scoped("name: x-forwarded-proto, index: 0", &scopes));
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        let answer = client.get("/");
        assert_eq!((answer.status(), answer.text()), (200, "edited".to_owned()));
        drop(client);
        proxy.end();
    }

    fn scopes_and_their_tables_are_shown(io) {
        let mut config = Config::to(1);
        let scopes = [scope("a", "one", &answering("first")), scope("b", "two", &answering("second"))];
        config.scoped_routes = Some(scoped(TENANT, &scopes));
        let proxy = Proxy::start(io, &config);
        let shown = |list: &str| -> serde_json::Value {
            let text = proxy.admin("GET", &format!("/config_dump?resource={list}")).text();
            serde_json::from_str(&text).unwrap()
        };
        let scopes = shown("inline_scoped_route_configs");
        assert_eq!(scopes["configs"].as_array().unwrap().len(), 1);
        let shown_scope = &scopes["configs"][0]["scoped_route_configs"][1];
        assert_eq!(scopes["configs"][0]["name"], "test");
        assert_eq!(shown_scope["@type"], "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration");
        assert_eq!((&shown_scope["name"], &shown_scope["key"]["fragments"][0]["string_key"]), (&"b".into(), &"two".into()));
        let tables = shown("static_route_configs");
        let names: Vec<_> = tables["configs"].as_array().unwrap().iter().map(|table| &table["route_config"]["name"]).collect();
        assert_eq!(names, ["a", "b"]);
        proxy.end();
    }
}
