"""Optimal-step nonrigid iterated closest points (Amberg, Romdhani and Vetter 2007)."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_samples import ScanSamples


@dataclass(frozen=True)
class NonrigidConfig:
    """Numbers of the method, for a surface scaled to a radius of about one."""

    stiffness: tuple[float, ...] = (50.0, 20.0, 8.0, 4.0, 2.0, 1.0, 0.6, 0.35)
    """Weight of neighbours' differences, one after the other."""
    rounds: int = 3
    """Most closest-point searches for each stiffness."""
    settled: float = 1e-3
    """Mean move, metres over the radius, below which the next stiffness comes."""
    radius: float = 0.12
    """What counts as one, metres."""
    agreement: float = 0.7
    """Least cosine between normals of a match."""
    reach: float = 0.03
    """Farthest match, metres."""


def deform(
    surface: ScanHead,
    start: Float[Tensor, "V 3"],
    samples: ScanSamples,
    moving: Bool[np.ndarray, " V"],
    config: NonrigidConfig,
) -> Float[np.ndarray, "V 3"]:
    """The template `start` pulled onto the samples by one affine map for each moving vertex.

    Minimises Σ w |(S X v)_i − u_i|² + α² Σ_edges ‖X_a − X_b‖² in closed form for each set of
    closest points u; matches to rims of the scan or against the normal have no weight, as
    published. The finer surface meets the scan, as for all other methods here. Others stay. Solved
    on the CPU, whatever device start and samples are on.
    """
    template, matrix = start.cpu().numpy(), surface.matrix.matrix
    index = np.flatnonzero(moving)
    row = np.full(len(template), -1)
    row[index] = np.arange(len(index))
    edges = row[surface.topology.edges.numpy()]
    edges = edges[(edges >= 0).all(1)]
    middle = template[index].mean(0)
    scaled = (template[index] - middle) / config.radius
    count = len(index)
    homogeneous = np.concatenate([scaled, np.ones((count, 1))], 1)
    columns = np.arange(4 * count)
    design = sparse.csr_matrix(
        (homogeneous.ravel(), (np.repeat(np.arange(count), 4), columns)), (count, 4 * count)
    )
    lines = np.arange(len(edges))
    incidence = sparse.csr_matrix(
        (
            np.r_[np.ones(len(edges)), -np.ones(len(edges))],
            (np.r_[lines, lines], edges.T.ravel()),
        ),
        (len(edges), count),
    )
    stiff = sparse.kron(incidence.T @ incidence, sparse.eye(4)).tocsc()
    skin = surface.skin_rows.cpu().numpy()
    inside = np.asarray(matrix[:, ~moving].sum(1)).ravel()[skin] < 1e-9
    skin = skin[inside]
    finer = matrix[skin][:, index] @ design
    maps = np.zeros((4 * count, 3))
    maps[np.arange(count) * 4 + np.arange(3)[:, None], np.arange(3)[:, None]] = 1
    vertices = template.copy()
    for stiffness in config.stiffness:
        for _ in range(config.rounds):
            target, weight = _closest(surface, vertices, skin, samples, config)
            rows = finer.multiply(weight[:, None]).tocsr()
            # a finer vertex is a quarter of a vertex, as edges are counted on the control mesh
            system = 0.25 * finer.T @ rows + stiffness**2 * stiff + 1e-9 * sparse.eye(4 * count)
            right = 0.25 * rows.T @ ((target - middle) / config.radius)
            maps = splu(
                system.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}
            ).solve(right)
            moved = (design @ maps) * config.radius + middle
            change = np.linalg.norm(moved - vertices[index], axis=1).mean()
            vertices[index] = moved
            if change < config.settled * config.radius:
                break
    return vertices


def _closest(
    surface: ScanHead,
    vertices: np.ndarray,
    skin: np.ndarray,
    samples: ScanSamples,
    config: NonrigidConfig,
) -> tuple[Float[np.ndarray, "M 3"], Float[np.ndarray, " M"]]:
    """The nearest sample of each finer vertex, and whether it counts."""
    points = surface.surface(torch.from_numpy(vertices).to(samples.points))
    rows = torch.from_numpy(skin).to(points.device)
    here, normals = points[rows], surface.normals(points)[rows]
    distance, near = (part[:, 0] for part in samples.tree.query(here))
    alike = (samples.normals[near] * normals).sum(1) > config.agreement
    offset = samples.points[near] - here
    height = (offset * normals).sum(1).abs()
    # beyond a rim the nearest sample lies sideways
    inside = distance**2 - height**2 < (3 * samples.spacing) ** 2 + (0.5 * height) ** 2
    counts = alike & inside & (distance < config.reach)
    return samples.points[near].cpu().numpy(), counts.double().cpu().numpy()
