"""Samples, their statistics, and the CSV: one line per value, with machine, kernel and version."""

import csv
import dataclasses
import statistics

# Metric: title, unit, decimals. The tables follow this order.
METRICS = {
    "cpu_us": ("CPU time per request", "µs", 1),
    "rps": ("Throughput", "requests/s", 0),
    "p50_us": ("Latency, median", "µs", 0),
    "p99_us": ("Latency, 99 %", "µs", 0),
    "p99.9_us": ("Latency, 99.9 %", "µs", 0),
    "max_us": ("Latency, worst", "µs", 0),
    "failed": ("Failed requests", "", 0),
    "start_ms": ("Start to first answer", "ms", 1),
    "rss_kb": ("Resident memory under load", "KB", 0),
    "rss_grown_kb": ("Resident memory added by slow clients", "KB", 0),
    "rss_at_0_kb": ("Resident memory, idle", "KB", 0),
    "pss_kb": ("Proportional set size, idle", "KB", 0),
    "private_dirty_kb": ("Private dirty memory, idle", "KB", 0),
    "rss_at_1000_kb": ("Resident memory, 1,000 idle connections", "KB", 0),
    "rss_at_2000_kb": ("Resident memory, 2,000 idle connections", "KB", 0),
    "rss_at_5000_kb": ("Resident memory, 5,000 idle connections", "KB", 0),
    "rss_per_connection_kb": ("Resident memory per idle connection (first 2,000)", "KB", 2),
    "rss_after_kb": ("Resident memory after the connections are gone", "KB", 0),
}


@dataclasses.dataclass(frozen=True)
class Sample:
    scenario: str
    peer: str
    round: int
    metric: str
    value: float


@dataclasses.dataclass
class Results:
    """Everything one run found."""

    # Scenario titles and peer versions by name, both in the order of the tables.
    scenarios: dict
    peers: dict
    # Machine, kernel, date, command.
    facts: dict
    samples: list = dataclasses.field(default_factory=list)
    # Why a cell is empty, by (scenario, peer).
    notes: dict = dataclasses.field(default_factory=dict)
    # What went wrong, a line each: the run as a whole has failed.
    failures: list = dataclasses.field(default_factory=list)

    def add(self, scenario, peer, number, values):
        """One turn's values. Percentiles without a table (wrk's 75 %) are left out."""
        self.samples += [
            Sample(scenario, peer, number, metric, value) for metric, value in values.items() if metric in METRICS
        ]

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

    def ratio(self, scenario, metric, ours, theirs):
        """Our median by the best of theirs; `None` where either is missing."""
        mine = self.median(scenario, ours, metric)
        others = [value for peer in theirs if (value := self.median(scenario, peer, metric))]
        return mine / min(others) if mine is not None and others else None

    def having(self, metric):
        """Scenarios and peers with values of a metric, in order."""
        found = {(sample.scenario, sample.peer) for sample in self.samples if sample.metric == metric}
        return (
            [name for name in self.scenarios if any(scenario == name for scenario, _ in found)],
            [name for name in self.peers if any(peer == name for _, peer in found)],
        )

    def write_csv(self, file):
        with open(file, "w", newline="", encoding="utf-8") as out:
            lines = csv.writer(out)
            lines.writerow(
                ["date", "kernel", "machine", "scenario", "peer", "version", "round", "metric", "unit", "value"]
            )
            for sample in self.samples:
                lines.writerow(
                    [
                        self.facts["date"],
                        self.facts["kernel"],
                        self.facts["machine"],
                        sample.scenario,
                        sample.peer,
                        self.peers[sample.peer],
                        sample.round,
                        sample.metric,
                        METRICS[sample.metric][1],
                        f"{sample.value:.3f}",
                    ]
                )
