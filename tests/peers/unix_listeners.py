"""Listeners on Unix sockets, part of unix_sockets.py: the same bootstrap through Envoy and Ringway, asked by curl and by sockets of the test.

Compared are answers, what the endpoint is told of the client, log lines, listeners' counters, which filter chain takes a connection, whom
RBAC lets through, the mode of the sockets' files and which of them are there when the proxy has ended.
"""

import contextlib
import json
import os
import pathlib
import re
import socket
import stat
import subprocess
import threading
import urllib.request

import rig

TYPE = "type.googleapis.com/envoy.extensions"
LOG = ("%RESPONSE_CODE% %RESPONSE_FLAGS% %FILTER_CHAIN_NAME% %DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% [%DOWNSTREAM_REMOTE_PORT%] "
       "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% [%DOWNSTREAM_LOCAL_PORT%] %PROTOCOL% %BYTES_SENT%\n")
TOLD = ["x-forwarded-for", "x-envoy-internal", "x-envoy-external-address", "x-forwarded-proto", "x-forwarded-port", "x-address", "x-port"]
COUNTERS = re.compile(r"(listener\.(?!admin\.)[^ ]+(?<!worker_0)\.(downstream_cx_(total|destroy)|no_filter_chain_match)|http\.(?!admin)[a-z]+\.(downstream_cx_total|downstream_rq_(total|2xx|4xx))"
                      r"|tcp\.relay\.downstream_cx_total|[a-z_]*rbac\.(allowed|denied))$")
BYTES = bytes(range(256)) * 4096
REQUESTS = 3
LISTENERS = ["plain", "internal", "abstract", "tls", "h2", "relay", "chains", "more", "denied", "mode"]


def typed(name, kind, **fields):
    return {"name": name, "typed_config": {"@type": f"{TYPE}.{kind}", **fields}}


def logs(path):
    return [typed("file", "access_loggers.file.v3.FileAccessLog", path=path, log_format={"text_format_source": {"inline_string": LOG}})]


