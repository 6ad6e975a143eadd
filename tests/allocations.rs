//! Requests in steady state allocate nothing on the worker's thread, filters that let them pass in their chain, whether what their
//! endpoint reports of its load is added up or not.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod allocating;

use allocating::{COUNTED, ONCE_MAX, Sockets, allocations};
use ringway::runtime::IoBackend;

#[test]
fn keep_alive_requests_in_steady_state_allocate_nothing_on_the_worker() {
    let metered =
        "lrs_report_endpoint_metrics: [cpu_utilization, named_metrics.a, \"utilization.*\"]".to_owned();
    let all = [IoBackend::Epoll, IoBackend::IoUring].map(|backend| [(backend, ""), (backend, &metered)]);
    for (backend, cluster) in all.into_iter().flatten() {
        let sockets = Sockets { cluster: cluster.to_owned(), ..Sockets::default() };
        let Some(counts) = allocations(backend, &sockets, |client| client, |server| server) else {
            continue;
        };
        let what =
            format!("allocations in rounds of {COUNTED} requests on {backend:?} {cluster:?}: {counts:?}");
        assert!(counts.iter().sum::<u64>() <= ONCE_MAX, "{what}");
    }
}
