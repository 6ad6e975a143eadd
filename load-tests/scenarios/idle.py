"""Memory: idle, then with idle keep-alive connections that have each carried one request, then after they are gone."""

import contextlib
import http.client
import time

from loads import errors
from peers import Setup
from scenarios import Scenario

STEPS = (1000, 2000, 5000)
# Per connection is told from these first ones, as other projects do; without the very first, whose request brings in pages of
# the program that all others use.
FIRST = 2000


class Idle(Scenario):
    rounds_max = 3
    warms_up = False
    starts = True

    def __init__(self, name, steps, says="", **setup):
        self.name, self.setup, self.steps = name, Setup(**setup), steps
        self.title = f"{self.setup.workers} workers, memory with up to {steps[-1]:,} idle {says}connections"

    def measure(self, bench, running):
        process = running.process
        values = {
            "rss_at_0_kb": process.settled_kb(),
            "pss_kb": process.memory_kb("Pss"),
            "private_dirty_kb": process.memory_kb("Private_Dirty"),
        }
        with contextlib.ExitStack() as opened:
            count = 0
            for step in (1, *self.steps):
                while count < step:
                    client = opened.enter_context(contextlib.closing(running.connect()))
                    ask(client, running.setup.host())
                    count += 1
                values[f"rss_at_{step}_kb"] = process.settled_kb()
        if FIRST in self.steps:
            values["rss_per_connection_kb"] = (values[f"rss_at_{FIRST}_kb"] - values["rss_at_1_kb"]) / (FIRST - 1)
        # Proxies give memory back a little later, if they do.
        time.sleep(2)
        values["rss_after_kb"] = process.settled_kb()
        process.require_alive()
        return values


def ask(client, host):
    """One exchange, whole."""
    try:
        client.request("GET", "/", headers={"Host": host})
        response = client.getresponse()
        response.read()
    except (OSError, http.client.HTTPException) as error:
        raise errors.Failed(f"a connection did not answer: {error!r}") from error
    if response.status != 200:
        raise errors.Failed(f"not the answer: {response.status}")


ORDER = 4
SCENARIOS = [
    Idle("idle", STEPS, workers=2),
    Idle("idle-4-workers", STEPS[:1], workers=4),
    Idle("idle-tls", STEPS, "TLS ", workers=2, tls=True),
    Idle("idle-tls-4-workers", STEPS[:1], "TLS ", workers=4, tls=True),
    Idle("idle-tcp", STEPS, "relayed TCP ", workers=2, tcp=True),
    Idle("idle-tls-h2", STEPS, "HTTP/2 TLS ", workers=2, tls=True, http2=True),
]