def bootstrap(folder, paths, admin, log, ports):
    def manager(name, **more):
        routes = [{"match": {"prefix": "/"}, "route": {"cluster": "web"}, "request_headers_to_add": [
            {"header": {"key": "x-address", "value": "%DOWNSTREAM_REMOTE_ADDRESS%"}}, {"header": {"key": "x-port", "value": "%DOWNSTREAM_LOCAL_PORT%"}}]}]
        return typed("http", "filters.network.http_connection_manager.v3.HttpConnectionManager", stat_prefix=name, access_log=logs(log),
                     route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
                     http_filters=[typed("router", "filters.http.router.v3.Router")], **more)

    def direct(text):
        return typed("reply", "filters.network.direct_response.v3.Config", response={"inline_string": text})

    def listener(name, *chains, **more):
        return {"name": name, "address": {"pipe": {"path": paths[name]} | more.pop("pipe", {})}, "filter_chains": list(chains), **more}

    tls = {"common_tls_context": {"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [
        {"certificate_chain": {"filename": f"{folder}/cert.pem"}, "private_key": {"filename": f"{folder}/key.pem"}}]}}
    anybody = {"rules": {"action": "DENY", "policies": {"all": {"permissions": [{"any": True}], "principals": [
        {"and_ids": {"ids": [{"not_id": {"direct_remote_ip": {"address_prefix": "0.0.0.0", "prefix_len": 0}}}, {"any": True}]}}]}}}, "stat_prefix": "net_"}
    remote = {"use_remote_address": True, "append_x_forwarded_port": True}
    listeners = [
        listener("plain", {"filters": [manager("plain", **remote)]}),
        listener("internal", {"filters": [manager("internal", **remote, internal_address_config={"unix_sockets": True})]}),
        listener("abstract", {"filters": [manager("abstract")]}),
        listener("tls", {"name": "secret", "filters": [manager("tls")], "transport_socket": {"name": "tls", "typed_config": {
            "@type": f"{TYPE}.transport_sockets.tls.v3.DownstreamTlsContext", **tls}}}),
        listener("h2", {"filters": [manager("h", codec_type="HTTP2")]}),
        listener("relay", {"filters": [typed("tcp", "filters.network.tcp_proxy.v3.TcpProxy", stat_prefix="relay", cluster="bytes", access_log=logs(log))]}),
        listener("chains",
                 {"name": "port", "filter_chain_match": {"destination_port": 80}, "filters": [direct("port")]},
                 {"name": "external", "filter_chain_match": {"source_type": "EXTERNAL"}, "filters": [direct("external")]},
                 {"name": "range", "filter_chain_match": {"source_prefix_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]}, "filters": [direct("range")]},
                 {"name": "ports", "filter_chain_match": {"source_type": "SAME_IP_OR_LOOPBACK", "source_ports": [80]}, "filters": [direct("ports")]},
                 {"name": "local", "filter_chain_match": {"source_type": "SAME_IP_OR_LOOPBACK"}, "filters": [direct("local")]}),
        listener("more", {"filters": [direct("more")]}, listener_filters=[
            typed("original_dst", "filters.listener.original_dst.v3.OriginalDst"),
            typed("proxy_protocol", "filters.listener.proxy_protocol.v3.ProxyProtocol") | {"filter_disabled": {"destination_port_range": {"start": 1, "end": 2}}}],
            additional_addresses=[{"address": {"socket_address": {"address": "127.0.0.1", "port_value": ports[2]}}}, {"address": {"pipe": {"path": paths["again"]}}}]),
        listener("denied", {"filters": [typed("rbac", "filters.network.rbac.v3.RBAC", **anybody), direct("let in")]}),
        listener("mode", {"filters": [direct("mode")]}, pipe={"mode": 0o640}),
    ]
    clusters = [{"name": name, "connect_timeout": "5s", "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}]}]}} for name, port in [("web", ports[0]), ("bytes", ports[1])]]
    return {"admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
            "static_resources": {"listeners": listeners, "clusters": clusters}}


def serve(listener, converse):
    def accept():
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=converse, args=(peer,), daemon=True).start()

    listener.listen(64)
    threading.Thread(target=accept, daemon=True).start()


def tell(peer):
    """Answers requests without bodies with what they say of the client."""
    told = {}
    for line in peer.makefile("rb"):
        name, _, value = line.decode().strip().partition(":")
        if name:
            told[name.lower()] = value.strip()
            continue
        body = json.dumps([told.get(one) for one in TOLD]).encode()
        peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        told = {}
    peer.close()


def reverse(peer):
    """Gives the client its bytes back, reversed, once it has ended."""
    with peer:
        received = b"".join(iter(lambda: peer.recv(65536), b""))
        peer.sendall(received[::-1])


def talk(path, sent=b"", bind=None):
    """What comes back for these bytes and an end."""
    received = b""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(rig.DEADLINE_S)
        if bind:
            client.bind(bind)
        client.connect(path)
        # Who answers without reading may have ended before; what it has said is there all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while chunk := client.recv(65536):
                received += chunk
    return received


def observe(program, arguments, folder, mark, ports):
    """What one proxy shows. Its sockets have the same names as the other's, which has ended."""
    paths = {name: f"{folder}/{name}.sock" for name in [*LISTENERS, "again"]} | {"abstract": f"@ringway-front-{folder.name}"}
    (admin,) = rig.free_ports(1)
    log = folder / f"{mark}-listeners.log"
    config = folder / f"{mark}-listeners.json"
    config.write_text(json.dumps(bootstrap(folder, paths, admin, str(log), ports)))
    for left in pathlib.Path(folder).glob("*.sock"):
        left.unlink()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(paths["plain"])

    def ask(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}{path}", timeout=rig.DEADLINE_S) as reply:
            return reply.read().decode()

    def curl(name, *more):
        where = ["--abstract-unix-socket", paths[name][1:]] if name == "abstract" else ["--unix-socket", paths[name]]
        scheme = "https" if name == "tls" else "http"
        # Of several in plain HTTP/2 curl asks for the first alone.
        urls = [f"{scheme}://unix.test/{number}" for number in range(1 if name == "h2" else REQUESTS)]
        done = subprocess.run(["curl", "-sS", "-m", "10", "-w", "\n%{http_code} %{http_version}\n", *where, *more, *urls], capture_output=True, text=True, check=False)
        return done.stdout.splitlines()

    seen = {}
    with rig.Process([program, "-c", config, *arguments], ready_port=admin):
        rig.wait_for(lambda: ask("/ready").strip() == "LIVE", "readiness")
        seen["answers"] = {
            "plain": curl("plain"), "plain behind a hop": curl("plain", "-H", "x-forwarded-for: 192.0.2.1"), "internal": curl("internal"),
            "internal behind a hop": curl("internal", "-H", "x-forwarded-for: 192.0.2.1"), "abstract": curl("abstract"),
            "abstract behind a hop": curl("abstract", "-H", "x-forwarded-for: 192.0.2.1"),
            "tls": curl("tls", "-k", "--http1.1"), "tls h2": curl("tls", "-k", "--http2"),
            "h2": curl("h2", "--http2-prior-knowledge"),
        }
        received = talk(paths["relay"], BYTES)
        seen["relayed"] = "all" if received == BYTES[::-1] else len(received)
        # A client may have a name of its own, which nobody asks for.
        named = f"{folder}/client-{mark}.sock"
        received = talk(paths["relay"], b"named", bind=named)
        os.unlink(named)
        seen["relayed, named"] = received.decode()
        seen["replies"] = {name: talk(paths[name], b"x").decode() for name in ["chains", "more", "again", "denied", "mode"]}
        seen["modes"] = {name: oct(stat.S_IMODE(os.stat(paths[name]).st_mode)) for name in ["plain", "mode", "again"]}
        seen["listeners"] = sorted(ask("/listeners").splitlines())
        rig.wait_for(lambda: "tcp.relay.downstream_cx_total: 2\n" in ask("/stats"), "the relays")
        stats = dict(line.split(": ", 1) for line in ask("/stats").splitlines() if COUNTERS.match(line.split(": ")[0]))
        seen["counters"] = {name: value for name, value in sorted(stats.items()) if value != "0"}
    written = sorted(line.replace(f"client-{mark}", "client") for line in log.read_text().splitlines())
    seen["log"] = written
    lines = sum(len(one) // 2 for one in seen["answers"].values()) + 2
    if len(written) != lines:
        raise rig.Failed(f"{mark}: {len(written)} log lines instead of {lines}: {seen}")
    seen["left"] = sorted(name for name, path in paths.items() if os.path.exists(path))
    if seen["relayed"] != "all" or any(not line.startswith("200 ") for answer in seen["answers"].values() for line in answer[1::2]):
        raise rig.Failed(f"{mark} does not serve: {seen}")
    return seen


def run(folder, proxies):
    """What is compared, per proxy; certificate and key of unix.test lie in the folder."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    serve(listeners[0], tell)
    serve(listeners[1], reverse)
    ports = [one.getsockname()[1] for one in listeners] + rig.free_ports(1)
    try:
        return [observe(program, arguments, folder, mark, ports) for mark, program, arguments in proxies]
    finally:
        for one in listeners:
            one.close()
