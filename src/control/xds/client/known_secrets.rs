//! Secrets of all sources that somebody uses, as they were told last: contexts are filled from here, and the admin endpoint
//! shows them from here, without what is secret of them.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::base::clock;
use crate::config::ads::{ResourceSource, Sds, SecretKind};
use crate::config::cluster::Cluster;
use crate::config::secret::{NamedCertificate, NamedSecrets, NamedValidation, Secret};
use crate::config::tls::{CertificateValidation, CommonTls, DownstreamTls, SessionTickets, Source};
use crate::control::xds::convert::merge_validation;

/// Where a secret comes from, and its name.
pub type SecretKey = (ResourceSource, Arc<str>);

/// See the file's head. Copies share them.
#[derive(Clone, Debug, Default)]
pub struct KnownSecrets(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    all: Mutex<BTreeMap<SecretKey, Entry>>,
    /// Says that one was told.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Entry {
    /// What those who use it take it for, one for each; empty: it is about to be forgotten.
    uses: Vec<SecretKind>,
    asked_unix_ns: u64,
    told: Option<Told>,
}

#[derive(Clone, Debug)]
struct Told {
    secret: Arc<Secret>,
    /// A hash of its content: by it one that is told again is known.
    hash: u64,
    /// As it was told, what is secret being left out.
    shown: Arc<[u8]>,
    version: Box<str>,
    unix_ns: u64,
}

/// A secret as the admin endpoint has it.
#[derive(Clone, Debug)]
pub struct ShownSecret {
    /// Where it comes from.
    pub source: ResourceSource,
    pub name: Arc<str>,
    /// What the control plane calls this state of it.
    pub version: Box<str>,
    /// As it was told, what is secret being left out; `None`: it is waited for.
    pub wire: Option<Arc<[u8]>>,
    /// When it was told, or asked for.
    pub unix_ns: u64,
}

impl KnownSecrets {
    /// It is used as these, once for each; nothing: nobody uses it. Whether it is known.
    pub(super) fn used(&self, source: &ResourceSource, name: &str, uses: &[SecretKind]) -> bool {
        let mut all = self.lock();
        let key = key(source, name);
        let entry = all
            .entry(key.clone())
            .or_insert_with(|| Entry { asked_unix_ns: clock::wall_ns(), ..Entry::default() });
        entry.uses = uses.to_vec();
        let is_told = entry.told.is_some();
        if uses.is_empty() && !is_told {
            all.remove(&key);
        }
        is_told
    }

    /// Why a secret of this kind is not what is asked for under the name; `None`: it is.
    pub(super) fn mismatch(&self, source: &ResourceSource, name: &str, kind: SecretKind) -> Option<String> {
        let all = self.lock();
        let uses = &all.get(&key(source, name))?.uses;
        let first = uses.first().filter(|_| !uses.contains(&kind))?;
        Some(format!("is a {}, and a {} was asked for", kind.field(), first.field()))
    }

    /// Whether what has this hash is in use.
    pub(super) fn is_told(&self, source: &ResourceSource, name: &str, hash: u64) -> bool {
        let all = self.lock();
        let told = all.get(&key(source, name)).and_then(|entry| entry.told.as_ref());
        told.is_some_and(|told| told.hash == hash)
    }

    /// Takes one that is good. `shown`: as it was told, what is secret being left out.
    pub(crate) fn put(&self, source: &ResourceSource, name: &str, secret: Secret, hash: u64, shown: Vec<u8>) {
        let told = Told {
            secret: Arc::new(secret),
            hash,
            shown: shown.into(),
            version: Box::default(),
            unix_ns: clock::wall_ns(),
        };
        self.lock().entry(key(source, name)).or_default().told = Some(told);
        self.0.changed.send_replace(());
    }

    /// What the control plane calls the state in which it was told.
    pub(super) fn set_version(&self, source: &ResourceSource, name: &str, version: &str) {
        let mut all = self.lock();
        let told = all.get_mut(&key(source, name)).and_then(|entry| entry.told.as_mut());
        told.into_iter().for_each(|told| told.version = version.into());
    }

