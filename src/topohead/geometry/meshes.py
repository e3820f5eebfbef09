"""Normals, areas, boundaries and Laplacians of triangle and quad meshes."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.compiled import compiled


def face_normals(
    vertices: Float[Tensor, "*B V 3"], triangles: Int[Tensor, "T 3"]
) -> Float[Tensor, "*B T 3"]:
    """Unit normals, counter-clockwise side outward; zero for a triangle without area."""
    return torch.nn.functional.normalize(_area_vectors(vertices, triangles), dim=-1, eps=1e-30)


def triangle_areas(
    vertices: Float[Tensor, "*B V 3"], triangles: Int[Tensor, "T 3"]
) -> Float[Tensor, "*B T"]:
    """Areas in m²."""
    return _area_vectors(vertices, triangles).norm(dim=-1) / 2


def vertex_areas(
    vertices: Float[Tensor, "V 3"], triangles: Int[Tensor, "T 3"]
) -> Float[Tensor, " V"]:
    """A third of the triangles around each vertex, m²."""
    area = triangle_areas(vertices, triangles) / 3
    total = torch.zeros_like(vertices[:, 0])
    for corner in range(3):
        total.index_add_(0, triangles[:, corner], area)
    return total


def edges_around(topology: Topology, vertices: Float[Tensor, "V 3"]) -> Float[Tensor, " V"]:
    """Mean length of the edges at each vertex, metres; 0 where there are none."""
    edges = topology.edges.to(vertices.device)
    length = (vertices[edges[:, 0]] - vertices[edges[:, 1]]).norm(dim=1)
    total, count = vertices.new_zeros(2, len(vertices))
    for end in edges.unbind(1):
        total.index_add_(0, end, length)
        count.index_add_(0, end, torch.ones_like(length))
    return total / count.clamp(min=1)


def vertex_normals(
    vertices: Float[Tensor, "*B V 3"], triangles: Int[Tensor, "T 3"]
) -> Float[Tensor, "*B V 3"]:
    """Unit normals of vertices, triangles weighted by area; zero for a vertex without faces."""
    area = _area_vectors(vertices, triangles)
    normals = torch.zeros_like(vertices)
    for corner in range(3):
        normals.index_add_(vertices.dim() - 2, triangles[:, corner], area)
    return torch.nn.functional.normalize(normals, dim=-1, eps=1e-30)


def vertex_fan(triangles: Int[Tensor, "T 3"], vertex_count: int) -> Int[Tensor, "V K"]:
    """The triangles at each vertex, in order, padded with the number of triangles."""
    order = triangles.flatten().argsort(stable=True)
    corner = triangles.flatten()[order]
    count = torch.bincount(corner, minlength=vertex_count)
    rank = torch.arange(len(corner), device=corner.device) - (count.cumsum(0) - count)[corner]
    fan = triangles.new_full((vertex_count, int(count.max())), len(triangles), dtype=torch.int64)
    fan[corner, rank] = order // 3
    return fan


def fan_normals(
    vertices: Float[Tensor, "B V 3"], triangles: Int[Tensor, "T 3"], fan: Int[Tensor, "V K"]
) -> Float[Tensor, "B V 3"]:
    """`vertex_normals` summed in the order of a `vertex_fan`: the same bytes in every run."""
    if compiled(vertices):
        from topohead.geometry import meshes_triton  # noqa: PLC0415 -- only where CUDA is

        return meshes_triton.fan_normals(vertices, triangles, fan)
    corner = vertices[:, triangles.long()]
    area = torch.linalg.cross(corner[:, :, 1] - corner[:, :, 0], corner[:, :, 2] - corner[:, :, 0])
    padded = torch.cat([area, area.new_zeros(len(area), 1, 3)], 1)
    total = padded[:, fan[:, 0]]
    for k in range(1, fan.shape[1]):
        total = total + padded[:, fan[:, k]]
    return torch.nn.functional.normalize(total, dim=-1, eps=1e-30)


def outward_normals(
    vertices: Float[Tensor, "V 3"], triangles: Int[Tensor, "T 3"]
) -> Float[Tensor, "V 3"]:
    """`vertex_normals`, turned over when the faces as a whole are wound clockwise from outside.

    Decided by whether they point away from the middle: right for heads, faces cut out of them, and
    anything else that is bulged rather than hollow.
    """
    normals = vertex_normals(vertices, triangles)
    return normals if wound_outward(vertices, triangles) else -normals


def wound_outward(vertices: Float[Tensor, "V 3"], triangles: Int[Tensor, "T 3"]) -> bool:
    """Whether the faces as a whole point away from the middle, as `outward_normals` needs."""
    area = _area_vectors(vertices, triangles)
    centre = vertices[triangles].mean(1)
    middle = (area.norm(dim=1, keepdim=True) * centre).sum(0) / area.norm(dim=1).sum()
    return bool(((centre - middle) * area).sum() >= 0)


def boundary_edges(topology: Topology) -> Int[Tensor, "E 2"]:
    """Edges with a face on one side only, in the direction in which that face runs."""
    directed = face_edges(topology.faces)[0]
    _, index, count = torch.unique(
        directed.sort(1).values, dim=0, return_inverse=True, return_counts=True
    )
    return directed[count[index] == 1]


def face_edges(faces: Int[Tensor, "F 4"]) -> tuple[Int[Tensor, "K 2"], Int[Tensor, " K"]]:
    """Directed edges of all faces, face by face, and the face that each belongs to."""
    pairs = torch.stack([faces, faces.roll(-1, 1)], -1)
    real = pairs[..., 0] != pairs[..., 1]
    face = torch.arange(len(faces))[:, None].expand(-1, 4)
    return pairs[real], face[real]


def connected_parts(topology: Topology) -> Int[Tensor, " V"]:
    """A number for each vertex that says which connected piece it belongs to, largest first."""
    from scipy.sparse import coo_array  # noqa: PLC0415  scipy.sparse costs 0.1 s to import
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    edges = topology.edges.numpy()
    size = topology.vertex_count
    graph = coo_array(([1] * len(edges), (edges[:, 0], edges[:, 1])), shape=(size, size))
    count, label = connected_components(graph, directed=False)
    label = torch.as_tensor(label, dtype=torch.long)
    order = torch.bincount(label, minlength=count).argsort(descending=True, stable=True)
    return torch.empty_like(order).scatter_(0, order, torch.arange(count))[label]


def neighbour_rings(topology: Topology, start: Bool[Tensor, " V"], rings: int) -> Int[Tensor, " V"]:
    """How many edges away from `start` each vertex lies; rings + 1 for all beyond `rings`."""
    first, second = topology.edges.unbind(1)
    distance = torch.where(start, 0, rings + 1)
    for _ in range(rings):
        best = distance.clone()
        best.scatter_reduce_(0, first, distance[second] + 1, "amin")
        best.scatter_reduce_(0, second, distance[first] + 1, "amin")
        distance = best
    return distance


def uniform_laplacian(topology: Topology) -> Float[Tensor, "V V"]:
    """Sparse L with (L v)_i = mean of i's neighbours − v_i; edges of faces, not diagonals."""
    first, second = topology.edges.unbind(1)
    size = topology.vertex_count
    degree = torch.bincount(topology.edges.flatten(), minlength=size).clamp(min=1).float()
    row = torch.cat([first, second, torch.arange(size)])
    column = torch.cat([second, first, torch.arange(size)])
    value = torch.cat([1 / degree[first], 1 / degree[second], -torch.ones(size)])
    return torch.sparse_coo_tensor(
        torch.stack([row, column]), value, (size, size), check_invariants=False
    ).coalesce()


