"""A run, or a mesh file, as a sequence that is read frame by frame."""

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from topohead.core import InputError, Topology
from topohead.io.meshes import read_mesh
from topohead.io.textures import StoredTexture, find_texture

DEFAULT_RATE = 30.0


@dataclass(frozen=True)
class MeshSequence:
    """One topology over time, world metres, its vertices read when they are asked for.

    `numbers` are the frames' numbers in the take. `upright` moves the world to y up, face along +z;
    None where nothing is known of it. `texture(frame)` and `normal_map(frame)`, in tangent space,
    are the frame's own or, where only that has one, the first's.
    """

    name: str
    topology: Topology
    frames: tuple[str, ...]
    numbers: tuple[int, ...]
    frames_per_second: float
    upright: Float[Tensor, "4 4"] | None
    read: Callable[[str], Tensor]
    texture: Callable[[str], StoredTexture | None]
    normal_map: Callable[[str], Path | None]

    def __len__(self) -> int:
        return len(self.frames)

    def shapes(self) -> Iterator[Float[Tensor, "V 3"]]:
        """The vertices, frame after frame."""
        return (self.read(frame) for frame in self.frames)

    def times(self) -> list[float]:
        """Seconds from the first frame; frames that are left out leave their gap."""
        return [(number - self.numbers[0]) / self.frames_per_second for number in self.numbers]

    @property
    def pace(self) -> float:
        """Frames a second of these frames: fewer than the take's where some were stepped over."""
        last = self.times()[-1]
        return (len(self) - 1) / last if last else self.frames_per_second

    def only(self, frames: Sequence[str]) -> "MeshSequence":
        """Some of the frames."""
        number = dict(zip(self.frames, self.numbers, strict=True))
        return replace(self, frames=tuple(frames), numbers=tuple(number[f] for f in frames))


def run_sequence(path: Path) -> MeshSequence:
    """The finished frames of a run folder; memory holds one at a time."""
    if not (path / "run.json").exists():
        raise InputError(
            f"{path} is no run folder (no run.json); expected what `capture --out` wrote"
        )
    folders = sorted(state.parent for state in path.glob("frames/*/state.safetensors"))
    frames = tuple(folder.name for folder in folders if (folder / "mesh.obj").exists())
    if not frames:
        raise InputError(f"{path} has no finished frame yet; run `topohead capture` to its end")
    topology = read_mesh(path / "frames" / frames[0] / "mesh.obj").topology
    head, sequence = path / "first" / "head.safetensors", path / "sequence.glb"
    ours = glb_document(sequence)["meshes"][0]["extras"]["topohead"] if sequence.exists() else {}

    def read(frame: str) -> Tensor:
        state = path / "frames" / frame / "state.safetensors"
        vertices = stored_tensor(state, "vertices").float()
        if len(vertices) != topology.vertex_count:
            raise InputError(
                f"{state} has {len(vertices)} vertices and the first frame's mesh.obj "
                f"{topology.vertex_count}; the folder mixes two runs, capture again into a new one"
            )
        return vertices

    def normal_map(frame: str) -> Path | None:
        files = (path / "frames" / name / "normal.png" for name in (frame, frames[0]))
        return next((file for file in files if file.exists()), None)

    return MeshSequence(
        path.resolve().name,
        topology,
        frames,
        _numbers(frames),
        float(ours.get("frames_per_second", DEFAULT_RATE)),
        stored_tensor(head, "upright") if head.exists() else None,
        read,
        lambda frame: find_texture(path, frame, frames),
        normal_map,
    )


def still_sequence(
    name: str, topology: Topology, vertices: Float[Tensor, "V 3"], texture: Path | None
) -> MeshSequence:
    """A single mesh, which is taken to stand upright already."""
    stored = None if texture is None else StoredTexture(texture)
    return MeshSequence(
        name, topology, ("000001",), (1,), DEFAULT_RATE, None,
        lambda frame: vertices, lambda frame: stored, lambda frame: None,
    )  # fmt: skip


def _numbers(frames: Sequence[str]) -> tuple[int, ...]:
    """Numbers in the frames' names, or 1, 2, … where names are no numbers."""
    if all(frame.isdigit() for frame in frames):
        return tuple(int(frame) for frame in frames)
    return tuple(range(1, len(frames) + 1))


def stored_tensor(path: Path, name: str) -> Tensor:
    """One tensor of a safetensors file, the others unread."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); it is damaged, capture that frame again"
        ) from None


def glb_document(path: Path) -> dict[str, Any]:
    """The JSON part of a GLB; its buffers, which may be large, stay on the disk."""
    try:
        with path.open("rb") as stream:
            _, _, _, length, _ = struct.unpack("<5I", stream.read(20))
            return json.loads(stream.read(length))
    except (OSError, ValueError, struct.error) as error:
        raise InputError(f"{path} is not a readable GLB ({error})") from None
