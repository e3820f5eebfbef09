"""What networks other than the portraits' own learn from: the same people under other cameras.

Every source gives the sample of a number, alone or in a batch, as a function of the people's seed.
Pictures of `ViewSets` and `HeadViews` stand on white, without noise and blur.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from topohead.core import ARKIT_52, Strands
from topohead.rendering.portraits import LABELS, Portraits, SceneBatch, portrait_points
from topohead.rendering.shading import linear_to_srgb
from topohead.synthesis.datasets import sample_indices
from topohead.synthesis.draws import uniforms
from topohead.synthesis.people import PeopleDraw, PortraitBatch, PortraitPeople
from topohead.synthesis.portraits import orbit_poses
from topohead.synthesis.splits import split_of

RING = tuple((15.0 * k, elevation) for elevation in (-20.0, 5.0, 30.0) for k in range(24))
"""Azimuth and elevation of 72 cameras all round, degrees."""

RING_FOCAL, RING_DISTANCE = 28.0, 12.0
"""Of the ring's cameras: focal length in picture widths; metres."""

FRAME = RING_DISTANCE / RING_FOCAL
"""Metres that a picture of `HeadViews` shows at the head."""

CROWN = 0.02
"""Metres by which pictures show more above the head's middle than below."""

SPACE = 3.0
"""Degrees around odd azimuths of the ring that training cameras keep out of: tests look there."""

UNSEEN_ACTIONS = (
    "cheekPuff", "jawLeft", "mouthSmileLeft", "browOuterUpLeft", "noseSneerLeft",
)  # fmt: skip
"""What no head in training does."""

HAIR = (8192, 16)
"""Strands and points of hair: as many as cover a scalp that is not painted."""

GROOMS = 4
"""Hair styles that a training head is seen with; other pairs are new to a test."""


@runtime_checkable
class Source(Protocol):
    """Samples by number; batches of every kind are dataclasses of their own."""

    def at(self, indices: Int[Tensor, " B"]) -> Any: ...


def batches(
    source: Source, batch: int, first: int = 0, part: int = 0, parts: int = 1
) -> Iterator[Any]:
    """Endless batches of a source from step `first` on; see `datasets.sample_indices` for parts."""
    step = first
    while True:
        yield source.at(sample_indices(step, batch, part, parts))
        step += 1


@dataclass(frozen=True)
class TrackBatch:
    """Portraits with the place of every vertex: pixels, and whether it is seen there."""

    srgb: Float[Tensor, "B H W 3"]
    alpha: Float[Tensor, "B H W"]
    pixels: Float[Tensor, "B V 2"]
    visible: Bool[Tensor, "B V"]
    gaze: Float[Tensor, "B 2 2"]
    coefficients: Float[Tensor, "B 52"]


@dataclass(frozen=True)
class Tracks:
    """Portraits for a network that finds vertices in pictures, as its crops would be."""

    people: PortraitPeople

    def at(self, indices: Int[Tensor, " B"]) -> TrackBatch:
        """The samples with these numbers."""
        made = self.people.at(indices)
        scenes = self.people.scenes
        pixels, visible = portrait_points(scenes.mesh, made.heads, made.scenes, scenes.size)
        count = made.rest.shape[1]
        return TrackBatch(
            made.pictures.srgb, made.pictures.alpha, pixels[:, :count], visible[:, :count],
            made.gaze, made.coefficients,
        )  # fmt: skip


@dataclass(frozen=True)
class ViewBatch:
    """Sets of V views, each of one person under one light, references first.

    `vertices` are posed, `neutral` at rest, metres in the head frame, which is the world.
    """

    rgb: Float[Tensor, "B V H W 3"]
    alpha: Float[Tensor, "B V H W"]
    world_to_camera: Float[Tensor, "B V 4 4"]
    intrinsics: Float[Tensor, "B V 3 3"]
    vertices: Float[Tensor, "B V N 3"]
    neutral: Float[Tensor, "B N 3"]
    coefficients: Float[Tensor, "B V 52"]
    gaze: Float[Tensor, "B V 2 2"]


