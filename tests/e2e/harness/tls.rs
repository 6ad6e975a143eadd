//! Certificates of tests, TLS contexts that use them, and a client that is not the proxy.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::message::{Message, Otherwise, Reader};
use super::{PATIENCE, TempFolder};

/// An authority, and what it has issued, as files.
#[derive(Debug)]
pub(crate) struct Authority {
    folder: TempFolder,
    der: CertificateDer<'static>,
}

impl Authority {
    /// Issues certificates for these names: `<name>.pem`, `<name>.key`.
    pub(crate) fn of(names: &[&str]) -> Self {
        let folder = TempFolder::new();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
        for name in names {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![(*name).to_owned()]).unwrap();
            write(&format!("{name}.pem"), params.signed_by(&key, &issuer).unwrap().pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
        write("ca.pem", issuer.pem());
        let der = issuer.der().clone();
        Self { folder, der }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its own certificate in a `validation_context`.
    pub(crate) fn trusted(&self) -> String {
        format!("validation_context: {{trusted_ca: {{filename: {}}}}}", self.file("ca.pem").display())
    }

    /// A certificate that it has issued in `tls_certificates`.
    pub(crate) fn shown(&self, name: &str) -> String {
        let [chain, key] = ["pem", "key"].map(|kind| self.file(&format!("{name}.{kind}")));
        format!(
            "tls_certificates: [{{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}]",
            chain.display(),
            key.display()
        )
    }
}

/// `transport_socket` of a filter chain.
pub(crate) fn downstream_tls(fields: &str, common: &str) -> String {
    socket("Downstream", fields, common)
}

/// `transport_socket` of a cluster.
pub(crate) fn upstream_tls(fields: &str, common: &str) -> String {
    socket("Upstream", fields, common)
}

fn socket(side: &str, fields: &str, common: &str) -> String {
    format!(
        "transport_socket: {{name: tls, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext, {fields} \
         common_tls_context: {{{common}}}}}}}"
    )
}

/// A client under TLS.
pub(crate) struct TlsClient(Reader<StreamOwned<ClientConnection, TcpStream>>);

impl TlsClient {
    /// Connects; the handshake is made with the first byte.
    pub(crate) fn connect(port: u16, authority: &Authority, name: &'static str, alpn: &[&str]) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let connection = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(Reader::new(StreamOwned::new(connection, socket)))
    }

    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.stream.write_all(bytes)?;
        self.0.stream.flush()
    }

    /// Sends a request and reads its response.
    pub(crate) fn ask(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.try_send(request.as_ref()).unwrap();
        let mut response = self.0.head().unwrap().expect("a response, not the connection's end");
        self.0.body(&mut response, Otherwise::UntilClose).unwrap();
        assert!(response.complete, "an incomplete response: {response:?}");
        response
    }

    /// Reads until the end, which the proxy has to announce.
    pub(crate) fn read_to_end(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.0.stream.read_to_end(&mut rest).unwrap();
        rest
    }
}
