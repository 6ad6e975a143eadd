"""Origins behind the gateway of tests/xds/envoy_gateway.py, and clients in front of it: HTTP/1.1, TLS, gRPC, bytes, a steady load."""

import contextlib
import http.client
import http.server
import json
import re
import socket
import ssl
import subprocess
import threading
import time
from concurrent import futures

import grpc

import peers  # noqa: F401 (before rig)
import rig

# What differs from request to request, and from proxy to proxy by nature.
MASKED = {"date": "*", "x-request-id": "*", "x-envoy-upstream-service-time": "*"}
PORT = re.compile(r":\d{4,5}\b")


def certificates(folder):
    """An authority, and what it vouches for: the front's two certificates, an origin's, a client's."""
    def openssl(*arguments):
        done = subprocess.run([rig.binary("RINGWAY_OPENSSL", "openssl"), *arguments], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise rig.Failed(f"openssl {' '.join(arguments)}: {done.stderr}")

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority", "-days", "2")
    for name, host in (("front", "www.test"), ("successor", "www.test"), ("origin", "origin.test"), ("client", "client.test")):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        names = "DNS:www.test,DNS:moving.test,DNS:grpc.test" if host == "www.test" else f"DNS:{host}"
        (folder / f"{name}.ext").write_text(f"basicConstraints=CA:FALSE\nsubjectAltName={names}\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", f"{name}.pem", "-days", "2",
                "-extfile", f"{name}.ext")


class Origin(http.server.ThreadingHTTPServer):
    """Answers with what it was asked, as JSON; below /hang only once it is let go; upgrades and gives lines back."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, name, port, pair=None):
        self.name = name
        self.hanging = threading.Semaphore(0)
        self.go = threading.Event()
        super().__init__(("127.0.0.1", port), Handler)
        if pair:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(f"{pair}.pem", f"{pair}.key")
            self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        """Clients that break off are part of the test."""

    def __exit__(self, *_):
        self.go.set()
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.headers.get("upgrade"):
            return self.lines()
        if "/hang" in self.path:
            self.server.hanging.release()
            self.server.go.wait(rig.DEADLINE_S)
        headers = [[name.lower(), value] for name, value in self.headers.items()]
        seen = {"origin": self.server.name, "method": self.command, "path": self.path, "headers": headers, "body": body.decode()}
        text = json.dumps(seen).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.send_header("x-origin", "is removed on request")
        self.end_headers()
        self.wfile.write(text)
        return None

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer

    def lines(self):
        self.send_response(101)
        self.send_header("connection", "upgrade")
        self.send_header("upgrade", self.headers["upgrade"])
        self.end_headers()
        self.wfile.flush()
        while line := self.rfile.readline():
            self.wfile.write(line)
            self.wfile.flush()
        self.close_connection = True


class Bytes:
    """A server that gives every byte back, and ends when its client has."""

    def __init__(self, port):
        self.socket = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.one, args=(self.socket.accept()[0],), daemon=True).start()

    def one(self, connection):
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


@contextlib.contextmanager
def rpc(port):
    """A gRPC server that says back what it is told, with the metadata that came with it."""
    def say(request, context):
        context.set_trailing_metadata((("x-told", dict(context.invocation_metadata()).get("x-told", "")),))
        return request

    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Say": grpc.unary_unary_rpc_method_handler(say)}),))
    if not server.add_insecure_port(f"127.0.0.1:{port}"):
        raise rig.Failed(f"no gRPC server on port {port}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


def call(port, method="/test.Echo/Say", authority=None):
    """A call over plain HTTP/2: the status's name, the answer, and the metadata at its end."""
    options = (("grpc.default_authority", "grpc.test"), ("grpc.enable_http_proxy", 0))
    with grpc.insecure_channel(f"127.0.0.1:{port}", options if authority is None else (("grpc.default_authority", authority), options[1])) as channel:
        try:
            reply, done = channel.unary_unary(method).with_call(b"hello", metadata=(("x-told", "this"),), timeout=rig.DEADLINE_S)
        except grpc.RpcError as error:
            return (error.code().name,)
        return (done.code().name, reply.decode(), dict(done.trailing_metadata()).get("x-told"))


class Answer:
    """What came back, and what the origin says it was asked."""

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = [(name.lower(), value) for name, value in headers]
        self.body = body
        self.seen = json.loads(body) if body.startswith(b'{"origin"') else {}

    def header(self, name):
        return next((value for key, value in self.headers if key == name), None)

    def asked(self, name):
        """A header as the origin had it."""
        return next((value for key, value in self.seen.get("headers", []) if key == name), None)

    @property
    def origin(self):
        return self.seen.get("origin")

    def compared(self):
        """Everything of it, without what differs by nature: for comparing proxies."""
        masked = lambda headers: sorted([name, MASKED.get(name, PORT.sub(":PORT", value))] for name, value in headers if name != "content-length" or not self.seen)
        seen = {key: masked(value) if key == "headers" else value for key, value in self.seen.items()}
        return {"status": self.status, "headers": masked(self.headers), "seen": seen, "body": "" if seen else self.body.decode("latin1")}


class Client:
    """A keep-alive connection."""

    def __init__(self, port, tls=None, name="www.test", source="127.0.0.1"):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=rig.DEADLINE_S, source_address=(source, 0))
        self.tls, self.name = tls, name

    def ask(self, path, host="www.test", method="GET", headers=(), body=None):
        if self.connection.sock is None:
            self.connection.connect()
            self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls:
                self.connection.sock = self.tls.wrap_socket(self.connection.sock, server_hostname=self.name)
        self.connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in [("host", host), *headers, *([("content-length", str(len(body)))] if body is not None else [])]:
            self.connection.putheader(name, value)
        self.connection.endheaders(body)
        response = self.connection.getresponse()
        return Answer(response.status, response.getheaders(), response.read())

    def close(self):
        self.connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def ask(port, path, tls=None, source="127.0.0.1", **more):
    """One request on a connection of its own."""
    with Client(port, tls, source=source) as client:
        return client.ask(path, **more)


