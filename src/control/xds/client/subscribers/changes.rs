//! What a stream hears of those who ask for something: most of what they say may concern any type, and has all of them looked
//! through; requests that ask for virtual hosts, as often as their clients choose, have that one alone.

use tokio::sync::watch;

use super::super::judge::Kind;

/// See the file's head.
#[derive(Debug)]
pub(in super::super) struct Changes {
    of_any: watch::Receiver<()>,
    of_hosts: watch::Receiver<()>,
}

impl Changes {
    pub(super) fn new(of_any: watch::Receiver<()>, of_hosts: watch::Receiver<()>) -> Self {
        Self { of_any, of_hosts }
    }

    /// Something else is asked for: of which type; `None`: of any.
    pub(in super::super) async fn next(&mut self) -> Option<Kind> {
        // The senders live as long as the subscribers.
        tokio::select! {
            _ = self.of_any.changed() => None,
            _ = self.of_hosts.changed() => Some(Kind::VirtualHosts),
        }
    }
}
