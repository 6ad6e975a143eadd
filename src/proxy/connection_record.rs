//! What is recorded of a client's connection in the logs of its listener, when it is over: of every connection, those
//! included that no filter chain takes or that a listener filter refuses. Relayed connections are `tcp`'s to record.
//!
//! Source: Envoy `ActiveStreamListenerBase::emitLogs`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::access::Asked;
use super::context::WorkerContext;
use super::handshake::Failed;
use super::listener::Listener;
use crate::base::clock::Now;
use crate::format::context::FormatContext;
use crate::protocol::connection_info::ConnectionInfo;
use crate::protocol::dynamic_metadata::DynamicMetadata;
use crate::protocol::http::head::Version;
use crate::protocol::response_code_details;
use crate::protocol::response_flags::ResponseFlag;
use crate::protocol::stream_info::{StreamInfo, set_text};
use crate::protocol::tls::TlsFacts;

/// Held by a connection for its whole life: written when it is dropped. Nothing, where the listener has no logs.
#[derive(Debug, Default)]
pub(super) struct ConnectionRecord(Option<Box<Recorded>>);

#[derive(Debug)]
struct Recorded {
    context: Rc<WorkerContext>,
    listener: Rc<Listener>,
    info: ConnectionInfo,
    filter_chain: Rc<str>,
    id: Cell<u64>,
    opened: Now,
    /// Wall clock at that moment, ns since the Unix epoch.
    opened_unix_ns: u64,
    protocol: Cell<Option<Version>>,
    tls: RefCell<Option<Rc<TlsFacts>>>,
    flag: Cell<Option<ResponseFlag>>,
    /// Bytes of HTTP from the client and to it, whatever they are, as its counters have them.
    received: Cell<u64>,
    sent: Cell<u64>,
    /// Who answered, or why no chain takes it.
    response_code_details: Cell<&'static str>,
    termination_details: RefCell<String>,
    /// What those have noted of it who were asked whether it may go on.
    metadata: RefCell<DynamicMetadata>,
    /// Why this side has closed it; empty: for none of its filters.
    local_close_reason: Cell<&'static str>,
    failed: Cell<Option<Failed>>,
}

impl ConnectionRecord {
    /// Of a connection that has got so far.
    pub(super) fn new(context: &Rc<WorkerContext>, listener: &Rc<Listener>, info: &ConnectionInfo) -> Self {
        if listener.access_logs.is_empty() {
            return Self::default();
        }
        Self(Some(Box::new(Recorded {
            context: Rc::clone(context),
            listener: Rc::clone(listener),
            info: info.clone(),
            filter_chain: Rc::default(),
            id: Cell::new(0),
            opened: context.runtime.now(),
            opened_unix_ns: context.runtime.wall_ns(),
            protocol: Cell::new(None),
            tls: RefCell::default(),
            flag: Cell::new(None),
            received: Cell::new(0),
            sent: Cell::new(0),
            response_code_details: Cell::new(""),
            termination_details: RefCell::default(),
            metadata: RefCell::default(),
            local_close_reason: Cell::new(""),
            failed: Cell::new(None),
        })))
    }

    /// No chain takes it.
    pub(super) fn without_chain(mut self) {
        if let Some(recorded) = &mut self.0 {
            recorded.flag.set(Some(ResponseFlag::NoRouteFound));
            recorded.response_code_details.set(response_code_details::FILTER_CHAIN_NOT_FOUND);
        }
    }

    /// This chain takes it; `flag`: but does not let it pass.
    pub(super) fn of_chain(mut self, name: &Rc<str>, flag: Option<ResponseFlag>) -> Self {
        if let Some(recorded) = &mut self.0 {
            recorded.filter_chain = Rc::clone(name);
            recorded.flag.set(flag);
        }
        self
    }

    /// Its number.
    pub(super) fn id(&self, id: u64) {
        self.each(|recorded| recorded.id.set(id));
    }

