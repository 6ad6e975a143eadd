//! Access by role: policies, and the two filters that have some.
//!
//! What cannot be evaluated is refused: a rule that is left out would let pass what is to be denied, or the other way round.
use std::collections::BTreeMap;
use std::ops::Range;

use super::at::At;
use super::fields::classify;
use super::report::Class;
use super::value::type_name;
use super::{address, matcher, matching, metadata_matcher};
use crate::config::rbac::{Action, HttpRbac, MatchedAction, NetworkRbac, Policy, Rule, RuleSet, Rules};
use crate::control::xds::pb::{self, Named};
use pb::rbac::{
    MetadataSource, PermissionRuleOneOf as PermissionRule, PrincipalIdentifierOneOf as Identifier,
    RBACAction, RBACAuditLoggingOptionsAuditCondition as AuditCondition,
};

/// Highest port of a range, and one more: its end is not part of it.
const PORT_END_MAX: i32 = 65_536;

/// What rules are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Request,
    /// As in Envoy, conditions on headers are mistakes there.
    Connection,
}

/// The HTTP filter's options.
pub(super) fn http(at: &At<'_>, message: pb::http_rbac::RBAC) -> HttpRbac {
    classify!(at, message => pb::http_rbac::RBAC {
        implemented: rules, shadow_rules, rules_stat_prefix, shadow_rules_stat_prefix, track_per_rule_stats,
            matcher, shadow_matcher;
    });
    HttpRbac {
        rules: rule_set(at, RuleSet::ENFORCED, rules, matcher, Subject::Request),
        shadow_rules: rule_set(at, RuleSet::SHADOW, shadow_rules, shadow_matcher, Subject::Request),
        rules_stat_prefix: rules_stat_prefix.into(),
        shadow_rules_stat_prefix: shadow_rules_stat_prefix.into(),
        track_per_rule_stats,
    }
}

/// A route's options; without rules nothing is enforced there.
pub(super) fn per_route(at: &At<'_>, message: pb::http_rbac::RBACPerRoute) -> HttpRbac {
    classify!(at, message => pb::http_rbac::RBACPerRoute { implemented: rbac; });
    rbac.map(|message| http(&at.field("rbac"), message)).unwrap_or_default()
}

/// The network filter's options.
pub(super) fn network(at: &At<'_>, message: pb::network_rbac::RBAC) -> Option<NetworkRbac> {
    classify!(at, message => pb::network_rbac::RBAC {
        implemented: rules, shadow_rules, stat_prefix, shadow_rules_stat_prefix, delay_deny, matcher, shadow_matcher;
        no_effect: enforcement_type = "what rules look at does not change while a connection lasts: they are asked once";
    });
    if stat_prefix.is_empty() {
        at.field("stat_prefix").error("must not be empty");
        return None;
    }
    Some(NetworkRbac {
        rules: rule_set(at, RuleSet::ENFORCED, rules, matcher, Subject::Connection),
        shadow_rules: rule_set(at, RuleSet::SHADOW, shadow_rules, shadow_matcher, Subject::Connection),
        stat_prefix: stat_prefix.into(),
        shadow_rules_stat_prefix: shadow_rules_stat_prefix.into(),
        delay_deny: at.timeout("delay_deny", delay_deny, None),
    })
}

/// Rules, or the matcher that stands in their place.
fn rule_set(
    at: &At<'_>,
    [rules_field, matcher_field]: [&str; 2],
    rules: Option<pb::rbac::RBAC>,
    matcher: Option<pb::matching::Matcher>,
    subject: Subject,
) -> Option<RuleSet> {
    let Some(message) = matcher else {
        let rules = rules?;
        return Some(RuleSet::Policies(self::rules(&at.field(rules_field), rules, subject)));
    };
    if let Some(rules) = rules {
        let at = &at.field(rules_field);
        at.warn(format!("without effect: {matcher_field} decides"));
        if subject == Subject::Connection {
            // As in Envoy, conditions on headers are mistakes there all the same.
            drop(self::rules(at, rules, subject));
        }
    }
    let at = &at.field(matcher_field);
    let subject = match subject {
        Subject::Request => matching::Subject::Request,
        Subject::Connection => matching::Subject::Connection,
    };
    matching::matcher(at, message, subject, matched_action).map(RuleSet::Matcher)
}

