"""Memory: idle, then with idle keep-alive connections that have each carried one request, then after they are gone."""

import contextlib
import socket
import time

from loads import errors
from peers import Setup
from scenarios import Scenario

STEPS = (1000, 2000, 5000)
# Per connection is told from these first ones, as other projects do.
FIRST = 2000


class Idle(Scenario):
    rounds_max = 1
    warms_up = False
    starts = True

    def __init__(self, name, workers, steps):
        self.name, self.setup, self.steps = name, Setup(workers=workers), steps
        self.title = f"{workers} workers, memory with up to {steps[-1]:,} idle connections"

    def measure(self, bench, running):
        process = running.process
        request = f"GET / HTTP/1.1\r\nHost: {running.setup.host()}\r\n\r\n".encode()
        idle = process.settled_kb()
        values = {
            "rss_at_0_kb": idle,
            "pss_kb": process.memory_kb("Pss"),
            "private_dirty_kb": process.memory_kb("Private_Dirty"),
        }
        with contextlib.ExitStack() as opened:
            count = 0
            for step in self.steps:
                while count < step:
                    client = opened.enter_context(socket.create_connection(("127.0.0.1", running.port), 10))
                    ask(client, request)
                    count += 1
                values[f"rss_at_{step}_kb"] = process.settled_kb()
        if FIRST in self.steps:
            values["rss_per_connection_kb"] = (values[f"rss_at_{FIRST}_kb"] - idle) / FIRST
        # Proxies give memory back a little later, if they do.
        time.sleep(2)
        values["rss_after_kb"] = process.settled_kb()
        process.require_alive()
        return values


def ask(client, request):
    """One exchange, whole."""
    client.sendall(request)
    received = b""
    while not received.endswith(b"\n") or b"\r\n\r\n" not in received or received.endswith(b"\r\n\r\n"):
        more = client.recv(4096)
        if not more:
            raise errors.Failed("a connection ended instead of answering")
        received += more
    if not received.startswith(b"HTTP/1.1 200"):
        raise errors.Failed(f"not the answer: {received[:60]!r}")


ORDER = 4
SCENARIOS = [Idle("idle", 2, STEPS), Idle("idle-4-workers", 4, STEPS[:1])]