@dataclass(frozen=True)
class ViewSets:
    """Sets of views to imagine some from the others: `references`, then `targets`.

    Every view has its own expression and camera: yaw to ±75°, pitch to ±30°, 15° to 60° wide.
    """

    people: PortraitPeople
    references: int = 4
    targets: int = 4

    def at(self, indices: Int[Tensor, " B"]) -> ViewBatch:
        """The sets with these numbers."""
        views, sets = self.references + self.targets, indices.cpu()
        rows = (sets[:, None] * views + torch.arange(views)).flatten()
        person = sets.repeat_interleave(views)
        look = self.people.looks_of(person)
        drawn = self.people.composed(person, rows, person, look, look)
        part = uniforms(self.people.seed, rows.numpy(), "view", 5)
        yaw, pitch, roll = ((2 * part[:, k] - 1) * most for k, most in enumerate((75, 30, 8)))
        width = 2 * np.tan(np.radians(15 + 45 * part[:, 3]) / 2)
        distance = ((0.30 + 0.12 * part[:, 4]) / width).clip(0.36)
        made = self.people.made(_filmed(drawn, yaw, pitch, roll, 1 / width, distance, self.people))

        def grouped(value: Tensor) -> Tensor:
            return value.unflatten(0, (len(sets), views))

        count = made.rest.shape[1]
        return ViewBatch(
            grouped(on_white(made.pictures, made.scenes)), grouped(made.pictures.alpha),
            grouped(made.scenes.world_to_camera), grouped(made.scenes.intrinsics),
            grouped(made.heads.vertices[:, :count]), grouped(made.rest)[:, 0],
            grouped(made.coefficients), grouped(made.gaze),
        )  # fmt: skip


@dataclass(frozen=True)
class HeadBatch:
    """Heads with and without their hair, from the same camera, under even light.

    `hair` marks pixels that mostly show it; `groom` numbers the pool, −1 is bald.
    """

    rgb: Float[Tensor, "B H W 3"]
    alpha: Float[Tensor, "B H W"]
    hair: Bool[Tensor, "B H W"]
    bald: Float[Tensor, "B H W 3"]
    bald_alpha: Float[Tensor, "B H W"]
    world_to_camera: Float[Tensor, "B 4 4"]
    intrinsics: Float[Tensor, "B 3 3"]
    vertices: Float[Tensor, "B V 3"]
    neutral: Float[Tensor, "B V 3"]
    coefficients: Float[Tensor, "B 52"]
    gaze: Float[Tensor, "B 2 2"]
    person: Int[Tensor, " B"]
    look: Int[Tensor, " B"]
    groom: Int[Tensor, " B"]
    strands: Strands


