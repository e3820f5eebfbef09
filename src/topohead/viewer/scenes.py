"""What is at a path, as a scene for the page: a run, a mesh, a rigged GLB, a splat file."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from topohead.core import ARKIT_52, InputError
from topohead.io.animated_ply import is_animated
from topohead.io.avatars import BUNDLE, is_avatar
from topohead.io.gltf import stored_rate
from topohead.io.meshes import read_mesh
from topohead.io.ply import read_header
from topohead.io.results import RunResult, finished_frames, open_run
from topohead.viewer.bodies import Body, Scene, Subject, file_body, require_inside
from topohead.viewer.gaussians import holds_bundle, played_splats
from topohead.viewer.pictures import SourcePictures
from topohead.viewer.sequences import Maps, MeshSequence, VertexErrors, turned_up

log = logging.getLogger(__name__)

SPLAT_SUFFIXES = (".spz", ".splat", ".ksplat")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
DEFAULT_RATE = 30.0
MAP_NAMES = COLOUR, RELIEF = ("texture_srgb.png", "normal.png")
MEASURES = ("surface", "correspondence", "slide")


def open_scene(path: Path, up: str | None = None) -> Scene:
    """The scene at a path. `up` is the axis that points up in a file (default: y, splats -y)."""
    if path.is_dir() and is_avatar(path):
        return Scene(path.name, (_file_subject(path / BUNDLE, up),))
    if path.is_dir():
        exported = sorted(path.glob("*.glb")) if (path / "export.json").exists() else []
        if len(exported) == 1:
            return Scene(path.name, (_file_subject(exported[0], up),))
        return _run_scene(path / "run" if (path / "run" / "run.json").exists() else path)
    if not path.is_file():
        raise InputError(
            f"nothing at {path}; expected a run folder, a mesh (.obj, .ply, .stl, .off), a .glb, "
            "or splats (.ply, .spz, .splat, .ksplat)"
        )
    return Scene(path.name, (_file_subject(path, up),))


def _run_scene(run: Path) -> Scene:
    """A run's scene; one that is not finished is looked at again when the page asks."""
    seen = _progress(run)

    def grown() -> Scene | None:
        return None if _progress(run) == seen else _run_scene(run)

    return Scene(_title(run), _run_subjects(run), None if _finished(run) else grown)


def _progress(run: Path) -> tuple[int, ...]:
    """Finished frames, maps and stages: what changes while a capture runs."""
    maps = [len(list(run.glob(f"frames/*/{name}"))) for name in MAP_NAMES]
    return len(finished_frames(run)), *maps, len(list(run.glob("stages/*/done.json")))


def _finished(run: Path) -> bool:
    """Whether the run's last stage is done; a run that names no stages is not waited for."""
    stages = json.loads((run / "run.json").read_text("utf-8")).get("stages") or []
    return not stages or (run / "stages" / str(stages[-1]) / "done.json").exists()


def _title(run: Path) -> str:
    whole = run.resolve()
    return f"{whole.parent.name}/{whole.name}" if whole.name == "run" else whole.name


@dataclass(frozen=True)
class FileSubject:
    """A file that the page reads by itself: `model` (GLB), `bundle` (with Gaussians), `splats`."""

    kind: str
    title: str
    path: Path
    upright: Float[Tensor, "4 4"]

    @property
    def document(self) -> Mapping[str, Any]:
        """`actions` is the order of weights in messages and recordings."""
        return {
            "kind": self.kind,
            "actions": list(ARKIT_52),
            "title": self.title,
            "suffix": self.path.suffix.lower().lstrip("."),
            "bytes": self.path.stat().st_size,
            "upright": self.upright.double().reshape(-1).tolist(),
        }

    def body(self, name: Sequence[str]) -> Body | None:
        return file_body(self.path) if list(name) == ["file"] else None

    def names(self) -> Sequence[str]:
        return ["file"]

    def reduced(self, frames: int) -> "FileSubject":
        return self


def _file_subject(path: Path, up: str | None) -> Subject:
    suffix = path.suffix.lower()
    if suffix == ".glb":
        return _model(path, path.name, up or "y")
    if suffix == ".ply" and _is_clip(path):
        return played_splats(path, turned_up(up or "-y"))
    if suffix in SPLAT_SUFFIXES or (suffix == ".ply" and _holds_splats(path)):
        # splats keep the axes of their cameras, y down
        return FileSubject("splats", path.name, path, turned_up(up or "-y"))
    mesh = read_mesh(path)
    texture = _texture_beside(path)
    return MeshSequence(
        title=path.name,
        topology=mesh.topology,
        frames=(path.stem,),
        vertices=lambda _: mesh.vertices.numpy(),
        upright=turned_up(up or "y"),
        textures=Maps() if texture is None else Maps((texture,), (0,)),
    )


def _holds_splats(path: Path) -> bool:
    """Whether a PLY's header names what 3D Gaussians have."""
    with path.open("rb") as stream:
        header = stream.read(16_384).split(b"end_header")[0]
    return all(f" {name}".encode() in header for name in ("f_dc_0", "scale_0", "rot_0", "opacity"))


def _texture_beside(path: Path) -> Path | None:
    """The colour map of an OBJ's material file, or a picture of the mesh's own name."""
    candidates = [path.with_suffix(suffix) for suffix in PICTURE_SUFFIXES]
    material = path.with_suffix(".mtl")
    if path.suffix.lower() == ".obj" and material.is_file():
        for line in material.read_text(encoding="utf-8", errors="replace").splitlines():
            words = line.split(maxsplit=1)
            if len(words) == 2 and words[0].lower() == "map_kd":
                candidates.insert(0, path.parent / words[1].strip())
    for candidate in candidates:
        if candidate.suffix.lower() in PICTURE_SUFFIXES and candidate.is_file():
            return require_inside(candidate, path.parent)
    return None


