"""Optimal-step nonrigid iterated closest points (Amberg, Romdhani and Vetter 2007)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import sparse
from scipy.sparse.linalg import splu

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
    template: Float[np.ndarray, "V 3"],
    samples: ScanSamples,
    moving: Bool[np.ndarray, " V"],
    config: NonrigidConfig,
) -> Float[np.ndarray, "V 3"]:
    """The template pulled onto the samples by one affine map for each moving vertex.

    Minimises Σ w |(S X v)_i − u_i|² + α² Σ_edges ‖X_a − X_b‖² in closed form for each set of
    closest points u; matches to rims of the scan or against the normal have no weight, as
    published. The finer surface meets the scan, as for all other methods here. Others stay.
    """
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
    skin = np.flatnonzero(surface.skin)
    inside = np.asarray(surface.matrix[:, ~moving].sum(1)).ravel()[skin] < 1e-9
    skin = skin[inside]
    finer = surface.matrix[skin][:, index] @ design
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
    points = surface.surface(vertices)
    normals = surface.normals(points)[skin]
    distance, near = samples.tree.query(points[skin])
    alike = (samples.normals[near] * normals).sum(1) > config.agreement
    offset = samples.points[near] - points[skin]
    height = np.abs((offset * normals).sum(1))
    # beyond a rim the nearest sample lies sideways
    inside = distance**2 - height**2 < (3 * samples.spacing) ** 2 + (0.5 * height) ** 2
    return samples.points[near], (alike & inside & (distance < config.reach)).astype(float)
