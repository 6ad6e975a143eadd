//! [`Redirect`]: the location a redirect route answers with.

use super::rewrite::{PathRewrite, RegexRewrite};
use super::table::RouteScratch;
use crate::base::regex::RegexSlots;
use crate::config::error::ConfigError;
use crate::config::route as config;
use crate::protocol::http::head::Head;
use crate::protocol::http::headers;
use crate::protocol::http::path::split_query;

/// A compiled redirect. Source: `RedirectAction`.
#[derive(Debug)]
pub struct Redirect {
    /// Status of the answer. Source: `response_code`.
    pub status: u16,
    scheme: Option<Box<[u8]>>,
    host: Option<Box<[u8]>>,
    /// With its colon; empty when not configured.
    port: Box<[u8]>,
    path: Option<Box<[u8]>>,
    rewrite: PathRewrite,
    strip_query: bool,
}

impl Redirect {
    pub(super) fn compile(
        config: &config::RedirectAction,
        path: &str,
        slots: &mut RegexSlots,
    ) -> Result<Self, ConfigError> {
        let text = |text: &str| (!text.is_empty()).then(|| Box::from(text.as_bytes()));
        let port = config.port_redirect.filter(|&port| port != 0);
        Ok(Self {
            status: config.response_code.status(),
            scheme: match &config.scheme {
                config::SchemeRedirect::Keep => None,
                config::SchemeRedirect::Https => text("https"),
                config::SchemeRedirect::Scheme(scheme) => text(scheme),
            },
            host: config.host_redirect.as_deref().and_then(text),
            port: port.map_or_else(String::new, |port| format!(":{port}")).into_bytes().into(),
            path: match &config.path {
                config::RedirectPathRewrite::Path(path) => text(path),
                _ => None,
            },
            rewrite: match &config.path {
                config::RedirectPathRewrite::Keep | config::RedirectPathRewrite::Path(_) => PathRewrite::None,
                config::RedirectPathRewrite::Prefix(prefix) => PathRewrite::prefix(prefix),
                config::RedirectPathRewrite::Regex(rewrite) => PathRewrite::Regex(Box::new(
                    RegexRewrite::compile(rewrite, &format!("{path}.regex_rewrite"), slots)?,
                )),
            },
            strip_query: config.strip_query,
        })
    }

    pub(super) fn rewrite_path(
        &self,
        head: &mut Head,
        matched_len: usize,
        keep_original: bool,
        scratch: &mut RouteScratch,
    ) {
        self.rewrite.apply(head, matched_len, keep_original, scratch);
    }

    /// Appends the location, from the request's head after [`Self::rewrite_path`].
    pub(super) fn write_location(&self, head: &Head, out: &mut Vec<u8>) {
        let scheme = self.scheme.as_deref().unwrap_or_else(|| head.scheme());
        out.extend_from_slice(scheme);
        out.extend_from_slice(b"://");
        out.extend_from_slice(self.host.as_deref().unwrap_or_else(|| self.kept_host(head, scheme)));
        out.extend_from_slice(&self.port);

        let (request_path, request_query) = split_query(head.path());
        let (path, query) = match self.path.as_deref().map(split_query) {
            // A configured query wins and is never stripped.
            Some((path, query)) if !query.is_empty() => (path, query),
            Some((path, _)) => (path, if self.strip_query { &[][..] } else { request_query }),
            None => (request_path, if self.strip_query { &[][..] } else { request_query }),
        };
        if !path.starts_with(b"/") {
            out.push(b'/');
        }
        out.extend_from_slice(path);
        out.extend_from_slice(query);
    }

    /// The request's host, without its port when a port is configured, or when the scheme changes and the port is the old
    /// scheme's own.
    fn kept_host<'a>(&self, head: &'a Head, scheme: &[u8]) -> &'a [u8] {
        let host = head.authority();
        let colon = match host.first() {
            Some(b'[') => host.windows(2).rposition(|pair| pair == b"]:").map(|bracket| bracket + 1),
            _ => memchr::memrchr(b':', host),
        };
        let Some(colon) = colon else { return host };
        let old_scheme = head.get(&headers::X_FORWARDED_PROTO).unwrap_or_default();
        let own_port = match &host[colon..] {
            b":443" => old_scheme.eq_ignore_ascii_case(b"https"),
            b":80" => old_scheme.eq_ignore_ascii_case(b"http"),
            _ => false,
        };
        if !self.port.is_empty() || scheme != old_scheme && own_port { &host[..colon] } else { host }
    }
}
