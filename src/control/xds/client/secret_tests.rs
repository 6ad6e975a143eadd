//! Rules of discovery that holds for secrets.
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::sync::mpsc;

use super::delta::Delta;
use super::gate::Gate;
use super::judge::{Good, Judge, Kind, Outcome, Taken};
use super::known_secrets::KnownSecrets;
use super::quarantine::Quarantine;
use super::secrets::SecretJudge;
use super::sotw::Sotw;
use super::subscribers::Subscribers;
use super::wanted::Wanted;
use super::{Protocol, SECRETS, Update, Updates};
use crate::config::ads::{ResourceSource, Sds, SecretKind};
use crate::config::secret::{NamedCertificate, NamedSecrets, NamedValidation};
use crate::config::tls::{CommonTls, DownstreamTls, SessionTickets};
use crate::control::xds::pb;
use crate::protocol::tls::testing::{Authority, Issued, Spec};
use crate::telemetry::{Registry, SdsStat, Slot};
use pb::core::{DataSource, DataSourceSpecifierOneOf};
use pb::discovery::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};
use pb::tls::SecretTypeOneOf;

const ADS: ResourceSource = ResourceSource::Ads;

fn sds(name: &str, kind: SecretKind) -> Sds {
    Sds { source: ADS, name: name.into(), kind, initial_fetch_timeout: Some(Duration::from_secs(1)) }
}

fn inline(text: &str) -> Option<DataSource> {
    let specifier = Some(DataSourceSpecifierOneOf::InlineString(text.to_owned()));
    Some(DataSource { specifier, ..DataSource::default() })
}

fn any(name: &str, of_type: SecretTypeOneOf) -> pb::google::Any {
    let message = pb::tls::Secret { name: name.into(), r#type: Some(of_type) };
    pb::google::Any { type_url: SECRETS.into(), value: message.encode_to_vec() }
}

fn certificate(name: &str, chain: &str, key: &str) -> pb::google::Any {
    let message = pb::tls::TlsCertificate {
        certificate_chain: inline(chain),
        private_key: inline(key),
        ..pb::tls::TlsCertificate::default()
    };
    any(name, SecretTypeOneOf::TlsCertificate(message))
}

fn good(name: &str, issued: &Issued) -> pb::google::Any {
    certificate(name, &issued.chain_pem, &issued.key_pem)
}

fn trust(name: &str, authority: &Authority) -> pb::google::Any {
    let message = pb::tls::CertificateValidationContext {
        trusted_ca: inline(&authority.pem()),
        ..pb::tls::CertificateValidationContext::default()
    };
    any(name, SecretTypeOneOf::ValidationContext(message))
}

fn issued() -> [Issued; 2] {
    let root = Authority::new("root");
    ["one", "two"].map(|name| root.issue(Spec::dns("a").subject(&[("CN", name)])))
}

fn judge(known: &KnownSecrets) -> Judge {
    Judge::Secrets(SecretJudge::new(ADS, known.clone()))
}

fn names(names: &[&str]) -> Wanted {
    Wanted::Names(names.iter().map(|name| (*name).into()).collect())
}

fn sotw(known: &KnownSecrets, asked: &[&str]) -> Sotw {
    Sotw::new(judge(known), pb::core::Node::default(), names(asked), true)
}

fn delta(known: &KnownSecrets, asked: &[&str]) -> Delta {
    Delta::new(judge(known), pb::core::Node::default(), names(asked), true)
}

fn state(version: &str, resources: Vec<pb::google::Any>) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: version.into(),
        nonce: version.into(),
        type_url: SECRETS.into(),
        resources,
        ..DiscoveryResponse::default()
    }
}

