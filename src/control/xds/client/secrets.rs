//! Secrets of a control plane or a file: converted and tried before they are acknowledged, each content once. The last good one
//! stays where the next is no good, or where it is said to be gone.
use super::judge::{Good, content, taken};
use super::known_secrets::KnownSecrets;
use crate::config::ads::ResourceSource;
use crate::control::xds::convert::convert_secret;
use crate::control::xds::pb;
use crate::protocol::tls::check_secret;
use pb::core::{DataSource, DataSourceSpecifierOneOf};
use pb::tls::SecretTypeOneOf;
use prost::Message;

/// What is shown in place of a secret. Source: Envoy `MessageUtil::redact`.
const REDACTED: &str = "[redacted]";

/// Says of secrets whether they can be used.
#[derive(Debug)]
pub(super) struct SecretJudge {
    source: ResourceSource,
    /// With those of other sources.
    known: KnownSecrets,
}

impl SecretJudge {
    pub(super) fn new(source: ResourceSource, known: KnownSecrets) -> Self {
        Self { source, known }
    }

    pub(super) fn judge(&mut self, message: pb::tls::Secret, any: &pb::google::Any) -> Result<Good, String> {
        let name = message.name.clone();
        let hash = content("", std::iter::once(any));
        if self.known.is_told(&self.source, &name, hash) {
            return Ok(Good::Same);
        }
        let shown = redacted(message.clone()).encode_to_vec();
        let secret = taken(&name, convert_secret(message))?;
        if let Some(reason) = self.known.mismatch(&self.source, &name, secret.kind()) {
            return Err(reason);
        }
        check_secret(&secret).map_err(|error| error.to_string())?;
        self.known.put(&self.source, &name, secret, hash, shown);
        Ok(Good::Secret)
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.known.forget(&self.source, name);
    }
}

/// Without what nobody is to see: nothing of it is kept beside the contexts that use it.
fn redacted(mut message: pb::tls::Secret) -> pb::tls::Secret {
    let hide = |source: &mut DataSource| {
        *source = DataSource {
            specifier: Some(DataSourceSpecifierOneOf::InlineString(REDACTED.to_owned())),
            ..DataSource::default()
        };
    };
    match &mut message.r#type {
        Some(SecretTypeOneOf::TlsCertificate(certificate)) => {
            let pb::tls::TlsCertificate { private_key, pkcs12, password, private_key_provider, .. } =
                certificate;
            [private_key, pkcs12, password].into_iter().flatten().for_each(hide);
            *private_key_provider = None;
        }
        Some(SecretTypeOneOf::SessionTicketKeys(keys)) => keys.keys.iter_mut().for_each(hide),
        Some(SecretTypeOneOf::GenericSecret(secret)) => {
            secret.secret.iter_mut().chain(secret.secrets.values_mut()).for_each(hide);
        }
        Some(SecretTypeOneOf::ValidationContext(_)) | None => {}
    }
    message
}
