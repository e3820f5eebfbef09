"""The published method, Topo4D (Li et al. 2024), as the baseline of our own tracker.

One Gaussian on every vertex. The first frame teaches sizes, rotations and each camera's colour;
every later frame moves centres and rotations by Adam on one random view a step, held together by
losses of physics and topology. Numbers marked [P] stand in the paper, [C] in the released code as
described in our specification; rates belong to a scene in units of about 0.15 m, so the scene is
scaled there and back.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Mesh, TrackedFrame, Views
from topohead.geometry.alignment import rigid
from topohead.geometry.meshes import vertex_normals
from topohead.losses.photometric import Target
from topohead.rendering import splats
from topohead.solvers.gaussian_mesh import (
    Links,
    Regularizer,
    half_shortest_edge,
    link,
    outline_masks,
    sample_vertex_colors,
    turn_to_normals,
)
from topohead.solvers.kernels.gaussian_mesh import adam_step


@dataclass(frozen=True)
class PublishedWeights:
    """Weights of the losses."""

    dssim: float = 0.2
    """[P] λ of Eq. 4."""
    scale: float = 10.0
    """[P] of Eq. 5."""
    growth: float = 1.5
    """[C] of Eq. 5: size past this multiple of the initial one is punished."""
    rotation: float = 20.0
    """[P] of Eq. 8."""
    isometry: float = 20.0
    """[P] of Eq. 10."""
    rigidity: float = 3.5
    """[C] not in the paper."""
    falloff: float = 2000.0
    """[C] λ_w of Eq. 9, 1/unit²; the weight stands inside the root."""
    position: float = 1e3
    """[P] of Eq. 12, all vertices in the paper; on `position_regions`."""
    lid_position: float = 1e4
    """[C] the same on the eyelids."""
    flat: float = 2e-4
    """[P] of Eq. 13, against the first frame."""
    flat_floor: float = 1e-6
    """[C] keeps the slope of an angle finite at flat edges."""


@dataclass(frozen=True)
class PublishedRates:
    """Steps of Adam [C], in units of the scene."""

    center: float = 1.6e-5
    center_factor: float = 5.0
    """Multiplies the centres' rate; of 1, 2 and 5 the best, see `PublishedConfig`."""
    rotation: float = 1e-3
    log_scale: float = 1e-3
    color: float = 2.5e-3
    camera: float = 1e-4
    last_color: float = 2.5e-4


@dataclass(frozen=True)
class PublishedConfig:
    """Schedule and scene of the published method.

    Measured on staged heads (18 k vertices, 12 views of 512×384, 0.7 mm a pixel, exact start;
    vertex error in the face in mm, median, of the second and third frame): still head 0.53 and
    1.25 at centre rate ×1, 0.51 and 1.20 at ×2, 0.52 and 1.18 at ×5, with the surface within
    0.18 mm and 0.38 mm in each; head moving 3 mm a frame 2.55 and 3.85 at ×1, 2.31 and 3.67 at ×5.
    Eq. 12 on named regions, on all vertices or on none made no difference over 0.02 mm.
    """

    weights: PublishedWeights = field(default_factory=PublishedWeights)
    rates: PublishedRates = field(default_factory=PublishedRates)
    first_steps: int = 7000
    """[C] steps on the first frame."""
    steps: int = 1000
    """[P] steps on centres and rotations in every later frame."""
    color_steps: int = 100
    """[C] then steps on colours alone."""
    unit: float = 0.15
    """Metres in one unit of the scene: the size the rates were chosen for."""
    thickness: float = 0.1
    """Initial size along the normal, as a share of the size along the surface."""
    expansion_limit: float = 0.001
    """[C] units that normal expansion moves a vertex at most."""
    mouth: float = 0.0
    """Share of the picture left where the mouth's inside shows: 0 masks it out [P], 0.1 dims the
    target [C], 1 leaves it."""
    margin: int = 12
    """Pixels around the last frame's outline in which the masks' subject counts."""
    position_regions: tuple[str, ...] = ("eyelids", "eyes", "mouth_interior")
    """[C] regions with Eq. 12; physics is off there. Empty: all vertices, as in [P]."""
    frozen: tuple[str, ...] = ()
    """Regions that stay in the world. [C] freezes a quarter of the vertices, which forbids the
    head to move; hence none here."""
    seed: int = 0


