"""Relayed TCP connections, which carry HTTP/1.1 that no proxy looks at: bulk both ways, short connections, added latency.

The floor is a bare relay: through buffers on every event loop, and by splice(2), too, where it is much.
"""

from loads import upstream
from peers import Setup
from scenarios import Scenario, latency, under_check

TCP = Setup(tcp=True)
CONNECTIONS = 8
CLIENTS = 32


class Relayed(Scenario):
    setup = TCP
    rounds = 8
    all_floors = True


class Bulk(Relayed):
    """CPU time per MiB: a request is one."""

    large = True


class Down(Bulk):
    name, title, files = "tcp-down-1m", f"1 MiB answers over {CONNECTIONS} relayed TCP connections", ("1m",)

    def measure(self, bench, running):
        path = f"/f/{self.files[0]}"
        return under_check(bench, running, path, lambda: bench.generators.wrk(running.port, path, CONNECTIONS, bench.seconds))


class Up(Bulk):
    name, title = "tcp-up-1m", f"1 MiB request bodies over {CONNECTIONS} relayed TCP connections"

    def measure(self, bench, running):
        script = f'wrk.method = "POST"; wrk.body = string.rep("x", {upstream.SIZES["1m"]})'
        return under_check(bench, running, "/", lambda: bench.generators.wrk(running.port, "/sink", CONNECTIONS, bench.seconds, script=script))


class Connections(Relayed):
    name, title = "tcp-connections", f"a relayed TCP connection for each 190-byte answer, {CLIENTS} at a time"

    def measure(self, bench, running):
        close = ["Connection: close"]
        generate = lambda: bench.generators.wrk(running.port, "/", CLIENTS, bench.seconds, headers=close)
        # The checking client keeps its connection: its requests would be in the divisor and cost next to nothing.
        values = under_check(bench, running, "/", generate, beside=False)
        return {**values, "connections": 1e6 / values["cpu_us"]}


class Latency(Relayed):
    """As `latency-*`: the figure is what a proxy adds to the direct run."""

    direct = True
    rate = 1_000

    def __init__(self):
        self.name = f"tcp-latency-{self.rate}"
        self.title = f"190-byte answers at {self.rate:,} requests/s over {latency.CONNECTIONS} relayed TCP connections"

    def measure(self, bench, running):
        values = latency.at_rate(bench, running, self.rate)
        del values["rps"]
        return values


ORDER = 12
SCENARIOS = [Down(), Up(), Connections(), Latency()]
