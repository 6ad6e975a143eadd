//! The TCP relay on monoio: a buffer for each direction, lent to the kernel for each read and each write.

use std::io;
use std::net::SocketAddr;

use futures_lite::future::try_zip;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf, Splitable};
use monoio::net::TcpStream;

use crate::{LARGE_BYTES, SMALL_BYTES};

/// Connects and relays until both sides have ended, or one broke: then the other one is ended, too.
pub(crate) async fn relay(client: TcpStream, upstream: SocketAddr) {
    let Ok(upstream) = TcpStream::connect_addr(upstream).await else { return };
    if client.set_nodelay(true).and_then(|()| upstream.set_nodelay(true)).is_err() {
        return;
    }
    let (from_client, to_client) = client.into_split();
    let (from_upstream, to_upstream) = upstream.into_split();
    let _ = try_zip(copy(from_client, to_upstream), copy(from_upstream, to_client)).await;
}

/// One direction, through a large buffer once a small one was filled. Its end is the receiver's: a half that is dropped
/// shuts that direction down.
async fn copy(mut from: OwnedReadHalf<TcpStream>, mut to: OwnedWriteHalf<TcpStream>) -> io::Result<()> {
    let mut buffer: Vec<u8> = Vec::with_capacity(SMALL_BYTES);
    loop {
        let (outcome, filled) = from.read(buffer).await;
        let count = outcome?;
        if count == 0 {
            return Ok(());
        }
        let (outcome, written) = to.write_all(filled).await;
        outcome?;
        buffer = written;
        if count == buffer.capacity() && count < LARGE_BYTES {
            buffer = Vec::with_capacity(LARGE_BYTES);
        }
        buffer.clear();
    }
}
