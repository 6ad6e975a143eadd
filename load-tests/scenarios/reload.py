"""Configuration taken anew four times a run while 64 connections are busy: what clients notice."""

import threading

from peers import Setup
from scenarios import Scenario, under_check

RELOADS = 4
SECONDS = 3


class Reload(Scenario):
    name, title = "reload", f"{RELOADS} reloads in {SECONDS} s under 64 busy connections: failed requests, latency"
    setup = Setup(reloads=True)
    rounds = 3

    def measure(self, bench, running):
        stop = threading.Event()

        def reload():
            for _ in range(RELOADS):
                if stop.wait(SECONDS / (RELOADS + 1)):
                    return
                running.reload()

        thread = threading.Thread(target=reload, daemon=True)

        def generate():
            thread.start()
            try:
                return bench.generators.wrk(running.port, "/", 64, SECONDS, tolerant=True)
            finally:
                stop.set()
                thread.join()

        values = under_check(bench, running, "/", generate, tolerant=True)
        # Processes come and go: their CPU time cannot be told.
        return {name: value for name, value in values.items() if name != "cpu_us"}


ORDER = 7
SCENARIOS = [Reload()]
