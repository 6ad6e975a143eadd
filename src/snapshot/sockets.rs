//! Transport sockets of clusters.

use std::sync::Arc;

use crate::cluster::TransportSockets;
use crate::config::cluster::{Cluster, SharedSettings};
use crate::config::tls::{TlsVersion, UpstreamTls};
use crate::protocol::tls::{ClientTls, Secured, TlsConfigError, check_context};

/// A cluster that may be used, without endpoints.
#[derive(Clone, Debug)]
pub struct ClusterResource {
    pub config: Arc<Cluster>,
    /// How its endpoints are reached.
    pub sockets: Arc<TransportSockets>,
}

/// Makes resources of clusters that come while the process runs. What is the same of them they share.
#[derive(Debug, Default)]
pub struct ClusterCompiler {
    settings: SharedSettings,
    plain: Arc<TransportSockets>,
}

impl ClusterCompiler {
    /// The resource of a cluster.
    ///
    /// # Errors
    /// The field below the TLS context, and what is wrong with it.
    pub fn compile(&mut self, cluster: &Cluster) -> Result<ClusterResource, TlsConfigError> {
        let config = Arc::new(self.settings.settled(cluster));
        let mut sockets = SocketCompiler { plain: Arc::clone(&self.plain), ..SocketCompiler::default() };
        Ok(ClusterResource { sockets: sockets.of(&config)?, config })
    }
}

/// Compiles transport sockets of clusters, each configuration once: clusters share them as they share their settings.
#[derive(Debug, Default)]
pub struct SocketCompiler {
    known: Vec<(Arc<UpstreamTls>, Secured<ClientTls>)>,
    plain: Arc<TransportSockets>,
}

impl SocketCompiler {
    /// Those of a cluster.
    ///
    /// # Errors
    /// The field below the TLS context, and what is wrong with it.
    pub fn of(&mut self, config: &Cluster) -> Result<Arc<TransportSockets>, TlsConfigError> {
        let matches = config.transport_socket_matches.iter().map(|socket| socket.tls.as_ref());
        let all = [config.tls.as_ref()].into_iter().chain(matches);
        let compiled = all.map(|tls| tls.map(|tls| self.compile(tls)).transpose());
        let compiled: Box<[_]> = compiled.collect::<Result<_, _>>()?;
        // Most clusters are plain.
        let is_plain = compiled.iter().all(Option::is_none);
        Ok(if is_plain { Arc::clone(&self.plain) } else { Arc::new(TransportSockets(compiled)) })
    }

    fn compile(&mut self, config: &Arc<UpstreamTls>) -> Result<Secured<ClientTls>, TlsConfigError> {
        if let Some((_, compiled)) = self.known.iter().find(|(known, _)| Arc::ptr_eq(known, config)) {
            return Ok(compiled.clone());
        }
        let compiled: Secured<ClientTls> = if config.common.is_whole() {
            ClientTls::compile(config)?.into()
        } else {
            check_context(&config.common, TlsVersion::Tls12)?;
            Secured::NotReady
        };
        self.known.push((Arc::clone(config), compiled.clone()));
        Ok(compiled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_without_tls_share_settings_and_sockets() {
        let mut compiler = ClusterCompiler::default();
        let [a, b] = ["a", "b"].map(|name| compiler.compile(&Cluster::new(name)).unwrap());
        assert!(Arc::ptr_eq(&a.sockets, &b.sockets) && a.sockets.is_plain());
        assert!(Arc::ptr_eq(&a.config.settings, &b.config.settings));
    }
}
