//! Certificates, keys and lists out of PEM.
use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// All certificates of a text, in its order; at least one.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(malformed)?;
    if found.is_empty() { Err("no certificate in it (PEM is expected)".into()) } else { Ok(found) }
}

/// All revocation lists of a text.
pub(super) fn revocation_lists(pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    CertificateRevocationListDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(malformed)
}

/// The first private key of a text: PKCS#8, PKCS#1 or SEC1.
pub(super) fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (kind, der) = section.map_err(malformed)?;
        if let Some(key) = PrivateKeyDer::from_pem(kind, der) {
            return Ok(key);
        }
    }
    Err(if is_encrypted(pem) {
        "the key is encrypted: write it without a password".into()
    } else {
        "no private key in it (PEM of PKCS#8, PKCS#1 or SEC1 is expected)".into()
    })
}

/// PKCS#8's encrypted form and OpenSSL's own older one.
fn is_encrypted(pem: &[u8]) -> bool {
    [&b"BEGIN ENCRYPTED PRIVATE KEY"[..], b"Proc-Type: 4,ENCRYPTED"]
        .iter()
        .any(|mark| memchr::memmem::find(pem, mark).is_some())
}

fn malformed(error: pem::Error) -> String {
    format!("malformed PEM: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tls::testing::{Authority, Spec};

    #[test]
    fn texts_without_what_is_asked_for_say_what_is_missing() {
        let leaf = Authority::new("ca").issue(Spec::dns("a"));
        assert_eq!(certificates(leaf.chain_pem.as_bytes()).unwrap().len(), 1);
        assert!(certificates(leaf.key_pem.as_bytes()).unwrap_err().contains("no certificate"));
        assert!(private_key(leaf.key_pem.as_bytes()).is_ok());
        assert!(private_key(leaf.chain_pem.as_bytes()).unwrap_err().contains("no private key"));
        assert!(certificates(b"-----BEGIN CERTIFICATE-----\n!\n").unwrap_err().contains("malformed"));
        assert_eq!(revocation_lists(leaf.chain_pem.as_bytes()).unwrap().len(), 0);
        for encrypted in [
            &b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"[..],
            b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n",
        ] {
            let error = private_key(encrypted).unwrap_err();
            assert!(error.contains("encrypted") || error.contains("malformed"), "{error}");
        }
    }
}
