//! Rules of discovery that holds for virtual hosts told by themselves.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::compiler::SharedCompiler;
use super::delta::Delta;
use super::filter_tests::subscribers;
use super::judge::{Good, Judge, Kind, Outcome, Taken};
use super::quarantine::Quarantine;
use super::subscribers::{Hosted, Subscribers};
use super::tables::KnownTables;
use super::tests::{ASKS_FOR_ROUTES, compiled, compiling, host};
use super::virtual_hosts::{ChangedTable, HostJudge, KnownHosts, table_of};
use super::wanted::Wanted;
use super::{HostsUpdate, Protocol, ROUTES, RoutesUpdate, Update, Updates, VIRTUAL_HOSTS};
use crate::base::limits::ON_DEMAND_WAIT;
use crate::config::ads::{ResourceSource, Vhds};
use crate::control::xds::convert::{Planes, Runtime};
use crate::control::xds::loader::{Format, Source};
use crate::control::xds::{LoadOptions, load_bootstrap, pb};
use crate::snapshot::{RouteCompiler, RouteSurroundings};
use crate::telemetry::{Slot, VhdsStat};
use pb::core::ConfigSourceConfigSourceSpecifierOneOf as Specifier;
use pb::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use pb::route::{RouteConfiguration, VirtualHost};

const ADS: ResourceSource = ResourceSource::Ads;

/// A control plane's two types, and what is known of them.
struct Client {
    routes: Delta,
    hosts: Delta,
    known: KnownTables,
    all: KnownHosts,
    quarantine: Quarantine,
}

impl Client {
    /// One that asks for the table `routes` over an aggregated stream of this type.
    fn new(api_type: &str) -> Self {
        Self::with(api_type, compiling())
    }

    /// The same; what is compiled is compiled with this.
    fn with(api_type: &str, surroundings: Arc<RouteSurroundings>) -> Self {
        let text = ASKS_FOR_ROUTES.replace("api_type: GRPC", &format!("api_type: {api_type}"));
        let source = Source { name: "test.yaml", text: &text, format: Format::Yaml };
        let bootstrap = load_bootstrap(&[source], LoadOptions::default()).unwrap().bootstrap;
        let compiler = RouteCompiler::of(&compiled(&bootstrap.listeners), surroundings);
        let compiler = SharedCompiler::new(compiler, Runtime::default());
        let (known, quarantine) = (KnownTables::default(), Quarantine::default());
        let all = KnownHosts::new(Planes::of(&bootstrap), quarantine.clone());
        let judge = HostJudge::new(ADS, compiler.clone(), all.clone());
        let tables = Judge::Routes { compiler, source: ADS, known: known.clone(), hosts: all.clone() };
        let node = pb::core::Node::default;
        let asked = Wanted::Names([Arc::<str>::from("routes")].into());
        let mut client = Self {
            routes: Delta::new(tables, node(), asked, true),
            hosts: Delta::new(Judge::VirtualHosts(judge), node(), Wanted::All, true),
            known,
            all,
            quarantine,
        };
        client.routes.open(true);
        client.hosts.open(false);
        client
    }

    /// Takes the table with these virtual hosts of its own; what is wrong with it.
    fn table(&mut self, own: &[VirtualHost]) -> Result<(), String> {
        refusal(&self.tell_table(own).reply)
    }

    fn tell_table(&mut self, own: &[VirtualHost]) -> Taken<DeltaDiscoveryRequest> {
        self.routes.take(change(ROUTES, vec![("routes", table(own).encode_to_vec())], &[])).unwrap()
    }

    /// Takes these virtual hosts.
    fn tell(&mut self, hosts: &[VirtualHost], removed: &[&str]) -> Taken<DeltaDiscoveryRequest> {
        let hosts = hosts.iter().map(|host| (host.name.as_str(), host.encode_to_vec())).collect();
        self.hosts.take(change(VIRTUAL_HOSTS, hosts, removed)).unwrap()
    }

    /// Names of the virtual hosts of the table that is in use.
    fn in_use(&self) -> Vec<String> {
        names(&self.known.get("routes").unwrap())
    }
}

