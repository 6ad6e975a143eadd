//! What operators write of TLS: of the session, and of either side's certificate.

use super::operator::Operator;
use crate::config::tls::SanKind;
use crate::protocol::stream_info::StreamInfo;
use crate::protocol::tls::{Certificate, PeerIdentity, Wanted};

/// The operator of that name that takes no parameters. What costs memory per connection is noted as wanted.
pub(super) fn operator(name: &str) -> Option<Operator> {
    let operator = match name {
        "DOWNSTREAM_TLS_VERSION" => {
            Operator::Text(|c| c.info.downstream_tls.as_deref().map_or("", |tls| tls.agreed.version_name()))
        }
        "DOWNSTREAM_TLS_CIPHER" => {
            Operator::Text(|c| c.info.downstream_tls.as_deref().map_or("", |tls| tls.agreed.cipher_name()))
        }
        "DOWNSTREAM_TLS_GROUP" => {
            Operator::Text(|c| c.info.downstream_tls.as_deref().map_or("", |tls| tls.agreed.group_name()))
        }
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => {
            Operator::Joined { of: |c| &c.info.downstream_transport_failure_reason, blanks: b" " }
        }
        "DOWNSTREAM_LOCAL_SUBJECT" => certificate(local, subject),
        "DOWNSTREAM_LOCAL_DNS_SAN" => certificate(local, san_dns),
        "DOWNSTREAM_LOCAL_EMAIL_SAN" => certificate(local, san_email),
        "DOWNSTREAM_LOCAL_IP_SAN" => certificate(local, san_ip),
        "DOWNSTREAM_LOCAL_URI_SAN" => certificate(local, san_uri),
        "DOWNSTREAM_PEER_SUBJECT" => certificate(peer, subject),
        "DOWNSTREAM_PEER_ISSUER" => certificate(peer, issuer),
        "DOWNSTREAM_PEER_SERIAL" => certificate(peer, serial),
        "DOWNSTREAM_PEER_FINGERPRINT_1" => certificate(peer, sha1),
        "DOWNSTREAM_PEER_FINGERPRINT_256" => certificate(peer, sha256),
        "DOWNSTREAM_PEER_DNS_SAN" => certificate(peer, san_dns),
        "DOWNSTREAM_PEER_EMAIL_SAN" => certificate(peer, san_email),
        "DOWNSTREAM_PEER_IP_SAN" => certificate(peer, san_ip),
        "DOWNSTREAM_PEER_URI_SAN" => certificate(peer, san_uri),
        "DOWNSTREAM_PEER_CERT" => chain(pem),
        "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1" => {
            chain(|peer, out| join(peer.chain_sha1(), out, |it, out| hex(&it, out)))
        }
        "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256" => {
            chain(|peer, out| join(peer.chain_sha256(), out, |it, out| hex(&it, out)))
        }
        "DOWNSTREAM_PEER_CHAIN_SERIALS" => {
            chain(|peer, out| join(peer.chain(), out, |it, out| serial(&it, out)))
        }
        "DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256" => {
            chain(|peer, out| join(peer.chain_sha256().skip(1).take(1), out, |it, out| hex(&it, out)))
        }
        "DOWNSTREAM_PEER_ISSUER_SERIAL" => {
            chain(|peer, out| join(peer.chain().skip(1).take(1), out, |it, out| serial(&it, out)))
        }
        _ => return upstream(name),
    };
    Some(operator)
}

fn upstream(name: &str) -> Option<Operator> {
    let operator = match name {
        "UPSTREAM_TLS_VERSION" => {
            Operator::Text(|c| c.info.upstream_tls.as_deref().map_or("", |tls| tls.agreed.version_name()))
        }
        "UPSTREAM_TLS_CIPHER" => {
            Operator::Text(|c| c.info.upstream_tls.as_deref().map_or("", |tls| tls.agreed.cipher_name()))
        }
        "UPSTREAM_TLS_GROUP" => {
            Operator::Text(|c| c.info.upstream_tls.as_deref().map_or("", |tls| tls.agreed.group_name()))
        }
        "UPSTREAM_PEER_SUBJECT" => certificate(upstream_peer, subject),
        "UPSTREAM_PEER_ISSUER" => certificate(upstream_peer, issuer),
        "UPSTREAM_PEER_DNS_SAN" => certificate(upstream_peer, san_dns),
        "UPSTREAM_PEER_IP_SAN" => certificate(upstream_peer, san_ip),
        "UPSTREAM_PEER_URI_SAN" => certificate(upstream_peer, san_uri),
        "UPSTREAM_PEER_CERT" => {
            Operator::Peer { of: |info| info.upstream_tls.as_ref()?.peer.as_deref(), write: pem }
        }
        _ => return None,
    };
    Wanted::Upstream.note();
    Some(operator)
}

fn certificate(
    of: fn(&StreamInfo) -> Option<&Certificate>,
    write: fn(&Certificate, &mut Vec<u8>),
) -> Operator {
    Operator::Certificate { of, write }
}

/// Of the chain that the client has shown.
fn chain(write: fn(&PeerIdentity, &mut Vec<u8>)) -> Operator {
    Wanted::DownstreamChain.note();
    Operator::Peer { of: |info| info.downstream_tls.as_ref()?.peer.as_deref(), write }
}

