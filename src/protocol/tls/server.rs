//! TLS of a filter chain, compiled.
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::rand;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

use super::certificate::fixed;
use super::ocsp::OcspResponse;
use super::params::Algorithms;
use super::resolver::{Candidate, Resolver};
use super::tickets::Tickets;
use super::validator::{Names, Purpose, Validator};
use super::verifier::{self, ClientVerifier, VerifyFailure};
use super::{Certificate, TlsConfigError, pem};
use crate::base::heaps;
use crate::config::shared_bytes::SharedBytes;
use crate::config::tls::{
    DownstreamTls, OcspStaplePolicy, SanKind, SessionTickets, Source, TICKET_KEY_BYTES, TlsCertificate,
    TlsVersion,
};

/// What accepts TLS connections. Immutable: a file that changes makes another one.
pub struct ServerTls {
    config: Arc<ServerConfig>,
    resolver: Arc<Resolver>,
    validator: Option<Arc<Validator>>,
    /// Keys that this process made for tickets, the newest first; empty: those of the configuration, or none.
    own_ticket_keys: Vec<[u8; TICKET_KEY_BYTES]>,
    lifetime: Option<Duration>,
    bound_to: [u8; 32],
    /// Longest time for a handshake; `None`: unlimited.
    pub handshake_timeout: Option<Duration>,
    /// Whether a client without a certificate is refused.
    pub requires_client_certificate: bool,
}

