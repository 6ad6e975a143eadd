//! How connections spread over workers, as operators see it: per worker, on both back ends.

use crate::harness::{Client, Config, Io, Proxy, Upstream, on_each_backend, until};

const WORKERS: usize = 4;

fn start(io: Io, upstream: &Upstream, listener: &str) -> Proxy {
    Proxy::start(io, &Config::to(upstream.port).listener(listener).arguments(&["--concurrency", "4"]))
}

/// Open connections of each worker.
fn active(proxy: &Proxy) -> [u64; WORKERS] {
    let text = proxy.admin("GET", "/stats").text();
    std::array::from_fn(|worker| {
        let name = format!(".worker_{worker}.downstream_cx_active: ");
        let line = text.lines().find_map(|line| Some(line.split_once(&name)?.1));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    })
}

/// So many connections, open and accepted, and how many each worker has.
fn open(proxy: &Proxy, count: usize) -> (Vec<Client>, [u64; WORKERS]) {
    let clients: Vec<_> = (0..count).map(|_| proxy.connect()).collect();
    until("all are accepted", || active(proxy).iter().sum::<u64>() == count as u64);
    (clients, active(proxy))
}

/// Every connection answers twice, whoever serves it.
fn all_answer(clients: &mut [Client]) {
    for (index, client) in clients.iter_mut().enumerate() {
        for path in [format!("/a{index}"), format!("/b{index}")] {
            assert_eq!(client.get(&path).text(), format!("GET {path}\n"));
        }
    }
}

fn handed_over(proxy: &Proxy) -> u64 {
    proxy.stat(&format!("listener.127.0.0.1_{}.downstream_cx_handed_over", proxy.port))
}

on_each_backend! {
    fn exact_balance_gives_every_worker_as_many_connections(io) {
        let upstream = Upstream::echo();
        let proxy = start(io, &upstream, "connection_balance_config: {exact_balance: {}}");
        // A worker whose thread is late gets its share once it has opened the listener.
        let mut before = 0;
        until("every worker has opened the listener", || {
            before += WORKERS as u64;
            let (clients, active) = open(&proxy, WORKERS);
            drop(clients);
            proxy.wait_until_idle();
            active == [1; WORKERS]
        });
        let mut handed = 0;
        for per_worker in [1, 2, 8, 32] {
            let (mut clients, active) = open(&proxy, per_worker * WORKERS);
            assert_eq!(active, [per_worker as u64; WORKERS]);
            all_answer(&mut clients);
            drop(clients);
            proxy.wait_until_idle();
            handed = handed_over(&proxy);
        }
        // Hashing 172 connections evenly by chance is out of the question.
        assert!(handed > 0);
        assert_eq!(proxy.stat("http.test.downstream_cx_total"), before + 172);
        proxy.end();
    }

    fn default_balance_leaves_no_worker_far_behind(io) {
        let upstream = Upstream::echo();
        let proxy = start(io, &upstream, "");
        // A worker whose thread is late is handed none before it has opened the listener.
        until("every worker has opened the listener", || {
            let (clients, active) = open(&proxy, 8 * WORKERS);
            drop(clients);
            proxy.wait_until_idle();
            !active.contains(&0)
        });
        for per_worker in [2, 8, 32] {
            let (mut clients, active) = open(&proxy, per_worker * WORKERS);
            let (most, least) = (active.iter().max().unwrap(), active.iter().min().unwrap());
            assert!(*most <= least + least / 8 + 3, "{active:?}");
            all_answer(&mut clients);
            drop(clients);
            proxy.wait_until_idle();
        }
        proxy.end();
    }

    fn drain_serves_connections_that_were_handed_over(io) {
        let upstream = Upstream::echo();
        let mut proxy = start(io, &upstream, "connection_balance_config: {exact_balance: {}}");
        // Not waiting until they are accepted: some may be on their way.
        let mut clients: Vec<_> = (0..64).map(|_| Client::connect(proxy.port)).collect();
        proxy.signal(libc::SIGTERM);
        for (index, client) in clients.iter_mut().enumerate() {
            client.send(format!("GET /{index} HTTP/1.1\r\nHost: a\r\n\r\n"));
        }
        for (index, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.response().text(), format!("GET /{index}\n"));
        }
        drop(clients);
        assert_eq!(proxy.wait().code(), Some(0));
    }
}
