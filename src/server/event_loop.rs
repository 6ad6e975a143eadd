//! tokio's event loop on one thread: that of the control thread, and those of the demonstration's upstreams.

use std::io;
use std::os::unix::net::UnixStream;

use tokio::runtime::{Builder, Runtime};

/// Makes one.
///
/// # Errors
/// No descriptors left.
pub(super) fn new() -> io::Result<Runtime> {
    // It takes five descriptors and panics when there is none for the third and fourth, a pair of sockets.
    let spare = [UnixStream::pair()?, UnixStream::pair()?, UnixStream::pair()?];
    drop(spare);
    Builder::new_current_thread().enable_all().build()
}
