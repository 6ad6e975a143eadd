//! Which TLS there is: of several certificates the one of the name that a client asks for, and of several ways to the
//! endpoints of a cluster the one that their metadata chooses.

use crate::harness::{
    Authority, Config, Proxy, TlsClient, Upstream, cluster_to, downstream_tls, ok, on_each_backend,
    upstream_tls,
};

const NAMES: [&str; 3] = ["a.example", "b.example", "*.wild.example"];

on_each_backend! {
    fn certificate_is_the_one_of_the_name_that_is_asked_for(io) {
        let authority = Authority::of(&[]);
        let certificates: Vec<_> = NAMES.iter().map(|name| authority.issue(name)).collect();
        let shown = NAMES.map(|name| {
            let list = authority.shown(name);
            list.strip_prefix("tls_certificates: [").unwrap().strip_suffix(']').unwrap().to_owned()
        });
        let common = format!("tls_certificates: [{}]", shown.join(", "));
        let upstream = Upstream::echo();
        let proxy = Proxy::start(io, &Config::to(upstream.port).chain(&downstream_tls("", &common)));
        for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
            let config = authority.client(&[], versions);
            for (name, expected) in
                [("b.example", 1), ("a.example", 0), ("x.wild.example", 2), ("b.example", 1), ("y.wild.example", 2)]
            {
                // The client verifies that the certificate is of the name.
                let mut client = TlsClient::with(proxy.port, config.clone(), name);
                assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200, "{name}");
                assert_eq!(client.shown(), Some(&certificates[expected]), "{name}");
            }
            // A name that none has gets the first, which this client does not take.
            let mut client = TlsClient::with(proxy.port, config, "c.example");
            let error = client.try_send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap_err().to_string();
            assert!(error.contains("c.example"), "{error}");
        }
        proxy.end();
    }

    fn endpoint_is_reached_in_the_way_that_its_metadata_chooses(io) {
        let authority = Authority::of(&["server.example"]);
        let [behind, plain] = ["under TLS", "in plain text"].map(|word| Upstream::answering(move |_| ok(word.as_bytes())));
        let common = authority.shown("server.example");
        let protected = Proxy::start(io, &Config::to(behind.port).chain(&downstream_tls("", &common)));
        let endpoint = |port: u16, metadata: &str| {
            format!(
                "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}, metadata: \
                 {{filter_metadata: {{envoy.transport_socket_match: {{{metadata}}}}}}}}}"
            )
        };
        let tls = upstream_tls("sni: server.example,", &authority.trusted());
        let raw = "transport_socket: {name: raw, typed_config: {\"@type\": \
                   type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}";
        let matches = format!(
            "transport_socket_matches: [{{name: secure, match: {{way: secure}}, {tls}}}, {{name: open, match: {{}}, {raw}}}]"
        );
        // In either order, so that it is the metadata and not the place.
        for (first, second) in [
            (endpoint(protected.port, "way: secure"), endpoint(plain.port, "way: other")),
            (endpoint(plain.port, ""), endpoint(protected.port, "way: secure, zone: z")),
        ] {
            let whole = cluster_to("upstream", 1);
            let (cluster, _) = whole.split_once("load_assignment").unwrap();
            let mut config = Config::to(1);
            config.clusters = Some(format!(
                "{{{cluster} {matches}, load_assignment: {{cluster_name: upstream, endpoints: [{{lb_endpoints: \
                 [{first}, {second}]}}]}}}}"
            ));
            let proxy = Proxy::start(io, &config);
            let mut client = proxy.connect();
            let mut answers: Vec<_> = (0..6).map(|_| client.get("/").text()).collect();
            answers.sort_unstable();
            let expected = [["in plain text"; 3], ["under TLS"; 3]].concat();
            assert_eq!(answers, expected);
            assert_eq!(proxy.stat("cluster.upstream.ssl.handshake"), 1);
            assert_eq!(proxy.stat("cluster.upstream.upstream_cx_total"), 2);
            drop(client);
            proxy.end();
        }
        protected.end();
    }
}
