"""Gaussian bundles: a GLB of ours whose mesh carries bound Gaussians.

The mesh's extras hold `topohead.splats`: the topology's fingerprint, the number of Gaussians, and
for each array the accessor that has it. Programs that do not know them see the mesh.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topohead.core import BoundSplats, GaussianBinding, InputError, Topology
from topohead.geometry.binding import check_bound
from topohead.io.gltf_parts import GlbPack, accessor_values

FORMAT = 1
"""Of the block; another one is refused."""

ARRAYS = {
    "triangles": "SCALAR", "barycentrics": "VEC3", "offsets": "VEC3", "quats": "VEC4",
    "scales": "VEC3", "opacities": "SCALAR", "harmonics": "VEC3",
}  # fmt: skip
"""Each array's glTF type; `harmonics` has K rows a Gaussian."""


def add_splats(pack: GlbPack, mesh: Any, topology: Topology, splats: BoundSplats) -> None:
    """Adds the block to `mesh.extras` and its arrays to the buffer."""
    check_bound(splats, len(topology.triangles), "these Gaussians")
    binding = splats.binding
    values = {
        "triangles": binding.triangles,
        "barycentrics": binding.barycentrics,
        "offsets": binding.offsets,
        "quats": binding.quats,
        "scales": binding.scales,
        "opacities": splats.opacities,
        "harmonics": splats.harmonics.reshape(-1, 3),
    }
    arrays = {
        name: pack.accessor(_stored(tensor), ARRAYS[name], None) for name, tensor in values.items()
    }
    mesh.extras["topohead"]["splats"] = {
        "format": FORMAT,
        "count": len(splats),
        "topology": topology.fingerprint,
        "arrays": arrays,
    }


def _stored(tensor: Tensor) -> np.ndarray:
    values = tensor.detach().cpu().numpy()
    return values.astype("<f4" if values.dtype.kind == "f" else "<u4")


def read_bound_splats(path: Path) -> tuple[BoundSplats, Topology]:
    """The Gaussians of a bundle and the topology that they are bound to."""
    from topohead.io.gltf import open_glb, stored_topology  # which writes bundles by this module

    gltf, blob, extras = open_glb(path)
    block = extras.get("splats")
    if block is None:
        raise InputError(f"{path} holds no Gaussians; write it with `export --to glb --splats`")
    if block.get("format") != FORMAT:
        raise InputError(
            f"{path} has Gaussians in format {block.get('format')}, expected {FORMAT}; "
            "write it again with this version"
        )
    topology, _ = stored_topology(gltf, blob)
    if block["topology"] != topology.fingerprint:
        raise InputError(
            f"{path}: its Gaussians belong to the topology {block['topology']} and its mesh is "
            f"{topology.fingerprint}; another program changed the mesh, export the bundle again"
        )
    try:
        rows = {
            name: _tensor(accessor_values(gltf, blob, k)) for name, k in block["arrays"].items()
        }
        binding = GaussianBinding(
            rows["triangles"][:, 0].long(), rows["barycentrics"], rows["offsets"], rows["quats"],
            rows["scales"],
        )  # fmt: skip
        harmonics = rows["harmonics"].reshape(block["count"], -1, 3)
        lengths = {len(x) for name, x in rows.items() if name != "harmonics"}
        if lengths != {block["count"]}:
            raise ValueError(f"arrays of {sorted(lengths)} rows for {block['count']} Gaussians")
    except (KeyError, ValueError, RuntimeError, IndexError, TypeError) as error:
        raise InputError(
            f"{path}: its Gaussians cannot be read ({error}); export it again"
        ) from None
    splats = BoundSplats(binding, rows["opacities"][:, 0], harmonics)
    check_bound(splats, len(topology.triangles), str(path))
    return splats, topology


def _tensor(values: np.ndarray) -> Tensor:
    whole = values.dtype.kind == "u"
    return torch.from_numpy(values.astype(np.int64 if whole else np.float32))
