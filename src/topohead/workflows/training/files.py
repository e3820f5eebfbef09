"""What a training run leaves on disk: its curve, checkpoints, and a page that shows the curve."""

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from topohead.core.errors import InputError
from topohead.io.atomic import atomic_write, write_text
from topohead.solvers.training import Training
from topohead.workflows.report.charts import Curve, line_chart

CHECKPOINT, CURVE, PAGE = "checkpoint.pt", "curve.jsonl", "curve.html"

MOST_POINTS = 120
"""Points of a drawn curve."""


def save_checkpoint(folder: Path, training: Training) -> None:
    """Weights, average, optimiser, step and curve window, by rename."""
    with atomic_write(folder / CHECKPOINT) as temporary:
        torch.save(training.state(), temporary)


def resume(folder: Path, training: Training) -> None:
    """Continue from the checkpoint, if there is one."""
    path = folder / CHECKPOINT
    if not path.exists():
        return
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler meets
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}); add `--restart train`"
        ) from error
    training.load(state)


def cut_curve(folder: Path, step: int) -> None:
    """Forget rows after `step`, which a run that resumes there writes again."""
    path = folder / CURVE
    rows = [row for row in read_curve(folder) if row["step"] <= step]
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def append_row(folder: Path, row: dict[str, Any]) -> None:
    """One row more of the curve."""
    with (folder / CURVE).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """All complete rows."""
    path = folder / CURVE
    if not path.exists():
        return []
    complete, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return [json.loads(line) for line in complete.splitlines() if line]


def write_page(folder: Path, title: str, table: str) -> Path:
    """A page with a chart for each loss and measure, and the evaluation below."""
    rows = read_curve(folder)
    keys = list(dict.fromkeys(key for row in rows for key in row if key not in ("step", "rate")))
    charts = [_chart(key, [row for row in rows if key in row]) for key in keys]
    heading = html.escape(title)
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{heading}</title>'
        f"<style>{_STYLE}</style><h1>{heading}</h1><main>{''.join(charts)}</main>"
        f"<pre>{html.escape(table)}</pre></html>\n"
    )
    write_text(folder / PAGE, text)
    return folder / PAGE


def _chart(key: str, rows: Sequence[dict[str, Any]]) -> str:
    every = -(-len(rows) // MOST_POINTS)
    kept = rows[::every]
    drawn = line_chart(
        [str(row["step"]) for row in kept], [Curve(key, [row[key] for row in kept])], "", digits=4
    )
    return f"<figure><figcaption>{html.escape(key)}</figcaption>{drawn}</figure>"


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 32px auto; padding: 0 20px }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 20px }
figure { margin: 0 } svg { width: 100% } text { font-size: 10px; fill: #6a6f78 }
path { fill: none } .grid { stroke: #e3e0da } .base { stroke: #6a6f78 }
.curve path { stroke: #b93a5c; stroke-width: 1.6 } .curve circle { fill: #b93a5c }
"""
