"""TLS as others see it: testssl.sh, which must find nothing, and a browser, whose every byte must be right.

    python3 tests/peers/tls_clients.py                # both back ends
    python3 tests/peers/tls_clients.py --proxy envoy  # Envoy: proves that the test itself is right

One certificate of a small authority that the clients are given, with what that authority says of it stapled (OCSP). Behind the proxy is an
HTTP/1.1 server of the test's own. The browser fetches and uploads from a page, over HTTP/2 and over HTTP/1.1, talks WebSocket in the same way
(RFC 8441; RFC 6455 on a connection of its own) to a server that knows HTTP/1.1 alone, and must refuse the page where it does not know the authority.
"""

import argparse
import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import random
import re
import subprocess
import tempfile
import threading
import urllib.request

import rig
import tls
from websocket import parts

NAME = "ringway.test"
BOOTSTRAP = """
static_resources:
  listeners:
@listeners@
  clusters:
  - name: origin
    connect_timeout: 1s
    load_assignment:
      cluster_name: origin
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @origin@}}}}]}]
  - name: websockets
    connect_timeout: 1s
    load_assignment:
      cluster_name: websockets
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @websockets@}}}}]}]
"""
LISTENER = """\
  - name: @name@
    address: {socket_address: {address: 127.0.0.1, port_value: @port@}}
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [@alpn@]
            tls_certificates:
            - certificate_chain: {filename: @folder@/chain.pem}
              private_key: {filename: @folder@/key.pem}
              ocsp_staple: {filename: @folder@/server.ocsp}
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: @name@
          codec_type: AUTO
          http2_protocol_options: {allow_connect: true}
          upgrade_configs: [{upgrade_type: websocket}]
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              response_headers_to_add:
              - {header: {key: strict-transport-security, value: max-age=31536000}}
              - {header: {key: x-content-type-options, value: nosniff}}
              routes:
              - {match: {prefix: /socket}, route: {cluster: websockets, timeout: 0s}}
              - {match: {prefix: /}, route: {cluster: origin, timeout: 30s}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
"""
# An authority's certificate says where its revocations are; nobody asks there.
CERTIFICATE = """
[req]
distinguished_name = name
prompt = no
[name]
CN = @name@
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:ringway.test
crlDistributionPoints = URI:http://authority.test/revoked.crl
"""
DAYS = 180

# Below these nothing is to be changed.
HARMLESS = {"OK", "INFO"}
# Findings that are none of the proxy's.
NOT_OURS = {
    "DNS_CAArecord": "the name is in no DNS",
    "engine_problem": "of the scanner's own openssl",
}
# One more, in these words alone. The scanner keeps the session of one handshake and offers it in the next, with clients whose input has ended, so
# that they leave as soon as the handshake is done. By TLS 1.3 a server sends tickets once it has the client's Finished (RFC 8446, 4.6.1): who
# leaves at once often has none, whoever the server is; the next client then has no session to read and ends without a handshake, which is called
# a connect problem. By TLS 1.2 the ticket comes before the handshake is done (RFC 5077, 3.3), so that the words would be about the proxy. The
# scanner does not tell which version it used: `resume_at_once` makes its handshakes by TLS 1.2, and tls.py resumes by TLS 1.3 with a client that
# waits. The other words of this finding are of sessions that are neither resumed nor new, and of client certificates, for which nobody asks here.
TICKET_MISSED = ("sessionresumption_ticket", "check failed because of connect problem")
# What it must say of these: the authority's word is sent along, and is of that authority and of this certificate.
WANTED = {"OCSP_stapling": "offered", "cert_ocspRevoked": "not revoked"}
TESTSSL_S = 900
BROWSER_S = 120
LARGE = random.Random(1).randbytes(3 << 20)
FETCHES = 60

PAGE = """<!doctype html><meta charset=utf-8><link rel=icon href="data:,"><script type=module>
const bytes = n => Uint8Array.from({length: n}, (_, i) => (i * 7 + n) % 251);
const hash = async data => [...new Uint8Array(await crypto.subtle.digest("SHA-256", data))].map(b => b.toString(16).padStart(2, "0")).join("");
const same = (a, b) => a.length === b.length && a.every((byte, i) => byte === b[i]);
const report = {};
try {
  const echoes = await Promise.all(Array.from({length: @fetches@}, async (_, n) => {
    const sent = bytes(n * 997 + 1);
    const answer = await fetch("/echo?" + n, {method: "POST", body: sent});
    return answer.status === 200 && same(new Uint8Array(await answer.arrayBuffer()), sent);
  }));
  report.echoes = echoes.filter(right => right).length;
  report.large = await hash(await (await fetch("/large")).arrayBuffer());
  report.protocols = [...new Set(performance.getEntries().map(entry => entry.nextHopProtocol).filter(name => name))];
  report.socket = await new Promise((resolve, reject) => {
    const socket = new WebSocket(`wss://${location.host}/socket`);
    const sent = bytes(200000);
    socket.binaryType = "arraybuffer";
    socket.onerror = () => reject(new Error("WebSocket"));
    socket.onopen = () => socket.send(sent);
    socket.onmessage = event => {
      socket.onclose = close => resolve(same(new Uint8Array(event.data), sent) && close.wasClean && close.code === 1000);
      socket.close(1000);
    };
  });
} catch (error) {
  report.error = String(error);
}
await fetch("/report", {method: "POST", body: JSON.stringify(report)});
</script>"""


