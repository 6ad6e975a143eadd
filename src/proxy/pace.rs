//! What keeps a client that sends one request behind the other from taking more than its share: of memory and of the worker.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use super::downstream::Connection;
use crate::base::limits;
use crate::buffer::Chunk;

/// Receives from a client, but not while more waits for it than may: one that sends requests and takes no responses would have us
/// hold them all. Then the task is woken once half of the watermark has drained.
///
/// # Errors
/// The connection broke; bytes that arrived before have been returned.
pub(super) fn poll_recv(connection: &Connection) -> Poll<io::Result<Option<Chunk>>> {
    let (client, high_watermark) = (&connection.channel, connection.buffer_limit());
    if client.queued() > high_watermark {
        client.flush();
        if client.poll_sent(high_watermark / 2).is_pending() {
            return Poll::Pending;
        }
    }
    client.poll_recv()
}

/// Lets others run after every few requests of a connection: where all have come already and are answered here, its task would
/// never wait.
pub(super) async fn let_others_run(connection: &Connection) {
    let mut is_next = !connection.requests.get().is_multiple_of(limits::REQUESTS_PER_POLL);
    poll_fn(|_| {
        if std::mem::replace(&mut is_next, true) {
            return Poll::Ready(());
        }
        let runtime = &connection.context.runtime;
        runtime.wake(runtime.current_task());
        Poll::Pending
    })
    .await;
}
