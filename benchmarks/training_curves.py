"""The curves of training runs as one SVG: python benchmarks/training_curves.py OUT.svg NAME=RUN …

A panel for each loss that is a length; a line for each run, over its share of the steps.
"""

import argparse
import html
import itertools
from pathlib import Path

from topohead.io.atomic import write_text
from topohead.workflows.report.charts import HEIGHT, WIDTH, Curve, line_chart
from topohead.workflows.training.files import read_curve

SHOWN = {
    "vertices": "learned ICP: vertices, weighted mean along each axis",
    "pose": "pose stage: nodes, mean along each axis",
}

COLORS = ("#b93a5c", "#3a6fb9", "#4f8a3c")

SAMPLES = 60

STYLE = """
text { font: 10px system-ui, sans-serif; fill: #6a6f78 } .title { font-size: 12px; fill: #222 }
path { fill: none } .grid { stroke: #e3e0da } .base { stroke: #6a6f78 }
.curve path { stroke-width: 1.6 }
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", nargs="+", help="NAME=FOLDER of topohead train")
    args = parser.parse_args()
    runs = dict(run.split("=", 1) for run in args.runs)
    curves = {name: read_curve(Path(folder)) for name, folder in runs.items()}
    panels = [_panel(key, title, curves) for key, title in SHOWN.items()]
    high = HEIGHT + 24
    names = "".join(
        f'<text x="{60 + 130 * k}" y="14" style="fill:{COLORS[k]}">{html.escape(name)}</text>'
        for k, name in enumerate(curves)
    )
    placed = "".join(f'<svg y="{20 + k * high}">{panel}</svg>' for k, panel in enumerate(panels))
    style = STYLE + "".join(
        f".run{k} path {{ stroke: {color} }} .run{k} circle {{ fill: {color} }}\n"
        for k, color in enumerate(COLORS)
    )
    size = f'width="{WIDTH}" height="{20 + len(panels) * high}"'
    write_text(
        args.out,
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{names}{placed}</svg>\n',
    )


def _panel(key: str, title: str, curves: dict[str, list[dict]]) -> str:
    frames = ["start", *(f"{100 * k // SAMPLES} %" for k in range(1, SAMPLES + 1))]
    lines = []
    for number, (name, rows) in enumerate(curves.items()):
        known = {row["step"]: row[key] for row in rows if key in row}
        last = max(rows[-1]["step"], 1)
        values: list[float | None] = [None] * len(frames)
        for step, value in known.items():
            values[round(step / last * SAMPLES)] = value
        lines.append(Curve(name, _joined(values), f"run{number}"))
    chart = line_chart(frames, lines, "mm", digits=3)
    sized = chart.replace("<svg ", f'<svg y="14" width="{WIDTH}" height="{HEIGHT}" ', 1)
    return f'<text class="title" x="40" y="12">{html.escape(title)}</text>{sized}'


def _joined(values: list[float | None]) -> list[float | None]:
    """Gaps between measurements filled with straight lines; none before the first."""
    known = [k for k, value in enumerate(values) if value is not None]
    filled = list(values)
    for a, b in itertools.pairwise(known):
        first, second = values[a], values[b]
        assert first is not None and second is not None
        for k in range(a + 1, b):
            filled[k] = first + (second - first) * (k - a) / (b - a)
    return filled


if __name__ == "__main__":
    main()
