"""Textures that change over the take: one base, and a delta a frame or wrinkle maps for all."""

import json
import logging
import math
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8

from topohead.core import ARKIT_52, Topology
from topohead.io.images import write_codes
from topohead.io.png import write_png
from topohead.io.runs import RunFolder
from topohead.io.texture_deltas import TOLERANCE, DeltaFile, strip_rows, tile_rows, write_delta
from topohead.io.textures import BASE, WRINKLES, delta_file, read_codes
from topohead.rendering.uv import bake, texel_map
from topohead.rendering.wrinkle_maps import (
    CODE_RANGE,
    ZERO_CODE,
    encode_map,
    play_maps,
)
from topohead.solvers.dynamic_texture import (
    Drivers,
    Wrinkles,
    completed_codes,
    explained_share,
    factor,
    fit_drivers,
    gram_matrix,
    localised,
    log_ratios,
    mixed,
    shrunk_log_ratios,
)
from topohead.workflows.capturing.first import Head
from topohead.workflows.capturing.tracked import frame_vertices
from topohead.workflows.progress import track as progress

log = logging.getLogger(__name__)

WORKING = "textures/working"
"""Deltas and small log ratios that wrinkle maps are made from; gone when they are made."""

WORKING_TOLERANCE = 1
"""Of deltas that maps are made from: slow changes of a code or two are what they are to show."""

FACTOR_SIZE = 1024
"""Log ratios are factored at this size at most, and errors are sampled as finely."""

VARIMAX_NUMBERS = 200_000
"""Numbers of each map that decide how maps are turned."""

UNCOUNTED = ("eyes", "eye_sockets", "eye_shells", "mouth_interior", "teeth", "tongue")
"""Regions without wrinkle maps: gaze and jaw move what is there, skin does not change."""


@dataclass(frozen=True)
class DynamicStore:
    """Where the changing textures of one run go. `wrinkle`: deltas are only working files."""

    run: RunFolder
    topology: Topology
    size: int
    wrinkle: bool

    def has(self, frame: str) -> bool:
        return self.run.has(WRINKLES) or self.run.has(self._delta(frame))

    def _delta(self, frame: str) -> str:
        return f"{WORKING}/{frame}.safetensors" if self.wrinkle else delta_file(frame)

    def write_base(
        self,
        codes: UInt8[np.ndarray, "S S 3"],
        coverage: UInt8[np.ndarray, "S S 1"],
        workers: ThreadPoolExecutor,
    ) -> None:
        """The take's one texture, and how well it was seen."""
        write_png(self.run.path / "textures" / "coverage.png", coverage, workers)
        write_png(self.run.path / BASE, codes, workers)

    @cached_property
    def base(self) -> UInt8[np.ndarray, "S S 3"]:
        """The base as every reader will see it."""
        return read_codes(self.run.path / BASE)

    def write_frame(
        self,
        frame: str,
        codes: UInt8[np.ndarray, "S S 3"],
        seen: Bool[np.ndarray, "S S"],
        workers: ThreadPoolExecutor,
        seconds: float,
    ) -> None:
        """A frame's texture as its difference from the base."""
        texels = texel_map(self.topology, self.size)
        codes = completed_codes(codes, seen, texels, self.base, workers)
        if self.wrinkle:
            small = shrunk_log_ratios(codes, self.base, FACTOR_SIZE).astype(np.float16)
            with self.run.write(_ratio_file(frame)) as path, path.open("wb") as file:
                np.save(file, small)
        self.run.append_metrics("texture", frame, seconds=seconds)
        tolerance = WORKING_TOLERANCE if self.wrinkle else TOLERANCE
        write_delta(self.run.path / self._delta(frame), codes, self.base, workers, tolerance)


def _ratio_file(frame: str) -> str:
    return f"{WORKING}/{frame}.npy"


