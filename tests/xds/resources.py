"""Resources that the scripts of run.py serve."""

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2, scoped_route_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.extensions.filters.http.grpc_web.v3 import grpc_web_pb2  # noqa: F401 (JSON names its type)
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2  # noqa: F401
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2  # noqa: F401
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2  # noqa: F401
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2  # noqa: F401
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2  # noqa: F401
from envoy.service.runtime.v3 import rtds_pb2
from google.protobuf import any_pb2, json_format  # noqa: F401 (any_pb2: for the scripts)

PREFIX = "type.googleapis.com/"
MESSAGES = {
    "CDS": cluster_pb2.Cluster,
    "EDS": endpoint_pb2.ClusterLoadAssignment,
    "LDS": listener_pb2.Listener,
    "RDS": route_pb2.RouteConfiguration,
    "SRDS": scoped_route_pb2.ScopedRouteConfiguration,
    "SDS": secret_pb2.Secret,
    "RTDS": rtds_pb2.Runtime,
    "ECDS": extension_pb2.TypedExtensionConfig,
}
TYPES = {kind: PREFIX + message.DESCRIPTOR.full_name for kind, message in MESSAGES.items()}
ADS = {"ads": {}, "resource_api_version": "V3"}


def kind_of(type_url):
    return next((kind for kind, url in TYPES.items() if url == type_url), type_url)


def cluster(name, **more):
    """A cluster whose endpoints come by EDS."""
    return made("CDS", {"name": name, "type": "EDS", "connect_timeout": "1s", "eds_cluster_config": {"eds_config": ADS}, **more})


def static_cluster(name, *ports, **more):
    return made("CDS", {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment(name, *ports), **more})


def endpoints(name, *ports):
    return made("EDS", assignment(name, *ports))


def assignment(name, *ports):
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}} for port in ports]}]}


def address(port, ip="127.0.0.1"):
    return {"socket_address": {"address": ip, "port_value": port}}


def listener(name, port, route="routes", tls=None, upgrades=(), filters=(), fetch_timeout="15s", source=ADS, scoped=None, **more):
    """A listener whose routes come by RDS, or whose `scoped` routes do; `tls`: the secret of its certificate, waited for so long; `upgrades`: to what requests may upgrade;
    `filters`: those before the router."""
    manager = {
        "@type": f"{PREFIX}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        **({"scoped_routes": scoped} if scoped else {"rds": {"route_config_name": route, "config_source": source}}),
        "upgrade_configs": [{"upgrade_type": each} for each in upgrades],
        "http_filters": [*filters, {"name": "envoy.filters.http.router", "typed_config": typed("router.v3.Router")}],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    if tls:
        chain["transport_socket"] = transport_socket("Downstream", tls, fetch_timeout)
    return made("LDS", {"name": name, "address": address(port), "filter_chains": [chain]} | more)


def transport_socket(side, secret_name, fetch_timeout="15s", source=ADS):
    """TLS of a side whose certificate is this secret."""
    named = {"name": secret_name, "sds_config": {**source, "initial_fetch_timeout": fetch_timeout}}
    context = {"common_tls_context": {"tls_certificate_sds_secret_configs": [named]}}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {"@type": f"{PREFIX}envoy.extensions.transport_sockets.tls.v3.{side}TlsContext", **context},
    }


def client_tls(secret_name):
    """TLS of a cluster that shows this secret."""
    return transport_socket("Upstream", secret_name)


def tcp_listener(name, port, cluster_name):
    proxy = {"@type": f"{PREFIX}envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": name, "cluster": cluster_name}
    chain = {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}
    return made("LDS", {"name": name, "address": address(port), "filter_chains": [chain]})


def routes(name="routes", **by_prefix):
    """Routes to clusters by the first segment of the path; `rest` takes what is left."""
    listed = [{"match": {"prefix": "/" if prefix == "rest" else f"/{prefix}"}, "route": {"cluster": to}} for prefix, to in by_prefix.items()]
    return made("RDS", {"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": listed}]})


def told_scopes(name):
    """Scoped routes by the first segment of the path; the scopes come by SRDS, their routes by RDS."""
    extractor = {"name": ":path", "element_separator": "/", "index": 1}
    builder = {"fragments": [{"header_value_extractor": extractor}]}
    return {"name": name, "scope_key_builder": builder, "rds_config_source": ADS, "scoped_rds": {"scoped_rds_config_source": ADS}}


def scope(name, key, route):
    return made("SRDS", {"name": name, "key": {"fragments": [{"string_key": key}]}, "route_configuration_name": route})


def runtime(name, **values):
    """Values of a layer."""
    return made("RTDS", {"name": name, "layer": values})


def typed(name, **more):
    """An HTTP filter's configuration."""
    return {"@type": f"{PREFIX}envoy.extensions.filters.http.{name}", **more}


def told_filter(name, types=("rbac.v3.RBAC",), fetch_timeout="15s", disabled=False, source=ADS, **more):
    """A filter of a listener that comes by ECDS."""
    urls = [typed(each)["@type"] for each in types]
    discovery = {"config_source": {**source, "initial_fetch_timeout": fetch_timeout}, "type_urls": urls, **more}
    return {"name": name, "disabled": disabled, "config_discovery": discovery}


def denial(prefix):
    """A filter that denies requests whose paths begin so."""
    policy = {"permissions": [{"url_path": {"path": {"prefix": prefix}}}], "principals": [{"any": True}]}
    return typed("rbac.v3.RBAC", rules={"action": "DENY", "policies": {"p": policy}})


def extension(name, config):
    return made("ECDS", {"name": name, "typed_config": config})


def secret(name, certificate, key):
    inline = {"certificate_chain": {"inline_string": certificate}, "private_key": {"inline_string": key}}
    return made("SDS", {"name": name, "tls_certificate": inline})


def made(kind, content):
    return json_format.ParseDict(content, MESSAGES[kind]())