@dataclass(frozen=True)
class PublishedState:
    """All that one frame hands to the next; float32 arrays in units of the scene."""

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    colors: np.ndarray
    gains: np.ndarray
    """[C 3] what each camera makes of the colours: gain · colour + offset."""
    offsets: np.ndarray
    steps: int
    """Steps taken so far; Adam's counter goes on while its moments start again [C]."""
    first_residual: float


@dataclass(frozen=True)
class PublishedScene:
    """What stays the same over a take."""

    mesh: Mesh
    center: Float[Tensor, "3"]
    links: Links
    initial_scales: np.ndarray
    is_face: np.ndarray
    moves: np.ndarray
    config: PublishedConfig

    def to_units(self, vertices: Float[Tensor, "V 3"]) -> np.ndarray:
        """Metres in the world to units of the scene."""
        scaled = (vertices.double() - self.center) / self.config.unit
        return np.ascontiguousarray(scaled.float().numpy())

    def to_meters(self, means: np.ndarray) -> Float[Tensor, "V 3"]:
        """Units of the scene to metres in the world."""
        return (torch.from_numpy(means).double() * self.config.unit + self.center).float()


def track_published(
    frames: Iterable[Views],
    first: Mesh,
    config: PublishedConfig | None = None,
    colors: Float[Tensor, "V 3"] | None = None,
) -> Iterator[TrackedFrame]:
    """Carry the first frame's mesh through the frames; the first of them is the mesh's own.

    `colors` of the vertices (srgb, of a texture) default to what the first views show.
    """
    scene = make_scene(first, config or PublishedConfig())
    state = None
    for views in frames:
        if state is None:
            started = time.perf_counter()
            state = learn_first_frame(views, scene, colors)
            yield _first_answer(views, scene, state, time.perf_counter() - started)
        else:
            state, answer = advance(views, scene, state)
            yield answer


def make_scene(first: Mesh, config: PublishedConfig) -> PublishedScene:
    """Prepare a mesh: neighbourhoods, initial sizes, regions. Regions it lacks are passed over."""
    topology, vertices = first.topology, first.vertices.double()
    center = vertices.mean(0)
    count, weights = topology.vertex_count, config.weights
    size = half_shortest_edge(Mesh(topology, vertices)) / config.unit
    scales = size[:, None] * torch.tensor([1.0, 1.0, config.thickness], dtype=torch.float64)
    special = _members(first, config.position_regions)
    position = torch.where(special, weights.position, 0.0)
    if not config.position_regions:
        position = torch.full((count,), weights.position)
    else:
        position[_members(first, ("eyelids",)) & special] = weights.lid_position
    face = _members(first, ("face",))
    links = link(
        topology, (vertices - center) / config.unit, weights.falloff, position, (~special).double()
    )
    return PublishedScene(
        Mesh(topology, vertices),
        center,
        links,
        np.ascontiguousarray(scales.float().numpy()),
        (face if face.any() else torch.ones(count, dtype=torch.bool)).numpy(),
        (~_members(first, config.frozen)).numpy(),
        config,
    )


def learn_first_frame(
    views: Views, scene: PublishedScene, colors: Float[Tensor, "V 3"] | None = None
) -> PublishedState:
    """Sizes, rotations, colours off the face, and camera colours from the first frame (Eq. 6)."""
    config, rates, mesh = scene.config, scene.config.rates, scene.mesh
    if colors is None:
        colors = sample_vertex_colors(views, mesh)
    normals = vertex_normals(mesh.vertices, mesh.topology.triangles)
    state = PublishedState(
        scene.to_units(mesh.vertices),
        turn_to_normals(normals).float().numpy(),
        scene.initial_scales.copy(),
        np.ascontiguousarray(colors.float().numpy()),
        np.ones((len(views.cameras), 3), np.float32),
        np.zeros((len(views.cameras), 3), np.float32),
        0,
        0.0,
    )
    descent = _Descent(views, scene, state, mesh.vertices)
    logarithms = np.log(state.scales)
    floor = np.log(1e-3 * scene.initial_scales.max(1, keepdims=True))
    off_face = ~scene.is_face[:, None]
    for _ in range(config.first_steps):
        table = descent.look(with_camera=True)
        d_scales = table[:, 7:10] + _scale_slope(state.scales, scene.initial_scales, config)
        descent.move("quats", state.quats, table[:, 3:7], rates.rotation)
        descent.move("scales", logarithms, d_scales * state.scales, rates.log_scale)
        descent.move("colors", state.colors, table[:, 10:13] * off_face, rates.color)
        np.maximum(logarithms, floor, out=logarithms)  # a flat Gaussian may not vanish
        np.exp(logarithms, out=state.scales)
    return replace(state, steps=descent.step, first_residual=descent.residual)


