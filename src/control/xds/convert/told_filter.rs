//! Filters of any kind that are told by their names: how they are asked for, and what is told.

use std::sync::Arc;

use super::at::At;
use super::fields::classify;
use super::report::Class;
use super::value::type_name;
use super::{config_source, http_filter, listener_filter, network_filter};
use crate::config::ads::Ecds;
use crate::config::told_filter::{FilterConfig, FilterKind, ToldFilter, TypedFilter};
use crate::control::xds::pb::{self, Named};

/// The kind of the filters of a type that can be told; `None`: this version has none.
fn kind_of(type_name: &str) -> Option<FilterKind> {
    if http_filter::IMPLEMENTED.contains(&type_name) {
        Some(FilterKind::Http)
    } else if network_filter::TOLD.contains(&type_name) {
        Some(FilterKind::Network)
    } else if listener_filter::IMPLEMENTED.contains(&type_name) {
        Some(FilterKind::Listener)
    } else {
        None
    }
}

/// A filter that is asked for under this name.
pub(super) fn asked(
    at: &At<'_>,
    name: &str,
    kind: FilterKind,
    message: pb::core::ExtensionConfigSource,
    is_last: bool,
) -> Option<ToldFilter> {
    classify!(at, message => pb::core::ExtensionConfigSource {
        implemented: config_source, default_config, apply_default_config_without_warming,
            type_urls = "at least one is of a filter that this version implements";
    });
    if name.is_empty() {
        at.error("name must be set: the name under which the filter is asked for");
    }
    if apply_default_config_without_warming && default_config.is_none() {
        at.error(format!("filter config {name} applied without warming but has no default config"));
    }
    let types: Box<[Box<str>]> =
        type_urls.iter().map(|url| url.rsplit('/').next().unwrap_or_default().into()).collect();
    let can_be_told = |of: &str| kind_of(of) == Some(kind);
    let class = if types.iter().any(|of| can_be_told(of)) { Class::NotYet } else { Class::Refused };
    for (index, of) in types.iter().enumerate().filter(|(_, of)| !can_be_told(of)) {
        at.item("type_urls", index).found(class, &**of, "a filter of this type is refused when it is told");
    }
    let source = config_source::source(at, "config_source", config_source);
    let of_default = &at.field("default_config");
    let default = default_config.map(|any| typed(of_default, &any));
    let (source, initial_fetch_timeout) = source?;
    let is_awaited = !apply_default_config_without_warming;
    let ecds = Ecds { source, name: name.into(), kind, initial_fetch_timeout, is_awaited, types };
    let mut told = ToldFilter { ecds, default: None, is_last, told: None };
    if let Some(filter) = default {
        let filter = filter?;
        if let Err(reason) = told.check(&filter) {
            of_default.error(reason);
        }
        told.default = Some(Arc::new(filter));
    }
    Some(told)
}

/// A filter as a control plane or a file tells it.
pub(super) fn told(at: &At<'_>, message: pb::core::TypedExtensionConfig) -> Option<TypedFilter> {
    let pb::core::TypedExtensionConfig { name, typed_config } = message;
    if name.is_empty() {
        at.field("name").error("must be set");
    }
    let Some(any) = typed_config else {
        at.error("typed_config must be set");
        return None;
    };
    typed(&at.field("typed_config"), &any)
}

/// A filter that is told, or stands for one, must be of an implemented type.
fn typed(at: &At<'_>, any: &pb::google::Any) -> Option<TypedFilter> {
    const MANAGER: &str = pb::http_connection_manager::HttpConnectionManager::NAME;
    let type_name = type_name(any);
    let config = match kind_of(type_name) {
        Some(FilterKind::Http) => FilterConfig::Http(http_filter::typed(at, any)?),
        Some(FilterKind::Network) => FilterConfig::Network(network_filter::convert(at, any)),
        Some(FilterKind::Listener) => FilterConfig::Listener(listener_filter::kind(at, any)?),
        None => {
            let note = if type_name == MANAGER { "connection managers are not told" } else { "" };
            at.extension(Class::Refused, any, note);
            return None;
        }
    };
    Some(TypedFilter { type_name: type_name.into(), config })
}
