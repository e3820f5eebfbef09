"""Random people for the stage: shape, eyes that look, and the fine surface that is filmed."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import ARKIT_52, HeadModel, Topology
from topohead.geometry.globes import fit_sphere
from topohead.geometry.meshes import boundary_edges, triangle_areas, vertex_normals
from topohead.geometry.subdivision import catmull_clark
from topohead.synthesis.noise import Noise
from topohead.synthesis.performances import Motion, euler
from topohead.synthesis.teeth import BANDS

FIELD_WAVELENGTH = 0.055
"""Metres from bump to bump of the shape that no head model spans."""


ASYMMETRY = 0.08
"""Deviation of the weight of every one-sided shape, of which 1 is extreme."""


@dataclass(frozen=True)
class Globe:
    """One eyeball: its vertices on the head, its centre and radius in the head frame at rest."""

    vertices: Int[Tensor, " N"]
    center: Float[Tensor, "3"]
    radius: float


@dataclass(frozen=True)
class Surfaces:
    """A subject in one instant, world metres.

    `vertices` are those of the tracked topology; they are the first rows of `surface`, the finer
    filmed surface, so they lie on it exactly. `press` is by how much of its present size the skin
    was larger at rest.
    """

    vertices: Float[Tensor, "V 3"]
    surface: Float[Tensor, "S 3"]
    normals: Float[Tensor, "S 3"]
    press: Float[Tensor, " S"]


@dataclass(frozen=True)
class Subject:
    """A person: a head model's identity, a shape of its own besides, eyes, and fine relief.

    `rest` is the neutral control mesh in the head frame. `place` puts the head into the world in
    the first frame. `finer` is the filmed surface's topology, its first vertices the tracked ones;
    `relief` is the height of its wrinkles and folds, metres.
    """

    head: HeadModel
    identity: Float[Tensor, " I"]
    rest: Float[Tensor, "V 3"]
    place: Float[Tensor, "4 4"]
    globes: tuple[Globe, ...]
    finer: Topology
    refinement: Float[Tensor, "S V"]
    relief: Float[Tensor, " S"]

    @cached_property
    def _rest_stretch(self) -> Float[Tensor, " S"]:
        return _vertex_area(self.refinement @ self.rest, self.finer)

    @cached_property
    def blockers(self) -> Int[Tensor, "K 3"]:
        """Triangles of the tracked topology that are filmed, and so throw shadows."""
        return _filmed(self.head.topology).triangles

    @cached_property
    def rim(self) -> Int[Tensor, "E 2"]:
        """Edges of the finer surface around the open neck, as its faces run."""
        edges = boundary_edges(self.finer)
        return edges[self.finer.region_mask("boundary")[edges].all(1)]

    def control(
        self, coefficients: Float[Tensor, " 52"], gaze: Float[Tensor, "2 2"]
    ) -> Float[Tensor, "V 3"]:
        """Control vertices in the head frame; eyeballs turn rigidly by yaw and pitch (radians)."""
        moved = self.rest + _blended(coefficients.float(), self.head.expression_basis)
        for globe, (yaw, pitch) in zip(self.globes, gaze.tolist(), strict=True):
            turn = euler(torch.tensor([yaw, -pitch, 0.0]))  # about +x, positive looks down
            arm = self.rest[globe.vertices] - globe.center
            moved[globe.vertices] = globe.center + arm @ turn.T.float()
        return moved

    def at(self, motion: Motion, frame: int) -> Surfaces:
        """The person in one frame of a motion, in the world."""
        control = self.control(motion.coefficients[frame], motion.gaze[frame])
        smooth = self.refinement @ control
        normals = vertex_normals(smooth, self.finer.triangles)
        # skin that is pressed together folds: relief deepens where area has shrunk
        press = (self._rest_stretch / _vertex_area(smooth, self.finer) - 1).clamp(-0.5, 1.5)
        surface = smooth + (self.relief * (1 + press))[:, None] * normals
        pose = (motion.poses[frame] @ self.place).float()
        world = surface @ pose[:3, :3].T + pose[:3, 3]
        count = self.head.topology.vertex_count
        normals = vertex_normals(world, self.finer.triangles)
        return Surfaces(world[:count], world, normals, press)


def make_subject(
    head: HeadModel,
    seed: int,
    identity_scale: float = 0.8,
    field_mm: float = 1.2,
    relief_mm: float = 0.12,
    asymmetry: Float[Tensor, "A V 3"] | None = None,
) -> Subject:
    """A random person.

    Identity is normal with deviation `identity_scale`, cut at 2.2; a smooth field of `field_mm`
    rms, half of it one-sided, makes a shape outside the model's span; `relief_mm` is the depth of
    strong wrinkles; `asymmetry` is a basis of one-sided shapes, a little of each is used. The head
    stands near the origin, turned by a few degrees.
    """
    generator = torch.Generator().manual_seed(seed * 7919 + 3)
    identity = torch.randn(len(head.identity_basis), generator=generator).clamp(-2.2, 2.2)
    identity = identity * identity_scale
    noise = Noise(seed)
    field = noise.smooth(head.template, FIELD_WAVELENGTH, "shape", 3)
    mirrored = noise.smooth(
        head.template * torch.tensor([-1.0, 1, 1]), FIELD_WAVELENGTH, "shape", 3
    )
    even = (field + mirrored * torch.tensor([-1.0, 1, 1])) / 2
    mixed = 0.5 * field + 0.5 * even
    own = mixed * (field_mm / 1000 / mixed.norm(dim=1).square().mean().sqrt())
    rest = head.template + _blended(identity, head.identity_basis) + own
    if asymmetry is not None:
        amounts = ASYMMETRY * torch.randn(len(asymmetry), generator=generator)
        rest = rest + _blended(amounts, asymmetry)
    globes = _find_globes(head, rest)
    rest = _reseat(rest, globes, head)
    # nobody asks the filmed surface for its mirror map, and it takes seconds
    finer, refinement = catmull_clark(replace(head.topology, mirror=None))
    finer = _filmed(finer)
    template = refinement @ head.template
    relief = _relief(noise, template, finer) * relief_mm / 1000
    return Subject(
        head, identity, rest, _placement(rest, generator), globes, finer, refinement, relief
    )


def _filmed(topology: Topology) -> Topology:
    """Without the transparent shells (tears, lashes) that some heads wrap around eyes, and without
    the plain bands in whose place others show `synthesis.teeth`."""
    hidden = [name for name in ("eye_shells", *BANDS) if name in topology.regions]
    if not hidden:
        return topology
    shown = ~topology.region_mask(*hidden)[topology.faces].all(1)
    return replace(topology, faces=topology.faces[shown], face_uv=topology.face_uv[shown])


def _find_globes(head: HeadModel, rest: Float[Tensor, "V 3"]) -> tuple[Globe, ...]:
    """The eyeballs, left (+x) first: a sphere fitted to each side's vertices of region `eyes`."""
    eyes = head.topology.regions["eyes"]
    globes = []
    for side in (1.0, -1.0):
        chosen = eyes[head.template[eyes, 0] * side > 0]
        center, radius = fit_sphere(rest[chosen])
        globes.append(Globe(chosen, center, radius))
    return tuple(globes)


