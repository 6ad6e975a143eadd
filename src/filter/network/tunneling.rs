//! What a TCP proxy asks an HTTP proxy for, and which answers make a tunnel. Source: Envoy `TcpProxy.TunnelingConfig`.

use crate::config::error::ConfigError;
use crate::config::tcp_proxy::Tunneling as Config;
use crate::format::context::FormatContext;
use crate::format::formatter::Formatter;
use crate::format::header_additions::{HeaderAdditions, HeaderScratch};
use crate::protocol::http::body::BodyLength;
use crate::protocol::http::head::Head;
use crate::protocol::http1::framing::{Asked, MethodKind};

/// A tunnel's request, compiled.
#[derive(Debug)]
pub struct Tunneling {
    hostname: Formatter,
    /// `None`: CONNECT.
    post_path: Option<Box<str>>,
    headers_to_add: HeaderAdditions,
}

impl Tunneling {
    /// Compiles a configuration.
    ///
    /// # Errors
    /// The hostname or a header's value is no format string, a name none that may be added.
    pub fn compile(config: &Config) -> Result<Self, ConfigError> {
        let Config { hostname, post_path, headers_to_add } = config;
        let hostname = Formatter::parse(hostname)
            .map_err(|error| ConfigError::new("tunneling_config.hostname", error.to_string()))?;
        Ok(Self {
            hostname,
            post_path: post_path.clone(),
            headers_to_add: HeaderAdditions::compile(headers_to_add, "tunneling_config.headers_to_add")?,
        })
    }

    /// Writes the request into an empty head; `secure`: it goes over TLS.
    pub fn write(&self, context: &FormatContext<'_>, secure: bool, head: &mut Head) {
        let mut hostname = Vec::new();
        self.hostname.write(context, &mut hostname);
        match &self.post_path {
            None => head.set_method(b"CONNECT"),
            Some(path) => {
                head.set_method(b"POST");
                head.set_path(path.as_bytes());
                head.set_scheme(if secure { b"https" } else { b"http" });
            }
        }
        head.set_authority(&hostname);
        let mut scratch = HeaderScratch::default();
        self.headers_to_add.evaluate(context, head, &mut scratch);
        self.headers_to_add.put(head, &scratch);
    }

    /// How what goes up is framed: nothing frames the bytes behind a CONNECT.
    pub fn length(&self) -> BodyLength {
        if self.post_path.is_some() { BodyLength::Chunked } else { BodyLength::None }
    }

    /// What a reader of the response must know.
    pub fn asked(&self) -> Asked {
        let method = if self.post_path.is_some() { MethodKind::Plain } else { MethodKind::Connect };
        Asked { method, upgrade: false }
    }
}

/// Whether a final status makes the tunnel: over HTTP/1.1 any 2xx (RFC 9110 section 9.3.6), over HTTP/2 as Envoy has it.
pub const fn accepts(status: u16, is_http2: bool) -> bool {
    if is_http2 { status == 200 } else { status >= 200 && status < 300 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::route::{HeaderAppendAction, HeaderValueOption};
    use crate::protocol::stream_info::{StreamInfo, set_text};

    fn written(hostname: &str, post_path: Option<&str>, headers: &[(&str, &str)], secure: bool) -> Head {
        let option = |&(key, value): &(&str, &str)| HeaderValueOption {
            key: key.into(),
            value: value.into(),
            append_action: HeaderAppendAction::AppendIfExistsOrAdd,
            keep_empty_value: false,
        };
        let config = Config {
            hostname: hostname.into(),
            post_path: post_path.map(Into::into),
            headers_to_add: headers.iter().map(option).collect(),
        };
        let mut info = StreamInfo::default();
        set_text(&mut info.requested_server_name, "a.test");
        let mut head = Head::new();
        Tunneling::compile(&config).unwrap().write(&FormatContext::new(&info, 0, 0), secure, &mut head);
        head
    }

    #[test]
    fn connect_names_only_where_the_tunnel_leads() {
        let head = written("%REQUESTED_SERVER_NAME%:443", None, &[], true);
        assert_eq!((head.method(), head.authority()), (&b"CONNECT"[..], &b"a.test:443"[..]));
        assert_eq!((head.path(), head.scheme(), head.len()), (&b""[..], &b""[..], 0));
    }

    #[test]
    fn post_has_path_and_scheme() {
        let head = written("h", Some("/t?x"), &[], true);
        assert_eq!((head.method(), head.path(), head.scheme()), (&b"POST"[..], &b"/t?x"[..], &b"https"[..]));
        assert_eq!(written("h", Some("/"), &[], false).scheme(), b"http");
    }

    #[test]
    fn headers_are_formats_and_empty_ones_are_left_out() {
        let head =
            written("h", None, &[("a", "%REQUESTED_SERVER_NAME%"), ("a", "2"), ("b", "%REQ(x)%")], false);
        let all: Vec<_> = head.iter().map(|(_, value)| value.to_vec()).collect();
        assert_eq!(all, [b"a.test".to_vec(), b"2".to_vec()]);
    }

    #[test]
    fn hostname_that_would_split_the_head_makes_it_unsendable() {
        assert!(written("a:1", None, &[], false).is_sendable());
        assert!(!written("a:1 HTTP/1.1\r\nx: y", None, &[], false).is_sendable());
    }

    #[test]
    fn answers_that_make_a_tunnel_depend_on_the_protocol() {
        let accepted =
            |is_http2| (100..=600).filter(|status| accepts(*status, is_http2)).collect::<Vec<u16>>();
        assert_eq!(accepted(false), (200..300).collect::<Vec<_>>());
        assert_eq!(accepted(true), [200]);
    }
}
