"""Puts the report together: numbers, pictures and curves into one page."""

import math
import shlex
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

import topohead
from topohead.io.atomic import write_text
from topohead.io.results import RunResult, find_truth, open_run, open_source, open_truth
from topohead.workflows.likeness import left_out
from topohead.workflows.measuring import run_with_regions, with_known_regions
from topohead.workflows.progress import track
from topohead.workflows.report.advice import attention, environment, short
from topohead.workflows.report.charts import Curve, line_chart, nice_ticks
from topohead.workflows.report.first_look import first_look
from topohead.workflows.report.pictures import ERROR_STOPS, SMALL_TILE, TILE, Studio, chosen_frames
from topohead.workflows.report.stages import cards

if TYPE_CHECKING:
    from topohead.workflows.evaluate import Evaluation

MEASURES = {
    "surface": "to the true surface",
    "scan_to_mesh": "true surface to the mesh",
    "detail_surface": "detail to the true surface",
    "detail_scan": "true surface to the detail",
    "correspondence": "correspondence",
    "slide": "slide along the skin",
    "vertex_number": "to the same vertex",
}
SHARES = ("0.2", "0.5", "1", "2", "3")


def write_report(
    run: Path, truth: Path | None = None, evaluation: "Evaluation | None" = None
) -> Path:
    """Write RUN/report.html and give its path; measures the run first unless that was done.

    Works without truth, without textures, and when the take's pictures are gone: what is missing
    is left out. `truth` defaults to the folder beside the take's images.
    """
    run = Path(run)
    if evaluation is None:
        from topohead.workflows.evaluate import measure

        evaluation = measure(run, truth)
    result = open_run(run)
    known = open_truth(truth) if truth is not None else find_truth(result)
    if known is not None:
        result = run_with_regions(result, with_known_regions(known, result))
    studio = Studio(result, open_source(result))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("topohead.workflows.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html.j2").render(_content(result, evaluation, studio))
    write_text(run / "report.html", page)
    return run / "report.html"


def _content(run: RunResult, evaluation: "Evaluation", studio: Studio) -> dict[str, Any]:
    """Everything that the template shows."""
    look = first_look(studio)
    return {
        "name": " / ".join(run.path.resolve().parts[-2:]),
        "lead": _lead(run, evaluation, studio),
        "figures": _figures(evaluation),
        "sheet": _sheet(run, evaluation, studio),
        "maps": _error_maps(run, evaluation, studio),
        "stops": ERROR_STOPS,
        "charts": _charts(run, evaluation),
        "errors": _error_rows(evaluation.metrics),
        "regions": evaluation.metrics.get("regions", {}),
        "motion": evaluation.metrics.get("temporal"),
        "pose": evaluation.metrics.get("pose"),
        "texture": evaluation.texture,
        "sharpness": evaluation.sharpness,
        "left_out": evaluation.left_out_views,
        "cost": _cost_rows(evaluation),
        "cameras": _camera_rows(run, studio),
        "attention": attention(run, evaluation, studio, look),
        "cards": cards(studio, look),
        "settings": sorted((k, v) for k, v in run.config.items() if v is not None),
        "files": _files(run.path),
        "commands": _commands(run),
        "environment": environment(run),
        "version": topohead.__version__,
        "shares": SHARES,
    }


def _lead(run: RunResult, evaluation: "Evaluation", studio: Studio) -> str:
    """One sentence that says what this is."""
    frames = "one frame" if len(run.frames) == 1 else f"{len(run.frames)} frames"
    topology = run.topology
    head = f"{frames} of one topology, {topology.vertex_count:,} vertices"
    cameras = studio.cameras
    if cameras is not None:
        used = len(cameras) - len(left_out(run))
        head += f", from {used} camera{'' if used == 1 else 's'}"
    tail = ", measured against the truth" if evaluation.metrics else ", without ground truth"
    return head + tail + "."


