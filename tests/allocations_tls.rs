//! What TLS allocates for a request in steady state, on the worker's thread: a block for each record that is read or written,
//! by rustls, gone again at once; and none of our own. What the C library of the algorithms does within is not seen.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod allocating;

use std::net::TcpStream;
use std::sync::Arc;

use allocating::{COUNTED, ONCE_MAX, ROUNDS, Sockets, allocations};
use rcgen::{CertificateParams, KeyPair};
use ringway::runtime::IoBackend;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

const NAME: &str = "server.example";
/// Allocations of a request whose client and whose endpoint both speak TLS. Two records are read and two written; of each
/// rustls 0.23 makes a copy in a block of its own, although its interface has no buffers: `PrefixedPayload` of one to be
/// encrypted, `Payload::into_vec` of one that was decrypted in place.
const PER_REQUEST: u64 = 4;

/// A certificate for both servers, trusted by both clients.
struct Identity {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    sockets: Sockets,
}

impl Identity {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![NAME.to_owned()]).unwrap().self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], der)
            .unwrap();
        let [chain, key] = [certificate.pem(), key.serialize_pem()].map(|pem| pem.replace('\n', "\\n"));
        let socket = |side: &str, fields: &str| {
            format!(
                "transport_socket: {{name: tls, typed_config: {{\"@type\": \
                 type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext, {fields}}}}}"
            )
        };
        let shown = format!(
            "common_tls_context: {{tls_certificates: [{{certificate_chain: {{inline_string: \"{chain}\"}}, \
             private_key: {{inline_string: \"{key}\"}}}}]}}"
        );
        let trusted = format!(
            "sni: {NAME}, common_tls_context: {{tls_params: {{tls_maximum_protocol_version: TLSv1_3}}, \
             validation_context: {{trusted_ca: {{inline_string: \"{chain}\"}}}}}}"
        );
        let sockets =
            Sockets { listener: socket("Downstream", &shown), cluster: socket("Upstream", &trusted) };
        Self { server: Arc::new(server), client: Arc::new(client), sockets }
    }
}

#[test]
fn keep_alive_requests_under_tls_allocate_once_for_each_record() {
    let Identity { server, client, sockets } = Identity::new();
    for backend in [IoBackend::Epoll, IoBackend::IoUring] {
        let secured = |socket: TcpStream| {
            StreamOwned::new(
                ClientConnection::new(Arc::clone(&client), NAME.try_into().unwrap()).unwrap(),
                socket,
            )
        };
        let server = Arc::clone(&server);
        let accepted =
            move |socket| StreamOwned::new(ServerConnection::new(Arc::clone(&server)).unwrap(), socket);
        let Some(counts) = allocations(backend, &sockets, secured, accepted) else { continue };
        println!("allocations in rounds of {COUNTED} requests on {backend:?}: {counts:?}");
        let requests = (ROUNDS * COUNTED) as u64;
        assert!(counts.iter().sum::<u64>() <= PER_REQUEST * requests + ONCE_MAX, "{backend:?}: {counts:?}");
    }
}
