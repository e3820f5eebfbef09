"""Gaussian bundles: a GLB of ours whose mesh carries bound Gaussians.

The mesh's extras hold `topohead.splats`: the topology's fingerprint, the number of Gaussians, and
for each array the accessor that has it. Programs that do not know them see the mesh.

Avatars say more. `change` is how Gaussians change with expression (`ExpressionChange`): `mean`,
`axes` (52 rows of R), `low`, `high`, and `values`, half floats as unsigned shorts: of each Gaussian
and code three of the offset and three of the first harmonic, filled up to a multiple of eight a
Gaussian, so that a page takes them for a texture as they are. `eyes` (left, right) have a centre
and vertices, and turn by the eyeLook actions, at weight 1 by `full_look` radians.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topohead.core import BoundSplats, GaussianBinding, InputError, Topology
from topohead.geometry.avatars import ExpressionChange, eyeballs
from topohead.geometry.binding import check_bound
from topohead.geometry.skinning import FaceRig
from topohead.io.expressions import FULL_LOOK
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


def add_expression(pack: GlbPack, mesh: Any, rig: FaceRig, change: ExpressionChange) -> None:
    """Adds to Gaussians that `add_splats` has put on how they change, and the eyes of their rig."""
    block = mesh.extras["topohead"]["splats"]
    if len(change.colors) != block["count"]:
        raise InputError(
            f"changes of {len(change.colors)} Gaussians for {block['count']}: expected one each"
        )
    flat = [change.mean, change.axes.reshape(-1), change.low, change.high]
    arrays = {
        name: pack.accessor(_stored(values), "SCALAR", None)
        for name, values in zip(("mean", "axes", "low", "high"), flat, strict=True)
        if len(values)
    }
    ranks = len(change.low)
    if ranks:
        arrays["values"] = pack.accessor(_halves(change), "SCALAR", None)
    block["change"] = {"ranks": ranks, "arrays": arrays}
    block["full_look"] = FULL_LOOK
    block["eyes"] = [
        None
        if eye is None
        else {
            "center": eye.center.tolist(),
            "vertices": pack.accessor(_stored(eye.vertices), "SCALAR", None),
        }
        for eye in eyeballs(rig)
    ]


def _halves(change: ExpressionChange) -> np.ndarray:
    values = torch.cat([change.offsets, change.colors], 2).flatten(1).detach().cpu()
    values = torch.nn.functional.pad(values, (0, -values.shape[1] % 8))
    return values.clamp(-60_000, 60_000).half().numpy().view("<u2").reshape(-1)


def read_expression(path: Path) -> ExpressionChange | None:
    """How the Gaussians of a bundle change with expression; None where it does not say."""
    from topohead.io.gltf import open_glb

    gltf, blob, extras = open_glb(path)
    block = extras.get("splats") or {}
    if "change" not in block:
        return None
    try:
        ranks, count = int(block["change"]["ranks"]), int(block["count"])
        rows = {
            name: accessor_values(gltf, blob, k)[:, 0]
            for name, k in block["change"]["arrays"].items()
        }
        if not ranks:
            nothing = torch.zeros(count, 0, 3)
            return ExpressionChange(
                _tensor(rows["mean"]), torch.zeros(52, 0), torch.zeros(0), torch.zeros(0), nothing,
                nothing,
            )  # fmt: skip
        halves = np.ascontiguousarray(rows["values"], "<u2").view("<f2").reshape(count, -1)
        both = torch.from_numpy(halves[:, : 6 * ranks].astype(np.float32)).reshape(count, ranks, 6)
        mean, low, high = (_tensor(rows[name]) for name in ("mean", "low", "high"))
        axes = _tensor(rows["axes"]).reshape(52, ranks)
        if len(low) != ranks or len(high) != ranks or len(mean) != 52:
            raise ValueError(f"{len(low)} and {len(high)} ends for {ranks} codes")
    except (KeyError, ValueError, RuntimeError, IndexError, TypeError) as error:
        raise InputError(
            f"{path}: how its Gaussians change cannot be read ({error}); fit or export it again"
        ) from None
    change = ExpressionChange(mean, axes, low, high, both[..., 3:], both[..., :3])
    if not all(bool(torch.isfinite(part).all()) for part in vars(change).values()):
        raise InputError(f"{path}: its Gaussians change by what is no number (NaN); fit it again")
    return change


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
