//! `pingora-peer LISTEN UPSTREAM THREADS`: Pingora as a reverse proxy with one upstream.
//!
//! What its user guide shows, and nothing beside: no filters, no access log, upstream connections kept alive (the pool
//! holds as many as the load has connections, as the other peers' do).

use std::process::ExitCode;

use async_trait::async_trait;
use pingora_core::Result;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

struct Forward {
    upstream: String,
}

#[async_trait]
impl ProxyHttp for Forward {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, _context: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream.as_str(), false, String::new())))
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstream, threads] = arguments.as_slice() else {
        eprintln!("usage: pingora-peer LISTEN UPSTREAM THREADS");
        return ExitCode::from(2);
    };
    let Ok(threads) = threads.parse() else {
        eprintln!("pingora-peer: THREADS is a number");
        return ExitCode::from(2);
    };
    let conf = ServerConf {
        threads,
        upstream_keepalive_pool_size: 8192,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Forward { upstream: upstream.clone() });
    service.add_tcp(listen);
    server.add_service(service);
    server.run_forever()
}
