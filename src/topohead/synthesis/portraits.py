"""Portraits of random people: where the camera is, what light falls, how the sensor records it.

Every number is a function of the seed and the portrait's index. What is drawn is put together by
`rendering.portraits`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Strands, Topology
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
from topohead.synthesis.draws import normals, uniforms
from topohead.synthesis.occluders import Outfits, Wardrobe
from topohead.synthesis.stumps import Stump
from topohead.synthesis.teeth import BANDS

CENTER = (0.0, -0.015, -0.05)
"""Middle of a head in the head frame, metres; where cameras aim."""

HEIGHT = 0.24
"""Metres from chin to crown, roughly."""


BALANCE = (0.7, 1.4)
"""Least and largest gain of a channel by which a camera evens out coloured light."""

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
    is None where nothing is ever worn, `stump` where necks stay open. Pictures are made where
    `mesh` and `backdrops` are.
    """

    mesh: PortraitMesh
    backdrops: Float[Tensor, "N h w 3"]
    size: tuple[int, int] = (256, 256)
    settings: PortraitSettings = field(default_factory=PortraitSettings)
    panoramas: tuple[tuple[Tensor, Tensor], ...] = ()
    wardrobe: Wardrobe | None = None
    teeth: bool = False
    stump: Stump | None = None

    @staticmethod
    def of(
        topology: Topology,
        size: tuple[int, int] = (256, 256),
        settings: PortraitSettings | None = None,
        panoramas: tuple[tuple[Tensor, Tensor], ...] = (),
        dressed: bool = True,
        backdrops: Float[Tensor, "N h w 3"] | None = None,
        teeth: Topology | None = None,
        closed: bool = False,
    ) -> "PortraitScenes":
        """Scenes before 64 procedural backdrops, unless others are given.

        `teeth` take the place of the head's own plain rows; `dress` then wants them, and colours
        of the neck's rim where necks are `closed`.
        """
        wardrobe = Wardrobe(topology) if dressed else None
        stump = Stump(topology) if closed else None
        pool = procedural_backdrops(0, 64) if backdrops is None else backdrops
        mesh = portrait_mesh(topology, wardrobe, teeth, stump)
        chosen = settings or PortraitSettings()
        toothed = teeth is not None
        return PortraitScenes(mesh, pool, size, chosen, panoramas, wardrobe, toothed, stump)

    def to(self, device: torch.device | str) -> "PortraitScenes":
        """The same source, its pictures made on `device`."""
        mesh, backdrops = moved(self.mesh, device), self.backdrops.to(device)
        wardrobe = None if self.wardrobe is None else self.wardrobe.to(device)
        stump = None if self.stump is None else self.stump.to(device)
        return replace(self, mesh=mesh, backdrops=backdrops, wardrobe=wardrobe, stump=stump)

    def draw(self, seed: int, indices: Sequence[int]) -> SceneBatch:
        """Scenes on the host; scene i depends on the seed and indices[i] alone."""
        numbers = np.asarray(indices, dtype=np.int64)
        pose, intrinsics = self._cameras(seed, numbers)
        sky, lamps = self._lights(seed, numbers)
        eye = -(pose[:, :3, :3] * pose[:, :3, 3:]).sum(1)
        towards = torch.from_numpy(eye - CENTER)
        towards = towards / towards.square().sum(-1, keepdim=True).sqrt()
        sides = torch.cat([towards[:, None], SIDES.double().expand(len(numbers), -1, -1)], 1)
        light = portrait_lights.irradiance(sky, lamps, sides)
        sensor, blur = self._sensors(seed, numbers, (light[:, 0] + light.amax(1)).numpy() / 2)
        part = uniforms(seed, numbers, "backdrop", 6)
        wide = 0.4 + 0.6 * part[:, :1]
        window = np.concatenate([(1 - wide) * part[:, 1:3], wide, wide], 1)
        chosen = (part[:, 3] * len(self.backdrops)).astype(np.int64)
        high, low = ((part[:, k] * 2.0**bits).astype(np.int64) for k, bits in ((4, 30), (5, 32)))
        return SceneBatch(
            torch.from_numpy(pose), torch.from_numpy(intrinsics), sky.float(), lamps.float(),
            torch.from_numpy(chosen), torch.from_numpy(window).float(), sensor, blur,
            torch.from_numpy(1 << 62 | high << 32 | low),
        )  # fmt: skip

    def dress(
        self,
        vertices: Float[Tensor, "B V 3"],
        skin: Int[Tensor, " B"],
        strands: Strands | None = None,
        outfits: Outfits | None = None,
        teeth: tuple[Float[Tensor, "B T 3"], Float[Tensor, "B T 4"]] | None = None,
        neck: Float[Tensor, "B R 4"] | None = None,
    ) -> PortraitHeads:
        """Heads ready to be drawn: which skin of the pool they have, their hair, what they wear.

        `teeth` are places, and linear albedo and roughness; `neck` the latter of the neck's rim.
        """
        if (outfits is None) != (self.wardrobe is None) or (teeth is None) == self.teeth:
            raise ValueError("give outfits where there is a wardrobe, teeth where there are teeth")
        if (neck is None) != (self.stump is None):
            raise ValueError("give the colours of the neck's rim where necks are closed")
        parts = []
        if self.wardrobe is not None and outfits is not None:
            parts.append(self.wardrobe.wear(vertices, outfits))
        if self.stump is not None and neck is not None:
            parts.append((self.stump.closing(vertices), self.stump.tint(neck)))
        parts += [] if teeth is None else [teeth]
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

    def _lights(
        self, seed: int, numbers: Int[np.ndarray, " B"]
    ) -> tuple[Float[Tensor, "B 16 3"], Float[Tensor, "B L 7"]]:
        sky, lamps = (torch.from_numpy(x) for x in portrait_lights.random_lights(seed, numbers))
        if self.panoramas:
            part = uniforms(seed, numbers, "panorama", 3)
            for row in np.flatnonzero(part[:, 0] < 0.5):
                chosen = self.panoramas[int(part[row, 1] * len(self.panoramas))]
                found = portrait_lights.turned(*chosen, 2 * math.pi * part[row, 2])
                sky[row], lamps[row] = found[0].double(), found[1].double()
        return sky, lamps

    def _cameras(
        self, seed: int, numbers: Int[np.ndarray, " B"]
    ) -> tuple[Float[np.ndarray, "B 4 4"], Float[np.ndarray, "B 3 3"]]:
        """Upright cameras about the head, then rolled; the head off the middle by the lens."""
        settings, (width, height) = self.settings, self.size
        part = uniforms(seed, numbers, "camera", 7)
        view = np.radians(_between(settings.field_of_view, part[:, 0]))
        focal = 0.5 * min(width, height) / np.tan(0.5 * view)
        yaw = np.radians(settings.yaw * (2 * part[:, 1] - 1))
        pitch = np.radians(_between(settings.pitch, part[:, 2]))
        roll = np.radians(settings.roll * (2 * part[:, 3] - 1))
        distance = HEIGHT * focal / (_between(settings.fill, part[:, 4]) * height)
        pose = orbit_poses(yaw, pitch, roll, distance.clip(0.36))
        intrinsics = np.zeros((len(numbers), 3, 3))
        intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal
        intrinsics[:, :2, 2] = (0.5 + settings.shift * (2 * part[:, 5:] - 1)) * (width, height)
        intrinsics[:, 2, 2] = 1
        return pose, intrinsics

    def _sensors(
        self, seed: int, numbers: Int[np.ndarray, " B"], light: Float[np.ndarray, "B 3"]
    ) -> tuple[Float[Tensor, "B 6"], Float[Tensor, " B"]]:
        """Exposed for the light on the head, mostly balanced."""
        settings = self.settings
        part, normal = (draw(seed, numbers, "sensor", 4) for draw in (uniforms, normals))
        mean = light.mean(1, keepdims=True).clip(1e-3)
        balance = (mean / light.clip(1e-3)) ** (0.3 + 0.7 * part[:, :1])
        balance = balance.clip(*BALANCE)  # no camera takes all the colour out of a coloured lamp
        cast = np.exp(settings.casts * 0.06 * normal[:, :3])
        exposure = np.exp(settings.casts * 0.25 * normal[:, 3:]) * 2.9 / mean
        noise = settings.noise * part[:, 1:2] ** 2
        falloff = 0.3 * part[:, 2:3]
        sensor = np.concatenate(
            [exposure * balance * cast, falloff, 0.012 * noise, 0.03 * noise], 1
        )
        # most pictures are sharp to a pixel, as what was resized is
        blur = settings.noise * (0.35 + 1.2 * part[:, 3] ** 4)
        return torch.from_numpy(sensor).float(), torch.from_numpy(blur).float()


