"""Portraits of random people: where the camera is, what light falls, how the sensor records it.

Every number is a function of the seed and the portrait's index. What is drawn is put together by
`rendering.portraits`.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from topohead.core import Strands, Topology
from topohead.geometry.cameras import look_at
from topohead.rendering.portraits import (
    LABELS,
    PortraitHeads,
    PortraitMesh,
    Portraits,
    SceneBatch,
    TexturePool,
    moved,
    render_portraits,
)
from topohead.synthesis import portrait_lights
from topohead.synthesis.backdrops import procedural_backdrops
from topohead.synthesis.occluders import Outfits, Wardrobe
from topohead.synthesis.sensors import noise_key

CENTER = (0.0, -0.015, -0.05)
"""Middle of a head in the head frame, metres; where cameras aim."""

HEIGHT = 0.24
"""Metres from chin to crown, roughly."""


SIDES = torch.tensor([[0.0, 0, 1], [0.7, 0.1, 0.7], [-0.7, 0.1, 0.7], [0, 0.6, 0.8], [1, 0, 0],
                      [-1, 0, 0]])  # fmt: skip
"""Where skin faces that a camera may not burn out."""


@dataclass(frozen=True)
class PortraitSettings:
    """What portraits vary in; angles in degrees, pairs are least and most."""

    field_of_view: tuple[float, float] = (15.0, 60.0)
    """Of the picture's shorter side."""
    yaw: float = 60.0
    """Turn of the camera to either side; 180 looks from all round."""
    pitch: tuple[float, float] = (-25.0, 30.0)
    roll: float = 15.0
    """To either side."""
    fill: tuple[float, float] = (0.45, 0.85)
    """Height of the head as a share of the picture's."""
    shift: float = 0.08
    """Of the head from the picture's middle, as a share of it."""
    noise: float = 1.0
    """Factor on the noise and blur of the sensor; 0 is a perfect one."""
    casts: float = 1.0
    """Factor on the deviation of exposure and white balance."""


