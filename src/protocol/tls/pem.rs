//! Certificates, keys and lists out of PEM.
use pkcs8::EncryptedPrivateKeyInfo;
use pkcs8::pkcs5::pbes2::Kdf;
use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::base::limits;

/// All certificates of a text, in its order; at least one.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(malformed)?;
    if found.is_empty() { Err("no certificate in it (PEM is expected)".into()) } else { Ok(found) }
}

/// All revocation lists of a text.
pub(super) fn revocation_lists(pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    CertificateRevocationListDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(malformed)
}

/// The first private key of a text: PKCS#8, PKCS#1 or SEC1; without such, the first in encrypted PKCS#8.
pub(super) fn private_key(pem: &[u8], password: Option<&[u8]>) -> Result<PrivateKeyDer<'static>, String> {
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (kind, der) = section.map_err(|error| older(pem).unwrap_or_else(|| malformed(error)))?;
        if let Some(key) = PrivateKeyDer::from_pem(kind, der) {
            return Ok(key);
        }
    }
    match (encrypted(pem)?, password) {
        (Some(key), Some(password)) => decrypted(key.secret_pkcs8_der(), password),
        (Some(_), None) => Err("the key is encrypted: set password".into()),
        (None, _) => Err("no private key in it (PEM of PKCS#8, PKCS#1 or SEC1 is expected)".into()),
    }
}

/// What is to be done with a key that is encrypted in OpenSSL's older way, which is no PEM to the parser.
fn older(pem: &[u8]) -> Option<String> {
    memchr::memmem::find(pem, b"Proc-Type: 4,ENCRYPTED")?;
    Some("the key is encrypted in OpenSSL's older way: write it as PKCS#8 (openssl pkcs8 -topk8)".into())
}

/// The first section with an encrypted key, which the parser of PEM passes over. It looks like that of a key in the clear but for
/// its label.
fn encrypted(pem: &[u8]) -> Result<Option<PrivatePkcs8KeyDer<'static>>, String> {
    let find = |mark: &[u8]| memchr::memmem::find(pem, mark);
    let begin = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
    let (Some(start), Some(end)) = (find(begin), find(b"-----END ENCRYPTED PRIVATE KEY-----")) else {
        return Ok(None);
    };
    let body = pem.get(start + begin.len()..end).unwrap_or_default();
    let section = [b"-----BEGIN PRIVATE KEY-----", body, b"-----END PRIVATE KEY-----\n"].concat();
    PrivatePkcs8KeyDer::from_pem_slice(&section).map(Some).map_err(malformed)
}