impl ServerTls {
    /// Compiles a context; `previous` is what it takes the place of, whose tickets stay good.
    ///
    /// # Errors
    /// The field below `DownstreamTlsContext`, and what is wrong with it.
    pub fn compile(
        config: &DownstreamTls,
        handshake_timeout: Option<Duration>,
        previous: Option<&Self>,
    ) -> Result<Self, TlsConfigError> {
        let common = |error: TlsConfigError| error.within("common_tls_context");
        let algorithms = Algorithms::compile(&config.common.params, TlsVersion::Tls13)
            .map_err(|error| error.within("tls_params").within("common_tls_context"))?;
        if config.common.certificates.is_empty() {
            return Err(common(TlsConfigError::new("tls_certificates", "a server needs a certificate")));
        }
        let candidate = |(index, certificate)| {
            candidate(certificate, &algorithms, config.ocsp_staple_policy)
                .map_err(|error| common(error.within(&format!("tls_certificates[{index}]"))))
        };
        let candidates: Vec<_> =
            config.common.certificates.iter().enumerate().map(candidate).collect::<Result<_, _>>()?;
        let validator = validator(&config.common, &algorithms)?;
        let nothing = validator
            .as_ref()
            .is_none_or(|validator| !validator.verifies() && !validator.accepts_untrusted());
        if config.require_client_certificate && nothing {
            return Err(TlsConfigError::new(
                "require_client_certificate",
                "there is nothing to verify a certificate by: set validation_context.trusted_ca",
            ));
        }
        let verifier = ClientVerifier::new(validator.clone(), config.require_client_certificate, &algorithms);
        let requires_client_certificate =
            verifier.as_ref().is_some_and(rustls::server::danger::ClientCertVerifier::client_auth_mandatory);
        let bound_to = bound_to(config, &candidates);
        let resolver = Arc::new(Resolver::new(
            candidates,
            config.ocsp_staple_policy,
            config.full_scan_certs_on_sni_mismatch,
        ));
        let verifier: Arc<dyn rustls::server::danger::ClientCertVerifier> = match verifier {
            Some(verifier) => Arc::new(verifier),
            None => WebPkiClientVerifier::no_client_auth(),
        };
        let mut compiled = ServerConfig::builder_with_provider(Arc::clone(&algorithms.provider))
            .with_protocol_versions(&algorithms.versions)
            .map_err(|error| common(TlsConfigError::new("tls_params", error.to_string())))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::<Resolver>::clone(&resolver));
        compiled.alpn_protocols = alpn(&config.common.alpn_protocols);
        compiled.ignore_client_order = !config.prefer_client_ciphers;
        // No state is kept for sessions: tickets, or a full handshake.
        compiled.session_storage = Arc::new(NoServerSessionStorage {});
        compiled.send_tls13_tickets = 0;
        let mut own_ticket_keys = Vec::new();
        let keys = match &config.session_tickets {
            SessionTickets::Disabled => None,
            SessionTickets::Keys(sources) => Some(ticket_keys(sources)?),
            SessionTickets::Generated => {
                own_ticket_keys = previous.map(|old| old.own_ticket_keys.clone()).unwrap_or_default();
                if own_ticket_keys.is_empty() {
                    own_ticket_keys.push(new_ticket_key()?);
                }
                Some(own_ticket_keys.clone())
            }
        };
        if let Some(keys) = keys {
            compiled.send_tls13_tickets = 1;
            compiled.ticketer = Arc::new(Tickets::new(keys, config.session_timeout, bound_to));
        }
        Ok(Self {
            config: Arc::new(compiled),
            resolver,
            validator,
            own_ticket_keys,
            lifetime: config.session_timeout,
            bound_to,
            handshake_timeout,
            requires_client_certificate,
        })
    }

    /// What a connection is accepted with.
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// The same with a new key for tickets; those under the one before stay good. `None`: the keys are the
    /// configuration's, or there are none.
    pub fn with_new_ticket_key(&self) -> Option<Self> {
        let newest = self.own_ticket_keys.first()?;
        Some(self.with_ticket_keys(vec![new_ticket_key().ok()?, *newest]))
    }

    /// The same with the keys for tickets of `before`, the context of the same chain before its listener changed, whose tickets so
    /// stay good. `None`: one of them has no keys of this process.
    pub fn with_ticket_keys_of(&self, before: &Self) -> Option<Self> {
        let has_own = |tls: &Self| !tls.own_ticket_keys.is_empty();
        (has_own(self) && has_own(before)).then(|| self.with_ticket_keys(before.own_ticket_keys.clone()))
    }

    /// The same with these keys of this process.
    fn with_ticket_keys(&self, own_ticket_keys: Vec<[u8; TICKET_KEY_BYTES]>) -> Self {
        let mut config = ServerConfig::clone(&self.config);
        config.ticketer = Arc::new(Tickets::new(own_ticket_keys.clone(), self.lifetime, self.bound_to));
        Self {
            config: Arc::new(config),
            resolver: Arc::clone(&self.resolver),
            validator: self.validator.clone(),
            own_ticket_keys,
            ..*self
        }
    }

    /// Whether a client is still accepted whose session was resumed, by what it has shown when that began: rustls looks at it no
    /// more, and each resumption brings a new ticket, so that a session would outlive the certificate.
    ///
    /// # Errors
    /// Why not.
    pub fn accepts_still(&self, shown: &[CertificateDer<'_>]) -> Result<(), VerifyFailure> {
        let (Some(validator), Some((leaf, chain))) = (&self.validator, shown.split_first()) else {
            return Ok(());
        };
        let now = self.config.time_provider.current_time().ok_or(VerifyFailure::Chain)?;
        let verified = validator.verify(leaf, chain, Purpose::Client, Names::Configured, now);
        verified
            .map_err(|refusal| VerifyFailure::of(&verifier::error(refusal)).unwrap_or(VerifyFailure::Chain))
    }

    /// The certificate that a client with this server name is shown, as far as the name decides, and whether it asks for an OCSP
    /// response.
    pub fn certificate_for(
        &self,
        server_name: Option<&str>,
        asks_for_staple: bool,
    ) -> Option<&Arc<Certificate>> {
        self.resolver.certificate_for(server_name, asks_for_staple)
    }

    /// Its certificates and their files, for `/certs`.
    pub fn certificates(&self) -> impl Iterator<Item = (Option<&str>, &Certificate)> {
        self.resolver
            .candidates()
            .iter()
            .map(|candidate| (candidate.file.as_deref(), &*candidate.certificate))
    }

    /// Of each of them since when and until when its OCSP response is good, in seconds since the epoch (the latter `None`: it does not
    /// say); `None`: there is no response.
    pub fn staples(&self) -> impl Iterator<Item = Option<(u64, Option<u64>)>> {
        self.resolver.candidates().iter().map(|shown| shown.ocsp.as_ref().map(OcspResponse::validity))
    }

    /// The first certificate that it trusts and its file, for `/certs`.
    pub fn authority(&self) -> Option<(Option<&str>, &Certificate)> {
        let (file, certificate) = self.validator.as_ref()?.authority.as_ref()?;
        Some((file.as_deref(), &**certificate))
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls")
    }
}

