"""How evenly a few long-lived connections spread over the workers: by the kernel's hash and what a proxy adds to it, and
with Envoy's `exact_balance`. The busiest worker decides how much a proxy can carry, and an idle one is a core unused."""

import contextlib
import os
import pathlib
import re
import socket
import time
import urllib.request

from loads import errors
from peers import Setup
from scenarios import Scenario

# Unless the command line says otherwise.
WORKERS = 2
# Times that all connections are opened anew: the hash is different each time.
TRIALS = 50
PATIENCE_S = 10


class Spread(Scenario):
    rounds_max = 1
    warms_up = False
    starts = True

    def __init__(self, per_worker, exact, workers=WORKERS):
        self.per_worker = per_worker
        self.setup = Setup(workers=workers, exact_balance=exact)
        self.name = f"spread-{per_worker}" + ("-exact" if exact else "")
        # Figures of another number of workers do not stand in the same line.
        if workers != WORKERS:
            self.name += f"-{workers}w"
        how = ", exact_balance" if exact else ""
        self.title = f"{workers} workers, {per_worker} long-lived connections for each{how}"

    def with_workers(self, workers):
        return Spread(self.per_worker, self.setup.exact_balance, workers)

    def measure(self, bench, running):
        workers, count = self.setup.workers, reader(running)
        busiest, idle = [], 0
        for _ in range(TRIALS):
            wait_for(count, 0, workers)
            with contextlib.ExitStack() as opened:
                for _ in range(self.per_worker * workers):
                    opened.enter_context(socket.create_connection(("127.0.0.1", running.port), PATIENCE_S))
                counts = wait_for(count, self.per_worker * workers, workers)
            busiest.append(max(counts) / self.per_worker)
            idle += counts.count(0)
        running.process.require_alive()
        return {
            "busiest": sum(busiest) / TRIALS,
            "busiest_max": max(busiest),
            "idle_workers": 100 * idle / (TRIALS * workers),
        }


def reader(running):
    """A function that tells the open client connections of each worker."""
    if running.peer.name.startswith(("ringway", "envoy")):
        return lambda: of_statistics(running.place.admin)
    if running.peer.name == "nginx":
        return lambda: of_processes(running.process.pid, running.port)
    raise errors.Unsupported("one process that does not tell its threads apart")


def of_statistics(admin):
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/stats?filter=worker_", timeout=PATIENCE_S) as answer:
        text = answer.read().decode()
    return [int(value) for value in re.findall(r"^listener\.127.*worker_\d+\.downstream_cx_active: (\d+)$", text, re.M)]


def of_processes(master, port):
    """By the sockets that each worker process has open."""
    lines = pathlib.Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    fields = [line.split() for line in lines]
    established = {f"socket:[{field[9]}]" for field in fields if field[1].endswith(f":{port:04X}") and field[3] == "01"}
    counts = []
    for child in pathlib.Path(f"/proc/{master}/task/{master}/children").read_text(encoding="ascii").split():
        held = 0
        for descriptor in pathlib.Path(f"/proc/{child}/fd").iterdir():
            with contextlib.suppress(OSError):
                held += os.readlink(descriptor) in established
        counts.append(held)
    return counts


def wait_for(count, total, workers):
    """The counts, once they add up."""
    deadline = time.monotonic() + PATIENCE_S
    while sum(counts := count()) != total or len(counts) != workers:
        if time.monotonic() > deadline:
            raise errors.Failed(f"{counts} connections instead of {total}")
    return counts


ORDER = 9
SCENARIOS = [Spread(per_worker, exact) for exact in (False, True) for per_worker in (2, 8, 32)]
