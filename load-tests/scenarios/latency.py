"""Latency at fixed rates, corrected for coordinated omission, beside the same without any proxy.

A proxy's own share is its figure minus the direct run's. The rates stay below what the slowest peer can carry on one core;
where a proxy cannot keep up, the correction shows it.
"""

from scenarios import Scenario, under_check

CONNECTIONS = 32
RATES = (1_000, 2_000, 4_000, 8_000)
PROMISED = 4_000


class Latency(Scenario):
    direct = True

    def __init__(self, rate):
        self.rate = rate
        self.rounds = 8 if rate == PROMISED else 3
        self.name = f"latency-{rate}"
        self.title = f"190-byte answers at {rate:,} requests/s, {CONNECTIONS} connections"

    def measure(self, bench, running):
        # Twice as long as other turns: 99.9 % are of few samples at the lowest rate.
        seconds = 2 * bench.seconds
        options = ("--rate", self.rate, "--seconds", seconds)
        own = bench.generators.own
        generate = lambda: own(running.port, "/", CONNECTIONS, *options, seconds=seconds)
        values = under_check(bench, running, "/", generate, beside=False)
        del values["rps"]
        return values


ORDER = 8
SCENARIOS = [*map(Latency, RATES)]
