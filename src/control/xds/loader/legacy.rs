//! Old spellings and their correction, spelt out: v2 fields, filters named without `typed_config`.
//!
//! A third of the configurations found in public repositories are refused by Envoy itself for one of these
//! reasons; the answer is the YAML to write instead, made from what the file says.
use super::super::schema::{Class, Message};
use super::extensions::{EXTENSIONS, Extension};
use super::scalar;
use super::tree::{Node, Value, write_yaml, yaml_scalar};

/// Messages whose `typed_config` may be absent although they have a `name`.
const OPTIONAL_TYPED_CONFIG: [&str; 4] = [
    "envoy.config.cluster.v3.Cluster.CustomClusterType",
    "envoy.config.overload.v3.OverloadAction",
    "envoy.config.core.v3.GrpcService.GoogleGrpc.CallCredentials.MetadataCredentialsFromPlugin",
    "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CertificateProvider",
];

/// The v3 type of an extension known by a v2 type name, `envoy.config.filter.http.router.v2.Router`.
pub(super) fn v3_type(v2_type: &str) -> Option<&'static str> {
    let named = v2_type.rsplit('.').next()?;
    let stem = v2_type.rsplit('.').nth(2)?;
    EXTENSIONS.iter().map(|extension| extension.type_name).find(|known| {
        v2_type.starts_with("envoy.config.")
            && known.rsplit('.').next() == Some(named)
            && known.contains(stem)
    })
}

fn extension(name: &str) -> Option<&'static Extension> {
    EXTENSIONS.iter().find(|extension| extension.name == name || extension.old_name == name)
}

/// If `object` names an extension and says nothing of its type, which Envoy has refused since v1.20: the
/// reason and the YAML to write. A v2 `config` in its place is a mistake of its own, unless fields that do not
/// exist are let pass.
pub(super) fn missing_typed_config(
    message: Message,
    object: &Node,
    allow_unknown_fields: bool,
) -> Option<(String, String)> {
    let typed_config = message.field_by_name("typed_config")?;
    let has = |key: &str| object.entry(key).is_some_and(|node| node.value != Value::Null);
    let given = ["typed_config", "typedConfig", "config_discovery", "configDiscovery"].into_iter().any(has);
    let config = object.entry("config").filter(|config| config.value != Value::Null);
    let optional = OPTIONAL_TYPED_CONFIG.contains(&message.name())
        || ["is_optional", "isOptional"]
            .into_iter()
            .any(|key| object.entry(key).is_some_and(|node| scalar::boolean(&node.value) == Ok(true)));
    let is_any = typed_config.message().is_some_and(|message| message.class() == Class::Any);
    let name = object.entry("name")?.text()?;
    let reported = config.is_some() && !allow_unknown_fields;
    if given || reported || optional || !is_any || name.is_empty() {
        return None;
    }
    let reason = format!(
        "typed_config is missing: an extension is found by the type in it, not by its name \"{name}\""
    );
    Some((reason, typed_config_yaml(message, name, config)))
}

/// `name` and `typed_config` with the right type, and the fields of an old `config`.
fn typed_config_yaml(message: Message, name: &str, config: Option<&Node>) -> String {
    let (name, type_name) = match extension(name) {
        Some(known) => (known.name, type_for(message, known)),
        None => (name, "TYPE OF THIS EXTENSION"),
    };
    let mut out =
        format!("name: {}\ntyped_config:\n  \"@type\": type.googleapis.com/{type_name}", yaml_scalar(name));
    if let Some(config) = config.filter(|config| !config.entries().is_empty()) {
        write_yaml(&mut out, config, 2);
    }
    out
}

/// Listeners and clusters have one name for the TLS socket and two types.
fn type_for(message: Message, extension: &Extension) -> &'static str {
    let is_tls = extension.name == "envoy.transport_sockets.tls";
    if is_tls && message.name().starts_with("envoy.config.listener") {
        DOWNSTREAM_TLS
    } else {
        extension.type_name
    }
}

