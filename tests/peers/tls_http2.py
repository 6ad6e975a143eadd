"""HTTP/2 over TLS towards and from programs that are not ours: nghttpd and Envoy behind Ringway, nghttp and Envoy in front of it, mutual TLS
between Ringway and Envoy.

    python3 tests/peers/tls_http2.py [--backend io_uring|epoll]...   # default: both
    python3 tests/peers/tls_http2.py --proxy envoy                   # Envoy in Ringway's place: proves the rig

Bytes are compared both ways, and both sides are asked what they agreed on: the version of HTTP that ALPN chose or that was configured, the
version of TLS, server name and client certificate that Envoy saw, and the client certificate that Ringway tells the next hop.
"""

import argparse
import base64
import contextlib
import hashlib
import json
import pathlib
import random
import subprocess
import tempfile
import urllib.request

import bootstraps
import http2
import rig
import tls

BODY = random.Random(5).randbytes(3_000_000)
UPLOAD = BODY[:1_000_000]
REQUESTS = 4000
# What the one that answers saw of its connection.
SEEN = [("x-seen", "%PROTOCOL%|%DOWNSTREAM_TLS_VERSION%|%REQUESTED_SERVER_NAME%|%DOWNSTREAM_PEER_SUBJECT%")]
# The protocols that a cluster's ALPN offers, how its HTTP is chosen, the port, and what it must come to.
BEHIND = {
    "nghttpd": (["h2"], "http2", "nghttpd", None),
    "envoy2": (["h2"], "http2", "behind", "HTTP/2"),
    "envoy1": (["http/1.1"], "http1", "behind", "HTTP/1.1"),
    "chosen": ([], "auto", "behind", "HTTP/2"),
    # The same, towards one that knows HTTP/1.1 alone.
    "chosen1": ([], "auto", "behind_old", "HTTP/1.1"),
}
# The protocols of Envoy's clusters towards Ringway, the certificate that is shown, and what it must come to.
IN_FRONT = {
    "to2": (["h2"], "http2", "client", "HTTP/2"),
    "to1": (["http/1.1"], "http1", "client", "HTTP/1.1"),
    "choosing": ([], "auto", "client", "HTTP/2"),
}
NGINX = rig.NGINX_BEGIN + """  server {
    listen 127.0.0.1:@nginx@;
    root @folder@/files;
    location = /told { return 200 "$http_x_forwarded_client_cert"; }
    location /put/ { dav_methods PUT; create_full_put_path on; }
  }
}
"""


class Bench:
    def __init__(self, folder, ports):
        self.folder, self.ports = folder, ports
        self.curl_binary = rig.binary("RINGWAY_CURL", "curl")

    def curl(self, port, path, *options, secure=True):
        """The body, and the status, the version of HTTP and what the answering side saw."""
        got = self.folder / "got"
        got.unlink(missing_ok=True)
        scheme, trust = ("https", ["--cacert", self.folder / "ca.pem", "--resolve", f"{tls.NAME}:{port}:127.0.0.1"]) if secure else ("http", [])
        host = tls.NAME if secure else "127.0.0.1"
        told = http2.run_tool([
            self.curl_binary, "-sS", *trust, "-o", got, "-w", "%{http_code} %{http_version} %header{x-seen}", *options, f"{scheme}://{host}:{port}{path}",
        ])
        status, version, seen = told.split(" ", 2)
        return got.read_bytes() if got.exists() else b"", int(status), version, seen

    def stats(self, admin):
        url = f"http://127.0.0.1:{self.ports[admin]}/stats?format=json"
        with urllib.request.urlopen(url, timeout=rig.DEADLINE_S) as answer:
            return {each["name"]: each["value"] for each in json.load(answer)["stats"] if "value" in each}

    def counted(self, admin, *names):
        """Each counter moves; what was counted may be told later."""
        for name in names:
            rig.wait_for(lambda: self.stats(admin).get(name, 0) > 0, f"{name} to count")


def digest(data):
    return hashlib.sha256(data).hexdigest(), len(data)


