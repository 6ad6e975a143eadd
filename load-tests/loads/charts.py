"""Charts as SVG, written by hand: bars for what one scenario costs each peer, lines for what changes with rate or count.

They bring their own background, so that a dark page shows them too, and need no font or script.
"""

import html
import math
import re

BAR_WIDTH, LINE_WIDTH = 300, 420
ROW, GAP, MARGIN = 17, 34, 16
FONT = 'font-family="Helvetica, Arial, sans-serif"'


def bars(title, unit, panels, colors, decimals=1):
    """`panels`: {scenario: {peer: value}}; a small chart each, peers always in the same order."""
    columns = 3
    labels = 110
    tall = max(len(values) for values in panels.values()) * ROW + GAP
    width = columns * (BAR_WIDTH + labels) + 2 * MARGIN
    height = math.ceil(len(panels) / columns) * tall + 60
    out = [text(MARGIN, 26, f"{title} ({unit})" if unit else title, 17, weight="bold")]
    for number, (name, values) in enumerate(panels.items()):
        left = MARGIN + number % columns * (BAR_WIDTH + labels)
        top = 50 + number // columns * tall
        out.append(text(left, top + 12, name, 13, weight="bold"))
        longest = max(values.values()) or 1
        for row, (peer, value) in enumerate(values.items()):
            y = top + 20 + row * ROW
            long = value / longest * (BAR_WIDTH - 90)
            out.append(text(left + labels - 6, y + 11, peer, 11, anchor="end"))
            out.append(f'<rect x="{left + labels}" y="{y + 1}" width="{max(long, 1):.1f}" height="{ROW - 4}" fill="{colors[peer]}"/>')
            out.append(text(left + labels + long + 4, y + 11, f"{value:,.{decimals}f}", 11))
    return document(width, height, out)


def lines(title, x_title, y_title, panels, colors, logarithmic=False):
    """`panels`: {title: {peer: [(x, y), …]}}."""
    high, legend = 260, 130
    width = len(panels) * (LINE_WIDTH + 70) + legend + 2 * MARGIN
    out = [text(MARGIN, 26, title, 17, weight="bold")]
    for number, (name, series) in enumerate(panels.items()):
        left, top = MARGIN + 55 + number * (LINE_WIDTH + 70), 70
        out += axes(name, x_title, y_title, series, left, top, high, logarithmic, colors)
    peers = list(dict.fromkeys(peer for series in panels.values() for peer in series))
    for row, peer in enumerate(peers):
        y = 80 + row * 18
        out.append(f'<rect x="{width - legend}" y="{y - 9}" width="18" height="4" fill="{colors[peer]}"/>')
        out.append(text(width - legend + 24, y - 3, peer, 12))
    return document(width, max(high + 130, 100 + 18 * len(peers)), out)


def axes(name, x_title, y_title, series, left, top, high, logarithmic, colors):
    points = [point for line in series.values() for point in line]
    x_max = max(x for x, _ in points) or 1
    ticks = log_ticks(points) if logarithmic else linear_ticks(max(y for _, y in points))
    low_end, high_end = ticks[0], ticks[-1]

    def at(x, y):
        part = (math.log(y / low_end) / math.log(high_end / low_end)) if logarithmic else y / high_end
        return left + x / x_max * LINE_WIDTH, top + high - part * high

    out = [text(left, top - 14, f"{name} ({y_title})", 13, weight="bold")]
    for tick in ticks:
        _, y = at(0, tick)
        out.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + LINE_WIDTH}" y2="{y:.1f}" stroke="#dddddd"/>')
        out.append(text(left - 6, y + 4, f"{tick:,g}", 11, anchor="end"))
    for x in sorted({x for x, _ in points}):
        out.append(text(at(x, high_end)[0], top + high + 16, f"{x:,g}", 11, anchor="middle"))
    out.append(text(left + LINE_WIDTH / 2, top + high + 36, x_title, 12, anchor="middle"))
    for peer, line in series.items():
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in sorted(line)))
        dash = ' stroke-dasharray="5 4"' if peer == "direct" else ""
        out.append(f'<polyline points="{path}" fill="none" stroke="{colors[peer]}" stroke-width="2.2"{dash}/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colors[peer]}"/>' for x, y in (at(*p) for p in line)]
    return out


def linear_ticks(most):
    """0 up to a round number that is not below `most`, in four or five steps."""
    most = most or 1
    step = 10 ** math.floor(math.log10(most / 4))
    step = next(step * factor for factor in (1, 2, 2.5, 5, 10) if step * factor * 5 >= most)
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


def log_ticks(points):
    """Powers of ten around positive values, with 2 and 5 between."""
    positive = [y for _, y in points if y > 0] or [1]
    steps = [factor * 10**power for power in range(-3, 10) for factor in (1, 2, 5)]
    below = max(step for step in steps if step <= min(positive))
    above = min(step for step in steps if step >= max(positive) and step > below)
    return [step for step in steps if below <= step <= above]


def text(x, y, content, size, anchor="start", weight="normal"):
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" {FONT} font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="#222222">{html.escape(content)}</text>'
    )


def document(width, height, parts):
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}">\n<rect width="100%" height="100%" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def write(results, colors, folder):
    """The charts that these results have values for."""
    written = []

    def save(name, content):
        (folder / name).write_text(content, encoding="utf-8")
        written.append(name)

    for metric, name, title, unit, decimals in (
        ("cpu_us", "cpu.svg", "CPU time per request: less is better", "µs", 1),
        ("rps", "throughput.svg", "Throughput on one core: more is better", "requests/s", 0),
    ):
        panels = medians(results, metric)
        if panels:
            save(name, bars(title, unit, panels, colors, decimals))
    latency = {title: by_rate(results, metric) for title, metric in (("median", "p50_us"), ("99 %", "p99_us"))}
    if all(latency.values()):
        title = "Latency at a fixed rate, corrected for coordinated omission: lower is better"
        save("latency.svg", lines(title, "requests per second", "µs", latency, colors, logarithmic=True))
    memory = by_connections(results)
    if memory:
        title = "Resident memory against idle connections: lower is better"
        save("memory.svg", lines(title, "idle connections", "MB", {"two workers": memory}, colors, logarithmic=True))
    return written


def medians(results, metric):
    scenarios, peers = results.having(metric)
    found = {name: {peer: results.median(name, peer, metric) for peer in peers} for name in scenarios}
    return {name: {p: v for p, v in values.items() if v is not None} for name, values in found.items()}


def by_rate(results, metric):
    series = {}
    for scenario in results.scenarios:
        rate = re.fullmatch(r"latency-(\d+)", scenario)
        for peer in results.peers if rate else ():
            value = results.median(scenario, peer, metric)
            if value is not None:
                series.setdefault(peer, []).append((int(rate[1]), value))
    return series


def by_connections(results):
    series = {}
    for peer in results.peers:
        for metric in {sample.metric: None for sample in results.samples}:
            count = re.fullmatch(r"rss_at_(\d+)_kb", metric)
            value = results.median("idle", peer, metric) if count else None
            if value is not None:
                series.setdefault(peer, []).append((int(count[1]), value / 1024))
    return series