fn matched_action(at: &At<'_>, any: &pb::google::Any) -> Option<MatchedAction> {
    if type_name(any) != pb::rbac::Action::NAME {
        at.extension(Class::Refused, any, "actions of access are envoy.config.rbac.v3.Action");
        return None;
    }
    let message = at.unpack(any)?;
    classify!(at, message => pb::rbac::Action { implemented: name, action; });
    if name.is_empty() {
        at.field("name").error("must not be empty");
    }
    Some(MatchedAction { name: name.into(), action: self::action(at, action) })
}

fn action(at: &At<'_>, action: i32) -> Action {
    match at.enumeration("action", action) {
        RBACAction::Allow => Action::Allow,
        RBACAction::Deny => Action::Deny,
        RBACAction::Log => Action::Log,
    }
}

fn rules(at: &At<'_>, message: pb::rbac::RBAC, subject: Subject) -> Rules {
    classify!(at, message => pb::rbac::RBAC {
        implemented: action, policies, audit_logging_options = "with condition NONE; others are refused";
    });
    if let Some(options) = audit_logging_options {
        audit(&at.field("audit_logging_options"), options);
    }
    let action = self::action(at, action);
    Rules { action, policies: self::policies(at, policies, subject) }
}

/// Nobody logs; where nothing is to be logged, nobody has to.
fn audit(at: &At<'_>, message: pb::rbac::RBACAuditLoggingOptions) {
    classify!(at, message => pb::rbac::RBACAuditLoggingOptions {
        implemented: audit_condition = "NONE";
        no_effect: logger_configs = "nothing is to be logged";
    });
    if at.enumeration::<AuditCondition>("audit_condition", audit_condition) != AuditCondition::None {
        at.field("audit_condition").value_refused(
            "envoy.config.rbac.v3.RBAC.AuditLoggingOptions.audit_condition",
            "there are no audit loggers",
        );
    }
}

fn policies(at: &At<'_>, policies: BTreeMap<String, pb::rbac::Policy>, subject: Subject) -> Vec<Policy> {
    let convert = |(name, message): (String, pb::rbac::Policy)| {
        let at = &at.key("policies", &name);
        classify!(at, message => pb::rbac::Policy {
            implemented: permissions, principals;
            refused: condition = "no CEL", checked_condition = "no CEL", cel_config = "no CEL";
        });
        if permissions.is_empty() {
            at.field("permissions").error("must not be empty");
        }
        if principals.is_empty() {
            at.field("principals").error("must not be empty");
        }
        let permissions = self::permissions(at, "permissions", permissions, subject);
        let principals = self::principals(at, "principals", principals, subject);
        Policy { permissions, principals, name: name.into_boxed_str() }
    };
    policies.into_iter().map(convert).collect()
}

fn permissions(at: &At<'_>, field: &str, list: Vec<pb::rbac::Permission>, subject: Subject) -> Vec<Rule> {
    let convert = |(index, message)| permission(&at.item(field, index), message, subject);
    list.into_iter().enumerate().filter_map(convert).collect()
}

fn permission_set(at: &At<'_>, message: pb::rbac::PermissionSet, subject: Subject) -> Vec<Rule> {
    classify!(at, message => pb::rbac::PermissionSet { implemented: rules; });
    if rules.is_empty() {
        at.field("rules").error("must not be empty");
    }
    permissions(at, "rules", rules, subject)
}

