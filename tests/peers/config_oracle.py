#!/usr/bin/env python3
"""Small configurations, one oddity each, through Envoy and through Ringway: `--mode validate` has to come to the same verdict.

usage: config_oracle.py [WORD]      only the variants whose description has WORD in it

Every leniency and refusal of the loader is here as Envoy has it. A variant on which both may differ says why: those are the
documented differences, and they must differ, or the note is out of date. Ringway runs with `--allow-unimplemented`, since what
it merely lacks is not what is asked here.
"""

import concurrent.futures
import os
import pathlib
import subprocess
import sys
import tempfile

import rig

CLUSTER = "static_resources:\n  clusters:\n  - name: a\n    connect_timeout: 1s\n    type: STATIC\n"
MANAGER = """static_resources:
  listeners:
  - name: l
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    {listener}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          {prefix}
          {manager}
          route_config: {{virtual_hosts: [{{name: v, domains: {domains}, routes: [{{match: {match}, {route}}}]}}]}}
          http_filters:
          {filters}
  clusters:
  - name: c
    connect_timeout: 1s
"""
ROUTER = '- {name: r, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}'


def cluster(*fields):
    """A bootstrap with one cluster that has these fields as well."""
    return CLUSTER + "".join(f"    {field}\n" for field in fields)


def manager(**parts):
    """A bootstrap with a listener, an HTTP connection manager and a route."""
    return MANAGER.format(**{"listener": "", "manager": "", "prefix": "stat_prefix: a", "domains": '["*"]', "match": "{prefix: /}",
                             "route": "route: {cluster: c}", "filters": ROUTER, **parts})


def metadata(value):
    return cluster(f"metadata: {{typed_filter_metadata: {{a: {value}}}}}")


def nested(depth):
    return cluster(f"metadata: {{filter_metadata: {{a: {'{x: ' * depth}1{'}' * depth}}}}}")


