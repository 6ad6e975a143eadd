//! The deadlines of one request, looked at whenever its task runs.

use std::time::Duration;

use super::error::ProxyError;
use crate::base::clock::Now;
use crate::base::rng::Rng;
use crate::config::http::CommonHttpProtocolOptions;
use crate::runtime::Timer;

/// When a client's connection is too old, if it may become that: its jitter is drawn by what tells it from others, so that the
/// answer is the same whenever it is asked for and is kept nowhere.
pub(super) fn end_of_life(options: &CommonHttpProtocolOptions, opened: Now, connection: u64) -> Option<Now> {
    let life = options.max_connection_duration?;
    let jitter = options.max_connection_duration_jitter;
    let more = Rng::from_seed(connection ^ opened.0).duration_below(jitter);
    Some(opened.after(life + more))
}

/// What bounds a request in time. `None`: that limit is off.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deadlines {
    /// Longest silence in both directions.
    pub(super) idle: Option<Duration>,
    /// Last time a byte moved.
    pub(super) last_activity: Now,
    /// When the whole request must have arrived (`request_timeout`), unless its response has begun.
    pub(super) request_due: Option<Now>,
    /// When the stream must be over (`max_stream_duration`).
    pub(super) stream_due: Option<Now>,
    /// When the upstream request must be over (`max_stream_duration` of the cluster, or of the request's own header).
    pub(super) upstream_due: Option<Now>,
    /// Longest time from the complete request to the complete response (route `timeout`, or a trusted client's word).
    pub(super) response: Option<Duration>,
    /// When the request was complete, as far as is known: of a body that nobody takes yet, up to the watermark.
    pub(super) request_complete: Option<Now>,
}

impl Deadlines {
    /// Whether it matters when the request is complete.
    pub(super) fn awaits_request(&self) -> bool {
        self.request_complete.is_none() && (self.response.is_some() || self.request_due.is_some())
    }

    /// What would have passed before `due` passes then. Of a response that has begun: `request_due` is over.
    pub(super) fn put_off(&mut self, due: Now) {
        self.stream_due = self.stream_due.map(|limit| limit.max(due));
        self.upstream_due = self.upstream_due.map(|limit| limit.max(due));
        if let Some(complete) = self.request_complete {
            self.response = self.response.map(|limit| limit.max(due.since(complete)));
        }
        let silent = due.since(self.last_activity);
        self.idle = self.idle.map(|limit| limit.max(silent));
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
                return Some(ProxyError::ResponseTimeout { status: 504 });
            }
            _ => {}
        }
        passed(self.idle.map(|limit| self.last_activity.after(limit)))
            .then_some(ProxyError::StreamIdleTimeout { request_complete })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_are_put_off_pass_at_that_moment_and_later_ones_as_before() {
        let at = |seconds| Now::default().after(Duration::from_secs(seconds));
        let mut deadlines = Deadlines {
            idle: Some(Duration::from_secs(5)),
            last_activity: at(10),
            stream_due: Some(at(20)),
            upstream_due: Some(at(16)),
            response: Some(Duration::from_secs(12)),
            request_complete: Some(at(4)),
            ..Deadlines::default()
        };
        deadlines.put_off(at(17));
        assert_eq!((deadlines.stream_due, deadlines.upstream_due), (Some(at(20)), Some(at(17))));
        let durations = (Some(Duration::from_secs(13)), Some(Duration::from_secs(7)));
        assert_eq!((deadlines.response, deadlines.idle), durations, "until 17, from 4 and from 10");
        let mut unlimited = Deadlines { request_complete: Some(at(4)), ..Deadlines::default() };
        unlimited.put_off(at(17));
        assert_eq!((unlimited.stream_due, unlimited.upstream_due), (None, None));
        assert_eq!((unlimited.response, unlimited.idle), (None, None));
    }

    #[test]
    fn connections_live_as_long_as_they_may_and_up_to_the_jitter_longer() {
        let (life, jitter) = (Duration::from_secs(60), Duration::from_secs(30));
        let opened = Now(1_000_000_007);
        let mut options = CommonHttpProtocolOptions::default();
        assert_eq!(end_of_life(&options, opened, 1), None);
        options.max_connection_duration = Some(life);
        assert_eq!(end_of_life(&options, opened, 1), Some(opened.after(life)));
        options.max_connection_duration_jitter = jitter;
        let ends = |opened| (0..200).map(move |id| end_of_life(&options, opened, id)).collect::<Vec<_>>();
        let (least, middle) = (opened.after(life), opened.after(life + jitter / 2));
        let drawn = ends(opened);
        assert!(drawn.iter().flatten().all(|end| *end >= least && *end < opened.after(life + jitter)));
        let late = drawn.iter().flatten().filter(|end| **end >= middle).count();
        assert!((60..140).contains(&late), "{late}");
        assert_eq!(ends(opened), drawn, "asked again");
    }
}
