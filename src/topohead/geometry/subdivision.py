"""Catmull–Clark subdivision of quad and mixed meshes, with all that a topology carries."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core import SurfacePoints, Topology


def catmull_clark(topology: Topology) -> tuple[Topology, Float[Tensor, "V1 V0"]]:
    """The topology after one step, and the sparse float32 matrix that maps vertices to it.

    Catmull and Clark 1978; open edges and edges with more than two faces are creases. New vertices:
    the old ones (same numbers), then one for each of `topology.edges`, then one for each face.
    UVs are split linearly in their own connectivity, so seams stay where they are. A new vertex
    belongs to a region when all its parents do. Landmarks keep their place within their face.
    """
    split = _split(topology.faces, topology.is_quad, topology.vertex_count)
    uv, face_uv = _split_uv(topology)
    finer = Topology(
        vertex_count=topology.vertex_count + len(split.edges) + len(topology.faces),
        faces=split.faces,
        uv=uv,
        face_uv=face_uv,
        regions={name: _region(topology, split, name) for name in topology.regions},
        landmarks={
            name: _landmarks(topology, points) for name, points in topology.landmarks.items()
        },
        mirror=_mirror(topology, split),
        name=topology.name,
    )
    return finer, _matrix(topology, split)


def refine(matrix: Float[Tensor, "V1 V0"], values: Float[Tensor, "*B V0 K"]) -> Tensor:
    """Vertices, or a whole basis of deltas, carried to the finer level [*B V1 K]."""
    flat = values.reshape(-1, *values.shape[-2:])
    stacked = flat.permute(1, 0, 2).reshape(values.shape[-2], -1)
    finer = (matrix.to(values.dtype) @ stacked).reshape(matrix.shape[0], len(flat), -1)
    return finer.permute(1, 0, 2).reshape(*values.shape[:-2], matrix.shape[0], values.shape[-1])


@dataclass(frozen=True)
class Parents:
    """Vertices of the finer level as sums over coarse ones, rows padded with weights of zero.

    The same as `catmull_clark`'s matrix, for some of its rows at a time and on any device.
    """

    index: Int[Tensor, "V1 P"]
    weight: Float[Tensor, "V1 P"]

    @staticmethod
    def of(matrix: Float[Tensor, "V1 V0"]) -> "Parents":
        row, column = matrix.indices()
        count = torch.bincount(row, minlength=matrix.shape[0])
        place = torch.arange(len(row)) - (count.cumsum(0) - count)[row]
        index = torch.zeros(matrix.shape[0], int(count.max()), dtype=torch.long)
        weight = torch.zeros(index.shape)
        index[row, place], weight[row, place] = column, matrix.values()
        return Parents(index, weight)

    def __getitem__(self, rows: Int[Tensor, " N"]) -> "Parents":
        return Parents(self.index[rows], self.weight[rows])

    def to(self, device: torch.device | str) -> "Parents":
        return Parents(self.index.to(device), self.weight.to(device))

    def places(self, vertices: Float[Tensor, "B V0 3"]) -> Float[Tensor, "B V1 3"]:
        """The finer level's vertices."""
        return (vertices[:, self.index] * self.weight[..., None]).sum(2)


@dataclass(frozen=True)
class _Split:
    edges: Int[Tensor, "E 2"]
    corner_edge: Int[Tensor, "F 4"]  # edge from corner k to corner k + 1; -1 where they coincide
    faces: Int[Tensor, "F1 4"]


def _split(faces: Int[Tensor, "F 4"], quad: Bool[Tensor, " F"], count: int) -> _Split:
    """Every face cut into one quad a corner: (corner, next edge, centre, previous edge)."""
    pairs = torch.stack([faces, faces.roll(-1, 1)], -1)
    real = torch.stack([quad.new_ones(len(faces))] * 2 + [quad, quad.new_ones(len(faces))], 1)
    edges, index = torch.unique(pairs[real].sort(1).values, dim=0, return_inverse=True)
    corner_edge = torch.full(faces.shape, -1)
    corner_edge[real] = index
    following = corner_edge.clone()
    # Corner 2 of a triangle is followed by the edge stored at 3 (from the repeated corner to 0).
    following[:, 2] = torch.where(quad, corner_edge[:, 2], corner_edge[:, 3])
    previous = corner_edge.roll(1, 1)
    centre = (count + len(edges) + torch.arange(len(faces)))[:, None].expand(-1, 4)
    cut = torch.stack([faces, count + following, centre, count + previous], -1)
    keep = torch.stack([quad.new_ones(len(faces))] * 3 + [quad], 1)
    return _Split(edges, corner_edge, cut[keep])


