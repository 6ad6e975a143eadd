"""Ringway between real parts: nginx as the upstream, curl, wrk, ab and h2load as clients. Bytes are compared, requests counted.

    python3 tests/peers/tools.py [--backend io_uring|epoll]...   # default: both
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

BOOTSTRAP = """
admin: {address: {socket_address: {address: 127.0.0.1, port_value: @admin@}}}
static_resources:
  listeners:
  - name: http
    address: {socket_address: {address: 127.0.0.1, port_value: @http@}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          http_protocol_options: {accept_http_10: true}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /}
                route: {cluster: nginx, timeout: 30s}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: nginx
    connect_timeout: 1s
    load_assignment:
      cluster_name: nginx
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @nginx@}}}}]}]
"""

NGINX = rig.NGINX_BEGIN + """  server {
    listen 127.0.0.1:@nginx@ default_server;
    root @folder@/files;
    location /small { return 200 "0123456789"; }
    location /method { return 200 "$request_method $http_host $http_x_forwarded_proto"; }
    location /moved { return 302 /small; }
    location /put/ { dav_methods PUT; create_full_put_path on; }
    location /gone { return 410; }
  }
}
"""


def fill(text, values):
    return re.sub(r"@([a-z]+)@", lambda match: str(values[match[1]]), text)


def run_tool(argv):
    done = subprocess.run([str(part) for part in argv], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise rig.Failed(f"{' '.join(map(str, argv))} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def check(condition, what):
    if not condition:
        raise rig.Failed(what)


def curl(url, *more):
    return run_tool([rig.binary("CURL", "curl"), "-sS", "--http1.1", "--max-time", "60", *more, url])


def with_curl(url, folder):
    check(curl(f"{url}/small") == "0123456789", "curl: a small body")
    check(curl(f"{url}/method", "-H", "host: name.test") == "GET name.test http", "curl: what nginx is told")
    check(curl(f"{url}/moved", "-L") == "0123456789", "curl: follows a redirect")
    check(curl(f"{url}/small", "-o", "/dev/null", "-w", "%{http_code} %{num_connects}", f"{url}/small", "-o", "/dev/null").strip().endswith("200 0"),
          "curl: the second request reuses the connection")
    check(curl(f"{url}/gone", "-o", "/dev/null", "-w", "%{http_code}") == "410", "curl: a status passes")
    check("content-length: 10" in curl(f"{url}/small", "-I").lower(), "curl: HEAD")
    for name, size in (("one", 1), ("chunk", 4096), ("bulk", 1 << 20), ("large", 20 << 20)):
        content = random.Random(name).randbytes(size)
        (folder / "files" / name).write_bytes(content)
        got = folder / "got"
        curl(f"{url}/{name}", "-o", got)
        check(digest(got) == hashlib.sha256(content).hexdigest(), f"curl: {size} bytes come back as they are")
    large = folder / "files" / "large"
    curl(f"{url}/large", "-o", folder / "got", "-r", "1000-20000999")
    check((folder / "got").read_bytes() == large.read_bytes()[1000:20001000], "curl: a range")
    curl(f"{url}/large", "-o", folder / "got", "--limit-rate", "30M")
    check(digest(folder / "got") == digest(large), "curl: a slow reader")
    for extra in ([], ["-H", "transfer-encoding: chunked"], ["-H", "expect: 100-continue"]):
        target = folder / "files" / "put" / "upload"
        target.unlink(missing_ok=True)
        curl(f"{url}/put/upload", "-T", large, *extra)
        check(digest(target) == digest(large), f"curl: an upload {extra}")


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def with_load(url):
    """Each tool counts its own requests; all of them must have succeeded."""
    out = run_tool([rig.binary("AB", "ab"), "-q", "-k", "-c", "32", "-n", "20000", f"{url}/small"])
    check(re.search(r"Complete requests: +20000", out) and re.search(r"Failed requests: +0", out), f"ab: keep-alive\n{out}")
    out = run_tool([rig.binary("AB", "ab"), "-q", "-c", "32", "-n", "4000", f"{url}/small"])
    check(re.search(r"Complete requests: +4000", out) and re.search(r"Failed requests: +0", out), f"ab: a connection each\n{out}")
    out = run_tool([rig.binary("WRK", "wrk"), "-t1", "-c64", "-d2s", f"{url}/small"])
    check("requests in" in out and "Socket errors" not in out and "Non-2xx" not in out, f"wrk\n{out}")
    out = run_tool([rig.binary("WRK", "wrk"), "-t1", "-c8", "-d2s", f"{url}/bulk"])
    check("requests in" in out and "Socket errors" not in out and "Non-2xx" not in out, f"wrk: 1 MiB bodies\n{out}")
    out = run_tool([rig.binary("H2LOAD", "h2load"), "--h1", "-t1", "-c16", "-m4", "-n20000", f"{url}/small"])
    check("20000 succeeded, 0 failed, 0 errored" in out, f"h2load: pipelined\n{out}")


def with_admin(admin):
    """What the proxy counted must agree with what the clients did, and nothing may be left open."""
    def stats():
        with urllib.request.urlopen(f"{admin}/stats?format=json", timeout=5) as answer:
            return {stat["name"]: stat["value"] for stat in json.load(answer)["stats"] if "value" in stat}

    settled = rig.wait_for(
        lambda: (now := stats()) and now["http.http.downstream_cx_active"] == 0 and now["http.http.downstream_rq_active"] == 0 and now,
        "every downstream connection to be gone",
    )
    check(settled["http.http.downstream_rq_total"] >= 44000, f"too few requests counted: {settled['http.http.downstream_rq_total']}")
    check(settled.get("http.http.downstream_rq_5xx", 0) == 0, "a 5xx was answered")
    check(settled["cluster.nginx.upstream_rq_active"] == 0, "an upstream request is still counted as active")


def one_backend(backend):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        (folder / "files" / "put").mkdir(parents=True)
        for path in (folder / "files", folder / "files" / "put"):
            path.chmod(0o777)
        values = dict(zip(("admin", "http", "nginx"), rig.free_ports(3)), folder=folder)
        (folder / "nginx.conf").write_text(fill(NGINX, values))
        (folder / "ringway.yaml").write_text(fill(BOOTSTRAP, values))
        nginx = rig.binary("NGINX", "nginx", "/usr/sbin/nginx")
        ringway = [rig.ringway(), "--disable-hot-restart", "-c", folder / "ringway.yaml", "--concurrency", "2", "--io-backend", backend, "-l", "warning"]
        with rig.Process([nginx, "-p", folder, "-c", folder / "nginx.conf"], ready_port=values["nginx"]):
            with rig.Process(ringway, ready_port=values["http"]) as proxy:
                url = f"http://127.0.0.1:{values['http']}"
                with_curl(url, folder)
                with_load(url)
                with_admin(f"http://127.0.0.1:{values['admin']}")
                proxy.check()
                code = proxy.stop()
                check(code == 0, f"SIGTERM: exit code {code}\n{proxy.output()}")
    print(f"{backend}: curl, ab, wrk and h2load through Ringway to nginx: ok")


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append")
    for backend in parser.parse_args().backend or ["io_uring", "epoll"]:
        one_backend(backend)


if __name__ == "__main__":
    rig.main(run)
