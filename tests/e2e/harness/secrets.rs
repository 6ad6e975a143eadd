//! Secrets as control planes and files tell them, and TLS contexts that name them, over aggregated discovery.

use prost::Message;

/// `Secret`
#[derive(Clone, PartialEq, Message)]
struct Secret {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    certificate: Option<TlsCertificate>,
    #[prost(message, optional, tag = "4")]
    validation: Option<CertificateValidationContext>,
}

#[derive(Clone, PartialEq, Message)]
struct TlsCertificate {
    #[prost(message, optional, tag = "1")]
    chain: Option<DataSource>,
    #[prost(message, optional, tag = "2")]
    key: Option<DataSource>,
}

#[derive(Clone, PartialEq, Message)]
struct CertificateValidationContext {
    #[prost(message, optional, tag = "1")]
    trusted_ca: Option<DataSource>,
}

#[derive(Clone, PartialEq, Message)]
struct DataSource {
    #[prost(string, tag = "3")]
    inline: String,
}

/// `core.TransportSocket`
#[derive(Clone, PartialEq, Message)]
struct TransportSocket {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "3")]
    config: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// Of either side: the first field of both.
#[derive(Clone, PartialEq, Message)]
struct TlsContext {
    #[prost(message, optional, tag = "1")]
    common: Option<CommonTlsContext>,
}

#[derive(Clone, PartialEq, Message)]
struct CommonTlsContext {
    #[prost(message, repeated, tag = "6")]
    certificates: Vec<SdsSecretConfig>,
    #[prost(message, optional, tag = "7")]
    validation: Option<SdsSecretConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct SdsSecretConfig {
    #[prost(string, tag = "1")]
    name: String,
    /// `{ads: {}, resource_api_version: V3}`, encoded.
    #[prost(bytes = "vec", tag = "2")]
    source: Vec<u8>,
}

impl SdsSecretConfig {
    fn of(name: &str) -> Self {
        Self { name: name.to_owned(), source: vec![3 << 3 | 2, 0, 6 << 3, 2] }
    }
}

fn inline(text: &str) -> Option<DataSource> {
    Some(DataSource { inline: text.to_owned() })
}

/// A certificate with a key.
pub(crate) fn told_certificate(name: &str, [chain, key]: &[String; 2]) -> Vec<u8> {
    let certificate = Some(TlsCertificate { chain: inline(chain), key: inline(key) });
    Secret { name: name.to_owned(), certificate, validation: None }.encode_to_vec()
}

/// Whom to trust.
pub(crate) fn told_trust(name: &str, authority: &str) -> Vec<u8> {
    let validation = Some(CertificateValidationContext { trusted_ca: inline(authority) });
    Secret { name: name.to_owned(), certificate: None, validation }.encode_to_vec()
}

/// `transport_socket` of a side (`Downstream`, `Upstream`) whose certificate, and whom it trusts, are told under these names.
pub(crate) fn told_socket(side: &str, certificate: Option<&str>, trust: Option<&str>) -> Vec<u8> {
    let common = CommonTlsContext {
        certificates: certificate.into_iter().map(SdsSecretConfig::of).collect(),
        validation: trust.map(SdsSecretConfig::of),
    };
    let type_url = format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext");
    let config = Some(Any { type_url, value: TlsContext { common: Some(common) }.encode_to_vec() });
    TransportSocket { name: "tls".to_owned(), config }.encode_to_vec()
}

/// A file of a certificate with its key, in place of the one that was there.
pub(crate) fn put_secret(path: &std::path::Path, name: &str, [chain, key]: &[String; 2]) {
    let text = format!(
        "resources:\n- {{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret, name: {name}, \
         tls_certificate: {{certificate_chain: {{inline_string: {chain:?}}}, private_key: {{inline_string: {key:?}}}}}}}\n"
    );
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}
