"""What the published method knows of a take: its numbers, its scene, the state between frames.

Numbers marked [P] stand in the paper (Topo4D, Li et al. 2024), [C] in the released code as
described in our specification; rates belong to a scene in units of about 0.15 m, so the scene is
scaled there and back.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Mesh, TrackedFrame, Views
from topohead.geometry.alignment import rigid
from topohead.geometry.meshes import vertex_normals
from topohead.solvers.gaussian_mesh import (
    Links,
    half_shortest_edge,
    link,
    outline_masks,
    sample_vertex_colors,
    turn_to_normals,
)


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

    def poses_in_units(self, views: Views) -> Float[Tensor, "C 4 4"]:
        """Cameras of the scaled scene: translations in units, from the scene's centre."""
        poses = views.cameras.world_to_camera.double().clone()
        moved = poses[:, :3, :3] @ self.center + poses[:, :3, 3]
        poses[:, :3, 3] = moved / self.config.unit
        return poses

    @property
    def near(self) -> float:
        """Gaussians nearer than a centimetre are not drawn; units."""
        return 0.01 / self.config.unit


def make_scene(first: Mesh, config: PublishedConfig) -> PublishedScene:
    """Prepare a mesh: neighbourhoods, initial sizes, regions. Regions it lacks are passed over."""
    topology, vertices = first.topology, first.vertices.double()
    center = vertices.mean(0)
    count, weights = topology.vertex_count, config.weights
    size = half_shortest_edge(Mesh(topology, vertices)) / config.unit
    scales = size[:, None] * torch.tensor([1.0, 1.0, config.thickness], dtype=torch.float64)
    special = members(first, config.position_regions)
    position = torch.where(special, weights.position, 0.0)
    if not config.position_regions:
        position = torch.full((count,), weights.position)
    else:
        position[members(first, ("eyelids",)) & special] = weights.lid_position
    face = members(first, ("face",))
    links = link(
        topology, (vertices - center) / config.unit, weights.falloff, position, (~special).double()
    )
    return PublishedScene(
        Mesh(topology, vertices),
        center,
        links,
        np.ascontiguousarray(scales.float().numpy()),
        (face if face.any() else torch.ones(count, dtype=torch.bool)).numpy(),
        (~members(first, config.frozen)).numpy(),
        config,
    )


def starting_state(
    views: Views, scene: PublishedScene, colors: Float[Tensor, "V 3"] | None = None
) -> PublishedState:
    """Gaussians on the vertices of the given mesh, before anything is learnt."""
    mesh = scene.mesh
    if colors is None:
        colors = sample_vertex_colors(views, mesh)
    normals = vertex_normals(mesh.vertices, mesh.topology.triangles)
    return PublishedState(
        scene.to_units(mesh.vertices),
        turn_to_normals(normals).float().numpy(),
        scene.initial_scales.copy(),
        np.ascontiguousarray(colors.float().numpy()),
        np.ones((len(views.cameras), 3), np.float32),
        np.zeros((len(views.cameras), 3), np.float32),
        0,
        0.0,
    )


def views_at_random(seed: int, steps: int, count: int) -> Iterator[int]:
    """Which of `count` views each step looks at, with replacement [C].

    The order depends on the seed and on the steps taken before, not on the device.
    """
    random = np.random.default_rng((seed, steps))
    while True:
        yield int(random.integers(count))


def pictures_to_match(
    views: Views, scene: PublishedScene, vertices: Float[Tensor, "V 3"]
) -> Iterator[tuple[Float[Tensor, "_ _ 3"], Float[Tensor, "_ _"]]]:
    """Each view's picture, and which of its pixels count, on the pictures' device.

    With masks: the subject near the last outline. The background never counts: Gaussians reach
    past the outline, so black around it presses the surface inward (staged head: 0.31 mm median
    to the surface with the background, 0.18 mm without). Where the take has no masks, background
    cannot be told from skin: only pixels inside the last outline count.
    """
    config = scene.config
    for index, image in enumerate(views.images):
        margin = 0 if views.masks is None else config.margin
        last = Mesh(scene.mesh.topology, vertices)
        counts, mouth = outline_masks(
            last, views.cameras, index, "mouth_interior", margin, image.device
        )
        if views.masks is not None:
            counts = counts & (views.masks[index] > 0.95)
        picture = image
        if config.mouth > 0:
            picture = torch.where(mouth[..., None], config.mouth * picture, picture)
        else:
            counts = counts & ~mouth
        yield picture.float(), counts.float()


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


def members(mesh: Mesh, regions: tuple[str, ...]) -> Tensor:
    """Mask [V] of those of the regions that the mesh names."""
    present = [name for name in regions if name in mesh.topology.regions]
    return mesh.topology.region_mask(*present)


def head_pose(scene: PublishedScene, vertices: Tensor) -> Float[Tensor, "4 4"]:
    """How the skull moved since the first frame; all vertices where no region says `rigid`."""
    skull = members(scene.mesh, ("rigid",))
    chosen = skull if skull.any() else torch.ones_like(skull)
    return rigid(scene.mesh.vertices[chosen], vertices.double()[chosen])


def later_answer(
    views: Views, scene: PublishedScene, state: PublishedState, residual: float, started: float
) -> TrackedFrame:
    """What a later frame's state says of the mesh; `started` is when the clock started."""
    vertices = expanded(scene, state)
    return TrackedFrame(
        views.frame,
        vertices,
        head_pose(scene, vertices),
        torch.from_numpy(state.gains),
        residual,
        not bool(torch.isfinite(vertices).all()) or residual > 3 * max(state.first_residual, 1e-3),
        time.perf_counter() - started,
    )


def first_answer(
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
