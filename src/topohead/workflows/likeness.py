"""Pictures against pictures: the texture and the true one, a left-out view and its render."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from topohead.core import Capture, Topology
from topohead.geometry import metrics
from topohead.geometry.correspondence import closest_points, interpolate
from topohead.io.images import read_image
from topohead.io.results import RunResult, Truth
from topohead.io.undistortion import undistorted_views
from topohead.losses.similarity import affine_color_fit
from topohead.losses.texture import match_gain, psnr, seam_gradient_ratio, ssim
from topohead.rendering.mesh import rasterize, rasterize_uv
from topohead.rendering.shading import render_mesh, sample_texture
from topohead.workflows.measuring import seen_mask
from topohead.workflows.progress import track

VIEW_HEIGHT = 720
"""Left-out views are compared at most at this height."""

VIEW_FRAMES = 24
"""Left-out views are compared in at most so many frames, evenly taken."""

TEXTURE_SIDE = 2048
"""Textures are compared at most at this size."""


def texture_likeness(run: RunResult, truth: Truth) -> dict[str, Any] | None:
    """PSNR and SSIM of the first frame's texture to the true lit skin, one gain a channel.

    On texels of the face that two cameras see at cos > 0.3. Another topology's layout is compared
    through the surface: each texel asks the true skin nearest to it. None without a true picture.
    """
    stored, lit = run.texture(run.frames[0]), truth.picture("lit_srgb.png")
    if stored is None or lit is None or run.rig is None:
        return None
    texture = stored.read()
    side = min(TEXTURE_SIDE, texture.shape[0])
    raster = rasterize_uv(run.topology.uv, run.topology.triangle_uv, (side, side))
    wanted = face_triangles(run.topology, seen_mask(run, 0, _tracking_views(run)))
    mask = raster.covered & wanted[raster.triangle.clamp(min=0).long()]
    if int(mask.sum()) < 100:
        return None
    target = torch.zeros(side, side, 3)
    target[mask] = sample_texture(read_image(lit), _true_uv(run, truth, raster, mask).float())
    ours = torch.zeros_like(target)
    rows, columns = torch.nonzero(mask).unbind(1)
    center = torch.stack([(columns + 0.5) / side, 1 - (rows + 0.5) / side], -1)
    ours[mask] = sample_texture(texture, center.float())
    fitted = match_gain(ours, target, mask)
    seams = float(seam_gradient_ratio(texture, run.topology))
    return {
        **_scores(fitted, target, mask),
        "texels": int(mask.sum()),
        "size": side,
        "seam_gradient_ratio": seams if math.isfinite(seams) else None,
    }


def _scores(
    image: Float[Tensor, "H W 3"], target: Float[Tensor, "H W 3"], mask: Bool[Tensor, "H W"]
) -> dict[str, float]:
    """PSNR, at most 100 dB so that JSON can hold it, and SSIM of the masked pixels."""
    rows, columns = torch.nonzero(mask).unbind(1)
    # windows of the similarity reach 5 pixels; what lies further away costs time only
    window = (slice(max(0, int(rows.min()) - 6), int(rows.max()) + 7),
              slice(max(0, int(columns.min()) - 6), int(columns.max()) + 7))  # fmt: skip
    image, target, mask = image[window], target[window], mask[window]
    return {
        "psnr_db": min(100.0, float(psnr(image, target, mask))),
        "ssim": float(ssim(image, target, mask)),
    }


def _true_uv(run: RunResult, truth: Truth, raster: Any, mask: Tensor) -> Float[Tensor, "N 2"]:
    """Where in the true picture the masked texels' skin is."""
    triangle, weights = raster.triangle[mask].long(), raster.barycentrics[mask].double()
    own = (weights[..., None] * run.topology.uv[run.topology.triangle_uv[triangle]]).sum(1)
    if same_layout(run, truth):
        return own
    corners = run.vertices[0].double()[run.topology.triangles[triangle]]
    points, _ = closest_points(
        (weights[..., None] * corners).sum(1), truth.frame(run.frames[0]).mesh
    )
    return interpolate(points, truth.topology.triangle_uv, truth.topology.uv.double())


