//! Header changes of routes, virtual hosts, tables and weighted clusters, compiled and applied.
//!
//! One level after the other; within a level removals first, then the additions ([`HeaderAdditions`]) on the head as it
//! then is: Envoy's order, so that values of one level do not see each other.

use super::forward::ClusterChoice;
use super::table::{Route, RouteScratch, RouteTable, VirtualHost};
use crate::config::error::ConfigError;
use crate::config::route::{HeaderMutations, HeaderValueOption};
use crate::format::context::FormatContext;
use crate::format::header_additions::{HeaderAdditions, HeaderScratch, modifiable};
use crate::protocol::http::head::Head;
use crate::protocol::http::headers::HeaderName;

/// The compiled header changes of one level; most levels have none.
pub(super) type Mutations = Option<Box<Changes>>;

#[derive(Debug)]
pub(super) struct Changes {
    request: Side,
    response: Side,
}

#[derive(Debug, Default)]
struct Side {
    remove: Box<[HeaderName]>,
    add: HeaderAdditions,
}

impl Changes {
    /// `path` is the level's field path, made only when there is something to compile.
    pub(super) fn compile(
        config: &HeaderMutations,
        path: impl FnOnce() -> String,
    ) -> Result<Mutations, ConfigError> {
        if config.is_empty() {
            return Ok(None);
        }
        let path = &path();
        Ok(Some(Box::new(Self {
            request: Side::compile(&config.request_add, &config.request_remove, path, "request")?,
            response: Side::compile(&config.response_add, &config.response_remove, path, "response")?,
        })))
    }
}

impl Side {
    fn compile(
        add: &[HeaderValueOption],
        remove: &[Box<str>],
        path: &str,
        side: &str,
    ) -> Result<Self, ConfigError> {
        let mut removals = Vec::with_capacity(remove.len());
        for (index, name) in remove.iter().enumerate() {
            removals.push(modifiable(name).map_err(|reason| {
                ConfigError::new(format!("{path}{side}_headers_to_remove[{index}]"), reason)
            })?);
        }
        Ok(Self {
            remove: removals.into(),
            add: HeaderAdditions::compile(add, &format!("{path}{side}_headers_to_add"))?,
        })
    }

    /// `evaluate` evaluates the additions for the head as it then is.
    fn apply(
        &self,
        head: &mut Head,
        scratch: &mut HeaderScratch,
        evaluate: impl Fn(&HeaderAdditions, &Head, &mut HeaderScratch),
    ) {
        for name in &self.remove {
            head.remove(name);
        }
        if !self.add.is_empty() {
            evaluate(&self.add, head, scratch);
            self.add.put(head, scratch);
        }
    }
}

impl RouteTable {
    /// Applies the request header changes of all levels; the weighted cluster's come first, and its host with them.
    /// `context.request` is replaced by the head as it is at each value. Before [`Route::rewrite`].
    pub fn mutate_request(
        &self,
        virtual_host: &VirtualHost,
        route: &Route,
        choice: Option<&ClusterChoice<'_>>,
        head: &mut Head,
        context: &FormatContext<'_>,
        scratch: &mut RouteScratch,
    ) {
        let mut apply = |level: &Changes, head: &mut Head| {
            level.request.apply(head, &mut scratch.additions, |additions, head, out| {
                additions.evaluate(&FormatContext { request: Some(head), ..*context }, head, out);
            });
        };
        if let Some(weighted) = choice.and_then(|choice| choice.weighted) {
            if let Some(changes) = &weighted.mutations {
                apply(changes, head);
            }
            // Unlike the route's own rewrite it leaves no trace in `x-forwarded-host`, as in Envoy.
            if let Some(host) = &weighted.host_rewrite {
                head.set_authority(host);
            }
        }
        for level in self.levels(Some(virtual_host), Some(route)) {
            apply(level, head);
        }
    }

    /// Applies the response header changes of all levels that took part. `context.response` is replaced by the head as
    /// it is at each value.
    pub fn mutate_response(
        &self,
        virtual_host: Option<&VirtualHost>,
        route: Option<&Route>,
        choice: Option<&ClusterChoice<'_>>,
        head: &mut Head,
        context: &FormatContext<'_>,
        scratch: &mut RouteScratch,
    ) {
        let weighted =
            choice.and_then(|choice| choice.weighted).and_then(|weighted| weighted.mutations.as_deref());
        for level in weighted.into_iter().chain(self.levels(virtual_host, route)) {
            level.response.apply(head, &mut scratch.additions, |additions, head, out| {
                additions.evaluate(&FormatContext { response: Some(head), ..*context }, head, out);
            });
        }
    }

    /// The levels in the order they are applied; a later one wins.
    fn levels<'a>(
        &'a self,
        virtual_host: Option<&'a VirtualHost>,
        route: Option<&'a Route>,
    ) -> impl Iterator<Item = &'a Changes> {
        let mut levels = [
            route.and_then(|route| route.mutations.as_deref()),
            virtual_host.and_then(|virtual_host| virtual_host.mutations.as_deref()),
            self.mutations.as_deref(),
        ];
        if self.most_specific_mutations_win {
            levels.reverse();
        }
        levels.into_iter().flatten()
    }
}
