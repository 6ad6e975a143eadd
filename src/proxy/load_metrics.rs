//! What an endpoint reports of its load with a response (ORCA), where its cluster's load reports tell of it: in the head or in the
//! trailers, whichever has one first, once for each request. The client gets both as they came, as in Envoy.

use super::downstream::Connection;
use crate::base::heaps;
use crate::cluster::pool::UpstreamConnection;
use crate::protocol::http::head::Head;
use crate::protocol::load_report::LoadReportError;
use crate::telemetry::names::ServerStat;

/// Adds up what `head`, that of a response or its trailers, reports, unless something was `taken` for the request.
#[inline]
pub(super) fn take(connection: &Connection, upstream: &UpstreamConnection, head: &Head, taken: &mut bool) {
    // Nearly always: no list.
    if !upstream.cluster().config().load_metrics.is_empty() && !*taken {
        *taken = add(connection, upstream, head);
    }
}

/// Whether there was a report.
#[inline(never)]
fn add(connection: &Connection, upstream: &UpstreamConnection, head: &Head) -> bool {
    let context = &connection.context;
    let mut report = context.load_report.borrow_mut();
    // The room is kept for the next one.
    match heaps::lasting(|| report.read(head)) {
        Ok(()) => {}
        Err(error) => {
            if error == LoadReportError::TooMany {
                context.server.inc(ServerStat::LoadMetricsRefused);
            }
            return false;
        }
    }
    let sums = upstream.host().stats().load_metrics();
    report.each(&upstream.cluster().config().load_metrics, |prefix, name, value| {
        if !sums.add(prefix, name, value) {
            context.server.inc(ServerStat::LoadMetricsRefused);
        }
    });
    true
}
