//! Listener filters: what looks at a connection before a filter chain is chosen for it. Source: Envoy
//! `config.listener.v3.ListenerFilter` and `extensions.filters.listener`.
use std::ops::Range;

use super::proxy_protocol::TlvTypes;
use super::told_filter::ToldFilter;

/// A listener filter, in the place that its order gives it.
#[derive(Debug, Clone)]
pub struct ListenerFilter {
    /// Which filter it is. Source: `typed_config`, `config_discovery`.
    pub kind: ListenerFilterKind,
    /// Connections that it leaves alone; `None`: none. Asked when its turn comes, so that it sees the address that filters
    /// before it have restored. Source: `filter_disabled`.
    pub disabled: Option<Predicate>,
}

/// What a listener filter does.
#[derive(Debug, Clone)]
pub enum ListenerFilterKind {
    /// Restores the address that a redirection has replaced. Source: `envoy.filters.listener.original_dst`.
    OriginalDst,
    /// Connections to endpoints come from the client's address. Source: `envoy.filters.listener.original_src`.
    OriginalSrc {
        /// `SO_MARK` of those connections, by which rules of the kernel lead the answers back; 0: none. Source: `mark`.
        mark: u32,
    },
    /// Looks for a TLS hello. Source: `envoy.filters.listener.tls_inspector`.
    TlsInspector(TlsInspector),
    /// Looks for HTTP in plain text. Source: `envoy.filters.listener.http_inspector`.
    HttpInspector,
    /// Takes the PROXY protocol's header. Source: `envoy.filters.listener.proxy_protocol`.
    ProxyProtocol(ProxyProtocol),
    /// Whichever a control plane or a file tells. Source: `config_discovery`.
    Told(Box<ToldFilter>),
}

impl ListenerFilterKind {
    /// The filter that is told, if this is one.
    pub fn as_told(&self) -> Option<&ToldFilter> {
        match self {
            Self::Told(filter) => Some(filter),
            _ => None,
        }
    }
}

/// Settings of the TLS inspector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsInspector {
    /// Bytes within which a hello must be complete, or the connection is closed. Default 16 KiB, from Envoy, and no more.
    /// Source: `max_client_hello_size`.
    pub max_client_hello_bytes: usize,
    /// Whether a connection that does not begin with a hello is closed. Default false: it is plain text. Source:
    /// `close_connection_on_client_hello_parsing_errors`.
    pub close_on_errors: bool,
}

/// Settings of the filter for the PROXY protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Whether connections without a header are served. Default false. Source: `allow_requests_without_proxy_protocol`.
    pub allow_without: bool,
    /// Whether headers of version 1 are taken. Default true. Source: `disallowed_versions`.
    pub allow_v1: bool,
    /// Whether headers of version 2 are taken. Default true. Source: `disallowed_versions`.
    pub allow_v2: bool,
    /// Part of the counters' names behind `proxy_proto.`; empty: none. Source: `stat_prefix`.
    pub stat_prefix: Box<str>,
    /// What is kept of a header for connections to endpoints. Default: nothing. Source: `pass_through_tlvs`.
    pub pass_through: TlvTypes,
    /// What is kept of a header as the connection's metadata, or its filter state. Source: `rules`.
    pub rules: Vec<TlvRule>,
    /// Whether it is filter state, by the rules' keys alone, which requests share with their connection. Default false: metadata.
    /// Source: `tlv_location`.
    pub in_filter_state: bool,
}

/// Keeps the value of a TLV as metadata. Source: Envoy `ProxyProtocol.Rule`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlvRule {
    /// Type of the TLV. Source: `tlv_type`.
    pub tlv: u8,
    /// Source: `metadata_namespace`; the filter's name where that is empty.
    pub namespace: Box<str>,
    /// Source: `key`.
    pub key: Box<str>,
    /// How the value becomes text. Source: `value_string_encoding`.
    pub encoding: TlvEncoding,
}

/// How the bytes of a TLV become text. Source: Envoy `KeyValuePair.ValueStringEncoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlvEncoding {
    /// What is no UTF-8 becomes `!`. The default.
    #[default]
    Sanitized,
    Base64,
}

/// Which connections. Source: Envoy `ListenerFilterChainMatchPredicate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Predicate {
    /// All. Source: `any_match`.
    Any,
    /// Those that one of these matches. Source: `or_match`.
    Or(Vec<Self>),
    /// Those that all of these match. Source: `and_match`.
    And(Vec<Self>),
    /// Those that this does not match. Source: `not_match`.
    Not(Box<Self>),
    /// By the port that the client meant to connect to. Source: `destination_port_range`.
    DestinationPort(Range<i32>),
}

impl ListenerFilter {
    /// Whether it leaves a connection to this port alone.
    pub fn is_disabled(&self, destination_port: Option<u16>) -> bool {
        self.disabled.as_ref().is_some_and(|predicate| predicate.matches(destination_port))
    }
}

impl Predicate {
    fn matches(&self, port: Option<u16>) -> bool {
        match self {
            Self::Any => true,
            Self::Or(rules) => rules.iter().any(|rule| rule.matches(port)),
            Self::And(rules) => rules.iter().all(|rule| rule.matches(port)),
            Self::Not(rule) => !rule.matches(port),
            // As in Envoy: every range has what has no port.
            Self::DestinationPort(range) => port.is_none_or(|port| range.contains(&i32::from(port))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predicates_combine_and_a_range_ends_before_its_end() {
        let web = || Predicate::DestinationPort(80..81);
        for (predicate, matching) in [
            (web(), [true, false]),
            (Predicate::Not(Box::new(web())), [false, true]),
            (Predicate::Or(vec![web(), Predicate::Any]), [true, true]),
            (Predicate::And(vec![web(), Predicate::Any]), [true, false]),
        ] {
            assert_eq!([80, 81].map(|port| predicate.matches(Some(port))), matching, "{predicate:?}");
            let filter =
                ListenerFilter { kind: ListenerFilterKind::HttpInspector, disabled: Some(predicate) };
            assert_eq!(filter.is_disabled(Some(80)), matching[0]);
        }
    }
}
