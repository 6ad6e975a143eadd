//! `/certs`: the certificates in use, as Envoy lists them, and the days until the first of them expires.
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
    let all = contexts.iter().flat_map(|context| {
        let (chain, authority) = shown(context);
        chain.into_iter().chain(authority)
    });
    all.map(|(_, certificate)| certificate.days_until_expiration(now)).min().unwrap_or(NOTHING_EXPIRES)
}

fn now() -> u64 {
    clock::wall_ns() / 1_000_000_000
}

/// Its own certificates, and the first that it trusts.
fn shown(context: &TlsContext) -> (Vec<Shown<'_>>, Option<Shown<'_>>) {
    match context {
        TlsContext::Server(tls) => (tls.certificates().collect(), tls.authority()),
        TlsContext::Client(tls) => (tls.certificate().into_iter().collect(), tls.authority()),
    }
}

fn entry(context: &TlsContext, now: u64) -> Value {
    let (chain, authority) = shown(context);
    let list = |shown: Vec<Shown<'_>>| shown.into_iter().map(|shown| details(shown, now)).collect::<Vec<_>>();
    let lists = [("ca_cert", list(authority.into_iter().collect())), ("cert_chain", list(chain))];
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

fn time(unix: u64) -> String {
    let moment = i64::try_from(unix).ok().and_then(|unix| jiff::Timestamp::from_second(unix).ok());
    moment.map(|moment| moment.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tls::{CertificateValidation, CommonTls, DownstreamTls};
    use crate::protocol::tls::ServerTls;
    use crate::protocol::tls::testing::{Authority, Spec, source};
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
        let validation = CertificateValidation {
            trusted_ca: Some(source(&root.pem())),
            ..CertificateValidation::default()
        };
        let common =
            CommonTls { certificates: vec![own], validation: Some(validation), ..CommonTls::default() };
        let config = DownstreamTls { common, ..DownstreamTls::default() };
        let context = TlsContext::Server(Arc::new(ServerTls::compile(&config, None, None).unwrap()));
        // 2029-12-31.
        let entry = entry(&context, 1_893_369_600);
        assert_eq!(
            entry["cert_chain"],
            json!([{
                "path": "/etc/tls.crt",
                "serial_number": "ab",
                "subject_alt_names": [{ "dns": "a.com" }, { "uri": "spiffe://td/a" }, { "ip_address": "10.0.0.1" }],
                "days_until_expiration": "1",
                "valid_from": "2020-01-01T00:00:00Z",
                "expiration_time": "2030-01-01T00:00:00Z",
            }])
        );
        assert_eq!(entry["ca_cert"][0]["path"], "<inline>");
    }
}
