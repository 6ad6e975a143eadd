//! Bootstraps for tests: one listener, one virtual host, and what a test adds.

use super::Confinement;

/// A bootstrap in the making. Texts are YAML in flow style, `key: value` pairs without the braces around them.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Fields of the admin endpoint.
    pub(crate) admin: String,
    /// There is no listener but those of a control plane.
    pub(crate) no_listener: bool,
    /// The listener's address, in braces, in place of that port of this host.
    pub(crate) address: Option<String>,
    /// Lines of the listener, each a field.
    pub(crate) listener: String,
    /// Fields of the filter chain, each a line.
    pub(crate) chain: String,
    /// Network filters before the HTTP connection manager, each a line.
    pub(crate) network_filters: String,
    /// All filter chains, each in braces, in place of the one with HTTP.
    pub(crate) chains: Option<String>,
    /// Fields of the HTTP connection manager.
    pub(crate) manager: String,
    /// HTTP filters before the router, each in braces with a comma behind.
    pub(crate) filters: String,
    /// All routes, each in braces; by default everything goes to `upstream`.
    pub(crate) routes: Option<String>,
    /// `scoped_routes`, in braces, in place of those routes.
    pub(crate) scoped_routes: Option<String>,
    /// Fields of the one cluster, `upstream`, or...
    pub(crate) cluster: String,
    /// ...all clusters, each in braces.
    pub(crate) clusters: Option<String>,
    /// Port of the one cluster's endpoint.
    pub(crate) port: u16,
    /// More command line.
    pub(crate) arguments: Vec<String>,
    /// Limit of open files, in the words of `ulimit -n`.
    pub(crate) open_files: Option<u32>,
    /// What the kernel refuses to it.
    pub(crate) confinement: Option<Confinement>,
}

impl Config {
    /// Everything goes to that port of this host.
    pub(crate) fn to(port: u16) -> Self {
        Self {
            admin: String::new(),
            no_listener: false,
            address: None,
            listener: String::new(),
            chain: String::new(),
            network_filters: String::new(),
            chains: None,
            manager: String::new(),
            filters: String::new(),
            routes: None,
            scoped_routes: None,
            cluster: String::new(),
            clusters: None,
            port,
            arguments: Vec::new(),
            open_files: None,
            confinement: None,
        }
    }

    /// Adds a field of the listener.
    pub(crate) fn listener(mut self, field: &str) -> Self {
        self.listener = format!("{}    {field}\n", self.listener);
        self
    }

    /// Adds a field of the filter chain.
    pub(crate) fn chain(mut self, field: &str) -> Self {
        self.chain = format!("{}{field}\n      ", self.chain);
        self
    }

    /// Puts these filter chains in place of the one with HTTP.
    pub(crate) fn chains(mut self, chains: &[String]) -> Self {
        self.chains = Some(chains.join(", "));
        self
    }

    /// Adds a network filter before the HTTP connection manager.
    pub(crate) fn network_filter(mut self, filter: &str) -> Self {
        self.network_filters = format!("{}- {filter}\n      ", self.network_filters);
        self
    }

    /// Adds a field of the HTTP connection manager.
    pub(crate) fn manager(mut self, field: &str) -> Self {
        self.manager = format!("{}{field}, ", self.manager);
        self
    }

    /// Adds an HTTP filter before the router: its name, which ends the name of its type's package, that of its type, and
    /// its fields.
    pub(crate) fn filter(mut self, name: &str, message: &str, fields: &str) -> Self {
        self.filters = format!(
            "{}{{name: {name}, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.{name}.v3.{message}, {fields}}}}}, ",
            self.filters
        );
        self
    }

    /// Adds a field of the cluster.
    pub(crate) fn cluster(mut self, field: &str) -> Self {
        self.cluster = format!("{}{field}, ", self.cluster);
        self
    }

    /// Adds arguments of the command line.
    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// The bootstrap's text.
    pub(crate) fn text(&self, port: u16, admin: u16) -> String {
        let Self { admin: endpoint, listener, chain, network_filters, manager, filters, cluster, .. } = self;
        let routes = self
            .routes
            .clone()
            .unwrap_or_else(|| "{match: {prefix: /}, route: {cluster: upstream, timeout: 30s}}".to_owned());
        let table = match &self.scoped_routes {
            Some(scoped) => format!("scoped_routes: {scoped}"),
            None => format!(
                "route_config: {{virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{routes}]}}]}}"
            ),
        };
        let address = self.address.clone();
        let address = address
            .unwrap_or_else(|| format!("{{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}"));
        let clusters = self
            .clusters
            .clone()
            .unwrap_or_else(|| format!("{{{cluster}{}}}", cluster_to("upstream", self.port)));
        let chains = self.chains.as_ref().map_or_else(
            || {
                format!(
                    r#"
    - {chain}filters:
      {network_filters}- name: envoy.filters.network.http_connection_manager
        typed_config: {{
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
          stat_prefix: test, {manager}
          {table},
          http_filters: [{filters}{{name: router, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}"#
                )
            },
            |chains| format!("[{chains}]"),
        );
        if self.no_listener {
            return format!(
                "admin: {{{endpoint} address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}\n\
                 static_resources: {{clusters: [{clusters}]}}\n"
            );
        }
        format!(
            r#"admin: {{{endpoint} address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
static_resources:
  listeners:
  - name: test
    address: {address}
{listener}    filter_chains: {chains}
  clusters: [{clusters}]
"#
        )
    }
}

/// Fields of a cluster with one endpoint, on that port of this host.
pub(crate) fn cluster_to(name: &str, port: u16) -> String {
    format!(
        "name: {name}, connect_timeout: 5s, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: \
         [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}"
    )
}

/// The same, with these `drop_overloads`.
pub(crate) fn spared_cluster_to(name: &str, port: u16, drop_overloads: &str) -> String {
    let policy = format!("load_assignment: {{policy: {{drop_overloads: [{drop_overloads}]}}, ");
    cluster_to(name, port).replace("load_assignment: {", &policy)
}
