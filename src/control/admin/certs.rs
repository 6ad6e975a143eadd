//! `/certs`: the certificates in use, as Envoy lists them, and the time until the first of them, or of their OCSP responses,
//! expires.
use serde_json::{Map, Value, json};

use super::request::{Reply, Request};
use super::state::{AdminState, TlsContext};
use super::{Admin, json};
use crate::base::clock;
use crate::config::tls::SanKind;
use crate::protocol::tls::Certificate;

/// What Envoy writes when nothing expires.
const NOTHING_EXPIRES: u64 = u32::MAX as u64;

/// A certificate and the file that it came from.
type Shown<'a> = (Option<&'a str>, &'a Certificate);

/// `/certs`.
pub(super) fn certs(admin: &Admin, _: &Request) -> Reply {
    let now = now();
    let contexts = admin.state.tls_contexts();
    let entries: Vec<Value> = contexts.iter().map(|context| entry(context, now)).collect();
    Reply::json(json::document(&json!({ "certificates": entries })))
}

/// Days until the first certificate expires; none: what Envoy writes then.
pub(super) fn days_until_first_expires(state: &dyn AdminState) -> u64 {
    let now = now();
    let contexts = state.tls_contexts();
    let first = contexts.iter().filter_map(|context| match context {
        TlsContext::Server(tls) => {
            let all = tls.certificates().chain(tls.authority());
            all.map(|(_, certificate)| certificate.not_after).min()
        }
        TlsContext::Client(context) => context.expires(),
    });
    first.min().map_or(NOTHING_EXPIRES, |until| Certificate::days_until(until, now))
}

/// Seconds until the first OCSP response expires; none: 0, as in Envoy.
pub(super) fn seconds_until_first_staple_expires(state: &dyn AdminState) -> u64 {
    first_staple_expires(&state.tls_contexts(), now())
}

fn first_staple_expires(contexts: &[TlsContext], now: u64) -> u64 {
    let servers = contexts.iter().filter_map(|context| match context {
        TlsContext::Server(tls) => Some(tls),
        TlsContext::Client(_) => None,
    });
    let all = servers.flat_map(|tls| tls.staples()).flatten();
    // One that does not say when has expired.
    all.map(|(_, until)| until.unwrap_or(0).saturating_sub(now)).min().unwrap_or(0)
}

fn now() -> u64 {
    clock::wall_ns() / 1_000_000_000
}

fn entry(context: &TlsContext, now: u64) -> Value {
    let list = |shown: &mut dyn Iterator<Item = Shown<'_>>| {
        shown.map(|shown| details(shown, now)).collect::<Vec<_>>()
    };
    // Its own certificates, and the first that it trusts.
    let (mut chain, authority) = match context {
        TlsContext::Server(tls) => (list(&mut tls.certificates()), list(&mut tls.authority().into_iter())),
        TlsContext::Client(context) => context.look().map_or_else(Default::default, |tls| {
            (list(&mut tls.certificate().into_iter()), list(&mut tls.authority().into_iter()))
        }),
    };
    if let TlsContext::Server(tls) = context {
        for (details, staple) in chain.iter_mut().zip(tls.staples()) {
            if let Some(validity) = staple {
                details["ocsp_details"] = ocsp_details(validity);
            }
        }
    }
    let lists = [("ca_cert", authority), ("cert_chain", chain)];
    let lists = lists.into_iter().filter(|(_, list)| !list.is_empty());
    Value::Object(lists.map(|(name, list)| (name.to_owned(), list.into())).collect::<Map<_, _>>())
}

fn details((file, certificate): Shown<'_>, now: u64) -> Value {
    let kinds = [(SanKind::Dns, "dns"), (SanKind::Uri, "uri"), (SanKind::IpAddress, "ip_address")];
    let names =
        kinds.iter().flat_map(|(kind, key)| certificate.names(*kind).map(move |name| json!({ *key: name })));
    json!({
        "path": file.unwrap_or("<inline>"),
        "serial_number": certificate.serial,
        "subject_alt_names": names.collect::<Vec<_>>(),
        // 64 bits are text in protobuf's JSON.
        "days_until_expiration": certificate.days_until_expiration(now).to_string(),
        "valid_from": time(certificate.not_before),
        "expiration_time": time(certificate.not_after),
    })
}

fn ocsp_details((since, until): (u64, Option<u64>)) -> Value {
    let mut details = json!({ "valid_from": time(since) });
    if let Some(until) = until {
        details["expiration"] = time(until).into();
    }
    details
}

fn time(unix: u64) -> String {
    let moment = i64::try_from(unix).ok().and_then(|unix| jiff::Timestamp::from_second(unix).ok());
    moment.map(|moment| moment.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tls::{CertificateValidation, CommonTls, DownstreamTls, Source};
    use crate::protocol::tls::ServerTls;
    use crate::protocol::tls::testing::{Authority, Spec, ocsp_response, source};
    use std::sync::Arc;

    #[test]
    fn context_is_listed_as_envoy_lists_it() {
        let root = Authority::new("root");
        let spec = Spec::dns("a.com")
            .uri("spiffe://td/a")
            .ip("10.0.0.1".parse().unwrap())
            .serial(&[0xab])
            .years(2020, 2030);
        let mut own = root.issue(spec).config();
        own.chain.file = Some("/etc/tls.crt".into());
        let staple = ocsp_response(&[0xab], "20290101000000Z", Some("20300101000000Z"));
        own.ocsp_staple = Some(Source::inline(staple));
        let validation = CertificateValidation {
            trusted_ca: Some(source(&root.pem())),
            ..CertificateValidation::default()
        };
        let common =
            CommonTls { certificates: vec![own], validation: Some(validation), ..CommonTls::default() };
        let config = DownstreamTls { common, ..DownstreamTls::default() };
        let context = TlsContext::Server(Arc::new(ServerTls::compile(&config, None, None).unwrap()));
        // 2029-12-31.
        let now = 1_893_369_600;
        let entry = entry(&context, now);
        assert_eq!(
            entry["cert_chain"],
            json!([{
                "path": "/etc/tls.crt",
                "serial_number": "ab",
                "subject_alt_names": [{ "dns": "a.com" }, { "uri": "spiffe://td/a" }, { "ip_address": "10.0.0.1" }],
                "days_until_expiration": "1",
                "valid_from": "2020-01-01T00:00:00Z",
                "expiration_time": "2030-01-01T00:00:00Z",
                "ocsp_details": { "valid_from": "2029-01-01T00:00:00Z", "expiration": "2030-01-01T00:00:00Z" },
            }])
        );
        assert_eq!(entry["ca_cert"][0]["path"], "<inline>");
        assert_eq!(first_staple_expires(&[context], now), 86_400);
        assert_eq!(first_staple_expires(&[], now), 0);
    }
}
