"""Cost as work grows as one SVG, from result files of the two benchmarks that measured it.

    python benchmarks/scaling_chart.py OUT.svg --textures texture_cuda.json --tracking scaling.json

Panels: an 8192² texture over cameras and one of 24 cameras over its size (`texture_cuda.py`); a
tracked frame over cameras and over vertices (`scaling_cuda.py`). Points are spaced evenly.
"""

import argparse
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from topohead.io.atomic import write_text
from topohead.workflows.report.charts import HEIGHT, WIDTH, Curve, line_chart

STYLE = """
text { font: 10px system-ui, sans-serif; fill: #6a6f78 } .title { font-size: 12px; fill: #222 }
path { fill: none } .grid { stroke: #e3e0da } .base { stroke: #6a6f78 }
.curve path { stroke-width: 1.6 }
.whole path { stroke: #b93a5c } .whole circle { fill: #b93a5c }
.busy path { stroke: #3a6fb9 } .busy circle { fill: #3a6fb9 }
"""

Rows = Sequence[dict[str, Any]]


def main() -> None:
    """Draw the panels, two a row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--textures", type=Path, required=True, help="result of texture_cuda.py")
    parser.add_argument("--tracking", type=Path, help="result of scaling_cuda.py")
    args = parser.parse_args()
    panels = _textures(json.loads(args.textures.read_text("utf-8"))["rows"])
    if args.tracking is not None:
        panels += _tracking(json.loads(args.tracking.read_text("utf-8")))
    step, high = WIDTH + 20, HEIGHT + 28
    placed = "".join(
        f'<svg x="{step * (k % 2)}" y="{24 + high * (k // 2)}">{panel}</svg>'
        for k, panel in enumerate(panels)
    )
    legend = (
        '<text x="40" y="14" style="fill:#b93a5c">until the answer is there</text>'
        '<text x="200" y="14" style="fill:#3a6fb9">GPU busy</text>'
    )
    size = f'width="{2 * step}" height="{24 + high * len(panels) // 2}"'
    write_text(
        args.out,
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{legend}{placed}</svg>\n',
    )


def _textures(rows: Rows) -> list[str]:
    shown = {"wall_ms": "whole", "kernel_ms": "busy"}
    by_count = [row for row in rows if row["size"] == 8192]
    by_size = sorted((row for row in rows if row["cameras"] == 24), key=lambda row: row["size"])
    return [
        _panel("a texture of 8192²: cameras", by_count, "cameras", shown),
        _panel("a texture of 24 cameras: texels a side", by_size, "size", shown),
    ]


def _tracking(result: dict[str, Any]) -> list[str]:
    shown = {"frame_ms": "whole"}
    by_cameras, by_vertices = result["by_cameras"], result["by_vertices"]
    vertices, cameras = by_cameras[0]["vertices"], by_vertices[0]["cameras"]
    return [
        _panel(f"a tracked frame: cameras ({vertices} vertices)", by_cameras, "cameras", shown),
        _panel(f"a tracked frame: vertices ({cameras} cameras)", by_vertices, "vertices", shown),
    ]


def _panel(title: str, rows: Rows, over: str, shown: dict[str, str]) -> str:
    """One panel: a curve for each key of `shown`, in milliseconds, over a count."""
    curves = [Curve(key, [row[key] for row in rows], style) for key, style in shown.items()]
    chart = line_chart([str(row[over]) for row in rows], curves, "ms", digits=1)
    sized = chart.replace("<svg ", f'<svg y="18" width="{WIDTH}" height="{HEIGHT}" ', 1)
    return f'<text class="title" x="40" y="12">{html.escape(title)}</text>{sized}'


if __name__ == "__main__":
    main()