def cotangent_laplacian(
    vertices: Float[Tensor, "V 3"], triangles: Int[Tensor, "T 3"]
) -> Float[Tensor, "V V"]:
    """Sparse L with (L v)_i = Σ_j ½(cot α_ij + cot β_ij)(v_j − v_i); not divided by areas.

    Symmetric, rows sum to zero (Pinkall and Polthier 1993). Weights of obtuse pairs are negative.
    """
    size = len(vertices)
    rows, columns, values = [], [], []
    for corner in range(3):
        apex, left, right = (triangles[:, (corner + k) % 3] for k in range(3))
        a, b = vertices[left] - vertices[apex], vertices[right] - vertices[apex]
        sine = torch.linalg.cross(a, b).norm(dim=-1).clamp(min=1e-20)
        half_cotangent = (a * b).sum(-1) / sine / 2
        rows += [left, right, left, right]
        columns += [right, left, left, right]
        values += [half_cotangent, half_cotangent, -half_cotangent, -half_cotangent]
    index = torch.stack([torch.cat(rows), torch.cat(columns)])
    return torch.sparse_coo_tensor(
        index, torch.cat(values), (size, size), check_invariants=False
    ).coalesce()


def _area_vectors(vertices: Tensor, triangles: Tensor) -> Tensor:
    a, b, c = (vertices[..., triangles[:, k], :] for k in range(3))
    return torch.linalg.cross(b - a, c - a)
