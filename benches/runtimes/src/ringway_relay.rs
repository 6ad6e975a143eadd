//! The TCP relay on Ringway's own runtime: chunks from socket to socket, uncopied in user space, or `splice(2)`.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Poll, ready};

use futures_lite::future::try_zip;
use ringway::runtime::{Runtime, Spliced, TcpStream};

use crate::ringway_loop::{FLUSH_BYTES, poll_room};

/// Chunks moved before other connections get their turn.
const CHUNKS_PER_POLL: usize = 16;

/// Connects and relays until both sides have ended, or one broke: then both are reset.
pub(crate) async fn relay(runtime: Runtime, client: TcpStream, upstream: SocketAddr, splices: bool) {
    // An idle connection is a small future; what a connect needs lives in recycled memory.
    let connected = runtime.recycled(TcpStream::connect(&runtime, upstream, None, &[])).await;
    let Ok(upstream) = connected else { return };
    let ended = Cell::new(false);
    let outcome = if splices {
        try_zip(splice(&runtime, &client, &upstream, &ended), splice(&runtime, &upstream, &client, &ended))
            .await
    } else {
        try_zip(copy(&runtime, &client, &upstream, &ended), copy(&runtime, &upstream, &client, &ended)).await
    };
    if outcome.is_err() {
        client.set_reset_on_close();
        upstream.set_reset_on_close();
        return;
    }
    // What is queued goes out before the connections end.
    let _ = poll_fn(|_| client.poll_sent(0)).await;
    let _ = poll_fn(|_| upstream.poll_sent(0)).await;
}

/// One direction, through chunks: large ones once a small one was filled.
async fn copy(runtime: &Runtime, from: &TcpStream, to: &TcpStream, ended: &Cell<bool>) -> io::Result<()> {
    let (mut bulk, mut paused) = (false, false);
    poll_fn(|_| {
        for _ in 0..CHUNKS_PER_POLL {
            ready!(poll_room(to, &mut paused))?;
            match from.poll_recv() {
                Poll::Ready(Ok(Some(chunk))) => {
                    if !bulk && chunk.len() == chunk.capacity() {
                        bulk = true;
                        from.set_bulk(true);
                    }
                    to.send(chunk);
                    if to.queued() >= FLUSH_BYTES {
                        to.flush();
                    }
                }
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    to.flush();
                    // Who has ended and then broken off may show it to who sends alone.
                    return match to.poll_sent(usize::MAX) {
                        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                        Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
        to.flush();
        runtime.wake(runtime.current_task());
        Poll::Pending
    })
    .await?;
    end(to, ended);
    Ok(())
}

/// One direction, through a pipe of the kernel. A worker has 64 of them, so 32 connections may be relayed at a time.
async fn splice(runtime: &Runtime, from: &TcpStream, to: &TcpStream, ended: &Cell<bool>) -> io::Result<()> {
    let pipe = runtime.pipe().ok_or_else(|| io::Error::other("no pipe left"))?;
    loop {
        match poll_fn(|_| from.poll_splice_in(&pipe, usize::MAX)).await? {
            Spliced::Bytes(_) => {
                if !poll_fn(|_| to.poll_splice_out(&pipe)).await? {
                    return Err(io::ErrorKind::Unsupported.into());
                }
            }
            // What was received into user space before comes first.
            Spliced::Unread => {
                if let Some(chunk) = from.recv().await? {
                    to.send(chunk);
                    to.flush();
                }
            }
            Spliced::End => break,
            Spliced::Refused => return Err(io::ErrorKind::Unsupported.into()),
        }
    }
    end(to, ended);
    Ok(())
}

/// The source's end goes behind what is queued. Of the second one the close that follows tells.
fn end(to: &TcpStream, ended: &Cell<bool>) {
    if ended.replace(true) {
        to.flush();
    } else {
        to.shutdown_write();
    }
}