fn decrypted(der: &[u8], password: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let unknown = || {
        "the key is encrypted in a way that this version does not read: PBES2 with PBKDF2 (HMAC with SHA-2) or scrypt, and AES, are"
            .to_owned()
    };
    let info = EncryptedPrivateKeyInfo::try_from(der).map_err(|_| unknown())?;
    let cost = match &info.encryption_algorithm.pbes2().ok_or_else(unknown)?.kdf {
        Kdf::Pbkdf2(params) => u64::from(params.iteration_count) / limits::TLS_KEY_ITERATIONS_PER_COST,
        Kdf::Scrypt(params) => [params.block_size, params.parallelization]
            .into_iter()
            .fold(params.cost_parameter, |cost, factor| cost.saturating_mul(factor.into())),
        _ => return Err(unknown()),
    };
    if cost > limits::TLS_KEY_COST_MAX {
        return Err("more work than is done for a password".into());
    }
    match info.decrypt(password) {
        Ok(key) => Ok(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into()),
        Err(pkcs8::Error::EncryptedPrivateKey(pkcs8::pkcs5::Error::UnsupportedAlgorithm { .. })) => {
            Err(unknown())
        }
        Err(_) => Err("is not encrypted with this password".into()),
    }
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
        assert!(private_key(leaf.key_pem.as_bytes(), None).is_ok());
        assert!(private_key(leaf.chain_pem.as_bytes(), None).unwrap_err().contains("no private key"));
        assert!(certificates(b"-----BEGIN CERTIFICATE-----\n!\n").unwrap_err().contains("malformed"));
        assert_eq!(revocation_lists(leaf.chain_pem.as_bytes()).unwrap().len(), 0);
    }

    /// One key as OpenSSL writes it: in the clear, and encrypted with `secret`.
    const CLEAR: &str = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgtvkoD4zDpQxr0aX5\n1ov2Ru08j8+68HsqRICpBaREW16hRANCAATTnbjmYZqx0mmEP16kLvuiBfxxemYw\nRW63A/1uzbf0YUc5XrtFRFbHfGej+I6PE2Dy/3mwTo9CkQ2cyvMW9ePK\n-----END PRIVATE KEY-----\n";
    const PBKDF2: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAhxAXXeAU13HQICCAAw\nDAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEDsRKB+2n5ZLcfKicIciikAEgZAH\ndkCun7GwKCdk8Yr6IGPquIgKUI4VhIlK1+xelC0ToLxvPgq3FK7n862Yn3keWOGO\n2hxp7KjS5CgOIfv69h6fsc0bwaVfm41Ux4fK9itPGHYKFOJ1ApJDt7RpSSoYqJo5\ngi6LhqXPmjDkVoTR5DJuUgKjf9ezeei7/tfUs1N0n8BJupnt7JFiKGwGz2EPSoI=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    const SCRYPT: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIHkME8GCSqGSIb3DQEFDTBCMCEGCSsGAQQB2kcECzAUBAj2Ln+3MlnWAAICQAAC\nAQgCAQEwHQYJYIZIAWUDBAECBBA+SDCpevjTasbWyL+2aq0JBIGQzMK5zUCRmfc/\nW2S0J+Z4GBU3zXuoDUYbFt5hhixwUTM+3peBe2n+4E9np3R7MBfoJrG2Ke5zAfTt\nFxRw5dqOWNPHXknQvrXI/qC0LCghdnyJr3N75IBjME4saS9a0ZPtDgtV2JRVsoL9\nwr6B4QrZZczISlKHvK4q2kbyFcTo63nS4XFxTbsBvSN1AAtpwlxH\n-----END ENCRYPTED PRIVATE KEY-----\n";
    const DES: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIHjME4GCSqGSIb3DQEFDTBBMCkGCSqGSIb3DQEFDDAcBAjQviU7rqTqogICCAAw\nDAYIKoZIhvcNAgkFADAUBggqhkiG9w0DBwQIQxZ7NC4mUNYEgZCLUiLurArouJtS\nmihTDn/Yl7OmiHktMfH99V6on1DopRaNl0nUJpmnrlHmOsJzRi7HrivhNxQ3oSKZ\nSZjpdAPtqJ2XGY/cetj1ARGIZWb3tsemUDoVuTWlSV525cHfz/VJRKrx92mdXq3f\nas1kemVSI3th8C26tdOiuDDIV514eA/qtWMejp1ZWbXdHU3N3Wc=\n-----END ENCRYPTED PRIVATE KEY-----\n";

    #[test]
    fn encrypted_key_is_read_with_its_password() {
        let key = private_key(CLEAR.as_bytes(), None).unwrap();
        for text in [PBKDF2, SCRYPT] {
            assert_eq!(private_key(text.as_bytes(), Some(b"secret")).unwrap(), key);
            let error = |password| private_key(text.as_bytes(), password).unwrap_err();
            assert!(error(None).contains("set password"));
            assert!(error(Some(b"wrong")).contains("not encrypted with this password"));
        }
        assert_eq!(private_key(CLEAR.as_bytes(), Some(b"unused")).unwrap(), key);
        // Behind a certificate, as in one file.
        let both = format!("{}{PBKDF2}", Authority::new("ca").pem());
        assert_eq!(private_key(both.as_bytes(), Some(b"secret")).unwrap(), key);
    }

    #[test]
    fn key_encrypted_otherwise_or_at_too_great_a_cost_is_refused() {
        let error = |text: &str| private_key(text.as_bytes(), Some(b"secret")).unwrap_err();
        assert!(error(DES).contains("does not read"));
        assert!(
            error("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n")
                .contains("encrypted in OpenSSL's older way")
        );
        let mut der = encrypted(SCRYPT.as_bytes()).unwrap().unwrap().secret_pkcs8_der().to_vec();
        // N = 16384, r = 8, p = 1.
        let place = memchr::memmem::find(&der, &[2, 2, 0x40, 0, 2, 1, 8, 2, 1, 1]).unwrap();
        der[place + 6] = 127;
        assert!(decrypted(&der, b"secret").unwrap_err().contains("more work"));
        for length in 0..der.len() {
            assert!(decrypted(&der[..length], b"secret").is_err());
        }
    }
}
