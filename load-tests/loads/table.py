"""The results as Markdown: a matrix per metric, and the ratios that a proxy is judged by."""

from loads.results import METRICS

# Title, ours, theirs: our median divided by the best of theirs.
RATIOS = [
    ("ringway ÷ best of nginx, haproxy", "ringway", ("nginx", "haproxy")),
    ("ringway ÷ haproxy-splice", "ringway", ("haproxy-splice",)),
    ("ringway ÷ envoy", "ringway", ("envoy",)),
    ("ringway ÷ pingora", "ringway", ("pingora",)),
    ("ringway ÷ bare ring", "ringway", ("floor-ring",)),
    ("epoll ÷ nginx", "ringway-epoll", ("nginx",)),
    ("epoll ÷ bare epoll", "ringway-epoll", ("floor-epoll",)),
    ("bare ring ÷ bare monoio", "floor-ring", ("floor-monoio",)),
]
OWN_SHARE = ("p50_us", "p99_us", "p99.9_us")


def render(results):
    parts = [head(results)]
    if any(sample.metric == "cpu_us" for sample in results.samples):
        parts.append(ratios(results))
    parts += [matrix(results, metric) for metric in METRICS]
    parts.append(own_share(results))
    parts.append(notes(results))
    return "\n".join(part for part in parts if part)


def head(results):
    facts = results.facts
    lines = [
        "# Load tests",
        "",
        f"{facts['date']}, kernel {facts['kernel']}, {facts['machine']}. `{facts['command']}`",
        "",
        "Peers took turns within every round; a cell is the median of the rounds, the minimum in brackets. Absolute figures",
        "drift with the machine: compare figures of one table, as ratios.",
        "",
        *(f"**FAILED** {failure}\n" for failure in results.failures),
        *(f"- **{peer}**: {version}" for peer, version in results.peers.items()),
        "",
        *(f"- *{name}*: {title}" for name, title in results.scenarios.items()),
        "",
    ]
    return "\n".join(lines)


def ratios(results):
    """CPU time per request, ours by theirs."""
    rows = {}
    for name in results.having("cpu_us")[0]:
        cells = [results.ratio(name, "cpu_us", ours, theirs) for _, ours, theirs in RATIOS]
        if any(cell is not None for cell in cells):
            rows[name] = ["–" if cell is None else f"{cell:.2f}" for cell in cells]
    if not rows:
        return ""
    return grid("## CPU time per request, ratios of medians (below 1: less)", [title for title, *_ in RATIOS], rows)


def matrix(results, metric):
    """All scenarios by all peers."""
    scenarios, peers = results.having(metric)
    if not scenarios:
        return ""
    title, unit, decimals = METRICS[metric]
    rows = {name: [cell(results, name, peer, metric, decimals) for peer in peers] for name in scenarios}
    return grid(f"## {title}{f', {unit}' if unit else ''}", peers, rows)


def cell(results, scenario, peer, metric, decimals):
    median = results.median(scenario, peer, metric)
    if median is None:
        note = results.notes.get((scenario, peer))
        return note if note in ("failed", "not yet") else "–"
    if len(results.values(scenario, peer, metric)) == 1:
        return f"{median:,.{decimals}f}"
    return f"{median:,.{decimals}f} ({results.minimum(scenario, peer, metric):,.{decimals}f})"


def own_share(results):
    """What a proxy adds to the latency of the direct run."""
    text = ""
    for metric in OWN_SHARE:
        rows = {}
        peers = [peer for peer in results.having(metric)[1] if peer != "direct"]
        for name in results.having(metric)[0]:
            direct = results.median(name, "direct", metric)
            if direct is not None:
                own = [results.median(name, peer, metric) for peer in peers]
                rows[name] = ["–" if value is None else f"{value - direct:,.0f}" for value in own]
        if rows:
            text += grid(f"## {METRICS[metric][0]}: the proxy's own share (minus direct), µs", peers, rows) + "\n"
    return text


def notes(results):
    """Why cells are empty, also those of peers that have no column."""
    cells = {}
    for (scenario, peer), why in results.notes.items():
        cells.setdefault((peer, why), []).append(scenario)
    lines = [f"- {peer}: {why} ({', '.join(scenarios)})" for (peer, why), scenarios in cells.items()]
    return "\n".join(["## Not measured", "", *lines, ""]) if lines else ""


def grid(title, columns, rows):
    lines = [title, "", f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    return "\n".join([*lines, ""])
