//! Requests and replies of the admin endpoint, free of hyper.
use super::Admin;
use super::body::ReplyBody;
use hyper::StatusCode;
use regex_automata::meta::Regex;

/// A request: its path and parameters. Parameters of a POST may be in its body.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) path: String,
    pub(super) post: bool,
    pub(super) parameters: Vec<(String, String)>,
}

/// A reply; Envoy's fixed headers are added when it is sent.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: ReplyBody,
}

/// What a path runs.
pub(super) type Handler = fn(&Admin, &Request) -> Reply;

impl Request {
    /// The value of a parameter; empty when it is given without one.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.parameter(name).is_some()
    }

    /// Adds the parameters of a query or a form, of which there are as many as its length allows.
    pub(super) fn add_parameters(&mut self, query: &str) {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        self.parameters.extend(pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        }));
    }
}

impl Reply {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { status: StatusCode::OK, content_type: TEXT, body: ReplyBody::from(text.into()) }
    }

    pub(super) fn json(text: String) -> Self {
        Self { status: StatusCode::OK, content_type: JSON, body: text.into() }
    }

    pub(super) fn refused(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, ..Self::text(reason) }
    }

    pub(super) fn bad_request(reason: impl Into<String>) -> Self {
        Self::refused(StatusCode::BAD_REQUEST, reason)
    }

    pub(super) fn ok() -> Self {
        Self::text("OK\n")
    }
}

impl From<String> for Reply {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

/// Compiles an expression of a request, within a bound: 1 MiB is enough for any that a person writes.
pub(super) fn regex(pattern: &str) -> Result<Regex, String> {
    let limits =
        regex_automata::meta::Config::new().nfa_size_limit(Some(1 << 20)).hybrid_cache_capacity(1 << 20);
    Regex::builder().configure(limits).build(pattern).map_err(|error| match error.syntax_error() {
        Some(syntax) => syntax.to_string(),
        None => error.to_string(),
    })
}

/// Undoes percent-encoding; what is no valid escape stays as it is, as in Envoy.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escape =
            digits.filter(|_| *byte == b'%').filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        match escape.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(value) => {
                out.push(value);
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub(super) const TEXT: &str = "text/plain; charset=UTF-8";
pub(super) const JSON: &str = "application/json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_as_envoy_does() {
        let mut request = Request::default();
        request.add_parameters("usedonly&filter=%5Ea%2Bb+c%&x=%zz&&y=1=2");
        let pairs: Vec<_> = request.parameters.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(pairs, [("usedonly", ""), ("filter", "^a+b+c%"), ("x", "%zz"), ("y", "1=2")]);
    }

    /// One of `/runtime_modify` may set any number of values.
    #[test]
    fn no_parameter_is_left_out() {
        let mut request = Request::default();
        let query: Vec<_> = (0..1000).map(|number| format!("key{number}={number}")).collect();
        request.add_parameters(&query.join("&"));
        assert_eq!((request.parameters.len(), request.parameter("key999")), (1000, Some("999")));
    }

    #[test]
    fn regex_that_would_be_huge_is_refused() {
        assert!(regex("a{1000}{1000}{1000}").is_err());
        assert!(regex("[").is_err());
        assert!(regex("^server\\.live").unwrap().is_match("server.live"));
    }
}
