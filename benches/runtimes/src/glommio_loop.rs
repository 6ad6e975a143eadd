//! The forwarder on glommio (io_uring, poll-shaped reads into borrowed buffers).

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement};

use crate::glommio_relay::relay;
use crate::http::{self, Head};
use crate::{BULK_BYTES_MIN, LARGE_BYTES, SMALL_BYTES, Work, broken};

struct Forwarder {
    upstream: SocketAddr,
    idle: RefCell<Vec<TcpStream>>,
    /// Unused buffers, all bytes initialised: heads', and large ones of bodies.
    small: RefCell<Vec<Vec<u8>>>,
    large: RefCell<Vec<Vec<u8>>>,
}

/// Serves until the listening socket fails.
pub(crate) fn serve(work: Work, address: SocketAddr, upstream: SocketAddr) -> io::Result<()> {
    let executor = LocalExecutorBuilder::new(Placement::Unbound).make().map_err(io::Error::from)?;
    executor.run(async move {
        let listener = TcpListener::bind(address).map_err(io::Error::from)?;
        let forwarder = Rc::new(Forwarder {
            upstream,
            idle: RefCell::default(),
            small: RefCell::default(),
            large: RefCell::default(),
        });
        loop {
            let client = listener.accept().await.map_err(io::Error::from)?;
            if work != Work::Http {
                glommio::spawn_local(relay(client, upstream)).detach();
                continue;
            }
            let forwarder = Rc::clone(&forwarder);
            glommio::spawn_local(async move { forwarder.connection(client).await }).detach();
        }
    })
}

impl Forwarder {
    async fn connection(&self, mut client: TcpStream) {
        if client.set_nodelay(true).is_err() {
            return;
        }
        let mut buffer = vec![0; SMALL_BYTES];
        let mut filled = 0;
        loop {
            if filled == 0 {
                match client.read(&mut buffer).await {
                    Ok(count @ 1..) => filled = count,
                    Ok(_) | Err(_) => return,
                }
            }
            match self.exchange(&mut client, &mut buffer, filled).await {
                Ok((true, rest)) => filled = rest,
                Ok((false, _)) | Err(_) => break,
            }
        }
        let _ = client.close().await;
    }

    /// One request, of which the buffer has the first `filled` bytes, and its response; whether the client's connection
    /// goes on, and how many bytes beyond the request are now in the buffer.
    async fn exchange(
        &self,
        client: &mut TcpStream,
        buffer: &mut Vec<u8>,
        filled: usize,
    ) -> io::Result<(bool, usize)> {
        let pooled = self.idle.borrow_mut().pop();
        let mut upstream = match pooled {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.upstream).await.map_err(io::Error::from)?;
                stream.set_nodelay(true).map_err(io::Error::from)?;
                stream
            }
        };
        let (asked, rest) = self.message(client, buffer, filled, &mut upstream, http::request).await?;
        let mut received = self.take_small();
        let count = upstream.read(&mut received).await?;
        if count == 0 {
            return Err(broken("the upstream ended"));
        }
        let (answered, left) = self
            .message(&mut upstream, &mut received, count, client, |received, out| {
                http::response(received, asked, out)
            })
            .await?;
        if !answered.close && left == 0 {
            self.idle.borrow_mut().push(upstream);
        }
        self.small.borrow_mut().push(received);
        Ok((!asked.close, rest))
    }

    /// Forwards a message, of which the buffer has the first `filled` bytes; also returns how many bytes that followed
    /// it are now in the buffer.
    async fn message(
        &self,
        from: &mut TcpStream,
        received: &mut Vec<u8>,
        mut filled: usize,
        to: &mut TcpStream,
        rewrite: impl Fn(&[u8], &mut Vec<u8>) -> io::Result<Option<Head>>,
    ) -> io::Result<(Head, usize)> {
        let mut out = Vec::with_capacity(SMALL_BYTES);
        let head = loop {
            out.clear();
            if let Some(head) = rewrite(&received[..filled], &mut out)? {
                break head;
            }
            if filled == received.len() {
                received.resize(filled * 2, 0);
            }
            let count = from.read(&mut received[filled..]).await?;
            if count == 0 {
                return Err(broken("ended within a head"));
            }
            filled += count;
        };
        // Head and the beginning of the body leave in one write.
        let end = head.bytes + head.body.min((filled - head.bytes) as u64) as usize;
        out.extend_from_slice(&received[head.bytes..end]);
        to.write_all(&out).await?;
        let mut left = head.body - (end - head.bytes) as u64;
        received.copy_within(end..filled, 0);
        let rest = filled - end;
        if left > 0 {
            let large = left > BULK_BYTES_MIN;
            let mut buffer = if large { self.take_large() } else { self.take_small() };
            while left > 0 {
                let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let count = from.read(&mut buffer[..room]).await?;
                if count == 0 {
                    return Err(broken("ended within a body"));
                }
                left -= count as u64;
                to.write_all(&buffer[..count]).await?;
            }
            let list = if large { &self.large } else { &self.small };
            list.borrow_mut().push(buffer);
        }
        Ok((head, rest))
    }

    fn take_small(&self) -> Vec<u8> {
        self.small.borrow_mut().pop().unwrap_or_else(|| vec![0; SMALL_BYTES])
    }

    fn take_large(&self) -> Vec<u8> {
        self.large.borrow_mut().pop().unwrap_or_else(|| vec![0; LARGE_BYTES])
    }
}
