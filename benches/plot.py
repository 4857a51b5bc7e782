"""Line charts as SVG, readable on a light page and on a dark one."""

import math
from html import escape

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 76, 150, 66, 52
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600; font-size: 15px }
  .axis { stroke: #59636e; stroke-width: 1 }
  .grid { stroke: #d1d9e0; stroke-width: 1 }
  .line { fill: none; stroke-width: 2.5 }
  .s0 { stroke: #0969da } .f0 { fill: #0969da }
  .s1 { stroke: #bc4c00 } .f1 { fill: #bc4c00 }
  .s2 { stroke: #1a7f37 } .f2 { fill: #1a7f37 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .axis { stroke: #9198a1 } .grid { stroke: #3d444d }
    .s0 { stroke: #58a6ff } .f0 { fill: #58a6ff } .s1 { stroke: #f0883e } .f1 { fill: #f0883e }
    .s2 { stroke: #3fb950 } .f2 { fill: #3fb950 }
  }
"""


def short(number):
    """A number as an axis shows it: 10k, 2.5M, 0.4."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.3g}"


def size(number):
    """A number of bytes: 64 B, 16 KiB."""
    return f"{number} B" if number < 1024 else f"{number // 1024} KiB"


def nice_steps(top):
    """Some five round numbers from 0 up to `top` or a little more."""
    if top <= 0:
        return [0, 1]
    raw = top / 5
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw)
    return [step * number for number in range(math.ceil(top / step - 1e-9) + 1)]


def line_chart(path, title, x_label, y_label, series, x_text=short, is_linear=False):
    """`series` is {name: [(x, y), …]}; y begins at 0. x is on a logarithmic scale with a mark at each point, or on a linear
    one with round numbers."""
    xs = sorted({x for points in series.values() for x, _ in points})
    steps = nice_steps(max(y for points in series.values() for _, y in points))
    scale = float if is_linear else math.log
    if is_linear:
        xs = nice_steps(xs[-1])
    low, high = scale(xs[0]), scale(xs[-1])

    def at_x(x):
        share = (scale(x) - low) / (high - low) if high > low else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def at_y(y):
        return HEIGHT - BOTTOM - y / steps[-1] * (HEIGHT - TOP - BOTTOM)

    def text(x, y, words, more=""):
        return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(words)}</text>'

    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [text(LEFT, 22, title, 'class="title"'), text(LEFT, TOP - 16, y_label),
             text((LEFT + right) / 2, HEIGHT - 12, x_label, 'text-anchor="middle"')]
    for step in steps:
        y = at_y(step)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(text(LEFT - 8, y + 4, short(step), 'text-anchor="end"'))
    parts.append(f'<line class="axis" x1="{LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
    for x in xs:
        parts.append(f'<line class="axis" x1="{at_x(x):.1f}" y1="{bottom}" x2="{at_x(x):.1f}" y2="{bottom + 5}"/>')
        parts.append(text(at_x(x), bottom + 20, x_text(x), 'text-anchor="middle"'))
    # The names stand at the lines' ends, apart from each other.
    ends = sorted((at_y(points[-1][1]), number) for number, points in enumerate(series.values()))
    labels, last = {}, -math.inf
    for y, number in ends:
        last = labels[number] = max(y + 4, last + 17)
    for number, (name, points) in enumerate(series.items()):
        way = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="line s{number}" points="{way}"/>')
        if not is_linear:
            parts += [f'<circle class="f{number}" cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="4"/>' for x, y in points]
        parts.append(text(at_x(points[-1][0]) + 10, labels[number], name))
    body = "\n  ".join(parts)
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
                    f'aria-label="{escape(title)}">\n  <style>{STYLE}  </style>\n  {body}\n</svg>\n')
