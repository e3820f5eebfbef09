"""Avatars as folders: avatar.safetensors, and avatar.json that says what they were made from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from topohead.core import ARKIT_52, BoundSplats, GaussianBinding, InputError
from topohead.geometry.avatars import Avatar, ExpressionChange
from topohead.geometry.binding import check_bound
from topohead.geometry.skinning import FaceRig
from topohead.io.assets import topology_from, topology_tensors
from topohead.io.atomic import atomic_write, write_text

TENSORS, RECORD, BUNDLE = "avatar.safetensors", "avatar.json", "avatar.glb"
FORMAT = 1

_RIG = ("neutral", "blendshapes", "head_share", "neck", "head")
_BINDING = ("triangles", "barycentrics", "offsets", "quats", "scales")
_CHANGE = ("mean", "axes", "low", "high", "colors", "offsets")


def is_avatar(path: Path) -> bool:
    """Whether a folder holds an avatar."""
    return (path / RECORD).is_file()


def write_avatar(folder: Path, avatar: Avatar, record: Mapping[str, Any]) -> None:
    """Write both files; `record` is kept beside what the format itself needs to know."""
    rig, splats = avatar.rig, avatar.splats
    tensors: dict[str, Tensor] = {
        f"topology.{name}": tensor for name, tensor in topology_tensors(rig.topology).items()
    }
    tensors |= {f"rig.{name}": getattr(rig, name) for name in _RIG}
    tensors |= {f"splats.{name}": getattr(splats.binding, name) for name in _BINDING}
    tensors |= {"splats.opacities": splats.opacities, "splats.harmonics": splats.harmonics}
    tensors |= {f"change.{name}": getattr(avatar.change, name) for name in _CHANGE}
    with atomic_write(folder / TENSORS) as partial:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, partial)
    told = {
        "format": FORMAT,
        "head_model": rig.topology.name,
        "topology": rig.topology.fingerprint,
        "vertices": rig.topology.vertex_count,
        "gaussians": len(splats),
        "expressions": list(ARKIT_52),
        "frame": "head: metres, x to the subject's left, y up, z out of the face",
        **record,
    }
    write_text(folder / RECORD, json.dumps(told, indent=2) + "\n")


def read_record(folder: Path) -> dict[str, Any]:
    """avatar.json, checked to be of this format."""
    try:
        told = json.loads((folder / RECORD).read_text("utf-8"))
    except OSError:
        raise InputError(
            f"{folder} holds no avatar (no {RECORD}); expected what `topohead avatar fit --out` "
            "wrote"
        ) from None
    except ValueError as error:
        raise InputError(f"{folder / RECORD} is no JSON ({error}); fit the avatar again") from None
    if told.get("format") != FORMAT:
        raise InputError(
            f"{folder} is an avatar of format {told.get('format')}, expected {FORMAT}; fit it again"
        )
    return told


def read_avatar(folder: Path) -> Avatar:
    """The avatar in a folder, checked: a broken file must not play."""
    folder = Path(folder)
    told = read_record(folder)
    path = folder / TENSORS
    try:
        stored = load_file(path)
        rows = {
            part: {
                key.removeprefix(f"{part}."): value
                for key, value in stored.items()
                if key.startswith(f"{part}.")
            }
            for part in ("topology", "rig", "splats", "change")
        }
        topology = topology_from(rows["topology"])
        parts = {name: rows["rig"][name] for name in _RIG}
        rig = FaceRig(topology=topology, upright=torch.eye(4), **parts)
        binding = GaussianBinding(*(rows["splats"][name] for name in _BINDING))
        splats = BoundSplats(binding, rows["splats"]["opacities"], rows["splats"]["harmonics"])
        change = ExpressionChange(*(rows["change"][name] for name in _CHANGE))
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}); fit the avatar again") from None
    if topology.fingerprint != told["topology"]:
        raise InputError(
            f"{path} is of the topology {topology.fingerprint} and {RECORD} of "
            f"{told['topology']}: the two files are of different avatars"
        )
    check_bound(splats, len(topology.triangles), str(path))
    for name in ("neutral", "blendshapes"):
        if not bool(torch.isfinite(getattr(rig, name)).all()):
            raise InputError(f"{path}: its {name} have vertices that are no numbers (NaN)")
    return Avatar(rig, splats, change)
