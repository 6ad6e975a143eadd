//! Access by role of connections (Envoy's network RBAC filter): whether what a connection has begun may go on.
//!
//! The rules are asked when the first byte is there, from either side. Envoy asks when the client's first byte is; here
//! what the server says first does not pass unasked either. Where an endpoint is looked for with the client's first byte,
//! they are asked before. What the rules look at does not change while a connection lasts, so that they are asked once,
//! whatever `enforcement_type` says.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::context::WorkerContext;
use crate::filter::rbac::{Counters, Facts, NetworkRbac};
use crate::protocol::connection_info::ConnectionInfo;
use crate::protocol::dynamic_metadata::DynamicMetadata;
use crate::protocol::http::matcher::MatchScratch;
use crate::protocol::tls::TlsFacts;
use crate::protocol::transport::Transport;
use crate::runtime::Timer;

/// The filters of a chain, in order.
#[derive(Debug)]
pub struct Access(Box<[AccessFilter]>);

/// One of them on this core.
#[derive(Debug)]
pub struct AccessFilter {
    filter: Arc<NetworkRbac>,
    counters: Counters,
    scratch: RefCell<MatchScratch>,
}

/// The filters of a chain, and what they are told of one connection.
#[derive(Debug)]
pub(super) struct Asked {
    access: Rc<Access>,
    info: ConnectionInfo,
    /// The connection's: what its listener filters have noted, and these.
    metadata: RefCell<DynamicMetadata>,
}

/// Why this side closes a connection that may not go on. Source: Envoy's filter.
pub(super) const DENY_CLOSE: &str = "rbac_deny_close";

/// A connection may not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Denied {
    /// How long it is kept before it is closed; `None`: not at all.
    pub(super) delay: Option<Duration>,
    /// Which policy says so, in Envoy's words.
    pub(super) details: String,
}

impl Access {
    /// The access of a chain; `None`: it has no such filter.
    pub fn new(filters: Vec<AccessFilter>) -> Option<Rc<Self>> {
        (!filters.is_empty()).then(|| Rc::new(Self(filters.into())))
    }
}

impl AccessFilter {
    /// A filter with its counters on this core.
    pub fn new(filter: Arc<NetworkRbac>, counters: Counters) -> Self {
        Self { filter, counters, scratch: RefCell::default() }
    }
}

impl Asked {
    /// What a connection is asked; boxed: few are.
    pub(super) fn of(access: Option<&Rc<Access>>, info: &ConnectionInfo) -> Option<Box<Self>> {
        access.map(|access| {
            let mut metadata = DynamicMetadata::default();
            info.note_metadata(&mut metadata);
            Box::new(Self { access: Rc::clone(access), info: info.clone(), metadata: metadata.into() })
        })
    }

    /// Whether the connection may go on.
    ///
    /// # Errors
    /// The first filter's word that denies it; those behind it are not asked.
    pub(super) fn decide(&self, tls: Option<&TlsFacts>) -> Result<(), Denied> {
        let facts = Facts::of_connection(&self.info, tls);
        let mut metadata = self.metadata.borrow_mut();
        for AccessFilter { filter, counters, scratch } in &self.access.0 {
            let decision = filter.decide(&facts, &mut metadata, &mut scratch.borrow_mut(), counters);
            if !decision.allowed {
                let details = decision.details().to_owned();
                return Err(Denied { delay: filter.delay_deny, details });
            }
        }
        Ok(())
    }

    /// Notes elsewhere what is noted of the connection.
    pub(super) fn write_metadata(&self, other: &mut DynamicMetadata) {
        self.metadata.borrow().write_to(other);
    }
}

/// Ends a connection that is not served, denied or beyond a limit: after a time, unread, unless its client goes before, or at
/// once. As a close that leaves something unread in the kernel, it resets. Whether it is this side that ends it.
pub(super) async fn deny(
    context: &WorkerContext,
    transport: &Transport,
    timer: &Timer,
    delay: Option<Duration>,
) -> bool {
    let mut is_ours = true;
    if let Some(delay) = delay {
        let due = context.runtime.now().after(delay);
        is_ours = poll_fn(|_| match transport.poll_peer_closed() {
            Poll::Ready(()) => Poll::Ready(false),
            Poll::Pending => timer.poll_at(due).map(|()| true),
        })
        .await;
    }
    if transport.has_unread() {
        transport.set_reset_on_close();
    }
    is_ours
}