def orbit_poses(
    yaw: Float[np.ndarray, " B"],
    pitch: Float[np.ndarray, " B"],
    roll: Float[np.ndarray, " B"],
    distance: Float[np.ndarray, " B"],
) -> Float[np.ndarray, "B 4 4"]:
    """world_to_camera of cameras that look at `CENTER`, the head frame being the world.

    `yaw` to the subject's left, `pitch` up (less than a quarter turn), `roll`: radians.
    """
    sy, cy, sp, cp, sr, cr = (f(a) for a in (yaw, pitch, roll) for f in (np.sin, np.cos))
    away = np.stack([sy * cp, sp, cy * cp], -1)
    right = np.stack([cy, np.zeros_like(cy), -sy], -1)
    down = np.stack([sy * sp, -cp, cy * sp], -1)
    pose = np.zeros((len(yaw), 4, 4))
    pose[:, 0, :3] = cr[:, None] * right - sr[:, None] * down
    pose[:, 1, :3] = sr[:, None] * right + cr[:, None] * down
    pose[:, 2, :3] = -away
    eye = CENTER + distance[:, None] * away
    pose[:, :3, 3] = -(pose[:, :3, :3] * eye[:, None]).sum(-1)
    pose[:, 3, 3] = 1
    return pose


def _between(limits: tuple[float, float], part: np.ndarray) -> np.ndarray:
    return limits[0] + (limits[1] - limits[0]) * part


