"""Eyeballs as rigid globes that turn: found in the first frame, and what they look like there.

The tracker leaves globes alone, because they slide under the lids. Here each is a rigid body fixed
to the skull. What the first frame hides of an iris is taken to look like the rest of its ring.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Mesh, Topology, Views
from topohead.geometry.globes import RadialMap, fit_sphere, gaze_rotation
from topohead.geometry.regions import whole_parts
from topohead.solvers.eye_patches import Patches, patches_around
from topohead.solvers.kernels import eyes as kernels
from topohead.solvers.samples import surface_samples

LEAST_SAMPLES = 20
"""With fewer seen in the first frame nothing is known of an eye."""
FRONT = 0.1
"""Cosine to the eye's axis beyond which samples are left out."""


@dataclass(frozen=True)
class EyeConfig:
    """Numbers of the gaze; angles in radians, lengths in metres, colours srgb."""

    spacing: float = 0.0007
    """Distance between samples of a globe."""
    views: int = 8
    """Pictures that are looked at, those that see an eye straightest."""
    blur: float = 0.7
    """Smoothing of the pictures, pixels."""
    noise: float = 0.05
    """Deviation of a sample's colour that is believed."""
    cut: float = 2.5
    """Residuals this many times the noise count a quarter (Geman–McClure)."""
    evidence: float = 0.08
    """Share of the pixels that count as independent observations."""
    guessed: float = 0.5
    """What a colour counts that is not from the first frame but from the iris's symmetry."""
    ring: float = 0.035
    """Width of the rings about the eye's axis in which an eye is taken to look alike."""
    reach: tuple[float, float] = (0.70, 0.56)
    """Yaw and pitch up to which gazes are searched,"""
    step: float = 0.14
    """in steps of this,"""
    few: int = 250
    """with so many samples, and"""
    finalists: int = 12
    """the likeliest so many, which the few cannot tell apart for sure, with all,"""
    reluctance: float = 0.1
    """at a price of so much of what the first frame showed for a turn of one radian."""
    least: float = 0.3
    """Where neither eye reaches this confidence, both are taken to look where they did."""
    iterations: int = 8
    """Gauss–Newton steps at most."""
    wander: float = 0.5
    """Prior standard deviation of a change of gaze between frames,"""
    vergence: tuple[float, float] = (0.04, 0.02)
    """and of the difference between the eyes, yaw and pitch."""
    around: float = 0.035
    """Surface within this distance of a globe's centre, beside its radius, may hide it."""


@dataclass(frozen=True)
class Globe:
    """One eyeball in the first frame.

    `vertices` are its vertex numbers and `arms` their places about `center`, world axes; `shape` is
    the distance to its surface in every direction. `samples` (arms) stand for `areas` of it and
    have `colors`, known as far as `trust` says; `seen` is how many pixels the first frame showed.
    """

    vertices: Int[Tensor, " N"]
    center: Float[Tensor, "3"]
    radius: float
    arms: Float[Tensor, "N 3"]
    shape: RadialMap
    samples: np.ndarray
    areas: np.ndarray
    colors: np.ndarray
    trust: np.ndarray
    seen: float = 0.0


@dataclass(frozen=True)
class Curtain:
    """Surface that may hide a globe: vertex numbers, and triangles as rows of those."""

    vertices: Int[Tensor, " N"]
    triangles: Int[Tensor, "K 3"]


@dataclass(frozen=True)
class Eyes:
    """Both eyeballs, left (+x) first, and what may hide them; `upright` turns world to head."""

    globes: tuple[Globe, Globe]
    curtains: tuple[Curtain, Curtain]
    upright: Float[Tensor, "3 3"]

    def turns(self, gaze: Float[Tensor, "*B 2"]) -> Float[Tensor, "*B 3 3"]:
        """Rotations of a globe in the first frame's world axes."""
        return self.upright.T @ gaze_rotation(gaze.double()) @ self.upright

    def patches(
        self,
        side: int,
        views: Views,
        vertices: Float[Tensor, "V 3"],
        motion: Float[Tensor, "4 4"],
        config: EyeConfig,
    ) -> Patches:
        """The best views around one globe in a frame with these vertices and this motion."""
        globe, curtain = self.globes[side], self.curtains[side]
        return patches_around(
            views,
            vertices[curtain.vertices],
            curtain.triangles,
            globe.center,
            globe.radius,
            motion,
            motion[:3, :3] @ self.upright[2],
            config.views,
            config.blur,
        )