/// This side's certificate.
fn local(info: &StreamInfo) -> Option<&Certificate> {
    info.downstream_tls.as_ref()?.local.as_deref()
}

/// The client's certificate.
pub(super) fn peer(info: &StreamInfo) -> Option<&Certificate> {
    info.downstream_tls.as_ref()?.peer.as_ref().map(|peer| &peer.certificate)
}

/// The endpoint's certificate.
pub(super) fn upstream_peer(info: &StreamInfo) -> Option<&Certificate> {
    info.upstream_tls.as_ref()?.peer.as_ref().map(|peer| &peer.certificate)
}

fn pem(peer: &PeerIdentity, out: &mut Vec<u8>) {
    out.extend_from_slice(peer.url_encoded_pem().as_bytes());
}

/// All of them, with commas between.
fn join<T>(all: impl Iterator<Item = T>, out: &mut Vec<u8>, write: impl Fn(T, &mut Vec<u8>)) {
    for (place, one) in all.enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write(one, out);
    }
}

fn subject(certificate: &Certificate, out: &mut Vec<u8>) {
    out.extend_from_slice(certificate.subject.as_bytes());
}

fn issuer(certificate: &Certificate, out: &mut Vec<u8>) {
    out.extend_from_slice(certificate.issuer.as_bytes());
}

fn serial(certificate: &Certificate, out: &mut Vec<u8>) {
    out.extend_from_slice(certificate.serial.as_bytes());
}

fn sha1(certificate: &Certificate, out: &mut Vec<u8>) {
    hex(&certificate.sha1, out);
}

fn sha256(certificate: &Certificate, out: &mut Vec<u8>) {
    hex(&certificate.sha256, out);
}

fn san_dns(certificate: &Certificate, out: &mut Vec<u8>) {
    names(certificate, SanKind::Dns, out);
}

fn san_email(certificate: &Certificate, out: &mut Vec<u8>) {
    names(certificate, SanKind::Email, out);
}

fn san_ip(certificate: &Certificate, out: &mut Vec<u8>) {
    names(certificate, SanKind::IpAddress, out);
}

fn san_uri(certificate: &Certificate, out: &mut Vec<u8>) {
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

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::format::context::FormatContext;
    use crate::format::time::TimeFormat;
    use crate::protocol::tls::testing::{Authority, Spec};
    use crate::protocol::tls::{Agreed, TlsFacts};

    #[test]
    fn peers_of_both_sides_are_written_with_their_chains() {
        let authority = Authority::new("ca");
        let leaf = authority.issue(Spec::dns("a.example").serial(&[0xab, 0x01]));
        let chain = [leaf.der(), authority.der()];
        let facts = || {
            let peer = PeerIdentity::of(&chain, true).map(Box::new);
            Rc::new(TlsFacts { agreed: Agreed::tls13(), peer, ..TlsFacts::default() })
        };
        let mut info = StreamInfo::new();
        let write = |info: &StreamInfo, name: &str| {
            let mut out = Vec::new();
            operator(name).unwrap().write(&FormatContext::new(info, 0, 0), &mut out);
            String::from_utf8(out).unwrap()
        };
        for side in ["DOWNSTREAM", "UPSTREAM"] {
            for of in ["PEER_CERT", "PEER_SUBJECT", "PEER_ISSUER", "TLS_VERSION", "TLS_CIPHER"] {
                assert_eq!(write(&info, &format!("{side}_{of}")), "", "plain text");
            }
        }
        (info.downstream_tls, info.upstream_tls) = (Some(facts()), Some(facts()));
        for side in ["DOWNSTREAM", "UPSTREAM"] {
            assert_eq!(write(&info, &format!("{side}_TLS_VERSION")), "TLSv1.3");
            assert_eq!(write(&info, &format!("{side}_TLS_CIPHER")), "TLS_AES_128_GCM_SHA256");
            assert_eq!(write(&info, &format!("{side}_PEER_ISSUER")), "CN=ca");
            assert_eq!(write(&info, &format!("{side}_PEER_DNS_SAN")), "a.example");
            assert!(
                write(&info, &format!("{side}_PEER_CERT")).starts_with("-----BEGIN%20CERTIFICATE-----%0A")
            );
        }
        let own = write(&info, "DOWNSTREAM_PEER_FINGERPRINT_256");
        let issuer = write(&info, "DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256");
        assert_eq!(write(&info, "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256"), format!("{own},{issuer}"));
        assert_eq!(write(&info, "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1").len(), 81);
        let serials = write(&info, "DOWNSTREAM_PEER_CHAIN_SERIALS");
        assert_eq!(serials, format!("ab01,{}", write(&info, "DOWNSTREAM_PEER_ISSUER_SERIAL")));
        let until = info.upstream_tls.as_ref().unwrap().peer.as_ref().unwrap().certificate.not_after;
        let far = Operator::Validity {
            of: upstream_peer,
            ends: true,
            format: TimeFormat::parse("%s", false).unwrap(),
        };
        let mut out = Vec::new();
        far.write(&FormatContext::new(&info, 0, 0), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), until.to_string());
        assert!(Wanted::Upstream.is_noted() && Wanted::DownstreamChain.is_noted());
    }
}