fn change(resources: Vec<(&str, &str, pb::google::Any)>, removed: &[&str]) -> DeltaDiscoveryResponse {
    let resource = |(name, version, any): (&str, &str, pb::google::Any)| Resource {
        name: name.into(),
        version: version.into(),
        resource: Some(any),
        ..Resource::default()
    };
    DeltaDiscoveryResponse {
        nonce: "n".into(),
        type_url: SECRETS.into(),
        resources: resources.into_iter().map(resource).collect(),
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

/// The certificate that a context has of a secret; empty: it has none.
fn shown(known: &KnownSecrets, name: &str) -> String {
    let named = NamedSecrets {
        certificates: vec![NamedCertificate::Told(sds(name, SecretKind::Certificate))],
        validation: None,
    };
    let common = CommonTls { named: Some(Box::new(named)), ..CommonTls::default() };
    let mut tls = DownstreamTls { common, ..DownstreamTls::default() };
    known.fill_server(&mut tls).unwrap();
    assert_eq!(tls.is_whole(), !tls.common.certificates.is_empty());
    let data = tls.common.certificates.first().map(|certificate| certificate.chain.data.to_vec());
    String::from_utf8(data.unwrap_or_default()).unwrap()
}

fn changed<R>(taken: &Taken<R>) -> Vec<&str> {
    let good = taken.outcome.good.iter().filter(|(_, good)| matches!(good, Good::Secret));
    good.map(|(name, _)| name.as_str()).collect()
}

#[test]
fn s2_without_names_nothing_is_asked_since_that_would_mean_everything() {
    let known = KnownSecrets::default();
    assert!(sotw(&known, &[]).open(true).is_none() && delta(&known, &[]).open(true).is_none());
    let first = sotw(&known, &["a"]).open(false).unwrap();
    assert_eq!((first.type_url.as_str(), first.resource_names), (SECRETS, vec!["a".to_owned()]));
}

#[test]
fn certificate_that_is_told_fills_contexts_and_the_same_again_changes_nothing() {
    let (known, [one, two]) = (KnownSecrets::default(), issued());
    let mut client = sotw(&known, &["a", "b"]);
    assert_eq!(shown(&known, "a"), "");
    let taken = client.take(state("1", vec![good("a", &one)])).unwrap();
    assert!(taken.reply.error_detail.is_none());
    assert_eq!((changed(&taken), shown(&known, "a")), (vec!["a"], one.chain_pem.clone()));
    // N7: the other one is as it was.
    let taken = client.take(state("2", vec![good("a", &one), good("b", &two)])).unwrap();
    assert_eq!(changed(&taken), ["b"]);
    assert!(taken.outcome.absent.is_empty());
    let taken = client.take(state("3", vec![good("a", &two)])).unwrap();
    assert_eq!(changed(&taken), ["a"]);
}

#[test]
fn p1_bad_secret_is_named_and_the_last_good_one_stays() {
    let (known, [one, two]) = (KnownSecrets::default(), issued());
    let mut client = sotw(&known, &["a", "b"]);
    client.take(state("1", vec![good("a", &one)])).unwrap();
    let bad = certificate("a", &two.chain_pem, &one.key_pem);
    let taken = client.take(state("2", vec![bad, good("b", &two)])).unwrap();
    assert_eq!(changed(&taken), ["b"]);
    assert_eq!(shown(&known, "a"), one.chain_pem);
    let message = &taken.reply.error_detail.as_ref().unwrap().message;
    assert_eq!(message, "a: tls_certificate.private_key: is not the key of the certificate");
    assert_eq!(taken.reply.version_info, "1");
    let ticket_keys = pb::tls::TlsSessionTicketKeys { keys: vec![inline("short").unwrap()] };
    for (bad, words) in [
        (certificate("a", "rubbish", &one.key_pem), "tls_certificate.certificate_chain"),
        (any("a", SecretTypeOneOf::SessionTicketKeys(ticket_keys)), "5 bytes, not 80"),
        (pb::google::Any { type_url: SECRETS.into(), value: vec![0xff] }, "cannot be decoded"),
    ] {
        let reply = client.take(state("3", vec![bad])).unwrap().reply;
        let message = reply.error_detail.unwrap().message;
        assert!(message.contains(words), "{message}");
        assert!(!message.contains(one.key_pem.lines().nth(1).unwrap()), "{message}");
    }
}

/// A first copy was in use by whoever looked next, and when it was told alone nobody heard of it.
#[test]
fn s5_secret_that_stood_twice_is_taken_once_it_stands_alone() {
    let (known, [one, two]) = (KnownSecrets::default(), issued());
    let mut client = sotw(&known, &["a"]);
    for (told, before) in [(&one, ""), (&two, one.chain_pem.as_str())] {
        let taken = client.take(state("1", vec![good("a", told), good("a", told)])).unwrap();
        assert!(taken.reply.error_detail.is_some() && changed(&taken).is_empty());
        assert_eq!(shown(&known, "a"), before);
        let taken = client.take(state("2", vec![good("a", told)])).unwrap();
        assert!(taken.reply.error_detail.is_none());
        assert_eq!((changed(&taken), shown(&known, "a")), (vec!["a"], told.chain_pem.clone()));
    }
}

#[test]
fn secret_of_another_type_than_is_asked_for_is_refused() {
    let (known, [one, _]) = (KnownSecrets::default(), issued());
    known.used(&ADS, "a", &[SecretKind::Validation]);
    let reply = sotw(&known, &["a"]).take(state("1", vec![good("a", &one)])).unwrap().reply;
    let message = reply.error_detail.unwrap().message;
    assert_eq!(message, "a: is a tls_certificate, and a validation_context was asked for");
}

/// K3, envoy#32961: whoever uses a secret goes away by itself.
#[test]
fn k3_delta_secret_that_is_removed_stays_in_use() {
    let (known, [one, _]) = (KnownSecrets::default(), issued());
    let mut client = delta(&known, &["a"]);
    client.take(change(vec![("a", "1", good("a", &one))], &[])).unwrap();
    let taken = client.take(change(vec![], &["a"])).unwrap();
    assert!(taken.reply.error_detail.is_none() && taken.outcome.absent.is_empty());
    assert!(taken.outcome.kept.contains_key("a") && !shown(&known, "a").is_empty());
    // R4: the next stream asks for it anew.
    let first = client.open(true).unwrap();
    assert_eq!(first.resource_names_subscribe, ["a"]);
    assert!(first.initial_resource_versions.is_empty());
}

#[test]
fn r4_next_stream_says_which_versions_are_there() {
    let (known, [one, two]) = (KnownSecrets::default(), issued());
    let mut client = delta(&known, &["a", "b"]);
    client.take(change(vec![("a", "1", good("a", &one)), ("b", "1", good("b", &two))], &[])).unwrap();
    client.take(change(vec![("a", "2", certificate("a", "x", "y"))], &[])).unwrap();
    let versions: Vec<_> = client.open(true).unwrap().initial_resource_versions.into_iter().collect();
    assert_eq!(versions, [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "1".to_owned())]);
    assert_eq!(shown(&known, "a"), one.chain_pem, "over the end of the stream");
}

/// A secret that is not asked for any more is told again to whoever asks for it later.
#[test]
fn s6_name_that_nobody_wants_is_unsubscribed_and_forgotten() {
    let (known, [one, _]) = (KnownSecrets::default(), issued());
    let mut client = delta(&known, &["a", "b"]);
    client.open(true);
    client.take(change(vec![("a", "1", good("a", &one))], &[])).unwrap();
    let request = client.want(names(&["b"]), None).unwrap();
    assert_eq!(request.resource_names_unsubscribe, ["a"]);
    assert_eq!(shown(&known, "a"), "");
    let request = client.want(names(&["a", "b"]), None).unwrap();
    assert_eq!(request.resource_names_subscribe, ["a"]);
    let taken = client.take(change(vec![("a", "1", good("a", &one))], &[])).unwrap();
    assert_eq!((changed(&taken), !shown(&known, "a").is_empty()), (vec!["a"], true));
}

#[test]
fn rules_of_verification_are_merged_into_those_of_the_context() {
    let (known, root) = (KnownSecrets::default(), Authority::new("root"));
    sotw(&known, &["a"]).take(state("1", vec![trust("a", &root)])).unwrap();
    let default = pb::tls::CertificateValidationContext {
        allow_expired_certificate: true,
        ..pb::tls::CertificateValidationContext::default()
    };
    let secret = sds("a", SecretKind::Validation);
    let filled = |default: Option<Vec<u8>>| {
        let validation = Some(NamedValidation { secret: secret.clone(), default: default.map(Into::into) });
        let named = NamedSecrets { certificates: Vec::new(), validation };
        let common = CommonTls { named: Some(Box::new(named)), ..CommonTls::default() };
        let mut tls = DownstreamTls { common, ..DownstreamTls::default() };
        known.fill_server(&mut tls).map(|()| tls.common.validation.unwrap())
    };
    let merged = filled(Some(default.encode_to_vec())).unwrap();
    assert!(merged.allow_expired && merged.trusted_ca.is_some());
    assert!(!filled(None).unwrap().allow_expired);
    let wrong = pb::tls::CertificateValidationContext {
        verify_certificate_hash: vec!["x".into()],
        ..pb::tls::CertificateValidationContext::default()
    };
    let reason = filled(Some(wrong.encode_to_vec())).unwrap_err();
    assert!(
        reason.starts_with("secret a: combined_validation_context.verify_certificate_hash[0]"),
        "{reason}"
    );
}

#[test]
fn ticket_keys_fill_contexts() {
    let known = KnownSecrets::default();
    let mut tls = DownstreamTls {
        session_tickets: SessionTickets::Keys(Vec::new()),
        named_ticket_keys: Some(sds("a", SecretKind::TicketKeys)),
        ..DownstreamTls::default()
    };
    known.fill_server(&mut tls).unwrap();
    assert!(!tls.is_whole());
    let keys = pb::tls::TlsSessionTicketKeys { keys: vec![inline(&"k".repeat(80)).unwrap()] };
    let told = any("a", SecretTypeOneOf::SessionTicketKeys(keys));
    assert!(sotw(&known, &["a"]).take(state("1", vec![told])).unwrap().reply.error_detail.is_none());
    known.fill_server(&mut tls).unwrap();
    assert!(tls.is_whole());
}

/// K5: what is secret is neither shown nor written to a log.
#[test]
fn k5_keys_are_neither_shown_nor_logged() {
    let (known, [one, _]) = (KnownSecrets::default(), issued());
    known.used(&ADS, "a", &[SecretKind::Certificate]);
    known.used(&ADS, "b", &[SecretKind::Certificate]);
    sotw(&known, &["a"]).take(state("1", vec![good("a", &one)])).unwrap();
    let all = known.list();
    let wire = all[0].wire.as_ref().unwrap();
    let message = pb::tls::Secret::decode(&**wire).unwrap();
    let Some(SecretTypeOneOf::TlsCertificate(shown)) = message.r#type else { panic!() };
    assert_eq!(shown.private_key, inline("[redacted]"));
    assert_eq!(shown.certificate_chain, inline(&one.chain_pem));
    assert!(all[1].wire.is_none(), "it is waited for");
    let part = one.key_pem.lines().nth(1).unwrap();
    assert!(!format!("{known:?}").contains(part) && !format!("{all:?}").contains(part));
}

/// Those of the aggregated stream, what they tell, and counters of the secret `a`.
fn subscribers(known: &KnownSecrets) -> (Subscribers, mpsc::Receiver<Updates>, Registry) {
    let (updates, told) = mpsc::channel(8);
    let registry = Registry::new(1);
    let (quarantine, server) = (Quarantine::default(), registry.server(Slot::Control));
    let subscribers = Subscribers::new(ADS, updates, quarantine, known.clone(), Gate::new(true), server);
    (subscribers, told, registry)
}

fn told(receiver: &mut mpsc::Receiver<Updates>) -> Vec<Arc<str>> {
    std::iter::from_fn(|| receiver.try_recv().ok())
        .flatten()
        .map(|update| match update {
            Update::Secret((ADS, name)) => name,
            other => panic!("{other:?}"),
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn secret_is_asked_for_as_long_as_somebody_uses_it() {
    let (known, [one, _]) = (KnownSecrets::default(), issued());
    let (all, mut receiver, registry) = subscribers(&known);
    let secret = sds("a", SecretKind::Certificate);
    assert!(all.is_empty() && all.wanted(Kind::Secrets).is_nothing());
    assert!(all.refer(&secret, &registry) && all.refer(&secret, &registry), "both wait");
    assert_eq!(all.wanted(Kind::Secrets), names(&["a"]));
    let mut client = sotw(&known, &["a"]);
    let Taken { outcome, version, .. } = client.take(state("1", vec![good("a", &one)])).unwrap();
    all.apply(Kind::Secrets, outcome, &version).await;
    assert_eq!(told(&mut receiver), ["a".into()]);
    assert!(!all.refer(&secret, &registry), "it is there");
    assert_eq!(&*known.list()[0].version, "1");
    assert!(!all.release(&secret) && !all.release(&secret));
    assert!(all.release(&secret), "nobody uses it");
    assert!(all.is_empty() && known.list().is_empty());
    let cells = registry.sds("a").cells(Slot::Control);
    assert_eq!((cells.value(SdsStat::UpdateAttempt), cells.value(SdsStat::UpdateSuccess)), (2, 1));
}

/// The stream has not looked meanwhile, so the control plane does not hear of it and tells nothing again: what it has told is used.
#[tokio::test(start_paused = true)]
async fn secret_that_is_given_up_and_asked_for_again_at_once_is_there() {
    let (known, [one, two]) = (KnownSecrets::default(), issued());
    let (all, mut receiver, registry) = subscribers(&known);
    let secret = sds("a", SecretKind::Certificate);
    let mut client = sotw(&known, &["a"]);
    client.open(true);
    // Told before and after.
    for (version, issued) in [("1", &one), ("2", &two)] {
        all.refer(&secret, &registry);
        let Taken { outcome, version, .. } = client.take(state(version, vec![good("a", issued)])).unwrap();
        all.apply(Kind::Secrets, outcome, &version).await;
        assert!(all.release(&secret));
        assert!(!all.refer(&secret, &registry), "it is there");
        assert!(client.want(all.wanted(Kind::Secrets), None).is_none(), "nothing is asked");
        assert_eq!(shown(&known, "a"), issued.chain_pem);
        all.release(&secret);
    }
    // Told while nobody used it.
    let Taken { outcome, version, .. } = client.take(state("3", vec![good("a", &one)])).unwrap();
    all.apply(Kind::Secrets, outcome, &version).await;
    assert!(!all.refer(&secret, &registry));
    assert_eq!(shown(&known, "a"), one.chain_pem);
    // Once the stream has looked, it is told anew.
    all.release(&secret);
    assert!(client.want(all.wanted(Kind::Secrets), None).is_some());
    assert!(all.refer(&secret, &registry) && client.want(all.wanted(Kind::Secrets), None).is_some());
    let taken = client.take(state("4", vec![good("a", &one)])).unwrap();
    assert_eq!(changed(&taken), ["a"]);
    told(&mut receiver);
}

/// K4: who has waited long enough, or is told something that is no good, goes without.
#[tokio::test(start_paused = true)]
async fn k4_secret_that_does_not_come_is_waited_for_no_longer_than_the_timeout() {
    let known = KnownSecrets::default();
    let (all, mut receiver, registry) = subscribers(&known);
    let (long, short) = (
        Sds { initial_fetch_timeout: Some(Duration::from_secs(9)), ..sds("b", SecretKind::Certificate) },
        sds("a", SecretKind::Certificate),
    );
    assert!(all.refer(&short, &registry) && all.refer(&long, &registry));
    let waits = tokio::time::timeout(Duration::from_secs(2), all.give_up_in_time());
    assert!(waits.await.is_err());
    assert_eq!(told(&mut receiver), ["a".into()]);
    assert_eq!(registry.sds("a").cells(Slot::Control).value(SdsStat::InitFetchTimeout), 1);
    assert!(!all.refer(&short, &registry), "it is over");
    let mut outcome = Outcome::default();
    outcome.bad.insert("b".into(), "wrong".into());
    all.apply(Kind::Secrets, outcome, "1").await;
    assert_eq!(told(&mut receiver), ["b".into()]);
    assert_eq!(registry.sds("b").cells(Slot::Control).value(SdsStat::UpdateRejected), 1);
}
