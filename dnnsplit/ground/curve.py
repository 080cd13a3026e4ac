"""A curve of steps as inline SVG, for objects that show one in a notebook; figures are drawn in the room of plots."""

from __future__ import annotations

import html
from collections.abc import Sequence

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 560, 220, 110, 16, 44
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def steps(x: Sequence[float], y: Sequence[float], names: tuple[str, str], words: tuple[Sequence[str], Sequence[str]]) -> str:
    """Return the SVG of a value that holds from each `x` up to the next one.

    Parameters
    ----------
    x, y : Sequence[float]
        Ascending, and the values from there on; at least one.
    names : tuple[str, str]
        Of both axes.
    words : tuple[Sequence[str], Sequence[str]]
        Five each: what the ticks say, from the least to the greatest value of each axis.

    Examples
    --------
    >>> svg = steps([0, 1], [3, 2], ("noise", "latency"), (list("01234"), list("abcde")))
    >>> svg[:4], svg.count("<circle")
    ('<svg', 2)
    """

    def scaled(value: float, ends: Sequence[float], low: float, high: float) -> float:
        least, most = min(ends), max(ends)
        share = (value - least) / (most - least) if most > least else 0.5
        return round(low + share * (high - low), 1)

    floor, right = HEIGHT - BOTTOM, WIDTH - 24
    points = [(scaled(a, x, LEFT, right), scaled(b, y, floor, TOP)) for a, b in zip(x, y, strict=True)]
    path = f"M{points[0][0]} {points[0][1]}" + "".join(f"H{a}V{b}" for a, b in points[1:])
    parts = [
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-family="sans-serif" '
        f'font-size="12" style="background:#fff;max-width:100%"><title>'
        f"{html.escape(names[1])} against {html.escape(names[0])}</title>"
    ]
    for share, across, up in zip(SHARES, *words, strict=True):
        a, b = round(LEFT + share * (right - LEFT), 1), round(floor + share * (TOP - floor), 1)
        parts.append(f'<path d="M{LEFT} {b}H{right}M{a} {floor}v4" stroke="#ddd"/>')
        parts.append(f'<text x="{a}" y="{floor + 17}" text-anchor="middle" fill="#444">{html.escape(across)}</text>')
        parts.append(f'<text x="{LEFT - 8}" y="{b + 4}" text-anchor="end" fill="#444">{html.escape(up)}</text>')
    middle = (TOP + floor) / 2
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(names[0])}</text>')
    parts.append(f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">{html.escape(names[1])}</text>')
    parts.append(f'<path d="{path}" fill="none" stroke="#0072b2" stroke-width="1.5"/>')
    parts += [f'<circle cx="{a}" cy="{b}" r="2.5" fill="#0072b2"/>' for a, b in points]
    return "".join(parts) + "</svg>"
