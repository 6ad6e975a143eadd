"""What the next hop is told of a client's certificate, `x-forwarded-client-cert`: through Envoy and through Ringway, the same client and the same
request, in every mode and with every detail.

    python3 tests/peers/client_certs.py [--backend io_uring|epoll]...   # default: both
    python3 tests/peers/client_certs.py --wrong                         # what Ringway tells is changed: proves the rig

One listener for each mode with each detail, with all and with none; clients with and without a certificate, names that need quotes, and an
intermediate authority; requests that bring the header along, once, twice, empty and not at all; and a session that was resumed.
"""

import argparse
import contextlib
import http.server
import itertools
import json
import pathlib
import socket
import ssl
import tempfile
import threading

import bootstraps
import rig
import tls

MODES = ("SANITIZE", "FORWARD_ONLY", "APPEND_FORWARD", "SANITIZE_SET", "ALWAYS_FORWARD_ONLY")
DETAILS = ("subject", "cert", "chain", "dns", "uri")
KINDS = {"none": {}, **{detail: {detail: True} for detail in DETAILS}, "all": dict.fromkeys(DETAILS, True)}
HEADER = "x-forwarded-client-cert"
BROUGHT = {
    "nothing": [],
    "one": ['By=spiffe://example/before;Hash=00;Subject="CN=\\"a\\", O=b"'],
    "two": ["Hash=01", "Hash=02;URI=spiffe://example/x,Hash=03"],
    "an empty one": [""],
}
# Who the certificates are of: who issued it, subject, names.
ISSUED = {
    "middle": ("ca", "/CN=middle", None),
    "server": ("ca", "/CN=server", [f"DNS:{tls.NAME}"]),
    "named": ("ca", "/CN=named", [f"DNS:{tls.NAME}", "URI:spiffe://example/server"]),
    "twice": ("ca", "/CN=twice", [f"DNS:{tls.NAME}", "URI:spiffe://example/one", "URI:spiffe://example/two"]),
    "plain": ("ca", "/CN=client", ["URI:spiffe://example/client"]),
    "many": ("ca", '/C=DE/O=Shop "A", B\\/C/OU=x;y/CN=a\\+b', ["URI:spiffe://example/a;b", "URI:spiffe://example/c,d", 'URI:spiffe://example/"e"=f',
                                                             "DNS:one.example", "DNS:*.two.example", "email:who@example"]),
    "bare": ("ca", "/CN=bare", None),
    "chained": ("middle", "/CN=chained", ["DNS:chained.example"]),
}
# Names with what separates fields: Envoy writes them as they are, so that they can be taken for fields; Ringway quotes them.
QUOTED = {
    "URI=spiffe://example/a;b": 'URI="spiffe://example/a;b"',
    "URI=spiffe://example/c,d": 'URI="spiffe://example/c,d"',
    'URI=spiffe://example/"e"=f': 'URI="spiffe://example/\\"e\\"=f"',
}
CLIENTS = (None, "plain", "many", "bare", "chained")


def make_certificates(folder):
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    tls.openssl(folder, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    for name, (issuer, subject, names) in ISSUED.items():
        tls.openssl(folder, "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
        text = "basicConstraints=critical,CA:TRUE\n" if name == "middle" else "basicConstraints=CA:FALSE\n"
        if names:
            kinds = [each.partition(":") for each in names]
            text += "subjectAltName=@names\n[names]\n" + "".join(f"{kind}.{index} = {value}\n".replace('"', '\\"') for index, (kind, _, value) in enumerate(kinds))
        (folder / f"{name}.ext").write_text(text)
        tls.openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key", "-CAcreateserial",
                    "-out", f"{name}.pem", "-days", "2", "-extfile", f"{name}.ext")
    (folder / "chained.pem").write_text((folder / "chained.pem").read_text() + (folder / "middle.pem").read_text())


class Endpoint(http.server.ThreadingHTTPServer):
    """Answers with what it was told, line by line."""

    daemon_threads = True

    class RequestHandlerClass(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self):
            told = json.dumps(self.headers.get_all(HEADER, [])).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, *_):
            pass

    def __init__(self):
        super().__init__(("127.0.0.1", 0), self.RequestHandlerClass)

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


def listeners():
    """Names, the server's certificate, the mode and the details."""
    for mode, kind in itertools.product(MODES, KINDS):
        yield f"{mode}.{kind}", "named", mode, kind
    for server in ("server", "twice"):
        yield f"{server}.all", server, "SANITIZE_SET", "all"


