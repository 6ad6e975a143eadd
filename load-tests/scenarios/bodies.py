"""Bodies of 1 KiB to 64 MiB, from the origin and to it."""

from loads import upstream
from scenarios import Scenario, under_check

# 64 MiB are exact counts: a second holds a few of them, and a generator that stops by the clock cuts some off.
COUNTED = {"64m": (2, 8)}
CONNECTIONS = 8
# splice(2) is for bodies beyond HAProxy's buffer of 16 KiB.
LARGE = ("64k", "1m", "64m")
PROMISED_DOWN, PROMISED_UP = ("64k", "1m"), ("1m",)


class Body(Scenario):
    def __init__(self, size):
        self.size = size
        self.bytes = upstream.SIZES[size]
        self.connections, self.count = COUNTED.get(size, (CONNECTIONS, 0))
        self.large = size in LARGE
        self.says = f"{size.upper().replace('K', ' KiB').replace('M', ' MiB')}"

    def under_check(self, bench, running, path, generate):
        values = under_check(bench, running, path, generate)
        # A handful of requests has no percentiles.
        return {name: values[name] for name in ("cpu_us", "rps")} if self.count else values


class Down(Body):
    def __init__(self, size):
        super().__init__(size)
        self.name, self.files = f"down-{size}", (size,)
        self.rounds = 8 if size in PROMISED_DOWN else 3
        self.title = f"{self.says} answers, {self.connections} connections"

    def measure(self, bench, running):
        path = f"/f/{self.size}"
        own, wrk = bench.generators.own, bench.generators.wrk
        if self.count:
            generate = lambda: own(running.port, path, self.connections, "--requests", self.count)
        else:
            generate = lambda: wrk(running.port, path, self.connections, bench.seconds)
        return self.under_check(bench, running, path, generate)


class Up(Body):
    def __init__(self, size):
        super().__init__(size)
        self.name = f"up-{size}"
        self.rounds = 8 if size in PROMISED_UP else 3
        self.title = f"{self.says} request bodies, {self.connections} connections"

    def measure(self, bench, running):
        own, wrk = bench.generators.own, bench.generators.wrk
        script = f'wrk.method = "POST"; wrk.body = string.rep("x", {self.bytes})'
        if self.count:
            options = ("--requests", self.count, "--body", self.bytes)
            generate = lambda: own(running.port, "/sink", self.connections, *options)
        else:
            generate = lambda: wrk(running.port, "/sink", self.connections, bench.seconds, script=script)
        return self.under_check(bench, running, "/", generate)


ORDER = 2
SCENARIOS = [*map(Down, upstream.SIZES), *map(Up, upstream.SIZES)]