@dataclass(frozen=True)
class HeadViews:
    """Heads for a model of shape, skin, hair and expression, all drawn apart from each other.

    Some of `identities` people, each in one skin and one of `GROOMS` styles of the pool; two in
    five seen by `RING`. Training seeds leave out `UNSEEN_ACTIONS` and the ring's odd azimuths.
    Their people must be bare-shouldered and their skin not rooted: `load_people(..., rooted=False,
    dressed=False, hair=HAIR)`.
    """

    people: PortraitPeople
    identities: int = 512

    def at(self, indices: Int[Tensor, " B"]) -> HeadBatch:
        """The samples with these numbers."""
        numbers, seed = indices.cpu().numpy(), self.people.seed
        part = uniforms(seed, numbers, "head view", 7)
        train = split_of(seed) == "train"
        person = (part[:, 0] * self.identities).astype(np.int64)
        groom = self.grooms(person, (part[:, 1] * GROOMS).astype(np.int64), numbers, train)
        ring = np.array(RING)
        used = ring[(ring[:, 0] % 30 == 0) | (not train)]
        station = used[(part[:, 3] * len(used)).astype(int)]
        yaw = 360 * part[:, 3]
        if train:
            sector = 30 - 2 * SPACE
            yaw = 30 * np.floor(12 * part[:, 3]) + sector * (12 * part[:, 3] % 1 - 0.5)
        free = part[:, 2] >= 0.4
        yaw = np.where(free, yaw, station[:, 0])
        pitch = np.where(free, -35 + 95 * part[:, 4], station[:, 1])
        view = np.radians(3 + 37 * part[:, 5])
        focal = np.where(free, 1 / (2 * np.tan(view / 2)), RING_FOCAL)
        rows = (person, numbers, person, self.skins(person), groom)
        drawn = self.people.composed(*map(torch.from_numpy, rows))
        if train:
            unseen = torch.tensor([name in UNSEEN_ACTIONS for name in ARKIT_52])
            drawn = replace(drawn, coefficients=drawn.coefficients * ~unseen)
        return self._made(drawn, torch.from_numpy(person), yaw, pitch, focal)

    def ring(self, person: int, face: Float[Tensor, "52"], slot: int | None) -> HeadBatch:
        """One person in one expression from all of `RING`; `slot` of its grooms, or bald."""
        count = len(RING)
        people = np.full(count, person, dtype=np.int64)
        groom = np.full(count, -1, dtype=np.int64)
        if slot is not None:
            groom = self.grooms(people, np.full(count, slot), people, True)
        numbers = torch.from_numpy(people)
        look, wig = torch.from_numpy(self.skins(people)), torch.from_numpy(groom)
        drawn = self.people.composed(numbers, numbers, numbers, look, wig)
        still = torch.zeros_like(drawn.gaze)
        drawn = replace(drawn, coefficients=face.expand(count, 52), gaze=still)
        yaw, pitch = np.array(RING).T
        return self._made(drawn, numbers, yaw, pitch, np.full(count, RING_FOCAL))

    def skins(self, person: Int[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
        """The looks whose skin and teeth people have."""
        part = uniforms(self.people.seed, person, "skin of", 1)[:, 0]
        return (part * len(self.people.looks)).astype(np.int64)

    def grooms(
        self, person: Int[np.ndarray, " B"], slot: Int[np.ndarray, " B"],
        number: Int[np.ndarray, " B"], few: bool,
    ) -> Int[np.ndarray, " B"]:  # fmt: skip
        """The looks whose hair people wear: one of their own `few`, or any."""
        key = person * GROOMS + slot if few else number
        part = uniforms(self.people.seed, key, "groom of" if few else "groom", 1)[:, 0]
        return (part * len(self.people.looks)).astype(np.int64)

    def _made(
        self, drawn: PeopleDraw, person: Int[Tensor, " B"], yaw: np.ndarray, pitch: np.ndarray,
        focal: np.ndarray,
    ) -> HeadBatch:  # fmt: skip
        distance = (FRAME * focal).clip(0.36)
        drawn = _filmed(drawn, yaw, pitch, 0 * yaw, focal, distance, self.people)
        drawn = replace(drawn, scenes=_evenly_lit(drawn.scenes))
        made = self.people.made(drawn)
        bald: PortraitBatch = self.people.made(replace(drawn, wig=torch.full_like(drawn.wig, -1)))
        strands = made.heads.strands
        assert strands is not None
        return HeadBatch(
            on_white(made.pictures, made.scenes),
            made.pictures.alpha,
            made.pictures.label == LABELS.index("hair"),
            on_white(bald.pictures, bald.scenes),
            bald.pictures.alpha,
            made.scenes.world_to_camera,
            made.scenes.intrinsics,
            made.heads.vertices[:, : made.rest.shape[1]],
            made.rest,
            made.coefficients,
            made.gaze,
            person,
            drawn.look,
            drawn.wig,
            strands,
        )


def on_white(pictures: Portraits, scenes: SceneBatch) -> Float[Tensor, "B H W 3"]:
    """Pictures in sRGB as the sensor exposes them, before white, without noise or blur."""
    gains = scenes.sensor[:, None, None, :3]
    return linear_to_srgb((pictures.linear * gains + 1 - pictures.alpha[..., None]).clamp(0, 1))


def codes(srgb: Float[Tensor, "*B 3"]) -> UInt8[Tensor, "*B 3"]:
    """Pictures as whole numbers up to 255."""
    return (srgb * 255 + 0.5).to(torch.uint8)


def _filmed(
    drawn: PeopleDraw, yaw: np.ndarray, pitch: np.ndarray, roll: np.ndarray, focal: np.ndarray,
    distance: np.ndarray, people: PortraitPeople,
) -> PeopleDraw:  # fmt: skip
    """The draw under cameras that look at the head: degrees, picture widths, metres."""
    width, height = people.scenes.size
    lens = np.zeros((len(yaw), 3, 3))
    lens[:, 0, 0] = lens[:, 1, 1] = focal * min(width, height)
    lens[:, 0, 2], lens[:, 1, 2], lens[:, 2, 2] = width / 2, height / 2, 1
    # hair stands higher than the middle of the head that cameras aim at
    lens[:, 1, 2] += CROWN * lens[:, 1, 1] / distance
    yaw, pitch, roll = (np.radians(angle) for angle in (yaw, pitch, roll))
    pose = orbit_poses(yaw, pitch, roll, distance)
    cameras = {"world_to_camera": torch.from_numpy(pose), "intrinsics": torch.from_numpy(lens)}
    return replace(drawn, scenes=replace(drawn.scenes, **cameras))


def _evenly_lit(scenes: SceneBatch) -> SceneBatch:
    """The scenes under one soft sky, lighter above, without lamps."""
    sky = torch.zeros_like(scenes.sky)
    sky[:, 0] = 1 / 0.282095
    sky[:, 1] = 0.25 / 0.488603
    lamps = torch.zeros_like(scenes.lamps)
    lamps[..., 2] = 6.0
    sensor = torch.zeros_like(scenes.sensor)
    sensor[:, :3] = 0.7
    return replace(scenes, sky=sky, lamps=lamps, sensor=sensor)
