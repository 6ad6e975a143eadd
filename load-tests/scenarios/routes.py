"""1 to 10,000 virtual hosts, each with a route and a cluster: what configuration costs in time and memory."""

from peers import Setup
from scenarios import Scenario, under_check


# The least and the most: one is promised in terms of the other.
PROMISED = (1, 10_000)


class Routes(Scenario):
    def __init__(self, count):
        self.setup = Setup(routes=count)
        self.rounds = 8 if count in PROMISED else 3
        self.name = f"routes-{count}"
        self.title = f"{count:,} virtual host{'s' if count > 1 else ''} with route and cluster, 64 connections"

    def measure(self, bench, running):
        wrk, host = bench.generators.wrk, running.setup.host()
        values = under_check(bench, running, "/", lambda: wrk(running.port, "/", 64, bench.seconds, host=host))
        return {**values, "rss_kb": running.process.memory_kb()}


ORDER = 5
SCENARIOS = [*map(Routes, (1, 100, 1_000, 10_000))]