def _figures(evaluation: "Evaluation") -> list[dict[str, str]]:
    """The few numbers on top."""
    table, found = evaluation.metrics, []

    def add(value: str, unit: str, label: str) -> None:
        found.append({"value": value, "unit": unit, "label": label})

    surface = table.get("surface") or table.get("first_frame", {}).get("surface")
    if surface:
        add(f"{surface['median_mm']:.2f}", "mm", "median to the true surface")
        add(f"{surface['within_0.5_mm'] * 100:.0f}", "%", "of the face under 0.5\u00a0mm")
    if "correspondence" in table:
        add(f"{table['correspondence']['p95_mm']:.2f}", "mm", "correspondence, 95\u00a0% are under")
    if not table:
        residuals = [r["residual"] for r in evaluation.frames if r.get("residual") is not None]
        if residuals:
            add(f"{statistics.median(residuals) * 100:.1f}", "%", "median colour residual")
    for name, row in evaluation.left_out_views.items():
        add(f"{row['psnr_db']:.1f}", "dB", f"in left-out view {name}")
    each = [row["seconds"] for row in evaluation.frames[1:] if row.get("seconds") is not None]
    if each:
        add(f"{statistics.median(each):.1f}", "s", "to track a frame")
    count = len(evaluation.doubtful)
    add(str(count), "", "doubtful frame" if count == 1 else "doubtful frames")
    return found


def _sheet(run: RunResult, evaluation: "Evaluation", studio: Studio) -> list[dict[str, Any]]:
    """Pictures of chosen frames with a caption each."""
    rows = {row["frame"]: row for row in evaluation.frames}
    key = "surface_p95_mm" if evaluation.metrics else "residual"
    scored = [i for i, name in enumerate(run.frames) if rows[name].get(key) is not None]
    worst = sorted(scored, key=lambda i: -rows[run.frames[i]][key])[:1]
    doubtful = [run.frames.index(name) for name in evaluation.doubtful]
    sheet = []
    chosen = chosen_frames(len(run.frames), doubtful, worst)
    for index in track(chosen, "drawing the report"):
        row = rows[run.frames[index]]
        facts = []
        if row.get("surface_median_mm") is not None:
            facts.append(f"surface {row['surface_median_mm']:.2f} mm median")
            facts.append(f"p95 {row['surface_p95_mm']:.2f} mm")
        if row.get("residual") is not None:
            facts.append(f"residual {row['residual'] * 100:.1f} %")
        sheet.append(
            {
                "tiles": studio.tiles(index),
                "facts": facts,
                "doubtful": index in doubtful,
                "worst": index in worst and len(run.frames) > 2,
            }
        )
    return sheet


def _error_maps(run: RunResult, evaluation: "Evaluation", studio: Studio) -> list[dict[str, Any]]:
    """Surface distance and slide on the face: the median over frames, and the worst frame."""
    path = run.path / "evaluation.safetensors"
    if not evaluation.metrics or not path.exists():
        return []
    from safetensors.torch import load_file

    arrays = load_file(path)
    face, surface, slide = (arrays[k] for k in ("face_vertices", "surface_mm", "slide_mm"))
    later = slice(1, None) if len(surface) > 1 else slice(None)
    worst = int(surface.quantile(0.95, dim=1).argmax())
    plans = [
        ("Distance to the true surface", "a vertex's median over the frames",
         surface[later].median(0).values, 0),
        (f"Frame {short(run.frames[worst])}, the worst", "distance to the true surface",
         surface[worst], worst),
        ("Slide along the skin", "a vertex's median over the frames",
         slide[later].median(0).values, 0),
    ]  # fmt: skip
    if len(surface) == 1:
        plans = plans[:1]
    sizes = (TILE, SMALL_TILE, SMALL_TILE)
    largest = nice_ticks(max(1.0, float(surface[later].quantile(0.95))))[-1]
    return [
        {
            "title": title,
            "text": text,
            "views": studio.error_views(values, face, largest, index, size),
            "ticks": [f"{tick:g}" for tick in nice_ticks(largest)],
        }
        for (title, text, values, index), size in zip(plans, sizes, strict=False)
    ]


