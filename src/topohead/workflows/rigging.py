"""The steps of `topohead rig`, and the expression track that every capture writes."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from topohead.core import InputError, Mesh
from topohead.geometry.skinning import (
    FaceRig,
    RigPerformance,
    blended,
    measured_head_share,
    posed,
    relaxed_head_share,
    retarget,
    rigged,
)
from topohead.io.assets import ict_head, reference_head, topology_tensors
from topohead.io.atomic import atomic_write, write_text
from topohead.io.expressions import (
    Performance,
    live_link_angles,
    live_link_eyes,
    read_live_link,
    with_looks,
    write_live_link,
)
from topohead.io.gltf import open_glb
from topohead.io.gltf_rig import read_rig_glb, write_rig_glb
from topohead.io.meshes import check_mesh, read_mesh, write_obj
from topohead.io.results import RunResult, find_truth, open_run
from topohead.models.linear import LinearHead
from topohead.solvers.blendshapes import personal_blendshapes
from topohead.solvers.expressions import ExpressionTrack, solve_expressions, vertex_importance
from topohead.workflows.capturing import Head, read_head, recognised
from topohead.workflows.progress import track as progress
from topohead.workflows.rig import RigConfig, RigResult

ACTIVE = 0.05
"""Standard deviation above which an action counts as played."""


@dataclass(frozen=True)
class Tracked:
    """A finished run with what it knew of its head, and its frame rate."""

    run: RunResult
    head: Head
    frames_per_second: float


@dataclass(frozen=True)
class Solved:
    """The person's rig playing the take, each frame's residual rms (metres), median errors (mm)."""

    performance: RigPerformance
    before: Float[Tensor, " T"]
    after: Float[Tensor, " T"]
    model_mm: float
    personal_mm: float


def open_tracked(path: Path) -> Tracked:
    """A run folder whose capture came to its end."""
    run = open_run(path)
    head, sequence = path / "first" / "head.safetensors", path / "sequence.glb"
    if not (head.exists() and sequence.exists()):
        missing = sequence if head.exists() else head
        raise InputError(
            f"{path} has no {missing.relative_to(path)}, so its capture is not finished; run the "
            "same `topohead capture` to its end"
        )
    _, _, extras = open_glb(sequence)
    return Tracked(run, read_head(head), float(extras["frames_per_second"]))


def rest_of(head: Head) -> Float[Tensor, "V 3"]:
    """The head of the first frame with its expression taken off."""
    return head.mesh.vertices - torch.tensordot(head.expression, head.basis, 1)


def expression_track(head: Head, vertices: Float[Tensor, "T V 3"]) -> ExpressionTrack:
    """Weights of the head model's actions, and poses, in tracked meshes."""
    rest = rest_of(head)
    importance = vertex_importance(head.mesh.topology, rest)
    return solve_expressions(vertices, rest, head.basis, importance)


def head_angles(track: ExpressionTrack, upright: Float[Tensor, "4 4"]) -> Float[Tensor, "T 3"]:
    """Yaw, pitch, roll of a track's poses in the head's own y-up frame, as Live Link has them."""
    turn = upright[:3, :3].double()
    return live_link_angles(turn @ track.poses[:, :3, :3] @ turn.T)


def write_expression(
    path: Path,
    track: ExpressionTrack,
    upright: Float[Tensor, "4 4"],
    frames_per_second: float,
    gaze: Float[Tensor, "T 2 2"] | None = None,
) -> None:
    """Write a track as a Live Link Face CSV, head angles in the head's own y-up frame.

    A measured gaze fills the eyes' columns and the eyeLook actions; without one the actions are
    what the lids say and the columns zero.
    """
    count = len(track.weights)
    eyes = torch.zeros(count, 2, 2) if gaze is None else gaze
    performance = Performance(
        torch.arange(count, dtype=torch.float64) / frames_per_second,
        track.weights if gaze is None else with_looks(track.weights, gaze),
        head_angles(track, upright),
        live_link_eyes(eyes.double()),
    )
    with atomic_write(path) as partial:
        write_live_link(performance, partial)


def solve(take: Tracked) -> Solved:
    """The person's blendshapes, the take's weights in them, and how the neck follows."""
    head, vertices = take.head, take.run.vertices
    topology, rest = head.mesh.topology, rest_of(head)
    importance = vertex_importance(topology, rest)
    for _ in progress(range(1), "rig"):
        found = personal_blendshapes(vertices, rest, head.basis, topology, importance)
    shapes = blended(rest, found.blendshapes, found.track.weights)
    poses = found.track.poses
    share = measured_head_share(vertices, shapes, poses, relaxed_head_share(topology))
    rig = rigged(topology, rest, found.blendshapes, head.upright, share)
    performance = RigPerformance(rig, found.track.weights, poses, take.frames_per_second)
    plain = solve_expressions(vertices, rest, head.basis, importance)
    made = posed(rest, head.basis, plain.weights, plain.poses)
    return Solved(
        performance,
        found.before,
        found.after,
        _face_error(take, made),
        _face_error(take, performance.vertices()),
    )


