//! Versions and algorithms of TLS, and those of them that are not there.
use super::super::Unimplemented;
use super::super::at::At;
use super::super::fields::classify;
use super::super::report::Class;
use super::TLS;
use crate::config::tls::{TlsParameters, TlsVersion};
use crate::control::xds::pb;
use crate::protocol::tls::{UnknownKind, unknown};

pub(super) fn params(at: &At<'_>, message: pb::tls::TlsParameters) -> TlsParameters {
    classify!(at, message => pb::tls::TlsParameters {
        implemented: tls_minimum_protocol_version = "TLS 1.2 and 1.3", tls_maximum_protocol_version = "TLS 1.2 and 1.3",
            cipher_suites = "ECDHE with AES-GCM or ChaCha20-Poly1305; of equals in brackets the first counts",
            ecdh_curves = "X25519, P-256, P-384, X25519MLKEM768, MLKEM1024",
            signature_algorithms = "those of TLS 1.3 but rsa_pss_pss and SHA-1";
        refused: compliance_policies;
    });
    let version = |field: &str, value: i32| {
        let version = at.enumeration::<pb::tls::TlsParametersTlsProtocol>(field, value);
        match version {
            pb::tls::TlsParametersTlsProtocol::TlsAuto => None,
            pb::tls::TlsParametersTlsProtocol::TLSv12 => Some(TlsVersion::Tls12),
            pb::tls::TlsParametersTlsProtocol::TLSv13 => Some(TlsVersion::Tls13),
            pb::tls::TlsParametersTlsProtocol::TLSv10 | pb::tls::TlsParametersTlsProtocol::TLSv11 => {
                let name = pb::EnumName::proto_name(version);
                at.field(field).found(
                    Class::NotYet,
                    format!("{TLS}TlsParameters.TlsProtocol.{name}"),
                    "rustls speaks TLS 1.2 and 1.3",
                );
                // What is left of the range: from TLS 1.2 on.
                Some(TlsVersion::Tls12)
            }
        }
    };
    let list = |names: Vec<String>| names.into_iter().map(Into::into).collect();
    let params = TlsParameters {
        minimum: version("tls_minimum_protocol_version", tls_minimum_protocol_version),
        maximum: version("tls_maximum_protocol_version", tls_maximum_protocol_version),
        cipher_suites: list(cipher_suites),
        curves: list(ecdh_curves),
        signature_algorithms: list(signature_algorithms),
    };
    for unknown in unknown(&params) {
        let (field, note) = match unknown.kind {
            UnknownKind::CipherSuite => ("cipher_suites", "rustls does not have this cipher suite"),
            UnknownKind::Curve => ("ecdh_curves", "rustls does not have this curve"),
            UnknownKind::SignatureAlgorithm => {
                ("signature_algorithms", "rustls does not have this signature algorithm")
            }
        };
        at.item(field, unknown.index).found(
            Class::NotYet,
            format!("{TLS}TlsParameters.{field}: {}", unknown.name),
            note,
        );
        if at.context.unimplemented == Unimplemented::Refuse {
            at.item(field, unknown.index).error(format!("{:?} is not known here", unknown.name));
        }
    }
    params
}
