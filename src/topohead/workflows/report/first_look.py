"""What the cameras show of the first frame: who sees what, and how their colours differ."""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Views
from topohead.geometry.cameras import project
from topohead.io.undistortion import undistorted_views
from topohead.rendering.mesh import rasterize
from topohead.rendering.shading import srgb_to_linear
from topohead.workflows.likeness import left_out
from topohead.workflows.report.pictures import Studio, data_uri, visible_pixels

HEIGHT = 320
"""Pixels of the pictures that are looked at."""
THUMBNAIL = 132
ENOUGH = 40
"""Vertices that a camera must share with two others to be compared with them."""


@dataclass(frozen=True)
class FirstLook:
    """`seen[v]` is how many used cameras see vertex v of the first frame.

    `stops` are how many stops (log₂ of linear light) brighter each camera shows the skin in red,
    green and blue than the cameras do together; empty without the take's pictures.
    """

    seen: Int[Tensor, " V"]
    stops: Mapping[str, tuple[float, float, float]]
    thumbnails: Mapping[str, str]

    def share_seen(self, vertices: Int[Tensor, " N"], by: int) -> float:
        """The share of these vertices that at least so many cameras see."""
        return float((self.seen[vertices] >= by).float().mean())


def first_look(studio: Studio) -> FirstLook | None:
    """The cameras' view of the first frame; None where the run kept no calibration."""
    run, cameras = studio.run, studio.cameras
    if cameras is None:
        return None
    names = [name for name in cameras.names if name not in left_out(run)]
    views: Views | None = None
    if studio.capture is not None:
        known = [name for name in names if name in studio.capture.rig.cameras.names]
        views = undistorted_views(studio.capture, run.frames[0], known, HEIGHT)
    if views is not None and views.images:
        cameras, images = views.cameras, views.images
    else:
        cameras, images = cameras.select(names), ()
        share = min(1.0, HEIGHT / float(cameras.sizes[:, 1].median()))
        cameras = cameras.resized((cameras.sizes * share).round().long())
    vertices = run.vertices[0].double()
    triangles = run.topology.triangles
    pixels = project(cameras, vertices)[0]
    seen = torch.zeros(len(cameras), len(vertices), dtype=torch.bool)
    light = torch.full((len(cameras), len(vertices), 3), torch.nan)
    for index in range(len(cameras)):
        pose, intrinsics = cameras.world_to_camera[index], cameras.intrinsics[index]
        raster = rasterize(vertices.float(), triangles, pose, intrinsics, cameras.size(index))
        seen[index] = visible_pixels(vertices, raster.depth, pose, intrinsics)[1]
        if images:
            column, row = pixels[index][seen[index]].floor().long().unbind(1)
            light[index, seen[index]] = srgb_to_linear(images[index])[row, column]
    thumbnails = {
        name: _thumbnail(studio, image, cameras.world_to_camera[index])
        for index, (name, image) in enumerate(zip(cameras.names, images, strict=False))
    }
    face = torch.zeros(len(vertices), dtype=torch.bool)
    face[studio.face] = True
    stops = _stops(light[:, face]) if images else {}
    return FirstLook(seen.sum(0), {cameras.names[k]: v for k, v in stops.items()}, thumbnails)


def _stops(light: Float[Tensor, "C N 3"]) -> dict[int, tuple[float, float, float]]:
    """Each camera's median log₂ ratio to the median camera, over what three or more see."""
    shared = (~light[..., 0].isnan()).sum(0) >= 3
    light = light[:, shared].clamp(min=1e-3)
    found = {}
    for index, ratio in enumerate((light / light.nanmedian(0).values).log2()):
        known = ratio[~ratio[:, 0].isnan()]
        if len(known) >= ENOUGH:
            found[index] = tuple(known.median(0).values.tolist())
    return found


def _thumbnail(studio: Studio, image: Float[Tensor, "H W 3"], pose: Float[Tensor, "4 4"]) -> str:
    upright = torch.rot90(image, studio.quarter_turns(pose))
    width = max(1, round(upright.shape[1] * THUMBNAIL / upright.shape[0]))
    small = cv2.resize(upright.numpy(), (width, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return data_uri(torch.from_numpy(small), 78)
