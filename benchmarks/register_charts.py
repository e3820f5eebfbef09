"""Bar charts as SVG files of their own, readable on light and dark pages."""

import html
from collections.abc import Mapping, Sequence

from topohead.workflows.report.charts import nice_ticks

COLOURS = {
    "template": "#9aa0a6",
    "pca": "#e69f00",
    "pca+refine": "#d55e00",
    "nricp": "#cc79a7",
    "perceiver": "#f0e442",
    "network": "#56b4e9",
    "network+refine": "#0072b2",
    "across the skin": "#9aa0a6",
    "along the skin": "#d55e00",
}
"""Of every series; told apart by colour-blind people too (Okabe and Ito 2008)."""

HEIGHT, BAR, GAP, LEFT, TOP, BOTTOM = 260, 13, 26, 44, 34, 30
CEILING = 6.0
"""Bars end here, with their number above; a lost method must not flatten the others."""


def grouped_bars(groups: Mapping[str, Mapping[str, float | None]], unit: str) -> str:
    """A group of bars for every name, a colour for every series that has a value somewhere."""
    series = [s for s in dict.fromkeys(n for g in groups.values() for n in g)
              if any(g.get(s) is not None for g in groups.values())]  # fmt: skip
    groups = {name: group for name, group in groups.items() if any(map(_known, group.values()))}
    known = [v for g in groups.values() for v in g.values() if v is not None]
    ticks = nice_ticks(min(CEILING, max(known, default=1.0)))
    step = BAR * len(series) + GAP
    # a name needs about 6.2 pixels a letter
    step = max([step, *(6.2 * len(name) + 8 for name in groups)])
    width = LEFT + step * len(groups) + 8
    parts = _frame(width, ticks, unit, series)
    for k, (name, group) in enumerate(groups.items()):
        start = LEFT + step * k + (step - BAR * len(series)) / 2
        parts.append(_text(LEFT + step * (k + 0.5), HEIGHT - BOTTOM + 16, name, "middle"))
        for n, one in enumerate(series):
            value = group.get(one)
            if value is not None:
                parts += _bar(start + BAR * n, value, ticks, COLOURS[one], f"{name}, {one}")
    return _drawn(width, parts)


def paired_bars(rows: Mapping[str, Sequence[float]], names: Sequence[str], unit: str) -> str:
    """The parts of every name, side by side."""
    groups = {label: dict(zip(names, values, strict=True)) for label, values in rows.items()}
    return grouped_bars(groups, unit)


def _frame(width: float, ticks: Sequence[float], unit: str, series: Sequence[str]) -> list[str]:
    parts = [f'<rect width="{width:.0f}" height="{HEIGHT}" fill="#ffffff"/>']
    for tick in ticks:
        y = _up(tick, ticks)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{width - 8:.1f}" stroke="#d5d8dc"/>')
        parts.append(_text(LEFT - 5, y + 4, f"{tick:g}", "end"))
    parts.append(_text(LEFT - 36, 12, unit))
    x = LEFT - 36.0
    for name in series:
        parts.append(f'<rect x="{x:.0f}" y="18" width="10" height="10" fill="{COLOURS[name]}"/>')
        parts.append(_text(x + 13, 27, name))
        x += 6.4 * len(name) + 28
    return parts


def _bar(x: float, value: float, ticks: Sequence[float], colour: str, told: str) -> list[str]:
    top = _up(min(value, ticks[-1]), ticks)
    height = HEIGHT - BOTTOM - top
    parts = [
        f'<rect x="{x:.1f}" y="{top:.1f}" width="{BAR - 2}" height="{height:.1f}" fill="{colour}">'
        f"<title>{html.escape(told)}: {value:.2f}</title></rect>"
    ]
    if value > ticks[-1]:
        parts.append(_text(x + BAR / 2 - 1, top - 2, f"{value:.0f}", "middle"))
    return parts


def _known(value: float | None) -> bool:
    return value is not None


def _up(value: float, ticks: Sequence[float]) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM - 8) * value / ticks[-1]


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _drawn(width: float, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {HEIGHT}" '
        f'width="{width:.0f}" height="{HEIGHT}" font-family="sans-serif" font-size="11" '
        'fill="#30343a">'
    )
    return "\n".join([head, *parts, "</svg>"]) + "\n"
