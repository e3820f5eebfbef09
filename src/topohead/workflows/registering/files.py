"""The files of one registered head, under fixed names in a folder or beside a named file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import InputError
from topohead.io.atomic import atomic_write
from topohead.io.gltf_rig import write_rig_glb
from topohead.io.images import write_heights, write_image
from topohead.io.meshes import write_obj
from topohead.io.ply import write_ply
from topohead.workflows.registering.heads import RegisteredHead

USD = (".usdc", ".usda", ".usd")


@dataclass(frozen=True)
class Place:
    """Where a head's files go: `head` is the mesh, `name(what)` anything that goes with it."""

    head: Path
    name: Callable[[str], Path]
    formats: tuple[str, ...]

    @property
    def manifest(self) -> Path:
        return self.name("manifest.json")


def place_of(out: Path) -> Place:
    """A folder holds an OBJ and a GLB; a file stands alone, its companions named after it."""
    suffix = out.suffix.lower()
    if out.is_dir() or not suffix:
        return Place(out / "head.obj", lambda what: out / what, (".obj", ".glb"))
    if suffix not in WRITERS:
        raise InputError(
            f"--out {out}: cannot write {suffix}; expected {', '.join(WRITERS)}, or a folder"
        )
    return Place(out, lambda what: out.with_name(f"{out.stem}_{Path(what).name}"), (suffix,))


def write_head(
    head: RegisteredHead,
    place: Place,
    texture: Float[Tensor, "S S 3"] | None,
    heights: Float[Tensor, "S S"] | None,
    neutral: bool,
) -> list[Path]:
    """Writes all files but the manifest, which says that they are there; gives their paths."""
    written: list[Path] = []
    picture = None
    if texture is not None:
        picture = place.name("textures/albedo_srgb.png")
        write_image(picture, texture)
        written.append(picture)
    if heights is not None:
        written.append(place.name("displacement.exr"))
        write_heights(written[-1], heights)
    written.append(place.name("sigma.npy"))
    with atomic_write(written[-1]) as partial, partial.open("wb") as stream:
        np.save(stream, head.sigma.numpy())
    for suffix in place.formats:
        path = place.head.with_suffix(suffix) if len(place.formats) > 1 else place.head
        written += write_mesh(head, path, picture)
    if neutral:
        path = place.name("head_neutral.obj")
        write_obj(head.neutral, path, None if picture is None else _relative(picture, path))
        written += _with_material(path, picture)
    return written


def write_mesh(head: RegisteredHead, path: Path, picture: Path | None) -> list[Path]:
    """Writes the head in the format of a path's ending, with its texture; gives its files."""
    WRITERS[path.suffix.lower()](head, path, picture)
    return _with_material(path, picture)


def _with_material(mesh: Path, picture: Path | None) -> list[Path]:
    """A mesh's file, and the material that an OBJ with a texture has."""
    textured = mesh.suffix.lower() == ".obj" and picture is not None
    return [mesh, mesh.with_suffix(".mtl")] if textured else [mesh]


def _relative(picture: Path, mesh: Path) -> str:
    return picture.relative_to(mesh.parent).as_posix()


def _write_obj(head: RegisteredHead, path: Path, picture: Path | None) -> None:
    write_obj(head.mesh, path, None if picture is None else _relative(picture, path))


def _write_ply(head: RegisteredHead, path: Path, picture: Path | None) -> None:
    write_ply(head.mesh, path, None if picture is None else _relative(picture, path))


def _write_glb(head: RegisteredHead, path: Path, picture: Path | None) -> None:
    write_rig_glb(path, head.played, picture)


def _write_usd(head: RegisteredHead, path: Path, picture: Path | None) -> None:
    from topohead.io.usd import StageFacts
    from topohead.io.usd_rig import write_rig_usd

    back = torch.linalg.inv(head.rig.upright.double())
    axis = "z-up" if abs(float(back[2, 1])) > abs(float(back[1, 1])) else "y-up"
    facts = StageFacts("head", axis, 1.0, head.played.frames_per_second, (1,))
    texture = None if picture is None else _relative(picture, path)
    write_rig_usd(path, facts, head.played, texture)


WRITERS: Mapping[str, Callable[[RegisteredHead, Path, Path | None], None]] = {
    ".obj": _write_obj,
    ".glb": _write_glb,
    ".ply": _write_ply,
    **dict.fromkeys(USD, _write_usd),
}
