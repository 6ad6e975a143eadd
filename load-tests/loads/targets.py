"""What Ringway is held to, and whether one run met it.

A limit is a multiple of a peer's median in the same run, or a fixed figure. A limit below what a bare forwarder takes in
that run is void: nothing that forwards could meet it, and the distance to the floor is told instead.
"""

import dataclasses

from loads.results import FLOORS

BEST = ("nginx", "haproxy")


@dataclasses.dataclass
class Verdict:
    """One line of the table of targets."""

    what: str
    limit: float
    found: float
    # What a bare forwarder takes, where one was measured.
    floor: float
    unit: str
    decimals: int

    def word(self):
        if self.found <= self.limit:
            return "met"
        return "void" if self.floor is not None and self.limit < self.floor else "not met"


class Cpu:
    """CPU time per request, by a peer's (the better of several)."""

    def __init__(self, scenario, factor, peers, ours="ringway"):
        self.scenario, self.factor, self.peers, self.ours = scenario, factor, peers, ours

    def verdict(self, results):
        theirs = results.best(self.scenario, "cpu_us", self.peers)
        ours = results.median(self.scenario, self.ours, "cpu_us")
        if ours is None or theirs is None:
            return None
        what = f"`{self.scenario}`: CPU per request{of(self.ours)} ≤ {self.factor:.2f} × {' or '.join(self.peers)}"
        # The floor is no limit to what is measured by the floor.
        floor = None if set(self.peers) & set(FLOORS) else results.floor(self.scenario, "cpu_us")
        return Verdict(what, self.factor * theirs, ours, floor, "µs", 1)


class Fixed:
    """A metric by a figure, in the metric's unit times `scale`."""

    def __init__(self, scenario, metric, limit, what, unit, scale=1.0, decimals=1, ours="ringway"):
        self.scenario, self.metric, self.limit, self.what = scenario, metric, limit, what
        self.unit, self.scale, self.decimals, self.ours = unit, scale, decimals, ours

    def verdict(self, results):
        found = results.median(self.scenario, self.ours, self.metric)
        if found is None:
            return None
        what = f"`{self.scenario}`: {self.what}{of(self.ours)}"
        floor = results.floor(self.scenario, self.metric)
        scaled = floor * self.scale if floor is not None else None
        return Verdict(what, self.limit, found * self.scale, scaled, self.unit, self.decimals)


class OwnShare:
    """What the proxy adds to a percentile of the direct run, by what a peer adds."""

    def __init__(self, scenario, metric, factor, peer):
        self.scenario, self.metric, self.factor, self.peer = scenario, metric, factor, peer

    def verdict(self, results):
        at = lambda peer: results.median(self.scenario, peer, self.metric)
        direct, ours, theirs = at("direct"), at("ringway"), at(self.peer)
        if None in (direct, ours, theirs):
            return None
        floor = results.floor(self.scenario, self.metric)
        name = self.metric.removesuffix("_us")
        what = f"`{self.scenario}`: {name} without the direct run's ≤ {self.factor:.2f} × {self.peer}"
        own = floor - direct if floor is not None else None
        return Verdict(what, self.factor * (theirs - direct), ours - direct, own, "µs", 0)


class OwnLimit:
    """What the proxy adds to a percentile of the direct run, by a fixed figure in µs."""

    def __init__(self, scenario, metric, limit_us, ours="ringway"):
        self.scenario, self.metric, self.limit_us, self.ours = scenario, metric, limit_us, ours

    def verdict(self, results):
        direct, ours = (results.median(self.scenario, peer, self.metric) for peer in ("direct", self.ours))
        if direct is None or ours is None:
            return None
        what = f"`{self.scenario}`: {self.metric.removesuffix('_us')} without the direct run's{of(self.ours)}"
        # Where the forwarders add more than is allowed, the machine does.
        floor = results.floor(self.scenario, self.metric)
        own = floor - direct if floor is not None else None
        return Verdict(what, self.limit_us, ours - direct, own, "µs", 0)


class ManyRoutes:
    """What routes cost: one scenario by another with fewer."""

    def __init__(self, many, few, factor):
        self.many, self.few, self.factor = many, few, factor

    def verdict(self, results):
        many, few = (results.median(name, "ringway", "cpu_us") for name in (self.many, self.few))
        if many is None or few is None:
            return None
        return Verdict(f"`{self.many}`: CPU per request ≤ {self.factor:.2f} × `{self.few}`", self.factor * few, many, None, "µs", 1)


class PerRoute:
    """Memory per virtual host with its route and cluster, from two scenarios."""

    def __init__(self, many, few, between, limit_kb):
        self.many, self.few, self.between, self.limit_kb = many, few, between, limit_kb

    def verdict(self, results):
        many, few = (results.median(name, "ringway", "rss_kb") for name in (self.many, self.few))
        if many is None or few is None:
            return None
        what = f"`{self.many}`: resident memory per virtual host, route and cluster"
        return Verdict(what, self.limit_kb, (many - few) / self.between, None, "KB", 2)


