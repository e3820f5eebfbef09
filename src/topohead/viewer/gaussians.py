"""Gaussians that a mesh carries, for the page: bundles in a GLB, and CAP4D's animated PLY."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from topohead.core import BoundSplats, InputError, Topology
from topohead.geometry.alignment import rigid
from topohead.io.animated_ply import read_animated_ply
from topohead.io.gltf_splats import read_bound_splats, read_expression
from topohead.io.sequences import glb_document
from topohead.viewer.bodies import BINARY, Body
from topohead.viewer.sequences import MeshSequence


def holds_bundle(path: Path) -> bool:
    """Whether a GLB has bound Gaussians; refuses them when they are broken."""
    try:
        meshes = glb_document(path).get("meshes", [])
        extras = [mesh.get("extras", {}).get("topohead", {}) for mesh in meshes]
        found = bool(extras) and extras[0].get("splats") is not None
    except (InputError, AttributeError):
        return False  # what is no GLB at all, the page says
    if found:
        read_bound_splats(path)
        read_expression(path)
    return found


@dataclass(frozen=True)
class PlayedSplats:
    """A mesh sequence that carries Gaussians in similarity frames."""

    sequence: MeshSequence
    splats: BoundSplats

    @property
    def document(self) -> Mapping[str, Any]:
        entries = [[name, str(rows.dtype), rows.size] for name, rows in self._arrays.items()]
        return {**self.sequence.document, "kind": "played", "splats": entries}

    def body(self, name: Sequence[str]) -> Body | None:
        """`splats`, and what the sequence has."""
        if list(name) == ["splats"]:
            return Body(BINARY, lambda: b"".join(rows.tobytes() for rows in self._arrays.values()))
        return self.sequence.body(name)

    def names(self) -> Sequence[str]:
        return [*self.sequence.names(), "splats"]

    def reduced(self, frames: int) -> "PlayedSplats":
        return replace(self, sequence=self.sequence.reduced(frames))

    @cached_property
    def _arrays(self) -> Mapping[str, NDArray]:
        """What the page reads; `turns` are how the head is turned against the first frame."""
        binding = self.splats.binding
        parts = {
            "barycentrics": binding.barycentrics, "offsets": binding.offsets,
            "quats": binding.quats, "scales": binding.scales,
            "opacities": self.splats.opacities, "harmonics": told_harmonics(self.splats),
            "turns": self._turns(),
        }  # fmt: skip
        rows = {name: np.ascontiguousarray(x.numpy(), np.float32) for name, x in parts.items()}
        return {"triangles": binding.triangles.numpy().astype(np.uint32), **rows}

    def _turns(self) -> Float[Tensor, "T 3 3"]:
        """Colours turn with the head, and the file does not say how that turns: its vertices do."""
        read = self.sequence.vertices
        shapes = [torch.from_numpy(read(t)).double() for t in range(len(self.sequence.frames))]
        return torch.stack([rigid(shapes[0], shape)[:3, :3] for shape in shapes])


def told_harmonics(splats: BoundSplats) -> Float[Tensor, "N K 3"]:
    """Harmonics without the degrees that are zero throughout: CAP4D's layout always has three."""
    rows = splats.harmonics.shape[1]
    while rows > 1 and not bool(splats.harmonics[:, (round(rows**0.5) - 1) ** 2 : rows].any()):
        rows = (round(rows**0.5) - 1) ** 2
    return splats.harmonics[:, :rows]


def played_splats(path: Path, upright: Float[Tensor, "4 4"]) -> PlayedSplats:
    """The clip of an animated PLY."""
    clip = read_animated_ply(path)
    faces = torch.cat([clip.faces, clip.faces[:, 2:]], 1)  # triangles, as `Topology` has them
    topology = Topology(
        clip.vertices.shape[1], faces, torch.zeros(0, 2), torch.zeros_like(faces), name=path.stem
    )
    frames = clip.vertices.numpy()
    sequence = MeshSequence(
        title=path.name,
        topology=topology,
        frames=tuple(f"{t:05d}" for t in range(len(frames))),
        vertices=lambda t: frames[t],
        upright=upright,
        frames_per_second=clip.frames_per_second,
    )
    return PlayedSplats(sequence, clip.splats)
