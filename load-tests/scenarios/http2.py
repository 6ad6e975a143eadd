"""HTTP/2 on one side of the proxy or on both, and gRPC."""

from loads import upstream
from peers import Setup
from scenarios import Scenario, under_check

CONNECTIONS = 8


class Http2(Scenario):
    """h2load's connections with so many streams at once on each."""

    rounds = 8

    def __init__(self, name, title, streams, **setup):
        self.name, self.streams, self.setup = name, streams, Setup(http2=True, **setup)
        self.title = f"{title}, {CONNECTIONS} × {streams} streams"

    def measure(self, bench, running):
        h2load, setup = bench.generators.h2load, running.setup
        path = upstream.GRPC_PATH if setup.grpc else "/"
        headers = [f"{name}: {value}" for name, value in upstream.GRPC_HEADERS.items()] if setup.grpc else []
        options = {"headers": headers, "body": upstream.origin(setup).message, "tls": setup.tls}
        generate = lambda: h2load(running.port, path, CONNECTIONS, bench.seconds, self.streams, **options)
        return under_check(bench, running, path, generate)


class Upgraded(Scenario):
    """HTTP/1.1 clients of an HTTP/2 origin."""

    name, title = "h1-h2-64", "190-byte answers, 64 HTTP/1.1 connections, HTTP/2 to the origin"
    setup = Setup(upstream_http2=True)
    rounds = 8

    def measure(self, bench, running):
        wrk = bench.generators.wrk
        return under_check(bench, running, "/", lambda: wrk(running.port, "/", 64, bench.seconds))


BOTH = "190-byte answers, HTTP/2 on both sides"
ORDER = 11
SCENARIOS = [
    Http2("h2-h2-8x32", BOTH, 32, upstream_http2=True),
    Http2("h2-h2-8x1", BOTH, 1, upstream_http2=True),
    Http2("h2-h1-8x32", "190-byte answers, HTTP/2 clients, HTTP/1.1 to the origin", 32),
    Http2("tls-h2-h1-8x32", "190-byte answers, HTTP/2 over TLS, HTTP/1.1 to the origin", 32, tls=True),
    Upgraded(),
    Http2("grpc-8x32", "gRPC calls of five bytes each way", 32, upstream_http2=True, grpc=True),
]
