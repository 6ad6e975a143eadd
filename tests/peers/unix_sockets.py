"""Endpoints and listeners on Unix sockets, by path and by abstract name: the same bootstrap through Envoy and Ringway to nginx (HTTP/1.1, HTTP/2, TLS) and to servers of the test.

    python3 tests/peers/unix_sockets.py          # needs Envoy 1.40, nginx, curl and a build of Ringway
    python3 tests/peers/unix_sockets.py --self   # Envoy against itself: proves that the comparison is stable

Compared are answers, log lines, the clusters' counters and the lines of `/clusters`, of endpoints that serve, of a path at which nothing
is, and of one at which nobody listens any more. What is compared of listeners is in unix_listeners.py.
"""

import errno
import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request

import rig
import unix_listeners

TYPE = "type.googleapis.com/envoy.extensions"
LOG = "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %UPSTREAM_HOST% %UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_LOCAL_ADDRESS% %UPSTREAM_CLUSTER%\n"
HTTP = ["path", "abstract", "h2", "tls", "missing", "left"]
RELAYED = ["bytes", "missing_bytes"]
# What is not there is told apart by these; times and sizes of buffers are nobody's contract.
COUNTERS = re.compile(r"cluster\.[a-z_0-9]+\.(upstream_cx_(total|http1_total|http2_total|connect_fail|active|destroy|none_healthy|connect_timeout)"
                      r"|upstream_rq_(total|200|503|2xx|5xx|completed|pending_failure_eject|active)|membership_(total|healthy)|bind_errors)$")
HOSTS = re.compile(r"::(cx_total|cx_active|cx_connect_fail|rq_total|rq_success|rq_error|hostname|health_flags|weight|priority)::")
REQUESTS = 5
BYTES = bytes(range(256)) * 4096


def sockets(folder):
    mark = folder.name
    return {
        "path": f"{folder}/nginx.sock", "abstract": f"@ringway-{mark}", "missing": f"{folder}/missing.sock", "left": f"{folder}/left.sock",
        "h2": f"{folder}/h2.sock", "tls": f"{folder}/tls.sock", "bytes": f"{folder}/bytes.sock", "missing_bytes": f"{folder}/missing.sock",
    }


def logs(path):
    return [{"name": "file", "typed_config": {"@type": f"{TYPE}.access_loggers.file.v3.FileAccessLog", "path": path,
                                              "log_format": {"text_format_source": {"inline_string": LOG}}}}]