def _reseat(
    rest: Float[Tensor, "V 3"], globes: tuple[Globe, ...], head: HeadModel
) -> Float[Tensor, "V 3"]:
    """Eyeballs as similar copies of the template's, so that the shape field cannot dent them."""
    rest = rest.clone()
    for globe in globes:
        center, radius = fit_sphere(head.template[globe.vertices])
        arm = (head.template[globe.vertices] - center) / radius
        rest[globe.vertices] = globe.center + arm * globe.radius
    return rest


def _blended(weights: Float[Tensor, " K"], basis: Float[Tensor, "K V 3"]) -> Float[Tensor, "V 3"]:
    """Σ weight · basis, summed in a fixed order, so that the same seed gives the same bytes."""
    used = weights.nonzero()[:, 0]
    return (weights[used, None, None] * basis[used]).sum(0)


def _placement(rest: Float[Tensor, "V 3"], generator: torch.Generator) -> Float[Tensor, "4 4"]:
    """Where the head is in the first frame: centred, then nudged, as no one sits exactly."""
    center = ((rest.amin(0) + rest.amax(0)) / 2).double()
    random = torch.rand(6, generator=generator, dtype=torch.float64) * 2 - 1
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = euler(random[:3] * torch.tensor([0.07, 0.05, 0.03]))
    pose[:3, 3] = random[3:] * 0.008 - pose[:3, :3] @ center
    return pose


def _relief(noise: Noise, template: Float[Tensor, "S 3"], finer: Topology) -> Float[Tensor, " S"]:
    """Height of folds in strong wrinkles: lines across the forehead, else soft bumps.

    Only what the finer mesh can carry, wavelengths of 5 mm and more; pores are in the skin's maps.
    """
    soft = noise.smooth(template, 0.012, "relief-soft")[:, 0]
    fine = noise.smooth(template, 0.006, "relief-fine")[:, 0]
    brow = template[finer.regions["brows"], 1].mean() if "brows" in finer.regions else None
    height = 0.35 * soft + 0.25 * fine
    if brow is not None:
        stretched = template * torch.tensor([0.25, 1.0, 0.5])  # long bumps run left to right
        lines = noise.smooth(stretched, 0.007, "relief-lines")[:, 0]
        above = torch.exp(-(((template[:, 1] - brow - 0.03) / 0.018) ** 2))
        height = height + 0.8 * above * lines * (template[:, 2] > template[:, 2].mean())
    quiet = torch.zeros(len(template), dtype=torch.bool)
    for name in ("eyes", "mouth_interior", "eyelids", "lips", "boundary"):
        if name in finer.regions:
            quiet[finer.regions[name]] = True
    weight = (~quiet).float()
    edges = finer.edges
    for _ in range(4):  # fade out over a few rings
        mean = torch.zeros_like(weight).index_add_(0, edges[:, 0], weight[edges[:, 1]])
        mean.index_add_(0, edges[:, 1], weight[edges[:, 0]])
        degree = torch.bincount(edges.flatten(), minlength=len(weight)).clamp(min=1)
        weight = torch.minimum(weight, mean / degree)
    return height * weight


def _vertex_area(vertices: Float[Tensor, "S 3"], topology: Topology) -> Float[Tensor, " S"]:
    area = triangle_areas(vertices, topology.triangles)
    out = torch.full((len(vertices),), 1e-12)
    for corner in range(3):
        out.index_add_(0, topology.triangles[:, corner], area)
    return out


def neutral_motion() -> Motion:
    """One frame of nothing: for pictures of a subject at rest."""
    return Motion(
        torch.zeros(1, len(ARKIT_52), dtype=torch.float64),
        torch.zeros(1, 2, 2, dtype=torch.float64),
        torch.eye(4, dtype=torch.float64)[None],
        30.0,
        "rest",
    )
