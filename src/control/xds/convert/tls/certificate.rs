//! Certificates with their keys, and the keys of session tickets.
use super::super::at::At;
use super::super::fields::classify;
use crate::config::tls::{Source, TlsCertificate};
use crate::control::xds::pb;

pub(super) fn certificate(at: &At<'_>, message: pb::tls::TlsCertificate) -> Option<TlsCertificate> {
    let is_elsewhere = message.pkcs12.is_some() || message.private_key_provider.is_some();
    classify!(at, message => pb::tls::TlsCertificate {
        implemented: certificate_chain, private_key, watched_directory, ocsp_staple,
            password = "of a key in encrypted PKCS#8 (PBES2: PBKDF2 with SHA-2 or scrypt, and AES)";
        refused: pkcs12 = "write the chain and the key as PEM", private_key_provider,
            signed_certificate_timestamp, tls_params = "they are those of the context";
    });
    let directory = watched_directory.map(|message| directory(&at.field("watched_directory"), message));
    let source = |field: &str, source: Option<pb::core::DataSource>| {
        let mut source = at.field(field).source(source?)?;
        source.watched_directory = directory.clone().or(source.watched_directory);
        Some(source)
    };
    let has = (certificate_chain.is_some(), private_key.is_some());
    let (has_password, has_staple) = (password.is_some(), ocsp_staple.is_some());
    let chain = source("certificate_chain", certificate_chain);
    let key = source("private_key", private_key);
    let password = source("password", password);
    let staple = source("ocsp_staple", ocsp_staple);
    match has {
        _ if is_elsewhere => {}
        (false, _) => at.field("certificate_chain").error("must be set"),
        (true, false) => at.field("private_key").error("must be set"),
        (true, true) => {}
    }
    let password = if has_password { Some(password?) } else { None };
    let ocsp_staple = if has_staple { Some(staple?) } else { None };
    Some(TlsCertificate { chain: chain?, private_key: key?, password, ocsp_staple })
}

pub(in crate::control::xds::convert) fn directory(
    at: &At<'_>,
    message: pb::core::WatchedDirectory,
) -> Box<str> {
    classify!(at, message => pb::core::WatchedDirectory {
        implemented: path;
        no_effect: watch_modify = "every change of a file is seen";
    });
    path.into()
}

pub(super) fn ticket_keys(at: &At<'_>, message: pb::tls::TlsSessionTicketKeys) -> Vec<Source> {
    classify!(at, message => pb::tls::TlsSessionTicketKeys {
        implemented: keys = "Envoy's 80 bytes; tickets are sealed in a way of our own";
    });
    let key = |(index, key)| at.item("keys", index).source(key);
    keys.into_iter().enumerate().filter_map(key).collect()
}
