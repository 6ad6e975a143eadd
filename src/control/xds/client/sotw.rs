//! State of the world: each request lists every name, each response has a version for all of them.
//!
//! The version of the last good response outlives a stream, its nonce does not. A name that a response does not have is
//! one of which there is nothing new, but where everything is asked for: there it is one that is gone.
use std::collections::BTreeSet;

use prost::Message;

use super::Protocol;
use super::cache::Restored;
use super::judge::{Considered, Judge, Kind, Outcome, Taken, content};
use super::wanted::Wanted;
use crate::base::packed;
use crate::control::xds::pb::{self, Named};
use pb::discovery::{DiscoveryRequest, DiscoveryResponse, Resource};

#[derive(Debug)]
pub(super) struct Sotw {
    judge: Judge,
    node: pb::core::Node,
    /// Whether only the first request of a stream has the node.
    node_once: bool,
    wanted: Wanted,
    /// Where everything is asked for: what is there, used or refused.
    there: BTreeSet<Box<str>>,
    /// Of the last response that was good.
    version: String,
    /// Of the stream's last response.
    nonce: String,
    /// Whether the stream has asked for the type.
    is_open: bool,
    /// Whether what is accepted is kept.
    keeps: bool,
}

impl Sotw {
    pub(super) fn new(judge: Judge, node: pb::core::Node, wanted: Wanted, node_once: bool) -> Self {
        Self {
            judge,
            node,
            node_once,
            wanted,
            there: BTreeSet::new(),
            version: String::new(),
            nonce: String::new(),
            is_open: false,
            keeps: false,
        }
    }

    /// The type's URL.
    pub(super) fn type_url_of(&self) -> &'static str {
        self.judge.type_url()
    }

    /// Whether nobody wants anything of the type.
    pub(super) fn wants_nothing(&self) -> bool {
        self.wanted.is_nothing()
    }

    /// Takes note of what is there from now on.
    fn note_there<'a>(&mut self, names: impl Iterator<Item = &'a String>) {
        let new = names.filter(|name| !self.there.contains(name.as_str()));
        let new = new.map(|name| Box::<str>::from(name.as_str())).collect();
        packed::extend(&mut self.there, new);
    }

    fn request(&self, first: bool) -> DiscoveryRequest {
        DiscoveryRequest {
            version_info: self.version.clone(),
            node: (first || !self.node_once).then(|| self.node.clone()),
            resource_names: self.wanted.listed(),
            type_url: self.judge.type_url().to_owned(),
            response_nonce: self.nonce.clone(),
            ..DiscoveryRequest::default()
        }
    }
}

impl Protocol for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn method(&self, is_own: bool) -> &'static str {
        if is_own {
            self.judge.kind().methods().0
        } else {
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
        }
    }

    fn kind(&self) -> Kind {
        self.judge.kind()
    }

    fn type_url(response: &DiscoveryResponse) -> &str {
        &response.type_url
    }

    fn is_of(&self, type_url: &str) -> bool {
        self.judge.type_url() == type_url
    }

    fn is_open(&self) -> bool {
        self.is_open
    }

    fn open(&mut self, first: bool) -> Option<DiscoveryRequest> {
        self.nonce.clear();
        self.is_open = !self.wanted.is_nothing();
        self.is_open.then(|| self.request(first))
    }

    fn want(&mut self, wanted: Wanted, held: Option<&mut DiscoveryRequest>) -> Option<DiscoveryRequest> {
        if self.wanted == wanted {
            return None;
        }
        for name in self.wanted.beyond(&wanted) {
            self.judge.forget(&name);
        }
        self.wanted = wanted;
        if let Some(held) = held {
            // Another request with this nonce would take back the refusal.
            held.resource_names = self.wanted.listed();
            return None;
        }
        if !self.is_open && self.wanted.is_nothing() {
            return None;
        }
        self.is_open = true;
        Some(self.request(false))
    }

    fn keep(&mut self) {
        self.keeps = true;
    }

    fn restore(&mut self, restored: &Restored, wanted: &Wanted) -> Outcome {
        restored.judge(&mut self.judge, wanted)
    }

    fn take_restored(&mut self, restored: Restored, outcome: &Outcome, wanted: &Wanted) {
        self.judge.know(outcome);
        // Where not all of it is used the rest is to be told again, which nobody would who is said to have told all of it.
        if self.version.is_empty() && outcome.error().is_none() {
            self.version = restored.version;
        }
        if *wanted == Wanted::All {
            self.note_there(outcome.good.keys());
        }
    }

    fn consider(&mut self, response: DiscoveryResponse) -> Option<Considered> {
        let DiscoveryResponse {
            version_info,
            resources,
            canary: _,
            type_url,
            nonce,
            control_plane: _,
            resource_errors,
        } = response;
        if !self.is_of(&type_url) {
            return None;
        }
        self.nonce = nonce;
        let mut outcome = Outcome { accepted: self.keeps.then(Default::default), ..Outcome::default() };
        let content = content(&version_info, resources.iter());
        let (mut refreshed, mut told) = (BTreeSet::new(), Vec::new());
        for any in resources {
            match unwrapped(any) {
                Ok((name, Some(any))) => told.push((name, any)),
                // Its time to live begins anew; nothing has changed.
                Ok((name, None)) => drop(refreshed.insert(name)),
                Err(reason) => outcome.nameless.push(reason),
            }
        }
        outcome.resources(&told, &mut self.judge, &self.wanted);
        // Of what cannot be read nobody knows the name: it is not gone.
        if self.wanted == Wanted::All && outcome.nameless.is_empty() {
            let is_there = |name: &str| {
                outcome.good.contains_key(name) || outcome.bad.contains_key(name) || refreshed.contains(name)
            };
            let gone = self.there.iter().filter(|name| !is_there(name)).map(|name| String::from(&**name));
            let gone: Vec<_> = gone.collect();
            outcome.absent.extend(gone);
        }
        outcome.agree(&told, &self.judge);
        for name in &outcome.absent {
            self.there.remove(name.as_str());
            self.judge.forget(name);
        }
        outcome.errors(self.judge.kind(), resource_errors, &self.wanted);
        if self.wanted == Wanted::All {
            self.note_there(outcome.good.keys().chain(outcome.bad.keys()));
        }
        let (nonce, versions) = Default::default();
        Some(Considered { outcome, version: version_info, content, nonce, versions })
    }

    fn answer(&mut self, considered: Considered) -> Taken<DiscoveryRequest> {
        let Considered { outcome, version, content, nonce: _, versions: _ } = considered;
        self.judge.know(&outcome);
        let error = outcome.error();
        if error.is_none() {
            self.version.clone_from(&version);
        }
        let refused = error.is_some().then_some(content);
        let reply = DiscoveryRequest { error_detail: error, ..self.request(false) };
        Taken { kind: self.judge.kind(), reply, outcome, version, refused }
    }
}

/// A resource, which may be in an envelope of its own, and the name on it; `None`: the envelope is empty.
fn unwrapped(any: pb::google::Any) -> Result<(String, Option<pb::google::Any>), String> {
    if any.type_url.rsplit('/').next() != Some(Resource::NAME) {
        return Ok((String::new(), Some(any)));
    }
    let resource =
        Resource::decode(&*any.value).map_err(|error| format!("an envelope cannot be decoded: {error}"))?;
    Ok((resource.name, resource.resource))
}
