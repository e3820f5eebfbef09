"""A picture by which a person sees whether a head lies on its scan."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from topohead.core import Mesh, Topology
from topohead.core.scans import Scan
from topohead.geometry.skinning import FaceRig
from topohead.io.assets import reference_head
from topohead.rendering.mesh import rasterize
from topohead.rendering.shading import linear_to_srgb, portrait_camera, render_mesh, srgb_to_linear
from topohead.workflows.report.pictures import BACKDROP, WIRE, inked, visible_pixels

PANEL = (420, 520)
"""Width and height of a panel."""

YAWS = (0.0, 0.785)
"""From the front, and halfway to the person's left."""

INK = 0.4
INSIDE = 0.35
"""What is left of the colours of a scan's inside: they would pass for skin between the lips."""
CLOUD_GREY = 0.62


def proof(
    scan: Scan,
    picture: Float[Tensor, "P1 P2 3"] | None,
    mesh: Mesh,
    rig: FaceRig,
    texture: Float[Tensor, "S S 3"] | None,
    panel: tuple[int, int] = PANEL,
) -> Float[Tensor, "H2 W2 3"]:
    """Two rows, front and 45°: the scan, the head's wires on it, its shape, its texture; srgb.

    `scan` and `mesh` lie in one frame, metres, that `rig.upright` turns upright. The wires are the
    control mesh's edges.
    """
    rows = []
    for yaw in YAWS:
        upright = rig.upright.double()
        placed = mesh.vertices.double() @ upright[:3, :3].T + upright[:3, 3]
        pose, intrinsics = portrait_camera(placed, panel, yaw=yaw, margin=1.12)
        pose = pose @ upright
        view = (pose, intrinsics, panel)
        shown = _scan_picture(scan, picture, *view)
        tiles = [shown, _wired(shown, mesh, pose, intrinsics)]
        tiles.append(render_mesh(mesh.vertices, mesh.topology, None, *view, background=BACKDROP))
        if texture is not None:
            tiles.append(
                render_mesh(
                    mesh.vertices, mesh.topology, texture, *view,
                    shading="texture", background=BACKDROP,
                )
            )  # fmt: skip
        rows.append(torch.cat(tiles, 1))
    return torch.cat(rows, 0)


def _scan_picture(
    scan: Scan,
    picture: Float[Tensor, "P1 P2 3"] | None,
    pose: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    size: tuple[int, int],
) -> Float[Tensor, "H W 3"]:
    if not len(scan.triangles):
        return _cloud_picture(scan, pose, intrinsics, size)
    faces = torch.cat([scan.triangles, scan.triangles[:, 2:]], 1)
    textured = picture is not None and scan.uv is not None and scan.triangle_uv is not None
    uv, face_uv = torch.zeros(0, 2), torch.zeros_like(faces)
    if textured:
        assert scan.uv is not None and scan.triangle_uv is not None
        uv = scan.uv
        face_uv = torch.cat([scan.triangle_uv, scan.triangle_uv[:, 2:]], 1)
    topology = Topology(len(scan.points), faces, uv, face_uv, name="scan")
    kind = "texture" if textured else "clay" if scan.colors is None else "colors"
    appearance = {"texture": picture, "clay": None, "colors": scan.colors}[kind]
    shown = render_mesh(
        scan.points, topology, appearance, pose, intrinsics, size, shading=kind, background=BACKDROP
    )
    behind = _from_inside(scan, pose, intrinsics, size)
    return torch.where(behind[..., None], INSIDE * shown, shown)


def _from_inside(
    scan: Scan, pose: Float[Tensor, "4 4"], intrinsics: Float[Tensor, "3 3"], size: tuple[int, int]
) -> Bool[Tensor, "H W"]:
    """Where a scan is seen from its inside: through parted lips, with no mouth behind them."""
    local = scan.points.double() @ pose[:3, :3].T.double() + pose[:3, 3].double()
    raster = rasterize(scan.points, scan.triangles, pose, intrinsics, size, cull=False)
    first, second, third = local[scan.triangles[raster.triangle.clamp(min=0)]].unbind(2)
    away = torch.linalg.cross(second - first, third - first, dim=-1)
    return raster.covered & ((away * first).sum(-1) > 0)


def _cloud_picture(
    scan: Scan,
    pose: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    size: tuple[int, int],
) -> Float[Tensor, "H W 3"]:
    """Points as small squares, the nearer in front; lit by their normals where they have some."""
    width, height = size
    local = (scan.points.double() @ pose[:3, :3].T + pose[:3, 3]).numpy()
    pixels = local @ intrinsics.numpy().T
    pixels = pixels[:, :2] / pixels[:, 2:]
    colors = torch.full((len(local), 3), CLOUD_GREY) if scan.colors is None else scan.colors
    if scan.normals is not None:
        facing = -(scan.normals.double() @ pose[2, :3])[:, None].clamp(0, 1)
        colors = linear_to_srgb(srgb_to_linear(colors) * (0.25 + 0.75 * facing.float()))
    shown = np.empty((height, width, 3), np.float32)
    shown[:] = BACKDROP
    # as large as covers a head with as many points as there are
    half = max(0, round((width * height / max(len(local), 1)) ** 0.5 / 2))
    order = np.argsort(-local[:, 2], kind="stable")
    column, row = (np.floor(pixels[order, k]).astype(int) for k in range(2))
    values = colors.numpy()[order]
    for down in range(-half, half + 1):
        for right in range(-half, half + 1):
            x, y = column + right, row + down
            inside = (x >= 0) & (y >= 0) & (x < width) & (y < height) & (local[order, 2] > 0)
            shown[y[inside], x[inside]] = values[inside]
    return torch.from_numpy(shown)


def _wired(
    shown: Float[Tensor, "H W 3"],
    mesh: Mesh,
    pose: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
) -> Float[Tensor, "H W 3"]:
    """The visible edges of the head over the scan, hidden lines removed."""
    height, width = shown.shape[:2]
    topology = mesh.topology
    raster = rasterize(mesh.vertices, topology.triangles, pose, intrinsics, (width, height))
    pixels, visible = visible_pixels(mesh.vertices, raster.depth, pose, intrinsics)
    # a step of subdivision keeps the numbers of old vertices: their edges are halves of old ones
    old = topology.edges[:, 0] < reference_head(0).topology.vertex_count
    edges = topology.edges[old & visible[topology.edges].all(1)]
    return inked(shown, list(pixels[edges]), WIRE, INK)
