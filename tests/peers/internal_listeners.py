"""Internal listeners: the same bootstrap through Envoy and Ringway: HTTP, relayed bytes and tunnels that pass one on their way to an endpoint of the test, in plain text, over HTTP/2 and under TLS, and one that is not there.

    python3 tests/peers/internal_listeners.py          # needs Envoy 1.40, openssl and a build of Ringway
    python3 tests/peers/internal_listeners.py --self   # Envoy against itself: proves that the comparison is stable

Compared are answers, log lines of both listeners, counters of clusters and listeners, the lines of `/clusters` and `/listeners`, the ends of
connections, and which listeners and transport sockets load.
"""

import contextlib
import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request

import rig

TYPE = "type.googleapis.com/envoy.extensions"
OUTER = ("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %UPSTREAM_HOST% %UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_LOCAL_ADDRESS% "
         "[%UPSTREAM_LOCAL_PORT%] %UPSTREAM_CLUSTER% %UPSTREAM_TRANSPORT_FAILURE_REASON%\n")
INNER = ("inner %RESPONSE_CODE% %RESPONSE_FLAGS% %DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% [%DOWNSTREAM_REMOTE_PORT%] "
         "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% [%DOWNSTREAM_LOCAL_PORT%] "
         "%DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID% %REQ(X-FORWARDED-FOR)% %REQ(X-ENVOY-INTERNAL)%\n")
SERVING = ["plain", "h2", "tls", "tls_h2"]
HTTP = [*SERVING, "missing"]
RELAYED = ["bytes", "tunnel", "restored", "told", "nonsense", "by_match", "lost"]
COUNTERS = re.compile(r"cluster\.[a-z_0-9]+\.(upstream_cx_(total|http1_total|http2_total|connect_fail|active|destroy|connect_timeout|connect_attempts_exceeded)"
                      r"|upstream_rq_(total|200|503|2xx|5xx|completed|pending_failure_eject|active)|membership_(total|healthy)|bind_errors|ssl\.handshake)$"
                      r"|listener\.envoy_internal_[a-z_0-9]+\.(downstream_cx_(total|active|destroy)|no_filter_chain_match|ssl\.handshake)$"
                      r"|tcp\.[a-z]+\.downstream_cx_(total|rx_bytes_total|tx_bytes_total)$")
HOSTS = re.compile(r"::envoy://.*::(cx_total|cx_active|cx_connect_fail|rq_total|rq_success|rq_error|hostname|health_flags|weight|priority)::")
REQUESTS = 4
BYTES = bytes(range(256)) * 8192
CHAIN = 5  # the one that asks for nothing


def logs(path, line):
    return [{"name": "file", "typed_config": {"@type": f"{TYPE}.access_loggers.file.v3.FileAccessLog", "path": path,
                                              "log_format": {"text_format_source": {"inline_string": line}}}}]


def inside(name, listener, **fields):
    address = {"envoy_internal_address": {"server_listener_name": listener, "endpoint_id": f"id-{name}"}}
    return {"name": name, "connect_timeout": "5s", **fields, "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}}


def around(socket_config, **fields):
    return {"transport_socket": {"name": "internal", "typed_config": {
        "@type": f"{TYPE}.transport_sockets.internal_upstream.v3.InternalUpstreamTransport", "transport_socket": socket_config, **fields}}}


def telling(name, kind, local):
    """A cluster whose endpoint's metadata, or its own, says where connections lead to."""
    metadata = {"metadata": {"filter_metadata": {"envoy.filters.listener.original_dst": {"local": local}}}}
    passed = [{"kind": {kind: {}}, "name": "envoy.filters.listener.original_dst"}]
    cluster = inside(name, "restoring", **around(RAW, passthrough_metadata=passed))
    (cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0] if kind == "host" else cluster).update(metadata)
    return cluster


