"""Pictures of a run that a person looks at first: what was filmed above what came back."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from topohead.core import Cameras, Capture
    from topohead.io.results import RunResult

GAP = 6
"""White pixels between tiles."""


def write_performance_sheet(
    run: "RunResult", capture: "Capture", path: Path, columns: int = 5
) -> Path:
    """Writes one picture: a column a frame, with the photograph, the mesh and its texture below.

    All from the same camera, the most frontal one that is mounted upright.
    """
    import torch

    from topohead.io.images import write_image
    from topohead.io.undistortion import undistorted_views
    from topohead.rendering.shading import render_mesh

    camera = _frontal_camera(capture.rig.cameras)
    count = min(columns, len(run.frames))
    chosen = [round(i * (len(run.frames) - 1) / max(1, count - 1)) for i in range(count)]
    tiles = []
    for index in chosen:
        frame, mesh = run.frames[index], run.mesh(index)
        view = undistorted_views(capture, frame, [camera])
        pose, intrinsics = view.cameras.world_to_camera[0], view.cameras.intrinsics[0]
        texture = run.texture(frame)
        pictures = [view.images[0]]
        for shading in ("clay", "texture") if texture else ("clay",):
            appearance = texture.read() if texture and shading == "texture" else None
            picture = render_mesh(
                mesh.vertices, mesh.topology, appearance, pose, intrinsics, view.cameras.size(0),
                shading=shading,
            )  # fmt: skip
            pictures.append(picture)
        tiles.append(pictures)
    left, top, right, bottom = _window(run, chosen, capture, camera)
    columns_of_pixels = []
    for pictures in tiles:
        parts = [_framed(picture[top:bottom, left:right]) for picture in pictures]
        columns_of_pixels.append(torch.cat(parts, 0))
    write_image(path, torch.cat(columns_of_pixels, 1))
    return path


def _frontal_camera(cameras: "Cameras") -> str:
    """The name of the camera that looks most along -z, image rows running down the world."""
    axes = cameras.world_to_camera[:, :3, :3]
    score = -axes[:, 2, 2] - axes[:, 1, 1]
    return cameras.names[int(score.argmax())]


def _window(
    run: "RunResult", chosen: Sequence[int], capture: "Capture", camera: str
) -> tuple[int, int, int, int]:
    """Pixels (left, top, right, bottom) that hold the head in all chosen frames, and some air."""
    from topohead.geometry.cameras import project
    from topohead.io.undistortion import pinhole_cameras

    seen_by = pinhole_cameras(capture, [camera])
    vertices = run.vertices[list(chosen)].reshape(-1, 3).to(seen_by.world_to_camera)
    pixels = project(seen_by, vertices)[0][0]
    width, height = seen_by.size(0)
    low, high = pixels.amin(0), pixels.amax(0)
    air = 0.04 * float((high - low).max())
    left, top = (max(0, int(v - air)) for v in low)
    right, bottom = (min(edge, int(v + air)) for v, edge in zip(high, (width, height), strict=True))
    return left, top, right, bottom


def _framed(picture):
    from torch.nn.functional import pad

    return pad(picture, (0, 0, 0, GAP, 0, GAP), value=1.0)