def advance(
    views: Views, scene: PublishedScene, state: PublishedState
) -> tuple[PublishedState, TrackedFrame]:
    """One later frame: centres and rotations under Eq. 7, then colours alone."""
    started = time.perf_counter()
    config, rates, weights = scene.config, scene.config.rates, scene.config.weights
    last = scene.to_meters(state.means)
    state = replace(state, **{k: getattr(state, k).copy() for k in ("means", "quats", "colors")})
    ruler = Regularizer.since(
        state.means,
        state.quats,
        scene.links,
        (weights.rotation, weights.rigidity, weights.isometry),
        weights.flat,
        weights.flat_floor,
    )
    descent = _Descent(views, scene, state, last)
    moves = scene.moves[:, None]
    for _ in range(config.steps):
        table = descent.look()
        d_means, d_quats = ruler.gradient(state.means, state.quats)
        d_means += table[:, :3]
        d_quats += table[:, 3:7]
        descent.move("means", state.means, d_means * moves, rates.center * rates.center_factor)
        descent.move("quats", state.quats, d_quats * moves, rates.rotation)
    for _ in range(config.color_steps):
        descent.move("colors", state.colors, descent.look()[:, 10:13], rates.last_color)
    state = replace(state, steps=descent.step)
    vertices = expanded(scene, state)
    return state, TrackedFrame(
        views.frame,
        vertices,
        _head_pose(scene, vertices),
        torch.from_numpy(state.gains),
        descent.residual,
        not bool(torch.isfinite(vertices).all())
        or descent.residual > 3 * max(state.first_residual, 1e-3),
        time.perf_counter() - started,
    )


def expanded(scene: PublishedScene, state: PublishedState) -> Float[Tensor, "V 3"]:
    """Normal expansion: each vertex pushed out by its Gaussian's extent, √(nᵀ Σ n), metres."""
    means = torch.from_numpy(state.means).double()
    normals = vertex_normals(means, scene.mesh.topology.triangles)
    quats = torch.nn.functional.normalize(torch.from_numpy(state.quats).double(), dim=1)
    w, v = quats[:, :1], quats[:, 1:]
    # the normal in the Gaussian's axes: q⁻¹ n
    twice = 2 * torch.linalg.cross(-v, normals)
    inside = normals + w * twice + torch.linalg.cross(-v, twice)
    extent = (inside * torch.from_numpy(state.scales).double()).norm(dim=1)
    extent = extent.clamp(max=scene.config.expansion_limit)
    return scene.to_meters((means + extent[:, None] * normals).float().numpy())


