//! Header changes of whole tables, and what compilation refuses.

use super::*;

// === header changes ===

fn adding(key: &str, value: &str, append_action: config::HeaderAppendAction) -> config::HeaderValueOption {
    config::HeaderValueOption { key: key.into(), value: value.into(), append_action, keep_empty_value: false }
}

#[test]
fn header_changes_of_levels_apply_in_order() {
    use config::HeaderAppendAction::OverwriteIfExistsOrAdd;
    let level = |who: &str| config::HeaderMutations {
        request_add: vec![adding("x-who", who, OverwriteIfExistsOrAdd)],
        response_add: vec![adding("x-who", who, OverwriteIfExistsOrAdd)],
        ..Default::default()
    };
    for (most_specific, expected) in [(false, "table"), (true, "route")] {
        let mut forward = config::RouteAction::to(weighted(&[("a", 1)], |it| {
            it.clusters[0].header_mutations = level("weighted");
            it.clusters[0].host_rewrite_literal = Some("w".into());
        }));
        forward.timeout = Duration::ZERO;
        let mut inner = route(prefix("/"), config::Action::Forward(Box::new(forward)));
        inner.header_mutations = level("route");
        let mut virtual_host = host(&["*"], vec![inner]);
        virtual_host.header_mutations = level("host");
        let mut config = table_of(vec![virtual_host]);
        config.header_mutations = level("table");
        config.most_specific_header_mutations_wins = most_specific;
        let table = compile(&config);
        let (route, forward) = forward_of(&table);
        let (info, mut scratch) = (StreamInfo::default(), RouteScratch::default());
        let context = FormatContext::new(&info, 0, 0);
        let mut head = request("h", "/", &[]);
        let choice = forward.choose_cluster(&head, 0);
        table.mutate_request(
            &table.virtual_hosts[0],
            route,
            Some(&choice),
            &mut head,
            &context,
            &mut scratch,
        );
        assert_eq!(text(&head, "x-who"), expected);
        assert_eq!(text(&head, ":authority"), "w");
        let mut response = Head::new();
        let virtual_host = Some(&table.virtual_hosts[0]);
        table.mutate_response(
            virtual_host,
            Some(route),
            Some(&choice),
            &mut response,
            &context,
            &mut scratch,
        );
        assert_eq!(text(&response, "x-who"), expected);
        table.mutate_response(None, None, None, &mut response, &context, &mut scratch);
        assert_eq!(text(&response, "x-who"), "table", "without a route only the table's own apply");
    }
}

#[test]
fn header_changes_of_a_level_remove_compute_overwrite_add() {
    use config::HeaderAppendAction::{
        AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd,
    };
    let mut keep = adding("x-kept-empty", "%REQ(x-none)%", AppendIfExistsOrAdd);
    keep.keep_empty_value = true;
    let mut config = route(prefix("/"), to("c"));
    config.header_mutations.request_remove = vec!["x-gone".into()];
    config.header_mutations.request_add = vec![
        adding("x-a", "2", AppendIfExistsOrAdd),
        adding("x-a", "3", AppendIfExistsOrAdd),
        adding("x-b", "new-%REQ(x-b)%", OverwriteIfExistsOrAdd),
        adding("x-c", "%REQ(x-b)%", AppendIfExistsOrAdd),
        adding("x-d", "absent", AddIfAbsent),
        adding("x-e", "present", AddIfAbsent),
        adding("x-f", "no", OverwriteIfExists),
        adding("x-e", "yes", OverwriteIfExists),
        adding("x-g", "%REQ(x-gone)%", AppendIfExistsOrAdd),
        keep,
    ];
    let table = compile_routes(vec![config]);
    let (route, _) = forward_of(&table);
    let info = StreamInfo::default();
    let mut head =
        request("h", "/", &[("x-a", "1"), ("x-b", "old"), ("x-e", "sent"), ("x-gone", "g"), ("x-kept", "k")]);
    let context = FormatContext::new(&info, 0, 0);
    table.mutate_request(
        &table.virtual_hosts[0],
        route,
        None,
        &mut head,
        &context,
        &mut RouteScratch::default(),
    );
    for (key, expected) in [
        ("x-a", "1|2|3"),
        ("x-b", "new-old"),
        ("x-c", "old"),
        ("x-d", "absent"),
        ("x-e", "yes"),
        ("x-f", ""),
        ("x-g", ""),
        ("x-gone", ""),
        ("x-kept", "k"),
    ] {
        assert_eq!(text(&head, key), expected, "{key}");
    }
    assert!(head.contains(&name("x-kept-empty")) && !head.contains(&name("x-g")));
}

// === refusals ===

#[test]
fn mistakes_are_named_by_their_path() {
    let mut unknown = table_of(vec![host(&["*"], vec![route(prefix("/"), to("missing"))])]);
    assert!(RouteTable::compile(&unknown, &context()).is_ok());
    unknown.validate_clusters = true;
    let error = RouteTable::compile(&unknown, &context()).unwrap_err();
    assert_eq!(error.to_string(), "virtual_hosts[0].routes[0].route.cluster: unknown cluster \"missing\"");

    let error = error_of(route(config::PathMatch::SafeRegex("(".into()), to("c")));
    assert_eq!(error.path, "virtual_hosts[0].routes[0].match.safe_regex.regex");
    let mut config = route(prefix("/"), to("c"));
    config.header_mutations.request_add = vec![adding("Host", "x", Default::default())];
    assert_eq!(error_of(config).path, "virtual_hosts[0].routes[0].request_headers_to_add[0].header.key");
    let mut config = route(prefix("/"), to("c"));
    config.header_mutations.response_add = vec![adding("x", "%NOPE%", Default::default())];
    assert_eq!(error_of(config).path, "virtual_hosts[0].routes[0].response_headers_to_add[0].header.value");
    let mut config = route(prefix("/"), to("c"));
    config.header_mutations.response_remove = vec![":status".into()];
    assert_eq!(error_of(config).path, "virtual_hosts[0].routes[0].response_headers_to_remove[0]");
    for weights in [&[("a", 0)][..], &[("a", u32::MAX), ("b", 1)]] {
        let action = config::RouteAction::to(weighted(weights, |_| {}));
        let error = error_of(route(prefix("/"), config::Action::Forward(Box::new(action))));
        assert_eq!(error.path, "virtual_hosts[0].routes[0].route.weighted_clusters");
    }
    let body = vec![b'x'; 4097].into();
    let error = error_of(route(
        prefix("/"),
        config::Action::DirectResponse(config::DirectResponse { status: 200, body }),
    ));
    assert_eq!(error.reason, "response body size is 4097 bytes; maximum is 4096");
    let twice = table_of(vec![host(&["a"], vec![]), host(&["A"], vec![])]);
    assert!(RouteTable::compile(&twice, &context()).unwrap_err().reason.contains("duplicate domain \"a\""));
}

#[test]
fn ten_thousand_virtual_hosts_are_found() {
    let hosts = (0..10_000).map(|n| host(&[&format!("host-{n}.example.com")], vec![])).collect();
    let table = compile(&table_of(hosts));
    for n in [0, 1, 777, 9_999] {
        let authority = format!("host-{n}.example.com");
        assert_eq!(outcome(&table, &request(&authority, "/", &[]), 0), format!("{authority}/-"));
    }
}