def portrait_mesh(
    topology: Topology,
    wardrobe: Wardrobe | None = None,
    teeth: Topology | None = None,
    stump: Stump | None = None,
) -> PortraitMesh:
    """A head's triangles with their labels, then what it may wear, what closes it, its teeth."""
    label = torch.full((len(topology.triangles),), LABELS.index("skin"))
    for names, kind in ((("mouth_interior", "teeth", "tongue"), "mouth"), (("eyes",), "eye")):
        known = [name for name in names if name in topology.regions]
        if known:
            label[topology.triangle_mask(*known)] = LABELS.index(kind)
    hidden = ["eye_shells"] if teeth is None else ["eye_shells", *BANDS]
    shown = torch.ones(len(topology.triangles), dtype=torch.bool)
    for name in hidden:  # shells are transparent: tears and lashes of some heads
        if name in topology.regions:
            shown &= ~topology.triangle_mask(name)
    count = topology.vertex_count
    triangles, uv = [topology.triangles[shown]], topology.uv[topology.triangle_uv[shown]].float()
    labels, parts = [label[shown]], 0
    extra = [] if wardrobe is None else [(wardrobe.triangles, sum(wardrobe.sizes), "cloth")]
    extra += [] if stump is None else [(stump.triangles, stump.size, "skin")]
    extra += [] if teeth is None else [(teeth.triangles, teeth.vertex_count, "mouth")]
    for part, size, kind in extra:
        triangles.append(part + count + parts)
        labels.append(torch.full((len(part),), LABELS.index(kind)))
        parts += size
    plain = torch.zeros(sum(map(len, labels)) - len(uv), 3, 2)
    whole = torch.cat(triangles)
    return PortraitMesh.of(whole, torch.cat([uv, plain]), torch.cat(labels), count + parts, count)
