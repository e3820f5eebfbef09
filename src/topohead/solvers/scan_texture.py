"""What a scan shows of colour and relief, carried into the texture of a head that lies on it.

Every texel looks for the scan's nearest surface that faces the same way. Where there is none close
by (holes, hair that the fit left out, the inside of the mouth) a texel is unseen: colours are
completed as those of photographs are, heights fade to zero.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from scipy.spatial import KDTree
from torch import Tensor

from topohead.core import Mesh
from topohead.core.scans import Scan
from topohead.geometry.meshes import face_normals, triangle_areas, vertex_normals
from topohead.rendering.shading import sample_texture
from topohead.rendering.uv import TexelMap, bake, texel_map
from topohead.solvers.kernels.nearest_faces import nearest_facing
from topohead.solvers.sightlines import texel_size
from topohead.solvers.unseen import fill_unseen

NEAR, FAR = 0.002, 0.004
"""Metres from the scan up to which a texel is seen, and from which on it is not at all."""

SIDEWAYS = 0.0015
"""Metres along the surface: beyond a border or over a hole the nearest point lies to the side."""

AGREEMENT = 0.4
"""Least cosine between a texel's normal and that of what it takes."""

CANDIDATES = 8
FINEST_QUERY = 512
"""Map size up to which every texel looks for candidates of its own."""

SAMPLES = 400_000
"""Points on the scan's triangles by which the nearest ones are found, beside their middles."""

HIDDEN = ("eyes", "mouth_interior", "mouth_socket", "eye_sockets", "tongue", "teeth")
"""Regions that take no relief: the fit does not lie on the scan there."""


@dataclass(frozen=True)
class Looked:
    """What `texels` (numbers in the flattened map) found: triangle of the scan, or −1, and where.

    `seen` in [0, 1]; `heights` are metres from the head's surface to the scan along its normal.
    """

    texels: Int[np.ndarray, " N"]
    triangle: Int[np.ndarray, " N"]
    weights: Float[np.ndarray, "N 3"]
    seen: Float32[np.ndarray, " N"]
    heights: Float32[np.ndarray, " N"]


def look_up(scan: Scan, mesh: Mesh, size: int, seed: int = 0) -> Looked:
    """What every texel of a head's map sees of a scan of triangles; both in metres."""
    texels = texel_map(mesh.topology, size)
    where = np.flatnonzero(texels.inside)
    places, normals = _surface(mesh, size, where)
    corners = scan.points.double().numpy()[scan.triangles.numpy()]
    facing = face_normals(scan.points.double(), scan.triangles).numpy()
    points, owners = _samples(scan, seed)
    asked, block = _blocks(where, size)
    count = min(CANDIDATES, len(owners))
    reach = 1.3 * FAR  # what lies farther is unseen, and far queries cost a hundred near ones
    _, near = KDTree(points).query(places[asked], count, distance_upper_bound=reach, workers=-1)
    owners = np.append(owners, -1)  # nothing within reach
    candidates = owners[near].reshape(len(asked), -1)[block]
    triangle, weights, distance = nearest_facing(
        places, normals, candidates, corners, facing, AGREEMENT
    )
    found = triangle >= 0
    safe = np.where(found, triangle, 0)
    offset = np.einsum("nk,nkx->nx", weights, corners[safe]) - places
    along = (offset * normals).sum(1)
    aside = np.linalg.norm(offset - along[:, None] * normals, axis=1)
    # a foot inside its triangle lies along the triangle's normal, not to the side of it
    inner = weights.min(1) > 1e-6
    near_enough = np.clip((FAR - distance) / (FAR - NEAR), 0, 1)
    beside = np.where(inner, 1.0, np.clip(2 - aside / SIDEWAYS, 0, 1))
    seen = np.where(found, near_enough * beside, 0).astype(np.float32)
    toward = (normals * facing[safe]).sum(1)
    heights = (offset * facing[safe]).sum(1) / np.maximum(toward, AGREEMENT)
    return Looked(where, triangle, weights, seen, np.where(found, heights, 0).astype(np.float32))


