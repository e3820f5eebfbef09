"""What in a run is weak, from what was measured, and what to do about it."""

import math
import os
import platform
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch

from topohead.io.results import RunResult
from topohead.solvers.detail import finest_pixel
from topohead.solvers.sightlines import texel_size
from topohead.workflows.likeness import left_out
from topohead.workflows.report.first_look import FirstLook
from topohead.workflows.report.pictures import Studio
from topohead.workflows.report.stages import stage_row

if TYPE_CHECKING:
    from topohead.workflows.evaluate import Evaluation

HIGH_PX = 0.5
"""Pixels off which a camera counts as badly calibrated; the solver's own limit of drift."""
HIGH_STOPS = 0.33
RISEN = 1.3
SHOWN_NAMES = 6
Note = dict[str, str]


def attention(
    run: RunResult, evaluation: "Evaluation", studio: Studio, look: FirstLook | None
) -> list[Note]:
    """Notes: what is weak, and what to do; the gravest first."""
    residuals = {
        row["frame"]: row["residual"]
        for row in evaluation.frames[1:]  # the first is what the others are compared with
        if row.get("residual") is not None
    }
    notes = [
        *_doubtful(evaluation.doubtful),
        *_badly_explained(residuals, evaluation.doubtful),
        *_rising(residuals),
        *_calibration(run),
        *_unseen(studio, look),
        *_colours(look),
        *_resolution(run, studio),
        *_detail(run),
        *({"what": line, "do": ""} for line in _logged_warnings(run.path)),
    ]
    if studio.capture is None:
        lost = "The take's pictures were not found, so no photos are shown."
        notes.append({"what": lost, "do": "Put the take back and run topohead evaluate again."})
    if run.texture(run.frames[0]) is None:
        notes.append({
            "what": "The run has no texture.",
            "do": "Run the capture again with --textures full --restart texture to add it.",
        })  # fmt: skip
    return notes


def short(frame: str) -> str:
    """A frame's name as a person says it."""
    return frame.lstrip("0") or frame


def _frames(names: Sequence[str]) -> str:
    """Frames by name, the first few of many."""
    shown = ", ".join(map(short, names[:SHOWN_NAMES]))
    more = len(names) - SHOWN_NAMES
    return f"{'Frame' if len(names) == 1 else 'Frames'} {shown}" + (
        f" and {more} more" if more > 0 else ""
    )


def _doubtful(names: Sequence[str]) -> list[Note]:
    if not names:
        return []
    it = "it" if len(names) == 1 else "them"
    return [{
        "what": f"{_frames(names)}: the solver does not trust {it}.",
        "do": "Look at lips and lids in the overlay. Other frames are not affected, since each is "
        "compared with the first frame. If the mesh is off there: more views or masks, a higher "
        "frame rate for fast motion, or --refine-cameras.",
    }]  # fmt: skip


def _badly_explained(residuals: dict[str, float], doubtful: Sequence[str]) -> list[Note]:
    """Frames far above the others: five median deviations and half as much again."""
    if len(residuals) < 5:
        return []
    usual = statistics.median(residuals.values())
    spread = statistics.median(abs(value - usual) for value in residuals.values())
    high = [name for name, value in residuals.items()
            if value > max(usual + 5 * spread, 1.5 * usual) and name not in doubtful]  # fmt: skip
    if not high:
        return []
    worst = max(residuals[name] for name in high)
    return [{
        "what": f"{_frames(high)}: the colour residual is up to {worst * 100:.1f} %, "
        f"{usual * 100:.1f} % elsewhere.",
        "do": "Look for something in front of the face, a light that changed, or motion blur. "
        "--height 1024 tracks on finer pictures.",
    }]  # fmt: skip


def _rising(residuals: dict[str, float]) -> list[Note]:
    """The last third against the first."""
    third = len(residuals) // 3
    if third < 3:
        return []
    values = list(residuals.values())
    first, last = statistics.median(values[:third]), statistics.median(values[-third:])
    if last < RISEN * first or last - first < 0.003:
        return []
    return [{
        "what": f"The colour residual rises over the take, from {first * 100:.1f} % to "
        f"{last * 100:.1f} %: the face, the light or a camera has drifted from the first frame.",
        "do": "If a camera was touched: --refine-cameras. If light or make-up changed: capture the "
        "take in two, --frames A:B, each with a first frame of its own.",
    }]  # fmt: skip