@dataclass(frozen=True)
class Gaze:
    """Where both eyes look, left first, in one frame.

    `angles` are yaw (to the person's left) and pitch (up), radians, in the head frame and from
    where the eyes looked in the first frame. `confidence` is the share of what the first frame
    showed of each eye that is seen again, 0 under closed lids.
    """

    angles: Float[Tensor, "2 2"]
    confidence: Float[Tensor, "2"]

    @staticmethod
    def first() -> "Gaze":
        """Straight on, by definition."""
        return Gaze(torch.zeros(2, 2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))


def find_eyes(first: Mesh, upright: Float[Tensor, "4 4"], config: EyeConfig) -> Eyes | None:
    """The eyeballs of the first frame, not yet looked at; None without two of them.

    An eyeball is what connected parts of the mesh within region `eyes` make up on one side;
    `upright` moves the world to the head's y-up frame, its x to the person's left.
    """
    topology, vertices = first.topology, first.vertices.double()
    members = _globe_vertices(topology, vertices, upright.double())
    if members is None:
        return None
    inside = torch.zeros(topology.vertex_count, dtype=torch.bool)
    inside[torch.cat(members)] = True
    solid = ~inside
    if "eye_shells" in topology.regions:
        solid[topology.regions["eye_shells"]] = False
    globes, curtains = [], []
    for chosen in members:
        center, radius = fit_sphere(vertices[chosen])
        center = center.double()
        near = solid & ((vertices - center).norm(dim=1) < radius + config.around)
        triangles = topology.triangles[near[topology.triangles].all(1)]
        curtains.append(Curtain(*torch.unique(triangles, return_inverse=True)))
        globes.append(_globe(topology, vertices, chosen, center, radius, config))
    return Eyes((globes[0], globes[1]), (curtains[0], curtains[1]), upright[:3, :3].double())


def look_at_eyes(
    views: Views, eyes: Eyes, vertices: Float[Tensor, "V 3"], config: EyeConfig
) -> Eyes:
    """The eyes with what the first frame, whose vertices these are, shows of them."""
    still = torch.eye(4, dtype=torch.float64)
    left, right = (
        _looked_at(
            globe,
            eyes.patches(side, views, vertices.double(), still, config),
            eyes.upright.T.numpy(),
            config,
        )
        for side, globe in enumerate(eyes.globes)
    )
    return replace(eyes, globes=(left, right))