const DOWNSTREAM_TLS: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const UPSTREAM_TLS: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// The YAML that takes the place of `key`, a field that `message` had in v2.
pub(super) fn replacement(message: Message, key: &str, node: &Node, object: &Node) -> Option<String> {
    let name = || object.entry("name").and_then(Node::text);
    Some(match (message.name(), key) {
        (_, "config") if message.field_by_name("typed_config").is_some() => {
            typed_config_yaml(message, name()?, Some(node))
        }
        ("envoy.config.cluster.v3.Cluster", "hosts") => load_assignment(name().unwrap_or("NAME"), node),
        ("envoy.config.cluster.v3.Cluster", "tls_context") => tls_socket(UPSTREAM_TLS, node),
        ("envoy.config.listener.v3.FilterChain", "tls_context") => tls_socket(DOWNSTREAM_TLS, node),
        ("envoy.config.cluster.v3.Cluster", "extension_protocol_options") => {
            "typed_extension_protocol_options:\n  NAME:\n    \"@type\": type.googleapis.com/TYPE".into()
        }
        (_, "per_filter_config") if message.field_by_name("typed_per_filter_config").is_some() => {
            let mut out = String::from("typed_per_filter_config:");
            for entry in node.entries() {
                let name = extension(&entry.key).map_or(&*entry.key, |extension| extension.name);
                out += &format!("\n  {}:\n    \"@type\": type.googleapis.com/TYPE", yaml_scalar(name));
                write_yaml(&mut out, &entry.node, 4);
            }
            out
        }
        ("envoy.config.route.v3.RouteMatch" | "envoy.type.matcher.v3.StringMatcher", "regex") => {
            yaml("safe_regex:\n  regex:", node, 4)
        }
        ("envoy.config.route.v3.HeaderMatcher", "regex_match")
        | ("envoy.config.route.v3.QueryParameterMatcher", "regex") => {
            yaml("string_match:\n  safe_regex:\n    regex:", node, 6)
        }
        ("envoy.config.route.v3.QueryParameterMatcher", "value") => yaml("string_match:\n  exact:", node, 4),
        ("envoy.config.route.v3.CorsPolicy", "allow_origin") => origins("exact", node),
        ("envoy.config.route.v3.CorsPolicy", "allow_origin_regex") => origins("safe_regex", node),
        ("envoy.config.route.v3.CorsPolicy", "enabled") => {
            "filter_enabled:\n  default_value:\n    numerator: 100".into()
        }
        ("envoy.config.route.v3.RouteAction", "request_mirror_policy") => {
            let mut list = String::new();
            let list_node = Node { mark: node.mark, value: Value::List(vec![node.clone()]) };
            write_yaml(&mut list, &list_node, 2);
            format!("request_mirror_policies:{list}")
        }
        ("envoy.config.core.v3.HealthCheck.HttpHealthCheck", "service_name") => {
            yaml("service_name_matcher:\n  prefix:", node, 4)
        }
        ("envoy.config.core.v3.HealthCheck.HttpHealthCheck", "use_http2") => {
            "codec_client_type: HTTP2".into()
        }
        ("envoy.config.bootstrap.v3.Bootstrap", "runtime") => {
            "layered_runtime:\n  layers:\n  - name: static\n    static_layer: {}".into()
        }
        (
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "idle_timeout",
        ) => yaml("common_http_protocol_options:\n  idle_timeout:", node, 4),
        (
            "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext",
            "verify_subject_alt_name",
        ) => {
            let mut out = String::from("match_typed_subject_alt_names:");
            for san in texts(node) {
                out += &format!("\n- san_type: DNS\n  matcher:\n    exact: {}", yaml_scalar(san));
            }
            out
        }
        _ => return None,
    })
}

fn yaml(head: &str, node: &Node, indent: usize) -> String {
    let mut out = head.to_owned();
    write_yaml(&mut out, node, indent);
    out
}

fn tls_socket(type_name: &str, context: &Node) -> String {
    let head = format!(
        "transport_socket:\n  name: envoy.transport_sockets.tls\n  typed_config:\n    \"@type\": type.googleapis.com/{type_name}"
    );
    if context.entries().is_empty() { head } else { yaml(&head, context, 4) }
}

/// The strings of a list, or the one string there is.
fn texts(node: &Node) -> impl Iterator<Item = &str> {
    elements(node).iter().filter_map(Node::text)
}

fn elements(node: &Node) -> &[Node] {
    match &node.value {
        Value::List(elements) => elements,
        _ => std::slice::from_ref(node),
    }
}

