"""The folder layout of SynHead100 (He et al. 2024, Head360), with any topology and picture size.

`images/split_SIZE_hs/ID/EXPRESSION/NNNN.png` holds heads, `images/split_SIZE` the same heads
bald; `images/dataset_pose.json` and `images/total_dataset_exp.json` label every picture with its
camera and expression; `mesh_lms` has a mesh and twelve points of the outer lips for each
expression. Meshes are in units of `UNIT` metres, cameras in 1/`CAMERA_SCALE` of those.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Mesh
from topohead.io.atomic import atomic_write, write_text
from topohead.io.meshes import write_obj

UNIT = 2.0
CAMERA_SCALE = 4.5

LABELS = "labels"
"""Folder of one file for each identity that is complete, from which both label files are made."""


def camera_label(
    world_to_camera: Float[Tensor, "4 4"], intrinsics: Float[Tensor, "3 3"], width: int
) -> list[float]:
    """Camera-to-world 4×4 row by row, in camera units; then intrinsics 3×3 in picture widths."""
    pose = torch.linalg.inv(world_to_camera.double())
    pose[:3, 3] *= CAMERA_SCALE / UNIT
    lens = intrinsics.double() / torch.tensor([[width], [width], [1.0]])
    return [round(float(x), 9) for x in torch.cat([pose.flatten(), lens.flatten()])]


def camera_of_label(
    label: Sequence[float], width: int
) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "3 3"]]:
    """world_to_camera in metres and intrinsics in pixels: what `camera_label` was made from."""
    numbers = torch.tensor(label, dtype=torch.float64)
    pose, lens = numbers[:16].reshape(4, 4).clone(), numbers[16:].reshape(3, 3)
    pose[:3, 3] *= UNIT / CAMERA_SCALE
    return torch.linalg.inv(pose), lens * torch.tensor([[width], [width], [1.0]])


def write_pictures(
    folder: Path, bald: bool, name: str, expression: str, pictures: Sequence[bytes], size: int
) -> list[str]:
    """PNGs of one head in one expression, a camera each; returns their paths in the labels."""
    paths = [f"{name}/{expression}/{k:04d}.png" for k in range(len(pictures))]
    root = folder / "images" / f"split_{size}{'' if bald else '_hs'}"
    for path, data in zip(paths, pictures, strict=True):
        with atomic_write(root / path) as temporary:
            temporary.write_bytes(data)
    return [f"{root.name}/{path}" for path in paths]


def write_shape(
    folder: Path, name: str, expression: str, mesh: Mesh, lips: Float[Tensor, "12 3"]
) -> None:
    """A head's mesh in one expression and the outline of its lips; given in metres."""
    shapes = folder / "mesh_lms"
    for part in ("meshes", "lms"):
        (shapes / part).mkdir(parents=True, exist_ok=True)
    scaled = Mesh(mesh.topology, mesh.vertices / UNIT)
    write_obj(scaled, shapes / "meshes" / f"{name}_{expression}.obj")
    with atomic_write(shapes / "lms" / f"{name}_{expression}.txt") as temporary:
        np.savetxt(temporary, (lips / UNIT).double().cpu().numpy(), fmt="%.7f")


def identity_done(folder: Path, name: str) -> bool:
    """Whether all of an identity is there: its labels are written last."""
    return (folder / LABELS / f"{name}.json").exists()


def write_labels(
    folder: Path, name: str, cameras: dict[str, list[float]], expressions: dict[str, list[float]]
) -> None:
    """Labels of an identity's pictures by path: the identity is complete."""
    rows = {"pose": list(cameras.items()), "exp": list(expressions.items())}
    (folder / LABELS).mkdir(parents=True, exist_ok=True)
    write_text(folder / LABELS / f"{name}.json", json.dumps(rows))


def join_labels(folder: Path, names: Sequence[str]) -> bool:
    """Both label files of the layout, once all identities are there; False before."""
    if not all(identity_done(folder, name) for name in names):
        return False
    parts = [json.loads((folder / LABELS / f"{name}.json").read_text()) for name in names]
    for key, file in (("pose", "dataset_pose.json"), ("exp", "total_dataset_exp.json")):
        rows = [row for part in parts for row in part[key]]
        write_text(folder / "images" / file, json.dumps({"labels": rows}))
    return True