/// The rules for peers, if there are any.
pub(super) fn validator(
    config: &crate::config::tls::CommonTls,
    algorithms: &Algorithms,
) -> Result<Option<Arc<Validator>>, TlsConfigError> {
    let Some(validation) = &config.validation else { return Ok(None) };
    let known = algorithms.provider.signature_verification_algorithms.all;
    let validator = Validator::compile(validation, known)
        .map_err(|error| error.within("validation_context").within("common_tls_context"))?;
    Ok(Some(Arc::new(validator)))
}

/// A certificate and its key, which have to fit.
pub(super) fn certified_key(
    config: &TlsCertificate,
    algorithms: &Algorithms,
) -> Result<(CertifiedKey, Arc<Certificate>), TlsConfigError> {
    let source = &config.private_key.data;
    let known = source.made::<ReadKey>().filter(|known| known.is_of(config));
    let read = match known {
        Some(known) => known,
        None => heaps::lasting(|| {
            let read = Arc::new(ReadKey::read(config, algorithms)?);
            source.keep(&read);
            Ok(read)
        })?,
    };
    let ReadKey { key, certificate, .. } = &*read;
    Ok((
        CertifiedKey { key: algorithms.restrict(Arc::clone(&key.key)), ..key.clone() },
        Arc::clone(certificate),
    ))
}

/// A certificate with its key, as all have it who have the same bytes.
struct ReadKey {
    chain: SharedBytes,
    password: Option<SharedBytes>,
    key: CertifiedKey,
    certificate: Arc<Certificate>,
}

impl ReadKey {
    /// Whether it is the same certificate; its key is the same in any case.
    fn is_of(&self, config: &TlsCertificate) -> bool {
        self.chain == config.chain.data
            && self.password.as_ref() == config.password.as_ref().map(|it| &it.data)
    }

    fn read(config: &TlsCertificate, algorithms: &Algorithms) -> Result<Self, TlsConfigError> {
        let wrong = |field, source: &Source| {
            let source = source.clone();
            move |reason: String| TlsConfigError::new(field, reason).of(&source)
        };
        let chain =
            pem::certificates(&config.chain.data).map_err(wrong("certificate_chain", &config.chain))?;
        let leaf = chain.first().map_or(&[][..], |leaf| leaf.as_ref());
        let certificate = Certificate::parse(leaf).map_err(wrong("certificate_chain", &config.chain))?;
        let password = config.password.as_ref().map(|source| &*source.data);
        let key = pem::private_key(&config.private_key.data, password)
            .map_err(wrong("private_key", &config.private_key))?;
        let key = algorithms.provider.key_provider.load_private_key(key).map_err(|_| {
        wrong("private_key", &config.private_key)(
            "not a key that this version signs with: RSA of 2048 to 8192 bits, ECDSA on P-256, P-384 or P-521, Ed25519"
                .into(),
        )
    })?;
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(|error| {
            let reason = match error {
                rustls::Error::InconsistentKeys(_) => "is not the key of the certificate".to_owned(),
                other => other.to_string(),
            };
            wrong("private_key", &config.private_key)(reason)
        })?;
        Ok(Self {
            chain: config.chain.data.clone(),
            password: config.password.as_ref().map(|it| it.data.clone()),
            key,
            certificate: Arc::new(certificate),
        })
    }
}

