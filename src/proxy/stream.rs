//! What one request needs while it lasts, recycled per core: heads, facts, scratch space.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::time::Duration;

use super::connection_bytes::Counted;
use super::splice::Splicer;
use crate::base::spares::Spares;
use crate::filter::chain::StreamFilters;
use crate::protocol::http::head::Head;
use crate::protocol::http2::Received;
use crate::protocol::stream_info::StreamInfo;

/// Streams kept for reuse per core; beyond it they are freed.
const KEPT_MAX: usize = 1024;

/// The state of one request and its response.
#[derive(Debug, Default)]
pub struct Stream {
    /// The request as received, then as it is forwarded.
    pub request: Head,
    /// The response as received, then as it is sent.
    pub response: Head,
    /// As what a stream's request and response came, until they go on.
    pub(super) received_request: Received,
    pub(super) received_response: Received,
    /// The request's trailers. Bodies go both ways at once, so neither direction may write into the other's.
    pub request_trailers: Head,
    /// The response's trailers.
    pub trailers: Head,
    /// What is known of the request.
    pub info: StreamInfo,
    /// What its filters keep; empty where there are none.
    pub filters: StreamFilters,
    /// The request's body, where it goes by pipe. Here and not in what moves it: most requests are not to carry it.
    pub(super) request_splicer: Splicer,
    /// The response's.
    pub(super) response_splicer: Splicer,
    /// What of its bytes the counters have already.
    pub(super) counted: Counted,
    /// Longest time of an attempt until its response begins, from the end of the request; `None`: no limit of its own, or it has
    /// begun. Here, as few requests have one.
    pub(super) per_try_timeout: Option<Duration>,
    /// The endpoint has reported its load, in the head.
    pub(super) load_reported: bool,
    /// The client wants 204 and not 504 where an endpoint does not answer in time.
    pub(super) alternative_on_timeout: bool,
    /// By what its endpoint is picked, in every attempt; `None`: by nothing that it has.
    pub hash: Option<u64>,
    /// Cookies that the response gives to the client for the sake of its endpoint, each with a line feed behind it.
    pub set_cookies: Vec<u8>,
    /// Room for texts being put together.
    pub scratch: Vec<u8>,
}

/// The streams of a core that no request uses. Boxed: moving a kilobyte per request costs more.
#[derive(Clone, Default)]
pub struct StreamPool(Rc<RefCell<Spares<Box<Stream>>>>);

/// A stream in use; back in the pool when dropped.
#[derive(Debug)]
pub struct PooledStream {
    /// Always there until the drop.
    stream: Option<Box<Stream>>,
    pool: StreamPool,
}

impl StreamPool {
    /// An empty stream.
    pub fn take(&self) -> PooledStream {
        let stream = self.0.borrow_mut().pop().unwrap_or_default();
        PooledStream { stream: Some(stream), pool: self.clone() }
    }

    /// Frees those that were not needed since the last call; whether the next call may free more.
    pub fn trim(&self) -> bool {
        self.0.borrow_mut().trim(drop)
    }
}

impl StreamPool {
    /// Bytes of the streams that no request uses.
    pub fn spare_bytes(&self) -> usize {
        let streams = self.0.borrow();
        streams.list_bytes() + streams.iter().map(|stream| stream.bytes()).sum::<usize>()
    }
}

impl Stream {
    /// Bytes of the state and of the rooms it has grown.
    fn bytes(&self) -> usize {
        let heads = [&self.request, &self.response, &self.request_trailers, &self.trailers];
        size_of::<Self>()
            + self.filters.room_bytes()
            + self.set_cookies.capacity()
            + self.scratch.capacity()
            + heads.map(Head::room_bytes).iter().sum::<usize>()
    }

    fn clear(&mut self) {
        self.request.clear();
        self.response.clear();
        self.received_request = Received::default();
        self.received_response = Received::default();
        self.request_trailers.clear();
        self.trailers.clear();
        self.info.reset();
        self.filters.clear();
        self.request_splicer = Splicer::default();
        self.response_splicer = Splicer::default();
        self.counted = Counted::default();
        self.per_try_timeout = None;
        self.load_reported = false;
        self.alternative_on_timeout = false;
        self.hash = None;
        self.set_cookies.clear();
        self.scratch.clear();
        self.scratch.shrink_to(16 * 1024);
    }
}

impl Deref for PooledStream {
    type Target = Stream;

    #[expect(clippy::expect_used, reason = "taken only by the drop")]
    fn deref(&self) -> &Stream {
        self.stream.as_deref().expect("there until the drop")
    }
}

impl DerefMut for PooledStream {
    #[expect(clippy::expect_used, reason = "taken only by the drop")]
    fn deref_mut(&mut self) -> &mut Stream {
        self.stream.as_deref_mut().expect("there until the drop")
    }
}

impl Drop for PooledStream {
    fn drop(&mut self) {
        let Some(mut stream) = self.stream.take() else { return };
        let mut pool = self.pool.0.borrow_mut();
        // A panic may have left half an edit.
        if pool.len() < KEPT_MAX && !std::thread::panicking() {
            stream.clear();
            pool.push(stream);
        }
    }
}

impl fmt::Debug for StreamPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamPool")
    }
}
