//! Transport sockets of clusters.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cluster::TransportSockets;
use crate::config::cluster::{Cluster, SharedSettings};
use crate::config::tls::{TlsVersion, UpstreamTls};
use crate::protocol::tls::{ClientContext, Secured, TlsConfigError, check_context};

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
    /// By their place in memory, which is theirs as long as they are here.
    known: HashMap<*const UpstreamTls, (Arc<UpstreamTls>, Secured<ClientContext>)>,
    plain: Arc<TransportSockets>,
}

impl SocketCompiler {
    /// Those of a cluster.
    ///
    /// # Errors
    /// The field below the TLS context, and what is wrong with it.
    pub fn of(&mut self, config: &Cluster) -> Result<Arc<TransportSockets>, TlsConfigError> {
        let sockets = config.sockets();
        let matches = sockets.matches.iter().map(|socket| socket.tls.as_ref());
        let all = [sockets.tls.as_ref()].into_iter().chain(matches);
        let compiled = all.map(|tls| tls.map(|tls| self.compile(tls)).transpose());
        let compiled: Box<[_]> = compiled.collect::<Result<_, _>>()?;
        // Most clusters are plain.
        let is_plain = compiled.iter().all(Option::is_none);
        Ok(if is_plain { Arc::clone(&self.plain) } else { Arc::new(TransportSockets(compiled)) })
    }

    fn compile(&mut self, config: &Arc<UpstreamTls>) -> Result<Secured<ClientContext>, TlsConfigError> {
        if let Some((_, compiled)) = self.known.get(&Arc::as_ptr(config)) {
            return Ok(compiled.clone());
        }
        let compiled: Secured<ClientContext> = if config.common.is_whole() {
            ClientContext::new(Arc::clone(config))?.into()
        } else {
            check_context(&config.common, TlsVersion::Tls12)?;
            Secured::NotReady
        };
        self.known.insert(Arc::as_ptr(config), (Arc::clone(config), compiled.clone()));
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
