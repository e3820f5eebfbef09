"""Laying UV islands out in the unit square: relax each, then pack them by their outlines."""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image, ImageDraw
from scipy.ndimage import binary_dilation
from scipy.signal import fftconvolve
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.meshes import boundary_edges

_GRID = 512
"""Cells per side in which packing looks for places."""


def relaid(
    topology: Topology, vertices: Float[Tensor, "V 3"], density: Float[Tensor, " F"]
) -> Topology:
    """The topology with its islands relaxed to these texel densities and packed upright."""
    topology = replace(topology, uv=upright(topology, vertices))
    uv = relax(topology, vertices, density)
    return replace(topology, uv=pack(uv, topology).float())


def islands(topology: Topology) -> Int[Tensor, " F"]:
    """The number of the UV island of every face; most faces first."""
    corners = topology.face_uv.numpy()
    first = np.repeat(corners[:, 0], 3)
    graph = coo_array(
        (np.ones(first.size), (first, corners[:, 1:].reshape(-1))), shape=(len(topology.uv),) * 2
    )
    label = connected_components(graph, directed=False)[1][corners[:, 0]]
    _, label, count = np.unique(label, return_inverse=True, return_counts=True)
    rank = np.empty(len(count), dtype=np.int64)
    rank[np.argsort(-count, kind="stable")] = np.arange(len(count))
    return torch.from_numpy(rank[label])


def relax(
    topology: Topology,
    vertices: Float[Tensor, "V 3"],
    density: Float[Tensor, " F"],
    steps: int = 25,
) -> Float[Tensor, "U 2"]:
    """UVs of low distortion, starting from those of the topology (which must not fold over).

    Minimises the symmetric Dirichlet energy Σ A (‖J‖² + ‖J⁻¹‖²) of the map from the surface, its
    lengths scaled by each face's `density`: 2 gives twice the texels along a line. Each step
    solves a reweighted quadratic proxy (Rabinovich et al. 2017) and stops short of any triangle
    turning over (Smith and Schaefer 2015), so islands stay free of folds; holes are plugged while
    it runs, so that lips and lids do not slide over each other. In metres × density.
    """
    face, place = _both_splits(topology)
    corners = topology.face_uv.numpy()[face[:, None], place]
    triangles = topology.faces.numpy()[face[:, None], place]
    rest, area = _rest_shapes(vertices.double().numpy()[triangles], density.double().numpy()[face])
    uv = topology.uv.double().numpy().copy()
    label = islands(topology).numpy()[face]
    for k in range(label.max() + 1):
        flat = _jacobians(uv, corners[label == k], rest[label == k])
        if (np.linalg.det(flat) <= 0).any():
            raise ValueError(f"island {k} of the layout is folded or mirrored")
        uv[np.unique(corners[label == k])] *= _best_scale(flat, area[label == k])
    own = len(uv)
    uv, corners, rest, area = _with_plugs(topology, uv, corners, rest, area)
    energy, gradient = _dirichlet(uv, corners, rest, area)
    for _ in range(steps):
        direction = _proxy_minimum(uv, corners, rest, area) - uv
        length = min(1.0, 0.8 * _first_turnover(uv, direction, corners))
        slope = (direction * gradient).sum()
        before = energy
        while length > 1e-8:
            trial = uv + length * direction
            energy, gradient = _dirichlet(trial, corners, rest, area)
            if energy <= before + 1e-4 * length * slope:
                uv = trial
                break
            length /= 2
        if energy > before * (1 - 1e-4):
            break
    return torch.from_numpy(uv[:own].copy())


