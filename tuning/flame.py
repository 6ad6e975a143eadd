"""From `perf script` to stacks with weights, and from those to an SVG: the pure part of `tuning/flamegraph`."""

import re
from collections import Counter
from xml.sax.saxutils import escape

# `    55d0c0de ringway::proxy::serve+0x1f (/usr/bin/ringway)`: address, symbol, file.
FRAME = re.compile(r"^\s+(?P<address>[0-9a-f]+)\s+(?P<symbol>.*?)\s*\((?P<file>[^()]*(?:\([^()]*\))?)\)$")
OFFSET = re.compile(r"\+0x[0-9a-f]+$")
# The hash that the compiler ends its symbols with.
RUST_HASH = re.compile(r"::h[0-9a-f]{16}$")
# `worker-0 4242 20419.615704: context-switches:`, `worker-0 4242 20419.615889: PERF_RECORD_SWITCH IN`.
EVENT = re.compile(r"^(?P<comm>\S.*?)\s+(?P<tid>\d+)\s+(?P<time>\d+\.\d+):\s+(?P<event>\S.*?)\s*$")

KERNEL = "k"
USER = "u"

WIDTH = 1200
ROW = 15
CHAR = 6.2


def frame_of(line):
    """`(name, side)` of a line of a stack; none for other lines."""
    found = FRAME.match(line)
    if not found:
        return None
    file = found["file"]
    is_kernel = file.startswith("[kernel") or file.endswith(".ko") or file == "[guest.kernel]"
    if file == "[unknown]" and found["symbol"] == "[unknown]":
        return None  # where unwinding ended
    symbol = RUST_HASH.sub("", OFFSET.sub("", found["symbol"])).strip()
    if not symbol or symbol == "[unknown]":
        symbol = f"[{file.rsplit('/', 1)[-1].strip('[]') or 'unknown'}]"
    return symbol, KERNEL if is_kernel else USER


def samples(text):
    """`(header, frames)` of each sample, the outermost frame first. Samples are paragraphs."""
    for paragraph in text.split("\n\n"):
        lines = [line for line in paragraph.split("\n") if line.strip()]
        if lines and not lines[0].lstrip().startswith("#"):
            frames = [frame for frame in map(frame_of, lines[1:]) if frame]
            yield lines[0], tuple(reversed(frames))


def thread_name(header):
    """The command's name in a header `worker-0  1234 …`, its number left out: workers are alike."""
    name = re.split(r"\s+\d+(?:\s|$|/)", header.strip(), maxsplit=1)[0]
    return re.sub(r"-\d+$", "", name) or "[unknown]"


def fold(text):
    """How many samples each stack has; a stack begins with the thread's name."""
    stacks = Counter()
    for header, frames in samples(text):
        stacks[((thread_name(header), USER), *frames)] += 1
    return stacks


def fold_off_cpu(text):
    """Milliseconds that each stack waited: from the sample that a thread leaves its CPU with to its coming back."""
    stacks, left, frames = Counter(), {}, None
    for line in text.split("\n"):
        frame, event = frame_of(line), EVENT.match(line)
        if frame and frames is not None:
            frames.append(frame)
        elif event:
            thread, time, frames = event["tid"], float(event["time"]), None
            if event["event"].startswith("context-switches"):
                frames = []
                left[thread] = (thread_name(line), frames, time)
            elif event["event"].startswith("PERF_RECORD_SWITCH IN") and thread in left:
                name, stack, since = left.pop(thread)
                stacks[((name, USER), *reversed(stack))] += (time - since) * 1000
    return Counter({stack: waited for stack, waited in stacks.items() if waited > 0})


def hottest(stacks, count):
    """The frames with most weight of their own, each with its share in percent."""
    own, total = Counter(), sum(stacks.values())
    for stack, weight in stacks.items():
        own[stack[-1][0]] += weight
    return [(100 * weight / total, name) for name, weight in own.most_common(count)]


def tree(stacks):
    """Stacks joined from their outermost frame: `[weight, {frame: node}]`."""
    root = [0, {}]
    for stack, weight in stacks.items():
        node = root
        node[0] += weight
        for frame in stack:
            node = node[1].setdefault(frame, [0, {}])
            node[0] += weight
    return root


def colour(name, side):
    """Red for the program, orange for the kernel; a shade per name that is the same in every picture."""
    shade = sum(map(ord, name)) % 50
    return f"#{'f0' if side == KERNEL else 'e0'}{(150 if side == KERNEL else 90) + shade:02x}{40 + shade:02x}"


def boxes(root, min_weight):
    """`(depth, from, weight, name, side)` of each frame that is wide enough; callers come before what they call."""
    found, pending = [], [(root, 0, 0.0)]
    while pending:
        node, depth, start = pending.pop()
        for (name, side), child in sorted(node[1].items()):
            if child[0] >= min_weight:
                found.append((depth, start, child[0], name, side))
                pending.append((child, depth + 1, start))
            start += child[0]
    return found


def svg(stacks, title, unit, min_share=0.2):
    """The picture, self-contained: no script, a tooltip per frame."""
    total = sum(stacks.values())
    found = boxes(tree(stacks), total * min_share / 100)
    depth = 1 + max((box[0] for box in found), default=0)
    height = (depth + 3) * ROW
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="10">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="4" y="14" font-size="12">{escape(title)}; {total:.0f} {escape(unit)}</text>',
    ]
    for level, start, weight, name, side in found:
        x, width = start / total * WIDTH, weight / total * WIDTH
        y = height - (level + 1) * ROW - 4
        label = name if len(name) * CHAR < width - 4 else name[: max(0, int((width - 4) / CHAR) - 1)] + "…"
        label = f'<text x="{x + 2:.1f}" y="{y + 11}">{escape(label)}</text>' if width > 25 else ""
        tip = f"{name}: {100 * weight / total:.1f} % ({weight:.0f} {unit})"
        box = f'<rect x="{x:.1f}" y="{y}" width="{max(width - 0.3, 0.3):.1f}" height="{ROW - 1}" fill="{colour(name, side)}"/>'
        out.append(f"<g><title>{escape(tip)}</title>{box}{label}</g>")
    out.append("</svg>\n")
    return "\n".join(out)
