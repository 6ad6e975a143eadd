//! What operators write of TLS: of the session, and of either side's certificate.

use super::context::FormatContext;
use crate::config::tls::SanKind;
use crate::protocol::tls::{Certificate, TlsFacts};

/// A text of the session; empty: plain text, or there is none.
pub(super) fn text<'a>(context: &FormatContext<'a>, of: fn(&'a TlsFacts) -> &'a str) -> &'a str {
    context.info.downstream_tls.as_deref().map_or("", of)
}

/// This side's certificate.
pub(super) fn local(facts: &TlsFacts) -> Option<&Certificate> {
    facts.local.as_deref()
}

/// The client's certificate.
pub(super) fn peer(facts: &TlsFacts) -> Option<&Certificate> {
    facts.peer.as_ref().map(|peer| &peer.certificate)
}

pub(super) fn subject(certificate: &Certificate, out: &mut Vec<u8>) {
    out.extend_from_slice(certificate.subject.as_bytes());
}

pub(super) fn issuer(certificate: &Certificate, out: &mut Vec<u8>) {
    out.extend_from_slice(certificate.issuer.as_bytes());
}

pub(super) fn serial(certificate: &Certificate, out: &mut Vec<u8>) {
    out.extend_from_slice(certificate.serial.as_bytes());
}

pub(super) fn sha1(certificate: &Certificate, out: &mut Vec<u8>) {
    hex(&certificate.sha1, out);
}

pub(super) fn sha256(certificate: &Certificate, out: &mut Vec<u8>) {
    hex(&certificate.sha256, out);
}

pub(super) fn san_dns(certificate: &Certificate, out: &mut Vec<u8>) {
    names(certificate, SanKind::Dns, out);
}

pub(super) fn san_email(certificate: &Certificate, out: &mut Vec<u8>) {
    names(certificate, SanKind::Email, out);
}

pub(super) fn san_ip(certificate: &Certificate, out: &mut Vec<u8>) {
    names(certificate, SanKind::IpAddress, out);
}

pub(super) fn san_uri(certificate: &Certificate, out: &mut Vec<u8>) {
    names(certificate, SanKind::Uri, out);
}

/// Alternative names of one kind, with commas between.
fn names(certificate: &Certificate, wanted: SanKind, out: &mut Vec<u8>) {
    let mut between: &[u8] = b"";
    for (kind, name) in &certificate.alt_names {
        if *kind == wanted {
            out.extend_from_slice(between);
            out.extend_from_slice(name.as_bytes());
            between = b",";
        }
    }
}

fn hex(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        let digit = |value: u8| b"0123456789abcdef"[usize::from(value & 15)];
        out.extend([digit(byte >> 4), digit(*byte)]);
    }
}