def _split_uv(topology: Topology) -> tuple[Float[Tensor, "U1 2"], Int[Tensor, "F1 4"]]:
    """Texture coordinates halved in their own connectivity."""
    uv, quad = topology.uv, topology.is_quad
    if not len(uv):
        return uv, torch.zeros(int(torch.where(quad, 4, 3).sum()), 4, dtype=torch.long)
    split = _split(topology.face_uv, quad, len(uv))
    corners = uv[topology.face_uv]
    centre = torch.where(quad[:, None], corners.mean(1), corners[:, :3].mean(1))
    return torch.cat([uv, uv[split.edges].mean(1), centre]), split.faces


def _region(topology: Topology, split: _Split, name: str) -> Int[Tensor, " N"]:
    inside = topology.region_mask(name)
    both = inside[split.edges].all(1)
    whole = inside[topology.faces].all(1)
    return torch.cat([inside, both, whole]).nonzero()[:, 0]


def _matrix(topology: Topology, split: _Split) -> Float[Tensor, "V1 V0"]:
    """Assembled as in the paper: F face points, E edge points, V moved vertices; float64 inside."""
    from scipy.sparse import coo_array, diags_array, vstack  # noqa: PLC0415

    count, faces = topology.vertex_count, topology.faces.numpy()
    edges, corner_edge = split.edges.numpy(), split.corner_edge.numpy()
    face_row, corner = np.nonzero(_real_corners(faces))
    corners = faces[face_row, corner]
    size = np.bincount(face_row, minlength=len(faces))

    def sparse(value, row, column, shape):
        return coo_array((value, (row, column)), shape=shape).tocsr()

    face_points = sparse(1 / size[face_row], face_row, corners, (len(faces), count))
    edge_row = np.repeat(np.arange(len(edges)), 2)
    midpoints = sparse(
        np.full(len(edge_row), 0.5), edge_row, edges.reshape(-1), (len(edges), count)
    )
    at_face, at_corner = np.nonzero(corner_edge >= 0)
    edge_of = corner_edge[at_face, at_corner]
    edge_faces = sparse(np.ones(len(edge_of)), edge_of, at_face, (len(edges), len(faces)))
    smooth = np.bincount(edge_of, minlength=len(edges)) == 2
    blend = diags_array(np.where(smooth, 0.5, 1.0)) @ midpoints
    blend = blend + diags_array(np.where(smooth, 0.25, 0.0)) @ edge_faces @ face_points

    crease_ends = np.bincount(edges[~smooth].reshape(-1), minlength=count)
    valence = np.maximum(np.bincount(edges.reshape(-1), minlength=count), 1)
    inner = (crease_ends == 0) & (np.bincount(corners, minlength=count) > 0)
    on_crease = crease_ends == 2
    vertex_edges = sparse(np.ones(len(edge_row)), edges.reshape(-1), edge_row, (count, len(edges)))
    vertex_faces = sparse(np.ones(len(corners)), corners, face_row, (count, len(faces)))
    # Interior: (F + 2R + (n − 3) v) / n with F, R the means of face points and edge midpoints.
    moved = diags_array(np.where(inner, 1 / valence**2, 0)) @ vertex_faces @ face_points
    moved = moved + diags_array(np.where(inner, 2 / valence**2, 0)) @ vertex_edges @ midpoints
    # Crease: ¾ v + ⅛ (both neighbours along it) = ½ v + ¼ (sum of the two crease midpoints).
    along = vertex_edges @ diags_array((~smooth).astype(float)) @ midpoints
    moved = moved + diags_array(np.where(on_crease, 0.25, 0)) @ along
    kept = np.where(inner, (valence - 3) / valence, np.where(on_crease, 0.5, 1.0))
    matrix = vstack([moved + diags_array(kept), blend, face_points]).tocoo()
    matrix.eliminate_zeros()
    index = torch.from_numpy(np.stack([matrix.row, matrix.col]).astype(np.int64))
    value = torch.from_numpy(matrix.data.astype(np.float32))
    return torch.sparse_coo_tensor(index, value, matrix.shape, check_invariants=False).coalesce()


