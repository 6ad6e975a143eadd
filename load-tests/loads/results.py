"""Samples, their statistics, and the two files that keep them: `results.csv` and `run.json`.

The CSV has one line per value, with machine, kernel and version. The JSON has what is no value: command lines, versions,
why cells are empty, what failed. Together they are everything that tables and charts are made of.
"""

import csv
import dataclasses
import json
import statistics

from loads import errors

# Metric: title, unit, decimals. The tables follow this order.
METRICS = {
    "cpu_us": ("CPU time per request", "µs", 1),
    "handshakes": ("TLS handshakes per second of CPU time, each with a request", "", 0),
    "connections": ("Relayed TCP connections per second of CPU time, each with a small exchange", "", 0),
    "rps": ("Throughput", "requests/s", 0),
    "rate": ("Rate asked for", "requests/s", 0),
    "p50_us": ("Latency, median", "µs", 0),
    "p99_us": ("Latency, 99 %", "µs", 0),
    "p99.9_us": ("Latency, 99.9 %", "µs", 0),
    "max_us": ("Latency, worst", "µs", 0),
    "failed": ("Failed requests", "", 0),
    "busiest": ("Connections of the busiest worker, by an even share", "", 2),
    "busiest_max": ("The same, worst trial", "", 2),
    "idle_workers": ("Workers without a connection", "%", 1),
    "start_ms": ("Start to first answer", "ms", 1),
    "rss_kb": ("Resident memory under load", "KB", 0),
    "rss_grown_kb": ("Resident memory added by slow clients", "KB", 0),
    "rss_at_0_kb": ("Resident memory, idle", "KB", 0),
    "pss_kb": ("Proportional set size, idle", "KB", 0),
    "private_dirty_kb": ("Private dirty memory, idle", "KB", 0),
    "rss_at_1_kb": ("Resident memory, one idle connection", "KB", 0),
    "rss_at_1000_kb": ("Resident memory, 1,000 idle connections", "KB", 0),
    "rss_at_2000_kb": ("Resident memory, 2,000 idle connections", "KB", 0),
    "rss_at_5000_kb": ("Resident memory, 5,000 idle connections", "KB", 0),
    "rss_per_connection_kb": ("Resident memory per idle connection (second to 2,000th)", "KB", 2),
    "rss_after_kb": ("Resident memory after the connections are gone", "KB", 0),
}
MORE_IS_BETTER = ("rps", "handshakes", "connections")
FLOORS = ("floor-ring", "floor-ring-splice", "floor-epoll", "floor-epoll-splice", "floor-monoio")
COLUMNS = ["kernel", "machine", "scenario", "peer", "version", "round", "metric", "unit", "value"]


@dataclasses.dataclass(frozen=True)
class Sample:
    scenario: str
    peer: str
    round: int
    metric: str
    value: float