def same_layout(run: RunResult, truth: Truth) -> bool:
    """Whether textures of run and truth show the same skin at the same UV."""
    return metrics.same_topology(run.topology, truth.topology) and torch.allclose(
        run.topology.uv[run.topology.face_uv], truth.topology.uv[truth.topology.face_uv], atol=1e-5
    )


def _eroded(mask: Bool[Tensor, "H W"], radius: int) -> Bool[Tensor, "H W"]:
    size = 2 * radius + 1
    outside = (~mask).float()[None, None]
    near = torch.nn.functional.max_pool2d(outside, size, stride=1, padding=radius)[0, 0] > 0
    return mask & ~near


def face_triangles(topology: Topology, keep: Tensor | None = None) -> Bool[Tensor, " T"]:
    """Triangles of the face region (of the whole mesh when it names none), all corners kept."""
    inside = torch.ones(topology.vertex_count, dtype=torch.bool)
    if "face" in topology.regions:
        inside = topology.region_mask("face")
    if keep is not None:
        inside = inside & keep
    return inside[topology.triangles].all(1)


def left_out(run: RunResult) -> list[str]:
    """Names of the cameras that the run did not use, as `--holdout` gave them."""
    value = run.config.get("holdout") or []
    names = value.split(",") if isinstance(value, str) else list(value)
    return [str(name).strip() for name in names]


def _tracking_views(run: RunResult) -> Sequence[str] | None:
    assert run.rig is not None
    return [name for name in run.rig.cameras.names if name not in left_out(run)]


def left_out_likeness(run: RunResult, capture: Capture) -> dict[str, dict[str, Any]]:
    """PSNR and SSIM in every left-out view, inside the rendered face, after a 3×4 colour fit.

    Medians over the frames, and a row for each of them. Empty when nothing was left out.
    """
    wanted = [name for name in left_out(run) if name in capture.rig.cameras.names]
    face = face_triangles(run.topology)
    count = len(run.frames)
    chosen = sorted({round(k) for k in np.linspace(0, count - 1, min(count, VIEW_FRAMES))})
    result = {}
    for name in wanted:
        rows = []
        for index in track(chosen, f"looking through {name}"):
            frame = run.frames[index]
            stored = run.texture(frame)
            if stored is not None and frame in capture.frames:
                row = _one_view(run, capture, index, name, stored.read(), face)
                rows += [{"frame": frame} | row] if row else []
        if rows:
            middle = {k: float(torch.tensor([r[k] for r in rows]).median())
                      for k in ("psnr_db", "ssim")}  # fmt: skip
            result[name] = {**middle, "frames": rows}
    return result


def _one_view(
    run: RunResult,
    capture: Capture,
    index: int,
    name: str,
    texture: Float[Tensor, "S S 3"],
    face: Bool[Tensor, " T"],
) -> dict[str, float] | None:
    views = undistorted_views(capture, run.frames[index], [name], VIEW_HEIGHT)
    if not views.images:
        return None
    cameras, photo = views.cameras, views.images[0]
    pose, intrinsics, size = cameras.world_to_camera[0], cameras.intrinsics[0], cameras.size(0)
    vertices = run.vertices[index]
    raster = rasterize(vertices, run.topology.triangles, pose, intrinsics, size, cull=False)
    # pixels on an outline are shared with what lies behind
    mask = _eroded(raster.covered & face[raster.triangle.clamp(min=0).long()], 1)
    if int(mask.sum()) < 100:
        return None
    picture = render_mesh(
        vertices, run.topology, texture, pose, intrinsics, size, shading="texture"
    )
    fitted = affine_color_fit(picture, photo, mask)
    return _scores(fitted, photo, mask)
