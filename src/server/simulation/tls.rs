//! TLS for both sides of the proxy in the simulation: one authority, the proxy's certificate, the endpoints', the clients'.

use std::sync::{Arc, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::base::deferred::Deferred;
use crate::cluster::{ClusterSet, PublishedCluster, TransportSockets};
use crate::config::tls::{
    CertificateValidation, CommonTls, DownstreamTls, Source, TlsCertificate, TlsParameters, TlsVersion,
    UpstreamTls,
};
use crate::protocol::tls::{
    ClientContext, Connecting, Endpoint, Meter, Offer, Secured, ServerTls, TlsStream,
};
use crate::protocol::transport::Transport;
use crate::runtime::TcpStream;
use crate::snapshot::Snapshot;

/// The name of every server.
const NAME: &str = "server.example";

/// What both sides accept and connect with.
#[derive(Debug)]
pub(super) struct Tls {
    server: Arc<ServerTls>,
    client: Arc<ClientContext>,
}

impl Tls {
    /// With client certificates asked for and shown, or without.
    pub(super) fn of(version: TlsVersion, mutual: bool) -> &'static Self {
        static ALL: [OnceLock<Tls>; 4] = [const { OnceLock::new() }; 4];
        let index = usize::from(version == TlsVersion::Tls13) * 2 + usize::from(mutual);
        ALL[index].get_or_init(|| Self::new(version, mutual))
    }

    /// One that nobody else has sessions of.
    pub(super) fn unshared() -> &'static Self {
        Box::leak(Box::new(Self::new(TlsVersion::Tls13, false)))
    }

    fn new(version: TlsVersion, mutual: bool) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let issue = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let certificate =
                CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
            TlsCertificate {
                chain: Source::inline(certificate.pem().into_bytes()),
                private_key: Source::inline(key.serialize_pem().into_bytes()),
                password: None,
                ocsp_staple: None,
            }
        };
        let validation = || CertificateValidation {
            trusted_ca: Some(Source::inline(authority.pem().into_bytes())),
            ..CertificateValidation::default()
        };
        let params =
            TlsParameters { minimum: Some(version), maximum: Some(version), ..TlsParameters::default() };
        let server = DownstreamTls {
            common: CommonTls {
                params: params.clone(),
                certificates: vec![issue(NAME)],
                validation: mutual.then(validation),
                ..CommonTls::default()
            },
            require_client_certificate: mutual,
            ..DownstreamTls::default()
        };
        let client = UpstreamTls {
            common: CommonTls {
                params,
                certificates: if mutual { vec![issue("client.example")] } else { Vec::new() },
                validation: Some(validation()),
                ..CommonTls::default()
            },
            sni: NAME.into(),
            ..UpstreamTls::default()
        };
        let client = ClientContext::new(Arc::new(client)).unwrap();
        client.make();
        Self { server: Arc::new(ServerTls::compile(&server, None, None).unwrap()), client: Arc::new(client) }
    }

    /// Has the proxy speak it on both sides.
    pub(super) fn put_into(&self, snapshot: &mut Snapshot) {
        for listener in &mut snapshot.listeners {
            Arc::get_mut(listener).unwrap().chains[0].tls = Some(Secured::By(Arc::clone(&self.server)));
        }
        let sockets = TransportSockets(Box::new([Some(Secured::By(Arc::clone(&self.client)))]));
        let sockets = Arc::new(sockets);
        let secured = snapshot.clusters.iter().map(|one| PublishedCluster {
            spec: Arc::new(one.with_sockets(Arc::clone(&sockets))),
            hosts: Arc::clone(&one.hosts),
        });
        snapshot.clusters = Arc::new(ClusterSet::new(secured.collect()));
    }

    /// The client's side, its handshake yet to come.
    pub(super) fn connect(&self, socket: TcpStream) -> Transport {
        let address = socket.peer_addr().unwrap().ip();
        let endpoint =
            Endpoint { address, host_name: "", offer: Offer::Http1, auto_sni: None, auto_san: None };
        let Connecting { config, name, .. } = self.client.get().unwrap().connect(&endpoint);
        TlsStream::client(socket, config, name, Meter::default()).into()
    }

    /// The server's side, its handshake yet to come.
    pub(super) fn accept(&self, socket: TcpStream) -> Transport {
        TlsStream::server(socket, Arc::clone(self.server.config()), Meter::default()).into()
    }
}