    /// What it speaks.
    pub(super) fn protocol(&self, protocol: Version) {
        self.each(|recorded| recorded.protocol.set(Some(protocol)));
    }

    /// What the client sends is not the protocol that its first bytes chose; `ever`: none of it was, so there is none.
    pub(super) fn broke_protocol(&self, ever: bool) {
        self.each(|recorded| {
            recorded.flag.set(Some(ResponseFlag::DownstreamProtocolError));
            if ever {
                recorded.protocol.set(None);
            }
        });
    }

    /// What its handshake agreed on.
    pub(super) fn tls(&self, facts: &Rc<TlsFacts>) {
        self.each(|recorded| drop(recorded.tls.replace(Some(Rc::clone(facts)))));
    }

    /// Its handshake came to nothing.
    pub(super) fn failed(&self, failed: Failed) {
        self.each(|recorded| recorded.failed.set(Some(failed)));
    }

    /// So many bytes more have come and gone.
    pub(super) fn moved(&self, received: u64, sent: u64) {
        self.each(|recorded| {
            recorded.received.set(recorded.received.get() + received);
            recorded.sent.set(recorded.sent.get() + sent);
        });
    }

    /// It was answered with bytes of the configuration.
    pub(super) fn answered(&self) {
        self.each(|recorded| recorded.response_code_details.set(response_code_details::DIRECT_RESPONSE));
    }

    /// These were asked whether it may go on.
    pub(super) fn noted(&self, asked: &Asked) {
        self.each(|recorded| asked.write_metadata(&mut recorded.metadata.borrow_mut()));
    }

    /// Why it may not go on.
    pub(super) fn denied(&self, details: String) {
        self.each(|recorded| drop(recorded.termination_details.replace(details)));
    }

    /// This side closes it for that reason.
    pub(super) fn closed_for(&self, reason: &'static str) {
        self.each(|recorded| recorded.local_close_reason.set(reason));
    }

    fn each(&self, note: impl FnOnce(&Recorded)) {
        if let Some(recorded) = &self.0 {
            note(recorded);
        }
    }
}

impl Recorded {
    fn tell(&self, told: &mut StreamInfo) {
        let Self { info, listener, .. } = self;
        let now = self.context.runtime.now();
        (told.start_time_unix_ns, told.start_ns) = (self.opened_unix_ns, self.opened.0);
        told.complete_ns = Some(now.0);
        told.downstream_timing.connection_end_ns = Some(now.0);
        told.connection_id = self.id.get();
        told.protocol = self.protocol.get();
        (told.bytes_received, told.bytes_sent) = (self.received.get(), self.sent.get());
        told.downstream_remote_address = info.remote.clone();
        told.downstream_direct_remote_address = info.direct_remote.clone();
        told.downstream_local_address = info.local.clone();
        told.downstream_direct_local_address = info.direct_local.clone();
        set_text(&mut told.listener_name, &listener.config.name);
        set_text(&mut told.filter_chain_name, &self.filter_chain);
        set_text(&mut told.requested_server_name, info.server_name.as_deref().unwrap_or_default());
        set_text(&mut told.response_code_details, self.response_code_details.get());
        told.proxy_tlvs = info.tlv_state();
        info.note_metadata(&mut told.dynamic_metadata);
        self.metadata.borrow().write_to(&mut told.dynamic_metadata);
        told.connection_termination_details = self.termination_details.take();
        told.downstream_local_close_reason = self.local_close_reason.get();
        told.downstream_tls = self.tls.take();
        if let Some(failed) = self.failed.get() {
            failed.tell(told);
        }
        self.flag.get().iter().for_each(|flag| told.response_flags.set(*flag));
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let mut stream = self.context.streams.take();
        self.tell(&mut stream.info);
        let format = FormatContext::new(&stream.info, self.context.runtime.now().0, self.context.random());
        let matching = &mut self.listener.matching.borrow_mut();
        self.context.write_logs(&self.listener.access_logs, &format, matching);
    }
}
