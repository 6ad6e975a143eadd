"""Which charts there are, and what stands in them. A chart is written where the results have values for it."""

import re

from loads import svg
from loads.results import FLOORS
from loads.table import OURS

# Floors and the direct run are a line, not a bar.
BARS_NOT = (*FLOORS, "floor-glommio", "direct")
LINES_NOT = ("floor-epoll", "floor-monoio", "floor-glommio")
DASHED = ("floor-ring", "direct")
SMALL, BODIES = r"keep-alive-\d+|connection-per-request|slow-clients", r"(down|up)-(?!1k).*"
TLS, HTTP2 = r"https-.*|handshake-.*", r"(tls-)?h2-h[12]-.*|h1-h2-.*|grpc-.*"
STEPS = re.compile(r"rss_at_(\d+)_kb")


def write(results, colors, folder):
    """The names of what was written."""
    drawn = {
        "cpu.svg": bar_chart(results, colors, SMALL, "cpu_us", "CPU time per request, µs", "less is better", 1),
        "bodies.svg": bar_chart(results, colors, BODIES, "cpu_us", "CPU time per request with a body, µs", "less is better", 0),
        "tls.svg": bar_chart(results, colors, TLS, "cpu_us", "CPU time per request over TLS 1.3, µs", "less is better", 0),
        "http2.svg": bar_chart(results, colors, HTTP2, "cpu_us", "CPU time per request with HTTP/2, µs", "less is better", 1),
        "tcp.svg": bar_chart(results, colors, r"tcp-.*", "cpu_us", "CPU time per exchange over relayed TCP, µs", "less is better", 0),
        "throughput.svg": bar_chart(results, colors, f"{SMALL}|{BODIES}", "rps", "Requests per second on one core", "more is better; where load generator and origin are the bottleneck, bars are alike", 0),
        "latency.svg": latency(results, colors),
        "memory.svg": memory(results, colors),
        "routes.svg": routes(results, colors),
        "startup.svg": startup(results, colors),
    }
    for name, content in drawn.items():
        if content:
            (folder / name).write_text(content, encoding="utf-8")
        else:
            (folder / name).unlink(missing_ok=True)
    return [name for name, content in drawn.items() if content]


def caption(results, scenarios):
    facts = results.facts
    used = [s for s in results.samples if s.scenario in scenarios]
    rounds = sorted({len({s.round for s in used if s.scenario == name}) for name in scenarios})
    medians = f"Median of {' or '.join(map(str, rounds))} rounds" if rounds != [1] else "One round"
    dates = {run["date"][:10]: None for run in results.runs}
    return f"{facts['machine']} · Linux {facts['kernel']} · {' to '.join(dates)} · {medians}, peers in turns, proxy alone on one core"


def bar_chart(results, colors, pattern, metric, title, subtitle, decimals):
    panels, scenarios = [], []
    for name in results.having(metric)[0]:
        if not re.fullmatch(pattern, name):
            continue
        medians = {peer: results.median(name, peer, metric) for peer in results.peers if peer not in BARS_NOT}
        medians = {peer: value for peer, value in medians.items() if value is not None}
        if medians:
            floor = results.floor(name, metric) if metric == "cpu_us" else None
            panels.append((name, results.scenarios[name], medians, floor))
            scenarios.append(name)
    if not panels:
        return None
    if any(floor for *_, floor in panels):
        subtitle += "; dashed: the floor, the best bare forwarder, which does nothing a proxy is for"
    return svg.page(title, subtitle, caption(results, scenarios), *svg.bars(panels, colors, OURS, decimals, "floor"))


def by_number(results, pattern, metric, scale=1.0):
    """{peer: [(number in the scenario's name, median)]}, and the scenarios."""
    series, scenarios = {}, []
    for name in results.having(metric)[0]:
        found = re.fullmatch(pattern, name)
        for peer in results.peers if found else ():
            value = results.median(name, peer, metric)
            if value is not None and peer not in LINES_NOT:
                series.setdefault(peer, []).append((int(found[1]), value * scale))
                scenarios.append(name)
    # A peer that cannot do more than the first has no line.
    series = {peer: line for peer, line in series.items() if len(line) > 1}
    return series, list(dict.fromkeys(scenarios))


def latency(results, colors):
    panels, scenarios = [], []
    for title, metric in (("median, µs", "p50_us"), ("99 %, µs", "p99_us"), ("99.9 %, µs", "p99.9_us")):
        series, scenarios = by_number(results, r"latency-(\d+)", metric)
        if len(scenarios) < 2:
            return None
        panels.append((title, "requests per second", series, True))
    below = "32 connections; a late request counts from its turn (coordinated omission); direct: no proxy. Less is better"
    return svg.page("Latency at a fixed rate", below, caption(results, scenarios), *svg.lines(panels, colors, OURS, DASHED))


def memory(results, colors):
    series = {}
    for peer in results.peers:
        for metric in {sample.metric: None for sample in results.samples if sample.scenario == "idle"}:
            count = STEPS.fullmatch(metric)
            value = results.median("idle", peer, metric) if count else None
            if value is not None and peer not in LINES_NOT:
                series.setdefault(peer, []).append((int(count[1]), value / 1024))
    if not series:
        return None
    panel = ("resident memory, MB", "idle keep-alive connections, each after one request", series, True)
    return svg.page(
        "Memory against idle connections",
        "two workers (the bare forwarder has one); less is better",
        caption(results, ["idle"]),
        *svg.lines([panel], colors, OURS, DASHED),
    )


def routes(results, colors):
    cpu, scenarios = by_number(results, r"routes-(\d+)", "cpu_us")
    kept, _ = by_number(results, r"routes-(\d+)", "rss_kb", 1 / 1024)
    if len(scenarios) < 2:
        return None
    panels = [("CPU per request, µs", "virtual hosts", cpu, False), ("resident memory, MB", "virtual hosts", kept, True)]
    below = "each virtual host with its own route and cluster, the last one is asked for; less is better"
    return svg.page("What many routes cost", below, caption(results, scenarios), *svg.lines(panels, colors, OURS, DASHED, log_x=True))


def startup(results, colors):
    series, scenarios = by_number(results, r"start-(\d+)", "start_ms")
    if len(scenarios) < 2:
        return None
    panel = ("from the start of the process to its first answer, ms", "virtual hosts, each with a route and a cluster", series, True)
    return svg.page("Start-up time", "less is better", caption(results, scenarios), *svg.lines([panel], colors, OURS, DASHED, log_x=True))
