//! Header changes of routes, virtual hosts, tables and weighted clusters, compiled and applied.
//!
//! One level after the other; within a level removals first, then all values are computed from the head as it then is,
//! then headers are overwritten, then added: Envoy's order, so that values of one level do not see each other.

use super::forward::ClusterChoice;
use super::table::{Route, RouteScratch, RouteTable, VirtualHost};
use crate::config::error::ConfigError;
use crate::config::route::{HeaderAppendAction, HeaderMutations, HeaderValueOption};
use crate::format::context::FormatContext;
use crate::format::formatter::Formatter;
use crate::protocol::http::head::Head;
use crate::protocol::http::headers::HeaderName;

/// The compiled header changes of one level.
#[derive(Debug, Default)]
pub(super) struct Mutations {
    request: Side,
    response: Side,
}

#[derive(Debug, Default)]
struct Side {
    remove: Box<[HeaderName]>,
    add: Box<[Addition]>,
}

#[derive(Debug)]
struct Addition {
    name: HeaderName,
    value: Formatter,
    action: HeaderAppendAction,
    keep_empty: bool,
}

/// Values computed and not yet written: their text, and per addition that happens its index and where its text ends.
#[derive(Debug, Default)]
pub(super) struct Pending {
    text: Vec<u8>,
    ends: Vec<(u32, u32)>,
}

impl Mutations {
    pub(super) fn compile(config: &HeaderMutations, path: &str) -> Result<Self, ConfigError> {
        Ok(Self {
            request: Side::compile(&config.request_add, &config.request_remove, path, "request")?,
            response: Side::compile(&config.response_add, &config.response_remove, path, "response")?,
        })
    }
}

impl Side {
    fn compile(
        add: &[HeaderValueOption],
        remove: &[Box<str>],
        path: &str,
        side: &str,
    ) -> Result<Self, ConfigError> {
        let field = |kind: &str, index: usize| format!("{path}{side}_headers_to_{kind}[{index}]");
        let mut removals = Vec::with_capacity(remove.len());
        for (index, name) in remove.iter().enumerate() {
            let removable =
                modifiable(name).map_err(|reason| ConfigError::new(field("remove", index), reason))?;
            removals.push(removable);
        }
        let mut additions = Vec::with_capacity(add.len());
        for (index, option) in add.iter().enumerate() {
            let field = || format!("{}.header", field("add", index));
            additions.push(Addition {
                name: modifiable(&option.key)
                    .map_err(|reason| ConfigError::new(format!("{}.key", field()), reason))?,
                value: Formatter::parse(&option.value)
                    .map_err(|error| ConfigError::new(format!("{}.value", field()), error.to_string()))?
                    .omitting_empty(),
                action: option.append_action,
                keep_empty: option.keep_empty_value,
            });
        }
        Ok(Self { remove: removals.into(), add: additions.into() })
    }

    fn apply(&self, head: &mut Head, write: impl Fn(&Head, &Formatter, &mut Vec<u8>), pending: &mut Pending) {
        for name in &self.remove {
            head.remove(name);
        }
        pending.text.clear();
        pending.ends.clear();
        for (index, addition) in (0..).zip(&self.add) {
            let happens = match addition.action {
                HeaderAppendAction::AppendIfExistsOrAdd | HeaderAppendAction::OverwriteIfExistsOrAdd => true,
                HeaderAppendAction::AddIfAbsent => !head.contains(&addition.name),
                HeaderAppendAction::OverwriteIfExists => head.contains(&addition.name),
            };
            let start = pending.text.len();
            if happens {
                write(head, &addition.value, &mut pending.text);
                if pending.text.len() > start || addition.keep_empty {
                    pending.ends.push((index, pending.text.len() as u32));
                }
            }
        }
        for overwriting in [true, false] {
            let mut start = 0;
            for &(index, end) in &pending.ends {
                let value = pending.text.get(start..end as usize).unwrap_or_default();
                start = end as usize;
                let Some(addition) = self.add.get(index as usize) else { continue };
                match addition.action {
                    HeaderAppendAction::OverwriteIfExistsOrAdd | HeaderAppendAction::OverwriteIfExists => {
                        if overwriting {
                            head.set(&addition.name, value);
                        }
                    }
                    HeaderAppendAction::AppendIfExistsOrAdd | HeaderAppendAction::AddIfAbsent => {
                        if !overwriting {
                            head.append(&addition.name, value);
                        }
                    }
                }
            }
        }
    }
}

/// The name, if header changes may touch it: rewriting path and host is the route action's own business.
fn modifiable(name: &str) -> Result<HeaderName, &'static str> {
    match HeaderName::parse(name.as_bytes()) {
        Some(name) if !name.is_pseudo() => Ok(name),
        Some(_) => Err("`:`-prefixed headers and host may not be changed or removed"),
        None if name.starts_with(':') => Err("`:`-prefixed headers and host may not be changed or removed"),
        None => Err("not a header name"),
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
        let mut apply = |level: &Mutations, head: &mut Head| {
            let write = |head: &Head, value: &Formatter, out: &mut Vec<u8>| {
                value.write(&FormatContext { request: Some(head), ..*context }, out);
            };
            level.request.apply(head, write, &mut scratch.pending);
        };
        if let Some(weighted) = choice.and_then(|choice| choice.weighted) {
            apply(&weighted.mutations, head);
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
        let weighted = choice.and_then(|choice| choice.weighted).map(|weighted| &weighted.mutations);
        for level in weighted.into_iter().chain(self.levels(virtual_host, route)) {
            let write = |head: &Head, value: &Formatter, out: &mut Vec<u8>| {
                value.write(&FormatContext { response: Some(head), ..*context }, out);
            };
            level.response.apply(head, write, &mut scratch.pending);
        }
    }

    /// The levels in the order they are applied; a later one wins.
    fn levels<'a>(
        &'a self,
        virtual_host: Option<&'a VirtualHost>,
        route: Option<&'a Route>,
    ) -> impl Iterator<Item = &'a Mutations> {
        let virtual_host = virtual_host.map(|virtual_host| &virtual_host.mutations);
        let mut levels = [route.map(|route| &route.mutations), virtual_host, Some(&self.mutations)];
        if self.most_specific_mutations_win {
            levels.reverse();
        }
        levels.into_iter().flatten()
    }
}
