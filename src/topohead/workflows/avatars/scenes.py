"""A sitting from a calibrated take, of whatever program, and meshes of the head in its world."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Cameras, Capture, InputError, Mesh, PosedViews
from topohead.geometry.skinning import rigged
from topohead.io.captures import open_capture
from topohead.io.expressions import gaze_of_looks
from topohead.io.meshes import check_mesh, read_mesh
from topohead.io.undistortion import undistorted_views
from topohead.solvers.expressions import ExpressionTrack
from topohead.workflows.avatars.inputs import Sitting, matted, spread
from topohead.workflows.capturing import Head, recognised
from topohead.workflows.progress import track as progress
from topohead.workflows.rigging import expression_track, rest_of

MESHES = (".obj", ".ply", ".glb", ".stl")

SEEN = 0.2
"""Of the head's vertices, the least share that some camera must have in its picture."""


def scene_sitting(
    path: Path,
    head: Path,
    height: int,
    frames: str | None = None,
    instants: int = 24,
    cameras: Sequence[str] | None = None,
    units: str | None = None,
) -> Sitting:
    """Pictures of a take that any calibration format describes, with the head's mesh in each frame.

    `head` is one mesh where the take has one instant, else a folder of FRAME.obj, all of one
    topology and in the calibration's world. The first is taken to be at rest, as a start mesh is.
    """
    capture = open_capture(path, units, views=cameras, frames=frames)
    meshes = _meshes(head, capture, units)
    first = meshes[capture.frames[0]]
    known: Head = recognised(first)
    vertices = torch.stack([meshes[frame].vertices for frame in capture.frames]).float()
    if len(vertices) == 1:
        still = torch.eye(4, dtype=torch.float64)[None]
        track = ExpressionTrack(known.expression.double()[None], still)
    else:
        track = expression_track(known, vertices)
    weights = track.weights.float()
    rows = spread(range(len(capture.frames)), weights, instants)
    views = tuple(
        undistorted_views(capture, capture.frames[row], None, height)
        for row in progress(rows, "pictures")
    )
    for row, view in zip(rows, views, strict=True):
        _check_seen(vertices[row], view.cameras, head, view.frame)
    posed = PosedViews(
        known.mesh.topology, views, vertices[rows], weights[rows],
        gaze_of_looks(weights[rows]).float(), track.poses[rows].double(), known.upright,
        capture.frames_per_second,
    )  # fmt: skip
    # nobody's shoulders are told apart: the neck follows the head
    share = torch.ones(known.mesh.topology.vertex_count)
    rig = rigged(known.mesh.topology, rest_of(known), known.basis, known.upright, share)
    return matted(Sitting(posed, rig, None))


def _meshes(head: Path, capture: Capture, units: str | None) -> dict[str, Mesh]:
    """A mesh for each of the take's frames."""
    if not head.exists():
        raise InputError(f"--head {head}: no such file; expected a mesh, or a folder of FRAME.obj")
    start, *others = capture.frames
    if head.is_file():
        if others:
            raise InputError(
                f"--head {head} is one mesh and the take has {len(capture.frames)} frames; give a "
                "folder with FRAME.obj for each, or choose one frame with --frames"
            )
        return {start: check_mesh(read_mesh(head, units), head)}
    files = {f.stem: f for f in sorted(head.iterdir()) if f.suffix.lower() in MESHES}
    found: dict[str, Mesh] = {}
    for frame in progress(capture.frames, "meshes"):
        name = frame if frame in files else frame.lstrip("0") or "0"
        if name not in files:
            raise InputError(f"--head {head} has no mesh {frame}.obj for the take's frame {frame}")
        mesh = check_mesh(read_mesh(files[name], units), files[name])
        if found and not torch.equal(mesh.topology.faces, found[start].topology.faces):
            raise InputError(
                f"{files[name]} is of another topology than {files[start]}; expected "
                "one mesh that moves"
            )
        found[frame] = mesh
    return found


def _check_seen(vertices: Float[Tensor, "V 3"], cameras: Cameras, head: Path, frame: str) -> None:
    """Refuses a head that no camera looks at: another world, another unit."""
    best = 0.0
    for c in range(len(cameras.names)):
        pose, lens = cameras.world_to_camera[c].double(), cameras.intrinsics[c].double()
        local = vertices.double() @ pose[:3, :3].T + pose[:3, 3]
        pixels = (local @ lens.T)[:, :2] / local[:, 2:].clamp(min=1e-6)
        inside = (local[:, 2] > 0) & (pixels > 0).all(1)
        inside &= (pixels < torch.tensor(cameras.size(c)).double()).all(1)
        best = max(best, float(inside.double().mean()))
    if best < SEEN:
        raise InputError(
            f"frame {frame}: no picture shows more than {best:.0%} of --head {head}; expected the "
            "head in the world and unit of the calibration (--units?)"
        )
