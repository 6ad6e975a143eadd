//! The hash by which balancers that hash pick a request's endpoint. Source: Envoy `Http::HashPolicyImpl`.

use std::io::Write;
use std::net::IpAddr;

use super::forward::Forward;
use super::rewrite::RegexRewrite;
use super::table::RouteScratch;
use crate::base::regex::RegexSlots;
use crate::base::xx_hash::xx_hash;
use crate::config::error::ConfigError;
use crate::config::route as config;
use crate::protocol::http::cookie::cookie;
use crate::protocol::http::head::Head;
use crate::protocol::http::headers::HeaderName;
use crate::protocol::http::path::query_parameter;
use crate::protocol::stream_info::StreamAddress;

/// One source of the hash.
#[derive(Debug)]
pub(super) struct HashPolicy {
    source: Source,
    terminal: bool,
}

#[derive(Debug)]
enum Source {
    Header { name: HeaderName, rewrite: Option<Box<RegexRewrite>> },
    Cookie(Cookie),
    ClientAddress,
    QueryParameter(Box<[u8]>),
}

#[derive(Debug)]
struct Cookie {
    name: Box<[u8]>,
    /// What follows the value of one that is given; none are: `None`.
    attributes: Option<Box<[u8]>>,
}

/// Whose request it is.
#[derive(Clone, Debug)]
pub struct HashedClient {
    /// The client's address, if it has one.
    pub address: Option<IpAddr>,
    /// Both ends of its connection: the client's and ours.
    pub ends: [StreamAddress; 2],
}

impl HashPolicy {
    pub(super) fn compile(
        config: &config::HashPolicy,
        path: &str,
        slots: &mut RegexSlots,
    ) -> Result<Self, ConfigError> {
        let source = match &config.source {
            config::HashSource::Header { name, rewrite } => Source::Header {
                name: HeaderName::parse(name.as_bytes()).ok_or_else(|| {
                    ConfigError::new(format!("{path}.header.header_name"), "not a header name")
                })?,
                rewrite: match rewrite {
                    Some(rewrite) => Some(Box::new(RegexRewrite::compile(
                        rewrite,
                        &format!("{path}.header.regex_rewrite"),
                        slots,
                    )?)),
                    None => None,
                },
            },
            config::HashSource::Cookie(cookie) => Source::Cookie(Cookie {
                name: cookie.name.as_bytes().into(),
                attributes: cookie.ttl.map(|ttl| attributes(cookie, ttl.as_secs())),
            }),
            config::HashSource::SourceIp => Source::ClientAddress,
            config::HashSource::QueryParameter(name) => Source::QueryParameter(name.as_bytes().into()),
        };
        Ok(Self { source, terminal: config.terminal })
    }
}

/// The rest of a `set-cookie` behind the value. Source: Envoy `Utility::makeSetCookieValue`.
fn attributes(cookie: &config::HashCookie, ttl_s: u64) -> Box<[u8]> {
    let mut text = String::new();
    if ttl_s > 0 {
        text += &format!("; Max-Age={ttl_s}");
    }
    if !cookie.path.is_empty() {
        text += &format!("; Path={}", cookie.path);
    }
    for (name, value) in &cookie.attributes {
        text += &if value.is_empty() { format!("; {name}") } else { format!("; {name}={value}") };
    }
    text += "; HttpOnly";
    text.into_bytes().into()
}

impl Forward {
    /// Whether requests have a hash at all.
    pub fn has_hash_policy(&self) -> bool {
        !self.details().hash_policy.is_empty()
    }

    /// The request's hash; `None`: nothing to hash. The head is as the route has changed it. Cookies that the response
    /// is to give are added to `given`, each with a line feed behind it.
    pub fn hash(
        &self,
        head: &Head,
        client: &HashedClient,
        scratch: &mut RouteScratch,
        given: &mut Vec<u8>,
    ) -> Option<u64> {
        let mut hash: Option<u64> = None;
        for policy in &self.details().hash_policy {
            if let Some(new) = policy.source.hash(head, client, scratch, given) {
                // Turned, so that the same source twice does not cancel itself out.
                hash = Some(hash.map_or(0, |old| old.rotate_left(1)) ^ new);
            }
            if policy.terminal && hash.is_some() {
                break;
            }
        }
        hash
    }
}

impl Source {
    fn hash(
        &self,
        head: &Head,
        client: &HashedClient,
        scratch: &mut RouteScratch,
        given: &mut Vec<u8>,
    ) -> Option<u64> {
        match self {
            Self::Header { name, rewrite } => hash_header(head, name, rewrite.as_deref(), scratch),
            Self::Cookie(own) => match (cookie(head, &own.name), &own.attributes) {
                (Some(value), _) if !value.is_empty() => Some(xx_hash(value, 0)),
                (_, Some(attributes)) => Some(own.give(attributes, client, &mut scratch.path, given)),
                (_, None) => None,
            },
            Self::ClientAddress => {
                let address = client.address?;
                scratch.path.clear();
                // Writing to a Vec cannot fail.
                let _ = write!(scratch.path, "{address}");
                Some(xx_hash(&scratch.path, 0))
            }
            Self::QueryParameter(name) => query_parameter(head.path(), name).map(|value| xx_hash(value, 0)),
        }
    }
}

fn hash_header(
    head: &Head,
    name: &HeaderName,
    rewrite: Option<&RegexRewrite>,
    scratch: &mut RouteScratch,
) -> Option<u64> {
    let RouteScratch { matching, path: text, .. } = scratch;
    let mut values = head.get_all(name);
    let first = values.next()?;
    if values.next().is_none() {
        let Some(rewrite) = rewrite else { return Some(xx_hash(first, 0)) };
        text.clear();
        rewrite.replace_all(first, &mut matching.regexes, text);
        return Some(xx_hash(text, 0));
    }
    // Several lines are rare; they are sorted, and so cannot be hashed one by one.
    let rewritten = |value: &[u8]| match rewrite {
        Some(rewrite) => {
            let mut text = Vec::new();
            rewrite.replace_all(value, &mut matching.regexes, &mut text);
            text
        }
        None => value.to_vec(),
    };
    let mut values: Vec<Vec<u8>> = head.get_all(name).map(rewritten).collect();
    values.sort_unstable();
    Some(values.iter().fold(0, |hash, value| xx_hash(value, hash)))
}

impl Cookie {
    /// Gives the client a cookie; its hash. As in Envoy the value says which connection it was given on, so that requests
    /// which race on one get the same.
    fn give(&self, attributes: &[u8], client: &HashedClient, text: &mut Vec<u8>, given: &mut Vec<u8>) -> u64 {
        let [theirs, ours] = &client.ends;
        text.clear();
        // Writing to a Vec cannot fail.
        let _ = write!(text, "{theirs}{ours}");
        let connection = xx_hash(text, 0);
        text.clear();
        let _ = write!(text, "{connection:016x}");
        for part in [&self.name, &b"=\""[..], text, b"\"", attributes, b"\n"] {
            given.extend_from_slice(part);
        }
        xx_hash(text, 0)
    }
}