class _Descent:
    """Adam on one frame: pictures to match, moments, and a random view for every step."""

    def __init__(
        self, views: Views, scene: PublishedScene, state: PublishedState, vertices: Tensor
    ) -> None:
        config = scene.config
        self.scene, self.state = scene, state
        self.targets = _targets(views, scene, vertices)
        self.cameras = [_camera(views, index, scene) for index in range(len(views.cameras))]
        self.step, self.residual = state.steps, 0.0
        self.random = np.random.default_rng((config.seed, state.steps))
        self.moments: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        sizes = [views.cameras.size(index) for index in range(len(views.cameras))]
        self.no_alpha = [np.zeros((height, width), np.float32) for width, height in sizes]
        self.looks = 0

    def look(self, with_camera: bool = False) -> np.ndarray:
        """∂L/∂Gaussians [V 14] of Eq. 4 in a view drawn at random."""
        state = self.state
        view = int(self.random.integers(len(self.cameras)))
        self.step += 1
        self.looks += 1
        opacities = np.ones(len(state.means), np.float32)
        gaussians = splats.Gaussians(
            state.means, state.quats, state.scales, opacities, state.colors
        )
        height, width = self.no_alpha[view].shape
        near = 0.01 / self.scene.config.unit
        black = np.zeros(3, np.float32)
        drawn = splats.forward(gaussians, self.cameras[view], (width, height), black, near)
        # rows as vectors of 3 W numbers: numpy is slow where the last axis is short
        gain, offset = np.tile(state.gains[view], width), np.tile(state.offsets[view], width)
        flat = drawn.image.reshape(height, -1)
        seen = (flat * gain + offset).reshape(drawn.image.shape)
        value, by_pixel = self.targets[view].compare(seen, self.scene.config.weights.dssim)
        self.residual += (value - self.residual) * max(0.02, 1 / self.looks)
        by_flat = by_pixel.reshape(height, -1)
        by_color = (by_flat * gain).reshape(by_pixel.shape)
        table = splats.backward(gaussians, self.cameras[view], drawn, by_color, self.no_alpha[view])
        if with_camera:
            rate = self.scene.config.rates.camera
            d_gains, d_offsets = np.zeros_like(state.gains), np.zeros_like(state.offsets)
            d_gains[view] = (by_flat * flat).sum(0).reshape(-1, 3).sum(0)
            d_offsets[view] = by_flat.sum(0).reshape(-1, 3).sum(0)
            self.move("gains", state.gains, d_gains, rate)
            self.move("offsets", state.offsets, d_offsets, rate)
        return table

    def move(self, name: str, values: np.ndarray, gradient: np.ndarray, rate: float) -> None:
        """One step of Adam, in place."""
        if name not in self.moments:
            self.moments[name] = np.zeros_like(values), np.zeros_like(values)
        adam_step(values, gradient, *self.moments[name], rate, self.step)


def _targets(views: Views, scene: PublishedScene, vertices: Tensor) -> list[Target]:
    """The pictures to match, and which of their pixels count.

    With masks: the subject near the last outline. The background never counts: Gaussians reach
    past the outline, so black around it presses the surface inward (staged head: 0.31 mm median
    to the surface with the background, 0.18 mm without). Where the take has no masks, background
    cannot be told from skin: only pixels inside the last outline count.
    """
    config = scene.config
    targets = []
    for index, image in enumerate(views.images):
        margin = 0 if views.masks is None else config.margin
        last = Mesh(scene.mesh.topology, vertices)
        counts, mouth = outline_masks(last, views.cameras, index, "mouth_interior", margin)
        if views.masks is not None:
            counts = counts & (views.masks[index] > 0.95)
        picture = image
        if config.mouth > 0:
            picture = torch.where(mouth[..., None], config.mouth * picture, picture)
        else:
            counts = counts & ~mouth
        targets.append(Target.of(picture.float().numpy(), counts.float().numpy()))
    return targets


def _camera(views: Views, index: int, scene: PublishedScene) -> np.ndarray:
    """A camera of the scaled scene: its translation in units, from the scene's centre."""
    pose = views.cameras.world_to_camera[index].double().clone()
    pose[:3, 3] = (pose[:3, :3] @ scene.center + pose[:3, 3]) / scene.config.unit
    return splats.pack_camera(pose, views.cameras.intrinsics[index])


def _scale_slope(scales: np.ndarray, initial: np.ndarray, config: PublishedConfig) -> np.ndarray:
    """∂/∂scales of the weighted Eq. 5 (`losses.geometric.scale_excess`)."""
    slope = (scales > config.weights.growth * initial).astype(np.float32)
    slope[np.arange(len(scales)), scales.argmin(1)] += 1
    return config.weights.scale * slope


def _members(mesh: Mesh, regions: tuple[str, ...]) -> Tensor:
    present = [name for name in regions if name in mesh.topology.regions]
    return mesh.topology.region_mask(*present)


def _head_pose(scene: PublishedScene, vertices: Tensor) -> Float[Tensor, "4 4"]:
    """How the skull moved since the first frame; all vertices where no region says `rigid`."""
    skull = _members(scene.mesh, ("rigid",))
    chosen = skull if skull.any() else torch.ones_like(skull)
    return rigid(scene.mesh.vertices[chosen], vertices.double()[chosen])


def _first_answer(
    views: Views, scene: PublishedScene, state: PublishedState, seconds: float
) -> TrackedFrame:
    """The first frame is the given mesh; nothing is expanded there [C]."""
    return TrackedFrame(
        views.frame,
        scene.mesh.vertices.float(),
        torch.eye(4, dtype=torch.float64),
        torch.from_numpy(state.gains.copy()),
        state.first_residual,
        False,
        seconds,
    )
