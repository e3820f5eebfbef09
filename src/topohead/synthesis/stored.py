"""Samples of every kind as the files of a dataset: arrays, pictures as bytes, what JSON holds."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from topohead.synthesis.datasets import ScanBatch, ScanSource
from topohead.synthesis.people import PortraitBatch, PortraitPeople
from topohead.synthesis.views import (
    HeadBatch,
    HeadViews,
    Source,
    TrackBatch,
    Tracks,
    ViewBatch,
    ViewSets,
    codes,
)

Kind = Literal["portraits", "scans", "tracks", "views", "heads"]

Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Stored:
    """A source, and what is kept of its batches: `rows(batch)` gives a mapping for each sample.

    What it says under `sample` joins seed and number in `sample.json`; `picture` is the file of a
    sample that a contact sheet shows, None where there is none.
    """

    source: Source
    seed: int
    rows: Callable[[Any], list[dict[str, Any]]]
    picture: str | None
    batch: int

    def samples(self, numbers: range) -> Iterator[Sample]:
        """The samples with these numbers, for `io.shards.write_shards`."""
        for first in range(numbers.start, numbers.stop, self.batch):
            part = range(first, min(first + self.batch, numbers.stop))
            rows = self.rows(self.source.at(torch.tensor(part)))
            for index, row in zip(part, rows, strict=True):
                said = {"seed": self.seed, "index": index} | row.pop("sample", {})
                yield row | {"sample": said}


def stored_portraits(people: PortraitPeople, batch: int) -> Stored:
    """`portrait.png` with alpha, `label.png`, neutral vertices, coefficients, gaze, camera.

    `sample.json` tells the look and the parameters of its skin.
    """

    def rows(made: PortraitBatch) -> list[dict[str, Any]]:
        arrays = _columns(
            vertices=made.rest, coefficients=made.coefficients, gaze=made.gaze,
            world_to_camera=made.scenes.world_to_camera, intrinsics=made.scenes.intrinsics,
        )  # fmt: skip
        shown = pictures(made.pictures.srgb, made.pictures.alpha)
        labels = made.pictures.label.to(torch.uint8).cpu().numpy()
        looks = made.look.tolist()
        return [
            {"portrait.png": shown[k], "label.png": png(labels[k])}
            | _row(arrays, k)
            | {"sample": {"look": look, "skin": asdict(people.looks.skins[look])}}
            for k, look in enumerate(looks)
        ]

    return Stored(people, people.seed, rows, "portrait.png", batch)


def stored_tracks(source: Tracks, batch: int) -> Stored:
    """`crop.png` with alpha; pixels of every vertex, which are seen; gaze, coefficients."""

    def rows(made: TrackBatch) -> list[dict[str, Any]]:
        arrays = _columns(
            pixels=made.pixels, visible=made.visible, gaze=made.gaze,
            coefficients=made.coefficients,
        )  # fmt: skip
        shown = pictures(made.srgb, made.alpha)
        return [{"crop.png": picture} | _row(arrays, k) for k, picture in enumerate(shown)]

    return Stored(source, source.people.seed, rows, "crop.png", batch)


def stored_views(source: ViewSets, batch: int) -> Stored:
    """`views.png`: a set's pictures with alpha side by side; cameras, vertices, `neutral` ones."""

    def rows(made: ViewBatch) -> list[dict[str, Any]]:
        arrays = _columns(
            world_to_camera=made.world_to_camera, intrinsics=made.intrinsics,
            vertices=made.vertices, neutral=made.neutral, coefficients=made.coefficients,
            gaze=made.gaze,
        )  # fmt: skip
        strips = pictures(made.rgb.transpose(1, 2).flatten(2, 3),
                           made.alpha.transpose(1, 2).flatten(2, 3))  # fmt: skip
        said = {"sample": {"references": source.references, "targets": source.targets}}
        return [{"views.png": strip} | _row(arrays, k) | said for k, strip in enumerate(strips)]

    return Stored(source, source.people.seed, rows, "views.png", batch)


def stored_heads(source: HeadViews, batch: int) -> Stored:
    """`head.png`, `bald.png` with alpha, `hair.png`; camera, neutral vertices, coefficients, gaze.

    `sample.json` numbers person, look (of the skin) and groom.
    """

    def rows(made: HeadBatch) -> list[dict[str, Any]]:
        arrays = _columns(
            world_to_camera=made.world_to_camera, intrinsics=made.intrinsics,
            vertices=made.neutral, coefficients=made.coefficients, gaze=made.gaze,
        )  # fmt: skip
        heads, bald = pictures(made.rgb, made.alpha), pictures(made.bald, made.bald_alpha)
        hair = (255 * made.hair.to(torch.uint8)).cpu().numpy()
        numbers = zip(made.person.tolist(), made.look.tolist(), made.groom.tolist(), strict=True)
        return [
            {"head.png": heads[k], "bald.png": bald[k], "hair.png": png(hair[k])}
            | _row(arrays, k)
            | {"sample": dict(zip(("person", "look", "groom"), who, strict=True))}
            for k, who in enumerate(numbers)
        ]

    return Stored(source, source.people.seed, rows, "head.png", batch)


def stored_scans(source: ScanSource, batch: int) -> Stored:
    """Points, normals, which lie on the head; control vertices, coefficients, `pose`.

    The pose is a matrix [3 4] from the head frame to the scan's.
    """

    def rows(made: ScanBatch) -> list[dict[str, Any]]:
        linear = made.pose.scale[:, None, None] * made.pose.rotation
        pose = torch.cat([linear, made.pose.translation[..., None]], -1)
        arrays = _columns(vertices=made.vertices, coefficients=made.coefficients, pose=pose)
        cloud = _columns(
            points=made.cloud.points, normals=made.cloud.normals, inlier=made.cloud.inlier
        )
        valid = made.cloud.valid.cpu().numpy()
        return [
            {name: column[k][valid[k]] for name, column in cloud.items()} | _row(arrays, k)
            for k in range(len(valid))
        ]

    return Stored(source, source.seed, rows, None, batch)


def png(pixels: np.ndarray) -> bytes:
    """A PNG of one, three or four channels in the order of OpenCV."""
    return cv2.imencode(".png", pixels)[1].tobytes()


def pictures(srgb: Tensor, alpha: Tensor) -> list[bytes]:
    """PNGs with alpha of a batch; colours are not premultiplied by it."""
    opaque = (alpha * 255).round().to(torch.uint8)[..., None]
    whole = torch.cat([codes(srgb).flip(-1), opaque], -1).cpu().numpy()
    return [png(picture) for picture in whole]


def _columns(**arrays: Tensor) -> dict[str, np.ndarray]:
    return {name: value.cpu().numpy() for name, value in arrays.items()}


def _row(columns: dict[str, np.ndarray], k: int) -> dict[str, np.ndarray]:
    return {name: column[k] for name, column in columns.items()}