def exchanges(bench, port, prefix, options, wanted, secure=True, echoes=False):
    """A file down, a body up, and what was seen."""
    body, status, version, seen = bench.curl(port, f"{prefix}big", *options, secure=secure)
    tls.same((status, *digest(body)), (200, *digest(BODY)), f"{prefix}big")
    if wanted is not None:
        tls.same(seen, wanted, f"what was seen of {prefix}")
    (bench.folder / "upload").write_bytes(UPLOAD)
    if echoes:
        body, status, _, _ = bench.curl(port, f"{prefix}echo", *options, "--data-binary", f"@{bench.folder / 'upload'}", secure=secure)
        tls.same((status, *digest(body)), (200, *digest(UPLOAD)), f"a body to {prefix} and back")
    else:
        put = bench.folder / "files/put/upload"
        put.unlink(missing_ok=True)
        _, status, _, _ = bench.curl(port, f"{prefix}put/upload", *options, "-T", bench.folder / "upload", secure=secure)
        tls.same((status, *digest(put.read_bytes())), (201, *digest(UPLOAD)), f"a body to {prefix}")
    return version


def check_nghttp(bench):
    """It knows HTTP/2 alone, and gives up where ALPN does not agree on it. Names and authorities it does not insist on; curl does."""
    url = f"https://127.0.0.1:{bench.ports['edge']}/nghttpd/big"
    done = subprocess.run([rig.binary("NGHTTP", "nghttp"), "--no-verify-peer", url], capture_output=True, timeout=300, check=False)
    said = done.stderr.decode(errors="replace")
    tls.same((done.returncode, *digest(done.stdout)), (0, *digest(BODY)), f"nghttp {url} (it says {said!r})")
    bench.counted("admin", "listener.edge.ssl.handshake", "http.edge.downstream_cx_http2_total")
    tls.same(bench.stats("admin").get("http.edge.downstream_cx_http1_total", 0), 0, "connections of nghttp by HTTP/1.1")
    print("  nghttp in front, HTTP/2 by ALPN")


def check_behind(bench):
    for cluster, (_, _, _, protocol) in BEHIND.items():
        seen = protocol and f"{protocol}|TLSv1.3|{tls.NAME}|CN=client"
        for option, version in (("--http1.1", "1.1"), ("--http2", "2")):
            got = exchanges(bench, bench.ports["edge"], f"/{cluster}/", [option], seen, echoes=cluster == "nghttpd")
            tls.same(got, version, "the version that curl agreed on")
        kind = "http1" if protocol == "HTTP/1.1" else "http2"
        bench.counted("admin", f"cluster.{cluster}.ssl.handshake", f"cluster.{cluster}.upstream_cx_{kind}_total")
        other = bench.stats("admin").get(f"cluster.{cluster}.upstream_cx_{'http2' if kind == 'http1' else 'http1'}_total", 0)
        tls.same(other, 0, f"connections of {cluster} in the other version")
        out = http2.run_tool(["h2load", "-n", REQUESTS, "-c", 4, "-m", 32, f"https://127.0.0.1:{bench.ports['edge']}/{cluster}/index.html"])
        tls.has(out, f"{REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout", "h2load")
        tls.has(out, f"status codes: {REQUESTS} 2xx", "h2load")
    print("  nghttpd and Envoy behind, HTTP/2 over TLS: configured, and chosen by ALPN; HTTP/1.1 where they know no other")


def check_in_front(bench):
    der = base64.b64decode("".join((bench.folder / "client.pem").read_text().split("-----")[2].split()))
    certificate = f'Hash={hashlib.sha256(der).hexdigest()};Subject="CN=client";URI=spiffe://example/client'
    forged = ["-H", "x-forwarded-client-cert: Hash=forged"]
    for cluster, (_, _, _, protocol) in IN_FRONT.items():
        exchanges(bench, bench.ports["front"], f"/{cluster}/", forged, f"{protocol}|TLSv1.3|{tls.NAME}|CN=client", secure=False)
        body, status, _, _ = bench.curl(bench.ports["front"], f"/{cluster}/told", *forged, secure=False)
        tls.same((status, body.decode()), (200, certificate), f"what nginx is told of Envoy, {cluster}")
        bench.counted("envoy_admin", f"cluster.{cluster}.ssl.handshake")
        tls.same(bench.stats("envoy_admin").get(f"cluster.{cluster}.upstream_rq_5xx", 0), 0, f"Envoy's failures, {cluster}")
        url = f"http://127.0.0.1:{bench.ports['front']}/{cluster}/index.html"
        out = http2.run_tool(["h2load", "--h1", "-n", REQUESTS, "-c", 16, url])
        tls.has(out, f"{REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout", "h2load")
        tls.has(out, f"status codes: {REQUESTS} 2xx", "h2load")
    bench.counted("admin", "http.mutual.downstream_cx_http1_total", "http.mutual.downstream_cx_http2_total", "listener.mutual.ssl.handshake")
    tls.same(bench.curl(bench.ports["front"], "/anonymous/told", secure=False)[1], 503, "Envoy without a certificate")
    bench.counted("admin", "listener.mutual.ssl.fail_verify_no_cert")
    print("  Envoy in front, by HTTP/2 and HTTP/1.1, configured and chosen: its certificate asked for, and told to the next hop")