    /// It is not asked for any more: whoever asks again is told again.
    pub(super) fn forget(&self, source: &ResourceSource, name: &str) {
        let mut all = self.lock();
        let key = key(source, name);
        if let Some(entry) = all.get_mut(&key) {
            entry.told = None;
            if entry.uses.is_empty() {
                all.remove(&key);
            }
        }
    }

    /// Nobody asks there any more.
    pub(super) fn forget_source(&self, source: &ResourceSource) {
        self.lock().retain(|(of, _), _| of != source);
    }

    /// Hears of those that are told from now on.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Those that are used.
    pub fn list(&self) -> Vec<ShownSecret> {
        let shown = |((source, name), entry): (&SecretKey, &Entry)| match &entry.told {
            Some(Told { shown, version, unix_ns, .. }) => ShownSecret {
                source: source.clone(),
                name: Arc::clone(name),
                version: version.clone(),
                wire: Some(Arc::clone(shown)),
                unix_ns: *unix_ns,
            },
            None => ShownSecret {
                source: source.clone(),
                name: Arc::clone(name),
                version: Box::default(),
                wire: None,
                unix_ns: entry.asked_unix_ns,
            },
        };
        self.lock().iter().filter(|(_, entry)| !entry.uses.is_empty()).map(shown).collect()
    }

    /// Puts what is known of them into the TLS of a filter chain; what is not, is not there.
    ///
    /// # Errors
    /// Which secret does not fit the context.
    pub fn fill_server(&self, tls: &mut DownstreamTls) -> Result<(), String> {
        if let Some(named) = &tls.named_ticket_keys {
            tls.session_tickets = SessionTickets::Keys(self.ticket_keys(named));
        }
        self.fill(&mut tls.common)
    }

    /// The same for the TLS of a cluster.
    ///
    /// # Errors
    /// Which secret does not fit the context.
    pub fn fill_cluster(&self, cluster: &mut Cluster) -> Result<(), String> {
        if cluster.told_secrets().next().is_none() {
            return Ok(());
        }
        cluster.change_tls(|tls| self.fill(&mut tls.common))
    }

    fn fill(&self, common: &mut CommonTls) -> Result<(), String> {
        let Some(named) = &common.named else { return Ok(()) };
        let NamedSecrets { certificates, validation } = &**named;
        if !certificates.is_empty() {
            let known = certificates.iter().filter_map(|one| match one {
                NamedCertificate::Fixed(certificate) => Some(certificate.clone()),
                NamedCertificate::Told(named) => match &*self.get(named)? {
                    Secret::Certificate(certificate) => Some(certificate.clone()),
                    Secret::Validation { .. } | Secret::TicketKeys(_) => None,
                },
            });
            common.certificates = known.collect();
            common.certificates.shrink_to_fit();
        }
        if let Some(named) = validation {
            common.validation = self.validation(named)?;
        }
        Ok(())
    }

    fn validation(&self, named: &NamedValidation) -> Result<Option<CertificateValidation>, String> {
        let Some(secret) = self.get(&named.secret) else { return Ok(None) };
        let Secret::Validation { alone, encoded } = &*secret else { return Ok(None) };
        let Some(default) = &named.default else { return Ok(Some(alone.clone())) };
        match merge_validation(default, encoded) {
            Ok((mut merged, _)) => {
                merged.share_bytes(alone);
                Ok(Some(merged))
            }
            Err(report) => Err(format!("secret {}: {}", named.secret.name, report.reasons())),
        }
    }

    fn ticket_keys(&self, named: &Sds) -> Vec<Source> {
        match self.get(named).as_deref() {
            Some(Secret::TicketKeys(keys)) => keys.clone(),
            _ => Vec::new(),
        }
    }

    fn get(&self, named: &Sds) -> Option<Arc<Secret>> {
        let all = self.lock();
        let told = all.get(&key(&named.source, &named.name))?.told.as_ref()?;
        Some(Arc::clone(&told.secret))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SecretKey, Entry>> {
        // Nothing under the lock can leave it half changed.
        self.0.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(source: &ResourceSource, name: &str) -> SecretKey {
    (source.clone(), name.into())
}