/// The table with these virtual hosts of its own; others are told.
fn table(own: &[VirtualHost]) -> RouteConfiguration {
    let source = pb::core::ConfigSource {
        config_source_specifier: Some(Specifier::Ads(pb::core::AggregatedConfigSource {})),
        ..pb::core::ConfigSource::default()
    };
    RouteConfiguration {
        name: "routes".into(),
        virtual_hosts: own.iter().map(Message::encode_to_vec).collect(),
        vhds: Some(pb::route::Vhds { config_source: Some(source) }),
        ..RouteConfiguration::default()
    }
}

fn change(type_url: &str, resources: Vec<(&str, Vec<u8>)>, removed: &[&str]) -> DeltaDiscoveryResponse {
    let resource = |(name, value): (&str, Vec<u8>)| Resource {
        name: name.into(),
        version: "1".into(),
        resource: Some(pb::google::Any { type_url: type_url.into(), value }),
        ..Resource::default()
    };
    DeltaDiscoveryResponse {
        nonce: "n".into(),
        type_url: type_url.into(),
        resources: resources.into_iter().map(resource).collect(),
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn refusal(reply: &DeltaDiscoveryRequest) -> Result<(), String> {
    reply.error_detail.as_ref().map_or(Ok(()), |status| Err(status.message.clone()))
}

/// Of a table the names of its virtual hosts.
fn names(wire: &[u8]) -> Vec<String> {
    let message = RouteConfiguration::decode(wire).unwrap();
    let hosts = message.virtual_hosts.iter();
    hosts.map(|bytes| VirtualHost::decode(&**bytes).unwrap().name).collect()
}

/// What a response has the workers given: of each table its virtual hosts.
fn changed(outcome: &Outcome) -> Vec<Vec<String>> {
    outcome.tables.iter().map(|table| names(&table.wire)).collect()
}

fn a() -> VirtualHost {
    host("routes/a", "a.test", "/a", "a")
}

fn b() -> VirtualHost {
    host("routes/b", "b.test", "/b", "a")
}

#[test]
fn names_of_virtual_hosts_begin_with_those_of_their_tables() {
    let tables = ["routes/a.test", "in/all/a", "/a", "a"].map(table_of);
    assert_eq!(tables, ["routes", "in/all", "", ""]);
}

/// As Envoy, a request without names: everything is meant.
#[test]
fn s2_all_virtual_hosts_are_asked_for_once_a_table_has_some() {
    let mut client = Client::new("DELTA_GRPC");
    let first = client.hosts.open(true).unwrap();
    assert_eq!(first.type_url, VIRTUAL_HOSTS);
    assert!(first.resource_names_subscribe.is_empty());
    assert!(client.hosts.want(Wanted::All, None).is_none(), "once a stream");
    client.tell(&[a()], &[]);
    let again = client.hosts.open(true).unwrap();
    assert_eq!(again.initial_resource_versions["routes/a"], "1");
}

#[test]
fn virtual_hosts_stand_behind_those_of_the_table_until_they_are_removed() {
    let mut client = Client::new("DELTA_GRPC");
    client.table(&[host("all", "*", "/", "a")]).unwrap();
    assert_eq!(client.in_use(), ["all"]);
    let taken = client.tell(&[b(), a()], &[]);
    assert!(taken.reply.error_detail.is_none());
    assert_eq!(changed(&taken.outcome), [["all", "routes/a", "routes/b"]], "one change");
    let table = &taken.outcome.tables[0];
    assert_eq!((table.resources.len(), &table.source, &*table.name), (1, &ADS, "routes"));
    assert!(changed(&client.tell(&[a()], &["routes/c"]).outcome).is_empty(), "nothing new");
    assert_eq!(changed(&client.tell(&[], &["routes/a"]).outcome), [["all", "routes/b"]]);
    // The table changes under them.
    let own = [host("own", "own.test", "/", "a")];
    let taken = client.tell_table(&own);
    let Good::Routes(_, wire) = &taken.outcome.good["routes"] else { panic!("{taken:?}") };
    assert_eq!(names(wire), ["own", "routes/b"]);
    assert_eq!(client.in_use(), ["own", "routes/b"]);
    assert!(matches!(client.tell_table(&own).outcome.good["routes"], Good::Same));
    assert_eq!(changed(&client.tell(&[], &["routes/b"]).outcome), [["own"]]);
}

/// Of streams of their own either may be the one whose update comes last.
#[test]
fn table_with_virtual_hosts_is_stale_once_the_table_has_none_any_more() {
    let mut client = Client::new("DELTA_GRPC");
    client.table(&[]).unwrap();
    let taken = client.tell(&[a()], &[]);
    let with_hosts = &taken.outcome.tables[0].wire;
    assert!(!client.known.is_other("routes", with_hosts), "it is in use");
    let bare = RouteConfiguration { name: "routes".into(), ..RouteConfiguration::default() };
    let taken = client.routes.take(change(ROUTES, vec![("routes", bare.encode_to_vec())], &[])).unwrap();
    let Good::Routes(_, without) = &taken.outcome.good["routes"] else { panic!("{taken:?}") };
    assert!(client.known.is_other("routes", with_hosts) && !client.known.is_other("routes", without));
    assert!(!client.known.is_other("others", with_hosts), "nobody knows of another");
}

/// A control plane with a stream for each type tells them in any order, and each only once.
#[test]
fn virtual_hosts_told_before_their_table_wait_for_it() {
    let mut client = Client::new("DELTA_GRPC");
    let bad = host("routes/bad", "bad.test", "(", "a");
    let others = ["others/x", "nobody"].map(|name| host(name, "x.test", "/", "a"));
    let taken = client.tell(&[[a(), bad], others].concat(), &[]);
    assert!(taken.reply.error_detail.is_none() && changed(&taken.outcome).is_empty());
    client.table(&[]).unwrap();
    assert_eq!(client.in_use(), ["routes/a"], "what cannot stand in it is left out");
    let (listed, _) = client.quarantine.list();
    assert!(matches!(&listed[..], [one] if one.name == "routes/bad" && one.reason.contains("safe_regex")));
    let mended = host("routes/bad", "bad.test", "/", "a");
    assert_eq!(changed(&client.tell(&[mended], &[]).outcome), [["routes/a", "routes/bad"]]);
    assert!(client.all.has(&ADS, "others") && !client.all.has(&ADS, "routers"));
}

#[test]
fn p1_good_virtual_hosts_of_a_refused_response_are_used_and_bad_ones_stay_as_they_were() {
    let mut client = Client::new("DELTA_GRPC");
    client.table(&[]).unwrap();
    client.tell(&[a()], &[]);
    let before = client.known.get("routes").unwrap();
    let taken = client.tell(&[host("routes/a", "a.test", "(", "a"), b()], &[]);
    let reason = refusal(&taken.reply).unwrap_err();
    assert!(reason.starts_with("routes/a: routes[0].match.safe_regex"), "{reason}");
    assert!(taken.outcome.failed.contains_key("routes/a"), "kept to be shown");
    assert_eq!(changed(&taken.outcome), [["routes/a", "routes/b"]]);
    assert!(client.known.get("routes").unwrap().starts_with(&before), "the old one stays");
    let garbage = change(VIRTUAL_HOSTS, vec![("routes/a", vec![0xff; 9])], &["routes/b"]);
    let taken = client.hosts.take(garbage).unwrap();
    assert!(refusal(&taken.reply).unwrap_err().starts_with("routes/a: cannot be decoded"));
    assert_eq!(changed(&taken.outcome), [["routes/a"]], "what a refused response removes is removed");
}

#[test]
fn virtual_hosts_that_want_a_domain_of_another_are_refused_together() {
    let mut client = Client::new("DELTA_GRPC");
    client.table(&[host("own", "own.test", "/", "a")]).unwrap();
    client.tell(&[a()], &[]);
    let taken = client.tell(&[b(), host("routes/c", "OWN.test", "/", "a")], &["routes/a"]);
    let reason = refusal(&taken.reply).unwrap_err();
    assert!(reason.starts_with("routes/b: with the others of routes: "), "{reason}");
    assert!(reason.contains("routes/c: ") && reason.contains("duplicate of \"OWN.test\""), "{reason}");
    assert_eq!(changed(&taken.outcome), [["own"]]);
    // A domain may move from one to the other in one response.
    client.tell(&[a(), b()], &[]);
    let moved = [host("routes/a", "c.test", "/a", "a"), host("routes/b", "a.test", "/b", "a")];
    assert!(client.tell(&moved, &[]).reply.error_detail.is_none());
    // As Envoy: a table that does not go with them is refused.
    let reason = client.table(&[host("own", "a.test", "/", "a")]).unwrap_err();
    assert!(reason.starts_with("routes: with the virtual hosts that are in use: "), "{reason}");
    assert_eq!(client.in_use(), ["own", "routes/a", "routes/b"]);
}

/// Routes that are compiled are counted by the looks at their clusters.
#[test]
fn response_has_its_table_compiled_once_however_many_virtual_hosts_it_has() {
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    let surroundings = RouteSurroundings {
        cluster_exists: Box::new(move |name: &str| {
            counted.fetch_add(1, Ordering::Relaxed);
            name == "a"
        }),
        ..Arc::into_inner(compiling()).unwrap()
    };
    let mut client = Client::with("DELTA_GRPC", Arc::new(surroundings));
    let validated = RouteConfiguration { validate_clusters: Some(true), ..table(&[]) };
    client.routes.take(change(ROUTES, vec![("routes", validated.encode_to_vec())], &[])).unwrap();
    let host = |number: usize| host(&format!("routes/{number}"), &format!("{number}.test"), "/", "a");
    let mut tell = |hosts: &[VirtualHost]| {
        looks.store(0, Ordering::Relaxed);
        let taken = client.tell(hosts, &[]);
        (taken.reply.error_detail.is_none(), looks.load(Ordering::Relaxed))
    };
    let (_, each) = tell(&[host(0)]);
    assert!(each > 0);
    let many: Vec<_> = (1..100).map(host).collect();
    assert_eq!(tell(&many), (true, 100 * each));
    assert_eq!(tell(&[host(100)]), (true, 101 * each));
    // One wants a domain of another: all of them, each alone, then beside each other.
    let mut mixed: Vec<_> = (101..150).map(host).collect();
    mixed.push(VirtualHost { domains: vec!["0.test".into()], ..host(150) });
    let (is_good, looked) = tell(&mixed);
    assert!(!is_good && looked <= (151 + 50 + 151 + 101) * each, "{looked}");
}

#[test]
fn virtual_hosts_are_told_by_delta_alone() {
    let reason = Client::new("GRPC").table(&[]).unwrap_err();
    assert!(reason.starts_with("routes: vhds.config_source: virtual hosts are told by delta: "), "{reason}");
}

fn hosted(prefixes: &[&str]) -> Hosted {
    Hosted {
        source: ADS,
        name: "routes".into(),
        vhds: Vhds { source: ADS, initial_fetch_timeout: Some(Duration::from_secs(2)) },
        prefixes: prefixes.iter().map(|prefix| (*prefix).into()).collect(),
        has_some: false,
    }
}

/// Of each update the virtual hosts of the table; `None`: it goes without them.
fn told(receiver: &mut mpsc::Receiver<Updates>) -> Vec<Option<Vec<String>>> {
    let table = |update| match update {
        Update::Routes(RoutesUpdate { source, name, wire, .. }) => {
            assert_eq!((&source, &*name), (&ADS, "routes"));
            (!wire.is_empty()).then(|| names(&wire))
        }
        other => panic!("{other:?}"),
    };
    std::iter::from_fn(|| receiver.try_recv().ok()).flatten().map(table).collect()
}

/// Takes these virtual hosts, and hands on what comes of it.
async fn take(client: &mut Client, all: &Subscribers, hosts: &[VirtualHost], removed: &[&str]) {
    let Taken { outcome, version, .. } = client.tell(hosts, removed);
    all.apply(Kind::VirtualHosts, outcome, &version).await;
}

#[tokio::test(start_paused = true)]
async fn table_waits_for_the_first_of_its_virtual_hosts_and_counts_what_comes() {
    let mut client = Client::new("DELTA_GRPC");
    client.table(&[]).unwrap();
    let (all, mut receiver, registry) = subscribers();
    assert!(all.wanted(Kind::VirtualHosts).is_nothing());
    assert!(all.add_hosts(hosted(&["one"]), &registry));
    assert_eq!(all.wanted(Kind::VirtualHosts), Wanted::All);
    // Others are not its own.
    take(&mut client, &all, &[host("others/x", "x.test", "/", "a")], &[]).await;
    assert!(told(&mut receiver).is_empty() && all.add_hosts(hosted(&["one"]), &registry));
    take(&mut client, &all, &[a()], &[]).await;
    assert_eq!(told(&mut receiver), [Some(vec!["routes/a".to_owned()])]);
    assert!(!all.add_hosts(hosted(&["one", "two"]), &registry), "there was an answer");
    take(&mut client, &all, &[a()], &[]).await;
    take(&mut client, &all, &[host("routes/a", "a.test", "(", "a")], &[]).await;
    take(&mut client, &all, &[], &["routes/a"]).await;
    assert_eq!(told(&mut receiver), [Some(Vec::<String>::new())]);
    let counted = |prefix: &str| {
        let cells = registry.vhds(prefix, "routes").cells(Slot::Control);
        [VhdsStat::UpdateAttempt, VhdsStat::UpdateSuccess, VhdsStat::UpdateRejected, VhdsStat::ConfigReload]
            .map(|stat| cells.value(stat))
    };
    assert_eq!((counted("one"), counted("two")), ([5, 3, 1, 2], [3, 2, 1, 1]));
    all.remove_hosts(&ADS, "routes", &registry);
    assert!(all.is_empty());
    assert_eq!(all.wanted(Kind::VirtualHosts), Wanted::All, "no stream takes it back");
}

#[tokio::test]
async fn all_tables_that_one_response_changes_are_handed_on_as_one() {
    let (all, mut receiver, _registry) = subscribers();
    let table = |name: &str| ChangedTable {
        source: ADS,
        name: name.into(),
        resources: Arc::default(),
        wire: Arc::default(),
    };
    let tables = vec![table("a"), table("b")];
    all.apply(Kind::VirtualHosts, Outcome { tables, ..Outcome::default() }, "1").await;
    assert_eq!(receiver.try_recv().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn table_goes_without_virtual_hosts_that_do_not_come() {
    let (all, mut receiver, registry) = subscribers();
    all.add_hosts(hosted(&["one"]), &registry);
    assert!(timeout(Duration::from_secs(1), all.give_up_in_time()).await.is_err());
    assert!(told(&mut receiver).is_empty());
    assert!(timeout(Duration::from_secs(2), all.give_up_in_time()).await.is_err());
    assert_eq!(told(&mut receiver), [None::<Vec<String>>]);
    let cells = registry.vhds("one", "routes").cells(Slot::Control);
    assert_eq!(cells.value(VhdsStat::InitFetchTimeout), 1);
    // An answer that has nothing says that there is nothing; one that is no good keeps nobody waiting, either.
    for response in [
        change(VIRTUAL_HOSTS, Vec::new(), &[]),
        change(VIRTUAL_HOSTS, vec![("routes/a", vec![0xff; 9])], &[]),
    ] {
        let (all, mut receiver, registry) = subscribers();
        assert!(all.add_hosts(hosted(&["one"]), &registry));
        let Taken { outcome, version, .. } = Client::new("DELTA_GRPC").hosts.take(response).unwrap();
        all.apply(Kind::VirtualHosts, outcome, &version).await;
        assert_eq!(told(&mut receiver), [None::<Vec<String>>]);
        assert!(!all.add_hosts(hosted(&["one"]), &registry));
    }
}

/// A response to names that requests asked for: one is answered by an alias, of the other there is nothing.
#[tokio::test(start_paused = true)]
async fn virtual_hosts_are_asked_for_by_name_beside_all_until_there_is_none() {
    let mut client = Client::new("DELTA_GRPC");
    client.table(&[]).unwrap();
    let (all, mut receiver, registry) = subscribers();
    assert!(!all.ask_host("routes", "a.test"), "nobody has the table");
    all.add_hosts(hosted(&["one"]), &registry);
    assert!(all.ask_host("routes", "a.test") && all.ask_host("routes", "b.test"));
    let asked = client.hosts.want(all.wanted(Kind::VirtualHosts), None).unwrap();
    assert_eq!(asked.resource_names_subscribe, ["routes/a.test", "routes/b.test"]);
    let mut told = change(VIRTUAL_HOSTS, vec![("routes/a", a().encode_to_vec())], &[]);
    told.resources[0].aliases = vec!["routes/a.test".into(), "routes/x.test".into()];
    told.resources.push(Resource { name: "routes/b.test".into(), ..Resource::default() });
    let Taken { outcome, version, reply, .. } = client.hosts.take(told).unwrap();
    assert!(reply.error_detail.is_none());
    all.apply(Kind::VirtualHosts, outcome, &version).await;
    let updates = receiver.try_recv().unwrap();
    let [Update::Routes(routes), Update::Hosts(HostsUpdate { names: heard, .. })] = &updates[..] else {
        panic!("{updates:?}");
    };
    assert_eq!(names(&routes.wire), ["routes/a"]);
    let heard: Vec<_> = heard.iter().map(|name| &**name).collect();
    assert_eq!(heard, ["routes/a.test", "routes/b.test"]);
    assert!(!all.ask_host("routes", "a.test"), "it was told");
    let asked = client.hosts.want(all.wanted(Kind::VirtualHosts), None).unwrap();
    assert!(asked.resource_names_subscribe.is_empty());
    assert_eq!(asked.resource_names_unsubscribe, ["routes/b.test"]);
    // On another stream it is still asked for, and is gone there.
    let asked = client.hosts.open(false).unwrap();
    assert_eq!(asked.resource_names_subscribe, ["*", "routes/a.test"]);
    assert_eq!(asked.initial_resource_versions["routes/a"], "1", "no name takes its version away");
    take(&mut client, &all, &[], &["routes/a.test"]).await;
    assert!(!all.ask_host("routes", "a.test"), "the control plane has not heard of it yet");
    assert_eq!(all.ask(Kind::VirtualHosts), Wanted::All);
    assert!(all.ask_host("routes", "a.test"), "it may come again");
    all.remove_hosts(&ADS, "routes", &registry);
    assert_eq!(all.wanted(Kind::VirtualHosts), Wanted::All);
}

/// The control plane may have had nothing then, and have said nothing.
#[tokio::test(start_paused = true)]
async fn virtual_host_of_which_nothing_was_said_is_asked_for_again() {
    let mut client = Client::new("DELTA_GRPC");
    let (all, _receiver, registry) = subscribers();
    all.add_hosts(hosted(&["one"]), &registry);
    let mut changes = all.all_changes();
    let (none, name): (&[&str], &[&str]) = (&[], &["routes/a.test"]);
    for (asks, subscribe, unsubscribe) in [(true, name, none), (true, none, name), (false, name, none)] {
        if asks {
            sleep(ON_DEMAND_WAIT).await;
            assert!(all.ask_host("routes", "a.test"));
        }
        assert_eq!(timeout(Duration::ZERO, changes.next()).await, Ok(Some(Kind::VirtualHosts)));
        let said = client.hosts.want(all.ask(Kind::VirtualHosts), None).unwrap();
        assert_eq!(said.resource_names_subscribe, subscribe);
        assert_eq!(said.resource_names_unsubscribe, unsubscribe);
    }
}

/// A virtual host that is refused is no answer that anybody could go on with.
#[tokio::test(start_paused = true)]
async fn refused_virtual_host_is_asked_for_no_longer() {
    let mut client = Client::new("DELTA_GRPC");
    client.table(&[]).unwrap();
    let (all, mut receiver, registry) = subscribers();
    all.add_hosts(hosted(&["one"]), &registry);
    assert!(all.ask_host("routes", "a"));
    client.hosts.want(all.wanted(Kind::VirtualHosts), None).unwrap();
    take(&mut client, &all, &[host("routes/a", "a.test", "(", "a")], &[]).await;
    let updates: Vec<_> = std::iter::from_fn(|| receiver.try_recv().ok()).flatten().collect();
    assert!(matches!(updates.last(), Some(Update::Hosts(_))), "{updates:?}");
    assert_eq!(all.wanted(Kind::VirtualHosts), Wanted::All);
}

/// Of what is asked for no longer a control plane might tell no changes.
#[tokio::test(start_paused = true)]
async fn virtual_host_that_is_there_stays_asked_for_until_it_is_gone() {
    let mut client = Client::new("DELTA_GRPC");
    client.table(&[]).unwrap();
    let (all, _receiver, registry) = subscribers();
    all.add_hosts(hosted(&["one"]), &registry);
    assert!(all.ask_host("routes", "a.test"));
    client.hosts.want(all.wanted(Kind::VirtualHosts), None).unwrap();
    let mut told = change(VIRTUAL_HOSTS, vec![("routes/a", a().encode_to_vec())], &[]);
    told.resources[0].aliases = vec!["routes/a.test".into()];
    let mut refused = told.clone();
    refused.resources[0].resource.as_mut().unwrap().value = vec![0xff; 9];
    let without_body = Resource { name: "routes/a.test".into(), ..Resource::default() };
    let nothing_new = DeltaDiscoveryResponse { resources: vec![without_body], ..told.clone() };
    for response in [told, refused, nothing_new] {
        let Taken { outcome, version, .. } = client.hosts.take(response).unwrap();
        all.apply(Kind::VirtualHosts, outcome, &version).await;
        let asked = Wanted::AllAnd([Arc::<str>::from("routes/a.test")].into());
        assert_eq!(all.wanted(Kind::VirtualHosts), asked);
    }
    take(&mut client, &all, &[], &["routes/a"]).await;
    assert_eq!(all.ask(Kind::VirtualHosts), Wanted::All);
    assert!(all.ask_host("routes", "a.test"), "it may come again");
}

/// There may be thousands of names of other types, and clients choose when they ask.
#[tokio::test(start_paused = true)]
async fn requests_that_ask_have_no_other_type_looked_through() {
    let (all, _receiver, registry) = subscribers();
    all.add_hosts(hosted(&["one"]), &registry);
    let (others, mut changes) = (all.changes(), all.all_changes());
    assert!(all.ask_host("routes", "a.test"));
    assert_eq!(timeout(Duration::ZERO, changes.next()).await, Ok(Some(Kind::VirtualHosts)));
    assert!(all.ask_host("routes", "a.test"), "by others a moment ago");
    assert!(timeout(Duration::ZERO, changes.next()).await.is_err() && !others.has_changed().unwrap());
    all.remove_hosts(&ADS, "routes", &registry);
    assert_eq!(timeout(Duration::ZERO, changes.next()).await, Ok(None));
}

/// What there is not of one table says nothing of the others.
#[tokio::test(start_paused = true)]
async fn host_that_is_not_there_ends_no_other_tables_wait() {
    let mut client = Client::new("DELTA_GRPC");
    client.table(&[]).unwrap();
    let (all, _receiver, registry) = subscribers();
    let others = || Hosted { name: "others".into(), ..hosted(&["one"]) };
    assert!(all.add_hosts(hosted(&["one"]), &registry) && all.add_hosts(others(), &registry));
    assert!(all.ask_host("routes", "a.test"));
    client.hosts.want(all.wanted(Kind::VirtualHosts), None).unwrap();
    let nothing = Resource { name: "routes/a.test".into(), ..Resource::default() };
    let response =
        DeltaDiscoveryResponse { resources: vec![nothing], ..change(VIRTUAL_HOSTS, Vec::new(), &[]) };
    let Taken { outcome, version, .. } = client.hosts.take(response).unwrap();
    all.apply(Kind::VirtualHosts, outcome, &version).await;
    assert!(all.add_hosts(others(), &registry), "of its own nothing was said");
    assert!(!all.add_hosts(hosted(&["one"]), &registry));
    let empty = |table: &str| registry.vhds("one", table).cells(Slot::Control).value(VhdsStat::UpdateEmpty);
    assert_eq!((empty("routes"), empty("others")), (0, 0));
}

/// What nobody asks for any more is not held against a table that is no more.
#[test]
fn table_that_nobody_asks_for_leaves_its_virtual_hosts_to_the_next_of_its_name() {
    let mut client = Client::new("DELTA_GRPC");
    client.table(&[]).unwrap();
    client.tell(&[a()], &[]);
    client.routes.want(Wanted::Names(Default::default()), None);
    assert!(client.known.get("routes").is_none());
    let taken = client.tell(&[b()], &[]);
    assert!(taken.reply.error_detail.is_none() && taken.outcome.tables.is_empty());
    client.routes.want(Wanted::Names([Arc::<str>::from("routes")].into()), None);
    client.table(&[]).unwrap();
    assert_eq!(client.in_use(), ["routes/a", "routes/b"]);
    client.all.forget_source(&ADS);
    assert!(!client.all.has(&ADS, "routes"));
}