def write(folder, ports):
    """Ringway's configuration and Envoy's."""
    subject = {"subject": True, "uri": True, "dns": True}
    own = ["h2", "http/1.1"]
    mutual = bootstraps.own_tls(folder, "server", own, "ca", required=True)
    clusters = [
        bootstraps.cluster(name, ports[port], bootstraps.their_tls(folder, tls.NAME, offered, "client"), protocol)
        for name, (offered, protocol, port, _) in BEHIND.items()
    ]
    clusters.append(bootstraps.cluster("nginx", ports["nginx"]))
    ours = bootstraps.write(folder / "ours.json", ports["admin"], [
        bootstraps.listener("edge", ports["edge"], {f"/{name}/": name for name in BEHIND}, bootstraps.own_tls(folder, "server", own)),
        bootstraps.listener("mutual", ports["mutual"], {"/": "nginx"}, mutual, SEEN,
                            forward_client_cert_details="SANITIZE_SET", set_current_client_cert_details=subject),
    ], clusters)
    clusters = [
        bootstraps.cluster(name, ports["mutual"], bootstraps.their_tls(folder, tls.NAME, offered, shows), protocol)
        for name, (offered, protocol, shows, _) in {**IN_FRONT, "anonymous": (["h2"], "http2", None, None)}.items()
    ]
    prefixes = {f"/{name}/": name for name in [*IN_FRONT, "anonymous"]}
    clusters.append(bootstraps.cluster("nginx", ports["nginx"]))
    theirs = bootstraps.write(folder / "envoy.json", ports["envoy_admin"], [
        bootstraps.listener("front", ports["front"], prefixes, forward_client_cert_details="ALWAYS_FORWARD_ONLY"),
        bootstraps.listener("behind", ports["behind"], {"/": "nginx"}, mutual, SEEN),
        bootstraps.listener("behind_old", ports["behind_old"], {"/": "nginx"}, bootstraps.own_tls(folder, "server", ["http/1.1"], "ca", required=True), SEEN),
    ], clusters)
    (folder / "nginx.conf").write_text(tls.fill(NGINX, folder=folder, nginx=ports["nginx"]))
    return ours, theirs


def through(command, label):
    print(f"{label}:")
    names = ["admin", "edge", "mutual", "envoy_admin", "front", "behind", "behind_old", "nginx", "nghttpd"]
    ports = dict(zip(names, rig.free_ports(len(names)), strict=True))
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        (folder / "files/put").mkdir(parents=True)
        (folder / "files/put").chmod(0o777)
        (folder / "files/index.html").write_text("hello\n")
        (folder / "files/big").write_bytes(BODY)
        tls.make_certificates(folder)
        ours, theirs = write(folder, ports)
        nginx = [rig.binary("RINGWAY_NGINX", "nginx", "/usr/sbin/nginx"), "-p", folder, "-c", folder / "nginx.conf"]
        # Who shows it no certificate is not served.
        nghttpd = [rig.binary("NGHTTPD", "nghttpd"), "-d", folder / "files", "-a", "127.0.0.1", "--echo-upload", "-V",
                   ports["nghttpd"], folder / "server.key", folder / "server.pem"]
        envoy = [rig.envoy(), "--disable-hot-restart", "--concurrency", "1", "-l", "error"]
        stack.enter_context(rig.Process(nginx, ports["nginx"]))
        stack.enter_context(rig.Process(nghttpd, ports["nghttpd"]))
        stack.enter_context(rig.Process([*envoy, "-c", theirs], ports["front"]))
        proxy = stack.enter_context(rig.Process([*command, "-c", ours], ports["mutual"]))
        bench = Bench(folder, ports)
        # The first on its listener: what is counted there is its own.
        check_nghttp(bench)
        check_behind(bench)
        check_in_front(bench)
        proxy.check()


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append", choices=["io_uring", "epoll"])
    parser.add_argument("--proxy", choices=["ringway", "envoy"], default="ringway")
    options = parser.parse_args()
    common = ["--disable-hot-restart", "-l", "error", "--concurrency", "2"]
    if options.proxy == "envoy":
        through([rig.envoy(), *common], "envoy")
        return
    for backend in options.backend or ["io_uring", "epoll"]:
        through([rig.ringway(), *common, "--io-backend", backend], backend)


if __name__ == "__main__":
    rig.main(run)
