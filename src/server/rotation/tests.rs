//! What happens when files of TLS change while the process runs.

use super::*;
use crate::config::ads::{FileSource, ResourceSource, Sds};
use crate::config::secret::{NamedCertificate, NamedSecrets, NamedValidation, Secret};
use crate::config::tls::{
    CertificateValidation, CommonTls, OcspStaplePolicy, SessionTickets, TlsCertificate, UpstreamTls,
};
use crate::protocol::tls::testing::{Authority, CLIENT, Issued, Spec, ocsp_response, staple_shown_by};
use crate::telemetry::Registry;
use std::fs;
use std::path::PathBuf;

/// A directory of its own, removed with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringway-rotation-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Writes a file; what configuration makes of it.
    fn source(&self, name: &str, bytes: impl AsRef<[u8]>) -> Source {
        self.write(name, &bytes);
        let file = self.0.join(name).to_str().map(Box::from);
        Source { file, watched_directory: None, data: bytes.as_ref().into() }
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.0.join(name), bytes).unwrap();
    }

    fn certificate(&self, issued: &Issued) -> TlsCertificate {
        TlsCertificate {
            chain: self.source("tls.crt", &issued.chain_pem),
            private_key: self.source("tls.key", &issued.key_pem),
            password: None,
            ocsp_staple: None,
        }
    }

    fn write_pair(&self, issued: &Issued) {
        self.write("tls.crt", &issued.chain_pem);
        self.write("tls.key", &issued.key_pem);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn names(updates: &[Update]) -> Vec<String> {
    let first = |update: &Update| match update {
        Update::Server(ChainTls { tls, .. }) => {
            tls.certificate_for(None, true).unwrap().common_name.clone().unwrap_or_default()
        }
        Update::Client { sockets, .. } => {
            sockets.tls(0).unwrap().ready().unwrap().look().unwrap().authority().unwrap().1.subject.clone()
        }
    };
    updates.iter().map(first).collect()
}

/// The files of one filter chain.
fn of_server(config: DownstreamTls) -> Rotation {
    let tls = config.is_whole().then(|| Arc::new(ServerTls::compile(&config, None, None).unwrap()));
    let server = Server {
        listener: 3,
        chain: 0,
        name: "front".into(),
        config,
        refused: None,
        tls,
        is_newer: false,
        handshake_timeout: None,
        stats: Registry::new(1).listener("front"),
    };
    let secrets = KnownSecrets::default();
    Rotation { secrets, servers: vec![server], clients: BTreeMap::new(), known: KnownBytes::default() }
}

/// What the one filter chain uses.
fn used(rotation: &Rotation) -> &ServerTls {
    rotation.servers[0].tls.as_ref().unwrap()
}

/// Reads again what has changed, which is good; what new handshakes use.
fn refreshed(rotation: &mut Rotation) -> Arc<ServerTls> {
    let Outcome { updates, rejected } = rotation.refresh();
    match &updates[..] {
        [Update::Server(ChainTls { listener: 3, chain: 0, tls })] => Arc::clone(tls),
        other => panic!("{other:?}, {rejected:?}"),
    }
}

/// Reads again what has changed, which is no good; why.
fn refused(rotation: &mut Rotation) -> String {
    let Outcome { updates, rejected } = rotation.refresh();
    assert!(updates.is_empty());
    assert!(rotation.refresh().rejected.is_empty(), "said once");
    rejected.concat()
}

#[test]
fn changed_certificate_is_taken_and_a_bad_one_is_said_once() {
    let scratch = Scratch::new("server");
    let root = Authority::new("root");
    let issue = |name: &str| root.issue(Spec::dns("a").subject(&[("CN", name)]));
    let (one, two, three) = (issue("one"), issue("two"), issue("three"));
    let common = CommonTls { certificates: vec![scratch.certificate(&one)], ..CommonTls::default() };
    let mut rotation = of_server(DownstreamTls { common, ..DownstreamTls::default() });
    assert_eq!(rotation.paths().len(), 2);
    let mut refresh = || {
        let Outcome { updates, rejected } = rotation.refresh();
        (names(&updates), rejected.len(), rejected.join("\n"))
    };
    assert_eq!(refresh(), (vec![], 0, String::new()), "nothing has changed");
    scratch.write_pair(&two);
    assert_eq!(refresh(), (vec!["two".into()], 0, String::new()));
    scratch.write("tls.crt", &three.chain_pem);
    let (updates, count, reason) = refresh();
    assert!(updates.is_empty() && count == 1);
    assert!(
        reason.starts_with("listener front: ")
            && reason.contains("tls.key: is not the key of the certificate"),
        "{reason}"
    );
    assert_eq!(refresh().1, 0, "said once");
    scratch.write("tls.crt", "rubbish");
    assert_eq!(refresh().1, 1);
    fs::remove_file(scratch.0.join("tls.crt")).unwrap();
    assert!(refresh().2.contains("No such file"));
    assert_eq!(refresh().1, 0);
    scratch.write_pair(&three);
    assert_eq!(refresh(), (vec!["three".into()], 0, String::new()));
    assert_eq!(rotation.rotate_ticket_keys().len(), 1);
    assert_eq!(rotation.contexts().len(), 1);
}

#[test]
fn changed_trust_of_a_cluster_is_taken() {
    let scratch = Scratch::new("client");
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let validation = CertificateValidation {
        trusted_ca: Some(scratch.source("ca.crt", one.pem())),
        ..CertificateValidation::default()
    };
    let common = CommonTls { validation: Some(validation), ..CommonTls::default() };
    let mut config = Cluster::new("web");
    config.sockets_mut().tls = Some(Arc::new(UpstreamTls { common, ..UpstreamTls::default() }));
    let sockets = SocketCompiler::default().of(&config).unwrap();
    let (contexts, config) = (Contexts::of(&config), Arc::new(config));
    let stats = Registry::new(1).cluster("web");
    let client = Client { config, contexts, refused: None, sockets, stats };
    let mut rotation = Rotation {
        secrets: KnownSecrets::default(),
        servers: Vec::new(),
        clients: BTreeMap::from([(client.config.name.clone(), client)]),
        known: KnownBytes::default(),
    };
    assert_eq!(rotation.paths().len(), 1);
    assert!(rotation.refresh().updates.is_empty());
    scratch.write("ca.crt", two.pem());
    let updates = rotation.refresh().updates;
    assert_eq!(names(&updates), ["CN=two"]);
    assert!(matches!(&updates[0], Update::Client { cluster, .. } if &**cluster == "web"));
    scratch.write("ca.crt", "");
    assert_eq!(rotation.refresh().rejected.len(), 1);
    assert!(rotation.rotate_ticket_keys().is_empty());
}

#[test]
fn changed_revocation_list_shuts_out_whom_it_names() {
    let scratch = Scratch::new("crl");
    let root = Authority::new("root");
    let own = root.issue(Spec::dns("a"));
    let [kept, revoked] =
        [5, 7].map(|serial| root.issue(Spec::dns("c").serial(&[serial]).purposes(CLIENT)).der());
    let validation = CertificateValidation {
        trusted_ca: Some(scratch.source("ca.crt", root.pem())),
        crl: Some(scratch.source("ca.crl", root.crl(&[], 2100))),
        ..CertificateValidation::default()
    };
    let common = CommonTls {
        certificates: vec![scratch.certificate(&own)],
        validation: Some(validation),
        ..CommonTls::default()
    };
    let mut rotation = of_server(DownstreamTls { common, ..DownstreamTls::default() });
    assert_eq!(rotation.paths().len(), 4);
    let accepts = |tls: &ServerTls| {
        [&kept, &revoked].map(|shown| tls.accepts_still(std::slice::from_ref(shown)).is_ok())
    };
    assert_eq!(accepts(used(&rotation)), [true, true]);
    scratch.write("ca.crl", root.crl(&[&[7]], 2100));
    assert_eq!(accepts(&refreshed(&mut rotation)), [true, false]);
    scratch.write("ca.crl", "rubbish");
    let reason = refused(&mut rotation);
    assert!(reason.starts_with("listener front: ") && reason.contains("ca.crl"), "{reason}");
    assert_eq!(accepts(used(&rotation)), [true, false], "the last good one stays");
    scratch.write("ca.crl", root.crl(&[&[5], &[7]], 2100));
    assert_eq!(accepts(&refreshed(&mut rotation)), [false, false]);
}

#[test]
fn changed_ticket_keys_seal_and_those_that_are_kept_open() {
    let scratch = Scratch::new("keys");
    let own = Authority::new("root").issue(Spec::dns("a"));
    let key = |byte: u8| vec![byte; 80];
    let keys = vec![scratch.source("0.key", key(1)), scratch.source("1.key", key(0))];
    let common = CommonTls { certificates: vec![scratch.certificate(&own)], ..CommonTls::default() };
    let session_tickets = SessionTickets::Keys(keys);
    let mut rotation = of_server(DownstreamTls { common, session_tickets, ..DownstreamTls::default() });
    assert_eq!(rotation.paths().len(), 4);
    let ticket = used(&rotation).config().ticketer.encrypt(b"state").unwrap();
    assert!(ticket.starts_with(&[1; 16]));
    // As whoever rotates them does it: the new one seals, the one before still opens.
    scratch.write("1.key", key(1));
    scratch.write("0.key", key(2));
    let tls = refreshed(&mut rotation);
    assert!(tls.config().ticketer.encrypt(b"state").unwrap().starts_with(&[2; 16]));
    assert_eq!(tls.config().ticketer.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
    scratch.write("0.key", [3; 79]);
    let reason = refused(&mut rotation);
    assert!(reason.contains("0.key") && reason.contains("80"), "{reason}");
    assert!(used(&rotation).config().ticketer.encrypt(b"state").unwrap().starts_with(&[2; 16]));
    scratch.write("0.key", key(3));
    scratch.write("1.key", key(2));
    assert_eq!(refreshed(&mut rotation).config().ticketer.decrypt(&ticket), None);
    assert!(rotation.rotate_ticket_keys().is_empty(), "they are the configuration's");
}

#[test]
fn changed_ocsp_staple_is_shown() {
    let scratch = Scratch::new("ocsp");
    let own = Authority::new("root").issue(Spec::dns("a").serial(&[9]));
    let response = |serial: u8, since: &str| ocsp_response(&[serial], since, Some("21000101000000Z"));
    let [one, two, three] =
        ["20250101000000Z", "20250102000000Z", "20250103000000Z"].map(|since| response(9, since));
    let staple = Some(scratch.source("tls.ocsp", &one));
    let certificate = TlsCertificate { ocsp_staple: staple, ..scratch.certificate(&own) };
    let common = CommonTls { certificates: vec![certificate], ..CommonTls::default() };
    let mut rotation = of_server(DownstreamTls { common, ..DownstreamTls::default() });
    assert_eq!(rotation.paths().len(), 3);
    assert_eq!(staple_shown_by(used(&rotation)), one);
    scratch.write("tls.ocsp", &two);
    assert_eq!(staple_shown_by(&refreshed(&mut rotation)), two);
    for (bad, words) in
        [(response(8, "20250103000000Z"), "another certificate"), (b"rubbish".to_vec(), "OCSP")]
    {
        scratch.write("tls.ocsp", bad);
        let reason = refused(&mut rotation);
        assert!(reason.contains("tls.ocsp") && reason.contains(words), "{reason}");
        assert_eq!(staple_shown_by(used(&rotation)), two, "the last good one stays");
    }
    scratch.write("tls.ocsp", &three);
    assert_eq!(staple_shown_by(&refreshed(&mut rotation)), three);
}

#[test]
fn chain_that_is_kept_is_found_by_its_place_in_the_listener_that_is_replaced() {
    let issued = Authority::new("root").issue(Spec::dns("a"));
    let common = CommonTls { certificates: vec![issued.config()], ..CommonTls::default() };
    let rotation = of_server(DownstreamTls { common, ..DownstreamTls::default() });
    let replaced = |number, kept: &[Option<usize>]| Replaced {
        number,
        keeps_sockets: true,
        in_place: true,
        successors: Vec::new(),
        kept: kept.to_vec(),
    };
    assert!(rotation.kept(&replaced(3, &[Some(1)]), 1).is_some());
    for (other, chain) in [
        (replaced(3, &[Some(1)]), 0),
        (replaced(3, &[None]), 0),
        (replaced(3, &[None, Some(0)]), 0),
        (replaced(3, &[]), 0),
        (replaced(4, &[Some(1)]), 1),
    ] {
        assert!(rotation.kept(&other, chain).is_none(), "{other:?}, {chain}");
    }
}

/// A secret that is told from a file, and what the files that it names hold.
fn told(secret: Secret) -> (KnownSecrets, Sds) {
    let kind = secret.kind();
    let file = FileSource { path: "sds.yaml".into(), watched_directory: None };
    let source = ResourceSource::File(file);
    let sds = Sds { source, name: "own".into(), kind, initial_fetch_timeout: None };
    let known = KnownSecrets::default();
    tell(&known, &sds, secret, 1);
    (known, sds)
}

fn tell(known: &KnownSecrets, sds: &Sds, secret: Secret, hash: u64) {
    known.put(&sds.source, &sds.name, secret, hash, Vec::new());
}

fn key(sds: &Sds) -> SecretKey {
    (sds.source.clone(), Arc::clone(&sds.name))
}

#[test]
fn context_is_there_with_its_secret_and_is_another_with_the_next() {
    let root = Authority::new("root");
    let issue = |name: &str| root.issue(Spec::dns("a").subject(&[("CN", name)])).config();
    let secret = |name: &str| Secret::Certificate(issue(name));
    let (known, sds) = told(secret("one"));
    let named = NamedSecrets { certificates: vec![NamedCertificate::Told(sds.clone())], validation: None };
    let common = CommonTls { named: Some(Box::new(named)), ..CommonTls::default() };
    let mut rotation = of_server(DownstreamTls { common, ..DownstreamTls::default() });
    assert!(rotation.contexts().is_empty() && rotation.newer(None).is_empty());
    assert!(rotation.refresh().updates.is_empty() && rotation.rotate_ticket_keys().is_empty());
    rotation.secrets = known.clone();
    let another = (ResourceSource::Ads, Arc::from("own"));
    assert!(rotation.renew(&another).updates.is_empty(), "of another source");
    assert_eq!(names(&rotation.renew(&key(&sds)).updates), ["one"]);
    assert_eq!((rotation.contexts().len(), rotation.newer(Some(3)).len()), (1, 1));
    assert!(rotation.newer(Some(4)).is_empty() && rotation.renew(&key(&sds)).updates.is_empty());
    let ticket = used(&rotation).config().ticketer.encrypt(b"state").unwrap();
    tell(&known, &sds, secret("two"), 2);
    assert_eq!(names(&rotation.renew(&key(&sds)).updates), ["two"]);
    assert!(used(&rotation).config().ticketer.decrypt(&ticket).is_none(), "it has another name");
    // What cannot be used together with the context leaves the last good one.
    rotation.servers[0].config.ocsp_staple_policy = OcspStaplePolicy::MustStaple;
    tell(&known, &sds, secret("three"), 3);
    let Outcome { updates, rejected } = rotation.renew(&key(&sds));
    assert!(updates.is_empty() && rejected[0].contains("MUST_STAPLE"), "{rejected:?}");
    assert!(rotation.renew(&key(&sds)).rejected.is_empty(), "said once");
    assert_eq!(used(&rotation).certificate_for(None, true).unwrap().common_name.as_deref(), Some("two"));
    let stats = rotation.servers[0].stats.cells(Slot::Control);
    assert_eq!(stats.value(ListenerStat::SslContextUpdateBySds), 2);
}

#[test]
fn files_that_a_secret_names_are_watched_and_read_again() {
    let scratch = Scratch::new("secret");
    let root = Authority::new("root");
    let issue = |name: &str| root.issue(Spec::dns("a").subject(&[("CN", name)]));
    let (known, sds) = told(Secret::Certificate(scratch.certificate(&issue("one"))));
    let named = NamedSecrets { certificates: vec![NamedCertificate::Told(sds)], validation: None };
    let common = CommonTls { named: Some(Box::new(named)), ..CommonTls::default() };
    let mut rotation = of_server(DownstreamTls { common, ..DownstreamTls::default() });
    rotation.secrets = known;
    assert_eq!(names(&rotation.refresh().updates), ["one"]);
    assert_eq!(rotation.paths().len(), 2);
    scratch.write_pair(&issue("two"));
    assert_eq!(names(&rotation.refresh().updates), ["two"]);
    assert!(rotation.refresh().updates.is_empty());
}

#[test]
fn cluster_is_reached_with_what_its_secret_trusts() {
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let secret = |authority: &Authority| {
        let trusted_ca = Some(Source::inline(authority.pem().into_bytes()));
        let alone = CertificateValidation { trusted_ca, ..CertificateValidation::default() };
        Secret::Validation { alone, encoded: Box::default() }
    };
    let (known, sds) = told(secret(&one));
    let validation = Some(NamedValidation { secret: sds.clone(), default: None });
    let named = NamedSecrets { certificates: Vec::new(), validation };
    let common = CommonTls { named: Some(Box::new(named)), ..CommonTls::default() };
    let mut config = Cluster::new("web");
    config.sockets_mut().tls = Some(Arc::new(UpstreamTls { common, ..UpstreamTls::default() }));
    let sockets = SocketCompiler::default().of(&config).unwrap();
    assert!(!sockets.is_plain() && sockets.tls(0).unwrap().ready().is_none());
    let spec = Arc::new(ClusterSpec {
        config: Arc::new(config),
        stats: Registry::new(1).cluster("web"),
        sockets,
        breakers: Arc::default(),
    });
    let mut rotation = Rotation::of(&Snapshot::default(), &known);
    assert!(rotation.put_cluster("web", Some(&spec)));
    let ready = rotation.latest(&spec);
    assert!(ready.sockets.tls(0).unwrap().ready().is_some(), "the workers see it with its secret");
    assert!(Arc::ptr_eq(&rotation.latest(&ready), &ready));
    tell(&known, &sds, secret(&two), 2);
    assert_eq!(names(&rotation.renew(&key(&sds)).updates), ["CN=two"]);
    assert!(rotation.put_cluster("web", None) && Arc::ptr_eq(&rotation.latest(&spec), &spec));
}
