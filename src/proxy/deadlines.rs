//! The deadlines of one request, looked at whenever its task runs.

use std::time::Duration;

use super::error::ProxyError;
use crate::base::clock::Now;
use crate::runtime::Timer;

/// What bounds a request in time. `None`: that limit is off.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deadlines {
    /// Longest silence in both directions.
    pub(super) idle: Option<Duration>,
    /// Last time a byte moved.
    pub(super) last_activity: Now,
    /// When the whole request must have arrived (`request_timeout`).
    pub(super) request_due: Option<Now>,
    /// When the stream must be over (`max_stream_duration`).
    pub(super) stream_due: Option<Now>,
    /// When the upstream request must be over (`max_stream_duration` of the cluster, or of the request's own header).
    pub(super) upstream_due: Option<Now>,
    /// Longest time from the complete request to the complete response (route `timeout`).
    pub(super) response: Option<Duration>,
    /// When the request was complete, as far as is known: of a body that nobody takes yet, up to the watermark.
    pub(super) request_complete: Option<Now>,
}

impl Deadlines {
    /// Whether it matters when the request is complete.
    pub(super) fn awaits_request(&self) -> bool {
        self.request_complete.is_none() && (self.response.is_some() || self.request_due.is_some())
    }

    /// The limit that has passed, if any; else the timer is armed for the next.
    pub(super) fn poll(&self, timer: &Timer) -> Option<ProxyError> {
        let request_complete = self.request_complete.is_some();
        let passed = |due: Option<Now>| due.is_some_and(|due| timer.poll_at(due).is_ready());
        if passed(self.stream_due) {
            return Some(ProxyError::MaxStreamDuration { request_complete });
        }
        if passed(self.upstream_due) {
            return Some(ProxyError::UpstreamMaxStreamDuration { request_complete });
        }
        match self.request_complete {
            None if passed(self.request_due) => return Some(ProxyError::RequestTimeout),
            Some(complete) if passed(self.response.map(|limit| complete.after(limit))) => {
                return Some(ProxyError::ResponseTimeout);
            }
            _ => {}
        }
        passed(self.idle.map(|limit| self.last_activity.after(limit)))
            .then_some(ProxyError::StreamIdleTimeout { request_complete })
    }
}
