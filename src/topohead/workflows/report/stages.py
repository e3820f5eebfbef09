"""A card for every stage that ran: a picture of what it made and what it said of itself."""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import ARKIT_52, InputError
from topohead.io.expressions import read_live_link
from topohead.io.images import read_image
from topohead.io.meshes import read_mesh
from topohead.io.results import RunResult
from topohead.io.textures import BASE, WRINKLES, picture_file
from topohead.workflows.report.charts import Curve, line_chart
from topohead.workflows.report.first_look import FirstLook
from topohead.workflows.report.pictures import SMALL_TILE, Studio, data_uri

EDGE = 300
"""Pixels of pictures of maps."""
STYLES = ("main", "second", "third", "fourth")


@dataclass(frozen=True)
class Picture:
    """A JPEG as text, and a word under it."""

    source: str
    caption: str


@dataclass(frozen=True)
class Card:
    """What there is to show of a stage; `charts` are SVG with a title and a legend."""

    title: str
    text: str
    pictures: Sequence[Picture] = ()
    small: bool = False
    charts: Sequence[dict[str, Any]] = field(default_factory=list)


def cards(studio: Studio, look: FirstLook | None) -> list[Card]:
    """The cards of the stages that this run went through, in their order."""
    run = studio.run
    makers: tuple[Callable[[], Card | None], ...] = (
        lambda: _cameras(run, look),
        lambda: _first(studio),
        lambda: _motion(studio),
        lambda: _texture(run),
        lambda: _changing(run),
        lambda: _detail(run),
        lambda: _eyes(run),
        lambda: _expressions(run),
        lambda: _rig(run),
        lambda: _exports(run),
    )
    return [card for make in makers if (card := make()) is not None]


def stage_row(run: RunResult, stage: str) -> dict[str, Any] | None:
    """What metrics.jsonl says of a stage as a whole."""
    rows = [row for row in run.rows if row.get("stage") == stage and row.get("frame") is None]
    return dict(rows[-1]) if rows else None


def _cameras(run: RunResult, look: FirstLook | None) -> Card | None:
    if look is None:
        return None
    checked, text = stage_row(run, "calibration"), ""
    if checked and checked.get("cameras"):
        before = statistics.median(row["before_px"] for row in checked["cameras"].values())
        after = statistics.median(row["after_px"] for row in checked["cameras"].values())
        text = (
            f"{checked['tracks']} features that several cameras share lie {before:.2f} px from "
            f"where the calibration puts them (median), {after:.2f} px when it is solved again. "
        )
        text += "It was solved again." if checked["drifted"] else "It was kept."
    pictures = [Picture(source, name) for name, source in look.thumbnails.items()]
    if not text and not pictures:
        return None
    return Card("Cameras, first frame", text, pictures, small=True)


def _first(studio: Studio) -> Card | None:
    path = studio.run.path / "first" / "start.obj"
    if not path.exists():
        return None
    mesh, row = read_mesh(path), stage_row(studio.run, "first")
    text = f"{mesh.topology.vertex_count:,} vertices."
    if row and row.get("residual") is not None:
        text += f" Colour residual {row['residual'] * 100:.1f} %."
    if mesh.topology.vertex_count != studio.run.topology.vertex_count:
        return Card("First mesh", text)
    views = studio.clay_views(mesh.vertices)
    names = ("from its right", "front", "from its left")
    return Card(
        "First mesh", text, [Picture(s, name) for s, name in zip(views, names, strict=True)]
    )


def _motion(studio: Studio) -> Card | None:
    """How far each point of the face travels within the head."""
    run = studio.run
    if len(run.frames) < 2:
        return None
    back = run.poses.double().inverse()
    still = torch.einsum("tij,tvj->tvi", back[:, :3, :3], run.vertices.double())
    still = still + back[:, None, :3, 3]
    travel = (still - still.median(0).values).norm(dim=-1).max(0).values * 1e3
    largest = max(1.0, float(travel[studio.face].quantile(0.99)))
    views = studio.error_views(travel[studio.face], studio.face, largest, 0, SMALL_TILE)
    names = ("from its right", "front", "from its left")
    text = (
        f"How far each point of the face travels within the head, from pale (0) to dark "
        f"({largest:.0f} mm and more). Motion where a face cannot move is an error."
    )
    return Card("Tracking", text, [Picture(s, n) for s, n in zip(views, names, strict=True)])


def _texture(run: RunResult) -> Card | None:
    own = run.path / picture_file(run.frames[0])
    path = own if own.exists() else run.path / BASE
    if not path.exists():
        return None
    pictures = [Picture(_map(read_image(path)), "texture")]
    coverage, text = path.with_name("coverage.png"), ""
    if coverage.exists():
        seen = read_image(coverage)
        pictures.append(Picture(_map(seen), "coverage"))
        share = float((seen[..., 0] >= 0.5).float().mean())
        # the base has gathered several frames: each camera counts as often as it has seen a texel
        views = "cameras" if path == own else "pictures"
        text = f"{share * 100:.0f} % of the map is seen by about two {views} or more: white is "
        text += "four, black was filled."
    return Card("Texture", text, pictures)


