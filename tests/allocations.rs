//! Requests in steady state allocate nothing on the worker's thread, filters that let them pass in their chain.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod allocating;

use allocating::{COUNTED, ONCE_MAX, Sockets, allocations};
use ringway::runtime::IoBackend;

#[test]
fn keep_alive_requests_in_steady_state_allocate_nothing_on_the_worker() {
    for backend in [IoBackend::Epoll, IoBackend::IoUring] {
        let Some(counts) = allocations(backend, &Sockets::default(), |client| client, |server| server) else {
            continue;
        };
        let what = format!("allocations in rounds of {COUNTED} requests on {backend:?}: {counts:?}");
        assert!(counts.iter().sum::<u64>() <= ONCE_MAX, "{what}");
    }
}
