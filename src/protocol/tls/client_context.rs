//! TLS towards the endpoints of a cluster as it is told: found good, and compiled with the first connection.
use std::fmt;
use std::sync::Arc;

use once_cell::race::OnceBox;

use super::{ClientTls, TlsConfigError};
use crate::base::deferred::Deferred;
use crate::config::tls::UpstreamTls;

/// A context. A mesh tells thousands, most of which nobody connects with: each keeps what it was told, which is a tenth of what is made
/// of it.
pub struct ClientContext {
    config: Arc<UpstreamTls>,
    expires: Option<u64>,
    /// `None` within: it could not be made although it was found good, and no connection is.
    made: OnceBox<Option<Arc<ClientTls>>>,
}

impl ClientContext {
    /// Checks all of it; nothing of that is kept.
    ///
    /// # Errors
    /// The field below `UpstreamTlsContext`, and what is wrong with it.
    pub fn new(config: Arc<UpstreamTls>) -> Result<Self, TlsConfigError> {
        let compiled = ClientTls::compile(&config)?;
        let shown = compiled.certificate().into_iter().chain(compiled.authority());
        let expires = shown.map(|(_, certificate)| certificate.not_after).min();
        Ok(Self { config, expires, made: OnceBox::new() })
    }

    /// What connections are made with, once it is there.
    pub fn get(&self) -> Option<&Arc<ClientTls>> {
        self.made.get()?.as_ref()
    }

    /// The same, if need be made for this call alone: for those who look at many and connect with none.
    pub fn look(&self) -> Option<Arc<ClientTls>> {
        self.get().cloned().or_else(|| ClientTls::compile(&self.config).ok().map(Arc::new))
    }

    /// When the first of its certificate and the first that it trusts expires, in seconds since the epoch.
    pub fn expires(&self) -> Option<u64> {
        self.expires
    }
}

impl Deferred for ClientContext {
    fn is_made(&self) -> bool {
        self.made.get().is_some()
    }

    fn make(&self) {
        let make = || {
            // The bytes are those that were found good.
            let made = ClientTls::compile(&self.config);
            debug_assert!(made.is_ok());
            Box::new(made.ok().map(Arc::new))
        };
        self.made.get_or_init(make);
    }
}

impl fmt::Debug for ClientContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientContext")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tls::{CertificateValidation, CommonTls, TlsCertificate};
    use crate::protocol::tls::testing::{Authority, Spec, source};

    fn config(root: &Authority, change: impl FnOnce(&mut UpstreamTls)) -> Arc<UpstreamTls> {
        let validation = CertificateValidation {
            trusted_ca: Some(source(&root.pem())),
            ..CertificateValidation::default()
        };
        let common = CommonTls { validation: Some(validation), ..CommonTls::default() };
        let mut config = UpstreamTls { common, ..UpstreamTls::default() };
        change(&mut config);
        Arc::new(config)
    }

    #[test]
    fn context_is_checked_when_it_is_told_and_made_when_it_is_needed() {
        let root = Authority::new("root");
        let context = ClientContext::new(config(&root, |_| {})).unwrap();
        assert!(!context.is_made() && context.get().is_none());
        let looked = context.look().unwrap();
        assert!(!context.is_made(), "a look makes nothing that stays");
        assert_eq!(context.expires(), looked.authority().map(|(_, certificate)| certificate.not_after));
        context.make();
        let made = Arc::clone(context.get().unwrap());
        context.make();
        assert!(Arc::ptr_eq(&made, context.get().unwrap()), "once");
        let wrong = config(&root, |config| {
            config.common.validation.as_mut().unwrap().trusted_ca = Some(source("nonsense"));
        });
        assert!(ClientContext::new(wrong).unwrap_err().to_string().contains("trusted_ca"));
    }

    #[test]
    fn first_to_expire_of_certificate_and_authority_counts() {
        let root = Authority::new("root");
        let leaf = root.issue(Spec::dns("a.example"));
        let own = TlsCertificate {
            chain: source(&leaf.chain_pem),
            private_key: source(&leaf.key_pem),
            password: None,
            ocsp_staple: None,
        };
        let context = ClientContext::new(config(&root, |config| config.common.certificates = vec![own]));
        let context = context.unwrap();
        let looked = context.look().unwrap();
        let both = [looked.certificate().unwrap().1.not_after, looked.authority().unwrap().1.not_after];
        assert_eq!(context.expires(), both.into_iter().min());
    }
}
