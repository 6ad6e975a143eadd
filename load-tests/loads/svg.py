"""SVG, written by hand: panels of bars, panels of lines, a title above and a caption below. 800 units wide.

A page brings its own background, so that light and dark surroundings show it alike, and needs no font or script.
"""

import html
import math
import textwrap

WIDTH, MARGIN = 800, 18
INNER = WIDTH - 2 * MARGIN
ROW, SPACE = 17, 26
HIGH = 230
INK, FAINT, GRID, PAPER = "#1f2328", "#59636e", "#dde1e6", "#ffffff"
FONT = 'font-family="Helvetica, Arial, sans-serif"'
# A letter's width by the font's size: more than Helvetica's digits and small letters take.
CHARACTER = 0.58


def text(x, y, content, size, anchor="start", bold=False, fill=INK, halo=False):
    """`halo` keeps what lies below from touching the letters."""
    weight = ' font-weight="bold"' if bold else ""
    weight += f' stroke="{PAPER}" stroke-width="3" paint-order="stroke"' if halo else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" {FONT} font-size="{size}" text-anchor="{anchor}"{weight} '
        f'fill="{fill}">{html.escape(content)}</text>'
    )


def wide(content, size):
    return len(content) * size * CHARACTER


def page(title, subtitle, caption, height, parts):
    """`height` is that of the parts, which begin below the title."""
    lines = textwrap.wrap(caption, int(INNER / (11 * CHARACTER * 0.9)))
    top, foot = 52, 14 + 15 * len(lines)
    total = top + height + foot
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total:.0f}" width="{WIDTH}" height="{total:.0f}" role="img">',
        f"<title>{html.escape(title)}</title>",
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{total - 1:.0f}" rx="8" fill="{PAPER}" stroke="{GRID}"/>',
        text(MARGIN, 27, title, 17, bold=True),
        text(MARGIN, 45, subtitle, 12, fill=FAINT),
        f'<g transform="translate(0 {top})">',
        *parts,
        "</g>",
        *(text(MARGIN, top + height + 16 + 15 * row, line, 11, fill=FAINT) for row, line in enumerate(lines)),
        "</svg>",
    ]
    return "\n".join(out) + "\n"


def bars(panels, colors, ours, decimals, mark=""):
    """Height and parts of `panels`: [(title, about, {peer: value}, floor)], two beside each other.

    The names of `ours` are bold. The floor is a line through the bars of its panel, called `mark`.
    """
    gutter, label = 24, 98
    column = (INNER - gutter) / 2
    out, y = [], 0
    for pair in (panels[at : at + 2] for at in range(0, len(panels), 2)):
        for side, (title, about, values, floor) in enumerate(pair):
            left = MARGIN + side * (column + gutter)
            figures = {peer: f"{value:,.{decimals}f}" for peer, value in values.items()}
            # The longest bar leaves room for its figure.
            longest = max([*values.values(), floor or 0]) or 1
            room = column - label - max(wide(figure, 11) for figure in figures.values()) - 10
            out += [text(left, y + 15, title, 13, bold=True), text(left, y + 30, about, 11, fill=FAINT)]
            figured = []
            for row, (peer, value) in enumerate(values.items()):
                at, long = y + 38 + row * ROW, max(value / longest * room, 1)
                strong = peer in ours
                out.append(text(left + label - 6, at + 11, peer, 11, "end", strong))
                out.append(
                    f'<rect x="{left + label:.1f}" y="{at + 1}" width="{long:.1f}" height="{ROW - 4}" rx="1.5" fill="{colors[peer]}"/>'
                )
                figured.append(text(left + label + long + 5, at + 11, figures[peer], 11, bold=strong, halo=True))
            if floor:
                x, end = left + label + floor / longest * room, y + 38 + len(values) * ROW
                out.append(
                    f'<line x1="{x:.1f}" y1="{y + 36}" x2="{x:.1f}" y2="{end}" stroke="{INK}" stroke-width="1.2" stroke-dasharray="3 2"/>'
                )
                out.append(text(x, end + 10, f"{mark} {floor:,.{decimals}f}", 10, "middle", fill=FAINT))
            out += figured
        y += 38 + max(len(values) for _, _, values, _ in pair) * ROW + SPACE
    return y, out


