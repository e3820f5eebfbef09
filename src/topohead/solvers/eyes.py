"""Eyeballs as rigid globes that turn: found in the first frame, their gaze solved in every other.

The tracker leaves globes alone, because they slide under the lids. Here each is a rigid body fixed
to the skull; two angles an eye make the samples that the first frame showed look as they did.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Cameras, Mesh, Topology, Views
from topohead.geometry.globes import RadialMap, fit_sphere, gaze_rotation
from topohead.geometry.regions import whole_parts
from topohead.rendering.mesh import depth_maps
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
    few: int = 400
    """with so many samples."""
    iterations: int = 8
    """Gauss–Newton steps at most."""
    wander: float = 0.5
    """Prior standard deviation of a change of gaze between frames,"""
    vergence: tuple[float, float] = (0.07, 0.03)
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
class Eyes:
    """Both eyeballs, left (+x) first, and what may hide them; `upright` turns world to head."""

    globes: tuple[Globe, Globe]
    curtains: tuple[Int[Tensor, "K 3"], Int[Tensor, "J 3"]]
    upright: Float[Tensor, "3 3"]

    def turns(self, gaze: Float[Tensor, "*B 2"]) -> Float[Tensor, "*B 3 3"]:
        """Rotations of a globe in the first frame's world axes."""
        return self.upright.T @ gaze_rotation(gaze.double()) @ self.upright


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


@dataclass(frozen=True)
class Patches:
    """Pictures cut out around one globe; see `kernels.eyes` for the arrays."""

    centers: np.ndarray
    axes: np.ndarray
    lens: np.ndarray
    pictures: np.ndarray
    front: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """In the order in which the kernels take them."""
        return self.centers, self.axes, self.lens, self.pictures, self.front


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
        curtains.append(topology.triangles[near[topology.triangles].all(1)])
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
            _patches(views, eyes, side, vertices.double(), still, config),
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
    _, _, seen = _equations(globe, patches, still, np.zeros((2, 3, 3), np.float32), config)
    return replace(globe, seen=seen)


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


def _patches(
    views: Views, eyes: Eyes, side: int, vertices: Tensor, motion: Tensor, config: EyeConfig
) -> Patches:
    """Every view around a globe that `motion` has carried with the skull."""
    globe, cameras = eyes.globes[side], views.cameras
    place = motion[:3, :3] @ globe.center + motion[:3, 3]
    pose = cameras.world_to_camera.double()
    center = pose[:, :3, :3] @ place + pose[:, :3, 3]
    lens = cameras.intrinsics.double()
    focal = lens[:, [0, 1], [0, 1]]
    middle = lens[:, :2, 2] + focal * center[:, :2] / center[:, 2:].clamp(min=1e-3)
    # a globe in a picture of a few hundred pixels; in a finer one its patch is the larger
    half = int((1.1 * globe.radius * focal.amax(1) / center[:, 2].clamp(min=1e-3)).max().ceil()) + 3
    corner = (middle.round() - half).long()
    size = 2 * half
    moved = lens.clone()
    moved[:, :2, 2] -= corner
    window = Cameras(cameras.names, pose, moved, torch.full((len(lens), 2), size))
    depth = depth_maps(vertices, eyes.curtains[side], window, cull=False)
    pictures = np.zeros((len(lens), size, size, 3), np.float32)
    front = np.zeros((len(lens), size, size), np.float32)
    for index in range(len(lens)):
        mask = None if views.masks is None else views.masks[index]
        x, y = corner[index].tolist()
        inside = _cut(views.images[index], mask, x, y, pictures[index])
        picture = cv2.GaussianBlur(pictures[index], (0, 0), config.blur)
        pictures[index] = picture
        hiding = np.minimum(depth[index].numpy(), np.float32(1e6))
        # a pixel beside a lid mixes both
        front[index] = np.where(inside, cv2.erode(hiding, np.ones((3, 3), np.uint8)), 0)
    focal_center = torch.cat([focal, moved[:, :2, 2]], 1)
    arrays = [center, pose[:, :3, :3] @ motion[:3, :3], focal_center]
    return Patches(*(a.float().numpy() for a in arrays), pictures, front)


def _cut(
    image: Float[Tensor, "H W 3"],
    mask: Float[Tensor, "H W"] | None,
    x: int,
    y: int,
    out: np.ndarray,
) -> np.ndarray:
    """Fills `out` with the window at (x, y) of a picture; where it lies within picture and mask."""
    size, (height, width) = len(out), image.shape[:2]
    left, top, right, low = max(x, 0), max(y, 0), min(x + size, width), min(y + size, height)
    inside = np.zeros((size, size), bool)
    if left < right and top < low:
        there = (slice(top - y, low - y), slice(left - x, right - x))
        out[there] = image[top:low, left:right].cpu().numpy()
        covered = None if mask is None else mask[top:low, left:right].cpu().numpy() > 0.5
        inside[there] = True if covered is None else covered
    return inside


