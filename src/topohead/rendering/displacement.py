"""Displacement and normal maps: a finer surface written into a coarser mesh's UVs, and read back.

The displaced surface of a mesh is, at every point of its flat triangles, that point plus the map's
height (metres) along the interpolated vertex normal, made unit again: what renderers do. Normal
maps are tangent-space in MikkTSpace's convention: green up (+v), decoded as x T + y B + z N with
the interpolated vertex frame, N and T not made unit again.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from topohead.core import Mesh, Topology
from topohead.geometry.meshes import vertex_normals
from topohead.geometry.tessellation import Tessellation, tessellate
from topohead.rendering.mesh import Raster, interpolate, rasterize_uv
from topohead.rendering.shading import sample_texture
from topohead.rendering.uv import texel_map


def displacement_map(
    fine: Tessellation, heights: Float[Tensor, " N"], size: int
) -> Float[Tensor, "S S"]:
    """Heights (metres) drawn into the UVs, on their own device; zero outside the islands.

    Border values reach 32 texels beyond the islands.
    """
    drawn = _baked(fine.finer, heights[:, None], size)
    return _dilated(drawn, fine.finer)[..., 0]


def normal_map(
    fine: Tessellation,
    topology: Topology,
    vertices: Float[Tensor, "V 3"],
    heights: Float[Tensor, " N"],
    size: int,
) -> Float[Tensor, "S S 3"]:
    """The displaced surface's normals in the coarse mesh's tangent frames, 0.5 + 0.5 n.

    What the tessellation leaves out stays flat, (0.5, 0.5, 1).
    """
    device = vertices.device
    points = fine.displaced(vertices, heights)
    shown = vertex_normals(points, fine.finer.triangles.to(device)).float()
    wanted = _baked(fine.finer, shown, size)
    raster = rasterize_uv(topology.uv.to(device), topology.triangle_uv.to(device), (size, size))
    normals = vertex_normals(vertices, topology.triangles.to(device)).float()
    tangents, side = tangent_frames(topology, vertices)
    corners = torch.arange(3 * len(tangents), device=device).reshape(-1, 3)
    n = interpolate(normals, topology.triangles.to(device), raster)
    t = interpolate(tangents.reshape(-1, 3), corners, raster)
    b = side[raster.triangle.clamp(min=0).long()][..., None] * torch.linalg.cross(n, t)
    local = _in_frame(wanted, t, b, n)
    known = (wanted.square().sum(-1) > 0.25) & (raster.triangle >= 0)
    up = torch.tensor([0.0, 0.0, 1.0], device=device)
    encoded = 0.5 + 0.5 * torch.where(known[..., None], local, up)
    return _dilated(encoded, fine.finer)


def tangent_frames(
    topology: Topology, vertices: Float[Tensor, "V 3"]
) -> tuple[Float[Tensor, "T 3 3"], Float[Tensor, " T"]]:
    """Unit tangents (+u) of every triangle's corners, and the sign of every triangle's bitangent.

    MikkTSpace (Mikkelsen 2008, section 3.3): each triangle's ∂p/∂u laid into the vertex's tangent
    plane, made unit, and summed by the corner's angle over the triangles that share position, UV
    and orientation. The bitangent is sign · N × T.
    """
    device = vertices.device
    triangles, triangle_uv = topology.triangles.to(device), topology.triangle_uv.to(device)
    corners = vertices.double()[triangles]
    uv = topology.uv.to(device).double()[triangle_uv]
    normals = vertex_normals(vertices.double(), triangles)[triangles]
    edge, far = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    (u1, v1), (u2, v2) = (uv[:, 1] - uv[:, 0]).unbind(1), (uv[:, 2] - uv[:, 0]).unbind(1)
    area = u1 * v2 - u2 * v1
    sign = torch.where(area < 0, -1.0, 1.0)
    along = sign[:, None] * (v2[:, None] * edge - v1[:, None] * far)
    flat = along[:, None] - (along[:, None] * normals).sum(-1, keepdim=True) * normals
    weighted = functional.normalize(flat, dim=-1, eps=1e-30) * _angles(corners, normals)[..., None]
    # corners of one vertex, one UV and one orientation share a tangent
    keys = (triangles * len(topology.uv) + triangle_uv) * 2 + (sign > 0).long()[:, None]
    _, group = torch.unique(keys, return_inverse=True)
    total = torch.zeros(int(group.max()) + 1, 3, dtype=torch.float64, device=device)
    total.index_add_(0, group.flatten(), weighted.reshape(-1, 3))
    tangents = functional.normalize(total, dim=-1, eps=1e-30)[group]
    return tangents.float(), sign.float()


def displaced_mesh(
    mesh: Mesh,
    displacement: Float[Tensor, "S S"],
    halvings: int,
    hidden: tuple[str, ...] = (),
) -> Mesh:
    """The mesh in triangles halved so many times, moved by a displacement map."""
    fine = tessellate(mesh.topology, halvings, hidden)
    place = torch.zeros(fine.finer.vertex_count, dtype=torch.long)
    place[fine.finer.faces.flatten()] = fine.finer.face_uv.flatten()
    heights = sample_texture(displacement[..., None], fine.finer.uv[place])[:, 0]
    points = fine.displaced(mesh.vertices.double(), heights.double())
    return Mesh(fine.finer, points.float())


def _angles(
    corners: Float[Tensor, "T 3 3"], normals: Float[Tensor, "T 3 3"]
) -> Float[Tensor, "T 3"]:
    """Angles of triangles at their corners, sides laid into the vertices' tangent planes."""
    ahead, behind = corners.roll(-1, 1) - corners, corners.roll(1, 1) - corners
    ahead = ahead - (ahead * normals).sum(-1, keepdim=True) * normals
    behind = behind - (behind * normals).sum(-1, keepdim=True) * normals
    sine = torch.linalg.cross(ahead, behind).norm(dim=-1)
    return torch.atan2(sine, (ahead * behind).sum(-1))


def _in_frame(
    wanted: Float[Tensor, "S S 3"],
    t: Float[Tensor, "S S 3"],
    b: Float[Tensor, "S S 3"],
    n: Float[Tensor, "S S 3"],
) -> Float[Tensor, "S S 3"]:
    """Unit (x, y, z) with x t + y b + z n along `wanted`: Cramer's rule, the volume's sign kept."""
    x = (wanted * torch.linalg.cross(b, n)).sum(-1)
    y = (wanted * torch.linalg.cross(n, t)).sum(-1)
    z = (wanted * torch.linalg.cross(t, b)).sum(-1)
    turned = (t * torch.linalg.cross(b, n)).sum(-1).sign()
    return functional.normalize(torch.stack([x, y, z], -1) * turned[..., None], dim=-1)


def _baked(topology: Topology, values: Float[Tensor, "V K"], size: int) -> Float[Tensor, "S S K"]:
    device = values.device
    raster: Raster = rasterize_uv(
        topology.uv.to(device), topology.triangle_uv.to(device), (size, size)
    )
    return interpolate(values.float().contiguous(), topology.triangles.to(device), raster)


def _dilated(picture: Float[Tensor, "S S K"], topology: Topology) -> Float[Tensor, "S S K"]:
    """Border values carried beyond the islands, as `TexelMap.dilate` does."""
    targets, sources = texel_map(topology, len(picture)).fringe
    flat = picture.reshape(-1, picture.shape[-1])
    flat[torch.from_numpy(targets).to(flat.device)] = flat[
        torch.from_numpy(sources).to(flat.device)
    ]
    return picture
