//! Network filters before a chain's last one: where they lead, and what becomes of connections that do not pass. What they have in
//! common with Envoy, case by case, is `tests/peers/protocols.py`'s.

use crate::harness::{
    Authority, Config, Proxy, TLS_INSPECTOR, TlsClient, Upstream, cluster_to, downstream_tls, on_each_backend,
};
use crate::tcp::{chain, filter, tcp_proxy};

on_each_backend! {
    /// As in Envoy: the name that a client asks for stands for one cluster, not for several with weights.
    fn server_name_is_the_cluster_unless_clusters_have_weights(io) {
        let (named, other, authority) =
            (Upstream::echo_bytes(), Upstream::echo_bytes(), Authority::of(&["named"]));
        let secured = format!("{}, ", downstream_tls("", &authority.shown("named")));
        for (clusters, reached) in
            [("cluster: other", "named"), ("weighted_clusters: {clusters: [{name: other, weight: 1}]}", "other")]
        {
            let filters = [filter("sni_cluster", "SniCluster", ""), tcp_proxy(clusters)];
            let mut config = Config::to(1).chains(&[chain(&secured, &filters)]).listener(TLS_INSPECTOR);
            config.clusters =
                Some(format!("{{{}}}, {{{}}}", cluster_to("named", named.port), cluster_to("other", other.port)));
            let proxy = Proxy::start(io, &config);
            let mut client = TlsClient::connect(proxy.port, &authority, "named", &[]);
            client.try_send(b"x").unwrap();
            assert_eq!(client.read(1), b"x");
            assert_eq!(proxy.stat(&format!("cluster.{reached}.upstream_cx_total")), 1);
            drop(client);
            proxy.end();
        }
    }
}
