//! `scoped_routes`: how a request's key is made, and the scopes, in place or told.
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::at::At;
use super::fields::classify;
use super::{config_source, http_filter, route};
use crate::config::scoped_routes::{Element, FragmentBuilder, Scope, ScopedRoutes, ToldScope};
use crate::control::xds::pb;
use pb::http_connection_manager as wire;
use pb::route::ScopedRouteConfigurationKeyFragmentTypeOneOf as KeyFragment;
use wire::ScopedRoutesConfigSpecifierOneOf as Specifier;
use wire::ScopedRoutesScopeKeyBuilderFragmentBuilderHeaderValueExtractorExtractTypeOneOf as ExtractType;
use wire::ScopedRoutesScopeKeyBuilderFragmentBuilderTypeOneOf as Builder;

/// The scopes of a manager, some of whose filters this version lacks; `None`: they cannot be.
pub(super) fn scoped_routes(
    at: &At<'_>,
    message: wire::ScopedRoutes,
    lacking: &[String],
) -> Option<ScopedRoutes> {
    classify!(at, message => wire::ScopedRoutes {
        implemented: name = "for statistics and /config_dump", scope_key_builder, config_specifier,
            rds_config_source = "of scoped_rds; scopes of a list have their routes with them";
    });
    let fragments = scope_key_builder.map(|message| key_builder(&at.field("scope_key_builder"), message));
    let (scopes, told) = match config_specifier? {
        Specifier::ScopedRouteConfigurationsList(list) => {
            (scopes(&at.field("scoped_route_configurations_list"), list, lacking), None)
        }
        Specifier::ScopedRds(message) => {
            (Vec::new(), Some(config_source::srds(at, &name, message, rds_config_source, lacking)?))
        }
    };
    Some(ScopedRoutes { fragments: fragments?, scopes, told })
}

/// A scope that was told; `None`: it cannot be. Source: Envoy `ScopedRdsConfigSubscription::addOrUpdateScopes`.
pub(super) fn told(at: &At<'_>, message: pb::route::ScopedRouteConfiguration) -> Option<ToldScope> {
    let message = classified(at, message);
    if message.route_configuration_name.is_empty() {
        at.error("route_configuration_name is empty");
        return None;
    }
    Some(ToldScope {
        key: key(&at.field("key"), message.key?),
        table: message.route_configuration_name.into(),
        on_demand: message.on_demand,
    })
}

fn key_builder(at: &At<'_>, message: wire::ScopedRoutesScopeKeyBuilder) -> Vec<FragmentBuilder> {
    classify!(at, message => wire::ScopedRoutesScopeKeyBuilder { implemented: fragments; });
    let fragments = fragments.into_iter().enumerate();
    fragments.filter_map(|(index, message)| fragment(&at.item("fragments", index), message)).collect()
}

fn fragment(
    at: &At<'_>,
    message: wire::ScopedRoutesScopeKeyBuilderFragmentBuilder,
) -> Option<FragmentBuilder> {
    classify!(at, message => wire::ScopedRoutesScopeKeyBuilderFragmentBuilder {
        implemented: r#type = "header_value_extractor";
    });
    let Builder::HeaderValueExtractor(message) = r#type?;
    let at = &at.field("header_value_extractor");
    classify!(at, message => wire::ScopedRoutesScopeKeyBuilderFragmentBuilderHeaderValueExtractor {
        implemented: name, element_separator, extract_type;
    });
    let element = match extract_type {
        Some(ExtractType::Index(index)) => {
            if index > 0 && element_separator.is_empty() {
                at.field("index").error("must be 0 where element_separator is empty: there is one element");
            }
            Element::At(index)
        }
        Some(ExtractType::Element(message)) => {
            classify!(&at.field("element"), message => wire::ScopedRoutesScopeKeyBuilderFragmentBuilderHeaderValueExtractorKvElement {
                implemented: separator, key;
            });
            Element::Of { key: key.into(), separator: separator.into() }
        }
        None => {
            at.error("one of index, element must be set");
            return None;
        }
    };
    Some(FragmentBuilder { header: name.into(), element_separator: element_separator.into(), element })
}

/// Scopes in place. Of two with the same name or key Envoy takes the last, but refuses a control plane's.
fn scopes(at: &At<'_>, message: wire::ScopedRouteConfigurationsList, lacking: &[String]) -> Vec<Scope> {
    classify!(at, message => wire::ScopedRouteConfigurationsList {
        implemented: scoped_route_configurations = "names and keys must be unique";
    });
    let (mut names, mut keys) = (HashSet::new(), HashMap::new());
    let mut converted = Vec::with_capacity(scoped_route_configurations.len());
    for (index, message) in scoped_route_configurations.into_iter().enumerate() {
        let at = &at.item("scoped_route_configurations", index);
        let Some((name, scope)) = scope(at, message, lacking) else { continue };
        if !names.insert(name.clone()) {
            at.field("name").error(format!("duplicate scoped route configuration {name:?}"));
        } else if let Some(first) = keys.insert(scope.key.clone(), name) {
            at.field("key").error(format!("scope key conflict: the scope {first:?} has the same key"));
        }
        converted.push(scope);
    }
    converted
}

/// A scope and its name.
fn scope(
    at: &At<'_>,
    message: pb::route::ScopedRouteConfiguration,
    lacking: &[String],
) -> Option<(String, Scope)> {
    let pb::route::ScopedRouteConfiguration {
        name, key, route_configuration, route_configuration_name, ..
    } = classified(at, message);
    if !route_configuration_name.is_empty() {
        at.field("route_configuration_name")
            .error("is not supported with inline scoped routes: write route_configuration");
    }
    let Some(table) = route_configuration else {
        at.error("route_configuration must be set: scopes of a list have their routes with them");
        return None;
    };
    let key = self::key(&at.field("key"), key?);
    let at = &at.field("route_configuration");
    let table = route::route_configuration(at, table, true);
    http_filter::refuse_enabled(at, &table, lacking);
    Some((name, Scope { key, route_config: Arc::new(table) }))
}

/// A scope as it came, of whose fields it is known by now which do something.
fn classified(
    at: &At<'_>,
    message: pb::route::ScopedRouteConfiguration,
) -> pb::route::ScopedRouteConfiguration {
    classify!(at, message => pb::route::ScopedRouteConfiguration {
        implemented: name, key, route_configuration = "of scopes of a list, which must have it; scopes that are told go by route_configuration_name, as in Envoy",
            route_configuration_name = "of scopes that are told, which must have it; must not be set in a list, as in Envoy";
        no_effect: on_demand = "routes are asked for at once; scopes of a list have them with them, as in Envoy";
    });
    pb::route::ScopedRouteConfiguration {
        name,
        key,
        route_configuration,
        route_configuration_name,
        on_demand,
    }
}

fn key(at: &At<'_>, message: pb::route::ScopedRouteConfigurationKey) -> Vec<Box<str>> {
    classify!(at, message => pb::route::ScopedRouteConfigurationKey { implemented: fragments; });
    let fragment = |(index, message)| {
        classify!(&at.item("fragments", index), message => pb::route::ScopedRouteConfigurationKeyFragment {
            implemented: r#type = "string_key";
        });
        let KeyFragment::StringKey(text) = r#type?;
        Some(text.into())
    };
    fragments.into_iter().enumerate().filter_map(fragment).collect()
}
