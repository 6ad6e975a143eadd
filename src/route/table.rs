//! [`RouteTable`]: a route configuration, compiled; and [`RouteTable::find_route`].

use super::deferred::DeferredHosts;
use super::forward::{ClusterSlot, Forward};
use super::hosts::HostIndex;
use super::matching::{Conditions, PathTest};
use super::mutation::Mutations;
use super::overrides::{OverrideSlot, Overrides};
use super::path_index::PathIndex;
use super::redirect::Redirect;
use crate::base::heaps;
use crate::config::route::TlsRequirement;
use crate::format::header_additions::HeaderScratch;
use crate::protocol::http::head::Head;
use crate::protocol::http::headers::{self, HeaderName};
use crate::protocol::http::host;
use crate::protocol::http::matcher::MatchScratch;
use crate::protocol::http::path::without_query;

/// A compiled route configuration. Immutable, shared by all cores.
#[derive(Debug)]
pub struct RouteTable {
    pub(super) name: Box<str>,
    pub(super) hosts: HostIndex,
    pub(super) virtual_hosts: Box<[VirtualHost]>,
    pub(super) vhost_header: Option<HeaderName>,
    pub(super) ignore_port: bool,
    pub(super) ignore_path_parameters: bool,
    pub(super) internal_only_headers: Box<[HeaderName]>,
    pub(super) mutations: Mutations,
    pub(super) most_specific_mutations_win: bool,
    pub(super) clusters: Box<[Box<str>]>,
    pub(super) filters: Option<OverrideSlot>,
    pub(super) overrides: Overrides,
    /// None: all its regular expressions are made.
    pub(super) deferred: Option<Box<DeferredHosts>>,
}

/// A compiled virtual host.
#[derive(Debug)]
pub struct VirtualHost {
    /// Source: `VirtualHost.name`.
    pub name: Box<str>,
    /// Source: `VirtualHost.include_request_attempt_count`.
    pub include_request_attempt_count: bool,
    /// Source: `VirtualHost.include_attempt_count_in_response`.
    pub include_attempt_count_in_response: bool,
    pub(super) require_tls: TlsRequirement,
    pub(super) filters: Option<OverrideSlot>,
    pub(super) mutations: Mutations,
    pub(super) routes: Box<[Route]>,
    /// None for a few routes: trying them in order is as fast.
    pub(super) index: Option<Box<PathIndex>>,
}

/// A compiled route.
#[derive(Debug)]
pub struct Route {
    /// Source: `Route.name`.
    pub name: Box<str>,
    /// What is done with its requests.
    pub action: Action,
    pub(super) path: PathTest,
    /// None: whatever has the path.
    pub(super) conditions: Option<Box<Conditions>>,
    pub(super) filters: Option<OverrideSlot>,
    pub(super) mutations: Mutations,
}

/// There is one for each of thousands of hosts, or more.
const _: () = assert!(size_of::<VirtualHost>() <= 56 && size_of::<Route>() <= 80);

/// What is done with a route's requests.
#[derive(Debug)]
pub enum Action {
    /// They go to a cluster.
    Forward(Box<Forward>),
    /// They are answered with a redirect.
    Redirect(Box<Redirect>),
    /// They are answered with this content.
    DirectResponse(Box<DirectResponse>),
    /// Nothing here: a filter was to answer. 404 when none has.
    NonForwarding,
}

/// An answer with fixed content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectResponse {
    /// Status of the answer.
    pub status: u16,
    /// Its body.
    pub body: Box<[u8]>,
}

