//! DNS discovery against a name server on the loopback. No test waits for time to pass: the wait between two resolutions
//! is an event that the test sees and ends.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Members, Mode, resolve, run};
use crate::config::address::{EndpointAddress, HostPort};
use crate::config::cluster::{Dns, DnsLookupFamily, RefreshRate};
use crate::config::endpoint::{ClusterLoadAssignment, Endpoint, HealthStatus, LocalityEndpoints};
use crate::control::discovery::EndpointUpdate;
use crate::telemetry::metrics::{ClusterCells, Slot};
use crate::telemetry::{ClusterStat, Registry};

const SECOND: Duration = Duration::from_secs(1);

/// What the server says of a name and a type: addresses with one time to live, or an error.
type Zone = Arc<Mutex<HashMap<(String, RecordType), Result<(Vec<String>, u32), ResponseCode>>>>;

/// A name server, and what was asked of it.
struct Server {
    address: SocketAddr,
    zone: Zone,
    asked: Arc<Mutex<Vec<RecordType>>>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (zone, asked) = (Zone::default(), Arc::new(Mutex::new(Vec::new())));
        let task = tokio::spawn(serve(socket, Arc::clone(&zone), Arc::clone(&asked)));
        Self { address, zone, asked, task }
    }

    fn set(&self, name: &str, record_type: RecordType, addresses: &[&str], ttl: u32) {
        let addresses = addresses.iter().map(|address| (*address).to_string()).collect();
        self.zone.lock().unwrap().insert((format!("{name}."), record_type), Ok((addresses, ttl)));
    }

    fn fail(&self, name: &str, record_type: RecordType, code: ResponseCode) {
        self.zone.lock().unwrap().insert((format!("{name}."), record_type), Err(code));
    }

    fn asked(&self) -> Vec<RecordType> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(socket: UdpSocket, zone: Zone, asked: Arc<Mutex<Vec<RecordType>>>) {
    let mut buffer = [0; 1500];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        let request = Message::from_vec(&buffer[..length]).unwrap();
        let query = request.queries[0].clone();
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.add_query(query.clone());
        asked.lock().unwrap().push(query.query_type());
        let found = zone.lock().unwrap().get(&(query.name().to_ascii(), query.query_type())).cloned();
        match found {
            Some(Ok((addresses, ttl))) => {
                for address in addresses {
                    let data = RData::from(address.parse::<std::net::IpAddr>().unwrap());
                    response.add_answer(Record::from_rdata(query.name().clone(), ttl, data));
                }
            }
            Some(Err(code)) => response.metadata.response_code = code,
            None => response.metadata.response_code = ResponseCode::NXDomain,
        }
        socket.send_to(&response.to_vec().unwrap(), client).await.unwrap();
    }
}

/// One cluster being resolved, its waits in the test's hand.
struct Watched {
    server: Server,
    updates: mpsc::Receiver<EndpointUpdate>,
    waits: mpsc::UnboundedReceiver<(Duration, tokio::sync::oneshot::Sender<()>)>,
    cells: ClusterCells,
    task: JoinHandle<()>,
}

impl Watched {
    async fn start(server: Server, mode: Mode, names: &[&str], dns: Dns) -> Self {
        let dns = Dns { resolvers: vec![server.address], no_default_search_domain: true, ..dns };
        let cells = Registry::new(1).cluster("c").cells(Slot::Control);
        let (updates_in, updates) = mpsc::channel(16);
        let (waits_in, waits) = mpsc::unbounded_channel();
        let wait = move |duration| {
            let (go, gone) = tokio::sync::oneshot::channel();
            let sent = waits_in.send((duration, go));
            async move {
                if sent.is_ok() {
                    let _ = gone.await;
                }
            }
        };
        let members = Members::new("c", &assignment(names), mode);
        let task = tokio::spawn(run(members, dns, cells.clone(), 1, updates_in, wait));
        Self { server, updates, waits, cells, task }
    }

    /// The next update, as addresses.
    async fn update(&mut self) -> Vec<String> {
        addresses(&self.updates.recv().await.unwrap().assignment)
    }

    /// Waits until a name has been resolved; how long it will pause, and the means to end that.
    async fn resolved(&mut self) -> (Duration, tokio::sync::oneshot::Sender<()>) {
        self.waits.recv().await.unwrap()
    }

