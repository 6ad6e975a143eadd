//! The forwarder on monoio (io_uring, buffers handed to the kernel and back), with DEFER_TASKRUN as Ringway's ring.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt};
use monoio::net::{ListenerOpts, TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};

use crate::http::{self, Head};
use crate::monoio_relay::relay;
use crate::{BULK_BYTES_MIN, LARGE_BYTES, SMALL_BYTES, Work, broken};

struct Forwarder {
    upstream: SocketAddr,
    idle: RefCell<Vec<TcpStream>>,
    /// Unused buffers: heads', and large ones of bodies.
    small: RefCell<Vec<Vec<u8>>>,
    large: RefCell<Vec<Vec<u8>>>,
}

/// Serves until the listening socket fails.
pub(crate) fn serve(work: Work, address: SocketAddr, upstream: SocketAddr) -> io::Result<()> {
    let mut ring = io_uring::IoUring::builder();
    ring.setup_single_issuer().setup_defer_taskrun().setup_cqsize(4096);
    RuntimeBuilder::<IoUringDriver>::new().uring_builder(ring).build()?.block_on(async move {
        let options = ListenerOpts::new().backlog(4096).reuse_port(false);
        let listener = TcpListener::bind_with_config(address, &options)?;
        let forwarder = Rc::new(Forwarder {
            upstream,
            idle: RefCell::default(),
            small: RefCell::default(),
            large: RefCell::default(),
        });
        loop {
            let (client, _) = listener.accept().await?;
            if work != Work::Http {
                monoio::spawn(relay(client, upstream));
                continue;
            }
            let forwarder = Rc::clone(&forwarder);
            monoio::spawn(async move { forwarder.connection(client).await });
        }
    })
}

impl Forwarder {
    async fn connection(&self, mut client: TcpStream) {
        if client.set_nodelay(true).is_err() {
            return;
        }
        let mut buffer = Vec::with_capacity(SMALL_BYTES);
        loop {
            if buffer.is_empty() {
                let (outcome, filled) = client.read(buffer).await;
                buffer = filled;
                if !matches!(outcome, Ok(1..)) {
                    return;
                }
            }
            match self.exchange(&mut client, buffer).await {
                Ok((true, rest)) => buffer = rest,
                Ok((false, _)) | Err(_) => break,
            }
        }
        let _ = client.shutdown().await;
    }

    /// One request, of which `received` is the beginning, and its response; whether the client's connection goes on,
    /// and what it sent beyond the request.
    async fn exchange(&self, client: &mut TcpStream, received: Vec<u8>) -> io::Result<(bool, Vec<u8>)> {
        let pooled = self.idle.borrow_mut().pop();
        let mut upstream = match pooled {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect_addr(self.upstream).await?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        let (asked, rest) = self.message(client, received, &mut upstream, http::request).await?;
        let (outcome, received) = upstream.read(self.take_small()).await;
        if outcome? == 0 {
            return Err(broken("the upstream ended"));
        }
        let (answered, left) = self
            .message(&mut upstream, received, client, |received, out| http::response(received, asked, out))
            .await?;
        if !answered.close && left.is_empty() {
            self.idle.borrow_mut().push(upstream);
        }
        self.small.borrow_mut().push(left);
        Ok((!asked.close, rest))
    }

    /// Forwards a message, of which `received` is the beginning; also returns what followed it.
    async fn message(
        &self,
        from: &mut TcpStream,
        mut received: Vec<u8>,
        to: &mut TcpStream,
        rewrite: impl Fn(&[u8], &mut Vec<u8>) -> io::Result<Option<Head>>,
    ) -> io::Result<(Head, Vec<u8>)> {
        let mut out = self.take_small();
        let head = loop {
            out.clear();
            if let Some(head) = rewrite(&received, &mut out)? {
                break head;
            }
            let (outcome, more) = from.read(self.take_small()).await;
            if outcome? == 0 {
                return Err(broken("ended within a head"));
            }
            received.extend_from_slice(&more);
            self.small.borrow_mut().push(more);
        };
        // Head and the beginning of the body leave in one write.
        let at_hand = head.body.min((received.len() - head.bytes) as u64) as usize;
        out.extend_from_slice(&received[head.bytes..head.bytes + at_hand]);
        received.drain(..head.bytes + at_hand);
        let (outcome, out) = to.write_all(out).await;
        outcome?;
        self.small.borrow_mut().push(out);
        let mut left = head.body - at_hand as u64;
        if left > 0 {
            let mut buffer = self.take(left);
            while left > 0 {
                let (outcome, filled) = from.read(buffer).await;
                let count = outcome? as u64;
                if count == 0 || count > left {
                    return Err(broken("a body of another length"));
                }
                left -= count;
                let (outcome, written) = to.write_all(filled).await;
                outcome?;
                buffer = written;
                buffer.clear();
            }
            let list = if buffer.capacity() >= LARGE_BYTES { &self.large } else { &self.small };
            list.borrow_mut().push(buffer);
        }
        Ok((head, received))
    }

    fn take(&self, left: u64) -> Vec<u8> {
        if left <= BULK_BYTES_MIN {
            return self.take_small();
        }
        self.large.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(LARGE_BYTES))
    }

    fn take_small(&self) -> Vec<u8> {
        let mut buffer = self.small.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(SMALL_BYTES));
        buffer.clear();
        buffer
    }
}