def trusting(folder, pair=None):
    """A TLS client that trusts the authority, with a certificate or without."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    if pair:
        context.load_cert_chain(folder / f"{pair}.pem", folder / f"{pair}.key")
    return context


def shown(port, context, name="www.test"):
    """The certificate that a server shows, as its serial number."""
    with socket.create_connection(("127.0.0.1", port), rig.DEADLINE_S) as sock, context.wrap_socket(sock, server_hostname=name) as secured:
        return secured.getpeercert()["serialNumber"]


class Load:
    """Requests one after the other on keep-alive connections, plain and under TLS, each with what it may be answered."""

    def __init__(self, ports, context, count=2):
        self.over = threading.Event()
        self.answered, self.failed, self.origins = 0, [], set()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.one, args=(port, tls), daemon=True) for port, tls in
                        ((ports["http"], None), (ports["https"], context)) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def one(self, port, tls):
        with Client(port, tls, "moving.test") as client:
            while not self.over.is_set():
                try:
                    answer = client.ask("/under-way", host="moving.test")
                    wrong = None if answer.status == 200 and answer.origin and answer.header("x-generation") else f"{answer.status} {answer.headers}"
                except (OSError, http.client.HTTPException) as error:
                    wrong = repr(error)
                    client.close()
                with self.lock:
                    self.answered += 1
                    if wrong:
                        self.failed.append(f"{'https' if tls else 'http'} {wrong}")
                    else:
                        self.origins.add(answer.origin)
                # Requests all the time, and time for what reads the resources.
                self.over.wait(0.002)

    def more(self, count):
        """Waits until so many more requests are answered."""
        wanted = self.answered + count
        rig.wait_for(lambda: self.answered >= wanted, f"{count} more answers")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
        until = time.monotonic() + rig.DEADLINE_S
        for thread in self.threads:
            thread.join(max(0.0, until - time.monotonic()))
