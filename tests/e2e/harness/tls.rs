//! Certificates of tests, TLS contexts that use them, and a client that is not the proxy.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, StreamOwned,
    SupportedProtocolVersion,
};

use super::message::{Message, Otherwise, Reader};
use super::{PATIENCE, TempFolder};

/// An authority, and what it has issued, as files.
pub(crate) struct Authority {
    folder: TempFolder,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Issues certificates for these names: `<name>.pem`, `<name>.key`.
    pub(crate) fn of(names: &[&str]) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { folder: TempFolder::new(), issuer };
        for name in names {
            authority.issue(name);
        }
        authority.write("ca.pem", &authority.issuer.pem());
        authority
    }

    /// Issues a certificate with a new key, in place of the one of that name if there is one.
    pub(crate) fn issue(&self, name: &str) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        self.write(&format!("{name}.pem"), &certificate.pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
        certificate.der().clone()
    }

    /// Files appear whole, as whoever rotates them does it.
    fn write(&self, name: &str, text: &str) {
        let new = self.file(&format!("{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.file(name)).unwrap();
    }

    /// Puts another one in its place, for those who trust what is in the file.
    pub(crate) fn is_replaced(&self) {
        let other = Self::of(&[]);
        self.write("ca.pem", &other.issuer.pem());
    }

    /// What a client connects with; it keeps sessions.
    pub(crate) fn client(
        &self,
        alpn: &[&str],
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// What a server of that name accepts with, which asks its clients for a certificate of this authority.
    pub(crate) fn server(&self, name: &str) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let chain = CertificateDer::from_pem_file(self.file(&format!("{name}.pem"))).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.file(&format!("{name}.key"))).unwrap();
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_client_cert_verifier(clients.build().unwrap());
        let mut config = config.with_single_cert(vec![chain], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    /// The certificate of that name and its key, as they are now.
    pub(crate) fn pair(&self, name: &str) -> [String; 2] {
        ["pem", "key"].map(|kind| std::fs::read_to_string(self.file(&format!("{name}.{kind}"))).unwrap())
    }

    /// Its own certificate.
    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
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

/// What has a listener know the server's name that a client asks for.
pub(crate) const TLS_INSPECTOR: &str = "listener_filters: [{name: tls, typed_config: {\"@type\": \
                                        type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}]";

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
        Self::with(port, authority.client(alpn, rustls::ALL_VERSIONS), name)
    }

    /// The same, with sessions of connections before.
    pub(crate) fn with(port: u16, config: Arc<ClientConfig>, name: &'static str) -> Self {
        let connection = ClientConnection::new(config, name.try_into().unwrap()).unwrap();
        Self(Reader::new(StreamOwned::new(connection, connect(port))))
    }

    /// The certificate that the proxy has shown, once there was a handshake.
    pub(crate) fn shown(&self) -> Option<&CertificateDer<'static>> {
        self.0.stream.conn.peer_certificates()?.first()
    }

    /// Whether the handshake resumed a session.
    pub(crate) fn is_resumed(&self) -> bool {
        self.0.stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The next head.
    pub(crate) fn head(&mut self) -> Message {
        self.0.head().unwrap().expect("a head, not the connection's end")
    }

    /// Exactly that many bytes, whatever they mean.
    pub(crate) fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        assert!(self.0.exactly(count, &mut bytes).unwrap(), "the end after {} of {count} bytes", bytes.len());
        bytes
    }

    /// Announces the end of what is sent, and ends it.
    pub(crate) fn shutdown_write(&mut self) {
        let StreamOwned { conn, sock } = &mut self.0.stream;
        conn.send_close_notify();
        while conn.wants_write() {
            conn.write_tls(sock).unwrap();
        }
        sock.shutdown(Shutdown::Write).unwrap();
    }

    /// Sends bytes as they are, in which TLS has no part.
    pub(crate) fn send_beside(&mut self, bytes: &[u8]) {
        self.0.stream.sock.write_all(bytes).unwrap();
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
        let mut rest = std::mem::take(&mut self.0.ahead);
        self.0.stream.read_to_end(&mut rest).unwrap();
        rest
    }
}

fn connect(port: u16) -> TcpStream {
    let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Takes one plain connection and passes it on to `port` under TLS, for clients that know nothing of TLS; its own port.
pub(crate) fn tls_bridge(port: u16, config: Arc<ClientConfig>, name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut plain, _) = listener.accept().unwrap();
        let mut secure = connect(port);
        let mut session = ClientConnection::new(config, name.try_into().unwrap()).unwrap();
        while session.is_handshaking() {
            session.complete_io(&mut secure).unwrap();
        }
        let (mut to_plain, mut from_secure) = (plain.try_clone().unwrap(), secure.try_clone().unwrap());
        let session = Arc::new(Mutex::new(session));
        let receiving = Arc::clone(&session);
        std::thread::spawn(move || {
            let mut room = [0; 16 * 1024];
            while let Ok(count @ 1..) = from_secure.read(&mut room) {
                let mut received = &room[..count];
                while !received.is_empty() {
                    let mut session = receiving.lock().unwrap();
                    session.read_tls(&mut received).unwrap();
                    session.process_new_packets().unwrap();
                    let mut data = Vec::new();
                    // There is no more for now, or for ever.
                    let _ = session.reader().read_to_end(&mut data);
                    drop(session);
                    if to_plain.write_all(&data).is_err() {
                        return;
                    }
                }
            }
            let _ = to_plain.shutdown(Shutdown::Write);
        });
        let mut room = [0; 16 * 1024];
        while let Ok(count) = plain.read(&mut room) {
            let mut session = session.lock().unwrap();
            if count == 0 {
                session.send_close_notify();
            }
            session.writer().write_all(&room[..count]).unwrap();
            while session.wants_write() {
                if session.write_tls(&mut secure).is_err() {
                    return;
                }
            }
            if count == 0 {
                break;
            }
        }
        let _ = secure.shutdown(Shutdown::Write);
    });
    own
}
