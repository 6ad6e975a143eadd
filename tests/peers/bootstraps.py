"""Bootstraps as data: listeners and clusters with TLS, the same for Envoy and for Ringway, written as JSON.

Python's standard library only.
"""

import json

API = "type.googleapis.com/envoy.extensions"
TLS = f"{API}.transport_sockets.tls.v3"


def place(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def certificate(folder, name, key=None):
    """`NAME.pem` with `NAME.key`, or with the key in another PEM."""
    return {"certificate_chain": {"filename": f"{folder}/{name}.pem"}, "private_key": {"filename": f"{folder}/{f'{key}.pem' if key else f'{name}.key'}"}}


def own_tls(folder, name, protocols, authority=None, required=False):
    """A listener's: its certificate; the authority of those that clients are asked for, if they are."""
    common = {"alpn_protocols": protocols, "tls_certificates": [certificate(folder, name)]}
    if authority:
        common["validation_context"] = {"trusted_ca": {"filename": f"{folder}/{authority}.pem"}}
    return {"name": "tls", "typed_config": {"@type": f"{TLS}.DownstreamTlsContext", "require_client_certificate": required, "common_tls_context": common}}


def their_tls(folder, name, protocols, shows=None, authority="ca"):
    """A cluster's: the name that its endpoints must have, and the certificate that they are shown, if any."""
    validation = {
        "trusted_ca": {"filename": f"{folder}/{authority}.pem"},
        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": name}}],
    }
    # A client of Envoy's offers no TLS 1.3 unless it is told to.
    common = {"tls_params": {"tls_maximum_protocol_version": "TLSv1_3"}, "alpn_protocols": protocols, "validation_context": validation}
    if shows:
        common["tls_certificates"] = [certificate(folder, shows)]
    return {"name": "tls", "typed_config": {"@type": f"{TLS}.UpstreamTlsContext", "sni": name, "common_tls_context": common}}


def listener(name, port, routes, tls=None, told=(), **manager):
    """`routes`: clusters by prefix, which is taken off the path. `told`: headers of every response."""
    written = [{"match": {"prefix": prefix}, "route": {"cluster": cluster, "prefix_rewrite": "/", "timeout": "60s"}} for prefix, cluster in routes.items()]
    host = {"name": "all", "domains": ["*"], "routes": written}
    if told:
        host["response_headers_to_add"] = [{"header": {"key": key, "value": value}} for key, value in told]
    manager = {
        "@type": f"{API}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {"virtual_hosts": [host]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{API}.filters.http.router.v3.Router"}}],
        **manager,
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    written = {"name": name, "stat_prefix": name, "address": place(port), "filter_chains": [chain]}
    if tls:
        chain["transport_socket"] = tls
        # Envoy knows no server name without it.
        written["listener_filters"] = [{"name": "inspector", "typed_config": {"@type": f"{API}.filters.listener.tls_inspector.v3.TlsInspector"}}]
    return written


def cluster(name, port, tls=None, protocol="http1", idle=None):
    """`protocol`: `http1`, `http2`, or `auto` for what the endpoint chooses by ALPN. Without a port a control plane tells endpoints."""
    http1, http2 = {"http_protocol_options": {}}, {"http2_protocol_options": {}}
    options = {
        "http1": {"explicit_http_config": http1},
        "http2": {"explicit_http_config": http2},
        "auto": {"auto_config": {**http1, **http2}},
    }[protocol]
    message = {"@type": f"{API}.upstreams.http.v3.HttpProtocolOptions", **options}
    if idle:
        message["common_http_protocol_options"] = {"idle_timeout": idle}
    written = {
        "name": name,
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": message},
    }
    if port is None:
        written |= {"type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}}}
    else:
        written["load_assignment"] = {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": place(port)}}]}]}
    if tls:
        written["transport_socket"] = tls
    return written


def asks(cluster):
    """Keys of a bootstrap whose aggregated control plane is a cluster."""
    service = {"envoy_grpc": {"cluster_name": cluster}}
    ads = {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [service]}
    return {"node": {"id": "rig", "cluster": "rig"}, "dynamic_resources": {"ads_config": ads}}


def write(path, admin, listeners, clusters, **more):
    bootstrap = {"admin": {"address": place(admin)}, "static_resources": {"listeners": listeners, "clusters": clusters}, **more}
    path.write_text(json.dumps(bootstrap))
    return path