fn permission(at: &At<'_>, message: pb::rbac::Permission, subject: Subject) -> Option<Rule> {
    classify!(at, message => pb::rbac::Permission {
        implemented: rule = "matcher, uri_template and metadata of routes are refused";
    });
    let refuse = |field: &'static str, name: &'static str, note| {
        at.field(field).value_refused(name, note);
        None
    };
    Some(match rule {
        Some(PermissionRule::AndRules(set)) => {
            Rule::All(permission_set(&at.field("and_rules"), set, subject))
        }
        Some(PermissionRule::OrRules(set)) => {
            Rule::AnyOf(permission_set(&at.field("or_rules"), set, subject))
        }
        Some(PermissionRule::Any(any)) => self::any(at, any),
        Some(PermissionRule::Header(message)) => header(&at.field("header"), message, subject)?,
        Some(PermissionRule::UrlPath(message)) => url_path(&at.field("url_path"), message)?,
        Some(PermissionRule::DestinationIp(range)) => {
            Rule::DestinationIp(address::cidr_range(&at.field("destination_ip"), range)?)
        }
        Some(PermissionRule::DestinationPort(port)) => {
            let Ok(port) = u16::try_from(port) else {
                at.field("destination_port").error("must be at most 65535");
                return None;
            };
            Rule::DestinationPort(port)
        }
        Some(PermissionRule::DestinationPortRange(range)) => {
            port_range(&at.field("destination_port_range"), range)?
        }
        Some(PermissionRule::Metadata(message)) => {
            Rule::Metadata(metadata_matcher::matcher(&at.field("metadata"), message)?)
        }
        Some(PermissionRule::NotRule(rule)) => {
            Rule::Not(Box::new(permission(&at.field("not_rule"), *rule, subject)?))
        }
        Some(PermissionRule::RequestedServerName(message)) => {
            Rule::RequestedServerName(matcher::string(&at.field("requested_server_name"), message)?)
        }
        Some(PermissionRule::SourcedMetadata(message)) => {
            sourced_metadata(&at.field("sourced_metadata"), message)?
        }
        Some(PermissionRule::Matcher(_)) => {
            return refuse("matcher", "envoy.config.rbac.v3.Permission.matcher", "no such extensions");
        }
        Some(PermissionRule::UriTemplate(_)) => {
            return refuse(
                "uri_template",
                "envoy.config.rbac.v3.Permission.uri_template",
                "no URI templates",
            );
        }
        None => {
            at.error("a rule must be set");
            return None;
        }
    })
}

fn principals(at: &At<'_>, field: &str, list: Vec<pb::rbac::Principal>, subject: Subject) -> Vec<Rule> {
    let convert = |(index, message)| principal(&at.item(field, index), message, subject);
    list.into_iter().enumerate().filter_map(convert).collect()
}

fn principal_set(at: &At<'_>, message: pb::rbac::PrincipalSet, subject: Subject) -> Vec<Rule> {
    classify!(at, message => pb::rbac::PrincipalSet { implemented: ids; });
    if ids.is_empty() {
        at.field("ids").error("must not be empty");
    }
    principals(at, "ids", ids, subject)
}

