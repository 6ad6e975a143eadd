//! The TCP relay on glommio: reads into a held buffer for each direction.

use std::io;
use std::net::SocketAddr;

use futures_lite::future::try_zip;
use futures_lite::io::{ReadHalf, WriteHalf, split};
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpStream;

use crate::{LARGE_BYTES, SMALL_BYTES};

/// Connects and relays until both sides have ended, or one broke: then the other one is ended, too.
pub(crate) async fn relay(client: TcpStream, upstream: SocketAddr) {
    let Ok(upstream) = TcpStream::connect(upstream).await else { return };
    if client.set_nodelay(true).and_then(|()| upstream.set_nodelay(true)).is_err() {
        return;
    }
    let (from_client, to_client) = split(client);
    let (from_upstream, to_upstream) = split(upstream);
    let _ = try_zip(copy(from_client, to_upstream), copy(from_upstream, to_client)).await;
}

/// One direction, through a large buffer once a small one was filled.
async fn copy(mut from: ReadHalf<TcpStream>, mut to: WriteHalf<TcpStream>) -> io::Result<()> {
    let mut buffer = vec![0; SMALL_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.close().await;
        }
        to.write_all(&buffer[..count]).await?;
        if count == buffer.len() && count < LARGE_BYTES {
            buffer = vec![0; LARGE_BYTES];
        }
    }
}