@dataclass(frozen=True)
class PortraitScenes:
    """A source of random portraits of heads of one topology, and the way to draw them.

    `backdrops` are linear pictures; a panorama is a (sky, lamps) of
    `portrait_lights.panorama_light`, half of the portraits use one if there are any. `wardrobe`
    is None where nothing is ever worn. Pictures are made where `mesh` and `backdrops` are.
    """

    mesh: PortraitMesh
    backdrops: Float[Tensor, "N h w 3"]
    size: tuple[int, int] = (256, 256)
    settings: PortraitSettings = field(default_factory=PortraitSettings)
    panoramas: tuple[tuple[Tensor, Tensor], ...] = ()
    wardrobe: Wardrobe | None = None

    @staticmethod
    def of(
        topology: Topology,
        size: tuple[int, int] = (256, 256),
        settings: PortraitSettings | None = None,
        panoramas: tuple[tuple[Tensor, Tensor], ...] = (),
        dressed: bool = True,
        backdrops: Float[Tensor, "N h w 3"] | None = None,
    ) -> "PortraitScenes":
        """Scenes before 64 procedural backdrops, unless others are given."""
        wardrobe = Wardrobe(topology) if dressed else None
        pool = procedural_backdrops(0, 64) if backdrops is None else backdrops
        mesh = portrait_mesh(topology, wardrobe)
        chosen = settings or PortraitSettings()
        return PortraitScenes(mesh, pool, size, chosen, panoramas, wardrobe)

    def to(self, device: torch.device | str) -> "PortraitScenes":
        """The same source, its pictures made on `device`."""
        mesh, backdrops = moved(self.mesh, device), self.backdrops.to(device)
        return replace(self, mesh=mesh, backdrops=backdrops)

    def draw(self, seed: int, indices: list[int]) -> SceneBatch:
        """Scenes on the host; scene i depends on the seed and indices[i] alone."""
        rows = [self._one(seed, index) for index in indices]
        parts = [torch.stack(column) for column in zip(*rows, strict=True)]
        return SceneBatch(*parts)

    def dress(
        self,
        vertices: Float[Tensor, "B V 3"],
        skin: Int[Tensor, " B"],
        strands: Strands | None = None,
        outfits: Outfits | None = None,
    ) -> PortraitHeads:
        """Heads ready to be drawn: which skin of the pool they have, their hair, what they wear."""
        if self.wardrobe is None:
            return PortraitHeads(vertices, skin, vertices.new_zeros(len(vertices), 0, 4), strands)
        if outfits is None:
            raise ValueError(
                "these scenes have a wardrobe: give the outfits, or make them undressed"
            )
        worn, tint = self.wardrobe.wear(vertices, outfits)
        return PortraitHeads(torch.cat([vertices, worn], 1), skin, tint, strands)

    def render(
        self,
        scenes: SceneBatch,
        heads: PortraitHeads,
        textures: TexturePool,
        supersampling: int = 2,
    ) -> Portraits:
        """Pictures of dressed heads; all tensors where this source is."""
        backdrops = self.backdrops
        return render_portraits(
            self.mesh, heads, textures, scenes, backdrops, self.size, supersampling
        )

    def _one(self, seed: int, index: int) -> tuple[Tensor, ...]:
        random = np.random.default_rng([seed, 61, index])
        pose, intrinsics = self._camera(random)
        if self.panoramas and random.random() < 0.5:
            chosen = self.panoramas[int(random.integers(len(self.panoramas)))]
            sky, lamps = portrait_lights.turned(*chosen, random.uniform(0, 2 * math.pi))
        else:
            sky, lamps = portrait_lights.random_light(random)
        towards = (-pose[:3, :3].T @ pose[:3, 3] - torch.tensor(CENTER).double()).float()
        sides = torch.cat([functional.normalize(towards, dim=0)[None], SIDES])
        light = portrait_lights.irradiance(sky, lamps, sides)
        light = (light[0] + light.amax(0)) / 2
        wide = random.uniform(0.4, 1.0)
        corner = random.uniform(0, 1 - wide, 2)
        sensor, blur = self._sensor(random, light)
        return (
            pose, intrinsics, sky, lamps, torch.tensor(int(random.integers(len(self.backdrops)))),
            torch.tensor([*corner, wide, wide]).float(), sensor, blur,
            torch.tensor(noise_key(seed, 64, index)),
        )  # fmt: skip

    def _camera(
        self, random: np.random.Generator
    ) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "3 3"]]:
        settings, (width, height) = self.settings, self.size
        view = math.radians(random.uniform(*settings.field_of_view))
        focal = 0.5 * min(width, height) / math.tan(0.5 * view)
        yaw = math.radians(settings.yaw * random.uniform(-1, 1))
        pitch = math.radians(random.uniform(*settings.pitch))
        distance = max(HEIGHT * focal / (random.uniform(*settings.fill) * height), 0.36)
        away = [math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch)]
        target = torch.tensor(CENTER).double()
        pose = look_at(target + distance * torch.tensor(away).double(), target,
                       torch.tensor([0.0, 1, 0]).double())  # fmt: skip
        roll = math.radians(settings.roll * random.uniform(-1, 1))
        turn = torch.eye(4).double()
        turn[:2, :2] = torch.tensor(
            [[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]]
        )
        middle = [side * (0.5 + settings.shift * random.uniform(-1, 1)) for side in (width, height)]
        intrinsics = torch.tensor([[focal, 0, middle[0]], [0, focal, middle[1]], [0, 0, 1]])
        whole = torch.eye(4).double()
        whole[:3] = pose[:3]
        return turn @ whole, intrinsics.double()

    def _sensor(
        self, random: np.random.Generator, light: Float[Tensor, "3"]
    ) -> tuple[Float[Tensor, "6"], Float[Tensor, ""]]:
        """Exposed for the light on the head, mostly balanced."""
        settings = self.settings
        mean = float(light.mean())
        balance = (mean / light.numpy().clip(1e-3)) ** random.uniform(0.3, 1.0)
        cast = np.exp(settings.casts * random.normal(0, 0.06, 3))
        exposure = math.exp(settings.casts * random.normal(0, 0.25)) * 2.4 / max(mean, 1e-3)
        noise = settings.noise * random.random() ** 2
        numbers = [*(exposure * balance * cast), random.uniform(0, 0.3),
                   0.012 * noise, 0.03 * noise]  # fmt: skip
        # most pictures are sharp to a pixel, as what was resized is
        blur = settings.noise * (0.35 + 1.2 * random.random() ** 4)
        return torch.tensor(numbers).float(), torch.tensor(blur).float()


def portrait_mesh(topology: Topology, wardrobe: Wardrobe | None = None) -> PortraitMesh:
    """A head's triangles with their labels, and those of what it may wear."""
    label = torch.full((len(topology.triangles),), LABELS.index("skin"))
    for names, kind in ((("mouth_interior", "teeth", "tongue"), "mouth"), (("eyes",), "eye")):
        known = [name for name in names if name in topology.regions]
        if known:
            inside = topology.region_mask(*known)[topology.triangles].all(1)
            label[inside] = LABELS.index(kind)
    shown = torch.ones(len(topology.triangles), dtype=torch.bool)
    if "eye_shells" in topology.regions:  # transparent: tears and lashes of some heads
        shown = ~topology.region_mask("eye_shells")[topology.triangles].all(1)
    count = topology.vertex_count
    triangles, uv = topology.triangles[shown], topology.uv[topology.triangle_uv[shown]].float()
    if wardrobe is None:
        return PortraitMesh.of(triangles, uv, label[shown], count)
    worn = wardrobe.triangles
    return PortraitMesh.of(
        torch.cat([triangles, worn + count]),
        torch.cat([uv, torch.zeros(len(worn), 3, 2)]),
        torch.cat([label[shown], torch.full((len(worn),), LABELS.index("cloth"))]),
        count + sum(wardrobe.sizes),
        count,
    )
