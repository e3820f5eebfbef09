"""Lids that stay outside their globes, for many heads at once."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.compiled import compiled
from topohead.geometry.globes import RadialMap, fit_sphere
from topohead.geometry.meshes import neighbour_rings
from topohead.geometry.patches import RINGS, Patch

THICKNESS = 1e-4
"""Lids keep this distance from a globe, metres, or what they had at rest if less."""


@dataclass(frozen=True)
class GlobeContact:
    """One eye: the globe's own vertices `globe`, and the patch of skin that slides over it.

    `arms` are the globe's vertices about its centre on the template, `offset` leads from their mean
    to that centre; `shape` is the globe's distance map in metres, `needed` [K] the clearance that
    the template has, at most `THICKNESS`; −∞ where skin was inside at rest or is no lid.
    """

    globe: Int[Tensor, " G"]
    arms: Float[Tensor, "G 3"]
    offset: Float[Tensor, "3"]
    radius: float
    shape: RadialMap
    patch: Patch
    needed: Float[Tensor, " K"]

    @staticmethod
    def of(topology: Topology, template: Float[Tensor, "V 3"], name: str) -> "GlobeContact":
        """Of the region `name`, `eye_left` or `eye_right`."""
        globe = topology.regions[name]
        center, radius = fit_sphere(template[globe])
        inside = topology.triangle_mask(name)
        arms = template - center
        shape = RadialMap.of(arms, topology.triangles[inside], radius)
        lids = topology.region_mask("eyelids")
        skin = ~topology.region_mask("eyes", "mouth_interior")
        near = (neighbour_rings(topology, lids, RINGS) <= RINGS) & skin
        patch = Patch.of(topology, near & (arms.norm(dim=1) < 2.2 * radius))
        clear = shape.clearance(arms[patch.vertices])
        needed = clear.clamp(max=THICKNESS)
        needed[~lids[patch.vertices] | (clear <= 0)] = -torch.inf
        mean = template[globe].mean(0)
        return GlobeContact(
            globe, template[globe] - mean, center - mean, radius, shape, patch, needed.float()
        )

    def to(self, device: torch.device | str) -> "GlobeContact":
        """The same on a device."""
        return GlobeContact(
            self.globe.to(device),
            self.arms.to(device),
            self.offset.to(device),
            self.radius,
            RadialMap(self.shape.radius.to(device)),
            self.patch.to(device),
            self.needed.to(device),
        )

    def placed(
        self, rest: Float[Tensor, "B V 3"]
    ) -> tuple[Float[Tensor, "B 3"], Float[Tensor, " B"]]:
        """Centre, and size against the template's, of unturned globes similar to it."""
        own = rest[:, self.globe]
        mean = own.mean(1)
        size = ((own - mean[:, None]) * self.arms).sum((1, 2)) / self.arms.square().sum()
        return mean + size[:, None] * self.offset, size

    def clearance(
        self,
        vertices: Float[Tensor, "B V 3"],
        center: Float[Tensor, "B 3"],
        size: Float[Tensor, " B"],
        turn: Float[Tensor, "B 3 3"],
    ) -> Float[Tensor, "B K"]:
        """How far the patch lies outside the globe turned by `turn`, metres."""
        if compiled(vertices):
            from topohead.geometry import lids_triton  # noqa: PLC0415 -- only where CUDA is

            globe = (center, size, turn)
            return lids_triton.clearance(vertices, self.patch.vertices, globe, self.shape.radius)
        arms = (vertices[:, self.patch.vertices] - center[:, None]) / size[:, None, None]
        # row vectors times R are Rᵀ · arm: the arm in the globe's axes
        own = (arms[..., None] * turn[:, None]).sum(-2)
        clear = self.shape.clearance(own.reshape(-1, 3)).reshape(own.shape[:2])
        return clear * size[:, None]

    def outside(
        self,
        vertices: Float[Tensor, "B V 3"],
        center: Float[Tensor, "B 3"],
        size: Float[Tensor, " B"],
        turn: Float[Tensor, "B 3 3"],
        needed: Float[Tensor, "B K"],
    ) -> Float[Tensor, "B V 3"]:
        """Vertices with lids pushed out along the globe's radii to the clearance they need."""
        if compiled(vertices):
            from topohead.geometry import lids_triton  # noqa: PLC0415 -- only where CUDA is

            globe, radius = (center, size, turn), self.shape.radius
            lack = lids_triton.clearance(vertices, self.patch.vertices, globe, radius, needed)
            return lids_triton.pushed(vertices, self.patch, center, lack)
        push = (needed - self.clearance(vertices, center, size, turn)).clamp(min=0)
        arms = vertices[:, self.patch.vertices] - center[:, None]
        x, y, z = arms.unbind(-1)
        away = arms / (x * x + y * y + z * z).sqrt()[..., None]
        return vertices.index_add(1, self.patch.vertices, self.patch.spread(push)[..., None] * away)
