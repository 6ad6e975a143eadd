"""TLS 1.3 with a P-256 certificate: connections kept alive, large answers, and the handshakes themselves."""

from peers import Setup
from scenarios import Scenario, under_check

TLS = Setup(tls=True)


class Https(Scenario):
    setup = TLS
    rounds = 8

    def __init__(self, name, title, path, connections, files=()):
        self.name, self.title, self.path, self.connections, self.files = name, title, path, connections, files

    def measure(self, bench, running):
        wrk = bench.generators.wrk
        generate = lambda: wrk(running.port, self.path, self.connections, bench.seconds, tls=True)
        return under_check(bench, running, self.path, generate)


class Handshake(Scenario):
    setup = TLS
    rounds = 8
    # At a time: enough that the proxy never waits.
    connections = 32

    def __init__(self, resumes):
        self.resumes = resumes
        kind = "resumed" if resumes else "full"
        self.name = f"handshake-{kind}"
        self.title = f"a {kind} TLS 1.3 handshake for each 190-byte answer, {self.connections} at a time"

    def measure(self, bench, running):
        handshakes = bench.generators.handshakes
        identity = running.place.identity
        generate = lambda: handshakes(running.port, identity, self.connections, bench.seconds, self.resumes)
        # The checking client's requests need no handshakes: they would be in the divisor and cost nothing.
        values = under_check(bench, running, "/", generate, beside=False)
        return {**values, "handshakes": 1e6 / values["cpu_us"]}


ORDER = 10
SCENARIOS = [
    Https("https-32", "190-byte answers over TLS, 32 connections", "/", 32),
    Https("https-1m", "1 MiB answers over TLS, 8 connections", "/f/1m", 8, ("1m",)),
    Handshake(resumes=False),
    Handshake(resumes=True),
]
