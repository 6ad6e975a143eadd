//! Configuration text to wire bytes: the front half of the config pipeline.
//!
//! ```text
//! YAML ─┐                                              ┌─► convert ─► config ─► snapshot
//!       ├─► tree with positions ─► wire bytes ─► check ┤
//! JSON ─┘        (tree)             (encode)  (validate)└─► kept for /config_dump
//! ```
//!
//! The bytes are what a control plane would have sent, so everything behind takes one path for both. What
//! Envoy 1.40 accepts is accepted and what it refuses is refused, with two written differences: a key that
//! stands twice in one object, and a second YAML document, are mistakes here and silently lose text there.
//! All mistakes of a file are reported at once, with line, column, field path and the correction.
mod encode;
mod extensions;
mod json;
mod legacy;
mod scalar;
mod source_map;
mod suggest;
mod tree;
mod well_known;
mod yaml;

use super::schema::Message;
use super::validate;
use crate::base::limits::{CONFIG_ERRORS_MAX, CONFIG_TEXT_BYTES_MAX};
use crate::config::error::{ConfigError, ConfigErrors, Position};
pub use source_map::SourceMap;

/// Notation of a configuration text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Yaml,
    Json,
}

impl Format {
    /// By the file's extension, as Envoy decides: `.yaml` and `.yml` are YAML, all else is JSON.
    ///
    /// # Errors
    /// The extensions of Envoy's binary and text protobuf notations, which are not read.
    pub fn of_file(name: &str) -> Result<Self, ConfigError> {
        let extension = name.rsplit('/').next().and_then(|name| name.rsplit_once('.'));
        match extension.map(|(_, extension)| extension.to_ascii_lowercase()).as_deref() {
            Some("yaml" | "yml") => Ok(Self::Yaml),
            Some(extension @ ("pb" | "pb_text" | "pb_length_delimited")) => {
                let reason = format!("{name}: .{extension} files are not read; write YAML or JSON");
                Err(ConfigError::new("", reason))
            }
            _ => Ok(Self::Json),
        }
    }
}

/// One configuration text.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Shown in front of line and column.
    pub name: &'a str,
    pub text: &'a str,
    pub format: Format,
}

/// What a text became.
#[derive(Debug)]
pub struct Loaded<'a> {
    /// Wire bytes of the message.
    pub bytes: Vec<u8>,
    /// Where each field stands.
    pub source_map: SourceMap<'a>,
    /// Deprecated fields, unknown ones that were let pass: accepted, to be logged.
    pub warnings: ConfigErrors,
    /// How many of the warnings are deprecated fields; the others are unknown ones.
    pub deprecated: usize,
}

/// Reads `sources` as one `root` message, each merged over those before it as protobuf merges: singular fields
/// are replaced, messages merged, lists appended. Then checks the API's constraints.
///
/// `allow_unknown_fields` makes warnings of fields and enum values that the API does not have
/// (`--allow-unknown-static-fields`).
///
/// # Errors
/// Every mistake found, `limits::CONFIG_ERRORS_MAX` at most, in the order of the text.
pub fn load<'a>(
    root: Message,
    sources: &[Source<'a>],
    allow_unknown_fields: bool,
) -> Result<Loaded<'a>, ConfigErrors> {
    let (mut loaded, mut errors) = transcode(root, sources, allow_unknown_fields);
    let checked = validate::check(root, &loaded.bytes);
    loaded.deprecated = checked.deprecated.len();
    loaded.warnings.0.extend(checked.deprecated);
    // What could not be written is missing now: only constraints elsewhere are news.
    let is_news = |found: &ConfigError| !errors.0.iter().any(|known| is_about(found, known));
    let news: Vec<_> = checked.violations.into_iter().filter(is_news).collect();
    errors.0.extend(news);
    finish(loaded, errors)
}

/// `load` without the check of constraints: for messages that are checked elsewhere or are mere fragments.
///
/// # Errors
/// As of `load`.
pub fn read<'a>(
    root: Message,
    sources: &[Source<'a>],
    allow_unknown_fields: bool,
) -> Result<Loaded<'a>, ConfigErrors> {
    let (loaded, errors) = transcode(root, sources, allow_unknown_fields);
    finish(loaded, errors)
}

