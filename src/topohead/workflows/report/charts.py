"""Curves over time as inline SVG, drawn in the page's own colours (CSS variables)."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 400, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 12, 26


@dataclass(frozen=True)
class Curve:
    """One line: a value a frame, None where there is none. `style` names its CSS class."""

    name: str
    values: Sequence[float | None]
    style: str = "main"


def line_chart(
    frames: Sequence[str],
    curves: Sequence[Curve],
    unit: str,
    marked: Sequence[str] = (),
    digits: int = 2,
) -> str:
    """An SVG of curves over frames; `marked` frames get a band, points tell their value on hover.

    The vertical axis has zero in it, so that heights compare.
    """
    known = [v for curve in curves for v in curve.values if v is not None and math.isfinite(v)]
    ticks = nice_ticks(max(known, default=1.0), lowest=min(known, default=0.0))
    across = [_across(index, len(frames)) for index in range(len(frames))]
    title = html.escape(", ".join(curve.name for curve in curves))
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">']
    parts += [_band(across, frames.index(name)) for name in marked if name in frames]
    parts += _axes(frames, across, ticks, unit)
    for curve in reversed(curves):  # the first is the most important: drawn last, on top
        parts += _line(curve, frames, across, ticks, unit, digits)
    return "".join([*parts, "</svg>"])


def nice_ticks(largest: float, wanted: int = 4, lowest: float = 0.0) -> list[float]:
    """From at most `lowest` over zero to at least `largest`, in steps of 1, 2 or 5 times 10ⁿ."""
    lowest = min(lowest, 0.0) if math.isfinite(lowest) else 0.0
    largest = max(largest, 0.0) if math.isfinite(largest) else 1.0
    if largest <= lowest:
        largest = 1.0
    rough = (largest - lowest) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = math.floor(lowest / step + 1e-9), math.ceil(largest / step - 1e-9)
    return [round(step * k, 12) for k in range(first, last + 1)]


def _across(index: int, count: int) -> float:
    inner = WIDTH - LEFT - RIGHT
    return LEFT + inner * (0.5 if count == 1 else index / (count - 1))


def _up(value: float, ticks: Sequence[float]) -> float:
    share = (value - ticks[0]) / (ticks[-1] - ticks[0])
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def _band(across: Sequence[float], index: int) -> str:
    half = max(3.0, (WIDTH - LEFT - RIGHT) / max(2, len(across) - 1) / 2)
    start = max(LEFT, across[index] - half)
    width = min(WIDTH - RIGHT, across[index] + half) - start
    return (
        f'<rect class="doubt" x="{start:.1f}" y="{TOP}" width="{width:.1f}" '
        f'height="{HEIGHT - TOP - BOTTOM}"/>'
    )


def _axes(
    frames: Sequence[str], across: Sequence[float], ticks: Sequence[float], unit: str
) -> list[str]:
    parts = []
    for tick in ticks:
        y = _up(tick, ticks)
        style = "base" if tick == 0 else "grid"
        parts.append(f'<path class="{style}" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        label = f"{tick:g}" if tick != ticks[-1] else f"{tick:g} {html.escape(unit)}"
        anchor, x = ("end", LEFT - 6) if tick != ticks[-1] else ("start", 2)
        y_text = y + 4 if tick != ticks[-1] else y - 3
        parts.append(f'<text x="{x}" y="{y_text:.1f}" text-anchor="{anchor}">{label}</text>')
    shown = (
        sorted({0, len(frames) // 2, len(frames) - 1}) if len(frames) > 4 else range(len(frames))
    )
    for index in shown:
        anchor = "end" if index == len(frames) - 1 and len(frames) > 1 else "middle"
        name = html.escape(frames[index].lstrip("0") or frames[index])
        parts.append(
            f'<text x="{across[index]:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{name}</text>'
        )
    return parts


def _line(
    curve: Curve,
    frames: Sequence[str],
    across: Sequence[float],
    ticks: Sequence[float],
    unit: str,
    digits: int,
) -> list[str]:
    """The path, broken where values are missing, and a dot for every frame."""
    path, pen_down, dots = [], False, []
    radius = 2.6 if len(frames) <= 40 else 1.2
    for x, value, frame in zip(across, curve.values, frames, strict=True):
        if value is None or not math.isfinite(value):
            pen_down = False
            continue
        y = _up(value, ticks)
        path.append(f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}")
        pen_down = True
        told = f"frame {frame}: {curve.name} {value:.{digits}f} {unit}"
        dots.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}"><title>{html.escape(told)}</title>'
            "</circle>"
        )
    line = f'<path d="{"".join(path)}"/>' if path else ""
    return [f'<g class="curve {curve.style}">{line}{"".join(dots)}</g>']