def bake_color(
    scan: Scan,
    picture: Float[Tensor, "H W 3"] | None,
    mesh: Mesh,
    size: int,
    looked: Looked | None = None,
) -> tuple[Float[Tensor, "S S 3"], float]:
    """The head's texture, srgb, from the scan's picture or point colours; and the share seen.

    `picture` goes with the scan's UVs. What the scan does not show takes the colours of the other
    side of the head, then of what is around it. A cloud of points needs no `looked`.
    """
    texels = texel_map(mesh.topology, size)
    color = np.zeros((size, size, 3), np.float32)
    seen = np.zeros((size, size), np.float32)
    if len(scan.triangles):
        looked = look_up(scan, mesh, size) if looked is None else looked
        told = looked.seen > 0
        color.reshape(-1, 3)[looked.texels[told]] = _colors_at(
            scan, picture, looked.triangle[told], looked.weights[told],
            texel_size(mesh.topology, mesh.vertices, size),
        )  # fmt: skip
        seen.reshape(-1)[looked.texels] = looked.seen
    else:
        _cloud_colors(scan, mesh, texels, color, seen)
    share = float((seen[texels.inside] > 0.5).mean()) if texels.inside.any() else 0.0
    fill_unseen(color, seen, texels)
    texels.dilate(color)
    return torch.from_numpy(color).clamp(0, 1), share


def is_finer(scan: Scan, mesh: Mesh) -> bool:
    """Whether the scan's triangles are small enough to hold relief that the head's do not."""
    if not len(scan.triangles):
        return False
    of_scan = triangle_areas(scan.points.double(), scan.triangles)
    of_head = triangle_areas(mesh.vertices.double(), mesh.topology.triangles)
    return float(of_scan.median()) < 0.5 * float(of_head.median())


def bake_heights(mesh: Mesh, size: int, looked: Looked) -> Float[Tensor, "S S"]:
    """Displacement map, metres along the head's normals; zero where the scan shows nothing."""
    texels = texel_map(mesh.topology, size)
    hidden = [name for name in HIDDEN if name in mesh.topology.regions]
    kept = 1 - mesh.topology.region_mask(*hidden).float()[:, None]
    shown = bake(kept, mesh.topology, size, dilation=False)[..., 0].numpy()
    heights = np.zeros((size, size, 1), np.float32)
    flat = heights.reshape(-1)
    flat[looked.texels] = looked.heights * looked.seen
    heights[..., 0] *= shown
    texels.dilate(heights)
    return torch.from_numpy(heights[..., 0])


def _surface(
    mesh: Mesh, size: int, where: Int[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, "N 3"]]:
    """Places and unit normals of the head's surface at texels."""
    normals = vertex_normals(mesh.vertices.double(), mesh.topology.triangles).float()
    middle = mesh.vertices.mean(0)  # float32 holds a few decimetres to a hair's breadth
    values = torch.cat([mesh.vertices - middle, normals], 1)
    baked = bake(values, mesh.topology, size, dilation=False).reshape(-1, 6)[where].double()
    places = baked[:, :3] + middle.double()
    return places.numpy(), torch.nn.functional.normalize(baked[:, 3:], dim=1).numpy()


