"""HTTP/2 between real parts: h2spec, curl, nghttp and h2load in front, nginx (HTTP/1.1) and nghttpd (HTTP/2) behind.

    python3 tests/peers/http2.py [--backend io_uring|epoll]...   # default: both

Every case of h2spec's strict mode has to pass against either upstream; bytes are compared, requests counted. The listeners
speak HTTP/2 only: where the version is told from the first bytes, a preface that is none is a bad HTTP/1.1 request.
"""

import argparse
import hashlib
import json
import pathlib
import random
import re
import subprocess
import tempfile
import urllib.request

import rig

H2SPEC_CASES = 146
BIG_BYTES = 16 << 20

LISTENER = """
  - name: @name@
    address: {socket_address: {address: 127.0.0.1, port_value: @port@}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: @name@
          codec_type: HTTP2
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{match: {prefix: /}, route: {cluster: @name@, timeout: 60s}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
"""

CLUSTER = """
  - name: @name@
    connect_timeout: 1s@options@
    load_assignment:
      cluster_name: @name@
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @port@}}}}]}]
"""

HTTP2_OPTIONS = """
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}"""

NGINX = rig.NGINX_BEGIN + """  server {
    listen 127.0.0.1:@port@ default_server;
    root @folder@/files;
    error_page 405 =200 $uri;
    # Read through a proxy of its own, which waits for a request's end: an answer before it may cross with the client's reset, and
    # then RFC 9113 section 5.1 leaves open what h2spec insists on.
    location = /index.html { proxy_pass http://127.0.0.1:@port@/hello; }
    location = /hello { alias @folder@/files/index.html; error_page 405 =200 $uri; }
    location /put/ { dav_methods PUT; create_full_put_path on; }
  }
}
"""


def fill(text, **values):
    return re.sub(r"@([a-z]+)@", lambda match: str(values[match[1]]), text)


def run_tool(argv, allowed=(0,)):
    done = subprocess.run([str(part) for part in argv], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode not in allowed:
        raise rig.Failed(f"{' '.join(map(str, argv))} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def check(condition, what):
    if not condition:
        raise rig.Failed(what)


def stat(admin, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/stats?filter=^{re.escape(name)}$&format=json", timeout=10) as answer:
        return sum(entry.get("value", 0) for entry in json.load(answer)["stats"])


def h2spec(port):
    """Every case passes; which did not is the report."""
    tool = rig.binary("H2SPEC", "h2spec", pathlib.Path.home() / "go/bin/h2spec")
    done = run_tool([tool, "--strict", "-h", "127.0.0.1", "-p", port, "-o", 5, "--path", "/index.html"], allowed=(0, 1))
    summary = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", done)
    check(summary, f"h2spec said\n{done[-4000:]}")
    counts = [int(number) for number in summary.groups()]
    check(counts == [H2SPEC_CASES, H2SPEC_CASES, 0, 0], f"h2spec: {summary[0]}\n{done[-6000:]}")


def curl(port, path, *more):
    target = pathlib.Path(tempfile.mkstemp()[1])
    try:
        url = f"http://127.0.0.1:{port}{path}"
        told = run_tool(["curl", "-sS", "--http2-prior-knowledge", "-o", target, "-w", "%{http_code} %{http_version}", *more, url])
        return told, target.read_bytes()
    finally:
        target.unlink()


def transfers(folder, port, big):
    told, body = curl(port, "/index.html")
    check((told, body) == ("200 2", b"hello\n"), f"curl got {told}, {body!r}")
    told, body = curl(port, "/big")
    check(told == "200 2" and hashlib.sha256(body).digest() == big, f"curl got {told}, {len(body)} bytes of /big")
    out = run_tool(["nghttp", "--stat", "-n", "-m", 20, f"http://127.0.0.1:{port}/index.html"])
    check(len(re.findall(r"^ +\d+ .* 200 +\d+ /index.html$", out, re.M)) == 20, f"nghttp said\n{out}")
    del folder


def uploads(folder, port, payload):
    (folder / "payload").write_bytes(payload)
    told, _ = curl(port, "/put/upload", "-T", folder / "payload")
    check(told in ("201 2", "204 2"), f"upload got {told}")
    check((folder / "files/put/upload").read_bytes() == payload, "an upload arrived changed")


def load(port, admin, name):
    before = stat(admin, f"http.{name}.downstream_rq_2xx")
    out = run_tool(["h2load", "-n", 20000, "-c", 8, "-m", 32, f"http://127.0.0.1:{port}/index.html"])
    check("20000 succeeded, 0 failed, 0 errored, 0 timeout" in out, f"h2load said\n{out}")
    rig.wait_for(lambda: stat(admin, f"http.{name}.downstream_rq_2xx") == before + 20000, "the counter of requests")


def run(backend):
    ports = dict(zip(["admin", "one", "two", "nginx", "nghttpd"], rig.free_ports(5)))
    payload = random.Random(7).randbytes(BIG_BYTES)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "files/put").mkdir(parents=True)
        folder.chmod(0o755)
        (folder / "files/put").chmod(0o777)
        (folder / "files/index.html").write_text("hello\n")
        (folder / "files/big").write_bytes(payload)
        (folder / "nginx.conf").write_text(fill(NGINX, folder=folder, port=ports["nginx"]))
        (folder / "ringway.yaml").write_text(
            f"admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {ports['admin']}}}}}}}\n"
            "static_resources:\n  listeners:"
            + fill(LISTENER, name="one", port=ports["one"])
            + fill(LISTENER, name="two", port=ports["two"])
            + "  clusters:"
            + fill(CLUSTER, name="one", port=ports["nginx"], options="")
            + fill(CLUSTER, name="two", port=ports["nghttpd"], options=HTTP2_OPTIONS)
        )
        nginx = [rig.binary("NGINX", "nginx", "/usr/sbin/nginx"), "-c", folder / "nginx.conf", "-p", folder]
        nghttpd = [rig.binary("NGHTTPD", "nghttpd"), "--no-tls", "-d", folder / "files", "-a", "127.0.0.1", ports["nghttpd"]]
        ringway = [rig.ringway(), "-c", folder / "ringway.yaml", "--io-backend", backend, "--concurrency", 2]
        with (
            rig.Process(nginx, ports["nginx"]),
            rig.Process(nghttpd, ports["nghttpd"]),
            rig.Process(ringway, ports["two"]) as proxy,
        ):
            big = hashlib.sha256(payload).digest()
            for name in ("one", "two"):
                transfers(folder, ports[name], big)
                load(ports[name], ports["admin"], name)
                h2spec(ports[name])
                proxy.check()
            uploads(folder, ports["one"], payload)
            check(stat(ports["admin"], "cluster.two.upstream_cx_http2_total") > 0, "nghttpd was not spoken to in HTTP/2")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append", choices=["io_uring", "epoll"])
    for backend in parser.parse_args().backend or ["io_uring", "epoll"]:
        run(backend)
        print(f"{backend}: h2spec {H2SPEC_CASES}/{H2SPEC_CASES} with either upstream; bytes and counts right")


if __name__ == "__main__":
    rig.main(main)
