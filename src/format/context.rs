//! What a format reads: the heads of a request and what is known of it.

use crate::config::access_log::AccessLogType;
use crate::protocol::http::head::Head;
use crate::protocol::stream_info::StreamInfo;

/// Everything an operator or a filter may ask for, borrowed for one evaluation.
#[derive(Debug, Clone, Copy)]
pub struct FormatContext<'a> {
    /// The request's head as it is now, rewrites included; `None`: none was parsed.
    pub request: Option<&'a Head>,
    /// The response's head as sent downstream; `None`: there is none yet.
    pub response: Option<&'a Head>,
    /// The response's trailers.
    pub trailers: Option<&'a Head>,
    /// The rest.
    pub info: &'a StreamInfo,
    /// What `%LOCAL_REPLY_BODY%` stands for; empty outside local replies.
    pub local_reply_body: &'a [u8],
    /// What the record is about.
    pub log_type: AccessLogType,
    /// The turn's monotonic clock in ns: `%DURATION%` before the end, `%EMIT_TIME%`.
    pub now_ns: u64,
    /// Random bits, new for every evaluation: `%UNIQUE_ID%`, samples.
    pub random: u64,
}

impl<'a> FormatContext<'a> {
    /// The context of header values and local replies: no response, no kind of record.
    pub fn new(info: &'a StreamInfo, now_ns: u64, random: u64) -> Self {
        Self {
            request: None,
            response: None,
            trailers: None,
            info,
            local_reply_body: b"",
            log_type: AccessLogType::NotSet,
            now_ns,
            random,
        }
    }

    /// Wall clock of this evaluation in ns since the Unix epoch: the request's start plus what has
    /// passed since by the monotonic clock.
    pub(super) fn now_unix_ns(&self) -> u64 {
        let passed = self.now_ns.saturating_sub(self.info.start_ns);
        self.info.start_time_unix_ns.saturating_add(passed)
    }
}
