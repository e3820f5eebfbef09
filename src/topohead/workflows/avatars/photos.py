"""A sitting from photos or a video that CAP4D's tracker has gone through."""

import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Cameras, InputError, PosedViews, Views
from topohead.geometry.avatars import eyeballs, gazed
from topohead.geometry.skinning import blended, rigged
from topohead.io.assets import reference_head
from topohead.io.cap4d import TrackedPhotos, read_tracked_photos
from topohead.io.captures import choose_frames
from topohead.io.flame import read_flame
from topohead.io.images import read_image
from topohead.io.masks import read_coverage
from topohead.solvers.point_tracks import TracksFit, fit_tracks
from topohead.workflows.avatars.inputs import Sitting, matted, spread
from topohead.workflows.progress import track as progress

log = logging.getLogger(__name__)

AROUND = 0.15
"""Of the tracker's box, how much is kept on each side: hair and neck."""

STILLS_RATE = 30.0
"""Frames a second that photos are said to have."""

LARGEST_RESIDUAL = 0.02
"""Of the box's height: medians above this are told, the head does not fit the tracks there."""

PARALLAX = 0.17
"""Radians (10°) that the head must turn: less, and its points have no depth."""


def tracked_sitting(
    path: Path,
    height: int,
    frames: str | None = None,
    instants: int = 24,
    views: Sequence[str] | None = None,
    flame: Path | None = None,
) -> Sitting:
    """The photos' heads refitted with ours, the pictures cut out around them."""
    photos = read_tracked_photos(path, None if flame is None else read_flame(flame))
    names = photos.cameras.names
    unknown = [name for name in views or () if name not in names]
    if unknown:
        raise InputError(f"--views {unknown[0]}: no such camera; fit.npz has {', '.join(names)}")
    head = reference_head(0)
    found = tracked_heads(photos, path)
    numbers = [f"{t + 1:06d}" for t in range(len(photos.poses))]
    chosen = [numbers.index(frame) for frame in choose_frames(numbers, frames)]
    chosen = [t for t in chosen if bool(photos.valid[:, t].any())]
    if not chosen:
        raise InputError(f"{path}: the tracker found the head in none of these pictures")
    for t in chosen:
        tall = float((photos.boxes[:, t, 3] - photos.boxes[:, t, 1]).amax())
        if float(found.residual[t]) > LARGEST_RESIDUAL * tall:
            log.warning(
                "frame %s: the head is %.1f px off its tracks", numbers[t], found.residual[t]
            )
    rows = spread(chosen, found.weights, instants)
    kept = [names.index(name) for name in views or names]
    first = found.poses[rows[0]]
    back = torch.linalg.inv(first)
    world = found.rest.double() @ first[:3, :3].T + first[:3, 3]
    basis = (head.expression_basis.double() @ first[:3, :3].T).float()
    poses = found.poses[rows] @ back
    gaze = photos.gaze[rows][:, None].expand(-1, 2, -1).float()
    # nobody's shoulders are tracked: the neck follows the head in pictures and in play alike
    share = torch.ones(head.topology.vertex_count)
    own = rigged(head.topology, found.rest, head.expression_basis, torch.eye(4).double(), share)
    # eyes as they look in the pictures: play turns them from where a fit has painted them
    played = blended(own.neutral, own.blendshapes, found.weights[rows])
    shapes = gazed(eyeballs(own), played, gaze).double()
    moved = shapes @ found.poses[rows][:, :3, :3].mT + found.poses[rows][:, None, :3, 3]
    posed = PosedViews(
        head.topology,
        tuple(_views(photos, t, numbers[t], kept, height) for t in progress(rows, "pictures")),
        moved.float(), found.weights[rows], gaze, poses, back,
        photos.frames_per_second or STILLS_RATE,
    )  # fmt: skip
    rig = rigged(head.topology, world.float(), basis, back, share)
    return matted(Sitting(posed, rig, None))


def tracked_heads(photos: TrackedPhotos, path: Path) -> TracksFit:
    """Our head in all of the photos; refuses heads that hardly turn, unless FLAME is known."""
    if photos.motion is None:
        _check_parallax(photos, path)
    projections = photos.cameras.intrinsics @ photos.cameras.world_to_camera[:, :3]
    known = None if photos.motion is None else photos.motion.neutral
    for _ in progress(range(1), "head"):
        found = fit_tracks(
            reference_head(0), photos.points, photos.sigma, projections, photos.poses,
            photos.valid, known,
        )  # fmt: skip
    return found


def _check_parallax(photos: TrackedPhotos, path: Path) -> None:
    ways = (photos.cameras.world_to_camera[:, None, :3, :3] @ photos.poses[None, :, :3, :3])[
        ..., 2, :
    ]
    ways = ways[photos.valid]
    widest = float(torch.acos((ways @ ways.T).clamp(-1, 1)).max()) if len(ways) else 0.0
    if widest < PARALLAX:
        raise InputError(
            f"{path}: the head turns by {widest * 57.3:.0f}° only; what FLAME's vertices are is "
            "found from several directions, expected 10° at least (one photo is enough with "
            "--flame and your own FLAME 2023 file)"
        )


def _views(photos: TrackedPhotos, t: int, frame: str, kept: Sequence[int], height: int) -> Views:
    """Pictures of one instant cut out around the head, not taller than `height`."""
    images, masks, cameras = [], [], []
    for index in kept:
        if not bool(photos.valid[index, t]):
            continue
        width, tall = photos.cameras.size(index)
        x0, y0, x1, y1 = photos.boxes[index, t].tolist()
        margin = AROUND * (y1 - y0)
        left, top = max(int(x0 - margin), 0), max(int(y0 - margin), 0)
        right, bottom = min(int(x1 + margin), width), min(int(y1 + margin), tall)
        image = read_image(photos.pictures[index][t])[top:bottom, left:right]
        lens = photos.cameras.intrinsics[index].clone()
        lens[:2, 2] -= torch.tensor([left, top]).double()
        scale = min(1.0, height / (bottom - top))
        size = (max(round((right - left) * scale), 1), max(round((bottom - top) * scale), 1))
        whole = Cameras(
            (photos.cameras.names[index],), photos.cameras.world_to_camera[index : index + 1],
            lens[None], torch.tensor([[right - left, bottom - top]]),
        )  # fmt: skip
        cameras.append(whole.resized(torch.tensor([size])))
        images.append(_shrunk(image, size))
        if photos.masks:
            mask = read_coverage(photos.masks[index][t])
            if tuple(mask.shape) != (tall, width):
                raise InputError(
                    f"{photos.masks[index][t]} is {mask.shape[1]}×{mask.shape[0]} and its picture "
                    f"{width}×{tall}; mattes have their picture's size"
                )
            masks.append(_shrunk(mask[top:bottom, left:right], size))
    together = Cameras(
        tuple(one.names[0] for one in cameras),
        torch.cat([one.world_to_camera for one in cameras]),
        torch.cat([one.intrinsics for one in cameras]),
        torch.cat([one.sizes for one in cameras]),
    )
    return Views(frame, together, tuple(images), tuple(masks) if photos.masks else None)


def _shrunk(picture: Float[Tensor, "H W *K"], size: tuple[int, int]) -> Float[Tensor, "h w *K"]:
    found = cv2.resize(picture.contiguous().numpy(), size, interpolation=cv2.INTER_AREA)
    return torch.from_numpy(found)