def make_wrinkles(store: DynamicStore, head: Head, frames: tuple[str, ...]) -> None:
    """Wrinkle maps and wrinkles.json from the working files, which are deleted then."""
    run = store.run
    if not run.has(WRINKLES):
        small = [np.load(run.path / _ratio_file(frame), mmap_mode="r") for frame in frames]
        side = len(small[0])
        counts = skin_share(store.topology, side) > 0.5
        counts &= texel_map(store.topology, side).inside
        gram = gram_matrix(small, counts)
        wrinkles = factor(gram)
        maps = _small_maps(wrinkles, small, counts)
        wrinkles = localised(wrinkles, maps[:, :: maps.shape[1] // VARIMAX_NUMBERS + 1])
        maps = _small_maps(wrinkles, small, counts)
        # a flat map has no scale of its own; any will do
        scales = [max(float(np.abs(one).max()), 0.01) for one in maps]
        drivers = fit_drivers(_driver_values(run, head, frames), wrinkles.weights)
        files = [DeltaFile(run.path / store._delta(frame)) for frame in frames]
        codes, samples = _full_maps(store, files, wrinkles, scales)
        names = [f"wrinkle_{index + 1:02d}.png" for index in range(len(scales))]
        for name, one in zip(names, codes, strict=True):
            write_codes(run.path / "textures" / name, one)
        errors = samples.psnr(wrinkles, drivers, scales)
        errors["held_out_share"] = explained_share(gram, wrinkles.mixture, drivers.predicted)
        document = _document(names, scales, wrinkles, drivers, frames, errors)
        run.write_json(WRINKLES, document)
        log.info("%d wrinkle maps: %s", len(names), json.dumps(errors))
    shutil.rmtree(run.path / WORKING, ignore_errors=True)


def _small_maps(
    wrinkles: Wrinkles, small: list[np.ndarray], counts: Bool[np.ndarray, "s s"]
) -> Float32[np.ndarray, "K N"]:
    return mixed(wrinkles.mixture, (frame[counts].ravel() for frame in small))


def skin_share(topology: Topology, size: int) -> Float32[np.ndarray, "S S"]:
    """1 on skin that wrinkle maps are for, 0 on eyes and inside the mouth, a triangle between."""
    other = torch.zeros(topology.vertex_count, 1)
    for name in UNCOUNTED:
        if name in topology.regions:
            other[topology.regions[name]] = 1
    return 1 - bake(other, topology, size)[..., 0].numpy()


def _driver_values(run: RunFolder, head: Head, frames: tuple[str, ...]) -> np.ndarray:
    """ARKit-52 coefficients and head angles of every frame, as expression.csv will hold them."""
    from topohead.workflows.rigging import expression_track, head_angles

    track = expression_track(head, torch.stack([frame_vertices(run, frame) for frame in frames]))
    return torch.cat([track.weights, head_angles(track, head.upright)], 1).numpy()


DRIVERS = (*ARKIT_52, "headYaw", "headPitch", "headRoll")


@dataclass(frozen=True)
class _Samples:
    """Codes of about `FACTOR_SIZE`² texels, those on skin: of the base, frames and maps."""

    base: UInt8[np.ndarray, "N 3"]
    frames: list[UInt8[np.ndarray, "N 3"]]
    maps: UInt8[np.ndarray, "K N 3"]

    def psnr(
        self, wrinkles: Wrinkles, drivers: Drivers, scales: list[float]
    ) -> dict[str, float | None]:
        """dB of all frames' codes under the base alone and under each kind of weights."""
        kinds = {
            "base_db": np.zeros_like(wrinkles.weights),
            "weights_db": wrinkles.weights,
            "drivers_held_out_db": drivers.predicted,
        }
        found: dict[str, float | None] = {}
        for kind, weights in kinds.items():
            error = 0.0
            for codes, row in zip(self.frames, weights, strict=True):
                played = zip(self.maps[:, None], scales, row, strict=True)
                colors = play_maps(self.base[None], played)[0]
                error += float(np.square(colors - codes / np.float32(255)).sum(dtype=np.float64))
            mean = error / max(1, len(self.frames) * self.base.size)
            found[kind] = -10 * math.log10(mean) if mean > 0 else None
        return found


def _full_maps(
    store: DynamicStore, files: list[DeltaFile], wrinkles: Wrinkles, scales: list[float]
) -> tuple[UInt8[np.ndarray, "K S S 3"], _Samples]:
    """The maps at full size, as codes in a working file, and samples to measure them on.

    One pass over the deltas, a row of tiles of one frame at a time.
    """
    size, base = store.size, store.base
    path, shape = store.run.path / WORKING / "maps.npy", (len(scales), size, size, 3)
    # an empty file cannot be mapped
    maps = np.lib.format.open_memmap(path, "w+", np.uint8, shape) if scales else np.zeros(shape)
    share = skin_share(store.topology, size)
    inside = texel_map(store.topology, size).inside
    step = max(1, size // FACTOR_SIZE)
    sampled: list[list[np.ndarray]] = [[] for _ in range(len(files) + 2)]
    for row in progress(range(tile_rows(size)), "wrinkle maps"):
        rows = strip_rows(row, size)
        skin = (inside[rows] & (share[rows] > 0.5))[::step, ::step]

        def ratios(row=row, rows=rows, skin=skin) -> Iterator[np.ndarray]:
            for file, into in zip(files, sampled[2:], strict=True):
                codes = file.strip(row, base[rows])
                into.append(codes[::step, ::step][skin])
                yield log_ratios(codes, base[rows])

        strip = mixed(wrinkles.mixture, ratios()) * share[rows][..., None]
        for one, values, scale in zip(maps, strip, scales, strict=True):
            one[rows] = encode_map(values, scale)
        sampled[0].append(base[rows][::step, ::step][skin])
        sampled[1].append(maps[:, rows][:, ::step, ::step][:, skin])
    codes, small_maps, *frames = (np.concatenate(parts, -2) for parts in sampled)
    return maps, _Samples(codes, frames, small_maps)


def _document(
    names: list[str],
    scales: list[float],
    wrinkles: Wrinkles,
    drivers: Drivers,
    frames: tuple[str, ...],
    fit: dict[str, float | None],
) -> dict[str, Any]:
    """wrinkles.json: how to read the maps, each frame's weights, and what drives them."""
    weights = wrinkles.weights
    return {
        "format": "topohead.wrinkles",
        "version": 1,
        "base": Path(BASE).name,
        "encoding": {
            "zero": ZERO_CODE,
            "range": CODE_RANGE,
            "formula": "linear = base_linear * 2^(sum_k weight_k * scale_k * (code_k - zero) "
            "/ range), code 0 to 255, each channel by itself",
        },
        "maps": [
            {
                "file": name,
                "scale": scale,
                "lowest": float(weights[:, k].min()),
                "highest": float(weights[:, k].max()),
                "ridge": float(drivers.ridge[k]) if np.isfinite(drivers.ridge[k]) else None,
            }
            for k, (name, scale) in enumerate(zip(names, scales, strict=True))
        ],
        "frames": {
            frame: [round(float(w), 6) for w in row]
            for frame, row in zip(frames, weights, strict=True)
        },
        "drivers": {
            "names": list(DRIVERS),
            "matrix": [[round(float(x), 6) for x in row] for row in drivers.matrix],
            "intercept": [round(float(x), 6) for x in drivers.intercept],
        },
        "fit": fit,
    }