fn transcode<'a>(
    root: Message,
    sources: &[Source<'a>],
    allow_unknown_fields: bool,
) -> (Loaded<'a>, ConfigErrors) {
    let mut readable = Vec::with_capacity(sources.len());
    let mut loaded = Loaded {
        bytes: Vec::new(),
        source_map: SourceMap::default(),
        warnings: ConfigErrors::default(),
        deprecated: 0,
    };
    let mut errors = ConfigErrors::default();
    for source in sources {
        let tree = match parse(source) {
            Ok(tree) => tree,
            Err(mut mistakes) => {
                errors.0.append(&mut mistakes);
                continue;
            }
        };
        let mut encoder = encode::Encoder::new(source.name, allow_unknown_fields);
        encoder.message(&mut loaded.bytes, root, &tree);
        errors.0.append(&mut encoder.errors);
        loaded.warnings.0.append(&mut encoder.warnings);
        readable.push(*source);
    }
    loaded.source_map = SourceMap::new(readable);
    (loaded, errors)
}

fn finish(mut loaded: Loaded<'_>, mut errors: ConfigErrors) -> Result<Loaded<'_>, ConfigErrors> {
    if errors.0.is_empty() {
        loaded.source_map.place(&mut loaded.warnings);
        return Ok(loaded);
    }
    loaded.source_map.place(&mut errors);
    errors.0.truncate(CONFIG_ERRORS_MAX);
    Err(errors)
}

fn parse(source: &Source<'_>) -> Result<tree::Node, Vec<ConfigError>> {
    let at_start = |reason: String| {
        let position = Position { file: source.name.into(), line: 1, column: 1 };
        vec![ConfigError::new("", reason).at(Some(position))]
    };
    if source.text.len() > CONFIG_TEXT_BYTES_MAX {
        return Err(at_start(format!("the text is longer than {CONFIG_TEXT_BYTES_MAX} bytes")));
    }
    let tree = match source.format {
        Format::Yaml => yaml::parse(source.text),
        Format::Json => json::parse(source.text),
    };
    let tree = tree
        .map_err(|errors| errors.into_iter().map(|error| error.in_file(source.name)).collect::<Vec<_>>())?;
    match tree.value {
        tree::Value::Map(_) => Ok(tree),
        other => Err(at_start(format!("expected an object, found {}", other.describe()))),
    }
}

/// Whether a violated constraint may merely follow from a mistake that is known already: one path leads to the
/// other, or both are fields of one object.
fn is_about(found: &ConfigError, known: &ConfigError) -> bool {
    let parent = |path: &'_ str| path.rfind(['.', '[']).map_or(0, |end| end);
    let (found, known) = (found.path.as_str(), known.path.as_str());
    known.starts_with(found) || found.starts_with(known) || found[..parent(found)] == known[..parent(known)]
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Fields, Value};
    use super::*;
    use std::borrow::Cow;

    const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";
    const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";

    fn load_as<'a>(
        message: &str,
        texts: &[&'a str],
        allow_unknown_fields: bool,
    ) -> Result<Loaded<'a>, ConfigErrors> {
        let sources: Vec<_> =
            texts.iter().map(|text| Source { name: "front.yaml", text, format: Format::Yaml }).collect();
        load(Message::find(message).unwrap(), &sources, allow_unknown_fields)
    }

    /// A cluster with `extra` as its further fields.
    fn cluster(extra: &str) -> Result<Loaded<'static>, ConfigErrors> {
        load_as(CLUSTER, &[String::leak(format!("name: a\nconnect_timeout: 1s\n{extra}\n"))], false)
    }

    fn refused(extra: &str) -> String {
        cluster(extra).map(|loaded| loaded.bytes).unwrap_err().to_string()
    }

    /// The field `name` of a cluster loaded with `extra`.
    fn field(extra: &str, name: &str) -> Option<Value<'static>> {
        let loaded = cluster(extra).unwrap_or_else(|errors| panic!("{extra}: {errors}"));
        let message = Message::find(CLUSTER).unwrap();
        let fields = Fields::decode(message, &loaded.bytes).unwrap();
        let value = fields.get(message.field_by_name(name).unwrap().number()).cloned();
        value.map(|value| match value {
            Value::Text(text) => Value::Text(String::leak(text.to_owned())),
            Value::Message(bytes) => Value::Message(Cow::Owned(bytes.into_owned())),
            Value::Bytes(_) => unreachable!("clusters have no bytes"),
            Value::Bool(value) => Value::Bool(value),
            Value::Enum(value) => Value::Enum(value),
            Value::I32(value) => Value::I32(value),
            Value::U32(value) => Value::U32(value),
            Value::I64(value) => Value::I64(value),
            Value::U64(value) => Value::U64(value),
            Value::F32(value) => Value::F32(value),
            Value::F64(value) => Value::F64(value),
        })
    }

    fn message(bytes: &[u8]) -> Option<Value<'static>> {
        Some(Value::Message(Cow::Owned(bytes.to_vec())))
    }

    // One test per row of the table of Envoy's leniencies and refusals (measured with 1.40).

    #[test]
    fn enum_in_any_case_or_by_number_is_accepted() {
        for spelling in ["RANDOM", "random", "Random", "3", "\"3\""] {
            assert_eq!(
                field(&format!("lb_policy: {spelling}"), "lb_policy"),
                Some(Value::Enum(3)),
                "{spelling}"
            );
        }
    }

    #[test]
    fn single_value_where_a_list_is_expected_is_accepted() {
        let single = cluster("dns_resolvers: {socket_address: {address: 1.1.1.1, port_value: 53}}").unwrap();
        let list = cluster("dns_resolvers: [{socket_address: {address: 1.1.1.1, port_value: 53}}]").unwrap();
        let nested =
            cluster("dns_resolvers: [[{socket_address: {address: 1.1.1.1, port_value: 53}}]]").unwrap();
        assert_eq!(single.bytes, list.bytes);
        assert_eq!(nested.bytes, list.bytes);
    }

    #[test]
    fn list_where_a_single_value_is_expected_is_refused() {
        assert_eq!(
            refused("cleanup_interval: [1s]"),
            "front.yaml:3:19 cleanup_interval: expected a duration: seconds with an \"s\" behind them, found a list, as in \"1.5s\""
        );
        assert!(refused("lb_policy: [RANDOM]").contains("found a list"));
    }

    #[test]
    fn camel_and_snake_case_are_accepted_and_both_at_once_warned_of() {
        assert_eq!(field("altStatName: b", "alt_stat_name"), Some(Value::Text("b")));
        let both = cluster("altStatName: b\nalt_stat_name: c").unwrap();
        assert_eq!(
            both.warnings.to_string(),
            "front.yaml:4:1 alt_stat_name: set twice, as \"altStatName\" and as \"alt_stat_name\""
        );
    }

    #[test]
    fn durations_in_every_spelling_are_accepted() {
        for (spelling, bytes) in [
            ("\"1.5s\"", &[8, 1, 16, 0x80, 0xca, 0xb5, 0xee, 1][..]),
            ("0.25s", &[16, 0x80, 0xe5, 0x9a, 0x77]),
            ("{seconds: 1}", &[8, 1]),
            ("{nanos: 1000000}", &[16, 0xc0, 0x84, 0x3d]),
        ] {
            let found = field(&format!("cleanup_interval: {spelling}"), "cleanup_interval");
            assert_eq!(found, message(bytes), "{spelling}");
        }
    }

    #[test]
    fn durations_of_other_notations_are_refused_with_the_right_one() {
        for (spelling, meant) in [("1500ms", "1.5s"), ("1m", "60s"), (".5s", "0.5s"), ("1", "1s")] {
            let text = refused(&format!("cleanup_interval: {spelling}"));
            assert!(text.ends_with(&format!("; write \"{meant}\"")), "{text}");
        }
    }

    #[test]
    fn wrappers_and_integers_in_every_spelling_are_accepted() {
        for spelling in ["8", "{value: 8}", "\"8\"", "8.0", "\"0x8\"", "0x8", "010"] {
            let found = field(
                &format!("per_connection_buffer_limit_bytes: {spelling}"),
                "per_connection_buffer_limit_bytes",
            );
            assert_eq!(found, message(&[8, 8]), "{spelling}");
        }
    }

    #[test]
    fn what_is_no_integer_or_no_string_is_refused() {
        assert!(refused("per_connection_buffer_limit_bytes: 1_000").contains("found \"1_000\""));
        assert!(refused("alt_stat_name: 5").ends_with("found the number 5; write \"5\""));
        assert!(refused("alt_stat_name: yes").contains("found the boolean true (yes, no"));
        assert_eq!(
            field("alt_stat_name: 1.5", "alt_stat_name"),
            Some(Value::Text("1.5")),
            "a fraction is text"
        );
    }

    #[test]
    fn booleans_in_every_spelling_are_accepted() {
        for spelling in ["true", "\"true\"", "on", "yes", "Y", "\"1\""] {
            assert_eq!(
                field(&format!("respect_dns_ttl: {spelling}"), "respect_dns_ttl"),
                Some(Value::Bool(true)),
                "{spelling}"
            );
        }
        assert!(refused("respect_dns_ttl: 1").contains("expected true or false, found the number 1"));
    }

    #[test]
    fn null_leaves_a_field_unset() {
        assert_eq!(
            cluster("lb_policy: null\nmetadata: ~\ndns_resolvers:").unwrap().bytes,
            cluster("").unwrap().bytes
        );
    }

    #[test]
    fn repeated_key_merge_key_and_second_document_are_refused() {
        assert_eq!(
            refused("alt_stat_name: b\nalt_stat_name: c"),
            "front.yaml:4:1 \"alt_stat_name\" stands twice in this object, first on line 3"
        );
        assert!(refused("<<: {alt_stat_name: b}").contains("merge keys are not supported"));
        assert!(refused("---\nfoo: 1").contains("a second YAML document begins here"));
    }

    #[test]
    fn unknown_field_is_refused_with_place_path_message_and_suggestion() {
        let text = "static_resources:\n  clusters:\n  - name: a\n  - name: b\n    lb_polcy: RANDOM\n";
        assert_eq!(
            load_as(BOOTSTRAP, &[text], false).unwrap_err().to_string(),
            "front.yaml:5:5 static_resources.clusters[1].lb_polcy: no such field in envoy.config.cluster.v3.Cluster; did you mean \"lb_policy\"?"
        );
    }

    #[test]
    fn unknown_enum_value_and_type_are_refused_with_a_suggestion() {
        assert!(refused("lb_policy: ROUND-ROBIN").ends_with("did you mean \"ROUND_ROBIN\"?"));
        let typed = |url: &str| {
            refused(&format!("transport_socket: {{name: a, typed_config: {{\"@type\": {url}}}}}"))
        };
        let tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
        let socket = format!("transport_socket: {{name: a, typed_config: {{\"@type\": {tls}, sni: b}}}}");
        assert!(cluster(&socket).is_ok());
        assert!(
            typed("x/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContex")
                .contains("UpstreamTlsContext\"?")
        );
        assert!(
            typed("x/envoy.api.v2.auth.UpstreamTlsContext")
                .contains("in v3 it is envoy.extensions.transport_sockets.tls.v3")
        );
        assert!(typed("envoy.api.v2.auth.UpstreamTlsContext").contains("needs a host and a slash"));
        assert!(
            refused("transport_socket: {name: a, typed_config: {sni: b}}").contains("\"@type\" is missing")
        );
    }

    #[test]
    fn violated_constraints_are_refused_at_their_place() {
        let errors = load_as(CLUSTER, &["name: \"\"\nconnect_timeout: 0s\n"], false).unwrap_err();
        assert_eq!(
            errors.to_string(),
            "front.yaml:1:1 name: must not be empty\nfront.yaml:2:1 connect_timeout: must be above 0s, it is 0s"
        );
    }

    #[test]
    fn filter_without_typed_config_is_refused_with_the_fix_spelt_out() {
        let manager = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
        let text = "stat_prefix: a\nroute_config: {}\nhttp_filters:\n- name: envoy.router\n";
        assert_eq!(
            load_as(manager, &[text], false).unwrap_err().to_string(),
            "front.yaml:4:3 http_filters[0]: typed_config is missing: an extension is found by the type in it, not by its name \"envoy.router\"
    name: envoy.filters.http.router
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
        );
    }

    #[test]
    fn v2_field_is_refused_with_the_fix_spelt_out() {
        let text = refused("hosts: [{socket_address: {address: a, port_value: 80}}]");
        assert!(
            text.starts_with(
                "front.yaml:3:1 hosts: no such field in envoy.config.cluster.v3.Cluster; it was removed"
            ),
            "{text}"
        );
        assert!(text.contains("\n    load_assignment:\n      cluster_name: a\n"), "{text}");
    }

    // === Beyond the table ===

    #[test]
    fn unknown_fields_and_enum_values_pass_with_a_warning_if_allowed() {
        let text = "name: a\nconnect_timeout: 1s\nfoo: {bar: 1}\nlb_policy: NONE_SUCH\n";
        let loaded = load_as(CLUSTER, &[text], true).unwrap();
        assert_eq!(loaded.warnings.0.len(), 2);
        assert_eq!(loaded.bytes, cluster("").unwrap().bytes);
    }

    #[test]
    fn alternatives_of_a_oneof_are_refused() {
        assert!(
            refused("type: STATIC\ncluster_type: {name: a}")
                .contains("\"type\" and \"cluster_type\" cannot both be set")
        );
        assert!(cluster("type: STATIC\ncluster_type: null").is_ok());
    }

    #[test]
    fn deprecated_field_is_accepted_with_a_warning() {
        let loaded = cluster("http2_protocol_options: {}").unwrap();
        assert_eq!(
            loaded.warnings.to_string(),
            "front.yaml:3:1 http2_protocol_options: envoy.config.cluster.v3.Cluster.http2_protocol_options is deprecated"
        );
    }

    #[test]
    fn any_of_every_kind_is_written() {
        let metadata = |any: &str| cluster(&format!("metadata: {{typed_filter_metadata: {{a: {any}}}}}"));
        for accepted in [
            "{}",
            "null",
            "{\"@type\": x/google.protobuf.Duration, value: 1s}",
            "{\"@type\": x/google.protobuf.Duration, value: -1s}",
            "{\"@type\": x/google.protobuf.Duration}",
            "{\"@type\": x/google.protobuf.Empty}",
            "{\"@type\": x/google.protobuf.Struct, value: {a: [1, null, {b: c}]}}",
            "{\"@type\": x/google.protobuf.Any, value: {\"@type\": x/google.protobuf.BoolValue, value: true}}",
            "{\"@type\": x/envoy.config.cluster.v3.Cluster}",
        ] {
            assert!(metadata(accepted).is_ok(), "{accepted}");
        }
        for refused in [
            "{\"@type\": x/google.protobuf.Duration, seconds: 1}",
            "{\"@type\": x/google.protobuf.Empty, value: {}}",
            "{\"@type\": \"\"}",
            "{\"@type\": 5}",
            "{b: c}",
            "b",
            "{\"@type\": x/envoy.config.cluster.v3.Cluster, foo: 1}",
        ] {
            assert!(metadata(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn structs_are_written_as_they_are() {
        let text = "metadata: {filter_metadata: {a: {n: 5, f: 1.5, t: x, b: yes, z: null, l: [1], o: {}}}}";
        assert!(cluster(text).is_ok());
        assert!(cluster("metadata: {filter_metadata: {a: null}}").is_ok());
        assert!(
            refused("metadata: {filter_metadata: {a: [b]}}")
                .contains("metadata.filter_metadata[\"a\"]: expected an object")
        );
    }

    #[test]
    fn later_source_is_merged_over_the_earlier_one() {
        let loaded = load_as(
            BOOTSTRAP,
            &[
                "node: {id: a, cluster: b}\nstatic_resources: {clusters: [{name: c}]}\n",
                "node: {id: x}\nstatic_resources: {clusters: [{name: d}]}\n",
            ],
            false,
        )
        .unwrap();
        let root = Message::find(BOOTSTRAP).unwrap();
        let fields = Fields::decode(root, &loaded.bytes).unwrap();
        let Some(Value::Message(node)) = fields.get(1) else { panic!("node") };
        let node = Fields::decode(Message::find("envoy.config.core.v3.Node").unwrap(), node).unwrap();
        assert_eq!((node.text(1), node.text(2)), ("x", "b"));
        let place = loaded.source_map.locate("static_resources.clusters[1].name").unwrap();
        assert_eq!((place.line, place.column), (2, 32));
    }

    #[test]
    fn mistakes_are_collected_in_the_order_of_the_text() {
        let errors = refused("lb_polcy: a\nalt_stat_name: 5\ncleanup_interval: 1m");
        let lines: Vec<_> = errors.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(lines, ["front.yaml:3:1", "front.yaml:4:16", "front.yaml:5:19"]);
    }

    #[test]
    fn text_that_is_no_object_is_refused() {
        for text in ["", "5", "[]", "a: b: c"] {
            assert!(load_as(BOOTSTRAP, &[text], false).is_err(), "{text}");
        }
        assert!(load_as(BOOTSTRAP, &["{}"], false).is_ok());
    }

    #[test]
    fn format_is_that_of_the_extension() {
        assert_eq!(Format::of_file("/etc/a.YAML").unwrap(), Format::Yaml);
        assert_eq!(Format::of_file("a.yml").unwrap(), Format::Yaml);
        for json in ["a.json", "a.conf", "a", "dir.yaml/a"] {
            assert_eq!(Format::of_file(json).unwrap(), Format::Json, "{json}");
        }
        assert!(Format::of_file("a.pb_text").is_err());
    }
}
