//! `x-forwarded-client-cert`: who the client of a mutually authenticated connection is, as Envoy tells the next hop.
//!
//! The text is made once per connection. Names come from a certificate and so from a peer: what could end the header or
//! begin another field is quoted or encoded, as Envoy's description of the header has it.
use crate::config::http::ClientCertDetails;
use crate::config::tls::SanKind;
use crate::protocol::tls::{Certificate, PeerIdentity};

/// The fields of one hop, without a separator around them.
pub fn describe(local: Option<&Certificate>, peer: &PeerIdentity, details: ClientCertDetails) -> Vec<u8> {
    let mut fields = Vec::new();
    for uri in local.into_iter().flat_map(|certificate| certificate.names(SanKind::Uri)) {
        fields.push(format!("By={}", value(uri)));
    }
    fields.push(format!("Hash={}", peer.fingerprint_256()));
    if details.cert {
        fields.extend(
            Some(peer.url_encoded_pem()).filter(|pem| !pem.is_empty()).map(|pem| format!("Cert=\"{pem}\"")),
        );
    }
    if details.chain {
        let pem = Some(peer.url_encoded_pem_chain()).filter(|pem| !pem.is_empty());
        fields.extend(pem.map(|pem| format!("Chain=\"{pem}\"")));
    }
    if details.subject {
        // RFC 2253 has escaped quotes already.
        fields.push(format!("Subject=\"{}\"", peer.certificate.subject));
    }
    if details.uri {
        let before = fields.len();
        fields.extend(peer.certificate.names(SanKind::Uri).map(|uri| format!("URI={}", value(uri))));
        if fields.len() == before {
            fields.push("URI=".into());
        }
    }
    if details.dns {
        fields.extend(peer.certificate.names(SanKind::Dns).map(|name| format!("DNS={}", value(name))));
    }
    fields.join(";").into_bytes()
}

/// A name that cannot be taken for anything else.
fn value(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for letter in name.chars() {
        if letter.is_ascii_graphic() || letter == ' ' {
            if letter == '"' {
                text.push('\\');
            }
            text.push(letter);
        } else {
            let mut bytes = [0; 4];
            letter.encode_utf8(&mut bytes).bytes().for_each(|byte| text.push_str(&format!("%{byte:02X}")));
        }
    }
    if text.contains([',', ';', '"']) { format!("\"{text}\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tls::testing::{Authority, Spec};

    const NOTHING: ClientCertDetails =
        ClientCertDetails { subject: false, cert: false, chain: false, dns: false, uri: false };
    const ALL: ClientCertDetails =
        ClientCertDetails { subject: true, cert: true, chain: true, dns: true, uri: true };

    fn text(spec: Spec, keep_chain: bool, details: ClientCertDetails) -> String {
        let issued = Authority::new("ca").issue(spec);
        let peer = PeerIdentity::of(&[issued.der()], keep_chain).unwrap();
        let local = Authority::new("ca").issue(Spec::dns("s").uri("spiffe://td/server"));
        let local = Certificate::parse(&local.leaf).unwrap();
        let text = String::from_utf8(describe(Some(&local), &peer, details)).unwrap();
        let text = text.replace(&peer.fingerprint_256(), "HASH");
        if keep_chain { text.replace(&peer.url_encoded_pem(), "PEM") } else { text }
    }

    #[test]
    fn fields_are_those_asked_for_in_envoys_order() {
        let spec = || {
            Spec::dns("a.com").also_dns("b.com").uri("spiffe://td/c").subject(&[("O", "x, y"), ("CN", "z")])
        };
        assert_eq!(text(spec(), false, NOTHING), "By=spiffe://td/server;Hash=HASH");
        let mut asked = ALL;
        (asked.cert, asked.chain) = (false, false);
        assert_eq!(
            text(spec(), false, asked),
            "By=spiffe://td/server;Hash=HASH;Subject=\"CN=z,O=x\\, y\";URI=spiffe://td/c;DNS=a.com;DNS=b.com"
        );
        assert_eq!(
            text(spec(), true, ALL),
            "By=spiffe://td/server;Hash=HASH;Cert=\"PEM\";Chain=\"PEM\";Subject=\"CN=z,O=x\\, y\";URI=spiffe://td/c;DNS=a.com;DNS=b.com"
        );
        assert_eq!(
            text(Spec::nameless(), true, ALL),
            "By=spiffe://td/server;Hash=HASH;Cert=\"PEM\";Chain=\"PEM\";Subject=\"\";URI="
        );
    }

    #[test]
    fn names_cannot_end_their_field_or_the_header() {
        for (name, written) in [
            ("spiffe://td/a", "spiffe://td/a"),
            ("spiffe://td/a?b=c", "spiffe://td/a?b=c"),
            ("x;By=y", "\"x;By=y\""),
            ("x,Hash=0", "\"x,Hash=0\""),
            ("x\";By=y", "\"x\\\";By=y\""),
            ("x\r\nhost: y", "x%0D%0Ahost: y"),
            ("x\0\u{7f}", "x%00%7F"),
        ] {
            assert_eq!(value(name), written);
        }
    }
}
