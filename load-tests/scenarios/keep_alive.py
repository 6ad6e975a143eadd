"""Small requests on few and many connections, kept alive or one per request: what a proxy costs per request."""

from scenarios import Scenario, under_check


# Where the event loops are compared with each other, too.
COMPARED = (1, 64, 256)


class KeepAlive(Scenario):
    rounds = 8

    def __init__(self, connections):
        self.connections = connections
        self.all_floors = connections in COMPARED
        self.name = f"keep-alive-{connections}"
        self.title = f"190-byte answers, {connections} connection{'s' if connections > 1 else ''}"

    def measure(self, bench, running):
        wrk = bench.generators.wrk
        return under_check(bench, running, "/", lambda: wrk(running.port, "/", self.connections, bench.seconds))


class SecondOpinion(Scenario):
    """The same through another generator: the two must agree, or it is the generator that is measured."""

    name, title = "keep-alive-64-h2load", "190-byte answers, 64 connections, from h2load"

    def measure(self, bench, running):
        h2load = bench.generators.h2load
        return under_check(bench, running, "/", lambda: h2load(running.port, "/", 64, bench.seconds))


class PerRequest(Scenario):
    rounds = 8
    name, title = "connection-per-request", "a new client connection for each request, 32 at a time"

    def measure(self, bench, running):
        wrk = bench.generators.wrk
        close = ["Connection: close"]
        return under_check(bench, running, "/", lambda: wrk(running.port, "/", 32, bench.seconds, headers=close))


ORDER = 1
SCENARIOS = [*map(KeepAlive, (1, 16, 64, 256, 1024)), SecondOpinion(), PerRequest()]