fn principal(at: &At<'_>, message: pb::rbac::Principal, subject: Subject) -> Option<Rule> {
    classify!(at, message => pb::rbac::Principal {
        implemented: identifier = "custom, filter_state and metadata of routes are refused";
    });
    let refuse = |field: &'static str, name: &'static str, note| {
        at.field(field).value_refused(name, note);
        None
    };
    Some(match identifier {
        Some(Identifier::AndIds(set)) => Rule::All(principal_set(&at.field("and_ids"), set, subject)),
        Some(Identifier::OrIds(set)) => Rule::AnyOf(principal_set(&at.field("or_ids"), set, subject)),
        Some(Identifier::Any(any)) => self::any(at, any),
        Some(Identifier::Authenticated(message)) => authenticated(&at.field("authenticated"), message)?,
        Some(Identifier::SourceIp(range)) => {
            Rule::SourceIp(address::cidr_range(&at.field("source_ip"), range)?)
        }
        Some(Identifier::DirectRemoteIp(range)) => {
            Rule::DirectRemoteIp(address::cidr_range(&at.field("direct_remote_ip"), range)?)
        }
        Some(Identifier::RemoteIp(range)) => {
            Rule::RemoteIp(address::cidr_range(&at.field("remote_ip"), range)?)
        }
        Some(Identifier::Header(message)) => header(&at.field("header"), message, subject)?,
        Some(Identifier::UrlPath(message)) => url_path(&at.field("url_path"), message)?,
        Some(Identifier::Metadata(message)) => {
            Rule::Metadata(metadata_matcher::matcher(&at.field("metadata"), message)?)
        }
        Some(Identifier::SourcedMetadata(message)) => {
            sourced_metadata(&at.field("sourced_metadata"), message)?
        }
        Some(Identifier::NotId(id)) => Rule::Not(Box::new(principal(&at.field("not_id"), *id, subject)?)),
        Some(Identifier::FilterState(_)) => {
            return refuse(
                "filter_state",
                "envoy.config.rbac.v3.Principal.filter_state",
                "filter state is not asked",
            );
        }
        Some(Identifier::Custom(_)) => {
            return refuse("custom", "envoy.config.rbac.v3.Principal.custom", "no such extensions");
        }
        None => {
            at.error("an identifier must be set");
            return None;
        }
    })
}

/// Of `false` Envoy says that it is a mistake.
fn any(at: &At<'_>, any: bool) -> Rule {
    if !any {
        at.field("any").error("must be true");
    }
    Rule::Any
}

fn authenticated(at: &At<'_>, message: pb::rbac::PrincipalAuthenticated) -> Option<Rule> {
    classify!(at, message => pb::rbac::PrincipalAuthenticated { implemented: principal_name; });
    let Some(name) = principal_name else { return Some(Rule::Authenticated(None)) };
    Some(Rule::Authenticated(Some(matcher::string(&at.field("principal_name"), name)?)))
}

fn header(at: &At<'_>, message: pb::route::HeaderMatcher, subject: Subject) -> Option<Rule> {
    if subject == Subject::Connection {
        at.error("a connection has no headers: this rule is not supported by the network filter");
        return None;
    }
    matcher::header(at, message).map(Rule::Header)
}

fn url_path(at: &At<'_>, message: pb::types::PathMatcher) -> Option<Rule> {
    use pb::types::PathMatcherRuleOneOf as PathRule;
    classify!(at, message => pb::types::PathMatcher { implemented: rule; });
    let Some(PathRule::Path(path)) = rule else {
        at.field("path").error("must be set");
        return None;
    };
    matcher::string(&at.field("path"), path).map(Rule::UrlPath)
}

fn port_range(at: &At<'_>, message: pb::types::Int32Range) -> Option<Rule> {
    let Range { start, end } = at.range(message);
    let bound = |field: &str, value: i32| {
        let port = u32::try_from(value).ok().filter(|_| value <= PORT_END_MAX);
        if port.is_none() {
            at.field(field).error("out of bounds: 0 to 65536");
        }
        port
    };
    let (start, end) = (bound("start", start), bound("end", end));
    let (start, end) = start.zip(end)?;
    if start >= end {
        at.error("start cannot be greater than or equal to end");
        return None;
    }
    Some(Rule::DestinationPortRange { start, end })
}

fn sourced_metadata(at: &At<'_>, message: pb::rbac::SourcedMetadata) -> Option<Rule> {
    classify!(at, message => pb::rbac::SourcedMetadata {
        implemented: metadata_matcher, metadata_source = "DYNAMIC; ROUTE is refused";
    });
    if at.enumeration::<MetadataSource>("metadata_source", metadata_source) == MetadataSource::Route {
        at.field("metadata_source").value_refused(
            "envoy.config.rbac.v3.SourcedMetadata.metadata_source",
            "metadata of routes are not kept",
        );
        return None;
    }
    let Some(message) = metadata_matcher else {
        at.field("metadata_matcher").error("must be set");
        return None;
    };
    metadata_matcher::matcher(&at.field("metadata_matcher"), message).map(Rule::Metadata)
}
