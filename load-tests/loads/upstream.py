"""The origin servers behind every peer, on the generator's core: nginx with an echo for the correctness checks, and nghttpd where
the proxies speak HTTP/2 to them.

`/` answers 190 bytes at once. `/f/SIZE` are files of random bytes. `/sink` reads a request's body whole, in memory, and
then answers (nginx's `return` alone would answer before). `/echo` answers with the SHA-256 of the body. nghttpd has `/` and an
`/echo` that sends the body back; a second one has a gRPC answer, a file with a status in its trailers, whatever it is asked.
"""

import collections.abc
import dataclasses
import hashlib
import http.server
import pathlib
import random
import socketserver
import threading

SIZES = {"1k": 1 << 10, "64k": 64 << 10, "1m": 1 << 20, "64m": 64 << 20}
SMALL_BODY = ("0123456789" * 19) + "\n"

CONFIG = """\
worker_processes 1; daemon off; pid {folder}/upstream.pid; error_log {folder}/upstream.log;
worker_rlimit_nofile 65536;
events {{ worker_connections 30000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
  client_max_body_size 0; client_body_buffer_size 64m; client_body_temp_path {folder}/upstream-temp;
  proxy_http_version 1.1; proxy_set_header Connection "";
  upstream self {{ server 127.0.0.1:{port}; keepalive 2048; keepalive_requests 1000000000; }}
  upstream echo {{ server 127.0.0.1:{echo}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ return 200 "{body}"; }}
    location /f/ {{ root {folder}; default_type application/octet-stream; }}
    location /sink {{ proxy_pass http://self/; proxy_pass_request_body off; proxy_set_header Content-Length ""; }}
    location /echo {{ proxy_pass http://echo; }}
  }}
}}
"""

GRPC_PATH = "/load.Echo/Unary.grpc"
GRPC_HEADERS = {"Content-Type": "application/grpc", "TE": "trailers"}
# Not compressed, five bytes.
GRPC_MESSAGE = b"\0\0\0\0\5hello"
GRPC_STATUS = "grpc-status: 0"


@dataclasses.dataclass(frozen=True)
class Origin:
    """What one of them does."""

    name: str
    # What it answers to the bytes of a POST to `/echo`.
    echo: collections.abc.Callable = None
    # What it is sent instead of a GET.
    message: bytes = b""


HTTP1 = Origin("http1", lambda posted: digest(posted).encode())
HTTP2 = Origin("http2", lambda posted: posted)
GRPC = Origin("grpc", message=GRPC_MESSAGE)


def origin(setup):
    """That which a setup is forwarded to."""
    return GRPC if setup.grpc else HTTP2 if setup.upstream_http2 else HTTP1


class Files:
    """The files, and what they hash to."""

    def __init__(self, folder, sizes):
        self.hashes = {"/": digest(SMALL_BODY.encode()), GRPC_PATH: digest(GRPC_MESSAGE)}
        self.folder = folder
        (folder / "f").mkdir()
        for name in sizes:
            content = random.Random(name).randbytes(SIZES[name])
            (folder / "f" / name).write_bytes(content)
            self.hashes[f"/f/{name}"] = digest(content)

    def read(self, path):
        """A file's content."""
        return (self.folder / path.removeprefix("/")).read_bytes()


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers a POST with the SHA-256 of its body."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        answer = digest(self.rfile.read(int(self.headers["Content-Length"]))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


class EchoServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


def write_config(folder, port, echo):
    path = pathlib.Path(folder, "upstream.conf")
    path.write_text(CONFIG.format(folder=folder, port=port, echo=echo, body=SMALL_BODY.replace("\n", "\\n")))
    return path


def nghttpd(program, origin, port, folder):
    """The command line of an HTTP/2 origin, one thread, without TLS; writes its files."""
    root = pathlib.Path(folder, origin.name)
    root.mkdir()
    (root / "index.html").write_text(SMALL_BODY)
    # No stream of ours is one too many before a proxy knows the limit.
    options = ["--echo-upload"]
    if origin is GRPC:
        (root / GRPC_PATH.removeprefix("/")).parent.mkdir()
        (root / GRPC_PATH.removeprefix("/")).write_bytes(GRPC_MESSAGE)
        types = pathlib.Path(folder, "types")
        types.write_text("application/grpc grpc\n")
        options = ["--trailer", GRPC_STATUS, f"--mime-types-file={types}"]
    return [program, "--no-tls", "-n", "1", "-m", "4096", "-a", "127.0.0.1", "-d", root, *options, str(port)]


def digest(content):
    return hashlib.sha256(content).hexdigest()
