"""The results as Markdown: targets first, then what a request costs at a glance, the charts, and a matrix per metric."""

from loads import targets
from loads.results import FLOORS, METRICS, MORE_IS_BETTER

OURS = ("ringway", "ringway-epoll")
# Bare forwarders and the direct run are beside the contest.
BESIDE = (*FLOORS, "floor-glommio", "direct")
OWN_SHARE = ("p50_us", "p99_us", "p99.9_us")
# Words in a cell that has no figure, up to a colon; other reasons, and the rest of these, stand below the tables.
WORDS = ("failed", "not offered")
ALT = {
    "cpu.svg": "CPU time per request of small requests",
    "bodies.svg": "CPU time per request with bodies",
    "tls.svg": "CPU time per request and handshake over TLS",
    "http2.svg": "CPU time per request with HTTP/2 and gRPC",
    "tcp.svg": "CPU time per exchange over relayed TCP connections",
    "throughput.svg": "Requests per second on one core",
    "latency.svg": "Latency percentiles against the rate",
    "memory.svg": "Resident memory against idle connections",
    "routes.svg": "CPU time per request and memory against the number of routes",
    "startup.svg": "Start to first answer against the number of clusters",
}


def render(results, drawn=()):
    parts = [head(results), target_table(results), glance(results)]
    parts += [f"![{ALT[name]}]({name})\n" for name in drawn]
    parts += [matrix(results, metric) for metric in METRICS if metric != "cpu_us"]
    parts += [own_share(results), forwarders(results), notes(results), origin(results)]
    return "\n".join(part for part in parts if part)


def head(results):
    facts, dates = results.facts, [run["date"] for run in results.runs]
    when = " to ".join(dict.fromkeys([dates[0], dates[-1]]))
    lines = [
        "# Load tests: results",
        "",
        f"{facts['machine']}, Linux {facts['kernel']}, {when}. One core for the proxy, one for load generator and origin; peers took",
        "turns within every round, and figures are medians of the rounds. They drift with the machine: compare figures of one",
        "line, as ratios. [What is measured, and how](../README.md).",
        "",
        *(f"**FAILED** {scenario}, {peer}: {why}\n" for (scenario, peer), why in results.failures.items()),
    ]
    return "\n".join(lines)


def target_table(results):
    """Each target with its limit in this run, and what was found."""
    found = targets.verdicts(results)
    if not found:
        return ""
    rows = {}
    for v in found:
        word = {"met": "met", "not met": "**not met**", "void": "void"}[v.word()]
        # A multiple of nothing, or of less, says nothing.
        if v.word() != "met" and (v.floor or 0) > 0:
            word += f": the floor is {v.floor:,.{v.decimals}f}, ringway {v.found / v.floor:.2f} × it"
        rows[v.what] = [f"{v.limit:,.{v.decimals}f} {v.unit}", f"{v.found:,.{v.decimals}f} {v.unit}", word]
    counts = {word: sum(v.word() == word for v in found) for word in ("met", "not met", "void")}
    title = "## Targets: " + ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    text = grid(title, ["limit", "measured", ""], rows, "what ringway is held to")
    return text + "\n*void*: the limit lies under what a bare forwarder takes in this run.\n"


def glance(results):
    """CPU time per request of all peers, and what ours is of the best other and of the floor."""
    scenarios, peers = results.having("cpu_us")
    if not scenarios:
        return ""
    contest = [peer for peer in columns(results, scenarios, peers) if peer not in BESIDE]
    rows = {}
    for name in scenarios:
        ours, floor = results.median(name, "ringway", "cpu_us"), results.floor(name, "cpu_us")
        others = results.best(name, "cpu_us", [peer for peer in contest if peer not in OURS])
        cells = ranked(results, name, contest, "cpu_us", with_minimum=True)
        cells.append("–" if floor is None else f"{floor:,.1f}")
        rows[name] = cells + [quotient(ours, others), quotient(ours, floor)]
    titles = [*contest, "floor", "ringway ÷ best other", "ringway ÷ floor"]
    text = grid("## CPU time per request, µs", titles, rows)
    text += "\nThe least of the proxies is bold; minima of the rounds in brackets. *floor*: the best of the bare forwarders.\n\n"
    return text + "\n".join([*(f"- `{name}`: {results.scenarios[name]}" for name in scenarios), ""])


