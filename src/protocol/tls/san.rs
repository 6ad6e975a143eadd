//! Conditions on alternative names, by Envoy's rules.
use super::{Certificate, TlsConfigError};
use crate::base::regex::{RegexCaches, RegexSlots};
use crate::config::matcher::StringPattern;
use crate::config::tls::{SanKind, SanMatcher};
use crate::protocol::http::matcher::StringMatcher;

/// A compiled condition.
#[derive(Debug, Clone)]
pub(super) struct SanTest {
    kind: SanKind,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    /// As host names are compared: the certificate's name may be a wildcard.
    HostName(Box<str>),
    Text(StringMatcher),
}

impl SanTest {
    pub(super) fn compile(config: &SanMatcher, field: &str) -> Result<Self, TlsConfigError> {
        let test = match (&config.matcher.pattern, config.kind) {
            (StringPattern::Exact(name), SanKind::Dns) => Test::HostName(name.clone()),
            _ => {
                let matcher = StringMatcher::compile(&config.matcher, "matcher", &mut RegexSlots::default());
                Test::Text(
                    matcher.map_err(|error| {
                        TlsConfigError::new(format!("{field}.{}", error.path), error.reason)
                    })?,
                )
            }
        };
        Ok(Self { kind: config.kind, test })
    }

    /// Whether one of the certificate's names meets it.
    pub(super) fn holds(&self, certificate: &Certificate) -> bool {
        // Once per handshake: the caches are made anew rather than kept per core.
        let mut caches = RegexCaches::new();
        certificate.names(self.kind).any(|name| match &self.test {
            Test::HostName(wanted) => host_matches(wanted, name),
            Test::Text(matcher) => matcher.matches(name.as_bytes(), &mut caches),
        })
    }
}

/// Whether one of the certificate's names, of whatever kind, is `wanted`; DNS names may be wildcards. Envoy's
/// `verifySubjectAltName`.
pub(super) fn any_name_is(certificate: &Certificate, wanted: &str) -> bool {
    certificate.alt_names.iter().any(|(kind, name)| match kind {
        SanKind::Dns => host_matches(wanted, name),
        SanKind::Email | SanKind::Uri | SanKind::IpAddress => name == wanted,
    })
}

/// Whether a host has this name of a certificate, in which the first label may hold one `*`.
pub(super) fn host_matches(host: &str, pattern: &str) -> bool {
    if host.eq_ignore_ascii_case(pattern) {
        return true;
    }
    let (Some((label, rest)), Some((pattern, pattern_rest))) =
        (host.split_once('.'), pattern.split_once('.'))
    else {
        return false;
    };
    let (label, pattern) = (label.to_ascii_lowercase(), pattern.to_ascii_lowercase());
    let Some((before, behind)) = pattern.split_once('*') else { return false };
    // An A-label is not to be taken apart. RFC 6125, section 6.4.3.
    !pattern.starts_with("xn--")
        && !behind.contains('*')
        && !pattern_rest.contains('*')
        && rest.eq_ignore_ascii_case(pattern_rest)
        && pattern.len() <= label.len() + 1
        && label.starts_with(before)
        && label.ends_with(behind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::matcher::StringMatcher as Config;
    use crate::protocol::tls::testing::{Authority, Spec};

    #[test]
    fn wildcards_stand_for_one_label_or_a_part_of_it() {
        for (host, pattern, expected) in [
            ("a.example.com", "A.EXAMPLE.com", true),
            ("a.example.com", "*.example.com", true),
            ("a.b.example.com", "*.example.com", false),
            ("example.com", "*.example.com", false),
            (".example.com", "*.example.com", true),
            ("foobar.example.com", "foo*.example.com", true),
            ("foobar.example.com", "*bar.example.com", true),
            ("foobar.example.com", "f*r.example.com", true),
            ("fr.example.com", "f*r.example.com", true),
            ("f.example.com", "f*f.example.com", false),
            ("foobar.example.com", "*o*.example.com", false),
            ("xn--a.example.com", "xn--*.example.com", false),
            ("a.b.com", "a.*.com", false),
            ("com", "*", false),
            ("a.com", "*", false),
            ("*.example.com", "*.example.com", true),
            ("", "", true),
        ] {
            assert_eq!(host_matches(host, pattern), expected, "{host} {pattern}");
        }
    }

    #[test]
    fn conditions_hold_for_names_of_their_kind_only() {
        let spec = Spec::dns("*.example.com")
            .uri("spiffe://td/ns/a")
            .email("Me@example.com")
            .ip("10.0.0.1".parse().unwrap());
        let certificate = Certificate::parse(&Authority::new("ca").issue(spec).leaf).unwrap();
        let holds = |kind, pattern, ignore_case| {
            let matcher = SanMatcher { kind, matcher: Config { pattern, ignore_case } };
            SanTest::compile(&matcher, "x").unwrap().holds(&certificate)
        };
        use SanKind::{Dns, Email, IpAddress, Uri};
        use StringPattern::{Contains, Exact, Prefix, SafeRegex, Suffix};
        assert!(holds(Dns, Exact("a.example.com".into()), false));
        assert!(!holds(Dns, Exact("a.b.example.com".into()), false));
        assert!(!holds(Dns, Prefix("a.".into()), false), "other conditions see the wildcard as text");
        assert!(holds(Dns, Suffix(".example.com".into()), false));
        assert!(holds(Uri, Exact("spiffe://td/ns/a".into()), false));
        assert!(!holds(Uri, Exact("SPIFFE://td/ns/a".into()), false));
        assert!(holds(Uri, Exact("SPIFFE://td/ns/a".into()), true));
        assert!(holds(Uri, Prefix("spiffe://td/".into()), false));
        assert!(holds(Uri, SafeRegex("spiffe://[a-z]+/ns/.".into()), false));
        assert!(!holds(Uri, SafeRegex("spiffe".into()), false), "the whole name");
        assert!(holds(IpAddress, Exact("10.0.0.1".into()), false));
        assert!(!holds(Dns, Exact("10.0.0.1".into()), false));
        assert!(holds(Email, Contains("EXAMPLE".into()), true));
        assert!(!holds(Email, Contains("EXAMPLE".into()), false));
        assert!(any_name_is(&certificate, "b.example.com") && any_name_is(&certificate, "10.0.0.1"));
        assert!(!any_name_is(&certificate, "10.0.0.2"));
    }
}