def _charts(run: RunResult, evaluation: "Evaluation") -> list[dict[str, Any]]:
    """Curves over time, those that have values."""
    rows = evaluation.frames
    if len(rows) < 2:
        return []

    def column(key: str, factor: float = 1.0) -> list[float | None]:
        return [None if row.get(key) is None else row[key] * factor for row in rows]

    plans = [
        ("Distance to the true surface", "mm", 2,
         [("median", "surface_median_mm", 1), ("p95", "surface_p95_mm", 1)]),
        ("Correspondence", "mm", 2,
         [("median", "correspondence_median_mm", 1), ("p95", "correspondence_p95_mm", 1)]),
        ("Colour residual", "%", 2, [("residual", "residual", 100)]),
        ("Head motion a frame", "mm", 2, [("head", "head_speed_mm", 1)]),
        ("Error of the head pose", "mm", 2, [("at the face's centre", "pose_translation_mm", 1)]),
        ("Time to track a frame", "s", 2, [("seconds", "seconds", 1)]),
    ]  # fmt: skip
    charts = []
    for title, unit, digits, lines in plans:
        styles = ("main", "second")
        curves = [Curve(name, column(key, factor), style)
                  for (name, key, factor), style in zip(lines, styles, strict=False)]  # fmt: skip
        curves = [curve for curve in curves if any(v is not None for v in curve.values)]
        if curves:
            svg = line_chart(run.frames, curves, unit, evaluation.doubtful, digits)
            legend = [(c.name, c.style) for c in curves] if len(curves) > 1 else []
            charts.append({"title": title, "legend": legend, "svg": svg})
    return charts


def _error_rows(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the error table, frames 2…T first."""
    rows = [{"title": MEASURES[k], "first": False, **table[k]} for k in MEASURES if k in table]
    return rows + [
        {"title": MEASURES[k], "first": True, **row}
        for k, row in table.get("first_frame", {}).items()
    ]


def _cost_rows(evaluation: "Evaluation") -> list[dict[str, Any]]:
    """Seconds of each stage, with a bar's width in percent."""
    longest = max((row["seconds"] for row in evaluation.cost.values()), default=0) or 1
    keys = ("seconds", "seconds_per_frame", "first_frame_seconds")
    return [
        {"stage": stage, "width": 100 * row["seconds"] / longest} | {k: row.get(k) for k in keys}
        for stage, row in evaluation.cost.items()
    ]


def _camera_rows(run: RunResult, studio: Studio) -> list[dict[str, Any]]:
    """Every camera: its size, how far it stands from the face, whether it was left out."""
    cameras = studio.cameras
    if cameras is None:
        return []
    center = run.vertices[0, studio.face].double().mean(0)
    local = (cameras.centers.double() - center) @ studio.axes
    rows = []
    for index, name in enumerate(cameras.names):
        left, up, front = local[index].tolist()
        rows.append(
            {
                "name": name,
                "size": "×".join(map(str, cameras.size(index))),
                "distance": math.hypot(left, up, front),
                "across": math.degrees(math.atan2(left, front)),
                "up": math.degrees(math.atan2(up, math.hypot(left, front))),
                # seen from above, the person looking down the page: their left is on the right
                "x": left,
                "y": front,
                "left_out": name in left_out(run),
            }
        )
    return rows


def _files(run: Path) -> list[tuple[str, str]]:
    """What else the folder holds, as links relative to the report."""
    known = {
        "sequence.glb": "the sequence, for any viewer or Blender",
        "expression.csv": "ARKit-52 weights and head angles, Live Link Face",
        "first/start.obj": "the first mesh",
        "frames": "a mesh and a state for every frame",
        "evaluation.json": "all numbers of this page",
        "metrics.jsonl": "what the solver logged",
    }
    return [(name, text) for name, text in known.items() if (run / name).exists()]


def _commands(run: RunResult) -> list[tuple[str, str]]:
    """What to type to go on from here; the run as it was named."""
    name = shlex.quote(str(run.path))
    return [
        (f"topohead view {name}", "frame by frame in the browser, on the pictures"),
        (f"topohead export {name} --to glb", "for any viewer; also usd, obj, ply, fbx, abc"),
        (f"topohead export {name} --to cameras", "for COLMAP, Metashape, nerfstudio, OpenCV"),
        (f"topohead rig {name}", "the person's own blendshapes, an animated rig"),
        (f"topohead evaluate {name}", "this page again"),
    ]
