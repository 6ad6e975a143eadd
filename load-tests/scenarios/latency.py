"""Latency at fixed rates, corrected for coordinated omission, beside the same without any proxy.

A proxy's own share is its figure minus the direct run's. The round rates stay below what the slowest peer can carry on one
core, half of Ringway's saturation rate may not; where a proxy cannot keep up, the correction shows it.
"""

import statistics

from peers import Setup
from scenarios import Scenario, under_check

CONNECTIONS = 32
RATES = (1_000, 2_000, 4_000, 8_000)
PROMISED = 4_000
# Runs without a fixed rate that tell the rate of saturation, requests of one, and what a rate is rounded down to.
SATURATIONS, REQUESTS, STEP = 3, 20_000, 100


class Latency(Scenario):
    direct = True

    def __init__(self, rate):
        self.rate = rate
        # The slowest hundredth of a second's requests is mostly the machine's doing: eight rounds' medians lay 25 us apart for the same proxy.
        self.rounds = 24 if rate == PROMISED else 3
        self.name = f"latency-{rate}"
        self.title = f"190-byte answers at {rate:,} requests/s, {CONNECTIONS} connections"

    def measure(self, bench, running):
        values = at_rate(bench, running, self.rate)
        del values["rps"]
        return values


class Half(Scenario):
    """The first peer of the run, which is Ringway unless it was left out, says how much it carries; all have half of it.

    It is asked by the generator that then keeps the rate: half of what wrk gets, which needs less of the core that it shares
    with the origin, would have that core saturated and measure nothing else.
    """

    direct = True
    rounds = 8

    def __init__(self, tls=False):
        self.setup = Setup(tls=tls)
        # The origin has no TLS, whose own share of the time is part of what is held against the direct run.
        self.name = "latency-half-tls" if tls else "latency-half"
        how = " over TLS" if tls else ""
        self.title = f"190-byte answers{how} at half of Ringway's saturation rate, {CONNECTIONS} connections"

    def measure(self, bench, running):
        options = under(running)
        rate = self.rate(bench, running.port, options)
        return {"rate": rate, **at_rate(bench, running, rate, options)}

    def rate(self, bench, port, options=()):
        """Found out once in a run."""
        if self.name not in bench.rates:
            own = bench.generators.own
            runs = [own(port, "/", CONNECTIONS, "--requests", REQUESTS, *options) for _ in range(SATURATIONS)]
            found = [run.per_second for run in runs]
            bench.rates[self.name] = half(found)
        return bench.rates[self.name]


def half(saturations):
    """Half of the usual one of several rates, in whole steps."""
    return max(int(statistics.median(saturations) / 2) // STEP, 1) * STEP


def under(running):
    """How the generator comes to a peer: under TLS where it is the proxy's."""
    if running.setup.tls and running.process:
        return ("--authority", running.place.identity.authority)
    return ()


def at_rate(bench, running, rate, options=()):
    # Twice as long as other turns: 99.9 % are of few samples at the lowest rate.
    seconds = 2 * bench.seconds
    options = ("--rate", rate, "--seconds", seconds, *options)
    own = bench.generators.own
    generate = lambda: own(running.port, "/", CONNECTIONS, *options, seconds=seconds)
    return under_check(bench, running, "/", generate, beside=False)


ORDER = 8
SCENARIOS = [*map(Latency, RATES), Half(), Half(tls=True)]
