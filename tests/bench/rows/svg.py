"""Curves as SVG, without any library."""

import math

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 440, 80, 150, 50, 60
COLOURS = ("#1f6fb4", "#d9662b", "#3a9a4b", "#8a56a8")


def _ticks(low, high, log):
    """Round values within the range."""
    if log:
        found = [m * 10 ** e for e in range(math.floor(math.log10(low)),
                                            math.ceil(math.log10(high)) + 1) for m in (1, 2, 5)]
        return [t for t in found if low <= t <= high]
    step = 10 ** math.floor(math.log10((high - low) / 4 or 1))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= 6)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step) + 1)]


def _scale(values, log, begin, end):
    """(function from value to pixel, ticks) of one axis."""
    low, high = min(values), max(values)
    if log:
        low = max(low, 1e-6)
        high = max(high, low * 1.01)
    else:
        low, high = min(low, 0), high if high > 0 else 1
    change = math.log10 if log else float

    def place(value):
        share = (change(max(value, low)) - change(low)) / (change(high) - change(low))
        return begin + (end - begin) * share

    return place, _ticks(low, high, log)


def write(path, curves, title, x_name, y_name, log_x=False):
    """Draw {name: [(x, y)]}; returns the path as text."""
    points = [p for curve in curves.values() for p in curve]
    x, x_ticks = _scale([p[0] for p in points], log_x, LEFT, WIDTH - RIGHT)
    y, y_ticks = _scale([p[1] for p in points], False, HEIGHT - BOTTOM, TOP)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
           'font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<text x="{LEFT}" y="28" font-size="15">{title}</text>']
    for t in x_ticks:
        out.append(f'<path d="M{x(t):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>'
                   f'<text x="{x(t):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
                   f'{t:,.10g}</text>')
    for t in y_ticks:
        out.append(f'<path d="M{LEFT} {y(t):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 8}" y="{y(t) + 4:.1f}" text-anchor="end">{t:,.10g}</text>')
    for i, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[i % len(COLOURS)]
        path_data = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in curve)
        out.append(f'<polyline points="{path_data}" fill="none" stroke="{colour}" '
                   'stroke-width="2"/>'
                   f'<text x="{WIDTH - RIGHT + 12}" y="{TOP + 20 * (i + 1)}" fill="{colour}">'
                   f'{name}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 16}" '
               f'text-anchor="middle">{x_name}</text>')
    out.append(f'<text x="20" y="{HEIGHT / 2:.0f}" text-anchor="middle" '
               f'transform="rotate(-90 20 {HEIGHT / 2:.0f})">{y_name}</text></svg>')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(out) + "\n")
    return f"wrote {path}"
