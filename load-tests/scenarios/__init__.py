"""What is measured: one file per kind of work, each with a `SCENARIOS` list; a new file adds more.

A scenario measures one peer once and returns values by metric (`loads/results.py` knows their names). The rig calls it for
each peer in turn, round by round.
"""

import importlib
import pkgutil

from loads import checker, upstream
from peers import Setup


class Scenario:
    """One line of the tables."""

    name = ""
    # What is done, in a few words for the reader.
    title = ""
    setup = Setup()
    # Rounds unless the command line says otherwise; 8 where speed is promised.
    rounds = 3
    # Rounds at most: what hardly varies, or takes long, needs few.
    rounds_max = 1000
    # A first measurement is thrown away.
    warms_up = True
    # It starts processes of its own instead of taking the running ones.
    starts = False
    # Sizes of the origin's files that it fetches.
    files = ()
    # Whether the direct run, without a proxy, says something.
    direct = False
    # Whether bodies are so large that peers which differ in nothing else differ.
    large = False
    # Whether the event loops are compared with each other, and not only the floor under the proxies is wanted.
    all_floors = False

    def is_for(self, peer):
        """Whether a peer has turns; one that has and cannot says why (`errors.Unsupported`)."""
        if peer.kind == "direct":
            return self.direct
        if (peer.for_bodies and not self.large) or (peer.for_relays and not self.setup.tcp):
            return False
        return self.all_floors or not peer.is_loop

    def with_workers(self, workers):
        """The same with so many workers, if their number is not what it is about."""
        return self

    def measure(self, bench, running):
        """Values by metric."""
        raise NotImplementedError


def under_check(bench, running, path, generate, tolerant=False, beside=True):
    """Runs `generate` beside the checking client; what it counted, with the proxy's CPU time per request.

    The client's own milliseconds on the generator's core would be the highest percentiles at a low rate: without `beside`
    it checks before and after.
    """
    process = running.process
    expected = bench.files.hashes[path]
    setup = running.setup
    check = checker.Checker(running.connect(), path, expected, upstream.origin(setup), setup.host(), tolerant)
    before = process.cpu_ns() if process else 0
    if beside:
        with check:
            load = generate()
    else:
        check.once()
        load = generate()
        check.once()
    values = {"rps": load.per_second, **{f"{name}_us": value for name, value in load.latency_us.items()}}
    if process:
        process.require_alive()
        values["cpu_us"] = (process.cpu_ns() - before) / 1000 / (load.requests + check.requests)
    if tolerant:
        values["failed"] = load.errors + check.lost
    return values


def known(workers=None):
    """All scenarios by name, in the order of their files' `ORDER` and lists; some of them with so many workers."""
    modules = [importlib.import_module(f"scenarios.{module.name}") for module in pkgutil.iter_modules(__path__)]
    modules.sort(key=lambda module: module.ORDER)
    every = [scenario for module in modules for scenario in module.SCENARIOS]
    if workers:
        every = [scenario.with_workers(workers) for scenario in every]
    return {scenario.name: scenario for scenario in every}
