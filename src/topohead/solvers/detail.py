"""Relief finer than a tracked mesh, from photographs: a height at every vertex of a finer mesh.

Photo-consistency as in `agreement`: a point of skin is right where all cameras see the same on it.
Here its one freedom is the way along the tracked mesh's smooth normal, so that the answer is a
displacement map for that mesh. Unknowns sit on vertices, not texels: a chart's border is no border
of the skin, and nothing is solved twice.
"""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Cameras, Mesh, Topology, Views
from topohead.geometry.tessellation import Tessellation, smooth_heights, tessellate
from topohead.solvers.detail_grid import make_grid
from topohead.solvers.detail_looks import Places, make_looks
from topohead.solvers.features import FeatureConfig, FeatureLevel
from topohead.solvers.kernels.heights import conjugate_gradient

_FREE_COLOR = 1e-3
"""Views' worth of the reference colour: next to nothing, it only keeps divisions defined."""

MOST_HALVINGS = 4
"""A reference head then has four million vertices, an eighth of a millimetre apart."""


@dataclass(frozen=True)
class DetailConfig:
    """Numbers of the relief solve; lengths in metres."""

    features: FeatureConfig = field(default_factory=lambda: FeatureConfig(radius=1.5, levels=2))
    """How pictures become features."""
    iterations: tuple[int, ...] = (6, 3)
    """Gauss–Newton steps on each picture level, finest first."""
    limit: float = 2e-3
    """Heights are cut at this."""
    curvature: float = 50.0
    """Standard deviation of the relief's mean curvature, 1/m."""
    spread: float = 3e-4
    """Standard deviation of a patch's height about the tracked surface."""
    patch: float = 3e-3
    """Side of a patch of skin that rises and bends on its own."""
    evidence: float = 0.25
    """Share of the pixels that count as independent observations."""
    noise: float = 0.1
    """Feature noise. Not learnt: most skin is plain and agrees, and what it would teach makes
    outliers of the few points that tell where the surface is."""
    cut: float = 2.5
    """A view this many times the noise off the others' colour counts a quarter."""
    min_cosine: float = 0.4
    """Steeper views of a point are ignored."""
    depth_tolerance: float = 0.002
    """A point this far behind the visible surface is hidden."""
    step: float = 5e-4
    """Longest move in one step."""
    solver_iterations: int = 200
    """Conjugate-gradient steps in a Gauss–Newton step."""
    agreement: tuple[float, float] = (0.35, 0.65)
    """Mean robust weight of a point's views at which relief begins to count, and counts in full."""
    feather: int = 8
    """Rings of finer vertices over which relief fades out where pictures do not agree."""
    hidden: tuple[str, ...] = ("eyes", "mouth_interior")
    """Regions without relief: gloss on eyes, darkness in mouths."""


@dataclass(frozen=True)
class Relief:
    """Heights of a finer mesh above a frame's flat triangles along their interpolated normals.

    `heights` are metres, `confidence` in [0, 1] says how far pictures agree on them: where it is 0
    they only round the mesh. Both lie where they were solved.
    """

    fine: Tessellation
    heights: Float[Tensor, " N"]
    confidence: Float[Tensor, " N"]

    def mesh(self, vertices: Float[Tensor, "V 3"]) -> Mesh:
        """The finer mesh on the frame's vertices, displaced; on the host."""
        points = self.fine.displaced(vertices.cpu().double(), self.heights.cpu().double())
        return Mesh(self.fine.finer, points.float())


