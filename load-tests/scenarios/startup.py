"""From the start of the process to its first answer, with 1 to 10,000 clusters and routes."""

from peers import Setup
from scenarios import Scenario


class StartUp(Scenario):
    warms_up = False
    starts = True
    rounds = 5

    def __init__(self, count):
        self.setup = Setup(routes=count)
        self.name = f"start-{count}"
        self.title = f"start to first answer, {count:,} virtual host{'s' if count > 1 else ''} with route and cluster"

    def measure(self, bench, running):
        return {"start_ms": running.started_s * 1000}


ORDER = 6
SCENARIOS = [*map(StartUp, (1, 1_000, 5_000, 10_000))]