def solve_gaze(
    views: Views,
    eyes: Eyes,
    vertices: Float[Tensor, "V 3"],
    motion: Float[Tensor, "4 4"],
    last: Gaze,
    config: EyeConfig,
) -> Gaze:
    """Where the eyes look now.

    `vertices` is the tracked surface, whose lids hide the globes; `motion` carries the first
    frame's skull to its place. Gazes over the whole range are compared, both eyes alike, then
    Gauss–Newton turns each, with priors about the last frame and about looking the same way.
    """
    both = [_patches(views, eyes, side, vertices, motion, config) for side in (0, 1)]
    angles = _searched(eyes, both, last.angles, config)
    agreed = torch.zeros(2, dtype=torch.float64)
    for _ in range(config.iterations):
        matrix, vector = _priors(angles, last.angles, config)
        for side, globe in enumerate(eyes.globes):
            turn, slopes = _turn_and_slopes(eyes, angles[side])
            own, pull, agreed[side] = _equations(globe, both[side], turn, slopes, config)
            rows = slice(2 * side, 2 * side + 2)
            matrix[rows, rows] += config.evidence * torch.from_numpy(own)
            vector[rows] += config.evidence * torch.from_numpy(pull)
        move = -torch.linalg.solve(matrix, vector).reshape(2, 2)
        angles = angles + move.clamp(-config.step, config.step)
        if float(move.abs().max()) < 1e-4:
            break
    seen = torch.tensor([max(globe.seen, 1e-6) for globe in eyes.globes], dtype=torch.float64)
    return Gaze(angles, (agreed / seen).clamp(0, 1))


def _searched(
    eyes: Eyes, both: Sequence[Patches], last: Tensor, config: EyeConfig
) -> Float[Tensor, "2 2"]:
    """The likeliest of many gazes on a grid, common to both eyes, or the last frame's."""
    ways = [np.arange(-r, r + 1e-9, config.step) for r in config.reach]
    yaw, pitch = (torch.from_numpy(a) for a in np.meshgrid(*ways))
    grid = torch.stack([yaw, pitch], -1).reshape(-1, 1, 2).expand(-1, 2, -1)
    grid = torch.cat([last[None], grid])
    score = np.zeros(len(grid), np.float32)
    for side, globe in enumerate(eyes.globes):
        if not len(globe.samples):
            continue
        few = slice(None, None, max(1, len(globe.samples) // config.few))
        turns = eyes.turns(grid[:, side]).float().numpy()
        score += kernels.likeness(
            globe.samples[few], globe.areas[few], globe.colors[few], globe.trust[few], turns,
            *both[side].arrays, np.float32(config.noise), np.float32(config.cut),
        ) * np.float32(len(globe.samples) / len(globe.samples[few]))  # fmt: skip
    return grid[int(score.argmax())].clone()


def _priors(angles: Tensor, last: Tensor, config: EyeConfig) -> tuple[Tensor, Tensor]:
    """Normal equations [4 4], [4] of staying near the last frame and of looking the same way."""
    matrix = torch.eye(4, dtype=torch.float64) * config.wander**-2
    vector = config.wander**-2 * (angles - last).reshape(4)
    for axis, spread in enumerate(config.vergence):
        weight = spread**-2
        apart = weight * (angles[0, axis] - angles[1, axis])
        for row, sign in ((axis, 1), (2 + axis, -1)):
            vector[row] += sign * apart
            matrix[row, row] += weight
            matrix[row, (row + 2) % 4] -= weight
    return matrix, vector


def _turn_and_slopes(eyes: Eyes, gaze: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """A globe's rotation [3 3] and its derivatives [2 3 3] in both angles."""
    nudge = 1e-5
    steps = nudge * torch.tensor([[0.0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    turns = eyes.turns(gaze + steps)
    slopes = (turns[[1, 3]] - turns[[2, 4]]) / (2 * nudge)
    return turns[0].float().numpy(), slopes.float().numpy()


def _equations(
    globe: Globe, patches: Patches, turn: np.ndarray, slopes: np.ndarray, config: EyeConfig
) -> tuple[np.ndarray, np.ndarray, float]:
    """Matrix [2 2] and gradient [2] of an eye's angles, and the pixels that agree."""
    terms = kernels.equations(
        globe.samples, globe.areas, globe.colors, globe.trust, turn, slopes, *patches.arrays,
        np.float32(config.noise), np.float32(config.cut),
    ).sum(0)  # fmt: skip
    return terms[[0, 1, 1, 2]].reshape(2, 2), terms[3:5], float(terms[5])


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