    /// Ends one pause, awaits the resolution that follows, and tells how long it will pause then.
    async fn again(
        &mut self,
        pause: tokio::sync::oneshot::Sender<()>,
    ) -> (Duration, tokio::sync::oneshot::Sender<()>) {
        pause.send(()).unwrap();
        self.resolved().await
    }

    fn counts(&self) -> [u64; 4] {
        use ClusterStat::{UpdateAttempt, UpdateFailure, UpdateNoRebuild, UpdateSuccess};
        [UpdateAttempt, UpdateSuccess, UpdateFailure, UpdateNoRebuild].map(|stat| self.cells.value(stat))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn assignment(names: &[&str]) -> ClusterLoadAssignment {
    let endpoints = names.iter().map(|name| Endpoint {
        address: EndpointAddress::Name(HostPort { host: (*name).into(), port: 80 }),
        hostname: Box::default(),
        weight: 1,
        health_status: HealthStatus::Unknown,
        metadata: Vec::new(),
        added_tlvs: None,
    });
    let locality =
        LocalityEndpoints { priority: 1, endpoints: endpoints.collect(), ..LocalityEndpoints::default() };
    ClusterLoadAssignment {
        cluster_name: "c".into(),
        localities: vec![locality],
        overprovisioning_factor_percent: 140,
        drop_overload: None,
    }
}

fn addresses(assignment: &ClusterLoadAssignment) -> Vec<String> {
    let endpoints = assignment.localities.iter().flat_map(|locality| &locality.endpoints);
    endpoints.map(|endpoint| endpoint.address.to_string()).collect()
}

fn v4() -> Dns {
    Dns { lookup_family: DnsLookupFamily::V4Only, ..Dns::default() }
}

#[tokio::test]
async fn strict_dns_name_with_many_addresses_is_as_many_endpoints() {
    let server = Server::start().await;
    server.set("a.test", RecordType::A, &["10.0.0.2", "10.0.0.1", "10.0.0.2"], 60);
    let mut watched = Watched::start(server, Mode::Strict, &["a.test"], v4()).await;
    let update = watched.updates.recv().await.unwrap();
    assert_eq!(&*update.cluster, "c");
    assert_eq!(addresses(&update.assignment), ["10.0.0.1:80", "10.0.0.2:80"]);
    assert_eq!(&*update.assignment.localities[0].endpoints[0].hostname, "a.test");
    assert_eq!(update.assignment.localities[0].priority, 1);
}

#[tokio::test]
async fn strict_dns_answer_in_another_order_is_no_update() {
    let server = Server::start().await;
    server.set("a.test", RecordType::A, &["10.0.0.1", "10.0.0.2"], 60);
    let mut watched = Watched::start(server, Mode::Strict, &["a.test"], v4()).await;
    let (_, pause) = watched.resolved().await;
    watched.server.set("a.test", RecordType::A, &["10.0.0.2", "10.0.0.1"], 60);
    let (_, pause) = watched.again(pause).await;
    watched.server.set("a.test", RecordType::A, &["10.0.0.3"], 60);
    watched.again(pause).await;
    assert_eq!(watched.update().await, ["10.0.0.1:80", "10.0.0.2:80"]);
    assert_eq!(watched.update().await, ["10.0.0.3:80"]);
    assert_eq!(watched.counts(), [3, 3, 0, 1]);
}

#[tokio::test]
async fn logical_dns_name_is_one_endpoint_at_its_first_address() {
    let server = Server::start().await;
    server.set("a.test", RecordType::A, &["10.0.0.2", "10.0.0.1"], 60);
    let mut watched = Watched::start(server, Mode::Logical, &["a.test"], v4()).await;
    let update = watched.updates.recv().await.unwrap();
    assert_eq!(addresses(&update.assignment), ["10.0.0.2:80"]);
    assert_eq!(update.assignment.localities[0].priority, 0);
}

#[tokio::test]
async fn failed_resolution_keeps_the_last_good_addresses() {
    let server = Server::start().await;
    server.set("a.test", RecordType::A, &["10.0.0.1"], 60);
    let rate = RefreshRate { base_interval: 2 * SECOND, max_interval: 4 * SECOND };
    let dns = Dns { failure_refresh_rate: Some(rate), ..v4() };
    let mut watched = Watched::start(server, Mode::Strict, &["a.test"], dns).await;
    let (_, pause) = watched.resolved().await;
    watched.server.fail("a.test", RecordType::A, ResponseCode::ServFail);
    let (wait, pause) = watched.again(pause).await;
    assert!(wait < 2 * SECOND);
    watched.server.set("a.test", RecordType::A, &["10.0.0.2"], 60);
    let (wait, _pause) = watched.again(pause).await;
    assert_eq!(wait, 5 * SECOND);
    assert_eq!(watched.update().await, ["10.0.0.1:80"]);
    assert_eq!(watched.update().await, ["10.0.0.2:80"]);
    assert_eq!(watched.counts(), [3, 2, 1, 0]);
}

#[tokio::test]
async fn first_resolution_that_fails_still_reports_that_it_is_over() {
    let server = Server::start().await;
    server.fail("a.test", RecordType::A, ResponseCode::Refused);
    let mut watched = Watched::start(server, Mode::Strict, &["a.test"], v4()).await;
    assert_eq!(watched.update().await, Vec::<String>::new());
    assert_eq!(watched.counts(), [1, 0, 1, 0]);
}

#[tokio::test]
async fn empty_answer_empties_a_strict_name() {
    let server = Server::start().await;
    server.set("a.test", RecordType::A, &["10.0.0.1"], 60);
    let mut watched = Watched::start(server, Mode::Strict, &["a.test"], v4()).await;
    let (_, pause) = watched.resolved().await;
    watched.server.fail("a.test", RecordType::A, ResponseCode::NXDomain);
    watched.again(pause).await;
    assert_eq!(watched.update().await, ["10.0.0.1:80"]);
    assert_eq!(watched.update().await, Vec::<String>::new());
    assert_eq!(watched.counts(), [2, 2, 0, 0]);
}

#[tokio::test]
async fn empty_answer_leaves_a_logical_name_alone() {
    let server = Server::start().await;
    server.set("a.test", RecordType::A, &["10.0.0.1"], 60);
    let mut watched = Watched::start(server, Mode::Logical, &["a.test"], v4()).await;
    let (_, pause) = watched.resolved().await;
    watched.server.set("a.test", RecordType::A, &[], 60);
    watched.again(pause).await;
    assert_eq!(watched.update().await, ["10.0.0.1:80"]);
    assert_eq!(watched.counts(), [2, 1, 1, 0]);
    assert!(watched.updates.try_recv().is_err());
}

#[tokio::test]
async fn time_to_live_sets_the_wait_where_it_is_respected() {
    let server = Server::start().await;
    server.set("a.test", RecordType::A, &["10.0.0.1"], 42);
    let dns = Dns { respect_dns_ttl: true, ..v4() };
    let mut watched = Watched::start(server, Mode::Strict, &["a.test"], dns).await;
    let (wait, pause) = watched.resolved().await;
    assert_eq!(wait, 42 * SECOND);
    watched.server.set("a.test", RecordType::A, &["10.0.0.1"], 7);
    let (wait, pause) = watched.again(pause).await;
    assert_eq!(wait, 7 * SECOND);
    watched.server.set("a.test", RecordType::A, &["10.0.0.1"], 0);
    let (wait, _) = watched.again(pause).await;
    assert_eq!(wait, 5 * SECOND);
}

#[tokio::test]
async fn lookup_families_ask_for_what_they_say() {
    let cases: [(DnsLookupFamily, &[&str], &[RecordType]); 5] = [
        (DnsLookupFamily::Auto, &["[fd00::1]:80"], &[RecordType::AAAA]),
        (DnsLookupFamily::V6Only, &["[fd00::1]:80"], &[RecordType::AAAA]),
        (DnsLookupFamily::V4Only, &["10.0.0.1:80"], &[RecordType::A]),
        (DnsLookupFamily::V4Preferred, &["10.0.0.1:80"], &[RecordType::A]),
        (DnsLookupFamily::All, &["10.0.0.1:80", "[fd00::1]:80"], &[RecordType::A, RecordType::AAAA]),
    ];
    for (lookup_family, expected, asked) in cases {
        let server = Server::start().await;
        server.set("a.test", RecordType::A, &["10.0.0.1"], 60);
        server.set("a.test", RecordType::AAAA, &["fd00::1"], 60);
        let dns = Dns { lookup_family, ..Dns::default() };
        let mut watched = Watched::start(server, Mode::Strict, &["a.test"], dns).await;
        assert_eq!(watched.update().await, expected, "{lookup_family:?}");
        let mut seen = watched.server.asked();
        seen.sort_unstable();
        assert_eq!(seen, asked, "{lookup_family:?}");
    }
}

#[tokio::test]
async fn lookup_families_with_a_second_choice_take_it_when_the_first_is_empty() {
    for (lookup_family, present, address) in [
        (DnsLookupFamily::Auto, RecordType::A, "10.0.0.1"),
        (DnsLookupFamily::V4Preferred, RecordType::AAAA, "fd00::1"),
    ] {
        let server = Server::start().await;
        server.set("a.test", present, &[address], 60);
        let dns = Dns { lookup_family, ..Dns::default() };
        let mut watched = Watched::start(server, Mode::Strict, &["a.test"], dns).await;
        let expected = SocketAddr::new(address.parse().unwrap(), 80).to_string();
        assert_eq!(watched.update().await, [expected], "{lookup_family:?}");
    }
}

#[tokio::test]
async fn several_names_fill_one_assignment_in_their_order() {
    let server = Server::start().await;
    server.set("a.test", RecordType::A, &["10.0.0.9"], 60);
    server.set("b.test", RecordType::A, &["10.0.0.1"], 60);
    let mut watched = Watched::start(server, Mode::Strict, &["a.test", "b.test"], v4()).await;
    watched.update().await;
    assert_eq!(watched.update().await, ["10.0.0.9:80", "10.0.0.1:80"]);
}

#[tokio::test]
async fn localhost_is_the_loopback_and_asks_nobody() {
    let server = Server::start().await;
    let dns = Dns { respect_dns_ttl: true, ..v4() };
    let mut watched = Watched::start(server, Mode::Strict, &["localhost"], dns).await;
    let (wait, _) = watched.resolved().await;
    assert_eq!(wait, 5 * SECOND);
    assert_eq!(watched.update().await, ["127.0.0.1:80"]);
    assert_eq!(watched.server.asked(), []);
}

#[tokio::test]
async fn text_that_is_no_name_fails_without_a_question() {
    let long = "a".repeat(70);
    let mut watched = Watched::start(Server::start().await, Mode::Strict, &[&long], v4()).await;
    assert_eq!(watched.update().await, Vec::<String>::new());
    assert_eq!(watched.server.asked(), []);
    assert_eq!(watched.counts(), [1, 0, 1, 0]);
}

#[test]
fn members_without_names_are_their_fixed_addresses() {
    let mut template = assignment(&["a.test"]);
    template.localities[0].endpoints[0].address =
        EndpointAddress::Fixed(crate::config::address::Address::Ip("10.0.0.1:80".parse().unwrap()));
    let members = Members::new("c", &template, Mode::Strict);
    assert!(members.names.is_empty());
    assert_eq!(addresses(&members.update().assignment), ["10.0.0.1:80"]);
}

#[tokio::test]
async fn addresses_to_connect_to_are_of_the_families_of_the_cluster_the_preferred_one_first() {
    use DnsLookupFamily::{All, Auto, V4Only, V4Preferred, V6Only};
    let server = Server::start().await;
    server.set("both.test", RecordType::A, &["10.0.0.1"], 60);
    server.set("both.test", RecordType::AAAA, &["fd00::1"], 60);
    server.set("v4.test", RecordType::A, &["10.0.0.2"], 60);
    let expected: [(&str, DnsLookupFamily, &[&str]); 7] = [
        ("both.test", Auto, &["fd00::1", "10.0.0.1"]),
        ("both.test", V4Preferred, &["10.0.0.1", "fd00::1"]),
        ("both.test", All, &["10.0.0.1", "fd00::1"]),
        ("both.test", V4Only, &["10.0.0.1"]),
        ("both.test", V6Only, &["fd00::1"]),
        ("v4.test", Auto, &["10.0.0.2"]),
        ("v4.test", V6Only, &[]),
    ];
    for (name, lookup_family, addresses) in expected {
        let resolvers = vec![server.address];
        let dns = Dns { lookup_family, resolvers, no_default_search_domain: true, ..Dns::default() };
        let found = resolve(&dns, name).await.unwrap_or_default();
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, addresses, "{name} {lookup_family:?}");
    }
}