def _run_subjects(path: Path) -> tuple[Subject, ...]:
    subjects: list[Subject] = [_captured(path)]
    for name, title in (("rig.glb", "Rig"), ("retarget.glb", "Other head")):
        file = path / "rig" / name
        if file.is_file():
            file = require_inside(file, path)
            subjects.append(FileSubject("model", title, file, turned_up("y")))
    for exported in sorted((path / "export" / "glb").glob("*.glb")):
        try:
            if holds_bundle(require_inside(exported, path)):
                subjects.append(FileSubject("bundle", "Gaussians", exported, turned_up("y")))
        except InputError as error:  # the run itself can be looked at
            log.warning("%s", error)
    return tuple(subjects)


def _model(path: Path, title: str, up: str) -> FileSubject:
    kind = "bundle" if holds_bundle(path) else "model"
    return FileSubject(kind, title, path, turned_up(up))


def _is_clip(path: Path) -> bool:
    try:
        return is_animated(read_header(path))
    except InputError:
        return False  # an ASCII one, say, which others read


def _captured(path: Path) -> MeshSequence:
    """A run's tracked meshes; its frames are read when the page asks for them."""
    folders = [require_inside(folder, path) for folder in finished_frames(path)]
    run = open_run(path, first_only=True)
    first = run.vertices[0].numpy()
    return MeshSequence(
        title="Capture",
        topology=run.topology,
        frames=tuple(folder.name for folder in folders),
        vertices=lambda t: first if t == 0 else _stored_vertices(folders[t], len(first)),
        upright=_upright(run),
        frames_per_second=_rate(run),
        textures=_maps(folders, COLOUR, otherwise=0),
        reliefs=_maps(folders, RELIEF, otherwise=-1),
        errors=_errors(path, len(folders)),
        cameras=None if run.rig is None else run.rig.cameras,
        pictures=SourcePictures(run),
        doubtful=_doubtful(run, folders),
    )


def _doubtful(run: RunResult, folders: Sequence[Path]) -> tuple[int, ...]:
    """Frames that the solver does not trust."""
    rows = run.frame_rows()
    return tuple(t for t, f in enumerate(folders) if rows.get(f.name, {}).get("doubtful"))


def _stored_vertices(folder: Path, count: int) -> NDArray[np.float32]:
    """The vertices alone, of all that a frame's state holds."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / "state.safetensors", "np") as state:
            vertices = state.get_tensor("vertices")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}/state.safetensors cannot be read ({error})") from error
    if vertices.shape != (count, 3):
        raise InputError(f"{folder} has vertices {vertices.shape}; expected ({count}, 3)")
    return vertices.astype(np.float32)


def _maps(folders: Sequence[Path], name: str, otherwise: int) -> Maps:
    """A run's maps of one name; a frame without its own wears map `otherwise` (−1: none)."""
    own = [t for t, folder in enumerate(folders) if (folder / name).is_file()]
    if not own:
        return Maps()
    index = {t: k for k, t in enumerate(own)}
    paths = tuple(require_inside(folders[t] / name, folders[t]) for t in own)
    return Maps(paths, tuple(index.get(t, otherwise) for t in range(len(folders))))


def _upright(run: RunResult) -> Float[Tensor, "4 4"]:
    """World → the head's y-up frame, as the run found it, or as its cameras and regions tell."""
    stored = run.path / "first" / "head.safetensors"
    if stored.exists():
        from safetensors.torch import load_file

        return load_file(stored)["upright"].double()
    from topohead.workflows.report.pictures import Studio  # slow to import: it renders

    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = Studio(run, None).axes.T
    matrix[:3, 3] = -matrix[:3, :3] @ run.vertices[0].double().mean(0)
    return matrix


def _rate(run: RunResult) -> float:
    """Frames per second: as the finished sequence says, else the take's calibration, else 30."""
    sequence = run.path / "sequence.glb"
    calibration = Path(str(run.config.get("source") or "")) / "cameras.json"
    try:
        if sequence.is_file():
            return stored_rate(sequence)
        if calibration.is_file():
            stored = json.loads(calibration.read_text("utf-8"))
            return float(stored.get("frames_per_second") or DEFAULT_RATE)
    except ValueError as error:
        log.warning("no frame rate in %s (%s): frames play at 30 a second", run.path, error)
    return DEFAULT_RATE


def _errors(path: Path, frames: int) -> VertexErrors | None:
    """What `topohead evaluate` measured, when it measured these very frames."""
    from safetensors import SafetensorError, safe_open

    file = path / "evaluation.safetensors"
    if not file.is_file():
        return None
    try:
        with safe_open(require_inside(file, path), "np") as stored:
            names = [m for m in MEASURES if f"{m}_mm" in stored.keys()]  # noqa: SIM118
            names = [m for m in names if stored.get_slice(f"{m}_mm").get_shape()[0] == frames]
            vertices = stored.get_tensor("face_vertices")
    except (OSError, SafetensorError) as error:
        log.warning("%s cannot be read (%s): no errors are shown", file, error)
        return None
    if not names:
        log.warning("%s is of other frames: run `topohead evaluate` again", file)
        return None

    def read(measure: str, first: int, last: int) -> NDArray[np.float32]:
        with safe_open(file, "np") as stored:
            return stored.get_slice(f"{measure}_mm")[first:last]

    return VertexErrors(tuple(names), vertices, read)