fn origins(kind: &str, node: &Node) -> String {
    let mut out = String::from("allow_origin_string_match:");
    for origin in texts(node) {
        let origin = yaml_scalar(origin);
        out += &match kind {
            "exact" => format!("\n- exact: {origin}"),
            _ => format!("\n- safe_regex:\n    regex: {origin}"),
        };
    }
    out
}

/// `hosts` of a v2 cluster as its load assignment.
fn load_assignment(cluster: &str, hosts: &Node) -> String {
    let mut out = format!(
        "load_assignment:\n  cluster_name: {}\n  endpoints:\n  - lb_endpoints:",
        yaml_scalar(cluster)
    );
    for host in elements(hosts) {
        out += "\n    - endpoint:\n        address:";
        write_yaml(&mut out, host, 10);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::yaml::parse;
    use super::*;

    fn fix(message: &str, key: &str, object: &str) -> String {
        let object = parse(object).unwrap();
        replacement(Message::find(message).unwrap(), key, object.entry(key).unwrap(), &object).unwrap()
    }

    #[test]
    fn every_extension_is_of_a_type_that_exists() {
        for extension in EXTENSIONS {
            assert!(Message::find(extension.type_name).is_some(), "{}", extension.type_name);
        }
        assert!(Message::find(DOWNSTREAM_TLS).is_some() && Message::find(UPSTREAM_TLS).is_some());
        for message in OPTIONAL_TYPED_CONFIG {
            assert!(Message::find(message).is_some(), "{message}");
        }
    }

    #[test]
    fn hosts_become_a_load_assignment() {
        assert_eq!(
            fix(
                "envoy.config.cluster.v3.Cluster",
                "hosts",
                "name: web\nhosts: [{socket_address: {address: web, port_value: 80}}]"
            ),
            "load_assignment:
  cluster_name: web
  endpoints:
  - lb_endpoints:
    - endpoint:
        address:
          socket_address:
            address: web
            port_value: 80"
        );
    }

    #[test]
    fn config_becomes_typed_config_under_the_name_of_today() {
        assert_eq!(
            fix(
                "envoy.config.listener.v3.Filter",
                "config",
                "name: envoy.tcp_proxy\nconfig: {stat_prefix: a, cluster: b}"
            ),
            "name: envoy.filters.network.tcp_proxy
typed_config:
  \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
  stat_prefix: a
  cluster: b"
        );
    }

    #[test]
    fn missing_typed_config_is_spelt_out_unless_it_may_be_missing() {
        let filter =
            Message::find("envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter").unwrap();
        let check = |yaml: &str| missing_typed_config(filter, &parse(yaml).unwrap(), false);
        assert_eq!(
            check("name: envoy.filters.http.router").unwrap().1,
            "name: envoy.filters.http.router
typed_config:
  \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
        );
        assert_eq!(check("{name: envoy.filters.http.cors, is_optional: true}"), None);
        assert_eq!(check("{name: a, typed_config: {}}"), None);
        assert_eq!(check("{name: a, config_discovery: {}}"), None);
        assert_eq!(check("{name: a, is_optional: \"true\"}"), None);
        assert_eq!(check("{typed_config: null}"), None);
        // Reported as a field that does not exist; where such fields pass, the filter still has no type.
        assert_eq!(check("{name: a, config: {b: 1}}"), None);
        let object = parse("{name: envoy.lua, config: {inline_code: x}}").unwrap();
        assert!(missing_typed_config(filter, &object, true).unwrap().1.ends_with("\n  inline_code: x"));
    }

    #[test]
    fn tls_context_becomes_the_socket_of_its_side() {
        assert_eq!(
            fix("envoy.config.listener.v3.FilterChain", "tls_context", "tls_context: {require_sni: true}"),
            "transport_socket:
  name: envoy.transport_sockets.tls
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
    require_sni: true"
        );
    }

    #[test]
    fn v2_type_of_an_extension_finds_its_v3_type() {
        assert_eq!(
            v3_type("envoy.config.filter.http.router.v2.Router"),
            Some("envoy.extensions.filters.http.router.v3.Router")
        );
        assert_eq!(v3_type("foo.Router"), None);
    }
}
