"""Portraits of random people: where the camera is, what light falls, how the sensor records it.

Every number is a function of the seed and the portrait's index. What is drawn is put together by
`rendering.portraits`.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
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
from topohead.synthesis.teeth import BANDS

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
    teeth: bool = False

    @staticmethod
    def of(
        topology: Topology,
        size: tuple[int, int] = (256, 256),
        settings: PortraitSettings | None = None,
        panoramas: tuple[tuple[Tensor, Tensor], ...] = (),
        dressed: bool = True,
        backdrops: Float[Tensor, "N h w 3"] | None = None,
        teeth: Topology | None = None,
    ) -> "PortraitScenes":
        """Scenes before 64 procedural backdrops, unless others are given.

        `teeth` take the place of the head's own plain rows; `dress` then wants them.
        """
        wardrobe = Wardrobe(topology) if dressed else None
        pool = procedural_backdrops(0, 64) if backdrops is None else backdrops
        mesh = portrait_mesh(topology, wardrobe, teeth)
        chosen = settings or PortraitSettings()
        return PortraitScenes(mesh, pool, size, chosen, panoramas, wardrobe, teeth is not None)

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
        teeth: tuple[Float[Tensor, "B T 3"], Float[Tensor, "B T 4"]] | None = None,
    ) -> PortraitHeads:
        """Heads ready to be drawn: which skin of the pool they have, their hair, what they wear.

        `teeth` are places, and linear albedo and roughness.
        """
        if (outfits is None) != (self.wardrobe is None) or (teeth is None) == self.teeth:
            raise ValueError("give outfits where there is a wardrobe, teeth where there are teeth")
        parts = [] if teeth is None else [teeth]
        if self.wardrobe is not None and outfits is not None:
            parts.insert(0, self.wardrobe.wear(vertices, outfits))
        places = torch.cat([vertices, *(place for place, _ in parts)], 1)
        tints = [vertices.new_zeros(len(vertices), 0, 4), *(tint for _, tint in parts)]
        return PortraitHeads(places, skin, torch.cat(tints, 1).contiguous(), strands)

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


def portrait_mesh(
    topology: Topology, wardrobe: Wardrobe | None = None, teeth: Topology | None = None
) -> PortraitMesh:
    """A head's triangles with their labels, then those of what it may wear, then of its teeth."""
    label = torch.full((len(topology.triangles),), LABELS.index("skin"))
    for names, kind in ((("mouth_interior", "teeth", "tongue"), "mouth"), (("eyes",), "eye")):
        known = [name for name in names if name in topology.regions]
        if known:
            label[_inside(topology, known)] = LABELS.index(kind)
    hidden = ["eye_shells"] if teeth is None else ["eye_shells", *BANDS]
    shown = torch.ones(len(topology.triangles), dtype=torch.bool)
    for name in hidden:  # shells are transparent: tears and lashes of some heads
        if name in topology.regions:
            shown &= ~_inside(topology, [name])
    count = topology.vertex_count
    triangles, uv = [topology.triangles[shown]], topology.uv[topology.triangle_uv[shown]].float()
    labels, parts = [label[shown]], 0
    extra = [] if wardrobe is None else [(wardrobe.triangles, sum(wardrobe.sizes), "cloth")]
    extra += [] if teeth is None else [(teeth.triangles, teeth.vertex_count, "mouth")]
    for part, size, kind in extra:
        triangles.append(part + count + parts)
        labels.append(torch.full((len(part),), LABELS.index(kind)))
        parts += size
    plain = torch.zeros(sum(map(len, labels)) - len(uv), 3, 2)
    whole = torch.cat(triangles)
    return PortraitMesh.of(whole, torch.cat([uv, plain]), torch.cat(labels), count + parts, count)


def _inside(topology: Topology, names: list[str]) -> Bool[Tensor, " T"]:
    """Triangles all within named regions."""
    return topology.region_mask(*names)[topology.triangles].all(1)