def _face_error(take: Tracked, made: Float[Tensor, "T V 3"]) -> float:
    """Median distance of the face's vertices in all frames, mm."""
    face = take.head.mesh.topology.regions["face"]
    gap = (made - take.run.vertices)[:, face].norm(dim=-1)
    return float(gap.median()) * 1000


def write(take: Tracked, solved: Solved, folder: Path) -> None:
    """expression.csv, rig.glb with the run's texture, and blendshapes.safetensors."""
    performance, rig = solved.performance, solved.performance.rig
    track = ExpressionTrack(performance.weights, performance.poses)
    folder.mkdir(exist_ok=True)
    rate, gaze = performance.frames_per_second, take.run.gaze
    write_expression(folder / "expression.csv", track, rig.upright, rate, gaze)
    stored = take.run.texture(take.run.frames[0]) if len(rig.topology.uv) else None
    write_rig_glb(folder / "rig.glb", performance, None if stored is None else stored.picture)
    tensors = topology_tensors(rig.topology) | {
        "neutral": rig.neutral,
        "blendshapes": rig.blendshapes,
        "weights": performance.weights,
        "poses": performance.poses,
        "head_share": rig.head_share,
        "upright": rig.upright,
    }
    with atomic_write(folder / "blendshapes.safetensors") as partial:
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, partial)


def write_summary(take: Tracked, solved: Solved, result: RigResult) -> None:
    """rig.json: the errors, and each frame's residual."""
    rows = zip(take.run.frames, solved.before.tolist(), solved.after.tolist(), strict=True)
    document = {
        "model_mm": result.model_mm,
        "personal_mm": result.personal_mm,
        "likeness": result.likeness,
        "frames": [
            {"frame": frame, "model_rms_mm": before * 1e3, "personal_rms_mm": after * 1e3}
            for frame, before, after in rows
        ],
    }
    write_text(result.folder / "rig.json", json.dumps(document, indent=2) + "\n")


def likeness(take: Tracked, solved: Solved) -> dict[str, float] | None:
    """How the weights compare with those that the stage played, None for a real take.

    Correlation is the median over played actions; the mean error is over all of them.
    """
    truth = find_truth(take.run)
    if truth is None or not (truth.path / "expression.csv").exists():
        return None
    played = read_live_link(truth.path / "expression.csv").coefficients
    rows = [int(frame) - 1 for frame in take.run.frames if frame.isdigit()]
    if len(rows) != len(take.run.frames) or max(rows) >= len(played):
        return None
    true, found = played[rows], solved.performance.weights
    active = true.std(0, correction=0) > ACTIVE
    if not bool(active.any()):
        return None
    centered = [values[:, active] - values[:, active].mean(0) for values in (true, found)]
    norms = [values.norm(dim=0).clamp(min=1e-9) for values in centered]
    correlation = (centered[0] * centered[1]).sum(0) / (norms[0] * norms[1])
    return {
        "correlation": float(correlation.median()),
        "actions": int(active.sum()),
        "mean_error": float((true - found).abs().mean()),
    }


# another head


def open_target(config: RigConfig) -> FaceRig | None:
    """The rig of the head that `--target` names; None without one."""
    if config.target is None:
        for flag, given in (("--obj", config.obj), ("--units", config.units)):
            if given:
                raise InputError(f"{flag} is about another head; name one with --target")
        return None
    if config.target == "reference":
        return _model_rig(reference_head(1))
    if config.target == "ict":
        return _model_rig(ict_head(config.ict))
    path = Path(config.target)
    if not path.is_file():
        raise InputError(
            f"--target {config.target}: no such file; expected reference, ict, a mesh or a rig.glb"
        )
    if _is_rig(path):
        return read_rig_glb(path).rig
    head = recognised(check_mesh(read_mesh(path, config.units), path))
    return rigged(head.mesh.topology, head.mesh.vertices, head.basis, head.upright)


def _model_rig(model: LinearHead) -> FaceRig:
    return rigged(model.topology, model.template, model.expression_basis, torch.eye(4))


def _is_rig(path: Path) -> bool:
    if path.suffix.lower() != ".glb":
        return False
    try:
        return bool(open_glb(path)[2].get("rig"))
    except InputError:  # another program's: a mesh like any other
        return False


def write_retarget(
    take: Tracked, solved: Solved, target: FaceRig | None, folder: Path, obj: bool
) -> Path | None:
    """retarget.glb and, if asked for, an OBJ a frame in the target's own place."""
    if target is None:
        return None
    played = retarget(solved.performance, target)
    write_rig_glb(folder / "retarget.glb", played)
    if obj:
        frames = zip(take.run.frames, played.vertices(), strict=True)
        for frame, vertices in progress(frames, "retarget", len(take.run.frames)):
            write_obj(Mesh(target.topology, vertices), folder / "retarget" / f"{frame}.obj")
    return folder / "retarget.glb"