def _globe_vertices(
    topology: Topology, vertices: Tensor, upright: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Vertices of the left and the right eyeball, None without both."""
    chosen = whole_parts(topology, "eyes")
    x = vertices[chosen] @ upright[0, :3] + upright[0, 3]
    left, right = chosen[x > 0], chosen[x <= 0]
    return (left, right) if min(len(left), len(right)) >= 8 else None


def _globe(
    topology: Topology,
    vertices: Tensor,
    chosen: Tensor,
    center: Tensor,
    radius: float,
    config: EyeConfig,
) -> Globe:
    outside = torch.ones(topology.vertex_count, dtype=torch.bool)
    outside[chosen] = False
    arms = vertices - center
    own = topology.triangles[~outside[topology.triangles].any(1)]
    samples = surface_samples(topology, vertices, config.spacing, outside)
    spots = np.einsum("sic,si->sc", arms.numpy()[samples.corners], samples.weights)
    count = len(spots)
    return Globe(
        chosen,
        center,
        radius,
        arms[chosen],
        RadialMap.of(arms, own, radius),
        spots.astype(np.float32),
        samples.areas,
        np.zeros((count, 3), np.float32),
        np.zeros(count, np.float32),
    )


def _looked_at(globe: Globe, patches: Patches, forward: np.ndarray, config: EyeConfig) -> Globe:
    """The globe with what the first frame shows of it, and what that tells of the rest."""
    still = np.eye(3, dtype=np.float32)
    values, weights = kernels.read_globe(globe.samples, still, *patches.arrays)
    known = (weights > 0).sum(1) >= min(2, weights.shape[1])
    if known.sum() < LEAST_SAMPLES:
        return replace(globe, samples=globe.samples[:0], areas=globe.areas[:0])
    colors = _agreed_colors(values, weights, config)
    directions = globe.samples / np.linalg.norm(globe.samples, axis=1, keepdims=True)
    axis = _axis(directions[known], colors[known], globe.areas[known], forward, config)
    colors[~known] = _by_symmetry(directions, colors, known, axis, config)
    front = directions @ axis > FRONT
    globe = replace(
        globe,
        samples=globe.samples[front],
        areas=globe.areas[front],
        colors=colors[front],
        trust=np.where(known, 1, config.guessed).astype(np.float32)[front],
    )
    seen = kernels.likeness(
        globe.samples, globe.areas, globe.colors, globe.trust, still[None], *patches.arrays,
        np.float32(config.noise), np.float32(config.cut),
    )  # fmt: skip
    return replace(globe, seen=float(seen[0]))


def _axis(
    directions: np.ndarray,
    colors: np.ndarray,
    areas: np.ndarray,
    forward: np.ndarray,
    config: EyeConfig,
) -> np.ndarray:
    """The direction [3] about which the seen part looks most alike all around: through the pupil.

    Searched within half the range of gaze about `forward` (columns right, up, ahead), for the least
    spread of colour within rings.
    """
    best, center = np.inf, np.zeros(2)
    for step, reach in ((0.035, 0.35), (0.009, 0.035)):
        ways = np.arange(-reach, reach + 1e-9, step)
        middle = center
        for tilt in np.stack(np.meshgrid(ways, ways), -1).reshape(-1, 2) + middle:
            ring = _rings(directions, _tilted(forward, tilt), config)
            mean = _ring_means(ring, colors, areas)
            spread = float(areas @ np.square(colors - mean[ring]).sum(1))
            if spread < best:
                best, center = spread, tilt
    return _tilted(forward, center)


def _tilted(forward: np.ndarray, tilt: np.ndarray) -> np.ndarray:
    axis = forward @ np.array([*np.tan(tilt), 1.0])
    return axis / np.linalg.norm(axis)


def _rings(directions: np.ndarray, axis: np.ndarray, config: EyeConfig) -> np.ndarray:
    """Which ring about the axis each direction is in."""
    return (np.arccos(np.clip(directions @ axis, -1, 1)) / config.ring).astype(int)


def _ring_means(ring: np.ndarray, colors: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Mean colour of every ring; an empty one has its inner neighbour's."""
    total = np.bincount(ring, areas)
    mean = np.stack([np.bincount(ring, areas * c) for c in colors.T], 1)
    filled = np.maximum.accumulate(np.where(total > 0, np.arange(len(total)), 0))
    return (mean / np.maximum(total, 1e-12)[:, None])[filled]


def _by_symmetry(
    directions: np.ndarray, colors: np.ndarray, known: np.ndarray, axis: np.ndarray,
    config: EyeConfig,
) -> np.ndarray:  # fmt: skip
    """Colours of what is not known: those of its ring; beyond the last ring, more white."""
    ring = _rings(directions, axis, config)
    mean = _ring_means(ring[known], colors[known], np.ones(int(known.sum())))
    return mean[np.minimum(ring[~known], len(mean) - 1)]


def _agreed_colors(values: np.ndarray, weights: np.ndarray, config: EyeConfig) -> np.ndarray:
    """Mean colour over views [S 3]; what one view alone shows, such as a highlight, counts less."""
    weight = weights
    mean = np.zeros((len(values), 3), np.float32)
    for _ in range(3):
        total = np.maximum(weight.sum(1), 1e-9)[:, None]
        mean = np.einsum("scv,sc->sv", values, weight) / total
        error = np.square(values - mean[:, None]).sum(2) / config.noise**2
        weight = weights / np.square(1 + error / config.cut**2)
    return mean.astype(np.float32)


def turned_globes(
    eyes: Eyes, vertices: Float[Tensor, "V 3"], motion: Float[Tensor, "4 4"], gaze: Gaze
) -> Float[Tensor, "V 3"]:
    """The vertices with both eyeballs as in the first frame, carried by the skull and turned."""
    moved = vertices.clone()
    turns = eyes.turns(gaze.angles)
    for globe, turn in zip(eyes.globes, turns, strict=True):
        arms = globe.center + globe.arms @ turn.T
        moved[globe.vertices] = (arms @ motion[:3, :3].T + motion[:3, 3]).to(moved)
    return moved
