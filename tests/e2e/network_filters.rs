//! Network filters before a chain's last one: where they lead, and what becomes of connections that do not pass. What they have in
//! common with Envoy, case by case, is `tests/peers/protocols.py`'s.

use crate::harness::{
    Authority, Config, Proxy, TLS_INSPECTOR, TlsClient, Upstream, cluster_to, downstream_tls, on_each_backend,
};
use crate::tcp::{LOGS_ENDS, chain, filter, relaying, tcp_proxy};

on_each_backend! {
    /// As in Envoy: who is kept for a time counts meanwhile.
    fn connection_that_is_kept_beyond_a_limit_counts(io) {
        let upstream = Upstream::echo_bytes();
        let limit =
            filter("connection_limit", "ConnectionLimit", "stat_prefix: few, max_connections: 1, delay: 3600s");
        let proxy = Proxy::start(io, &relaying(upstream.port, &[limit], ""));
        let [active, limited] = ["active", "limited"].map(|what| format!("connection_limit.few.{what}_connections"));
        let mut first = proxy.connect();
        first.send("x");
        assert_eq!(first.read(1), b"x");
        let kept = proxy.connect();
        proxy.wait_for_stat(&active, 2);
        drop(first);
        proxy.wait_for_stat(&active, 1);
        let other = proxy.connect();
        proxy.wait_for_stat(&limited, 2);
        drop((kept, other));
        proxy.wait_for_stat(&active, 0);
        let mut next = proxy.connect();
        next.send("y");
        assert_eq!(next.read(1), b"y");
        proxy.end();
    }

    /// A limit that a connection has passed has it as long as the next one keeps it.
    fn connection_that_a_later_limit_keeps_counts_at_the_earlier_one(io) {
        let upstream = Upstream::echo_bytes();
        let limit = |name: &str, more: &str| filter("connection_limit", "ConnectionLimit", &format!("stat_prefix: {name}, {more}"));
        let limits = [limit("many", "max_connections: 9"), limit("few", "max_connections: 1, delay: 3600s")];
        let proxy = Proxy::start(io, &relaying(upstream.port, &limits, ""));
        let active = "connection_limit.many.active_connections";
        let mut first = proxy.connect();
        first.send("x");
        assert_eq!(first.read(1), b"x");
        let kept = proxy.connect();
        proxy.wait_for_stat("connection_limit.few.limited_connections", 1);
        assert_eq!(proxy.stat(active), 2);
        drop(kept);
        proxy.wait_for_stat(active, 1);
        proxy.end();
    }

    fn records_tell_why_connections_that_may_not_pass_are_closed(io) {
        let reason = LOGS_ENDS.replace("RESPONSE_FLAGS", "DOWNSTREAM_LOCAL_CLOSE_REASON");
        let bucket = "stat_prefix: slow, token_bucket: {max_tokens: 1, fill_interval: 3600s}";
        let filters = [
            (filter("rbac", "RBAC", "stat_prefix: who, rules: {}"), "rbac_deny_close"),
            (filter("connection_limit", "ConnectionLimit", "stat_prefix: few, max_connections: 1"), "over_connection_limit"),
            (filter("local_ratelimit", "LocalRateLimit", bucket), "local_ratelimit_close_over_limit"),
        ];
        let upstream = Upstream::echo_bytes();
        for (before, said) in filters {
            let echoes = Config::to(1).chains(&[chain("", &[before.clone(), filter("echo", "Echo", "")])]);
            let relays = relaying(upstream.port, std::slice::from_ref(&before), "");
            for config in [relays, echoes, Config::to(upstream.port).network_filter(&before)] {
                let proxy = Proxy::start(io, &config.listener(&reason));
                let mut clients = [proxy.connect(), proxy.connect()];
                // The second one passes nowhere; it may be gone before it has said anything.
                clients.iter_mut().for_each(|client| drop(client.try_send("x")));
                proxy.wait_for_log(&format!("ended <{said}>"));
                drop(clients);
                proxy.end();
            }
        }
    }

    /// As in Envoy: where an endpoint is looked for with the client's first byte, access is asked for before.
    fn connection_without_access_reaches_no_endpoint_that_waits_for_its_first_byte(io) {
        let upstream = Upstream::echo_bytes();
        let waits = "upstream_connect_mode: ON_DOWNSTREAM_DATA, max_early_data_bytes: 1000";
        let details = LOGS_ENDS.replace("RESPONSE_FLAGS", "CONNECTION_TERMINATION_DETAILS");
        for (address, passes) in [("10.0.0.1", 0), ("127.0.0.1", 1)] {
            let rules = format!(
                "policies: {{these: {{permissions: [{{any: true}}], principals: [{{direct_remote_ip: {{address_prefix: {address}, prefix_len: 32}}}}]}}}}"
            );
            let rbac = filter("rbac", "RBAC", &format!("stat_prefix: who, rules: {{{rules}}}"));
            let proxy = Proxy::start(io, &relaying(upstream.port, &[rbac], waits).listener(&details));
            let mut client = proxy.connect();
            client.send("x");
            if passes == 1 {
                assert_eq!(client.read(1), b"x");
            } else {
                client.expect_closed();
                proxy.wait_for_log("ended <rbac_access_denied_matched_policy[none]>");
            }
            assert_eq!(proxy.stat("who.rbac.allowed"), passes);
            assert_eq!(proxy.stat("who.rbac.denied"), 1 - passes);
            assert_eq!(proxy.stat("cluster.upstream.upstream_cx_total"), passes);
            drop(client);
            proxy.end();
        }
    }

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
