"""Projection and its inverses, exact image turns, triangulation.

Pixel coordinates are continuous: the first pixel covers [0, 1]² and its centre is (0.5, 0.5).
Functions of `Cameras` are pinhole; those of a `Rig` pass through its lenses (`geometry.lenses`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Cameras, Distortion, Rig
from topohead.geometry.lenses import distort, fold_radius, undistort

__all__ = [
    "convergence",
    "distort",
    "look_at",
    "pixel_rays",
    "project",
    "project_through_lens",
    "to_camera",
    "to_normalised",
    "to_pixels",
    "triangulate",
    "turned",
    "undistort",
    "undistorted_pixels",
    "unproject",
]


def project(
    cameras: Cameras, points: Float[Tensor, "N 3"]
) -> tuple[Float[Tensor, "C N 2"], Float[Tensor, "C N"]]:
    """Pixels and depths (metres along the optical axis) of world points in every camera.

    Differentiable; type and device follow the points. Pixels of points with depth ≤ 0 mean nothing.
    """
    local = to_camera(cameras, points)
    depth = local[..., 2]
    return to_pixels(local[..., :2] / depth[..., None], cameras.intrinsics), depth


def to_camera(cameras: Cameras, points: Float[Tensor, "N 3"]) -> Float[Tensor, "C N 3"]:
    """World points in the frame of every camera."""
    pose = cameras.world_to_camera.to(points)
    return points @ pose[:, :3, :3].transpose(1, 2) + pose[:, None, :3, 3]


def to_pixels(
    normalised: Float[Tensor, "C N 2"], intrinsics: Float[Tensor, "C 3 3"]
) -> Float[Tensor, "C N 2"]:
    """Points of the normalised image plane (z = 1) in pixels, skew included."""
    matrix = intrinsics.to(normalised)
    return normalised @ matrix[:, :2, :2].transpose(1, 2) + matrix[:, None, :2, 2]


def to_normalised(
    pixels: Float[Tensor, "C N 2"], intrinsics: Float[Tensor, "C 3 3"]
) -> Float[Tensor, "C N 2"]:
    """Pixels as points of the normalised image plane; the inverse of `to_pixels`."""
    matrix = intrinsics.to(pixels)
    offset = pixels - matrix[:, None, :2, 2]
    return torch.linalg.solve(matrix[:, None, :2, :2], offset[..., None])[..., 0]


def unproject(
    cameras: Cameras, pixels: Float[Tensor, "C N 2"], depth: Float[Tensor, "C N"]
) -> Float[Tensor, "C N 3"]:
    """World points seen at these pixels and depths (metres along the optical axis)."""
    plane = to_normalised(pixels, cameras.intrinsics)
    local = torch.cat([plane, torch.ones_like(plane[..., :1])], -1) * depth[..., None]
    pose = cameras.world_to_camera.to(pixels)
    return (local - pose[:, None, :3, 3]) @ pose[:, :3, :3]


def pixel_rays(
    cameras: Cameras, pixels: Float[Tensor, "C N 2"]
) -> tuple[Float[Tensor, "C 3"], Float[Tensor, "C N 3"]]:
    """Optical centres and unit directions in the world of the rays through pixels."""
    plane = to_normalised(pixels, cameras.intrinsics)
    local = torch.cat([plane, torch.ones_like(plane[..., :1])], -1)
    direction = local @ cameras.world_to_camera[:, :3, :3].to(pixels)
    return cameras.centers.to(pixels), direction / direction.norm(dim=-1, keepdim=True)


def look_at(
    eye: Float[Tensor, "3"], target: Float[Tensor, "3"], up: Float[Tensor, "3"]
) -> Float[Tensor, "4 4"]:
    """world_to_camera of an upright camera at `eye` that looks at `target`.

    Fails when the line of sight is parallel to `up`.
    """
    forward = target - eye
    right = torch.linalg.cross(forward, up)
    if right.norm() <= 1e-9 * forward.norm() * up.norm():
        raise ValueError("the line of sight is parallel to `up`; choose another `up`")
    forward, right = forward / forward.norm(), right / right.norm()
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
    pose = torch.eye(4, dtype=eye.dtype, device=eye.device)
    pose[:3, :3] = rotation
    pose[:3, 3] = -rotation @ eye
    return pose


def convergence(cameras: Cameras) -> tuple[Float[Tensor, "3"], Float[Tensor, " C"]]:
    """The point nearest to all optical axes (least squares), and its depth in every camera.

    On a head rig this is about the head. Parallel axes have none: the depths are then NaN.
    """
    axes = cameras.world_to_camera[:, 2, :3]
    across = torch.eye(3).to(axes) - axes[:, :, None] * axes[:, None, :]
    normal = across.sum(0)
    if torch.linalg.eigvalsh(normal)[0] < 1e-6 * len(cameras):
        return normal.new_full((3,), torch.nan), normal.new_full((len(cameras),), torch.nan)
    point = torch.linalg.solve(normal, (across @ cameras.centers[..., None])[..., 0].sum(0))
    return point, ((point - cameras.centers) * axes).sum(-1)


def project_through_lens(
    rig: Rig, points: Float[Tensor, "N 3"]
) -> tuple[Float[Tensor, "C N 2"], Float[Tensor, "C N"]]:
    """Pixels of the pictures as stored, and depths, of world points: `project` plus each lens.

    Points beyond a lens's fold get NaN pixels: the camera does not see them.
    """
    local = to_camera(rig.cameras, points)
    depth = local[..., 2]
    plane = local[..., :2] / depth[..., None]
    bent = []
    for view, lens in zip(plane, rig.distortion, strict=True):
        moved = distort(view, lens)
        if not lens.is_identity:
            moved = torch.where(
                view.norm(dim=-1, keepdim=True) > fold_radius(lens), torch.nan, moved
            )
        bent.append(moved)
    return to_pixels(torch.stack(bent), rig.cameras.intrinsics), depth


def undistorted_pixels(
    rig: Rig, pixels: Float[Tensor, "C N 2"], cameras: Cameras | None = None
) -> Float[Tensor, "C N 2"]:
    """Stored pixels moved to where pinhole cameras see them.

    `cameras` are the pinhole cameras, by default the rig's own; their intrinsics and sizes may
    differ (a resized, unskewed picture), their poses and order must be the rig's.
    """
    target = rig.cameras if cameras is None else cameras
    plane = to_normalised(pixels, rig.cameras.intrinsics)
    straight = [undistort(view, lens) for view, lens in zip(plane, rig.distortion, strict=True)]
    return to_pixels(torch.stack(straight), target.intrinsics)


# --- exact turns of the image ------------------------------------------------------------------


@overload
def turned(cameras_or_rig: Cameras, quarter_turns: int | Sequence[int]) -> Cameras: ...
@overload
def turned(cameras_or_rig: Rig, quarter_turns: int | Sequence[int]) -> Rig: ...
def turned(cameras_or_rig: Cameras | Rig, quarter_turns: int | Sequence[int]) -> Cameras | Rig:
    """The cameras of images turned by quarter turns, anticlockwise positive (`torch.rot90`).

    One turn moves pixel (u, v) to (v, W − u): sides and focal lengths swap, the principal point
    becomes (cy, W − cx), the camera rolls, and the lens's tangential part rolls with it. Exact:
    a world point lands on the same spot of the turned picture.
    """
    rig = cameras_or_rig
    if isinstance(rig, Cameras):
        rig = Rig(rig, (Distortion(),) * len(rig))
    count = len(rig.cameras)
    turns = [quarter_turns] * count if isinstance(quarter_turns, int) else list(quarter_turns)
    if len(turns) != count:
        raise ValueError(f"{count} cameras but {len(turns)} turns")
    pose = rig.cameras.world_to_camera.clone()
    intrinsics, sizes = rig.cameras.intrinsics.clone(), rig.cameras.sizes.clone()
    lenses = list(rig.distortion)
    for index, number in enumerate(turns):
        for _ in range(number % 4):
            intrinsics[index], roll = _turn_intrinsics(intrinsics[index], sizes[index, 0])
            pose[index, :3] = roll @ pose[index, :3]
            sizes[index] = sizes[index].flip(0)
            lenses[index] = _roll_lens(lenses[index], roll)
    cameras = Cameras(rig.cameras.names, pose, intrinsics, sizes)
    return cameras if isinstance(cameras_or_rig, Cameras) else Rig(cameras, tuple(lenses))


def _turn_intrinsics(
    intrinsics: Float[Tensor, "3 3"], width: Tensor
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3 3"]]:
    """Upper-triangular intrinsics after one anticlockwise turn, and the roll of the camera."""
    (fx, skew, cx), (_, fy, cy) = intrinsics[:2].tolist()
    # In the rolled frame (x', y') = (y, −x) the image matrix is [fy 0; −skew fx]. Without skew that
    # is triangular already; with it, a small further roll about the axis makes it so (RQ).
    norm = (fx**2 + skew**2) ** 0.5
    cosine, sine = fx / norm, -skew / norm
    turned_intrinsics = intrinsics.clone()
    turned_intrinsics[:2] = intrinsics.new_tensor(
        [[fy * cosine, fy * sine, cy], [0.0, norm, float(width) - cx]]
    )
    quarter = intrinsics.new_tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    rest = intrinsics.new_tensor([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    return turned_intrinsics, rest @ quarter


def _roll_lens(lens: Distortion, roll: Float[Tensor, "3 3"]) -> Distortion:
    """The lens seen from a camera rolled about its axis: (p2, p1) turns like a vector."""
    at = {"brown": 4, "rational": 2}.get(lens.model)
    if at is None:
        return lens
    coefficients = list(lens.coefficients)
    p1, p2 = coefficients[at : at + 2]
    x, y = (roll[:2, :2] @ roll.new_tensor([p2, p1])).tolist()
    coefficients[at : at + 2] = [y, x]
    return replace(lens, coefficients=tuple(coefficients))


# --- triangulation -----------------------------------------------------------------------------


def triangulate(
    pixels: Float[Tensor, "C N 2"],
    cameras: Cameras,
    weights: Float[Tensor, "C N"] | None = None,
    polish: int = 3,
) -> Float[Tensor, "N 3"]:
    """World points that project nearest to the observed pinhole pixels.

    Linear start (DLT on normalised coordinates), then `polish` Gauss–Newton steps on the weighted
    squared pixel error. Weight zero marks a missing view, whose pixels may be NaN. Points with
    fewer than two views come back NaN.
    """
    weights = torch.ones_like(pixels[..., 0]) if weights is None else weights.to(pixels)
    seen = weights > 0
    work = torch.where(seen[..., None], pixels, 0).double()
    weight = torch.where(seen, weights, 0).double()
    # Centred at the rig, so that a far world origin costs no digits.
    origin = cameras.centers.double().mean(0)
    pose = cameras.world_to_camera.double().clone()
    pose[:, :3, 3] += pose[:, :3, :3] @ origin
    plane = to_normalised(work, cameras.intrinsics.double())
    # x (r₃·X + t₃) = r₁·X + t₁, and the same for y: two rows a view.
    rows = plane[..., None] * pose[:, None, None, 2, :] - pose[:, None, :2, :]
    rows = rows * weight.sqrt()[..., None, None]
    points = _least_squares(rows[..., :3], -rows[..., 3])
    points[seen.sum(0) < 2] = torch.nan
    local = replace(cameras, world_to_camera=pose)
    for _ in range(polish):
        points = points + _pixel_step(local, points, work, weight)
    return (points + origin).to(pixels)


def _pixel_step(
    cameras: Cameras,
    points: Float[Tensor, "N 3"],
    pixels: Float[Tensor, "C N 2"],
    weight: Float[Tensor, "C N"],
) -> Float[Tensor, "N 3"]:
    """One Gauss–Newton step on the weighted squared reprojection error."""
    local = to_camera(cameras, points)
    x, y, z = local.unbind(-1)
    zero = torch.zeros_like(z)
    plane = torch.stack(
        [torch.stack([1 / z, zero, -x / z**2], -1), torch.stack([zero, 1 / z, -y / z**2], -1)], -2
    )
    image = cameras.intrinsics.to(points)[:, None, :2, :2]
    jacobian = image @ plane @ cameras.world_to_camera.to(points)[:, None, :3, :3]
    residual = pixels - to_pixels(local[..., :2] / z[..., None], cameras.intrinsics)
    scale = weight.sqrt()[..., None]
    return _least_squares(jacobian * scale[..., None], residual * scale)


def _least_squares(
    rows: Float[Tensor, "C N R 3"], right: Float[Tensor, "C N R"]
) -> Float[Tensor, "N 3"]:
    """Per point: the least-squares answer of its rows over all views."""
    matrix = rows.permute(1, 0, 2, 3).flatten(1, 2)
    vector = right.permute(1, 0, 2).flatten(1, 2)
    usable = torch.isfinite(matrix).all(-1).all(-1) & torch.isfinite(vector).all(-1)
    answer = matrix.new_full((len(matrix), 3), torch.nan)
    if usable.any():
        q, r = torch.linalg.qr(matrix[usable])
        projected = (q.transpose(1, 2) @ vector[usable][..., None])[..., 0]
        singular = r.diagonal(dim1=1, dim2=2).abs().amin(-1) < 1e-14
        r[singular] = torch.eye(3).to(r) * torch.nan
        answer[usable] = torch.linalg.solve_triangular(r, projected[..., None], upper=True)[..., 0]
    return answer
