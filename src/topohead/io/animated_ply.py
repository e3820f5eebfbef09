"""Gaussians that move, as CAP4D (Taubner et al. 2025) plays them: `exported_animation.ply`.

Binary little endian, in this order: faces; base_vertex, the first frame's vertices; vertex, the
Gaussians in their triangles' own frames (`geometry.binding.similarity_frames`, from the mean of the
corners); then for each frame the least and the largest offset from the first one, and the offsets
as unsigned integers between them. Axes are OpenCV's: y down.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from topohead.core import BoundSplats, GaussianBinding, InputError, Splats
from topohead.geometry.binding import check_bound
from topohead.io.atomic import atomic_write
from topohead.io.ply import PlyHeader, element_header, read_header, read_tables
from topohead.io.splat_ply import splat_columns, splats_of

DeltaBits = Literal[8, 16]

REST = 45
"""Columns f_rest_*: three degrees, whether used or not."""

DEFAULT_RATE = 24.0
"""Frames a second of a file that says nothing of it, as in CAP4D."""

_RATE = "frames_per_second "


@dataclass(frozen=True)
class AnimatedSplats:
    """Gaussians on triangles `faces`, the mesh of every frame, and how fast it plays."""

    splats: BoundSplats
    faces: Int[Tensor, "F 3"]
    vertices: Float[Tensor, "T V 3"]
    frames_per_second: float


def write_animated_ply(
    path: Path,
    splats: BoundSplats,
    faces: Int[Tensor, "F 3"],
    frames: Iterable[Float[Tensor, "V 3"]],
    extent: tuple[Float[Tensor, "3"], Float[Tensor, "3"]],
    count: int,
    frames_per_second: float,
    bits: DeltaBits = 16,
) -> None:
    """Write `count` frames, one after the other, as they stand (y down is the caller's).

    `splats` are in similarity frames, their barycentrics ⅓. `extent` are the least and the largest
    offsets of any vertex from the first frame: one range for the whole clip, so that a vertex at
    rest does not tremble. Offsets are rounded: half a step of range / (2^bits − 1) is the error.
    """
    check_bound(splats, len(faces), f"{path}")
    if bool((splats.binding.barycentrics - 1 / 3).abs().max() > 1e-5):
        raise ValueError("this layout binds Gaussians to the middles of triangles")
    if count < 1:
        raise InputError(f"{path}: expected at least one frame")
    dtype = np.dtype(f"<u{bits // 8}")
    low, high = (end.double().numpy() for end in extent)
    steps = np.maximum(high - low, 1e-12) / (2**bits - 1)
    rows = iter(frames)
    base = next(rows)
    tables = [
        ("faces", _table(faces.numpy().astype("<u4"), [f"index_{k}" for k in range(3)])),
        ("base_vertex", _table(base.numpy().astype("<f4"), list("xyz"))),
        ("vertex", _gaussians(splats)),
    ]
    blank = _table(np.zeros((len(base), 3), dtype), list("xyz"))
    ends = [_table(end.astype("<f4")[None], list("xyz")) for end in (low, high)]
    head = ["ply", "format binary_little_endian 1.0", f"comment {_RATE}{frames_per_second:g}"]
    for name, table in tables:
        head += element_header(name, table)
    for t in range(count):
        head += element_header(f"meta_delta_min_{t:05d}", ends[0])
        head += element_header(f"meta_delta_max_{t:05d}", ends[1])
        head += element_header(f"delta_vertex_{t:05d}", blank)
    with atomic_write(path) as partial, partial.open("wb") as stream:
        stream.write("\n".join([*head, "end_header\n"]).encode())
        for _, table in tables:
            stream.write(table.tobytes())
        for vertices in _all(base, rows):
            if not bool(torch.isfinite(vertices).all()):
                raise InputError(f"{path}: a frame has vertices that are no numbers (NaN)")
            moved = (vertices.double() - base.double()).numpy()
            codes = np.rint((moved - low) / steps).clip(0, 2**bits - 1).astype(dtype)
            stream.write(ends[0].tobytes() + ends[1].tobytes() + codes.tobytes())


def _all(base: Tensor, rest: Iterator[Tensor]) -> Iterator[Tensor]:
    yield base
    yield from rest


def _table(values: NDArray, names: list[str]) -> NDArray:
    return np.ascontiguousarray(values).view(np.dtype([(n, values.dtype) for n in names]))[:, 0]


def _gaussians(splats: BoundSplats) -> NDArray:
    """The rows of `vertex`: 3DGS without normals, three degrees, and the triangle as a float.

    The viewer knows no 32-bit integers; a float holds every number below 2²⁴.
    """
    binding, lacking = splats.binding, REST // 3 + 1 - splats.harmonics.shape[1]
    harmonics = torch.nn.functional.pad(splats.harmonics, (0, 0, 0, lacking))
    local = Splats(binding.offsets, binding.quats, binding.scales, splats.opacities, harmonics)
    columns, values = splat_columns(local, normals=False)
    values = torch.cat([values, binding.triangles.double()[:, None]], 1)
    return _table(values.numpy().astype("<f4"), [*columns, "binding"])


def is_animated(header: PlyHeader) -> bool:
    """Whether a PLY is of this layout."""
    return {"faces", "base_vertex", "vertex"} <= {name for name, _, _ in header.elements}


def read_animated_ply(path: Path) -> AnimatedSplats:
    """The clip of such a file, by whoever wrote it; vertices are exact to half a step."""
    header = read_header(path)
    if not is_animated(header):
        raise InputError(f"{path} is no animated splat PLY: it has no element 'base_vertex'")
    tables = read_tables(path, header)
    count = sum(name.startswith("delta_vertex_") for name in tables)
    if not count:
        raise InputError(f"{path} has no frames (delta_vertex_00000 …); export the clip again")
    try:
        faces = np.stack([tables["faces"][f"index_{k}"] for k in range(3)], 1).astype(np.int64)
        base = _xyz(tables["base_vertex"])
        frames = np.empty((count, *base.shape), np.float32)
        for t in range(count):
            low, high = (_xyz(tables[f"meta_delta_{end}_{t:05d}"])[0] for end in ("min", "max"))
            codes = tables[f"delta_vertex_{t:05d}"]
            largest = np.iinfo(codes.dtype["x"]).max
            frames[t] = base + low + (high - low) * (_xyz(codes) / largest)
        owners = torch.from_numpy(np.asarray(tables["vertex"]["binding"], np.float64))
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} cannot be read as an animated splat PLY ({error})") from None
    local = splats_of(tables["vertex"], path)
    if not bool(torch.isfinite(owners).all()) or bool((owners != owners.round()).any()):
        raise InputError(f"{path}: its column 'binding' has numbers that name no face")
    if faces.min() < 0 or faces.max() >= len(base):
        raise InputError(f"{path}: its faces name vertices that it does not have")
    if not (np.isfinite(frames).all() and np.isfinite(base).all()):
        raise InputError(f"{path} has vertices that are no numbers (NaN)")
    thirds = torch.full((len(owners), 3), 1 / 3)
    binding = GaussianBinding(owners.long(), thirds, local.means, local.quats, local.scales)
    splats = BoundSplats(binding, local.opacities, local.harmonics)
    check_bound(splats, len(faces), str(path))
    return AnimatedSplats(splats, torch.from_numpy(faces), torch.from_numpy(frames), _rate(header))


def _xyz(table: NDArray) -> NDArray[np.float64]:
    return np.stack([table[axis] for axis in "xyz"], 1).astype(np.float64)


def _rate(header: PlyHeader) -> float:
    told = [line.removeprefix(_RATE) for line in header.comments if line.startswith(_RATE)]
    try:
        return float(told[0]) if told and float(told[0]) > 0 else DEFAULT_RATE
    except ValueError:
        return DEFAULT_RATE
