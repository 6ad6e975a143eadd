//! What of a request balancers hash.
use std::time::Duration;

use super::super::at::At;
use super::super::fields::classify;
use super::super::matcher;
use crate::config::route::{HashCookie, HashPolicy, HashSource};
use crate::control::xds::pb;
use pb::route::RouteActionHashPolicyPolicySpecifierOneOf as Specifier;

/// The sources of a hash; those that never have one are left out.
pub(super) fn convert(at: &At<'_>, policies: Vec<pb::route::RouteActionHashPolicy>) -> Vec<HashPolicy> {
    let policies = policies.into_iter().enumerate();
    policies.filter_map(|(index, message)| policy(&at.item("hash_policy", index), message)).collect()
}

fn policy(at: &At<'_>, message: pb::route::RouteActionHashPolicy) -> Option<HashPolicy> {
    classify!(at, message => pb::route::RouteActionHashPolicy {
        implemented: policy_specifier = "filter_state is not implemented yet", terminal;
    });
    let source = match policy_specifier {
        Some(Specifier::Header(message)) => header(&at.field("header"), message)?,
        Some(Specifier::Cookie(message)) => HashSource::Cookie(cookie(&at.field("cookie"), message)),
        Some(Specifier::ConnectionProperties(message)) => {
            classify!(&at.field("connection_properties"), message => pb::route::RouteActionHashPolicyConnectionProperties {
                implemented: source_ip;
            });
            source_ip.then_some(HashSource::SourceIp)?
        }
        Some(Specifier::QueryParameter(message)) => {
            classify!(&at.field("query_parameter"), message => pb::route::RouteActionHashPolicyQueryParameter { implemented: name; });
            HashSource::QueryParameter(name.into())
        }
        Some(Specifier::FilterState(message)) => {
            classify!(&at.field("filter_state"), message => pb::route::RouteActionHashPolicyFilterState {
                not_yet: key = "nothing that is filter state here has a hash";
            });
            return None;
        }
        None => {
            at.error("one of header, cookie, connection_properties, query_parameter must be set");
            return None;
        }
    };
    Some(HashPolicy { source, terminal })
}

fn header(at: &At<'_>, message: pb::route::RouteActionHashPolicyHeader) -> Option<HashSource> {
    classify!(at, message => pb::route::RouteActionHashPolicyHeader { implemented: header_name, regex_rewrite; });
    let rewrite = match regex_rewrite {
        Some(message) => Some(matcher::regex_rewrite(&at.field("regex_rewrite"), message)?),
        None => None,
    };
    Some(HashSource::Header { name: header_name.into(), rewrite })
}

fn cookie(at: &At<'_>, message: pb::route::RouteActionHashPolicyCookie) -> HashCookie {
    classify!(at, message => pb::route::RouteActionHashPolicyCookie {
        implemented: name, ttl = "whole seconds", path, attributes;
    });
    header_text(at, "name", &name);
    header_text(at, "path", &path);
    let attribute = |(index, message)| {
        classify!(&at.item("attributes", index), message => pb::route::RouteActionHashPolicyCookieAttribute { implemented: name, value; });
        (name.into(), value.into())
    };
    HashCookie {
        ttl: at.duration("ttl", ttl).map(|ttl| Duration::from_secs(ttl.as_secs())),
        attributes: attributes.into_iter().enumerate().map(attribute).collect(),
        name: name.into(),
        path: path.into(),
    }
}

/// It becomes part of a header's value; Envoy does not look.
fn header_text(at: &At<'_>, field: &str, text: &str) {
    if text.bytes().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) {
        at.field(field).error("must have no line breaks and no zero bytes");
    }
}
