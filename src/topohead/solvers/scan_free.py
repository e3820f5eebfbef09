"""The free remainder of a registration: every vertex moves, held by elasticity and by the start."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse

from topohead.solvers.elasticity import ElasticConfig, Elasticity
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_lips import LipLine
from topohead.solvers.scan_matching import MatchConfig, Matches, joined, match, on_skin
from topohead.solvers.scan_samples import ScanSamples


@dataclass(frozen=True)
class FreeStep:
    """One Gauss–Newton step: the farthest match, metres, and a factor of the stiffness."""

    reach: float
    stiffness: float


@dataclass(frozen=True)
class FreeConfig:
    """Numbers of the free fit; energies have no unit."""

    steps: tuple[FreeStep, ...] = (
        FreeStep(0.008, 30.0),
        FreeStep(0.006, 10.0),
        FreeStep(0.005, 3.0),
        FreeStep(0.004, 1.0),
        FreeStep(0.003, 0.4),
        FreeStep(0.003, 0.4),
    )
    elastic: ElasticConfig = field(default_factory=ElasticConfig)
    noise: float = 1.5e-4
    """Least deviation of the scan from the surface, metres; more where the scan is rougher."""
    prior_share: float = 0.02
    """What one vertex counts in the prior about the start, whose errors neighbours share."""
    cut: float = 3e-3
    """Gaps of bare smooth skin count a quarter from here on, metres, whatever the others are."""
    hair: float = 0.002
    """Scan farther outside a scalp than this and twice its σ is taken for hair, metres."""
    iterations: int = 80
    """Conjugate-gradient steps."""


def fit_vertices(
    surface: ScanHead,
    samples: ScanSamples,
    start: Float[np.ndarray, "V 3"],
    sigma: Float[np.ndarray, " V"],
    config: FreeConfig,
) -> tuple[Float[np.ndarray, "V 3"], Float[np.ndarray, " V"]]:
    """Vertices [V 3] whose finer surface lies on the samples, and the data's precision [V], 1/m².

    Minimises point-to-plane distances + as-rigid-as-possible energy (`Elasticity`) about the start
    + |v − start|²/σ² by Gauss–Newton. Where the scan shows nothing the surface follows smoothly.
    """
    elasticity = Elasticity(surface.topology, torch.from_numpy(start), config.elastic)
    precision = config.prior_share / sigma**2
    allowed = config.hair + 2 * np.asarray(surface.matrix @ sigma)
    vertices = start.copy()
    known = np.zeros(len(start))
    lips = LipLine.of(surface)
    skin = np.flatnonzero(surface.skin)
    for number, step in enumerate(config.steps):
        points = surface.surface(vertices)
        normals = surface.normals(points)
        if number % 3 == 0:
            outer = samples.subset(on_skin(points, normals, surface.skin, samples))
        found = match(points, normals, skin, outer, MatchConfig(step.reach))
        found = _bare_trusted(found, surface, config.cut)
        spread = max(1.4826 * float(np.median(np.abs(found.gap))), config.noise, samples.noise)
        found = joined(found, lips.closing(points, normals, outer))
        weight = _weights(surface, found, allowed, spread)
        known = np.asarray(surface.matrix.power(2)[found.rows].T @ weight)
        system = _System(surface, elasticity, found, weight, precision, step.stiffness)
        rotations = elasticity.rotations(start, vertices)
        right = system.pull(found, weight) - precision[:, None] * (vertices - start)
        right -= step.stiffness * elasticity.gradient(start, vertices, rotations)
        vertices = vertices + system.solve(right, config.iterations)
    return vertices, known


def _bare_trusted(found: Matches, surface: ScanHead, cut: float) -> Matches:
    """Gaps of bare smooth skin are the shape's own up to about `cut`, however well others fit.

    A patch of cheek or neck that the start has wrong would else be left as an outlier for good.
    """
    known = 1 / (1 + (found.gap / cut) ** 2) ** 2
    weights = np.maximum(found.weights, np.where(surface.bare[found.rows], known, 0))
    return replace(found, weights=weights)


def _weights(
    surface: ScanHead, found: Matches, allowed: Float[np.ndarray, " S"], spread: float
) -> Float[np.ndarray, " M"]:
    """1/variance of every match; none where hair stands off the scalp."""
    hair = surface.scalp[found.rows] & (found.gap > allowed[found.rows])
    return np.where(hair, 0, found.weights) / spread**2


class _System:
    """(SᵀN W NᵀS + stiffness K + prior) x = right, applied without being multiplied out."""

    def __init__(
        self,
        surface: ScanHead,
        elasticity: Elasticity,
        found: Matches,
        weight: Float[np.ndarray, " M"],
        precision: Float[np.ndarray, " V"],
        stiffness: float,
    ) -> None:
        rows = surface.matrix[found.rows]
        # one row a match, three columns a vertex: its gap's derivative
        count = np.diff(rows.indptr)
        value = (rows.data[:, None] * np.repeat(found.normals, count, 0)).ravel()
        columns = (3 * rows.indices[:, None] + np.arange(3)).ravel()
        shape = len(found.rows), 3 * rows.shape[1]
        self.jacobian = sparse.csr_matrix((value, columns, 3 * rows.indptr), shape)
        self.transposed = self.jacobian.T.tocsr()
        self.weight = weight
        self.stiff = (stiffness * elasticity.matrix + sparse.diags(precision)).tocsr()
        self.inverse = self._blocks(rows, found.normals)

    def _blocks(self, rows: sparse.csr_matrix, normals: np.ndarray) -> Float[np.ndarray, "V 3 3"]:
        """Inverted 3×3 blocks of the diagonal, the preconditioner."""
        planes = np.einsum("ma,mb->mab", normals, normals) * self.weight[:, None, None]
        blocks = (rows.power(2).T @ planes.reshape(-1, 9)).reshape(-1, 3, 3)
        return np.linalg.inv(blocks + self.stiff.diagonal()[:, None, None] * np.eye(3))

    def pull(self, found: Matches, weight: np.ndarray) -> Float[np.ndarray, "V 3"]:
        """The data's half gradient, downhill."""
        return (self.transposed @ (weight * found.gap)).reshape(-1, 3)

    def applied(self, x: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "V 3"]:
        """The system times x."""
        data = self.transposed @ (self.weight * (self.jacobian @ x.ravel()))
        return data.reshape(-1, 3) + self.stiff @ x

    def solve(
        self, right: Float[np.ndarray, "V 3"], iterations: int, tolerance: float = 1e-6
    ) -> Float[np.ndarray, "V 3"]:
        """By conjugate gradients with a block-Jacobi preconditioner.

        Until the squared residual has fallen by `tolerance`. Sums instead of dot products: BLAS
        threads cost more than they bring here, and their sums depend on how many they are.
        """
        x, residual = np.zeros_like(right), right.copy()
        conditioned = np.einsum("vab,vb->va", self.inverse, residual)
        direction, norm = conditioned, (residual * conditioned).sum()
        least = tolerance * norm
        for _ in range(iterations):
            if not norm > least:
                break
            image = self.applied(direction)
            length = norm / (direction * image).sum()
            x += length * direction
            residual -= length * image
            conditioned = np.einsum("vab,vb->va", self.inverse, residual)
            last, norm = norm, (residual * conditioned).sum()
            direction = conditioned + (norm / last) * direction
        return x