class ReliefSolver:
    """Finds relief on meshes of one topology; made once for a take, on one device.

    `mesh` is the head at any instant: its shape sets the finer mesh's stiffness. Frames are solved
    each on its own, so that their order and number change nothing.
    """

    def __init__(
        self,
        mesh: Mesh,
        halvings: int,
        config: DetailConfig | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.device = config or DetailConfig(), torch.device(device)
        self._looks = make_looks(mesh.topology, self.device)
        config = self.config
        self.fine = tessellate(mesh.topology, halvings, config.hidden)
        grid = make_grid(self.fine, mesh, config.curvature, config.spread, config.patch)
        self._grid = grid.to(self.device)

    def solve(self, views: Views, vertices: Float[Tensor, "V 3"]) -> Relief:
        """The relief of one instant on its tracked vertices (world metres)."""
        config = self.config
        placed = vertices.to(self.device).double()
        origin = placed.mean(0)
        normals = self.fine.normals(placed).float()
        base = (self.fine.carry(placed) - origin).float()
        smooth = smooth_heights(self.fine, placed).float()
        levels = self._looks.levels(views, origin, config.features)
        rise = torch.zeros_like(smooth)
        agreement = torch.zeros_like(smooth)
        noise = torch.full((), config.noise, device=self.device)
        for index in reversed(range(len(levels))):
            depth = self._looks.depth(levels[index], index, placed)
            for _ in range(config.iterations[index]):
                points = base + (smooth + rise)[:, None] * normals
                places = points, normals, self._grid.corners, self._grid.weights
                diagonal, slope, stats = self._evidence(places, levels[index], depth, noise)
                agreement = torch.where(stats[:, 2] >= 2, stats[:, 3], 0.0)
                rise = self._moved(rise, diagonal, slope)
        confidence = self._confidence(agreement)
        heights = (smooth + confidence * rise).clamp(-config.limit, config.limit)
        return Relief(self.fine, heights, confidence)

    def _evidence(
        self, places: Places, level: FeatureLevel, depth: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Second and first derivatives of the pictures' half energy by height, and statistics."""
        config, looks = self.config, self._looks
        limits = config.min_cosine, config.depth_tolerance
        values, seen = looks.sampled(places, level, depth, limits)
        colors = _robust_mean(values, seen, noise * config.cut)
        trust = torch.where((seen > 0).sum(1) >= 2, _FREE_COLOR, 0.0)
        blocks, gradients, stats = looks.accumulated(
            places, self._grid.areas, level, depth, colors, trust, noise, config.cut, limits
        )
        normals = places[1]
        x, y, z = normals.unbind(1)
        squares = torch.stack([x * x, 2 * x * y, 2 * x * z, y * y, 2 * y * z, z * z], 1)
        return (blocks * squares).sum(1).clamp(min=0), (gradients * normals).sum(1), stats

    def _moved(self, rise: Tensor, diagonal: Tensor, slope: Tensor) -> Tensor:
        """Heights after one Gauss–Newton step."""
        config, grid = self.config, self._grid
        force = config.evidence * slope + grid.stiffness @ rise
        move = conjugate_gradient(
            -force,
            config.evidence * diagonal,
            grid.stiffness,
            grid.own,
            config.solver_iterations,
        )
        return (rise + move.clamp(-config.step, config.step)).clamp(-config.limit, config.limit)

    def _confidence(self, agreement: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Agreement of the views as a weight that fades smoothly over the surface."""
        low, high = self.config.agreement
        weight = ((agreement - low) / (high - low)).clamp(0, 1)
        for _ in range(self.config.feather):
            weight = 0.5 * weight + 0.5 * (self._grid.neighbours @ weight)
        return weight


def halvings_for(
    topology: Topology, vertices: Float[Tensor, "V 3"], cameras: Cameras, texel: float
) -> int:
    """How often a mesh's sides must be halved to be as fine as texels of `texel` metres.

    But no finer than 1.3 pixels of the sharpest camera: there is nothing to see between them.
    """
    wanted = max(texel, 1.3 * finest_pixel(cameras, vertices))
    return min(halvings_to(topology, vertices, wanted), MOST_HALVINGS)


def halvings_to(topology: Topology, vertices: Float[Tensor, "V 3"], spacing: float) -> int:
    """How many halvings bring a mesh's median side nearest to `spacing` (metres), by ratio."""
    edges = topology.edges
    side = float((vertices[edges[:, 0]] - vertices[edges[:, 1]]).norm(dim=1).median())
    return max(round(math.log2(side / spacing)), 0)


def finest_pixel(cameras: Cameras, vertices: Float[Tensor, "V 3"]) -> float:
    """Side of a pixel on the head in the camera that sees it largest, metres."""
    away = (cameras.centers.double() - vertices.double().mean(0)).norm(dim=1)
    return float((away / cameras.intrinsics[:, 0, 0].double()).min())


def _robust_mean(
    values: Float[Tensor, "S C 3"], seen: Float[Tensor, "S C"], knee: Tensor
) -> Float[Tensor, "S 3"]:
    """Mean of the views' values; views beyond `knee` of it count a quarter and less."""
    weight, mean = seen, values[:, 0]
    for _ in range(3):
        total = weight.sum(1).clamp(min=1e-9)
        mean = (values * weight[..., None]).sum(1) / total[:, None]
        error = (values - mean[:, None]).square().sum(2)
        weight = seen / (1 + error / knee**2).square()
    return mean