def variants():
    """(description, file ending, text, reason why the verdicts differ or None)."""
    for value in ("a", "1.5", "inf", ".inf", "0x1F", "08", "1e5", "12abc", "2020-01-01", "18446744073709551616", "5000000000",
                  '"5"', "5", "!!str 5", "! 5", "!!binary YQ==", "y", "N", "oN", "yes", '"yes"', "~", "null", '"null"', "a#b", "a:b",
                  "{}", "[]", "[a]", "true", "|-\n      b", "*x", "@a", "`a", "%a"):
        yield f"string {value!r}", ".yaml", cluster(f"alt_stat_name: {value}"), None
    for value in ("0x10", '"0x10"', "1e3", '"1e3"', "010", '"010"', "+5", "5.", "5.5", "-1", "{value: 5}", "[5]", "9000", '"9000"', "1.0",
                  "1_000", "4294967295", "4294967296", "true", '""', "null"):
        yield f"wrapped integer {value}", ".yaml", cluster(f"per_connection_buffer_limit_bytes: {value}"), None
    for value in ("round_robin", "Round_Robin", "round-robin", "RANDOM", "99", '"2"', "2", "[RANDOM]", "null", "NONE", "0x2"):
        yield f"enum {value}", ".yaml", cluster(f"lb_policy: {value}"), None
    for value in ("true", '"1"', "1", '"y"', '"T"', "on", "off", "yes", '"on"', "null", "{}"):
        yield f"boolean {value}", ".yaml", cluster(f"respect_dns_ttl: {value}"), None
    for value in ("5s", "1.5s", "0.25s", '"5s"', "{seconds: 1}", "{seconds: 1, nanos: 5}", "{nanos: 5000000}", "1500ms", "1m", ".5s", "1",
                  '"1"', "-1s", "{seconds: 5, nanos: -1}", "315576000001s", "9223372036s", "1.1234567890s", '"1 s"', "[1s]", "0s", "+1s",
                  "0.0005s", "null", "{}"):
        yield f"duration {value}", ".yaml", cluster(f"cleanup_interval: {value}"), None
    for value in ("{}", "null", "b", "[]", "{b: c}", '{"@type": google.protobuf.Duration, value: 1s}',
                  '{"@type": x/google.protobuf.Duration, value: 1s}', '{"@type": x/google.protobuf.Duration, value: -1s}',
                  '{"@type": x/google.protobuf.Duration, seconds: 1}', '{"@type": x/google.protobuf.Duration}',
                  '{"@type": x/google.protobuf.Empty}', '{"@type": x/google.protobuf.Empty, value: {}}', '{"@type": ""}',
                  '{"@type": x/foo.Bar}', '{"@type": /google.protobuf.Empty}', '{"@type": x/envoy.config.cluster.v3.Cluster}',
                  '{"@type": x/envoy.config.cluster.v3.Cluster, foo: 1}', '{"@type": x/google.protobuf.Struct, value: {a: [1, {}]}}',
                  '{"@type": x/google.protobuf.UInt32Value, value: 5}', '{"@type": x/google.protobuf.UInt32Value, value: x}',
                  '{"@type": x/google.protobuf.FieldMask, value: "a.bC,d"}', '{"@type": x/google.protobuf.Timestamp, value: "2020-01-01T00:00:00Z"}',
                  '{"@type": x/google.protobuf.Timestamp, value: "2020-01-01"}'):
        yield f"Any {value}", ".yaml", metadata(value), None
    for value in ("b", "[b]", "null", "{b: 1}", "{b: null}", "{b: [[], {}]}", "{1: 2}"):
        yield f"Struct {value}", ".yaml", cluster(f"metadata: {{filter_metadata: {{a: {value}}}}}"), None
    for depth in (10, 90, 94, 95, 200):
        deep = "messages are decoded 100 levels deep, and a level of a Struct is three" if 30 < depth < 95 else None
        yield f"depth {depth}", ".yaml", nested(depth), deep
    address = "{socket_address: {address: 1.1.1.1, port_value: 53}}"
    for value in (address, f"[{address}]", f"[[{address}]]", "[null]", "null", "[]", "5"):
        yield f"list {value}", ".yaml", cluster(f"dns_resolvers: {value}"), None
    for what, fields in (
            ("both spellings", ("altStatName: b", "alt_stat_name: c")), ("camel case", ("altStatName: b",)),
            ("wrong case", ("AltStatName: b",)), ("typing slip", ("alt_stat_nam: b",)), ("merge key", ("<<: {alt_stat_name: b}",)),
            ("ignored key", ("!ignore foo: b",)), ("key is a list", ("? [a]", ": b")), ("key is null", ("~: b",)),
            ("two of a oneof", ("cluster_type: {name: a}",)), ("v2 hosts", (f"hosts: [{address}]",)), ("v2 tls_context", ("tls_context: {}",)),
            ("deprecated field", ("max_requests_per_connection: 5",)), ("alias", ("alt_stat_name: &x b", "metadata: {filter_metadata: {*x : {}}}")),
            ("socket without typed_config", ("transport_socket: {name: envoy.transport_sockets.tls}",)),
            ("zero connections", ("circuit_breakers: {thresholds: [{max_connections: 0}]}",)),
            ("requests of a host", ("circuit_breakers: {per_host_thresholds: [{max_requests: 1}]}",)),
            ("what remains of a host", ("circuit_breakers: {per_host_thresholds: [{max_connections: 1, track_remaining: true}]}",)),
            ("priority twice", ("circuit_breakers: {thresholds: [{max_connections: 1}, {max_connections: 2}]}",)),
            ("percent above 100", ("outlier_detection: {max_ejection_percent: 101}",)),
            ("locality of null", ("common_lb_config: null",))):
        yield what, ".yaml", cluster(*fields), None
    yield "repeated key", ".yaml", cluster("alt_stat_name: b", "alt_stat_name: c"), "Envoy keeps the last one silently"
    yield "second document", ".yaml", CLUSTER + "---\nfoo: 1\n", "Envoy drops it silently"
    yield "text behind the end", ".yaml", CLUSTER + "...\nfoo: 1\n", "Envoy drops it silently"
    for what, text in (("empty name", CLUSTER.replace("name: a", 'name: ""')), ("zero timeout", CLUSTER.replace("1s", "0s")),
                       ("same name twice", CLUSTER + "  - name: a\n    connect_timeout: 1s\n"), ("nothing", ""), ("a number", "5"),
                       ("a list", "[]"), ("an empty object", "{}"), ("byte order mark", "\ufeff" + CLUSTER), ("%YAML", "%YAML 1.1\n---\n" + CLUSTER),
                       ("a tab", "node:\n\tid: a\n"), ("unclosed", "node: {id: a\n"), ("no space behind a colon", "node: {id:a}"),
                       ("no space behind a quoted key", 'node: {"id":a}'), ("folded", "node:\n  id: a\n   b\n")):
        yield what, ".yaml", text, None
    for what, parts in (("route", {}), ("domains as a string", {"domains": '"*"'}), ("no domains", {"domains": "[]"}),
                        ("no match", {"match": "{}"}), ("two matches", {"match": "{prefix: /, path: /a}"}), ("no action", {"route": "name: r"}),
                        ("regex of v2", {"match": "{regex: .*}"}), ("unknown cluster", {"route": "route: {cluster: nope}"}),
                        ("empty cluster", {"route": 'route: {cluster: ""}'}), ("timeout", {"route": "route: {cluster: c, timeout: 0s}"}),
                        ("weights", {"route": "route: {weighted_clusters: {clusters: [{name: c, weight: 1}]}}"}),
                        ("no weights", {"route": "route: {weighted_clusters: {clusters: []}}"}),
                        ("redirect code", {"route": "redirect: {response_code: 302}"}),
                        ("direct response", {"route": "direct_response: {status: 200}"}),
                        ("status 99", {"route": "direct_response: {status: 99}"}),
                        ("router without type", {"filters": "- name: envoy.filters.http.router"}),
                        ("v2 config", {"filters": "- {name: envoy.router, config: {}}"}),
                        ("unknown type", {"filters": '- {name: a, typed_config: {"@type": x/foo.Bar}}'}),
                        ("listener filter without type", {"listener": "listener_filters: [{name: envoy.filters.listener.tls_inspector}]"}),
                        ("access log without type", {"manager": "access_log: [{name: envoy.access_loggers.file}]"}),
                        ("codec", {"manager": "codec_type: http1"}), ("headers limit", {"manager": "max_request_headers_kb: 8193"}),
                        ("headers limit 0", {"manager": "max_request_headers_kb: 0"}), ("v2 idle_timeout", {"manager": "idle_timeout: 1s"}),
                        ("empty stat_prefix", {"prefix": 'stat_prefix: ""'}), ("via", {"manager": "via: a"}),
                        ("server header", {"manager": "server_header_transformation: pass_through"})):
        yield what, ".yaml", manager(**parts), None
    yield ("listener name twice", ".yaml", "static_resources: {listeners: [%s]}" % ", ".join(
        ["{name: l, filter_chains: [{}], address: {socket_address: {address: 127.0.0.1, port_value: 0}}}"] * 2),
        "Envoy drops the second silently")
    for tag in ("{tag_name: envoy.cluster_name}", "{tag_name: envoy.nothing}", "{tag_name: a, regex: '^a(?=b)(c)'}", "{tag_name: a, regex: '(?i)(c)'}",
                "{tag_name: a, regex: '('}", "{tag_name: a, regex: ''}", "{tag_name: a, fixed_value: b}", "{fixed_value: b}", r"{tag_name: a, regex: '(a)\1'}"):
        yield f"tag {tag}", ".yaml", f"stats_config: {{stats_tags: [{tag}]}}", None
    for matcher in ("reject_all: true", "reject_all: false", "inclusion_list: {patterns: []}", "exclusion_list: {patterns: [{prefix: a}]}",
                    "inclusion_list: {patterns: [{safe_regex: {regex: '('}}]}", ""):
        late = "Envoy finds this only when it starts" if "'('" in matcher else None
        yield f"stats_matcher {matcher}", ".yaml", f"stats_config: {{stats_matcher: {{{matcher}}}}}", late
    for buckets in ("[1, 2.5]", "[2, 1]", "[1, 1]", "[0]", "[-1]", "[]"):
        yield f"buckets {buckets}", ".yaml", f"stats_config: {{histogram_bucket_settings: [{{match: {{prefix: a}}, buckets: {buckets}}}]}}", None
    yield "no router", ".yaml", manager(filters="  []"), None
    json = '{"static_resources":{"clusters":[{"name":"a","connect_timeout":"1s"%s}]}}'
    for what, text in (("plain", json % ""), ("comma behind the last", json % ","), ("single quotes", (json % "").replace('"', "'")),
                       ("no quotes", '{node:{id:"a"}}'), ("comment", '{"node":{"id":"a"} /* x */}'), ("hash", "# x\n{}"),
                       ("number as name", '{"node":{"id":5}}'), ("1.0", json % ',"per_connection_buffer_limit_bytes":1.0'),
                       ("1e3", json % ',"per_connection_buffer_limit_bytes":1e3'), ("010", json % ',"per_connection_buffer_limit_bytes":010'),
                       (".5", '{"node":{"metadata":{"a":.5}}}'), ("NaN", '{"node":{"metadata":{"a":NaN}}}'), ("control", '{"node":{"id":"a\tb"}}'),
                       ("escape x", r'{"node":{"id":"\x41"}}'), ("surrogates", r'{"node":{"id":"\ud83d\ude00"}}'),
                       ("half a surrogate", r'{"node":{"id":"\ud83d"}}'), ("something behind", "{} x"), ("list", "[]"), ("null", "null"),
                       ("repeated map key", '{"node":{"metadata":{"a":1,"a":2}}}')):
        yield f"JSON {what}", ".json", text, None
    yield "JSON repeated key", ".json", '{"node":{"id":"a","id":"b"}}', "Envoy keeps the last one silently"
    yield "YAML in .conf", ".conf", CLUSTER, None
    yield "JSON in .conf", ".conf", "{}", None
    yield "ending in capitals", ".YAML", CLUSTER, None