def upright(topology: Topology, vertices: Float[Tensor, "V 3"]) -> Float[Tensor, "U 2"]:
    """Islands turned by quarter turns so that u best follows x and v best follows y (up).

    Islands that face sideways or backwards follow as far as they can.
    """
    label = islands(topology)
    uv = topology.uv.clone()
    rows, points = topology.face_uv.flatten(), vertices[topology.faces.flatten()].to(uv)
    for k in range(int(label.max()) + 1):
        chosen = (label == k).repeat_interleave(4)
        here, there = uv[rows[chosen]], points[chosen][:, :2]
        moment = (here - here.mean(0)).T @ (there - there.mean(0))
        turned = [_quarter(n).to(uv) for n in range(4)]
        best = max(turned, key=lambda turn: float((turn @ moment).trace()))
        members = rows[chosen].unique()
        uv[members] = uv[members] @ best.T
    return uv


def pack(
    uv: Float[Tensor, "U 2"], topology: Topology, margin: float = 8 / 1024
) -> Float[Tensor, "U 2"]:
    """Islands moved (not turned) and scaled together to fill the unit square, `margin` apart.

    The largest comes first, in the middle of the lowest row; each other one goes to the lowest
    place that is left. The common scale is the largest at which all fit (by bisection).
    """
    label = islands(topology)
    members = [topology.face_uv[label == k].unique() for k in range(int(label.max()) + 1)]
    uv = uv.clone()
    for rows in members:
        uv[rows] -= uv[rows].amin(0)
    extent = torch.stack([uv[rows].amax(0) for rows in members])
    order = extent.prod(1).argsort(descending=True).tolist()
    high = (1 - 2 * margin) / float(extent.max())
    low, best = 0.0, _place(uv * high, topology, label, members, order, margin)
    for _ in range(9):
        middle = (low + high) / 2
        placed = _place(uv * middle, topology, label, members, order, margin)
        low, high = (low, middle) if placed is None else (middle, high)
        best = best if placed is None else placed
    if best is None:
        raise ValueError("the islands do not fit into the unit square at a useful scale")
    return best


def _place(
    uv: Tensor, topology: Topology, label: Tensor, members: list[Tensor], order: list[int],
    margin: float,
) -> Tensor | None:  # fmt: skip
    """The islands at this size in the square, or None when they do not fit."""
    gap = math.ceil(margin * _GRID)
    taken = np.ones((_GRID, _GRID), dtype=bool)
    taken[gap:-gap, gap:-gap] = False
    placed = torch.full_like(uv, torch.nan)
    for k in order:
        corners = uv[topology.triangle_uv[label[topology.triangle_face] == k]].numpy()
        mask = _mask(corners, gap)
        if max(mask.shape) > _GRID:
            return None
        clash = fftconvolve(taken.astype(np.float32), mask[::-1, ::-1].astype(np.float32), "valid")
        free = np.argwhere(clash < 0.5)
        if not len(free):
            return None
        row, column = free[0]
        if k == order[0]:
            same_row = free[free[:, 0] == row, 1]
            column = same_row[np.abs(same_row - (_GRID - mask.shape[1]) / 2).argmin()]
        taken[row : row + mask.shape[0], column : column + mask.shape[1]] |= mask
        shift = (uv.new_tensor([float(column), float(row)]) + gap / 2) / _GRID
        if k == order[0]:
            shift[0] = 0.5 - uv[members[k], 0].amax() / 2
        placed[members[k]] = uv[members[k]] + shift
    return placed


def _mask(corners: np.ndarray, gap: int) -> np.ndarray:
    """Cells that an island covers, grown by half the gap on every side (rows upward)."""
    half = gap / 2
    width, height = (np.ceil(corners.reshape(-1, 2).max(0) * _GRID + gap).astype(int) + 1).tolist()
    picture = Image.new("1", (width, height))
    draw = ImageDraw.Draw(picture)
    for triangle in corners * _GRID + half:
        draw.polygon([tuple(point) for point in triangle.tolist()], fill=1, outline=1)
    disc = np.hypot(*np.mgrid[-half : half + 1, -half : half + 1]) <= half + 0.5
    return binary_dilation(np.asarray(picture), disc)


def _quarter(turns: int) -> Tensor:
    return torch.linalg.matrix_power(torch.tensor([[0.0, -1.0], [1.0, 0.0]]), turns)


