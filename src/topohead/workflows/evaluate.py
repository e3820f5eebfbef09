"""`topohead evaluate`: how good a run is, as a table, as JSON and as a report."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class EvaluateConfig:
    """A run's metrics: against ground truth where there is some, in left-out views, and its cost.

    Writes evaluation.json, evaluation.safetensors and report.html into the run folder. Nothing is
    re-aligned. Without truth, what the run itself knows is shown.
    """

    run: Path
    """The run folder that `topohead capture --out` wrote."""
    truth: Path | None = None
    """Truth folder of a staged take (default: the one beside the images, if there is one)."""
    report: bool = True
    """Write RUN/report.html."""
    json: bool = False
    """Print one JSON object instead of the table."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured; `frames` has a row a frame. Lengths are millimetres."""

    run: Path
    truth: Path | None
    metrics: Mapping[str, Any]
    texture: Mapping[str, Any] | None
    sharpness: Mapping[str, Any] | None
    left_out_views: Mapping[str, Mapping[str, Any]]
    cost: Mapping[str, Mapping[str, Any]]
    doubtful: list[str]
    frames: list[dict[str, Any]] = field(repr=False)
    report: Path | None = None

    def summary(self) -> str:
        """The table for a terminal."""
        return "\n".join(_table(self)) + "\n"


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Measures a run, keeps the numbers in its folder, and writes the report."""
    run_path = Path(config.run)
    evaluation = measure(run_path, config.truth)
    if config.report:
        from topohead.workflows.report import write_report

        evaluation = replace(evaluation, report=write_report(run_path, config.truth, evaluation))
    return evaluation


def measure(run_path: Path, truth_path: Path | None = None) -> Evaluation:
    """The evaluation of a run folder; also writes evaluation.json and evaluation.safetensors."""
    from topohead.io.atomic import atomic_write, write_text
    from topohead.io.results import find_truth, open_run, open_source, open_truth
    from topohead.workflows import likeness, looking, measuring, sharpness

    run = open_run(run_path)
    truth = open_truth(truth_path) if truth_path is not None else find_truth(run)
    errors, table, texture, sharp = None, {}, None, None
    if truth is not None:
        truth = measuring.with_known_regions(truth, run)
        run = measuring.run_with_regions(run, truth)
        errors = measuring.errors_against_truth(run, truth)
        table = measuring.summarised(errors, run) | {
            "interiors": looking.interior_errors(run, truth)
        }
        texture = likeness.texture_likeness(run, truth)
        sharp = sharpness.texture_sharpness(run, truth)
    capture = open_source(run) if likeness.left_out(run) else None
    evaluation = Evaluation(
        run=run_path,
        truth=None if truth is None else truth.path,
        metrics=table,
        texture=texture,
        sharpness=sharp,
        left_out_views={} if capture is None else likeness.left_out_likeness(run, capture),
        cost=measuring.cost(run),
        doubtful=measuring.doubtful_frames(run),
        frames=measuring.frame_rows(run, errors),
    )
    if errors is not None:
        from safetensors.torch import save

        with atomic_write(run_path / "evaluation.safetensors") as partial:
            partial.write_bytes(save(errors.arrays()))
    write_text(run_path / "evaluation.json", json.dumps(_document(evaluation), indent=2) + "\n")
    return evaluation


def _document(evaluation: Evaluation) -> dict[str, Any]:
    """evaluation.json: paths are left out, so that a moved run folder keeps true."""
    names = ("metrics", "texture", "sharpness", "left_out_views", "cost", "doubtful", "frames")
    return {name: getattr(evaluation, name) for name in names}


def _table(evaluation: Evaluation) -> list[str]:
    """Lines of text: errors first, cost last."""
    lines = [f"{evaluation.run}: {len(evaluation.frames)} frames"]
    table = evaluation.metrics
    if table:
        lines += ["", *_error_lines(table), "", *_region_lines(table), "", *_motion_lines(table)]
    else:
        lines += ["no ground truth: residuals and left-out views only", ""]
    if evaluation.texture:
        texture = evaluation.texture
        lines += [f"texture: PSNR {texture['psnr_db']:.1f} dB, SSIM {texture['ssim']:.3f}"]
    if evaluation.sharpness:
        lines += [_sharpness_line(evaluation.sharpness)]
    for name, row in evaluation.left_out_views.items():
        lines += [f"left-out {name}: PSNR {row['psnr_db']:.1f} dB, SSIM {row['ssim']:.3f}"]
    residuals = [r["residual"] for r in evaluation.frames if r.get("residual") is not None]
    if residuals:
        lines += [f"residual: median {statistics.median(residuals):.4f} of full scale"]
    if evaluation.doubtful:
        lines += [f"doubtful frames: {', '.join(evaluation.doubtful)}"]
    lines += ["", *_cost_lines(evaluation.cost)]
    if evaluation.report:
        lines += ["", f"report: {evaluation.report}"]
    return lines


def _sharpness_line(found: Mapping[str, Any]) -> str:
    rows = found["charts"].items()
    sizes = ", ".join(
        f"{name.replace('_', ' ')} {row['effective_size']}"
        + ("" if row["is"] == "at" else f" {row['is']}")
        for name, row in rows
    )
    cameras = f", cameras {found['camera_size']}" if found["camera_size"] else ""
    return f"texture of {found['size']}: as sharp as {found['effective_size']}{cameras} ({sizes})"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as columns: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for head, *cells in rows:
        numbers = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([f"{head:<{widths[0]}}", *numbers]).rstrip())
    return lines


NAMES = {
    "surface": "to true surface",
    "scan_to_mesh": "true surface to mesh",
    "detail_surface": "detail to true surface",
    "detail_scan": "true surface to detail",
    "correspondence": "correspondence",
    "slide": "slide along the skin",
    "vertex_number": "same vertex",
}
"""What the measures are called in tables."""

SHARES = ("0.2", "0.5", "1", "2", "3")


def _error_lines(table: Mapping[str, Any]) -> list[str]:
    header = ["face, mm", "median", "mean", "p95", *(f"<{share}" for share in SHARES)]
    rows = [(NAMES[name], table[name]) for name in NAMES if name in table]
    rows += [(f"frame 1: {NAMES[name]}", row) for name, row in table["first_frame"].items()]
    cells = [
        [title, *(f"{row[key]:.3f}" for key in ("median_mm", "mean_mm", "p95_mm"))]
        + [f"{row[f'within_{share}_mm']:.0%}" for share in SHARES]
        for title, row in rows
    ]
    return _aligned([header, *cells])


def _region_lines(table: Mapping[str, Any]) -> list[str]:
    header = ["region, mm", "surface", "p95", "correspondence", "p95", "slide"]
    keys = ("surface_median_mm", "surface_p95_mm", "correspondence_median_mm",
            "correspondence_p95_mm", "slide_median_mm")  # fmt: skip
    cells = [[name, *(f"{row[k]:.3f}" for k in keys)] for name, row in table["regions"].items()]
    return _aligned([header, *cells])


def _motion_lines(table: Mapping[str, Any]) -> list[str]:
    lines = []
    moving = table.get("temporal")
    if moving:
        jerk = moving["rest_jerk_mm"]
        lines.append(
            f"motion: {moving['step_mm']:.3f} mm a frame (true {moving['true_step_mm']:.3f}), "
            f"its error {moving['step_error_mm']:.3f}"
            + ("" if jerk is None else f", jerk where the skin rests {jerk:.3f}")
        )
    pose = table.get("pose")
    if pose:
        lines.append(
            f"head pose: {pose['rotation_median_degrees']:.3f}° and "
            f"{pose['translation_median_mm']:.3f} mm median, "
            f"{pose['rotation_max_degrees']:.3f}° and {pose['translation_max_mm']:.3f} mm worst"
        )
    return lines + _interior_lines(table.get("interiors") or {})


def _interior_lines(row: Mapping[str, Any]) -> list[str]:
    lines = []
    if "gaze_median_degrees" in row:
        lines.append(
            f"gaze: {row['gaze_median_degrees']:.2f}° median, {row['gaze_p95_degrees']:.2f}° p95, "
            f"{row['gaze_max_degrees']:.2f}° worst"
        )
    if "globe_median_mm" in row:
        lines.append(
            f"eyeballs: {row['globe_median_mm']:.3f} mm median, {row['globe_p95_mm']:.3f} mm p95"
        )
    if "lid_depth_max_mm" in row:
        lines.append(
            f"contact: lids {row['lid_depth_max_mm']:.3f} mm inside the eyeballs at worst, "
            f"lips {row['lip_overlap_max_mm']:.3f} mm inside each other"
        )
    return lines


def _cost_lines(cost: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not cost:
        return []
    rows = [["cost, s", "in all", "a frame"]]
    for stage, row in cost.items():
        each = row.get("seconds_per_frame")
        rows.append([stage, f"{row['seconds']:.1f}", "" if each is None else f"{each:.2f}"])
    return _aligned(rows)