def verdict(command, path):
    done = subprocess.run([*command, "--mode", "validate", "-c", str(path)], capture_output=True, text=True, errors="replace",
                          timeout=60, check=False)
    return done.returncode == 0, (done.stdout + done.stderr).strip()


def main():
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    peers = ([rig.envoy(), "-l", "error"], [rig.ringway(), "--allow-unimplemented"])
    chosen = [variant for variant in variants() if word in variant[0]]
    wrong = []
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        def judge(numbered):
            number, (_, ending, text, _) = numbered
            path = pathlib.Path(folder) / f"{number}{ending}"
            path.write_text(text, encoding="utf-8")
            return [verdict(peer, path) for peer in peers]

        for (what, _, _, reason), ((envoy, envoy_said), (ringway, ringway_said)) in zip(chosen, pool.map(judge, enumerate(chosen))):
            if (envoy != ringway) != (reason is not None):
                note = f" (expected to differ: {reason})" if reason else ""
                wrong.append(f"{what}{note}: Envoy {'accepts' if envoy else 'refuses'}, Ringway {'accepts' if ringway else 'refuses'}\n"
                             f"    Envoy:   {envoy_said[-200:]!r}\n    Ringway: {ringway_said[-200:]!r}")
    print("\n".join(wrong))
    print(f"{len(chosen)} variants, {len(chosen) - len(wrong)} as they should be")
    if wrong or not chosen:
        raise rig.Failed("Ringway and Envoy differ")


if __name__ == "__main__":
    rig.main(main)