def columns(results, scenarios, peers):
    """Those with a value, and those that have a word in its place."""
    return [p for p in results.peers if p in peers or any(word(results, s, p) for s in scenarios)]


def word(results, scenario, peer):
    said = results.notes.get((scenario, peer), "").partition(":")[0]
    return said if said in WORDS else None


def quotient(ours, theirs):
    return "–" if ours is None or not theirs else f"{ours / theirs:.2f}"


def ranked(results, scenario, peers, metric, with_minimum=False):
    """A cell per peer, the best bold."""
    medians = {peer: value for peer in peers if (value := results.median(scenario, peer, metric)) is not None}
    contest = [value for peer, value in medians.items() if peer not in BESIDE]
    best = (max if metric in MORE_IS_BETTER else min)(contest, default=None)
    return [cell(results, scenario, peer, metric, medians.get(peer), best, with_minimum) for peer in peers]


def cell(results, scenario, peer, metric, median, best, with_minimum):
    if median is None:
        return word(results, scenario, peer) or "–"
    decimals = METRICS[metric][2]
    text = f"{median:,.{decimals}f}"
    if median == best and peer not in BESIDE:
        text = f"**{text}**"
    if with_minimum and len(results.values(scenario, peer, metric)) > 1:
        text += f" ({results.minimum(scenario, peer, metric):,.{decimals}f})"
    return text


def matrix(results, metric):
    """All scenarios by all peers."""
    scenarios, peers = results.having(metric)
    if not scenarios:
        return ""
    peers = columns(results, scenarios, peers)
    title, unit, _ = METRICS[metric]
    rows = {name: ranked(results, name, peers, metric) for name in scenarios}
    return grid(f"## {title}{f', {unit}' if unit else ''}", peers, rows)


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


def forwarders(results):
    """The bare forwarders one by one."""
    scenarios, peers = results.having("cpu_us")
    peers = [peer for peer in peers if peer in BESIDE]
    if not peers:
        return ""
    rows = {name: ranked(results, name, peers, "cpu_us", with_minimum=True) for name in scenarios}
    return grid("## Bare forwarders: CPU time per request, µs", peers, rows)


def notes(results):
    """Why cells are empty, also those of peers that have no column."""
    cells = {}
    for (scenario, peer), why in results.notes.items():
        cells.setdefault((why, scenario), []).append(peer)
    reasons = {}
    for (why, scenario), peers in cells.items():
        reasons.setdefault((why, tuple(peers)), []).append(scenario)
    lines = [f"- {', '.join(peers)}: {why} ({', '.join(scenarios)})" for (why, peers), scenarios in reasons.items()]
    return "\n".join(["## Not measured", "", *lines, ""]) if lines else ""


def origin(results):
    """Versions and command lines."""
    lines = ["## Where this comes from", ""]
    lines += [f"- {peer}: {version}" for peer, version in results.peers.items()]
    lines += ["", "```sh", *map(ran, results.runs), "```"]
    lines += ["", "Every sample: [results.csv](results.csv); versions, commands and reasons: [run.json](run.json).", ""]
    return "\n".join(lines)


def ran(run):
    """A command line, and the revision that it ran in."""
    return f"{run['command']}  # {run['revision']}" if "revision" in run else run["command"]


def grid(title, titles, rows, corner=""):
    lines = [title, "", f"| {corner} | {' | '.join(titles)} |", f"|---|{'---:|' * len(titles)}"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    return "\n".join([*lines, ""])
