//! Revocation lists as webpki takes them: of an issuer's lists it looks at the first, and so the newest comes first.
use std::cmp::Reverse;

use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_cert::der::asn1::AnyRef;
use x509_cert::der::{Decode, Result as DerResult, SliceReader};
use x509_cert::time::Time;

use super::{TlsConfigError, pem};
use crate::config::tls::Source;

/// Lists that are being read, each with the time since which it holds, in seconds since the epoch.
#[derive(Debug, Default)]
pub(super) struct Lists(Vec<(u64, CertRevocationList<'static>)>);

impl Lists {
    /// Takes those of a source; how many it has.
    pub(super) fn read(&mut self, source: &Source, field: &str) -> Result<usize, TlsConfigError> {
        let wrong = |reason: String| TlsConfigError::new(field, reason).of(source);
        let lists = pem::revocation_lists(&source.data).map_err(wrong)?;
        for (index, der) in lists.iter().enumerate() {
            let list = OwnedCertRevocationList::from_der(der)
                .map_err(|error| wrong(format!("revocation list {index}: {error}")))?;
            // What cannot be read webpki has refused.
            self.0.push((this_update(der).unwrap_or(0), list.into()));
        }
        Ok(lists.len())
    }

    /// All of them, the newest first, as BoringSSL chooses; of the same age the one that was read first.
    pub(super) fn newest_first(mut self) -> Vec<CertRevocationList<'static>> {
        self.0.sort_by_key(|(since, _)| Reverse(*since));
        self.0.into_iter().map(|(_, list)| list).collect()
    }
}

/// `thisUpdate` of a list. RFC 5280, section 5.1.
fn this_update(der: &[u8]) -> DerResult<u64> {
    let mut list = SliceReader::new(AnyRef::from_der(der)?.value())?;
    let mut to_be_signed = SliceReader::new(AnyRef::decode(&mut list)?.value())?;
    // Version, signature algorithm, issuer.
    for _ in 0..3 {
        AnyRef::decode(&mut to_be_signed)?;
    }
    Ok(Time::decode(&mut to_be_signed)?.to_unix_duration().as_secs())
}