# The symmetric Dirichlet energy


def _both_splits(topology: Topology) -> tuple[np.ndarray, np.ndarray]:
    """Face [T] and its corners [T 3] of the triangles of both ways to split every quad.

    Where all four keep their orientation the quad stays convex, and so do those it is split into.
    """
    quad = topology.is_quad.numpy()
    face, place = [np.arange(len(quad))], [np.tile([0, 1, 2], (len(quad), 1))]
    for corners in ([0, 2, 3], [1, 2, 3], [1, 3, 0]):
        face.append(np.flatnonzero(quad))
        place.append(np.tile(corners, (int(quad.sum()), 1)))
    return np.concatenate(face), np.concatenate(place)


def _rest_shapes(corner: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse edge matrices of triangles [T 3 3] laid flat [T 2 2], and areas; lengths × scale."""
    first, second = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    length = np.maximum(np.linalg.norm(first, axis=1), 1e-9)
    along = (first * second).sum(1) / length
    # Slivers of no height are given a little, or their energy could never be finite.
    across = np.maximum(np.linalg.norm(np.cross(first, second), axis=1) / length, 1e-2 * length)
    edges = np.zeros((len(corner), 2, 2))
    edges[:, 0, 0], edges[:, 0, 1], edges[:, 1, 1] = length * scale, along * scale, across * scale
    return np.linalg.inv(edges), length * across * scale**2 / 2


def _with_plugs(
    topology: Topology, uv: np.ndarray, corners: np.ndarray, rest: np.ndarray, area: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The layout with every hole of an island closed by a fan that wants to keep its shape."""
    sheet = Topology(len(uv), topology.face_uv, topology.uv, topology.face_uv)
    rim = boundary_edges(sheet).numpy()
    part = connected_components(
        coo_array((np.ones(len(rim)), (rim[:, 0], rim[:, 1])), shape=(len(uv),) * 2), directed=False
    )[1][rim[:, 0]]
    for loop in np.unique(part):
        edges = rim[part == loop]
        start, end = uv[edges[:, 0]], uv[edges[:, 1]]
        # The rim runs counter-clockwise around an island and clockwise around a hole in it.
        if (start[:, 0] * end[:, 1] - start[:, 1] * end[:, 0]).sum() >= 0:
            continue
        fan = np.stack([edges[:, 1], edges[:, 0], np.full(len(edges), len(uv))], 1)
        uv = np.concatenate([uv, start.mean(0, keepdims=True)])
        corner = uv[fan]
        shape = np.stack([corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]], -1)
        size = np.linalg.det(shape) / 2
        if size.min() <= 0:
            continue  # a hole that its middle does not see whole is left open
        corners = np.concatenate([corners, fan])
        rest = np.concatenate([rest, np.linalg.inv(shape)])
        area = np.concatenate([area, size])
    return uv, corners, rest, area


def _jacobians(uv: np.ndarray, corners: np.ndarray, rest: np.ndarray) -> np.ndarray:
    corner = uv[corners]
    edges = np.stack([corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]], -1)
    return edges @ rest


def _best_scale(jacobians: np.ndarray, area: np.ndarray) -> float:
    """The factor that minimises Σ A (s² ‖J‖² + ‖J⁻¹‖² / s²)."""
    forward = (area * (jacobians**2).sum((1, 2))).sum()
    determinant = np.linalg.det(jacobians)
    backward = (area * (jacobians**2).sum((1, 2)) / determinant**2).sum()
    return float((backward / forward) ** 0.25)


