//! One response of a control plane is one generation: a worker that serves by a part of it serves by all of it from then on.

use crate::harness::ToldCluster::At;
use crate::harness::{
    Client, Config, ControlPlane, Proxy, RUNTIME, free_port, on_each_backend, told_runtime, until,
};
use crate::xds::{manager, named};
use crate::xds_runtime::config;

/// How often a test has everything changed.
const TURNS: usize = 40;
/// Questions between two looks at the clock.
const QUESTIONS: usize = 50;

/// Names of what a response changes: so many between the first and the last.
fn names(between: usize) -> Vec<String> {
    let between = (0..between).map(|number| format!("m{number:03}"));
    ["a".to_owned()].into_iter().chain(between).chain(["z".to_owned()]).collect()
}

/// The same, each with that.
fn each<T: Copy>(names: &[String], with: T) -> Vec<(&str, T)> {
    names.iter().map(|name| (name.as_str(), with)).collect()
}

/// Asks one and then the other, on connections of one worker, until both answer as they are to from now on. Whoever has had the
/// new answer of one has no old one of the other afterwards. Either may be the one that is changed first.
fn change_together(turn: usize, new: &str, mut ask: impl FnMut(&str) -> String) {
    let [one, other] = if (turn / 2).is_multiple_of(2) { ["a", "z"] } else { ["z", "a"] };
    until("everything is new", || {
        (0..QUESTIONS).any(|_| {
            let (first, second) = (ask(one), ask(other));
            let is_half = first == new && second != new;
            assert!(!is_half, "turn {turn}: {one} is new, {other} is not: {second}");
            first == new
        })
    });
}

/// Tells one state and then the other, which is taken whole each time.
fn take_turns(plane: &ControlPlane, tell: impl Fn(usize) -> String, mut ask: impl FnMut(&str) -> String) {
    for turn in 1..=TURNS {
        let nonce = tell(turn);
        change_together(turn, ["0", "1"][turn % 2], &mut ask);
        assert!(plane.answer(&nonce).error.is_none());
    }
}

on_each_backend! {
    fn endpoints_of_one_response_change_together(io) {
        let (upstreams, names) = ([named("0"), named("1")], names(200));
        let plane = ControlPlane::start();
        let tell = |turn: usize| plane.tell_endpoints(&each(&names, upstreams[turn % 2].port));
        plane.tell_routes(&[("/a", "a"), ("/z", "z")]);
        tell(0);
        let clusters: Vec<_> = names.iter().map(String::as_str).collect();
        let config = Config { clusters: Some(plane.clusters(&clusters)), ..Config::to(0) };
        let config = config
            .chains(&[manager("{ads: {}, resource_api_version: V3}")])
            .arguments(&["--concurrency", "1", "--config-yaml", &plane.bootstrap()]);
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        take_turns(&plane, tell, |name| client.get(&format!("/{name}")).text());
        proxy.end();
    }

    /// A layer for each name, whose one value is the share of requests for that path that the second upstream has.
    fn runtime_layers_of_one_response_change_together(io) {
        let (upstreams, names) = ([named("0"), named("1")], names(100));
        let plane = ControlPlane::start();
        let tell = |turn: usize| {
            let share = [0.0, 100.0][turn % 2];
            plane.push(RUNTIME, names.iter().map(|name| told_runtime(name, &[(name.as_str(), share)])).collect())
        };
        tell(0);
        let layers: Vec<_> = names
            .iter()
            .map(|name| {
                format!("{{name: {name}, rtds_layer: {{name: {name}, rtds_config: {{ads: {{}}, resource_api_version: V3}}}}}}")
            })
            .collect();
        let shared = ["a", "z"].map(|name| {
            format!(
                "{{match: {{prefix: /{name}, runtime_fraction: {{default_value: {{numerator: 0}}, runtime_key: {name}}}}}, route: {{cluster: b}}}}, "
            )
        });
        let routes = format!("{}{{match: {{prefix: /}}, route: {{cluster: a}}}}", shared.concat());
        let [zero, one] = &upstreams;
        let config = config(&layers.join(", "), &plane.bootstrap(), Some(&plane), zero, one);
        let proxy = Proxy::start(io, &Config { routes: Some(routes), ..config });
        let mut client = proxy.connect();
        take_turns(&plane, tell, |name| client.get(&format!("/{name}")).text());
        proxy.end();
    }

    fn tables_of_one_response_change_together(io) {
        let (upstreams, names) = ([named("0"), named("1")], names(10));
        let plane = ControlPlane::start();
        let tell = |turn: usize| plane.tell_tables(&each(&names, ["zero", "one"][turn % 2]));
        let ports = upstreams.each_ref().map(|upstream| [upstream.port]);
        plane.tell_clusters(&[("zero", At(&ports[0])), ("one", At(&ports[1]))]);
        let ports: Vec<_> = names.iter().map(|_| free_port()).collect();
        let listeners = names.iter().zip(&ports);
        let listeners: Vec<_> =
            listeners.map(|(name, &port)| (name.as_str(), u32::from(port), name.as_str())).collect();
        plane.tell_listeners(&listeners);
        tell(0);
        let config = Config { clusters: Some(plane.clusters(&[])), no_listener: true, ..Config::to(0) };
        let bootstrap = plane.bootstrap_with_listeners("15s");
        let config = config.arguments(&["--concurrency", "1", "--config-yaml", &bootstrap]);
        let proxy = Proxy::launch(io, &config, ports[0], free_port());
        proxy.wait_for_log("serving");
        let (mut first, mut last) = (Client::connect(ports[0]), Client::connect(ports[names.len() - 1]));
        take_turns(&plane, tell, |name| if name == "a" { first.get("/").text() } else { last.get("/").text() });
        drop((first, last));
        proxy.end();
    }
}