def bootstrap(folder, ports, admin, log):
    def listener(name, port, chain):
        return {"name": name, "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}, "filter_chains": [{"filters": [chain]}]}

    more = {
        "h2": {"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{TYPE}.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}}},
        "tls": {"transport_socket": {"name": "tls", "typed_config": {"@type": f"{TYPE}.transport_sockets.tls.v3.UpstreamTlsContext", "sni": "unix.test"}}},
    }

    def cluster(name, path):
        return more.get(name, {}) | {"name": name, "connect_timeout": "5s", "load_assignment": {"cluster_name": name, "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": path}}}}]}]}}

    routes = [{"match": {"prefix": f"/{name}/"}, "route": {"cluster": name}} for name in HTTP]
    manager = {"name": "http", "typed_config": {
        "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "http", "access_log": logs(log),
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{TYPE}.filters.http.router.v3.Router"}}]}}
    relays = [{"name": "tcp", "typed_config": {"@type": f"{TYPE}.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": name, "cluster": name,
                                               "access_log": logs(log)}} for name in RELAYED]
    names = ["http", *RELAYED]
    listeners = [listener(*one) for one in zip(names, ports, [manager, *relays])]
    return {"admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
            "static_resources": {"listeners": listeners, "clusters": [cluster(*one) for one in sockets(folder).items()]}}


def reverse(listener):
    """Gives every client its bytes back, reversed, once it has ended."""
    while True:
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        with peer:
            received = b"".join(iter(lambda: peer.recv(65536), b""))
            peer.sendall(received[::-1])


def relay(port):
    """What comes back for BYTES; a proxy that has no endpoint may end before it has taken them."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), rig.DEADLINE_S) as client:
        try:
            client.sendall(BYTES)
            client.shutdown(socket.SHUT_WR)
            while chunk := client.recv(65536):
                received += chunk
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                raise
    return received


def observe(program, arguments, folder, mark):
    """What one proxy shows."""
    *ports, admin = rig.free_ports(1 + len(RELAYED) + 1)
    log = folder / f"{mark}.log"
    config = folder / f"{mark}.json"
    config.write_text(json.dumps(bootstrap(folder, ports, admin, str(log))))

    def ask(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}{path}", timeout=rig.DEADLINE_S) as reply:
            return reply.read().decode()

    seen = {}
    with rig.Process([program, "-c", config, *arguments], ready_port=admin):
        rig.wait_for(lambda: ask("/ready").strip() == "LIVE", "readiness")
        for name in HTTP:
            urls = [f"http://127.0.0.1:{ports[0]}/{name}/{number}" for number in range(REQUESTS)]
            done = subprocess.run(["curl", "-sS", "-m", "10", "-w", "\n%{http_code}\n", *urls], capture_output=True, text=True, check=False)
            seen[f"answers of {name}"] = done.stdout.splitlines()
        for name, port in zip(RELAYED, ports[1:]):
            received = relay(port)
            seen[f"bytes of {name}"] = "all" if received == BYTES[::-1] else len(received)
        # Connections that are gone for their clients may not be for the proxy yet.
        lines = REQUESTS * len(HTTP) + len(RELAYED)
        rig.wait_for(lambda: "cluster.bytes.upstream_cx_active: 0\n" in ask("/stats"), "the end of all relays")
        stats = dict(line.split(": ", 1) for line in ask("/stats").splitlines() if COUNTERS.match(line.split(": ")[0]))
        seen["counters"] = {name: value for name, value in stats.items() if value != "0"}
        seen["hosts"] = sorted(line for line in ask("/clusters").splitlines() if HOSTS.search(line))
    written = log.read_text().splitlines()
    seen["log"] = sorted(written)
    if len(written) != lines:
        raise rig.Failed(f"{mark}: {len(written)} log lines instead of {lines}: {written}")
    if seen["bytes of bytes"] != "all" or any(seen[f"answers of {name}"][1::2] != ["200"] * REQUESTS for name in ["path", "abstract", "h2", "tls"]):
        raise rig.Failed(f"{mark} does not serve: {seen}")
    return seen


def run():
    with tempfile.TemporaryDirectory(prefix="unix-") as name:
        folder = pathlib.Path(name)
        paths = sockets(folder)
        left = socket.socket(socket.AF_UNIX)
        left.bind(paths["left"])
        left.close()
        listeners = []
        # nginx has no abstract names: a small server of HTTP has.
        for address, serve in [(paths["bytes"], reverse), ("\0" + paths["abstract"][1:], serve_http)]:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(address)
            listener.listen(16)
            listeners.append(listener)
            threading.Thread(target=serve, args=(listener,), daemon=True).start()
        nginx_config = folder / "nginx.conf"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=unix.test",
                        "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True, capture_output=True)
        servers = {"path": "", "h2": " http2", "tls": f" ssl; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem"}
        written = "".join(f'server {{ listen unix:{paths[name]}{kind}; return 200 "$uri"; }}\n' for name, kind in servers.items())
        nginx_config.write_text(rig.NGINX_BEGIN.replace("@folder@", str(folder)) + written + "}\n")
        proxies = [("envoy", rig.envoy(), ["--concurrency", "1", "-l", "error", "--disable-hot-restart"])]
        if "--self" in sys.argv:
            proxies.append(("again", *proxies[0][1:]))
        else:
            proxies.append(("ringway", rig.ringway(), ["--concurrency", "1", "-l", "error", "--disable-hot-restart"]))
        with rig.Process([rig.binary("RINGWAY_NGINX", "nginx", "/usr/sbin/nginx"), "-c", nginx_config, "-e", folder / "begin.log"]) as nginx:
            rig.wait_for(lambda: nginx.check() and pathlib.Path(paths["tls"]).exists(), "nginx")
            (first, one), (second, other) = [(mark, observe(program, arguments, folder, mark)) for mark, program, arguments in proxies]
        for listener in listeners:
            listener.close()
        fronts = unix_listeners.run(folder, proxies)
        for seen, front in zip([one, other], fronts):
            seen |= {f"listeners: {what}": value for what, value in front.items()}
    differences = 0
    for what in one:
        if one[what] == other[what]:
            continue
        differences += 1
        print(f"{what}:\n  {first}: {one[what]}\n  {second}: {other[what]}")
    print(f"{len(one)} things compared, {differences} different")
    if differences:
        raise rig.Failed(f"{differences} differences")


def serve_http(listener):
    """Answers requests without bodies with their path."""
    def converse(peer):
        reader = peer.makefile("rb")
        path = b""
        for line in reader:
            if line.startswith(b"GET "):
                path = line.split(b" ")[1]
            elif line == b"\r\n":
                peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(path), path))

    while True:
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=converse, args=(peer,), daemon=True).start()


if __name__ == "__main__":
    rig.main(run)