def _real_corners(faces: np.ndarray) -> np.ndarray:
    real = np.ones(faces.shape, dtype=bool)
    real[:, 3] = faces[:, 3] != faces[:, 2]
    return real


def _mirror(topology: Topology, split: _Split) -> Int[Tensor, " V1"] | None:
    """The finer mirror map; None when the coarse one does not map faces onto faces."""
    if topology.mirror is None:
        return None
    edge = _partner(split.edges, topology.mirror)
    face = _partner(topology.faces, topology.mirror)
    if edge is None or face is None:
        return None
    count = topology.vertex_count
    return torch.cat([topology.mirror, count + edge, count + len(edge) + face])


def _partner(tuples: Int[Tensor, "N K"], mirror: Int[Tensor, " V"]) -> Int[Tensor, " N"] | None:
    """The row that holds the mirrored vertices of each row, whatever their order."""
    rows = {frozenset(row): i for i, row in enumerate(tuples.tolist())}
    partner = [rows.get(frozenset(row), -1) for row in mirror[tuples].tolist()]
    return None if -1 in partner else torch.tensor(partner, dtype=torch.long)


def _landmarks(topology: Topology, points: SurfacePoints) -> SurfacePoints:
    """Surface points at the same place of the same face, in the finer triangles."""
    face = topology.triangle_face[points.triangles]
    quad = topology.is_quad
    children = torch.where(quad, 4, 3)
    first_child = children.cumsum(0) - children
    # A triangle is its face's second half when its predecessor belongs to the same face.
    start = torch.searchsorted(topology.triangle_face.contiguous(), face)
    second_half = (points.triangles != start).long()
    triangle = torch.empty_like(points.triangles)
    weights = torch.empty_like(points.barycentrics)
    for i, row in enumerate(points.barycentrics):
        place = _in_quad(row, int(second_half[i])) if quad[face[i]] else _in_triangle(row)
        corner, half, weights[i] = place[0], place[1], row.new_tensor(place[2])
        triangle[i] = 2 * (first_child[face[i]] + corner) + half
    return SurfacePoints(triangle, weights)


Place = tuple[int, int, tuple[float, float, float]]
"""Corner of the coarse face, half of the finer quad there, barycentrics in that half."""


def _in_quad(barycentric: Tensor, second_half: int) -> Place:
    """The quad seen as the unit square: corners (0,0) (1,0) (1,1) (0,1), diagonal from 0 to 2."""
    _, b, c = barycentric.tolist()
    s, t = (b, b + c) if second_half else (b + c, c)
    corner = (2 if t > 0.5 else 1) if s > 0.5 else (3 if t > 0.5 else 0)
    along = (s, t, 1 - s, 1 - t)[corner] * 2
    across = (t, 1 - s, 1 - t, s)[corner] * 2
    if along >= across:
        return corner, 0, (1 - along, along - across, across)
    return corner, 1, (1 - across, along, across - along)


def _in_triangle(barycentric: Tensor) -> Place:
    """Solve corner, edge midpoint and centroid weights for the sector that holds the point."""
    weights = barycentric.tolist()
    corner = max(range(3), key=weights.__getitem__)
    own, following, previous = (weights[(corner + k) % 3] for k in range(3))
    if following >= previous:
        return corner, 0, (own - following, 2 * (following - previous), 3 * previous)
    return corner, 1, (own - previous, 3 * following, 2 * (previous - following))