class Proxy:
    """A running proxy: what it tells of a client."""

    def __init__(self, stack, folder, command, endpoint):
        self.folder = folder
        self.names = [name for name, *_ in listeners()]
        admin, *ports = rig.free_ports(1 + len(self.names))
        self.ports = dict(zip(self.names, ports, strict=True))
        written = [
            bootstraps.listener(name, self.ports[name], {"/": "endpoint"}, bootstraps.own_tls(folder, server, ["http/1.1"], "ca"),
                                forward_client_cert_details=mode, set_current_client_cert_details=KINDS[kind])
            for name, server, mode, kind in listeners()
        ]
        path = bootstraps.write(folder / f"{admin}.json", admin, written, [bootstraps.cluster("endpoint", endpoint.server_address[1])])
        stack.enter_context(rig.Process([*command, "-c", path], ready_port=ports[-1]))

    def context(self, client):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.folder / "ca.pem")
        if client:
            context.load_cert_chain(self.folder / f"{client}.pem", self.folder / f"{client}.key")
        return context

    @contextlib.contextmanager
    def connected(self, name, context, session=None):
        with socket.create_connection(("127.0.0.1", self.ports[name]), rig.DEADLINE_S) as sock:
            with context.wrap_socket(sock, server_hostname=tls.NAME, session=session) as secure:
                yield secure

    def told(self, secure, brought):
        lines = "".join(f"{HEADER}: {value}\r\n" for value in brought)
        secure.sendall(f"GET / HTTP/1.1\r\nhost: {tls.NAME}\r\n{lines}\r\n".encode())
        answer = rig.Reader(secure).message(is_response=True)
        if answer.status != 200:
            raise rig.Failed(f"answered {answer.start_line}")
        lines = json.loads(answer.body)
        # Lines stay lines in Ringway (differences.toml), which means the same.
        return ",".join(lines) if lines else None

    def tells(self):
        """What the endpoint was told, by listener, client and what was brought along."""
        found = {}
        for name, client in itertools.product(self.names, CLIENTS):
            with self.connected(name, self.context(client)) as secure:
                for brought, values in BROUGHT.items():
                    found[name, client, brought] = self.told(secure, values)
        for client in CLIENTS:
            context = self.context(client)
            with self.connected("SANITIZE_SET.all", context) as secure:
                self.told(secure, [])
                session = secure.session
            with self.connected("SANITIZE_SET.all", context, session) as secure:
                if not secure.session_reused:
                    raise rig.Failed(f"a session of {client} was not resumed")
                found["resumed", client, "nothing"] = self.told(secure, [])
        return found


def quoted(told):
    for plain, text in QUOTED.items():
        told = told and told.replace(plain, text)
    return told


def compare(label, envoy, ringway):
    envoy = {case: quoted(told) for case, told in envoy.items()}
    wrong = [f"{', '.join(map(str, case))}:\n  Envoy   {envoy[case]}\n  Ringway {ringway[case]}" for case in envoy if envoy[case] != ringway[case]]
    if wrong:
        raise rig.Failed(f"{label}: {len(wrong)} of {len(envoy)} differ\n" + "\n".join(wrong[:20]))
    print(f"{label}: {len(envoy)} requests, the same header to the endpoint as from Envoy, but for quotes around odd names")


def prove(envoy):
    """The reference says what it is there for."""
    tls.same(envoy["SANITIZE.all", "plain", "one"], None, "Envoy, SANITIZE")
    told = envoy["SANITIZE_SET.all", "chained", "one"]
    for part in ("By=spiffe://example/server;", "Hash=", 'Cert="', 'Chain="', 'Subject="CN=chained"', "DNS=chained.example"):
        tls.has(told, part, "Envoy, SANITIZE_SET")
    tls.same(len(set(envoy.values())) > 50, True, "Envoy's headers differ")


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append", choices=["io_uring", "epoll"])
    parser.add_argument("--wrong", action="store_true", help="prove the rig: it must fail")
    options = parser.parse_args()
    common = ["--disable-hot-restart", "--concurrency", "1", "-l", "error"]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        make_certificates(folder)
        endpoint = stack.enter_context(Endpoint())
        with contextlib.ExitStack() as ended:
            envoy = Proxy(ended, folder, [rig.envoy(), *common], endpoint).tells()
        prove(envoy)
        for backend in options.backend or ["io_uring", "epoll"]:
            with contextlib.ExitStack() as ended:
                ringway = Proxy(ended, folder, [rig.ringway(), *common, "--io-backend", backend], endpoint).tells()
            if options.wrong:
                ringway["APPEND_FORWARD.uri", "many", "two"] = None
            compare(backend, envoy, ringway)


if __name__ == "__main__":
    rig.main(run)
