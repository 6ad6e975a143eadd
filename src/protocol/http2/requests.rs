//! The client's end of a connection: where its requests begin, each on a stream of its own.
//!
//! All of them go through one handle of the codec's. One for each would take the codec's lock twice and count four references,
//! for a single request.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;

use super::outgoing::{Outgoing, Piece};
use super::stream::Stream;
use crate::runtime::Runtime;

/// Makes requests on a connection.
pub struct Requests {
    runtime: Runtime,
    outgoing: Outgoing,
    field_bytes_max: u32,
    sender: RequestSender,
}

/// The codec's handle, which keeps its connection from ending. See the file's head.
#[derive(Clone)]
pub(super) struct RequestSender(Rc<RefCell<SendRequest<Piece>>>);

impl Requests {
    pub(super) fn new(
        runtime: &Runtime,
        outgoing: &Outgoing,
        sender: SendRequest<Piece>,
        field_bytes_max: u32,
    ) -> Self {
        let (runtime, outgoing) = (runtime.clone(), outgoing.clone());
        Self { runtime, outgoing, field_bytes_max, sender: RequestSender::new(sender) }
    }

    /// A stream whose request is yet to be sent.
    pub fn stream(&self) -> Box<Stream> {
        Stream::client(&self.runtime, &self.outgoing, self.sender.clone(), self.field_bytes_max)
    }

    /// Streams that the peer takes at a time, as far as it has said.
    pub fn streams_max(&self) -> usize {
        self.sender.0.borrow().current_max_send_streams()
    }
}

impl RequestSender {
    fn new(sender: SendRequest<Piece>) -> Self {
        Self(Rc::new(RefCell::new(sender)))
    }

    /// Whether the peer has said that it takes extended CONNECT.
    pub(super) fn may_extend_connect(&self) -> bool {
        self.0.borrow().is_extended_connect_protocol_enabled()
    }

    /// Hands the codec a request; `ends`: nothing follows its head.
    ///
    /// # Errors
    /// The connection takes none any more, and nothing of it is on the wire.
    pub(super) fn send(
        &self,
        request: Request<()>,
        ends: bool,
    ) -> Result<(ResponseFuture, SendStream<Piece>), h2::Error> {
        let sender = &mut *self.0.borrow_mut();
        let sent = sender.send_request(request, ends)?;
        // It keeps hold of the one that reaches the peer's limit, and takes no other until that is on its way. How many there may
        // be is the pool's affair, and who keeps hold of a stream keeps it from being reset when it is given up. Nobody waits.
        let is_free = sender.poll_ready(&mut Context::from_waker(Waker::noop()));
        if !matches!(is_free, Poll::Ready(Ok(()))) {
            *sender = sender.clone();
        }
        Ok(sent)
    }
}

impl std::fmt::Debug for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Requests")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;

    #[test]
    fn requests_beyond_what_the_peer_takes_wait_in_the_codec() {
        let (near, _far) = tokio::io::duplex(4096);
        let mut builder = h2::client::Builder::new();
        builder.initial_max_send_streams(1);
        let context = &mut Context::from_waker(Waker::noop());
        let mut handshake = pin!(builder.handshake::<_, Piece>(near));
        let Poll::Ready(Ok((sender, _connection))) = handshake.as_mut().poll(context) else {
            panic!("the preface is all of it");
        };
        let requests = RequestSender::new(sender);
        let request = || Request::builder().uri("http://a/").body(()).unwrap();
        let sent: Vec<_> = (0..3).map(|_| requests.send(request(), true)).collect();
        assert!(sent.iter().all(Result::is_ok), "the second would be refused, as it was not waited for");
    }
}