def manager(prefix, routes, log, line, **fields):
    return {"name": "http", "typed_config": {
        "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": prefix, "access_log": logs(log, line), **fields,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{TYPE}.filters.http.router.v3.Router"}}]}}


def relay(prefix, cluster, log, line, **fields):
    return {"name": "tcp", "typed_config": {"@type": f"{TYPE}.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": prefix, "cluster": cluster,
                                            "access_log": logs(log, line), **fields}}


EXTENSION = {"name": "internal", "typed_config": {"@type": f"{TYPE}.bootstrap.internal_listener.v3.InternalListener", "buffer_size_kb": 64}}
RAW = {"name": "raw", "typed_config": {"@type": f"{TYPE}.transport_sockets.raw_buffer.v3.RawBuffer"}}
H2 = {"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
    "@type": f"{TYPE}.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}}}


def bootstrap(folder, ports, admin, origin, log):
    tls = {"name": "tls", "typed_config": {"@type": f"{TYPE}.transport_sockets.tls.v3.UpstreamTlsContext", "sni": "rig.test"}}
    shown = {"name": "tls", "typed_config": {"@type": f"{TYPE}.transport_sockets.tls.v3.DownstreamTlsContext", "common_tls_context": {
        "tls_certificates": [{"certificate_chain": {"filename": f"{folder}/cert.pem"}, "private_key": {"filename": f"{folder}/key.pem"}}]}}}
    to_origin = [{"match": {"prefix": "/"}, "route": {"cluster": "origin"}}]

    def inner(name, chain, **fields):
        return {"name": name, "internal_listener": {}, "filter_chains": [chain], **fields}

    http = {"filters": [manager("inner", to_origin, log, INNER, use_remote_address=True)]}
    # Who comes from within has no address of IP, and is not from this host: the chain that takes it says so.
    matches = [{"source_type": "SAME_IP_OR_LOOPBACK"}, {"source_prefix_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]}, {"destination_port": 80},
               {"prefix_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]}, {"source_ports": [1]}]
    by_match = [{"filters": [{"name": "says", "typed_config": {"@type": f"{TYPE}.filters.network.direct_response.v3.Config", "response": {
        "inline_string": f"chain {number}"}}}], "filter_chain_match": match} for number, match in enumerate([*matches, {}])]
    listeners = [
        inner("http", http), inner("https", {**http, "transport_socket": shown}), {"name": "matching", "internal_listener": {}, "filter_chains": by_match},
        inner("relay", {"filters": [relay("inner", "origin_bytes", log, INNER)]}),
        inner("tunneling", {"filters": [relay("tunnel", "origin_proxy", log, INNER, tunneling_config={"hostname": "host.test:443", "headers_to_add": [
            {"header": {"key": "x-local", "value": "%DOWNSTREAM_LOCAL_ADDRESS%"}}, {"header": {"key": "x-remote", "value": "%DOWNSTREAM_REMOTE_ADDRESS%"}}]})]}),
        # Where the endpoint says that its connections lead to.
        inner("restoring", {"filters": [relay("restoring", "origin_proxy", log, INNER, tunneling_config={"hostname": "%DOWNSTREAM_LOCAL_ADDRESS%"})]},
              listener_filters=[{"name": "original_dst", "typed_config": {"@type": f"{TYPE}.filters.listener.original_dst.v3.OriginalDst"}}]),
    ]

    def outer(name, port, chain):
        return {"name": name, "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}, "filter_chains": [{"filters": [chain]}]}

    routes = [{"match": {"prefix": f"/{name}/"}, "route": {"cluster": name}} for name in HTTP]
    fronts = [manager("outer", routes, log, OUTER), *(relay(name, name, log, OUTER) for name in RELAYED)]
    listeners += [outer(*one) for one in zip(["outer", *RELAYED], ports, fronts)]

    def at_port(name, port):
        return {"name": name, "connect_timeout": "5s", "load_assignment": {"cluster_name": name, "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}]}]}}

    clusters = [
        inside("plain", "http", **around(RAW)), inside("h2", "http", **H2), inside("tls", "https", **around(tls)), inside("tls_h2", "https", **H2, **around(tls)),
        telling("restored", "host", "10.1.2.3:99"), telling("told", "cluster", "[2001:db8::1]:99"), telling("nonsense", "host", "nonsense"), inside("missing", "nowhere"), inside("by_match", "matching"), inside("bytes", "relay"), inside("tunnel", "tunneling"), inside("lost", "nowhere"),
        at_port("origin", origin["http"]), at_port("origin_bytes", origin["bytes"]), at_port("origin_proxy", origin["proxy"]),
    ]
    return {"admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}}, "bootstrap_extensions": [EXTENSION],
            "static_resources": {"listeners": listeners, "clusters": clusters}}


# --- the endpoint


def serve_http(peer):
    """Answers requests without bodies with their path."""
    path = b""
    for line in peer.makefile("rb"):
        if line.startswith(b"GET "):
            path = line.split(b" ")[1]
        elif line == b"\r\n":
            peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(path), path))


def reverse(peer):
    """Gives the client its bytes back, reversed, once it has ended."""
    received = b"".join(iter(lambda: peer.recv(65536), b""))
    peer.sendall(received[::-1])


HEADS = []


def serve_proxy(peer):
    """Makes the tunnel that is asked for."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += peer.recv(65536)
    head, _, received = head.partition(b"\r\n\r\n")
    HEADS.append(sorted(head.decode().split("\r\n")))
    peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    # Over HTTP/1.1 Envoy ends both directions with one.
    while len(received) < len(BYTES):
        received += peer.recv(65536)
    peer.sendall(received[::-1])
    peer.recv(1)


def start(serve):
    listener = socket.create_server(("127.0.0.1", 0))

    def converse(peer):
        with peer, contextlib.suppress(ConnectionError):
            serve(peer)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=converse, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener


# --- what is compared


def relayed(name, port):
    """What comes back for BYTES; a proxy that has no endpoint may end before it has taken them."""
    received = b""
    # A reset may come before the connect is over.
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), rig.DEADLINE_S) as client:
        if name == "by_match":
            return client.recv(65536).decode()
        client.sendall(BYTES)
        if name == "bytes":
            client.shutdown(socket.SHUT_WR)
        while (name == "bytes" or len(received) < len(BYTES)) and (chunk := client.recv(65536)):
            received += chunk
    return "all" if received == BYTES[::-1] else len(received)


def observe(program, arguments, folder, origin, mark):
    """What one proxy shows."""
    *ports, admin = rig.free_ports(1 + len(RELAYED) + 1)
    log = folder / f"{mark}.log"
    config = folder / f"{mark}.json"
    config.write_text(json.dumps(bootstrap(folder, ports, admin, origin, str(log))))
    HEADS.clear()

    def ask(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}{path}", timeout=rig.DEADLINE_S) as reply:
            return reply.read().decode()

    def masked(line):
        for place, port in zip(["outer", *RELAYED], ports):
            line = line.replace(f":{port}", f":{place}")
        return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", line)

    seen = {}
    with rig.Process([program, "-c", config, *arguments], ready_port=admin):
        rig.wait_for(lambda: ask("/ready").strip() == "LIVE", "readiness")
        for name in HTTP:
            answers = []
            for number in range(REQUESTS):
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/{name}/{number}", timeout=rig.DEADLINE_S) as reply:
                        answers.append((reply.status, reply.read().decode()))
                except urllib.error.HTTPError as error:
                    answers.append((error.code, error.read().decode()))
            seen[f"answers of {name}"] = answers
        for name, port in zip(RELAYED, ports[1:]):
            seen[f"bytes of {name}"] = relayed(name, port)
        seen["tunnel asked for"] = list(HEADS)
        quiet = ["origin_bytes", "origin_proxy", *RELAYED[:-1]]
        rig.wait_for(lambda: all(f"cluster.{name}.upstream_cx_active: 0\n" in ask("/stats") for name in quiet), "the end of all relays")
        stats = dict(line.split(": ", 1) for line in ask("/stats").splitlines() if COUNTERS.match(line.split(": ")[0]))
        seen |= {f"counter {name}": value for name, value in stats.items() if value != "0"}
        seen["hosts"] = sorted(line for line in ask("/clusters").splitlines() if HOSTS.search(line))
        seen["listeners"] = sorted(masked(line) for line in ask("/listeners").splitlines())
        statuses = json.loads(ask("/listeners?format=json"))["listener_statuses"]
        seen["listeners as JSON"] = sorted(json.dumps(status, sort_keys=True) for status in statuses if "envoy_internal_address" in status["local_address"])
    # What is still there at the end is recorded, too.
    seen["log"] = sorted(masked(line) for line in log.read_text().splitlines() if " by_match " not in line)
    return seen


def serves(seen):
    """Whether everything came through that is to."""
    return all(seen[f"bytes of {name}"] == "all" for name in RELAYED[:-2]) and all(code == 200 for name in SERVING for code, _ in seen[f"answers of {name}"])


def verdicts(program, arguments, folder):
    """Which listeners and transport sockets load."""
    listener = {"name": "a", "internal_listener": {}, "filter_chains": [{"filters": [{"name": "echo", "typed_config": {"@type": f"{TYPE}.filters.network.echo.v3.Echo"}}]}]}
    port = {"socket_address": {"address": "127.0.0.1", "port_value": 1}}
    listeners = {
        "plain": {}, "address": {"address": port}, "internal address": {"address": {"envoy_internal_address": {"server_listener_name": "x"}}},
        "additional address": {"additional_addresses": [{"address": port}]}, "reuse_port": {"enable_reuse_port": False}, "freebind": {"freebind": True},
        "no freebind": {"freebind": False}, "transparent": {"transparent": True}, "backlog": {"tcp_backlog_size": 3},
        "socket options": {"socket_options": [{"level": 1, "name": 2, "int_value": 1}]}, "not bound": {"bind_to_port": False},
        "balance": {"connection_balance_config": {"exact_balance": {}}}, "use_original_dst": {"use_original_dst": True}, "prefix": {"stat_prefix": "x"},
        "batch": {"max_connections_to_accept_per_socket_event": 2}, "limit": {"ignore_global_conn_limit": True}, "fast open": {"tcp_fast_open_queue_length": 3},
    }
    cases = {name: {"bootstrap_extensions": [EXTENSION], "static_resources": {"listeners": [listener | fields]}} for name, fields in listeners.items()}
    cases["no extension"] = {"static_resources": {"listeners": [listener]}}
    cases["address in place of it"] = {"bootstrap_extensions": [EXTENSION], "static_resources": {"listeners": [
        {"name": "a", "address": {"envoy_internal_address": {"server_listener_name": "x"}}, "filter_chains": listener["filter_chains"]}]}}
    for size in (0, 1, 8192, 8193):
        cases[f"buffer {size}"] = {"bootstrap_extensions": [EXTENSION | {"typed_config": EXTENSION["typed_config"] | {"buffer_size_kb": size}}]}
    clusters = {"endpoint": inside("c", "a"), "around raw": inside("c", "a", **around(RAW)), "around nothing": inside("c", "a", **around(None)),
                "request's metadata": inside("c", "a", **around(RAW, passthrough_metadata=[{"kind": {"request": {}}, "name": "envoy.filters.listener.original_dst"}]))}
    nameless = inside("c", "a")
    nameless["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] = {"envoy_internal_address": {}}
    clusters["nameless"] = nameless
    cases |= {name: {"bootstrap_extensions": [EXTENSION], "static_resources": {"clusters": [cluster]}} for name, cluster in clusters.items()}
    seen = {}
    for name, case in cases.items():
        file = folder / "case.json"
        file.write_text(json.dumps(case))
        done = subprocess.run([program, "--mode", "validate", "-c", file, *arguments], capture_output=True, text=True, check=False)
        seen[f"load {name}"] = done.returncode == 0
    return seen


def run():
    with tempfile.TemporaryDirectory(prefix="internal-") as name:
        folder = pathlib.Path(name)
        rig.self_signed(folder)
        listeners = {"http": start(serve_http), "bytes": start(reverse), "proxy": start(serve_proxy)}
        origin = {name: listener.getsockname()[1] for name, listener in listeners.items()}
        arguments = ["--concurrency", "1", "-l", "error", "--disable-hot-restart"]
        proxies = [("envoy", rig.envoy()), ("again", rig.envoy()) if "--self" in sys.argv else ("ringway", rig.ringway())]
        (first, one), (second, other) = [
            (mark, observe(program, arguments, folder, origin, mark) | verdicts(program, arguments, folder)) for mark, program in proxies]
        for listener in listeners.values():
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
    differences = 0
    # Within Envoy the end that follows an answer at once takes it away.
    if "--self" not in sys.argv and (one.pop("bytes of by_match"), other.pop("bytes of by_match")) != (0, f"chain {CHAIN}"):
        raise rig.Failed("another chain than expected takes a connection from within")
    for what in sorted(one.keys() | other.keys()):
        if one.get(what) == other.get(what):
            continue
        differences += 1
        print(f"{what}:\n  {first}: {one.get(what)}\n  {second}: {other.get(what)}")
    print(f"{len(one)} things compared, {differences} different")
    if differences:
        raise rig.Failed(f"{differences} differences")
    if not serves(one):
        raise rig.Failed(f"{first} does not serve: {one}")


if __name__ == "__main__":
    rig.main(run)