def check(condition, what):
    if not condition:
        raise rig.Failed(what)


class Origin(http.server.ThreadingHTTPServer):
    """The page, its files, an echo, and what the page reports."""

    daemon_threads = True
    # The browser opens with tens of requests at once.
    request_queue_size = 1024

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.report = None
        self.reported = threading.Event()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        if self.path == "/large":
            self.answer(LARGE, "application/octet-stream")
        else:
            self.answer(PAGE.replace("@fetches@", str(FETCHES)).encode(), "text/html")

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.answer(body, "application/octet-stream")
        if self.path == "/report":
            self.server.report = json.loads(body)
            self.server.reported.set()

    def answer(self, body, kind):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self):
        return "origin"

    def log_message(self, *_):
        pass


def command(*argv, **options):
    done = subprocess.run([str(part) for part in argv], capture_output=True, text=True, check=False, **options)
    check(done.returncode == 0, f"{' '.join(map(str, argv))} ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def certificates(folder):
    """authority.pem, chain.pem, key.pem and server.ocsp: P-256. The chain has the authority's own certificate as well: without an issuer in it the
    scanner does not verify what is stapled."""
    openssl = rig.binary("OPENSSL", "openssl")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
    for name in ("authority", NAME):
        (folder / f"{name}.cnf").write_text(CERTIFICATE.replace("@name@", name))
    common = [openssl, "req", "-x509", *key, "-sha256"]
    authority = [folder / "authority.pem", folder / "authority.key"]
    command(*common, "-days", 3650, "-config", folder / "authority.cnf", "-extensions", "authority", "-out", authority[0], "-keyout", authority[1])
    signed = ["-CA", authority[0], "-CAkey", authority[1], "-days", DAYS, "-config", folder / f"{NAME}.cnf", "-extensions", "server"]
    command(*common, *signed, "-out", folder / "server.pem", "-keyout", folder / "key.pem")
    (folder / "key.pem").chmod(0o644)
    (folder / "chain.pem").write_text((folder / "server.pem").read_text() + authority[0].read_text())
    tls.make_staple(folder, "server", "authority")


def bootstrap(folder, ports, origin, websockets):
    listeners = ""
    for name, port in ports.items():
        alpn = "h2, http/1.1" if name == "h2" else "http/1.1"
        values = {"name": name, "port": port, "alpn": alpn, "folder": folder}
        listeners += re.sub(r"@([a-z0-9]+)@", lambda match: str(values[match[1]]), LISTENER)
    path = folder / "bootstrap.yaml"
    values = {"listeners": listeners.rstrip(), "origin": origin, "websockets": websockets}
    path.write_text(re.sub(r"@([a-z]+)@", lambda match: str(values[match[1]]), BOOTSTRAP))
    return path


def resume_at_once(port, folder):
    """The scanner's two handshakes, by TLS 1.2: a client that leaves at once has a ticket all the same, and is resumed with it."""
    openssl = rig.binary("OPENSSL", "openssl")
    client = [openssl, "s_client", "-connect", f"127.0.0.1:{port}", "-servername", NAME, "-tls1_2"]
    session = folder / f"session.{port}"
    for option, wanted in (("-sess_out", "New, TLSv1.2"), ("-sess_in", "Reused, TLSv1.2")):
        said = command(*client, option, session, stdin=subprocess.DEVNULL)
        check(wanted in said, f"openssl s_client {option}: no {wanted!r} in\n{said[-3000:]}")


def is_bad(one):
    """A finding that the proxy has to answer for."""
    name = one["id"].split(" ")[0]
    return one["severity"] not in HARMLESS and name not in NOT_OURS and (name, one["finding"]) != TICKET_MISSED


def with_testssl(port, folder, name):
    """Every finding above the harmless ones."""
    testssl = rig.binary("TESTSSL", "testssl", "/usr/bin/testssl.sh")
    report = folder / f"testssl-{name}.json"
    # A name that no resolver knows, and no question to any.
    options = ["--quiet", "--color", "0", "--nodns", "none", "--ip", "127.0.0.1", "--add-ca", folder / "authority.pem"]
    done = subprocess.run(
        [testssl, *map(str, options), "--jsonfile", str(report), f"{NAME}:{port}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TESTSSL_S, check=False,
    )
    check(report.exists(), f"testssl wrote no report\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    found = json.loads(report.read_text())
    names = {one["id"] for one in found}
    # It must have come to the end of what it does.
    for wanted in ("TLS1_3", "cert_chain_of_trust", "heartbleed", "ROBOT", "HSTS"):
        check(any(one.startswith(wanted) for one in names), f"testssl did not look at {wanted}\n{done.stdout[-3000:]}")
    bad = [one for one in found if is_bad(one)]
    check(not bad, "testssl found:\n" + "\n".join(f"  {one['severity']} {one['id']}: {one['finding']}" for one in bad))
    for wanted, words in WANTED.items():
        said = [one["finding"] for one in found if one["id"].split(" ")[0] == wanted]
        check(set(said) == {words}, f"testssl says {said} of {wanted}, not {words!r}")
    return len(found)


class Browser:
    """A headless Chromium with a profile of its own, which trusts the authority or does not."""

    def __init__(self, home, authority=None):
        self.home = home
        store = home / ".pki/nssdb"
        store.mkdir(parents=True)
        certutil = rig.binary("CERTUTIL", "certutil")
        command(certutil, "-d", f"sql:{store}", "-N", "--empty-password")
        if authority:
            command(certutil, "-d", f"sql:{store}", "-A", "-t", "C,,", "-n", "authority", "-i", authority)

    def open(self, url):
        chromium = rig.binary("CHROMIUM", "chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--no-first-run",
            f"--user-data-dir={self.home / 'profile'}",
            # No other name is looked up, and no address but the loopback's asked.
            f"--host-resolver-rules=MAP {NAME} 127.0.0.1, MAP * ~NOTFOUND",
            "--remote-debugging-port=0",
        ]
        return rig.Process([chromium, *options, url], env={**os.environ, "HOME": str(self.home)})


def with_browser(port, protocol, origin, folder):
    origin.reported.clear()
    with Browser(folder / f"trusting-{protocol.replace('/', '-')}", folder / "authority.pem").open(f"https://{NAME}:{port}/") as browser:
        check(origin.reported.wait(BROWSER_S), f"the page reported nothing\n{browser.output()[-3000:]}")
    report = origin.report
    wanted = {"echoes": FETCHES, "large": hashlib.sha256(LARGE).hexdigest(), "protocols": [protocol], "socket": True}
    check(report == wanted, f"the browser found {report}, not {wanted}")


def with_stranger(port, folder):
    """A browser that does not know the authority shows its warning instead of the page."""
    chromium = Browser(folder / "stranger")
    with chromium.open(f"https://{NAME}:{port}/") as browser:
        def target():
            file = chromium.home / "profile/DevToolsActivePort"
            if not file.exists() or not file.read_text().strip():
                return None
            debugging = file.read_text().splitlines()[0]
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{debugging}/json", timeout=5) as answer:
                return [one["title"] for one in json.load(answer) if one["type"] == "page" and one["title"] not in ("", f"{NAME}:{port}")]

        titles = rig.wait_for(target, "the browser's warning", BROWSER_S)
        check(titles == ["Privacy error"], f"a browser that does not know the authority shows {titles}\n{browser.output()[-2000:]}")


def through(name, argv, browser_only):
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        certificates(folder)
        origin = stack.enter_context(Origin())
        h2, http1, websockets = rig.free_ports(3)
        stack.enter_context(rig.Process(parts("serve", websockets), ready_port=websockets))
        path = bootstrap(folder, {"h2": h2, "http1": http1}, origin.server_address[1], websockets)
        proxy = stack.enter_context(rig.Process([*argv, "-c", path], ready_port=http1))
        with_browser(h2, "h2", origin, folder)
        with_browser(http1, "http/1.1", origin, folder)
        with_stranger(h2, folder)
        print(f"{name}: browser over HTTP/2 and HTTP/1.1: ok", flush=True)
        if not browser_only:
            resume_at_once(h2, folder)
            count = with_testssl(h2, folder, name)
            print(f"{name}: testssl.sh, {count} findings, none bad: ok", flush=True)
        proxy.check()


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proxy", action="append", choices=["io_uring", "epoll", "envoy"])
    parser.add_argument("--browser-only", action="store_true")
    arguments = parser.parse_args()
    common = ["--disable-hot-restart", "-l", "warning", "--concurrency", "2"]
    for name in arguments.proxy or ["io_uring", "epoll"]:
        argv = [rig.envoy(), *common] if name == "envoy" else [rig.ringway(), *common, "--io-backend", name]
        through(name, argv, arguments.browser_only)


if __name__ == "__main__":
    rig.main(run)