def _blocks(
    where: Int[np.ndarray, " N"], size: int
) -> tuple[Int[np.ndarray, " M"], Int[np.ndarray, " N"]]:
    """Texels of which one asks for its neighbours' candidates too, and whom each one asks.

    Texels of large maps lie closer together than samples of the scan do.
    """
    step = max(1, size // FINEST_QUERY)
    row, column = np.divmod(where, size)
    key = row // step * size + column // step
    _, asked, block = np.unique(key, return_index=True, return_inverse=True)
    return asked, block


def _samples(scan: Scan, seed: int) -> tuple[Float[np.ndarray, "M 3"], Int[np.ndarray, " M"]]:
    """Middles of all triangles and points spread by area over them, and whose they are."""
    random = np.random.default_rng(seed)
    area = triangle_areas(scan.points.double(), scan.triangles).numpy()
    corners = scan.points.double().numpy()[scan.triangles.numpy()]
    total = np.cumsum(area)
    shares = (np.arange(SAMPLES) + random.random(SAMPLES)) / SAMPLES * total[-1]
    owners = np.minimum(np.searchsorted(total, shares), len(area) - 1)
    u, v = random.random((2, SAMPLES, 1))
    over = u + v > 1
    u, v = np.where(over, 1 - u, u), np.where(over, 1 - v, v)
    a, b, c = (corners[owners, k] for k in range(3))
    points = np.concatenate([corners.mean(1), a + u * (b - a) + v * (c - a)])
    return points, np.concatenate([np.arange(len(area)), owners])


def _colors_at(
    scan: Scan,
    picture: Float[Tensor, "H W 3"] | None,
    triangle: Int[np.ndarray, " N"],
    weights: Float[np.ndarray, "N 3"],
    texel: float,
) -> Float32[np.ndarray, "N 3"]:
    """The scan's colours at places of its surface, no finer than texels of this side in metres."""
    if picture is not None and scan.uv is not None and scan.triangle_uv is not None:
        rows = scan.triangle_uv.numpy()[triangle]
        uv = np.einsum("nk,nkx->nx", weights, scan.uv.double().numpy()[rows])
        # some programs number tiles from 1 or let charts wrap around
        wrapped = torch.from_numpy(np.where((uv < 0) | (uv > 1), uv % 1, uv)).float()
        return sample_texture(_shrunk(picture, scan, texel), wrapped).numpy()
    assert scan.colors is not None, "a scan with colours"
    rows = scan.triangles.numpy()[triangle]
    told = np.einsum("nk,nkx->nx", weights, scan.colors.double().numpy()[rows])
    return told.astype(np.float32)


def _shrunk(picture: Float[Tensor, "H W 3"], scan: Scan, texel: float) -> Float[Tensor, "h w 3"]:
    """The picture averaged over areas until its pixels are as large as the wanted texels."""
    assert scan.uv is not None and scan.triangle_uv is not None
    area = float(triangle_areas(scan.points.double(), scan.triangles).sum())
    uv = scan.uv.double()[scan.triangle_uv]
    first, second = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    taken = float((first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]).abs().sum() / 2)
    height, width = picture.shape[:2]
    pixel = (area / max(taken * height * width, 1e-12)) ** 0.5
    factor = pixel / texel
    if factor > 0.75:
        return picture
    smaller = (max(1, round(width * factor)), max(1, round(height * factor)))
    return torch.from_numpy(cv2.resize(picture.numpy(), smaller, interpolation=cv2.INTER_AREA))


def _cloud_colors(
    scan: Scan,
    mesh: Mesh,
    texels: TexelMap,
    color: Float32[np.ndarray, "S S 3"],
    seen: Float32[np.ndarray, "S S"],
) -> None:
    """Colours of the points nearest to each texel, the nearer the more, into `color` and `seen`."""
    assert scan.colors is not None, "a cloud with colours"
    where = np.flatnonzero(texels.inside)
    places, _ = _surface(mesh, texels.size, where)
    tree = KDTree(scan.points.double().numpy())
    distance, near = tree.query(places, 3, workers=-1)
    share = 1 / (distance + 1e-5)
    share /= share.sum(1, keepdims=True)
    told: Bool[np.ndarray, " N"] = distance[:, 0] < FAR
    mixed = np.einsum("nk,nkx->nx", share, scan.colors.double().numpy()[near])
    color.reshape(-1, 3)[where[told]] = mixed[told]
    seen.reshape(-1)[where] = np.clip((FAR - distance[:, 0]) / (FAR - NEAR), 0, 1)
