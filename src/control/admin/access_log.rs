//! Access logs of the endpoint itself: a record per request, when its reply has been taken or given up.
use super::body::ReplyBody;
use crate::base::clock::{Clock, Now};
use crate::base::regex::RegexSlots;
use crate::base::rng::Rng;
use crate::config::access_log::{AccessLog as Config, AccessLogType};
use crate::config::error::ConfigError;
use crate::format::access_log::AccessLog;
use crate::format::access_log_buffer::AccessLogBuffer;
use crate::format::access_log_queue::{LogQueue, SinkId};
use crate::format::context::FormatContext;
use crate::protocol::http::head::{Head, Version};
use crate::protocol::http::headers::HeaderName;
use crate::protocol::http::matcher::MatchScratch;
use crate::protocol::stream_info::{StreamAddress, StreamInfo};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

/// The logs. Source: Envoy `Admin.access_log`, `access_log_path`.
#[derive(Debug)]
pub struct AdminAccessLogs {
    logs: Vec<AccessLog>,
    clock: Clock,
    /// Connections of the endpoint share them; all are on the control thread.
    writing: Mutex<Writing>,
}

#[derive(Debug)]
struct Writing {
    buffer: AccessLogBuffer,
    scratch: MatchScratch,
    rng: Rng,
}

/// Who talks to whom; nobody knows of Unix sockets.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ends {
    pub(super) peer: Option<SocketAddr>,
    pub(super) local: Option<SocketAddr>,
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Record {
    logs: Arc<AdminAccessLogs>,
    request: Head,
    status: u16,
    begun: Now,
    bytes_received: u64,
    bytes_sent: u64,
    ends: Ends,
}

/// A reply's body that writes the record when it is dropped.
pub(super) struct LoggedBody {
    body: ReplyBody,
    record: Option<Record>,
}

impl AdminAccessLogs {
    /// Compiles the logs; `sinks` are the ids of their files, in the same order.
    ///
    /// # Errors
    /// When a format or a filter is wrong.
    pub fn compile(
        configs: &[Config],
        sinks: &[SinkId],
        queue: LogQueue,
        seed: u64,
    ) -> Result<Self, ConfigError> {
        let mut slots = RegexSlots::default();
        let logs = configs.iter().zip(sinks).enumerate().map(|(index, (config, sink))| {
            AccessLog::compile(config, *sink, &format!("admin.access_log[{index}]"), &mut slots)
        });
        Ok(Self {
            logs: logs.collect::<Result<_, _>>()?,
            clock: Clock::start(),
            writing: Mutex::new(Writing {
                // Requests are few: each record is handed over at once.
                buffer: AccessLogBuffer::new(queue, Duration::ZERO, 1),
                scratch: MatchScratch::default(),
                rng: Rng::from_seed(seed),
            }),
        })
    }

    /// A request has begun; `None`: nobody logs it.
    pub(super) fn begin(self: &Arc<Self>, head: &hyper::http::request::Parts, ends: Ends) -> Option<Record> {
        if self.logs.is_empty() {
            return None;
        }
        let mut request = Head::new();
        request.set_version(if head.version == hyper::Version::HTTP_10 {
            Version::Http10
        } else {
            Version::Http11
        });
        request.set_method(head.method.as_str().as_bytes());
        request.set_path(head.uri.path_and_query().map_or("/", |path| path.as_str()).as_bytes());
        for (name, value) in &head.headers {
            if name == hyper::header::HOST {
                request.set_authority(value.as_bytes());
            } else if let Some(name) = HeaderName::parse(name.as_str().as_bytes()) {
                request.append(&name, value.as_bytes());
            }
        }
        let begun = self.clock.now();
        Some(Record {
            logs: Arc::clone(self),
            request,
            status: 0,
            begun,
            bytes_received: 0,
            bytes_sent: 0,
            ends,
        })
    }
}

impl Record {
    /// The form that came with the request.
    pub(super) fn received(&mut self, bytes: usize) {
        self.bytes_received = bytes as u64;
    }

    fn write(&self) {
        let logs = &self.logs;
        let now = logs.clock.now();
        let mut info = StreamInfo::new();
        info.start_time_unix_ns = logs.clock.wall_ns(self.begun);
        info.start_ns = self.begun.0;
        info.complete_ns = Some(now.0);
        info.protocol = Some(self.request.version());
        info.response_code = Some(self.status);
        info.response_code_details.push_str("admin_filter_response");
        (info.bytes_received, info.bytes_sent) = (self.bytes_received, self.bytes_sent);
        let address = |address: Option<SocketAddr>| address.map_or(StreamAddress::None, StreamAddress::Ip);
        info.downstream_remote_address = address(self.ends.peer);
        info.downstream_direct_remote_address = address(self.ends.peer);
        info.downstream_local_address = address(self.ends.local);
        info.downstream_direct_local_address = address(self.ends.local);
        let mut response = Head::new();
        response.set_status(self.status);
        let mut writing = logs.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Writing { buffer, scratch, rng } = &mut *writing;
        let context = FormatContext {
            request: Some(&self.request),
            response: Some(&response),
            log_type: AccessLogType::DownstreamEnd,
            ..FormatContext::new(&info, now.0, rng.next_u64())
        };
        logs.logs.iter().for_each(|log| log.log(&context, scratch, buffer));
    }
}

impl LoggedBody {
    pub(super) fn new(body: ReplyBody, status: u16, mut record: Option<Record>) -> Self {
        record.iter_mut().for_each(|record| record.status = status);
        Self { body, record }
    }
}

impl Body for LoggedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let (Poll::Ready(Some(Ok(frame))), Some(record)) = (&polled, &mut self.record) {
            record.bytes_sent += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for LoggedBody {
    fn drop(&mut self) {
        if let Some(record) = &self.record {
            record.write();
        }
    }
}