def _dirichlet(
    uv: np.ndarray, corners: np.ndarray, rest: np.ndarray, area: np.ndarray
) -> tuple[float, np.ndarray]:
    """Energy (infinite where a triangle is turned over) and its gradient [U 2].

    In the plane ‖J⁻¹‖² = ‖J‖² / det², and ∂det/∂J is the cofactor matrix.
    """
    jacobian = _jacobians(uv, corners, rest)
    determinant = np.linalg.det(jacobian)
    if determinant.min() <= 0:
        return np.inf, np.zeros_like(uv)
    square = (jacobian**2).sum((1, 2))
    energy = (area * square * (1 + determinant**-2)).sum()
    cofactor = np.empty_like(jacobian)
    cofactor[:, 0, 0], cofactor[:, 1, 1] = jacobian[:, 1, 1], jacobian[:, 0, 0]
    cofactor[:, 0, 1], cofactor[:, 1, 0] = -jacobian[:, 1, 0], -jacobian[:, 0, 1]
    slope = 2 * jacobian * (1 + determinant**-2)[:, None, None]
    slope -= 2 * cofactor * (square * determinant**-3)[:, None, None]
    at_edges = area[:, None, None] * slope @ rest.transpose(0, 2, 1)
    gradient = np.zeros_like(uv)
    np.add.at(gradient, corners[:, 1], at_edges[:, :, 0])
    np.add.at(gradient, corners[:, 2], at_edges[:, :, 1])
    np.add.at(gradient, corners[:, 0], -at_edges.sum(2))
    return float(energy), gradient


def _proxy_minimum(
    uv: np.ndarray, corners: np.ndarray, rest: np.ndarray, area: np.ndarray
) -> np.ndarray:
    """The layout [U 2] that minimises Σ A ‖W (J − R)‖², which has the energy's slope here.

    With J = U S Vᵀ: R = U Vᵀ and W = U diag(√((s − s⁻³) / (s − 1))) Uᵀ.
    """
    u, s, vt = np.linalg.svd(_jacobians(uv, corners, rest))
    ratio = 1 + 1 / s + 1 / s**2 + 1 / s**3  # (s − s⁻³) / (s − 1), divided out
    weight = (u * np.sqrt(ratio)[:, None]) @ u.transpose(0, 2, 1)
    goal = weight @ (u @ vt)
    grads = np.concatenate([-rest.sum(1, keepdims=True), rest], 1)  # ∂J/∂corner [T 3 2]
    count, share = len(uv), np.sqrt(area)
    # Row (t, i, k): Σ_j W_ij (Σ_corner grads_k uv_corner,j) = goal_ik.
    value = np.einsum("t,tij,tck->tikcj", share, weight, grads)
    column = corners[:, None, None, :, None] + count * np.arange(2)
    row = np.arange(4 * len(corners)).reshape(-1, 2, 2, 1, 1)
    index = np.broadcast_to(row, value.shape), np.broadcast_to(column, value.shape)
    matrix = csr_array(
        (value.reshape(-1), (index[0].reshape(-1), index[1].reshape(-1))),
        shape=(4 * len(corners), 2 * count),
    )
    right = (share[:, None, None] * goal).reshape(-1)
    # Islands may float: a weak pull to where each vertex is holds them.
    hold = 1e-6 * area.mean()
    normal = (matrix.T @ matrix + hold * diags_array(np.ones(2 * count))).tocsc()
    here = uv.T.reshape(-1)
    return splu(normal).solve(matrix.T @ right + hold * here).reshape(2, -1).T


def _first_turnover(uv: np.ndarray, direction: np.ndarray, corners: np.ndarray) -> float:
    """The smallest positive step at which a triangle loses its area (root of a quadratic)."""

    def edges(points):
        corner = points[corners]
        return corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]

    def cross(a, b):
        return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]

    p, q = edges(uv)
    r, s = edges(direction)
    c, b, a = cross(p, q), cross(p, s) + cross(r, q), cross(r, s)
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(b * b - 4 * a * c)
        # Citardauq form: stable for a → 0. Both roots; the smallest positive one counts.
        roots = np.stack([2 * c / (-b - root), 2 * c / (-b + root)])
    roots = roots[np.isfinite(roots) & (roots > 0)]
    return float(roots.min()) if roots.size else np.inf
