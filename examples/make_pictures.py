"""Make the pictures of the README and the documentation from a demo.

make demo && .venv/bin/python examples/make_pictures.py demo docs/images
"""

import sys
from pathlib import Path

import cv2
import torch
from safetensors.torch import load_file

from topohead.io.captures import open_capture
from topohead.io.images import read_image, write_image
from topohead.io.results import open_run
from topohead.rendering.shading import portrait_camera, render_mesh
from topohead.workflows.report.pictures import error_colors

SCALE_MM = 1.0
"""The error that gets the darkest colour."""


def shrunk(picture: torch.Tensor, width: int) -> torch.Tensor:
    """The picture at another width, averaged."""
    size = (width, round(picture.shape[0] * width / picture.shape[1]))
    return torch.from_numpy(cv2.resize(picture.numpy(), size, interpolation=cv2.INTER_AREA))


def rig_sheet(take: Path, columns: int = 6, width: int = 200) -> torch.Tensor:
    """Every camera's picture of the first frame, as stored."""
    capture = open_capture(take)
    pictures = [capture.read_image(capture.frames[0], name) for name in capture.rig.cameras.names]
    tiles = [shrunk(picture, width) for picture in pictures]
    rows = [torch.cat(tiles[at : at + columns], 1) for at in range(0, len(tiles), columns)]
    return torch.cat([row for row in rows if row.shape[1] == columns * width], 0)


def error_views(run_path: Path, size: tuple[int, int] = (360, 460)) -> torch.Tensor:
    """Median distance of each face vertex to the true surface, from three sides."""
    run = open_run(run_path)
    arrays = load_file(run_path / "evaluation.safetensors")
    colors = torch.full((run.topology.vertex_count, 3), 0.75)
    median = arrays["surface_mm"][1:].median(0).values
    colors[arrays["face_vertices"].long()] = error_colors((median / SCALE_MM).clamp(0, 1))
    views = []
    for yaw in (-0.7, 0.0, 0.7):
        pose, intrinsics = portrait_camera(run.vertices[0], size, yaw)
        views.append(
            render_mesh(
                run.vertices[0], run.topology, colors, pose, intrinsics, size, shading="colors"
            )
        )
    return torch.cat(views, 1)


demo, out = Path(sys.argv[1]), Path(sys.argv[2])
write_image(out / "performance.jpg", shrunk(read_image(demo / "performance.png"), 1200), quality=86)
write_image(out / "rig.jpg", rig_sheet(demo / "take"), quality=86)
write_image(out / "errors.jpg", error_views(demo / "run"), quality=88)
for path in sorted(out.glob("*.jpg")):
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