def lines(panels, colors, ours, dashed, log_x=False):
    """Height and parts of `panels`: [(title, x title, {peer: [(x, y), …]}, logarithmic)] side by side; a legend below."""
    gutter, left_room = 14, 46
    column = (INNER - gutter * (len(panels) - 1)) / len(panels)
    out = []
    for number, (title, x_title, series, logarithmic) in enumerate(panels):
        left = MARGIN + number * (column + gutter) + left_room
        out += axes(title, x_title, series, (left, 32, column - left_room - 12), logarithmic, log_x, colors, ours, dashed)
    peers = list(dict.fromkeys(peer for _, _, series, _ in panels for peer in series))
    x, y = MARGIN, HIGH + 96
    for peer in peers:
        long = 30 + wide(peer, 12) + 16
        if x + long > WIDTH - MARGIN:
            x, y = MARGIN, y + 20
        dash = ' stroke-dasharray="4 3"' if peer in dashed else ""
        out.append(f'<line x1="{x}" y1="{y - 4}" x2="{x + 22}" y2="{y - 4}" stroke="{colors[peer]}" stroke-width="{3 if peer in ours else 2}"{dash}/>')
        out.append(text(x + 28, y, peer, 12, bold=peer in ours))
        x += long
    return y + 10, out


def axes(title, x_title, series, place, logarithmic, log_x, colors, ours, dashed):
    left, top, width = place
    points = [point for line in series.values() for point in line]
    xs = sorted({x for x, _ in points})
    ticks = log_ticks([y for _, y in points]) if logarithmic else linear_ticks(max(y for _, y in points))
    low, high = ticks[0], ticks[-1]

    def at(x, y):
        part = math.log(y / low) / math.log(high / low) if logarithmic else y / high
        along = math.log(x / xs[0]) / math.log(xs[-1] / xs[0]) if log_x else x / (xs[-1] or 1)
        return left + along * width, top + HIGH - part * HIGH

    out = [text(left - 40, top - 14, title, 13, bold=True)]
    for tick in ticks:
        _, y = at(xs[0], tick)
        out.append(f'<line x1="{left:.1f}" y1="{y:.1f}" x2="{left + width:.1f}" y2="{y:.1f}" stroke="{GRID}"/>')
        out.append(text(left - 6, y + 4, f"{tick:,g}", 11, "end", fill=FAINT))
    free = -math.inf
    for x in xs:
        label, middle = short(x), at(x, high)[0]
        # What would touch its neighbour is left out.
        if middle - wide(label, 11) / 2 > free:
            out.append(text(middle, top + HIGH + 17, label, 11, "middle", fill=FAINT))
            free = middle + wide(label, 11) / 2 + 3
    out.append(text(left + width / 2, top + HIGH + 36, x_title, 12, "middle", fill=FAINT))
    # Ours last, the first of them above all others.
    for peer, line in sorted(series.items(), key=lambda item: -ours.index(item[0]) if item[0] in ours else -math.inf):
        places = [at(*point) for point in sorted(line)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dash = ' stroke-dasharray="4 3"' if peer in dashed else ""
        thick = 3 if peer in ours else 1.8
        out.append(f'<polyline points="{path}" fill="none" stroke="{colors[peer]}" stroke-width="{thick}" stroke-linejoin="round"{dash}/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{thick + 0.8}" fill="{colors[peer]}"/>' for x, y in places]
    return out


def short(number):
    return f"{number / 1000:g}k" if number >= 1000 and number % 1000 == 0 else f"{number:,g}"


def linear_ticks(most):
    """0 up to a round number that is not below `most`, in four or five steps."""
    most = most or 1
    step = 10 ** math.floor(math.log10(most / 4))
    step = next(step * factor for factor in (1, 2, 2.5, 5, 10) if step * factor * 5 >= most)
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


def log_ticks(values):
    """Round numbers around positive values: powers of ten, with 2 and 5 between."""
    positive = [value for value in values if value > 0] or [1]
    steps = [factor * 10**power for power in range(-3, 10) for factor in (1, 2, 5)]
    below = max(step for step in steps if step <= min(positive))
    above = min(step for step in steps if step >= max(positive) and step > below)
    return [step for step in steps if below <= step <= above]
