"""The page of `register_limits.py`: its tables, and curves of what a threshold would catch."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PAGE, PICTURE = "register-limits.md", "register-limits.svg"
COLOURS = {"sigma": "#0072b2", "distance": "#d55e00", "seen": "#e69f00"}
NAMES = {"sigma": "σ on the face", "distance": "distance to the scan", "seen": "face seen"}
SIDE, LEFT, TOP = 240, 40, 40


def write_page(result: Mapping[str, Any], docs: Path) -> None:
    """Fill the page's marks and draw its picture."""
    page = docs / PAGE
    shown = f"![Failed scans caught against good ones flagged](images/{PICTURE})"
    tables = {
        "told": f"{told(result)}\n\n{shown}",
        "cells": cells(result["rows"]),
        "origin": origin(result),
    }
    text = page.read_text()
    for name, table in tables.items():
        marks = rf"<!-- {name} -->\n.*?<!-- /{name} -->"
        whole = f"<!-- {name} -->\n{table}\n<!-- /{name} -->"
        text = re.sub(marks, lambda _, whole=whole: whole, text, flags=re.DOTALL)
    page.write_text(text)
    (docs / "images" / PICTURE).write_text(curves(result))


def told(result: Mapping[str, Any]) -> str:
    """What failed, and what was said of it."""
    lines = ["| head | scans | failed | of these refused | refused or warned | good but refused | "
             "good but refused or warned | AUC of σ | of distance | of face seen |",
             "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name in ("network", "refined"):
        row = result[name]
        good = row["scans"] - row["failed"]
        areas = " | ".join(_number(row[m]["area"]) for m in COLOURS)
        lines.append(
            f"| {name} | {row['scans']} | {row['failed']} | {row['failed_refused']} | "
            f"{row['failed_flagged']} | {row['good_refused']} of {good} | "
            f"{row['good_flagged']} of {good} | {areas} |"
        )
    return "\n".join(lines)


def cells(rows: Sequence[Mapping[str, Any]]) -> str:
    """By cell, refined heads: failures in its milder and harder half, and those unflagged."""
    lines = ["| cell | scans | not read | failed, milder half | failed, harder half | "
             "failed and not flagged | good and flagged |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for cell in dict.fromkeys(row["cell"] for row in rows):
        own = [row for row in rows if row["cell"] == cell]
        judged = [row for row in own if "refined" in row]
        halves = [[bool(r["refined"]["failed"]) for r in judged if (r["strength"] >= 0.5) == hard]
                  for hard in (False, True)]  # fmt: skip
        flagged = [bool(r["refined"]["refused"] or r["refined"]["warned"]) for r in judged]
        failed = [bool(r["refined"]["failed"]) for r in judged]
        silent = sum(f and not s for f, s in zip(failed, flagged, strict=True))
        alarm = sum(s and not f for f, s in zip(failed, flagged, strict=True))
        shares = " | ".join(f"{sum(half)} of {len(half)}" for half in halves)
        lines.append(f"| {cell} | {len(own)} | {len(own) - len(judged)} | {shares} | "
                     f"{silent} | {alarm} of {len(failed) - sum(failed)} |")  # fmt: skip
    return "\n".join(lines)


def origin(result: Mapping[str, Any]) -> str:
    """Where the numbers come from."""
    machine = result["hardware"]
    seconds = [row["cpu_seconds"] for row in result["rows"] if "cpu_seconds" in row]
    return (
        f"{result['scans']} scans of seed {result['seed']} ({result['split']} split), revision "
        f"`{result['commit']}`, {machine['processor']}, torch {machine['torch']}; "
        f"{np.median(seconds):.1f} s of one core a scan."
    )


def curves(result: Mapping[str, Any]) -> str:
    """Two squares, one a method: failed scans caught over good ones flagged."""
    width = 2 * (SIDE + LEFT + 30)
    parts = [f'<rect width="{width}" height="{SIDE + TOP + 40}" fill="#ffffff"/>']
    for k, name in enumerate(("network", "refined")):
        x0 = LEFT + k * (SIDE + LEFT + 30)
        parts.append(_text(x0, 14, f"{name}: failed scans caught, good ones flagged"))
        for share in (0, 0.25, 0.5, 0.75, 1):
            y, x = TOP + SIDE * (1 - share), x0 + SIDE * share
            parts.append(f'<path d="M{x0} {y:.0f}h{SIDE}M{x:.0f} {TOP}v{SIDE}" stroke="#e3e5e8"/>')
            parts.append(_text(x0 - 6, y + 4, f"{100 * share:.0f} %", "end"))
            parts.append(_text(x, TOP + SIDE + 16, f"{100 * share:.0f} %", "middle"))
        row = result[name]
        for measure, colour in COLOURS.items():
            points = " ".join(f"{x0 + SIDE * a:.1f},{TOP + SIDE * (1 - b):.1f}"
                              for a, b in row[measure]["curve"])  # fmt: skip
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" '
                         'stroke-width="2"/>')  # fmt: skip
        bad = max(row["failed"], 1)
        good = max(row["scans"] - row["failed"], 1)
        for kind, mark in (("refused", "■"), ("flagged", "●")):
            x = x0 + SIDE * row[f"good_{kind}"] / good
            y = TOP + SIDE * (1 - row[f"failed_{kind}"] / bad)
            parts.append(_text(x, y + 4, mark, "middle"))
    x = LEFT
    for measure, colour in COLOURS.items():
        parts.append(f'<rect x="{x}" y="22" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(x + 14, 31, NAMES[measure]))
        x += 7 * len(NAMES[measure]) + 30
    parts.append(_text(x, 31, "■ refused   ● refused or warned"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {SIDE + TOP + 40}" '
        f'width="{width}" font-family="sans-serif" font-size="11" fill="#30343a">\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
