//! [`Wanted`]: what formats write of peers. Connections keep nothing of them that nobody writes.
//!
//! Noted where a format is compiled, off the data path and before the connections that it is for; asked once per handshake.
//! Process-wide, and never taken back: formats are in listeners, routes and filters, connections belong to none of them.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Something that costs memory per connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The chains that clients have shown.
    DownstreamChain,
    /// What is known of the TLS of endpoints, with the chains that they have shown.
    Upstream,
}

static WANTED: [AtomicBool; 2] = [const { AtomicBool::new(false) }; 2];

impl Wanted {
    /// Takes note that somebody writes it.
    pub fn note(self) {
        self.cell().store(true, Relaxed);
    }

    /// Whether anybody does.
    pub fn is_noted(self) -> bool {
        self.cell().load(Relaxed)
    }

    fn cell(self) -> &'static AtomicBool {
        let [downstream, upstream] = &WANTED;
        match self {
            Self::DownstreamChain => downstream,
            Self::Upstream => upstream,
        }
    }
}
