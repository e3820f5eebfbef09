"""Mesh sequences for the page: topology once, then 16-bit frames in chunks, read on demand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from topohead.core import Cameras, Topology
from topohead.geometry.morphs import split_seams
from topohead.io.images import image_size
from topohead.viewer.bodies import Body, file_body, number
from topohead.viewer.pictures import SourcePictures, texture_preview

CHUNK = 8
"""Frames a request: under a megabyte at production density."""
PREVIEW_SIZES = (2048, 4096)
HEIGHT, OFFLINE_HEIGHT = 1080, 480
OFFLINE_PICTURES = 96
OFFLINE_TEXTURES = 6
"""More textures than these are made smaller for an offline file."""
UNKNOWN_ERROR = 65_535
"""Errors travel as whole micrometres; this number says that there is none."""


@dataclass(frozen=True)
class VertexErrors:
    """Errors in mm of the vertices `vertices` [M], by measure; `read(measure, first, last)`."""

    measures: tuple[str, ...]
    vertices: NDArray[np.int64]
    read: Callable[[str, int, int], NDArray[np.float32]]


@dataclass(frozen=True)
class Maps:
    """Pictures in UV of one kind, and which one each frame wears (−1: none)."""

    paths: tuple[Path, ...] = ()
    of: tuple[int, ...] = ()

    def of_frames(self, kept: Sequence[int]) -> "Maps":
        return Maps(self.paths, tuple(self.of[t] for t in kept) if self.of else ())


@dataclass(frozen=True)
class MeshSequence:
    """T frames of one topology; a single mesh is a sequence of one frame.

    `vertices(t)` reads float32 [V 3], world metres. `upright` moves the world to y up, face along
    +z. `textures` are colours, `reliefs` normals in tangent space. `rows[t]` is where frame
    t stands in the run, whose rate is `frames_per_second`. `doubtful` are frames to be marked.
    `compact` asks for small textures and pictures.
    """

    title: str
    topology: Topology
    frames: tuple[str, ...]
    vertices: Callable[[int], NDArray[np.float32]]
    upright: Float[Tensor, "4 4"]
    frames_per_second: float = 30.0
    textures: Maps = Maps()
    reliefs: Maps = Maps()
    errors: VertexErrors | None = None
    cameras: Cameras | None = None
    pictures: SourcePictures | None = None
    doubtful: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    compact: bool = False

    def __post_init__(self) -> None:
        if not self.rows:
            object.__setattr__(self, "rows", tuple(range(len(self.frames))))

    @property
    def document(self) -> Mapping[str, Any]:
        """What the page needs to know before it asks for bodies."""
        return {
            "kind": "sequence",
            "title": self.title,
            "vertices": self.topology.vertex_count,
            "arrays": [[n, str(a.dtype), a.size] for n, a in self._arrays.items()],
            "frames": list(self.frames),
            "times": [row / self.frames_per_second for row in self.rows],
            "rate": self.frames_per_second,
            "doubtful": list(self.doubtful),
            "chunk": CHUNK,
            "upright": self.upright.double().reshape(-1).tolist(),
            "maps": {
                kind: {"of": list(maps.of), "sizes": self._sizes[kind]}
                for kind, maps in self._maps.items()
            },
            "errors": [] if self.errors is None else list(self.errors.measures),
            "cameras": [] if self.cameras is None else self._camera_entries(self.cameras),
        }

    def body(self, name: Sequence[str]) -> Body | None:
        """Any of `topology`, `frames/CHUNK`, `errors/MEASURE/CHUNK`, `texture/K/SIZE`,
        `relief/K/SIZE`, `picture/CAMERA/FRAME`, `picture/CAMERA/FRAME/full`.
        """
        chunks = -(-len(self.frames) // CHUNK)
        match list(name):
            case ["topology"]:
                return Body("application/octet-stream", self._topology_bytes)
            case ["frames", text] if (chunk := number(text, chunks)) is not None:
                return Body("application/octet-stream", lambda: self._frame_bytes(chunk))
            case ["errors", measure, text] if (chunk := number(text, chunks)) is not None:
                if self.errors is not None and measure in self.errors.measures:
                    return Body(
                        "application/octet-stream", lambda: self._error_bytes(measure, chunk)
                    )
            case [("texture" | "relief") as kind, text, size]:
                k = number(text, len(self._maps[kind].paths))
                if k is not None and size in map(str, self._sizes[kind]):
                    return self._map(kind, k, int(size))
            case ["picture", camera, frame]:
                return self._picture(camera, frame, OFFLINE_HEIGHT if self.compact else HEIGHT)
            case ["picture", camera, frame, "full"] if not self.compact:
                return self._picture(camera, frame, None)
        return None

    def names(self) -> Sequence[str]:
        chunks = range(-(-len(self.frames) // CHUNK))
        names = ["topology", *(f"frames/{c}" for c in chunks)]
        if self.errors is not None:
            names += [f"errors/{m}/{c}" for m in self.errors.measures for c in chunks]
        for kind, maps in self._maps.items():
            for size in self._sizes[kind][:1]:
                names += [f"{kind}/{k}/{size}" for k in sorted(set(maps.of) - {-1})]
        names += [f"picture/{c}/{t}" for c in self._pictured for t in range(len(self.frames))]
        return names

    def reduced(self, frames: int) -> "MeshSequence":
        """At most so many frames, evenly spread, the first and the last among them."""
        kept = np.unique(np.linspace(0, len(self.frames) - 1, frames).round().astype(int)).tolist()
        return replace(
            self,
            frames=tuple(self.frames[t] for t in kept),
            vertices=lambda t: self.vertices(kept[t]),
            textures=self.textures.of_frames(kept),
            reliefs=self.reliefs.of_frames(kept),
            doubtful=tuple(k for k, t in enumerate(kept) if t in self.doubtful),
            rows=tuple(self.rows[t] for t in kept),
            compact=True,
        )

    # -- geometry

    @cached_property
    def _first(self) -> NDArray[np.float32]:
        return self.vertices(0)

    @cached_property
    def _arrays(self) -> Mapping[str, NDArray]:
        """What all frames share; seams are split, since a graphics card takes one UV a vertex."""
        split = split_seams(self.topology)
        copy_of = np.full(self.topology.vertex_count, -1, np.int64)
        copy_of[split.source_vertex[::-1]] = np.arange(len(split.source_vertex))[::-1]
        arrays: dict[str, NDArray] = {
            "base": self._first,
            "source": split.source_vertex.astype(np.uint32),
            "triangles": split.triangles.astype(np.uint32),
            "edges": copy_of[self.topology.edges.numpy()].astype(np.uint32),
        }
        if len(self.topology.uv):
            arrays["uv"] = self.topology.uv.numpy()[split.source_uv].astype(np.float32)
        if self.errors is not None:
            arrays["measured"] = self.errors.vertices.astype(np.uint32)
        return arrays

    def _topology_bytes(self) -> bytes:
        return b"".join(np.ascontiguousarray(a).tobytes() for a in self._arrays.values())

    def _frame_bytes(self, chunk: int) -> bytes:
        """Metres a step (float32), then int16 [n V 3]: steps from the first frame."""
        span = range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(self.frames)))
        offsets = np.stack([self.vertices(t) - self._first for t in span])
        offsets = np.nan_to_num(offsets, nan=0.0, posinf=0.0, neginf=0.0)
        step = np.float32(max(float(np.abs(offsets).max()), 1e-9) / 32_767)
        return step.tobytes() + np.rint(offsets / step).astype(np.int16).tobytes()

    def _error_bytes(self, measure: str, chunk: int) -> bytes:
        """uint16 [n M], µm."""
        assert self.errors is not None
        span = range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(self.frames)))
        rows = [self.rows[t] for t in span]
        mm = self.errors.read(measure, rows[0], rows[-1] + 1)[[row - rows[0] for row in rows]]
        micrometres = np.clip(np.nan_to_num(mm, nan=1e6) * 1000, 0, UNKNOWN_ERROR)
        return np.rint(micrometres).astype(np.uint16).tobytes()

    # -- pictures

    @property
    def _maps(self) -> Mapping[str, Maps]:
        return {"texture": self.textures, "relief": self.reliefs}

    @cached_property
    def _sizes(self) -> Mapping[str, list[int]]:
        """Widths to choose from by kind of map, the file's own last."""
        return {kind: self._sizes_of(maps) for kind, maps in self._maps.items()}

    def _sizes_of(self, maps: Maps) -> list[int]:
        if not maps.paths or not len(self.topology.uv):
            return []
        full = image_size(maps.paths[0])[0]
        if self.compact:
            many = len(set(maps.of)) > OFFLINE_TEXTURES
            return [min(full, 1024 if many else PREVIEW_SIZES[0])]
        return [*(size for size in PREVIEW_SIZES if size < full), full]

    def _map(self, kind: str, index: int, size: int) -> Body:
        path = self._maps[kind].paths[index]
        own = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
        if not self.compact and size == self._sizes[kind][-1] and path.suffix.lower() in own:
            return file_body(path, own[path.suffix.lower()])
        return Body("image/jpeg", lambda: texture_preview(path, size))

    @cached_property
    def _pictured(self) -> range:
        """Cameras whose pictures the page may show; an offline file holds a few."""
        if self.cameras is None or self.pictures is None or not self.pictures.exist:
            return range(0)
        count = len(self.cameras)
        if self.compact:
            count = min(count, OFFLINE_PICTURES // len(self.frames))
        return range(0, len(self.cameras), -(-len(self.cameras) // count)) if count else range(0)

    def _picture(self, camera: str, frame: str, height: int | None) -> Body | None:
        c = number(camera, 0 if self.cameras is None else len(self.cameras))
        t = number(frame, len(self.frames))
        if c is None or t is None or c not in self._pictured:
            return None
        assert self.cameras is not None and self.pictures is not None
        source, name, instant = self.pictures, self.cameras.names[c], self.frames[t]
        return Body("image/jpeg", lambda: source.jpeg(name, instant, height))

    def _camera_entries(self, cameras: Cameras) -> list[dict[str, Any]]:
        """Pinhole cameras without skew, as `undistorted_views` makes their pictures."""
        intrinsics = cameras.intrinsics.double()
        return [
            {
                "name": name,
                "size": list(cameras.size(c)),
                "focal": [float(intrinsics[c, 0, 0]), float(intrinsics[c, 1, 1])],
                "principal": intrinsics[c, :2, 2].tolist(),
                "world_to_camera": cameras.world_to_camera[c].double().reshape(-1).tolist(),
                "pictures": c in self._pictured,
            }
            for c, name in enumerate(cameras.names)
        ]


def turned_up(axis: str) -> Float[Tensor, "4 4"]:
    """World → y up, for a file whose up is x, y, z, or one of them with a minus."""
    sign = -1.0 if axis.startswith("-") else 1.0
    matrix = torch.eye(4, dtype=torch.float64)
    if axis.endswith("y"):
        matrix[1, 1] = matrix[2, 2] = sign
    elif axis.endswith("z"):
        matrix[1:3, 1:3] = torch.tensor([[0.0, sign], [-sign, 0.0]])
    else:
        matrix[0:2, 0:2] = torch.tensor([[0.0, -sign], [sign, 0.0]])
    return matrix
