//! The forwarder on Ringway's own runtime, io_uring or epoll, with its chunk pool: bodies pass as views, uncopied. Relays
//! (`ringway_relay`) are accepted here, too.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use ringway::buffer::{Chunk, ChunkSize};
use ringway::runtime::{IoBackend, IoChoice, Runtime, TcpListener, TcpStream, mailbox};

use crate::http::{self, Head};
use crate::ringway_relay::relay;
use crate::{BULK_BYTES_MIN, Work, broken};

/// Bytes queued towards a receiver before reading pauses; it goes on at half.
const QUEUED_BYTES_MAX: usize = 1024 * 1024;
/// Bytes gathered before they are handed to the kernel.
pub(crate) const FLUSH_BYTES: usize = 64 * 1024;

struct Forwarder {
    runtime: Runtime,
    upstream: SocketAddr,
    idle: RefCell<Vec<TcpStream>>,
}

/// Serves until the kernel refuses the loop itself.
pub(crate) fn serve(
    backend: IoBackend,
    work: Work,
    address: SocketAddr,
    upstream: SocketAddr,
) -> io::Result<()> {
    let (_sender, mail) = mailbox::mailbox::<()>()?;
    let (runtime, info) = Runtime::new(IoChoice { backend, level: None }, mail.bell())?;
    eprintln!("runtimes: {info}");
    let socket = socket2::Socket::from(std::net::TcpListener::bind(address)?);
    // A second call sets the backlog: the standard library's 128 are fewer than the load opens at once.
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    let listener = TcpListener::new(&runtime, OwnedFd::from(socket))?;
    let own = runtime.clone();
    match work {
        Work::Http => {
            let forwarder = Rc::new(Forwarder { runtime: own.clone(), upstream, idle: RefCell::default() });
            runtime.spawn(accept(own, listener, move |client| {
                let forwarder = Rc::clone(&forwarder);
                async move { forwarder.connection(client).await }
            }));
        }
        Work::Tcp | Work::Splice => {
            let splices = work == Work::Splice;
            let relays = own.clone();
            runtime
                .spawn(accept(own, listener, move |client| relay(relays.clone(), client, upstream, splices)));
        }
    }
    loop {
        runtime.turn()?;
    }
}

/// Gives each connection a task.
async fn accept<F: Future<Output = ()> + 'static>(
    runtime: Runtime,
    listener: TcpListener,
    serve: impl Fn(TcpStream) -> F,
) {
    loop {
        match poll_fn(|_| listener.poll_accept()).await {
            Ok(client) => {
                runtime.spawn(serve(client));
            }
            // Out of descriptors, or that one connection failed.
            Err(_) => runtime.sleep_until(runtime.now().after(Duration::from_millis(50))).await,
        }
    }
}

/// Ready once the receiver's queue has room. Whether reading pauses is kept from poll to poll.
pub(crate) fn poll_room(to: &TcpStream, paused: &mut bool) -> Poll<io::Result<()>> {
    if *paused || to.queued() > QUEUED_BYTES_MAX {
        to.flush();
        *paused = true;
        ready!(to.poll_sent(QUEUED_BYTES_MAX / 2))?;
        *paused = false;
    }
    Poll::Ready(Ok(()))
}

impl Forwarder {
    async fn connection(&self, client: TcpStream) {
        // An idle connection is this small future; what a request needs lives in recycled memory.
        while let Ok(Some(first)) = client.recv().await {
            if !matches!(self.runtime.recycled(self.exchange(&client, first)).await, Ok(true)) {
                break;
            }
        }
        // What is queued goes out before the connection ends.
        let _ = poll_fn(|_| client.poll_sent(0)).await;
    }

    /// One request and its response; whether the client's connection goes on.
    async fn exchange(&self, client: &TcpStream, first: Chunk) -> io::Result<bool> {
        let pooled = self.idle.borrow_mut().pop();
        let upstream = match pooled {
            Some(stream) => stream,
            None => TcpStream::connect(&self.runtime, self.upstream, None, &[]).await?,
        };
        let asked = self.head(client, first, &upstream, |received, out| http::request(received, out)).await?;
        let first = upstream.recv().await?.ok_or_else(|| broken("the upstream ended"))?;
        let answered =
            self.head(&upstream, first, client, |received, out| http::response(received, asked, out)).await?;
        if !answered.close && !upstream.has_unread() {
            self.idle.borrow_mut().push(upstream);
        }
        Ok(!asked.close)
    }

    /// Forwards a head, of which `chunk` is the beginning, and the body behind it.
    async fn head(
        &self,
        from: &TcpStream,
        mut chunk: Chunk,
        to: &TcpStream,
        rewrite: impl Fn(&[u8], &mut &mut [u8]) -> io::Result<Option<Head>>,
    ) -> io::Result<Head> {
        let mut before = Vec::new();
        loop {
            let mut out =
                self.runtime.pool().alloc(ChunkSize::Small).ok_or_else(|| broken("no chunk left"))?;
            let mut room = out.spare();
            let all = room.len();
            let known = before.len();
            let rewritten = if known == 0 {
                rewrite(&chunk, &mut room)?
            } else {
                before.extend_from_slice(&chunk);
                rewrite(&before, &mut room)?
            };
            let written = all - room.len();
            if let Some(head) = rewritten {
                out.advance(written);
                to.send(out.freeze());
                chunk.advance(head.bytes - known);
                self.body(from, chunk, to, head.body).await?;
                return Ok(head);
            }
            if known == 0 {
                before.extend_from_slice(&chunk);
            }
            chunk = from.recv().await?.ok_or_else(|| broken("ended within a head"))?;
        }
    }

    /// Forwards `left` bytes, of which `chunk` has the first; what follows stays unread.
    async fn body(&self, from: &TcpStream, chunk: Chunk, to: &TcpStream, mut left: u64) -> io::Result<()> {
        let mut next = Some(chunk);
        let mut pass = |mut chunk: Chunk| {
            let count = left.min(chunk.len() as u64);
            left -= count;
            to.send(chunk.split_to(count as usize));
            if !chunk.is_empty() {
                from.unread(chunk);
            }
            left
        };
        if next.take().map(&mut pass) == Some(0) {
            to.flush();
            return Ok(());
        }
        let mut paused = false;
        let outcome = poll_fn(|_| {
            loop {
                ready!(poll_room(to, &mut paused))?;
                match from.poll_recv() {
                    Poll::Ready(received) => {
                        let left = pass(received?.ok_or_else(|| broken("ended within a body"))?);
                        from.set_bulk(left > BULK_BYTES_MIN);
                        if left == 0 {
                            return Poll::Ready(Ok(()));
                        }
                        if to.queued() >= FLUSH_BYTES {
                            to.flush();
                        }
                    }
                    Poll::Pending => {
                        to.flush();
                        return Poll::Pending;
                    }
                }
            }
        })
        .await;
        to.flush();
        outcome
    }
}