class GivenBack:
    """Memory after a burst of connections, by memory before it."""

    def __init__(self, scenario, factor, ours="ringway"):
        self.scenario, self.factor, self.ours = scenario, factor, ours

    def verdict(self, results):
        before, after = (results.median(self.scenario, self.ours, f"rss_{at}_kb") for at in ("at_0", "after"))
        if before is None or after is None:
            return None
        what = f"`{self.scenario}`: resident memory{of(self.ours)} after 5,000 connections ≤ {self.factor:.2f} × before them"
        return Verdict(what, self.factor * before / 1024, after / 1024, None, "MB", 1)


def of(ours):
    return "" if ours == "ringway" else f" of {ours}"


MB = 1 / 1024
KEEP_ALIVE = ("keep-alive-1", "keep-alive-16", "keep-alive-64", "keep-alive-256", "keep-alive-1024")
TARGETS = [
    Cpu("keep-alive-64", 0.85, BEST),
    Cpu("keep-alive-64", 0.25, ("envoy",)),
    Cpu("keep-alive-64", 1.12, ("floor-ring",)),
    Cpu("keep-alive-256", 0.85, ("haproxy",)),
    Cpu("keep-alive-256", 1.12, ("floor-ring",)),
    Cpu("keep-alive-1", 0.90, ("nginx",)),
    *[Cpu(name, 0.95, ("nginx",), "ringway-epoll") for name in (*KEEP_ALIVE, "connection-per-request", "down-64k", "down-1m")],
    Cpu("up-1m", 1.05, ("haproxy", "haproxy-64k")),
    Cpu("up-1m", 1.05, ("haproxy", "haproxy-64k"), "ringway-epoll"),
    Cpu("up-1m", 1.05, ("haproxy-splice",)),
    Cpu("up-1m", 1.05, ("haproxy-splice",), "ringway-epoll"),
    Cpu("down-64k", 1.00, ("haproxy",)),
    Cpu("down-1m", 0.95, ("haproxy",)),
    Cpu("down-1m", 1.05, ("haproxy-splice",)),
    Cpu("https-32", 0.90, BEST),
    Cpu("handshake-full", 1.00, ("envoy",)),
    Cpu("https-1m", 1.00, ("envoy",)),
    Cpu("h2-h2-8x32", 1.05, ("haproxy",)),
    Cpu("h2-h2-8x32", 0.25, ("envoy",)),
    Cpu("h2-h2-8x1", 1.00, ("haproxy",)),
    Cpu("tcp-down-1m", 0.90, ("haproxy-splice", "envoy")),
    Cpu("tcp-up-1m", 0.90, ("haproxy-splice", "envoy")),
    ManyRoutes("routes-10000", "routes-1", 1.10),
    OwnShare("latency-4000", "p99_us", 1.00, "haproxy"),
    OwnShare("tcp-latency-1000", "p99_us", 1.00, "haproxy"),
    OwnLimit("latency-half", "p99_us", 1_000),
    OwnLimit("latency-half", "p99_us", 1_000, "ringway-epoll"),
    OwnLimit("latency-half-tls", "p99_us", 1_000),
    Fixed("idle", "rss_at_0_kb", 6, "resident memory, 2 workers", "MB", MB),
    Fixed("idle", "rss_per_connection_kb", 1.5, "resident memory per idle connection", "KB", decimals=2),
    Fixed("idle", "rss_per_connection_kb", 1.5, "resident memory per idle connection", "KB", decimals=2, ours="ringway-epoll"),
    GivenBack("idle", 1.10),
    GivenBack("idle", 1.10, "ringway-epoll"),
    Fixed("idle-4-workers", "rss_at_1000_kb", 10, "resident memory, 4 workers, 1,000 idle connections", "MB", MB),
    Fixed("idle-tls", "rss_per_connection_kb", 5, "resident memory per idle TLS connection", "KB", decimals=2),
    Fixed("idle-tls-4-workers", "rss_at_1000_kb", 10, "resident memory, 4 workers, 1,000 idle TLS connections", "MB", MB),
    Fixed("idle-tcp", "rss_per_connection_kb", 1.5, "resident memory per idle relayed TCP connection", "KB", decimals=2),
    Fixed("idle-tcp", "rss_per_connection_kb", 1.5, "resident memory per idle relayed TCP connection", "KB", decimals=2, ours="ringway-epoll"),
    PerRoute("routes-10000", "routes-1", 9_999, 2),
    Fixed("start-1000", "start_ms", 50, "start to first answer", "ms"),
    Fixed("start-5000", "start_ms", 250, "start to first answer", "ms"),
]


def verdicts(results):
    """One for each target that this run has figures for."""
    found = [target.verdict(results) for target in TARGETS]
    return [verdict for verdict in found if verdict is not None]
