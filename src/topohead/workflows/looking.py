"""What `evaluate` measures of interiors: gaze, eyeballs, lids on them, lips on each other."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.geometry import metrics
from topohead.geometry.globes import gaze_rotation
from topohead.io.results import RunResult, Truth
from topohead.solvers.contact import (
    LidContact,
    LipContact,
    lid_contacts,
    lid_depth,
    lip_contact,
    lip_depth,
)
from topohead.solvers.eyes import EyeConfig, Eyes, Gaze, find_eyes
from topohead.workflows.capturing import read_head


def interior_errors(run: RunResult, truth: Truth) -> dict[str, Any]:
    """Errors of frames 2…T; empty as far as the run or the truth has no eyes or lips.

    `gaze` is the angle between where an eye looks and where it truly does, both eyes and all
    frames. `globes` are distances of equal vertices. Depths are the worst vertex of each frame,
    beyond what the first frame has: lids inside globes, lips inside each other.
    """
    frames = [name for name in run.frames if truth.has(name)]
    found: dict[str, Any] = {}
    gaze = _gaze_errors(run, truth, frames)
    if len(gaze):
        found |= {
            "gaze_median_degrees": float(gaze.median()),
            "gaze_p95_degrees": float(gaze.quantile(0.95)),
            "gaze_max_degrees": float(gaze.max()),
        }
    eyes = run.topology.regions.get("eyes")
    if eyes is not None and len(eyes) and metrics.same_topology(run.topology, truth.topology):
        apart = [
            (run.vertices[run.frames.index(f)] - truth.frame(f).mesh.vertices)[eyes].norm(dim=1)
            for f in frames[1:]
        ]
        if apart:
            stats = metrics.summary(torch.cat(apart))
            found |= {"globe_median_mm": stats["median_mm"], "globe_p95_mm": stats["p95_mm"]}
    return found | contact_depths(run)


def _gaze_errors(run: RunResult, truth: Truth, frames: list[str]) -> Float[Tensor, " N"]:
    """Degrees, both eyes of every frame after the first."""
    errors = []
    start = truth.frame(frames[0]).gaze
    for name in frames[1:]:
        true = truth.frame(name).gaze
        if run.gaze is None or true is None or start is None:
            return torch.zeros(0)
        # the run counts from where the eyes looked in its first frame
        turn = gaze_rotation(run.gaze[run.frames.index(name)]) @ gaze_rotation(start.double())
        cosine = (turn[..., 2] * gaze_rotation(true.double())[..., 2]).sum(-1)
        errors.append(torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))))
    return torch.cat(errors) if errors else torch.zeros(0)


def contact_depths(run: RunResult) -> dict[str, float]:
    """The deepest lid vertex inside a globe and the deepest overlap of the lips, mm."""
    stored = run.path / "first" / "head.safetensors"
    if not stored.exists() or len(run.frames) < 2:
        return {}
    head = read_head(stored)
    eyes = find_eyes(head.mesh, head.upright, EyeConfig())
    lids, lips = lid_contacts(head.mesh, eyes), lip_contact(head.mesh, head.upright)
    rows = [
        frame_depths(eyes, lids, lips, run.vertices[i], run.poses[i].double(), _gaze(run, i))
        for i in range(1, len(run.frames))
    ]
    return {
        f"{name}_{what}_mm": 1000 * value
        for name, depths in zip(("lid_depth", "lip_overlap"), zip(*rows, strict=True), strict=True)
        for what, value in (("median", float(torch.tensor(depths).median())), ("max", max(depths)))
    }


def _gaze(run: RunResult, index: int) -> Gaze:
    still = Gaze.first()
    return still if run.gaze is None else Gaze(run.gaze[index].double(), still.confidence)


def frame_depths(
    eyes: Eyes | None,
    lids: tuple[LidContact, ...],
    lips: LipContact | None,
    vertices: Float[Tensor, "V 3"],
    motion: Float[Tensor, "4 4"],
    gaze: Gaze,
) -> tuple[float, float]:
    """Metres: the deepest lid vertex inside a globe, and the deepest overlap of the lips."""
    deepest, overlap = 0.0, 0.0
    for contact in lids if eyes is not None else ():
        assert eyes is not None
        short, _ = lid_depth(contact, eyes, vertices, motion, gaze)
        held = torch.isfinite(contact.needed)
        inside = (short - contact.needed)[held]
        deepest = max(deepest, float(inside.max()) if len(inside) else 0.0)
    if lips is not None:
        overlap = max(0.0, float(lip_depth(lips, vertices, motion).max()))
    return deepest, overlap
