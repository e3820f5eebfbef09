"""What an avatar is fitted to: pictures and the posed head in them, from a capture run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Cameras, InputError, PosedViews
from topohead.geometry.skinning import FaceRig, rigged
from topohead.io.captures import choose_frames, open_capture
from topohead.io.expressions import gaze_of_looks, read_live_link
from topohead.io.results import open_source, open_truth
from topohead.io.undistortion import undistorted_views
from topohead.rendering.mesh import rasterize
from topohead.workflows import rigging
from topohead.workflows.capturing import recognised
from topohead.workflows.progress import track as progress


@dataclass(frozen=True)
class Sitting:
    """A person's pictures with the posed head, the rig that made it, and the head's texture.

    `rig` is in the pictures' world. `counted` is where a picture counts, None for everywhere: a
    take without mattes is looked at inside the mesh alone.
    """

    posed: PosedViews
    rig: FaceRig
    texture: Float[Tensor, "S S 3"] | None
    counted: tuple[tuple[Float[Tensor, "_ _"], ...], ...] | None = None


def run_sitting(
    path: Path,
    height: int,
    frames: str | None = None,
    instants: int = 24,
    cameras: Sequence[str] | None = None,
) -> Sitting:
    """The pictures of a finished capture, at most so many `instants` of it, as high as `height`."""
    take = rigging.open_tracked(path)
    capture = open_source(take.run)
    if capture is None:
        raise InputError(
            f"the pictures of {path} are not at {take.run.config.get('source')} any more; put the "
            "take back, or capture it again"
        )
    known = capture.rig.cameras.names
    unknown = [name for name in cameras or () if name not in known]
    if unknown:
        raise InputError(f"--views {unknown[0]}: no such camera; the take has {', '.join(known)}")
    solved = rigging.solve(take)
    played, run = solved.performance, take.run
    gaze = gaze_of_looks(played.weights) if run.gaze is None else run.gaze
    chosen = choose_frames(run.frames, frames)
    rows = spread([run.frames.index(frame) for frame in chosen], played.weights, instants)
    names = cameras or _tracked_cameras(take.run.config, known)
    views = tuple(
        undistorted_views(capture, run.frames[row], names, height)
        for row in progress(rows, "pictures")
    )
    posed = PosedViews(
        played.rig.topology, views, run.vertices[rows], played.weights[rows], gaze[rows].float(),
        played.poses[rows], played.rig.upright, take.frames_per_second,
    )  # fmt: skip
    stored = run.texture(run.frames[0]) if len(run.topology.uv) else None
    texture = None if stored is None else stored.read().float()
    return matted(Sitting(posed, played.rig, texture))


def staged_sitting(
    take: Path,
    height: int,
    frames: Sequence[str] | None = None,
    cameras: Sequence[str] | None = None,
) -> Sitting:
    """A staged take with the head where it truly is, for measurements and tests."""
    truth, capture = open_truth(take), open_capture(take)
    chosen = list(frames or capture.frames)
    known = [truth.frame(frame) for frame in chosen]
    head = recognised(truth.frame(capture.frames[0]).mesh)
    played = read_live_link(truth.path / "expression.csv").coefficients.float()
    rows = [capture.frames.index(frame) for frame in chosen]
    still = torch.eye(4, dtype=torch.float64)
    posed = PosedViews(
        head.mesh.topology,
        tuple(undistorted_views(capture, frame, cameras, height) for frame in chosen),
        torch.stack([one.mesh.vertices for one in known]),
        played[rows],
        torch.stack([torch.zeros(2, 2) if k.gaze is None else k.gaze.float() for k in known]),
        torch.stack([still if k.pose is None else k.pose.double() for k in known]),
        head.upright,
        capture.frames_per_second,
    )
    # the stage moves head and neck as one
    share = torch.ones(head.mesh.topology.vertex_count)
    rig = rigged(head.mesh.topology, head.mesh.vertices, head.basis, head.upright, share)
    return matted(Sitting(posed, rig, None))


def _tracked_cameras(config: object, known: Sequence[str]) -> list[str]:
    """All but those that the capture held out: an avatar must not see them either."""
    held = dict(config).get("holdout") or ""  # pyright: ignore[reportArgumentType, reportCallIssue]
    return [name for name in known if name not in str(held).split(",")]


def spread(rows: Sequence[int], weights: Float[Tensor, "T 52"], count: int) -> list[int]:
    """At most `count` of the rows, expressions far apart, in order; the first is always there."""
    if count < 1:
        raise InputError(f"--instants expects a number above zero, got {count}")
    if len(rows) <= count:
        return list(rows)
    points = weights[list(rows)].double()
    kept = [0]
    distance = (points - points[0]).norm(dim=1)
    while len(kept) < count:
        kept.append(int(distance.argmax()))
        distance = torch.minimum(distance, (points - points[kept[-1]]).norm(dim=1))
    return sorted(rows[k] for k in kept)


def matted(sitting: Sitting) -> Sitting:
    """The sitting as it is, or where it has no mattes with what the mesh covers in their place."""
    posed = sitting.posed
    if all(view.masks is not None for view in posed.views):
        return sitting
    views, counted = [], []
    for view, vertices in zip(posed.views, posed.vertices, strict=True):
        triangles = posed.topology.triangles
        inside = tuple(
            _covered(vertices, triangles, view.cameras, c) for c in range(len(view.images))
        )
        views.append(replace(view, masks=tuple(torch.ones_like(one) for one in inside)))
        counted.append(inside)
    return replace(sitting, posed=replace(posed, views=tuple(views)), counted=tuple(counted))


def _covered(
    vertices: Float[Tensor, "V 3"], triangles: Tensor, cameras: Cameras, index: int
) -> Float[Tensor, "H W"]:
    raster = rasterize(
        vertices, triangles, cameras.world_to_camera[index], cameras.intrinsics[index],
        cameras.size(index), cull=False,
    )  # fmt: skip
    return (raster.triangle >= 0).float()
