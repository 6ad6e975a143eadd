//! What a forwarded request's path and host become.

use super::forward::Forward;
use super::table::{Route, RouteScratch};
use crate::base::regex::{Regex, RegexCaches, RegexSlots, Substitution};
use crate::config::error::ConfigError;
use crate::config::matcher as config_matcher;
use crate::config::route as config;
use crate::protocol::http::head::Head;
use crate::protocol::http::headers::{self, HeaderName};
use crate::protocol::http::path::without_query;

/// A regular expression and its substitution.
#[derive(Debug)]
pub(super) struct RegexRewrite {
    regex: Regex,
    substitution: Substitution,
}

#[derive(Debug)]
pub(super) enum PathRewrite {
    None,
    Prefix(Box<[u8]>),
    Regex(Box<RegexRewrite>),
}

#[derive(Debug)]
pub(super) enum HostRewrite {
    None,
    Literal(Box<[u8]>),
    Auto,
    Header(HeaderName),
    PathRegex(Box<RegexRewrite>),
}

impl RegexRewrite {
    pub(super) fn compile(
        config: &config_matcher::RegexRewrite,
        path: &str,
        slots: &mut RegexSlots,
    ) -> Result<Self, ConfigError> {
        let regex = Regex::search(&config.regex, slots)
            .map_err(|error| ConfigError::new(format!("{path}.pattern.regex"), error.to_string()))?;
        Ok(Self { regex, substitution: Substitution::parse(&config.substitution) })
    }

    /// Appends `text` to `out` with all matches replaced.
    pub(super) fn replace_all(&self, text: &[u8], regexes: &mut RegexCaches, out: &mut Vec<u8>) {
        self.regex.replace_all(text, &self.substitution, regexes, out);
    }
}

impl PathRewrite {
    pub(super) fn compile(
        config: &config::PathRewrite,
        path: &str,
        slots: &mut RegexSlots,
    ) -> Result<Self, ConfigError> {
        Ok(match config {
            config::PathRewrite::None => Self::None,
            config::PathRewrite::Prefix(text) => Self::prefix(text),
            config::PathRewrite::Regex(rewrite) => Self::Regex(Box::new(RegexRewrite::compile(
                rewrite,
                &format!("{path}.regex_rewrite"),
                slots,
            )?)),
        })
    }

    /// An empty text counts as not configured, as in Envoy.
    pub(super) fn prefix(text: &str) -> Self {
        if text.is_empty() { Self::None } else { Self::Prefix(text.as_bytes().into()) }
    }

    /// Replaces the request's path and keeps the old one in `x-envoy-original-path` when `keep_original`. `matched_len`
    /// is what the route's condition matched. A rewrite that leaves nothing changes nothing, as in Envoy.
    pub(super) fn apply(
        &self,
        head: &mut Head,
        matched_len: usize,
        keep_original: bool,
        scratch: &mut RouteScratch,
    ) {
        let RouteScratch { matching, path: new, host: old, .. } = scratch;
        let path = head.path();
        new.clear();
        let replaced_len = match self {
            Self::None => return,
            Self::Prefix(text) => {
                new.extend_from_slice(text);
                matched_len
            }
            Self::Regex(rewrite) => {
                let target = without_query(path);
                rewrite.replace_all(target, &mut matching.regexes, new);
                target.len()
            }
        };
        if new.is_empty() {
            return;
        }
        new.extend_from_slice(path.get(replaced_len..).unwrap_or_default());
        if keep_original {
            old.clear();
            old.extend_from_slice(path);
            head.set(&headers::X_ENVOY_ORIGINAL_PATH, old);
        }
        head.set_path(new);
    }
}

impl HostRewrite {
    pub(super) fn compile(
        config: &config::HostRewrite,
        path: &str,
        slots: &mut RegexSlots,
    ) -> Result<Self, ConfigError> {
        Ok(match config {
            config::HostRewrite::None => Self::None,
            config::HostRewrite::Literal(text) if text.is_empty() => Self::None,
            config::HostRewrite::Literal(text) => Self::Literal(text.as_bytes().into()),
            config::HostRewrite::Auto => Self::Auto,
            config::HostRewrite::Header(name) => {
                Self::Header(HeaderName::parse(name.as_bytes()).ok_or_else(|| {
                    ConfigError::new(format!("{path}.host_rewrite_header"), "not a header name")
                })?)
            }
            config::HostRewrite::PathRegex(rewrite) => Self::PathRegex(Box::new(RegexRewrite::compile(
                rewrite,
                &format!("{path}.host_rewrite_path_regex"),
                slots,
            )?)),
        })
    }
}

impl Route {
    /// Rewrites host, then path, of a request about to go upstream; after the header changes
    /// ([`RouteTable::mutate_request`](super::RouteTable::mutate_request)), which may name the new host.
    /// `keep_original` is false with `suppress_envoy_headers`.
    pub fn rewrite(
        &self,
        forward: &Forward,
        head: &mut Head,
        keep_original: bool,
        scratch: &mut RouteScratch,
    ) {
        let RouteScratch { matching, path: new, .. } = &mut *scratch;
        new.clear();
        let details = forward.details();
        match &details.host_rewrite {
            HostRewrite::None | HostRewrite::Auto => {}
            HostRewrite::Literal(host) => new.extend_from_slice(host),
            HostRewrite::Header(name) => new.extend_from_slice(head.get(name).unwrap_or_default()),
            HostRewrite::PathRegex(rewrite) => {
                let path = without_query(head.path());
                rewrite.replace_all(path, &mut matching.regexes, new);
            }
        }
        if !scratch.path.is_empty() {
            let host = std::mem::take(&mut scratch.path);
            forward.set_host(head, &host, keep_original, &mut scratch.host);
            scratch.path = host;
        }
        let matched_len = self.path.matched_len(head.path());
        details.path_rewrite.apply(head, matched_len, keep_original, scratch);
    }
}

/// A constant's borrow lasts only for a statement.
static X_FORWARDED_HOST: HeaderName = headers::X_FORWARDED_HOST;

impl Forward {
    /// Replaces the request's host: `x-envoy-original-host` keeps the old one when `keep_original`, and
    /// `x-forwarded-host` gets it with `append_x_forwarded_host`, unless it is its last entry already. Also for
    /// [`Self::takes_host_of_endpoint`], once the endpoint is chosen.
    pub fn set_host(&self, head: &mut Head, host: &[u8], keep_original: bool, scratch: &mut Vec<u8>) {
        scratch.clear();
        scratch.extend_from_slice(head.authority());
        if !scratch.is_empty() {
            let told = head.get_all(&X_FORWARDED_HOST).last().unwrap_or_default();
            let last = told.rsplit(|&byte| byte == b',').next();
            if self.append_x_forwarded_host && last != Some(scratch) {
                head.join(&X_FORWARDED_HOST, scratch, b",");
            }
            if keep_original {
                head.set(&headers::X_ENVOY_ORIGINAL_HOST, scratch);
            }
        }
        head.set_authority(host);
    }
}