def _changing(run: RunResult) -> Card | None:
    """Wrinkle maps, or where the frame that differs most from the base does so."""
    if (run.path / WRINKLES).exists():
        document = json.loads((run.path / WRINKLES).read_text("utf-8"))
        maps = [Path(WRINKLES).parent / entry["file"] for entry in document["maps"]]
        pictures = [
            Picture(_map(4 * (read_image(run.path / path) - 0.5) + 0.5, 150), f"map {k + 1}")
            for k, path in enumerate(maps)
        ]
        names = {
            "base_db": "the base alone",
            "weights_db": "with the maps",
            "drivers_held_out_db": "with maps that expression drives, in held-out frames",
        }
        fit = {key: document["fit"].get(key) for key in names}
        told = [f"{names[key]} {value:.1f} dB" for key, value in fit.items()
                if value is not None and math.isfinite(value)]  # fmt: skip
        text = f"Against the frames' own textures: {', '.join(told)}. Contrast 4×."
        return Card("Wrinkle maps", text, pictures, small=True)
    stored = [run.path / "frames" / f / "texture_delta.safetensors" for f in run.frames]
    sizes = {path: path.stat().st_size for path in stored if path.exists()}
    if not sizes:
        return None
    most = max(sizes, key=lambda path: sizes[path])
    found = run.texture(most.parent.name)
    assert found is not None
    change = (found.read() - read_image(run.path / BASE)).abs().amax(-1, keepdim=True)
    total = sum(sizes.values()) / 1e6
    text = f"{len(sizes)} frames differ from the base by {total:.1f} MB in all. "
    text += f"Frame {most.parent.name.lstrip('0')} differs most, where it is bright."
    return Card("Textures that change", text, [Picture(_map(4 * change), "change, 4×")])


def _detail(run: RunResult) -> Card | None:
    rows = [row for row in run.rows if row.get("stage") == "detail" and "seen" in row]
    path = run.path / "frames" / run.frames[0] / "normal.png"
    if not rows or not path.exists():
        return None
    seen = statistics.median(row["seen"] for row in rows)
    pictures = [Picture(_map(read_image(path)), "normal map")]
    heights = run.displacement(run.frames[0])
    if heights is not None:
        known = heights.float().abs().flatten()
        known = known[:: 1 + len(known) // 1_000_000]  # as many as quantile takes
        reach = max(5e-5, float(known.quantile(0.99)))
        shown = (heights.float() / (2 * reach) + 0.5)[..., None].expand(-1, -1, 3)
        pictures.append(Picture(_map(shown), f"displacement, ±{reach * 1e3:.2f} mm"))
    text = f"Cameras agree on relief on {seen * 100:.0f} % of the surface (median frame)."
    return Card("Displacement and normals", text, pictures)


def _eyes(run: RunResult) -> Card | None:
    if run.gaze is None or len(run.frames) < 2:
        return None
    degrees = run.gaze.rad2deg()
    sides = ("left", "right")
    charts = [
        _chart(run, f"{title} of the eyes", "°", dict(zip(sides, degrees[..., k].T, strict=True)))
        for k, title in enumerate(("Yaw", "Pitch"))
    ]
    return Card("Gaze", "Turn of each eye since the first frame.", charts=charts)


def _expressions(run: RunResult) -> Card | None:
    path = run.path / "expression.csv"
    if not path.exists() or len(run.frames) < 2:
        return None
    try:
        weights = read_live_link(path).coefficients
    except InputError:  # a file that somebody has edited is no reason to have no report
        return None
    if len(weights) != len(run.frames):
        return None
    liveliest = weights.std(0).argsort(descending=True)[: len(STYLES)].tolist()
    curves = {ARKIT_52[k]: weights[:, k] for k in liveliest}
    text = "The four actions that vary most; expression.csv has all 52."
    return Card("Expression", text, charts=[_chart(run, "ARKit weights", "", curves)])


def _rig(run: RunResult) -> Card | None:
    path = run.path / "rig" / "rig.json"
    if not path.exists():
        return None
    table = json.loads(path.read_text("utf-8"))
    text = (
        f"The rig plays the tracked face to {table['model_mm']:.2f} mm with the head model's "
        f"blendshapes and to {table['personal_mm']:.2f} mm with the person's own (medians)."
    )
    rows = {row["frame"]: row["personal_rms_mm"] for row in table["frames"]}
    values = [rows.get(frame) for frame in run.frames]
    chart = {"title": "Rig to tracked face, rms", "legend": [],
             "svg": line_chart(run.frames, [Curve("rms", values)], "mm")}  # fmt: skip
    return Card("Rig", text, charts=[chart] if len(run.frames) > 1 else [])


def _exports(run: RunResult) -> Card | None:
    lines = []
    for path in sorted(run.path.glob("export/*/export.json")):
        record = json.loads(path.read_text("utf-8"))
        size = sum((path.parent / name).stat().st_size for name in record["files"]
                   if (path.parent / name).exists())  # fmt: skip
        lines.append(
            f"{record['to']}: {len(record['files'])} files, {size / 1e6:.1f} MB, "
            f"{record['units']}, {record['axis']}, in {path.parent.relative_to(run.path)}"
        )
    return Card("Exports", "; ".join(lines) + ".") if lines else None


def _chart(run: RunResult, title: str, unit: str, curves: dict[str, Tensor]) -> dict[str, Any]:
    lines = [
        Curve(name, values.tolist(), style)
        for (name, values), style in zip(curves.items(), STYLES, strict=False)
    ]
    legend = [(line.name, line.style) for line in lines]
    return {"title": title, "legend": legend, "svg": line_chart(run.frames, lines, unit)}


def _map(picture: Float[Tensor, "S T K"], edge: int = EDGE) -> str:
    """A square map, made small by area."""
    small = cv2.resize(picture.float().numpy(), (edge, edge), interpolation=cv2.INTER_AREA)
    small = torch.from_numpy(small)
    if small.ndim == 2:
        small = small[..., None]
    return data_uri(small.expand(-1, -1, 3).contiguous())