/// What a table says to a request.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'t> {
    /// 404, flag NR. The virtual host, if its domain matched.
    NoRoute(Option<&'t VirtualHost>),
    /// 301 to [`RouteTable::tls_redirect`]: the virtual host requires TLS.
    TlsRedirect(&'t VirtualHost),
    /// This route.
    Route(&'t VirtualHost, &'t Route),
}

/// What matching and rewriting write to: one per core and routing table.
#[derive(Debug, Default)]
pub struct RouteScratch {
    pub(super) matching: MatchScratch,
    pub(super) host: Vec<u8>,
    pub(super) path: Vec<u8>,
    pub(super) candidates: Vec<u32>,
    pub(super) additions: HeaderScratch,
}

impl RouteScratch {
    /// Bytes, and candidates, for which room is kept.
    const ROOM: usize = 256;

    /// Gives back what it has grown to; the caches of regular expressions have their own bound.
    pub fn settle(&mut self) {
        heaps::settle_scratch(&mut self.host, Self::ROOM);
        heaps::settle_scratch(&mut self.path, Self::ROOM);
        heaps::settle_scratch(&mut self.candidates, Self::ROOM);
        self.additions.settle();
    }
}

impl RouteTable {
    /// Source: `RouteConfiguration.name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many clusters the table sends to; those named by request headers are not among them.
    pub fn cluster_count(&self) -> usize {
        self.clusters.len()
    }

    /// The name of one of them.
    pub fn cluster_name(&self, slot: ClusterSlot) -> Option<&str> {
        self.clusters.get(slot.0 as usize).map(|name| &**name)
    }

    /// Headers that only internal clients may send. Source: `RouteConfiguration.internal_only_headers`.
    pub fn internal_only_headers(&self) -> &[HeaderName] {
        &self.internal_only_headers
    }

    /// The same table without the index of its routes: every route is tried in order. What the fuzzer and tests hold the
    /// index against.
    pub(crate) fn without_index(mut self) -> Self {
        for virtual_host in &mut self.virtual_hosts {
            virtual_host.index = None;
        }
        self
    }

    /// The route of a request, whose head went through `forwarding::mutate_request`. `random` is the request's own: it
    /// decides `runtime_fraction`s, and the caller uses it again for [`Forward::choose_cluster`], as Envoy does.
    pub fn find_route(&self, head: &Head, random: u64, scratch: &mut RouteScratch) -> Outcome<'_> {
        let Some(virtual_host) = self.find_virtual_host(head, scratch) else {
            return Outcome::NoRoute(None);
        };
        let plain = || head.get(&headers::X_FORWARDED_PROTO) != Some(b"https");
        let internal = || head.get(&headers::X_ENVOY_INTERNAL) == Some(b"true");
        match virtual_host.require_tls {
            TlsRequirement::All if plain() => return Outcome::TlsRedirect(virtual_host),
            TlsRequirement::ExternalOnly if plain() && !internal() => {
                return Outcome::TlsRedirect(virtual_host);
            }
            _ => {}
        }
        match virtual_host.find_route(head, random, self.ignore_path_parameters, scratch) {
            Some(route) => Outcome::Route(virtual_host, route),
            None => Outcome::NoRoute(Some(virtual_host)),
        }
    }

    /// Writes the location of [`Outcome::TlsRedirect`]: the same URL by https.
    pub fn tls_redirect(head: &Head, out: &mut Vec<u8>) {
        out.extend_from_slice(b"https://");
        out.extend_from_slice(head.authority());
        out.extend_from_slice(head.path());
    }

    /// Whether a virtual host is there for the request.
    pub fn has_virtual_host(&self, head: &Head, scratch: &mut RouteScratch) -> bool {
        self.find_virtual_host(head, scratch).is_some()
    }

    fn find_virtual_host(&self, head: &Head, scratch: &mut RouteScratch) -> Option<&VirtualHost> {
        self.virtual_hosts.get(self.find_place(head, scratch)? as usize)
    }

    /// The place of the request's virtual host.
    pub(super) fn find_place(&self, head: &Head, scratch: &mut RouteScratch) -> Option<u32> {
        let mut asked = match &self.vhost_header {
            _ if !self.hosts.needs_host() => &[][..],
            Some(header) => head.get(header)?,
            None => head.authority(),
        };
        if self.ignore_port {
            asked = host::without_port(asked);
        }
        self.hosts.find(asked, &mut scratch.host)
    }
}

impl VirtualHost {
    fn find_route(
        &self,
        head: &Head,
        random: u64,
        ignore_parameters: bool,
        scratch: &mut RouteScratch,
    ) -> Option<&Route> {
        let RouteScratch { matching, path: buffer, candidates, .. } = scratch;
        let mut path = without_query(head.path());
        if ignore_parameters && path.contains(&b';') {
            remove_parameters(path, buffer);
            path = buffer;
        }
        let is_connect = head.method() == b"CONNECT";
        let mut matches = |route: &Route| {
            route.path.matches(path, is_connect, &mut matching.regexes)
                && route.conditions.as_ref().is_none_or(|asked| asked.matches(head, random, matching))
        };
        let Some(index) = &self.index else {
            return self.routes.iter().find(|route| matches(route));
        };
        let found =
            index.first(path, candidates, |route| self.routes.get(route as usize).is_some_and(&mut matches));
        self.routes.get(found? as usize)
    }
}

impl Route {
    /// Writes the location of a redirect and moves the request's path to it, keeping the old one in
    /// `x-envoy-original-path` (unless `keep_original` is false: `suppress_envoy_headers`).
    pub fn redirect(
        &self,
        redirect: &Redirect,
        head: &mut Head,
        keep_original: bool,
        scratch: &mut RouteScratch,
        location: &mut Vec<u8>,
    ) {
        redirect.rewrite_path(head, self.path.matched_len(head.path()), keep_original, scratch);
        redirect.write_location(head, location);
    }
}

/// The path without `;parameters` of its segments. Source: `ignore_path_parameters_in_path_matching`.
fn remove_parameters(path: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let mut inside = false;
    for &byte in path {
        inside = byte == b';' || inside && byte != b'/';
        if !inside {
            out.push(byte);
        }
    }
}