def _calibration(run: RunResult) -> list[Note]:
    row = stage_row(run, "calibration")
    if row is None:
        return []
    solved = bool(row.get("drifted")) or bool(run.config.get("refine_cameras"))
    key = "after_px" if solved else "before_px"
    off = {name: c[key] for name, c in row["cameras"].items() if c[key] > HIGH_PX}
    if not off:
        return []
    told = ", ".join(f"{name} {px:.1f} px" for name, px in sorted(off.items(), key=lambda o: -o[1]))
    if solved:
        advice = "These cameras do not fit even when solved again: check their lens model, focus "
        advice += "and synchronisation, or leave them out with --views."
    else:
        advice = "--refine-cameras solves poses and principal points again."
    return [{"what": f"Features miss the calibration of {told}.", "do": advice}]


def _unseen(studio: Studio, look: FirstLook | None) -> list[Note]:
    """Regions that too few cameras see in the first frame."""
    if look is None:
        return []
    regions = studio.run.topology.regions
    named = [name for name in ("face", "lips", "eyelids", "brows", "nose", "ears", "neck")
             if name in regions]  # fmt: skip
    shares = {name: look.share_seen(regions[name], 2) for name in named}
    poor = {name: share for name, share in shares.items() if share < 0.7}
    if not poor:
        return []
    told = ", ".join(f"{name} {share * 100:.0f} %" for name, share in poor.items())
    return [{
        "what": f"Few cameras see parts of the head: two or more see only this much of {told} "
        "in the first frame. Shape there comes from the head model, colour is filled.",
        "do": "Add cameras on that side, or turn some; a texture's coverage.png shows where.",
    }]  # fmt: skip


def _colours(look: FirstLook | None) -> list[Note]:
    far = {name: stops for name, stops in (look.stops if look else {}).items()
           if max(map(abs, stops)) > HIGH_STOPS}  # fmt: skip
    if not far:
        return []
    told = "; ".join(
        f"{name} {red:+.2f}, {green:+.2f}, {blue:+.2f}" for name, (red, green, blue) in far.items()
    )
    return [{
        "what": f"Cameras differ in colour. Stops from the others in red, green, blue: {told}.",
        "do": "Tracking and textures make up for gains, not for clipped or tinted light: fix "
        "exposure and white balance, or leave a camera out with --views.",
    }]  # fmt: skip


def _resolution(run: RunResult, studio: Studio) -> list[Note]:
    """Textures much coarser or finer than the pictures allow."""
    stored = run.texture(run.frames[0])
    if stored is None or studio.cameras is None or not len(run.topology.uv):
        return []
    size, vertices = stored.size, run.vertices[0]
    texel = texel_size(run.topology, vertices, size) * 1e3
    pixel = finest_pixel(studio.cameras, vertices) * 1e3
    # the size whose texels are the pixels', as a power of two
    fit = 2 ** round(math.log2(max(size * texel / pixel, 1.0)))
    told = f"A texel of the {size}² texture is {texel:.2f} mm wide, a pixel {pixel:.2f} mm."
    if fit >= 2 * size and size < 16384:
        wanted = min(fit, 16384)
        return [{"what": f"{told} The pictures hold more than the texture keeps.",
                 "do": f"--texture-size {wanted} --restart texture."}]  # fmt: skip
    if 4 * fit <= size:
        advice = f"--texture-size {max(fit, 64)} loses nothing"
        if not run.config.get("full"):
            advice += "; --full DIR takes larger pictures of the same take"
        return [{"what": f"{told} The texture cannot be sharper than the pictures.",
                 "do": advice + "."}]  # fmt: skip
    return []


def _detail(run: RunResult) -> list[Note]:
    rows = [row["seen"] for row in run.rows if row.get("stage") == "detail" and "seen" in row]
    if not rows or statistics.median(rows) >= 0.4:
        return []
    return [{
        "what": f"Cameras agree on relief on {statistics.median(rows) * 100:.0f} % of the surface.",
        "do": "Relief wants cameras that are close, sharp and next to each other; elsewhere the "
        "maps are smooth.",
    }]  # fmt: skip


def _logged_warnings(run: Path, most: int = 12) -> list[str]:
    """Distinct warnings of the run's log, the latest last."""
    path = run / "log.txt"
    if not path.exists():
        return []
    pattern = re.compile(r"^\S+ \S+ WARNING [\w.]+: (.*)$")
    lines = path.read_text("utf-8", errors="replace").splitlines()
    found = [match.group(1) for line in lines if (match := pattern.match(line))]
    # doubtful frames have a note of their own
    told = [line for line in dict.fromkeys(found) if "is doubtful" not in line]
    return told[-most:]


def environment(run: RunResult) -> list[tuple[str, Any]]:
    """Where this page was made, as far as it matters for numbers and times."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return [
        ("Python", platform.python_version()),
        ("torch", torch.__version__),
        ("numpy", numpy.__version__),
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("processor cores", os.cpu_count()),
        ("CUDA device", device),
        ("cameras left out", ", ".join(sorted(left_out(run))) or "none"),
    ]