@dataclasses.dataclass
class Results:
    """Everything that was found, in one run or in several on one machine."""

    # Scenario titles and peer versions by name, both in the order of the tables.
    scenarios: dict
    peers: dict
    # Machine, kernel.
    facts: dict
    # Date, command and revision of each run.
    runs: list = dataclasses.field(default_factory=list)
    samples: list = dataclasses.field(default_factory=list)
    # Why a cell is empty, by (scenario, peer).
    notes: dict = dataclasses.field(default_factory=dict)
    # What went wrong, by (scenario, peer): the run as a whole has failed.
    failures: dict = dataclasses.field(default_factory=dict)

    def add(self, scenario, peer, number, values):
        """One turn's values. Percentiles without a table (wrk's 75 %) are left out."""
        self.samples += [
            Sample(scenario, peer, number, metric, value) for metric, value in values.items() if metric in METRICS
        ]

    def fail(self, scenario, peer, why):
        """Its figures so far cannot be believed either."""
        self.failures[scenario, peer] = why
        self.notes[scenario, peer] = "failed"
        self.samples = [s for s in self.samples if (s.scenario, s.peer) != (scenario, peer)]

    def forget(self, scenario):
        """As if the scenario had never begun: half of its rounds are nothing to compare."""
        self.samples = [sample for sample in self.samples if sample.scenario != scenario]
        for kept in (self.notes, self.failures):
            for key in [key for key in kept if key[0] == scenario]:
                del kept[key]

    def complete(self):
        """Scenarios with values of which nothing failed."""
        found = {sample.scenario for sample in self.samples}
        return found - {scenario for scenario, _ in self.failures}

    def values(self, scenario, peer, metric):
        return [
            sample.value
            for sample in self.samples
            if (sample.scenario, sample.peer, sample.metric) == (scenario, peer, metric)
        ]

    def median(self, scenario, peer, metric):
        """`None` where nothing was measured."""
        values = self.values(scenario, peer, metric)
        return statistics.median(values) if values else None

    def minimum(self, scenario, peer, metric):
        return min(self.values(scenario, peer, metric), default=None)

    def best(self, scenario, metric, peers):
        """The lowest median of several peers; `None` where none has one."""
        found = [self.median(scenario, peer, metric) for peer in peers]
        return min((value for value in found if value is not None), default=None)

    def floor(self, scenario, metric):
        """The lowest of the bare forwarders: what no proxy on this machine can go below by much."""
        return self.best(scenario, metric, FLOORS)

    def having(self, metric):
        """Scenarios and peers with values of a metric, in order."""
        found = {(sample.scenario, sample.peer) for sample in self.samples if sample.metric == metric}
        return (
            [name for name in self.scenarios if any(scenario == name for scenario, _ in found)],
            [name for name in self.peers if any(peer == name for _, peer in found)],
        )

    def write(self, folder):
        """The two files."""
        with open(folder / "results.csv", "w", newline="", encoding="utf-8") as out:
            lines = csv.writer(out, lineterminator="\n")
            lines.writerow(COLUMNS)
            place = [self.facts["kernel"], self.facts["machine"]]
            for s in self.samples:
                unit = METRICS[s.metric][1]
                line = [s.scenario, s.peer, self.peers[s.peer], s.round, s.metric, unit, f"{s.value:.3f}"]
                lines.writerow(place + line)
        pairs = lambda kept: [[scenario, peer, why] for (scenario, peer), why in kept.items()]
        kept = {
            "facts": self.facts,
            "runs": self.runs,
            "peers": self.peers,
            "notes": pairs(self.notes),
            "failures": pairs(self.failures),
        }
        (folder / "run.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def read(self, folder, order):
        """Takes over what a folder has. Figures of another machine or of other programs are not beside these.

        `order` is that of all known peers.
        """
        kept = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if kept["facts"] != self.facts:
            raise errors.Failed(f"the results in {folder} are another machine's: {kept['facts']}, here {self.facts}")
        for peer, version in kept["peers"].items():
            if self.peers.get(peer, version) != version:
                raise errors.Failed(f"the results in {folder} are of {version}, not of {self.peers[peer]}")
        every = {**kept["peers"], **self.peers}
        self.peers = {name: every[name] for name in sorted(every, key=order.index)}
        self.runs = kept["runs"]
        self.notes = {(scenario, peer): why for scenario, peer, why in kept["notes"]}
        self.failures = {(scenario, peer): why for scenario, peer, why in kept["failures"]}
        with open(folder / "results.csv", newline="", encoding="utf-8") as file:
            self.samples = [
                Sample(line["scenario"], line["peer"], int(line["round"]), line["metric"], float(line["value"]))
                for line in csv.DictReader(file)
            ]
        # Of another number of workers, or of an older rig: their figures stay in the tables.
        for sample in self.samples:
            self.scenarios.setdefault(sample.scenario, "as it was")


def open_in(folder, scenarios, peers, facts, order, appends):
    """Empty results, or those of the folder."""
    found = Results(scenarios, peers, facts)
    exists = (folder / "run.json").exists()
    if exists and not appends:
        raise errors.Failed(f"{folder} has results already: --append adds to them, another --output leaves them alone")
    if exists:
        found.read(folder, order)
    return found
