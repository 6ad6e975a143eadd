//! Many clients at once: no byte of one's response reaches another.

use std::sync::Arc;

use crate::harness::{Config, Proxy, Random, Upstream, ok, on_each_backend};

const CLIENTS: usize = 50;
const REQUESTS: usize = 20;

on_each_backend! {
    fn responses_of_many_clients_are_never_mixed(io) {
        // The answer repeats the request's token, so many times that it spans several reads.
        let upstream = Upstream::answering(|request| {
            let count = request.header("x-count").unwrap().parse::<usize>().unwrap();
            ok(format!("{};", request.path()).repeat(count).as_bytes())
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port).arguments(&["--concurrency", "2"]));
        let port = proxy.port;
        let start = Arc::new(std::sync::Barrier::new(CLIENTS));
        let clients = (0..CLIENTS).map(|number| {
            let start = Arc::clone(&start);
            std::thread::spawn(move || {
                let mut random = Random::new(number as u64);
                let mut client = crate::harness::Client::connect(port);
                start.wait();
                for request in 0..REQUESTS {
                    let (path, count) = (format!("/client-{number}-request-{request}"), 1 + random.below(2000));
                    let response =
                        client.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Count: {count}\r\n\r\n"));
                    assert_eq!(response.status(), 200);
                    assert!(response.text() == format!("{path};").repeat(count), "{path} got another's bytes");
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.join().unwrap();
        }
        proxy.wait_until_idle();
        assert_eq!(proxy.stat("http.test.downstream_rq_completed"), (CLIENTS * REQUESTS) as u64);
        proxy.end();
    }
}