fn candidate(
    config: &TlsCertificate,
    algorithms: &Algorithms,
    policy: OcspStaplePolicy,
) -> Result<Candidate, TlsConfigError> {
    let (key, certificate) = certified_key(config, algorithms)?;
    if certificate.server_names().is_empty()
        && certificate.alt_names.is_empty()
        && certificate.common_name.as_deref().is_none_or(str::is_empty)
    {
        let reason = "the certificate has neither a common name nor alternative names";
        return Err(TlsConfigError::new("certificate_chain", reason).of(&config.chain));
    }
    let Some(source) = &config.ocsp_staple else {
        if certificate.must_staple {
            return Err(TlsConfigError::new("ocsp_staple", "the certificate asks to be used with one only"));
        }
        if policy == OcspStaplePolicy::MustStaple {
            return Err(TlsConfigError::new("ocsp_staple", "ocsp_staple_policy: MUST_STAPLE needs one"));
        }
        let key = Arc::new(key);
        return Ok(Candidate {
            bare: Arc::clone(&key),
            key,
            certificate,
            file: config.chain.file.clone(),
            ocsp: None,
        });
    };
    let response = OcspResponse::parse(&source.data)
        .map_err(|reason| TlsConfigError::new("ocsp_staple", reason).of(source))?;
    if !response.is_of(&certificate.serial) {
        return Err(TlsConfigError::new("ocsp_staple", "is of another certificate").of(source));
    }
    let mut stapled = key.clone();
    stapled.ocsp = Some(source.data.to_vec());
    Ok(Candidate {
        key: Arc::new(stapled),
        bare: Arc::new(key),
        certificate,
        file: config.chain.file.clone(),
        ocsp: Some(response),
    })
}

pub(super) fn alpn(protocols: &[Box<str>]) -> Vec<Vec<u8>> {
    protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect()
}

fn new_ticket_key() -> Result<[u8; TICKET_KEY_BYTES], TlsConfigError> {
    let mut key = [0; TICKET_KEY_BYTES];
    rand::fill(&mut key)
        .map_err(|_| TlsConfigError::new("session_ticket_keys", "no random bytes to be had"))?;
    Ok(key)
}

pub(super) fn ticket_keys(sources: &[Source]) -> Result<Vec<[u8; TICKET_KEY_BYTES]>, TlsConfigError> {
    let key = |(index, source): (usize, &Source)| {
        <[u8; TICKET_KEY_BYTES]>::try_from(&*source.data).map_err(|_| {
            let reason = format!("{} bytes, not {TICKET_KEY_BYTES}", source.data.len());
            TlsConfigError::new(format!("session_ticket_keys.keys[{index}]"), reason).of(source)
        })
    };
    sources.iter().enumerate().map(key).collect()
}

/// What a session may be resumed under: whose certificates they are, and all that decides about the client. A renewed
/// certificate of the same names is the same.
fn bound_to(config: &DownstreamTls, candidates: &[Candidate]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    let mut part = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    for Candidate { certificate, .. } in candidates {
        part(certificate.common_name.as_deref().unwrap_or_default().as_bytes());
        for (kind, name) in certificate.alt_names.iter().filter(|(kind, _)| *kind != SanKind::Email) {
            part(&[*kind as u8]);
            part(name.as_bytes());
        }
        part(certificate.issuer.as_bytes());
    }
    part(&[u8::from(config.require_client_certificate)]);
    if let Some(validation) = &config.common.validation {
        let domains = validation.trust_domains.iter().flatten();
        let sources = [&validation.trusted_ca, &validation.system_roots, &validation.crl];
        for source in sources.into_iter().flatten().chain(domains.clone().map(|domain| &domain.bundle)) {
            part(&source.data);
        }
        domains.for_each(|domain| part(domain.name.as_bytes()));
        validation.certificate_hashes.iter().chain(&validation.spki_hashes).for_each(|hash| part(hash));
        part(format!("{:?}", validation.subject_alt_names).as_bytes());
        let rules = (
            validation.only_verify_leaf_crl,
            validation.allow_expired,
            validation.accept_untrusted,
            validation.depth_max,
            validation.certificate_hashes.len(),
        );
        part(format!("{rules:?}").as_bytes());
    }
    fixed(context.finish().as_ref())
}

#[cfg(test)]
mod tests;
