"""Envoy, and the bootstrap that Ringway takes as well: the same file for both."""

import os
import pathlib

from loads import tools as installed
from peers import Peer

MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
LISTENER = """\
- {type}name: load
  address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
  filter_chains:
  - {tls}filters:
    - name: envoy.filters.network.http_connection_manager
      typed_config:
        "@type": type.googleapis.com/{manager}
        stat_prefix: load
{codec}        http_filters:
        - {{name: envoy.filters.http.router, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}
        route_config:
          name: {routes}
          virtual_hosts:
"""
TCP_LISTENER = """\
- name: load
  address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
  filter_chains:
  - filters:
    - name: envoy.filters.network.tcp_proxy
      typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: load, cluster: c0}}
"""
HOST = """\
          - {{name: v{i}, domains: ["{domain}"], routes: [{{match: {{prefix: /}}, route: {{cluster: c{i}, timeout: 0s}}}}]}}
"""
CLUSTER = """\
  - name: c{i}
    connect_timeout: 5s
    load_assignment: {{cluster_name: c{i}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}}}]}}]}}
"""
TLS = """\
transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
        common_tls_context:
          alpn_protocols: [{alpn}]
          tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}
          tls_certificates: [{{certificate_chain: {{filename: "{identity.certificate}"}}, private_key: {{filename: "{identity.key}"}}}}]
    """
CODEC = """\
        codec_type: HTTP2
        http2_protocol_options: {}
"""
UPSTREAM_HTTP2 = """\
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
"""
# The default limits of 1,024, Envoy's and Ringway's, lie under the load of some scenarios.
LIMITS = """\
    circuit_breakers: {thresholds: [{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}]}
"""


def listener(setup, place, kind="", routes="load"):
    """A listener with one virtual host per route; a single one answers to every name."""
    if setup.tcp:
        return TCP_LISTENER.format(port=place.port)
    if setup.exact_balance:
        kind += "connection_balance_config: {exact_balance: {}}\n  "
    tls = TLS.format(alpn="h2" if setup.http2 else "http/1.1", identity=place.identity) if setup.tls else ""
    codec = CODEC if setup.http2 else ""
    text = LISTENER.format(type=kind, port=place.port, manager=MANAGER, routes=routes, tls=tls, codec=codec)
    for i in range(setup.routes):
        text += HOST.format(i=i, domain=f"h{i}.test" if setup.routes > 1 else "*")
    return text


def clusters(setup, place):
    """The clusters of the routes. Limits are raised for one cluster: where there are many, the load is small."""
    cluster = CLUSTER.format(i="{i}", upstream=place.upstream) + (UPSTREAM_HTTP2 if setup.upstream_http2 else "")
    text = "".join(cluster.replace("{i}", str(i)) for i in range(setup.routes))
    return text + LIMITS if setup.routes == 1 else text


def indent(text, by):
    return "".join(" " * by + line for line in text.splitlines(True))


class Envoy(Peer):
    name, color = "envoy", "#b04fc0"
    reloaded = 0

    def find(self, tools):
        self.binary = tools.envoy()
        return installed.version([self.binary, "--version"])

    def command(self, setup, place):
        text = f"admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {place.admin}}}}}}}\n"
        if setup.reloads:
            text += f"dynamic_resources: {{lds_config: {{path_config_source: {{path: {place.folder}/lds.yaml}}}}}}\n"
            text += "node: {id: load, cluster: load}\n"
            self.write_listeners(setup, place)
        text += "static_resources:\n"
        if not setup.reloads:
            text += "  listeners:\n" + indent(listener(setup, place), 2)
        text += "  clusters:\n" + clusters(setup, place)
        file = place.folder / "envoy.yaml"
        file.write_text(text)
        return [self.binary, "-c", file, "--concurrency", setup.workers, "--disable-hot-restart", "-l", "warning"]

    def reload(self, process, setup, place):
        self.reloaded += 1
        self.write_listeners(setup, place)

    def write_listeners(self, setup, place):
        """As its control planes do: a new file moved over the old one. Another name makes it another configuration."""
        text = f"version_info: '{self.reloaded}'\nresources:\n"
        text += listener(setup, place, '"@type": type.googleapis.com/envoy.config.listener.v3.Listener\n  ', f"r{self.reloaded}")
        new = pathlib.Path(place.folder, "lds.new")
        new.write_text(text)
        os.replace(new, place.folder / "lds.yaml")


ORDER = 4
PEERS = [Envoy()]
