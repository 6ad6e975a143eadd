//! What the tests are made of: the proxy as a child process, a client, scripted upstreams, and HTTP/1.1 as a test reads
//! it. The reader here is written apart from the proxy's own parser, so that they cannot be wrong in the same way.
mod client;
mod config;
mod confine;
mod control_plane;
mod http2;
mod load_server;
mod message;
mod process;
mod random;
mod secrets;
mod tls;
mod told_filters;
mod told_hosts;
mod told_runtime;
mod told_scopes;
mod told_ttl;
mod upstream;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub(crate) use client::Client;
pub(crate) use config::{Config, cluster_to, spared_cluster_to};
pub(crate) use confine::Confinement;
pub(crate) use control_plane::{CLUSTERS, ControlPlane, ToldCluster};
pub(crate) use http2::{Frame, Http2Client, Http2Upstream, RawHttp2, TO_HTTP2, pattern};
pub(crate) use load_server::{LoadServer, Report};
pub(crate) use message::{Message, chunked};
pub(crate) use process::{Proxy, TempFolder, binary, free_port};
pub(crate) use random::Random;
pub(crate) use secrets::{put_secret, told_certificate, told_socket, told_trust};
pub(crate) use tls::{Authority, TLS_INSPECTOR, TlsClient, downstream_tls, tls_bridge, upstream_tls};
pub(crate) use told_filters::{FILTERS, told_answer, told_denial, told_filter};
pub(crate) use told_hosts::HOSTS;
pub(crate) use told_runtime::{RUNTIME, told_runtime};
pub(crate) use told_scopes::{SCOPES, told_scope};
pub(crate) use upstream::{Peer, Upstream, ok, set_receive_buffer};

use ringway::runtime::mailbox::mailbox;
use ringway::runtime::{IoBackend, IoChoice, Runtime};

/// Longest wait for something that should happen at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The I/O back end a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::enum_variant_names, reason = "io_uring is its name")]
pub(crate) enum Io {
    /// What the proxy chooses; only where that is the subject.
    Auto,
    Epoll,
    IoUring,
}

impl Io {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Epoll => "epoll",
            Self::IoUring => "io_uring",
        }
    }

    /// Why it does not work here.
    fn refusal(self) -> Option<&'static str> {
        static REFUSAL: OnceLock<Option<String>> = OnceLock::new();
        if self != Self::IoUring {
            return None;
        }
        let refusal = REFUSAL.get_or_init(|| {
            let (_sender, receiver) = mailbox::<()>().unwrap();
            let choice = IoChoice { backend: IoBackend::IoUring, level: None };
            Runtime::new(choice, receiver.bell()).err().map(|error| error.to_string())
        });
        refusal.as_deref()
    }

    /// Whether it works here, for a test about its not working.
    pub(crate) fn works(self) -> bool {
        self.refusal().is_none()
    }

    /// Whether it works here; says so if not, or fails if it must.
    pub(crate) fn is_available(self) -> bool {
        let refusal = self.refusal();
        if let Some(reason) = refusal {
            assert!(std::env::var_os("RINGWAY_REQUIRE_IO_URING").is_none(), "no io_uring: {reason}");
            println!("not run: no io_uring: {reason}");
        }
        refusal.is_none()
    }
}

/// Between two questions of [`until`]: without it the asking takes the core from who is to answer.
const BETWEEN_QUESTIONS: Duration = Duration::from_millis(2);

/// Asks again and again until the answer is yes: for what can only be asked about, such as a counter.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "still not so: {what}");
        std::thread::park_timeout(BETWEEN_QUESTIONS);
    }
}

/// Makes of each function a test per back end.
macro_rules! on_each_backend {
    ($($(#[$doc:meta])* fn $name:ident($io:ident) $body:block)*) => {
        $($(#[$doc])* fn $name($io: $crate::harness::Io) $body)*

        mod epoll {
            $(#[test] fn $name() { super::$name($crate::harness::Io::Epoll) })*
        }

        mod io_uring {
            $(#[test] fn $name() {
                if $crate::harness::Io::IoUring.is_available() { super::$name($crate::harness::Io::IoUring) }
            })*
        }
    };
}
pub(crate) use on_each_backend;
