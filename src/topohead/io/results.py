"""Reads what a capture left (a run folder) and what the stage knew (its truth folder)."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from topohead.core import Cameras, Capture, InputError, Mesh, Rig, Topology
from topohead.io.images import read_heights
from topohead.io.meshes import read_mesh
from topohead.io.runs import read_metrics
from topohead.io.textures import StoredTexture, find_texture

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """A capture's finished frames: one topology, vertices [T V 3] and head poses in world metres.

    `poses[t]` moves the head of the first frame to frame t. `rows` are the lines of
    `metrics.jsonl`, `config` the settings the run was made with. `gaze` is yaw and pitch of both
    eyes since the first frame, radians, left first; None where a frame has none.
    """

    path: Path
    topology: Topology
    frames: tuple[str, ...]
    vertices: Float[Tensor, "T V 3"]
    poses: Float[Tensor, "T 4 4"]
    rows: tuple[Mapping[str, Any], ...]
    config: Mapping[str, Any]
    gaze: Float[Tensor, "T 2 2"] | None = None

    def mesh(self, index: int) -> Mesh:
        """The head at one frame."""
        return Mesh(self.topology, self.vertices[index])

    def frame_rows(self) -> dict[str, dict[str, Any]]:
        """What metrics.jsonl says of each frame, all stages' values in one mapping.

        Where stages use one name (seconds), the first stage that reported the frame's residual
        speaks: that is tracking.
        """
        merged: dict[str, dict[str, Any]] = {}
        for row in sorted(self.rows, key=lambda row: "residual" not in row):
            if row.get("frame") is not None:
                merged[row["frame"]] = {**row, **merged.get(row["frame"], {})}
        return merged

    def texture(self, frame: str) -> StoredTexture | None:
        """Where the frame's texture is, to be `read`; the first frame's where only that has one."""
        return find_texture(self.path, frame, self.frames)

    def displacement(self, frame: str) -> Float[Tensor, "S S"] | None:
        """The frame's displacement map in metres; None when the run made none."""
        path = self.path / "frames" / frame / "displacement.exr"
        return read_heights(path) if path.exists() else None

    @cached_property
    def rig(self) -> Rig | None:
        """The calibration that the run used, after any refinement; None when it kept none."""
        from topohead.io.calibration import read_rig

        path = self.path / "cameras.json"
        return read_rig(path) if path.exists() else None


def finished_frames(path: Path) -> tuple[Path, ...]:
    """Folders of a run's finished frames, in order; at least one."""
    if not (path / "run.json").exists():
        raise InputError(
            f"{path} is no run folder (no run.json); expected what `capture --out` wrote"
        )
    folders = sorted(path.glob("frames/*/state.safetensors"))
    folders = [state.parent for state in folders if (state.parent / "mesh.obj").exists()]
    if not folders:
        raise InputError(f"{path} has no finished frame yet; run `topohead capture` to its end")
    return tuple(folders)


def open_run(path: Path, *, first_only: bool = False) -> RunResult:
    """All finished frames of a run folder, in order, or for a quick look the first one only."""
    path = Path(path)
    folders = finished_frames(path)[: 1 if first_only else None]
    topology = read_mesh(folders[0] / "mesh.obj").topology
    states = [_tensors(folder / "state.safetensors") for folder in folders]
    counts = {len(state["vertices"]) for state in states}
    if counts != {topology.vertex_count}:
        raise InputError(
            f"{path}: frames have {sorted(counts)} vertices but mesh.obj of {folders[0].name} has "
            f"{topology.vertex_count}; the folder mixes two runs, capture again into a new one"
        )
    config = path / "config.yaml"
    return RunResult(
        path=path,
        topology=with_regions(topology, path / "regions.json"),
        frames=tuple(folder.name for folder in folders),
        vertices=torch.stack([state["vertices"] for state in states]),
        poses=torch.stack([state.get("pose", torch.eye(4)).float() for state in states]),
        rows=tuple(read_metrics(path)),
        config=(yaml.safe_load(config.read_text("utf-8")) or {}) if config.exists() else {},
        gaze=torch.stack([state["gaze"].double() for state in states])
        if all("gaze" in state for state in states)
        else None,
    )


@dataclass(frozen=True)
class Truth:
    """The stage's ground truth: the head's topology, and the finer displaced true surface.

    `head` names the head model that was staged, `head_file` where it came from if not from here.
    """

    path: Path
    topology: Topology
    surface: Topology
    head: str = "reference"
    head_file: Path | None = None

    def has(self, frame: str) -> bool:
        return self._file(frame).exists()

    def frame(self, frame: str) -> "TrueFrame":
        """The truth of one instant, world metres."""
        state = _tensors(self._file(frame))
        return TrueFrame(
            mesh=Mesh(self.topology, state["vertices"]),
            surface=Mesh(self.surface, state.get("surface", state["vertices"])),
            pose=state.get("pose"),
            gaze=state.get("gaze"),
        )

    def picture(self, name: str) -> Path | None:
        """A picture of the truth folder such as lit_srgb.png, None when it is not there."""
        return self.path / name if (self.path / name).exists() else None

    def _file(self, frame: str) -> Path:
        return self.path / "frames" / f"{frame}.safetensors"


@dataclass(frozen=True)
class TrueFrame:
    """`pose` moves the head of the first frame to this one; None when the truth has none.

    `gaze` is yaw and pitch of both eyes in the head, radians, left first; or None.
    """

    mesh: Mesh
    surface: Mesh
    pose: Float[Tensor, "4 4"] | None
    gaze: Float[Tensor, "2 2"] | None = None


def open_truth(path: Path) -> Truth:
    """The truth folder of a staged take, or of the take that holds it."""
    path = Path(path)
    if not (path / "mesh.obj").exists() and (path / "truth" / "mesh.obj").exists():
        path = path / "truth"
    if not (path / "mesh.obj").exists():
        raise InputError(
            f"--truth {path} has no mesh.obj; expected the folder OUT/truth that "
            "`topohead stage OUT` wrote"
        )
    topology = with_regions(read_mesh(path / "mesh.obj").topology, path / "regions.json")
    surface = path / "surface.obj"
    surface_topology = read_mesh(surface).topology if surface.exists() else topology
    staged = path / "truth.json"
    settings = json.loads(staged.read_text("utf-8")).get("settings", {}) if staged.exists() else {}
    file = settings.get("ict")
    head = settings.get("head") or "reference"
    return Truth(path, topology, surface_topology, head, None if file is None else Path(file))


def find_truth(run: RunResult) -> Truth | None:
    """The truth beside the images that the run was made from, when they were staged."""
    source = run.config.get("source")
    if source and (Path(source) / "truth" / "mesh.obj").exists():
        return open_truth(Path(source) / "truth")
    return None


def open_source(run: RunResult) -> Capture | None:
    """The take that a run was made from, with the calibration the run ended with.

    None, and a line in the log, when the take is no longer where it was.
    """
    from topohead.io.captures import open_capture

    if "scans" in run.config:  # `register --sequence` had no pictures
        return None
    known = ("units", "views", "allow_missing", "full", "calibration", "component")
    options = {key: run.config[key] for key in known if run.config.get(key) is not None}
    source = Path(str(run.config.get("source") or ""))
    if not run.config.get("source") or not source.exists():
        log.warning("the take of %s is not at %s any more: no source pictures", run.path, source)
        return None
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the take's warnings were told when the run was made
    try:
        capture = open_capture(source, **options)
    except InputError as error:
        log.error("the take of %s cannot be opened: %s", run.path, error)
        return None
    finally:
        logging.disable(before)
    return replace(capture, rig=_overlaid(capture.rig, run.rig))


def _overlaid(rig: Rig, refined: Rig | None) -> Rig:
    """The rig with every camera that `refined` has as well taken from there."""
    names = rig.cameras.names
    if refined is None or not set(names) & set(refined.cameras.names):
        return rig
    parts = [refined if name in refined.cameras.names else rig for name in names]
    single = [part.select([name]) for part, name in zip(parts, names, strict=True)]
    cameras = Cameras(
        names,
        torch.cat([one.cameras.world_to_camera for one in single]),
        torch.cat([one.cameras.intrinsics for one in single]),
        torch.cat([one.cameras.sizes for one in single]),
    )
    return Rig(cameras, tuple(one.distortion[0] for one in single))


def with_regions(topology: Topology, path: Path) -> Topology:
    """The topology with the named vertex sets of a regions.json, if there is one."""
    if not path.exists():
        return topology
    named = json.loads(path.read_text("utf-8"))
    regions = {name: torch.tensor(index, dtype=torch.long) for name, index in named.items()}
    for name, index in regions.items():
        if len(index) and int(index.max()) >= topology.vertex_count:
            raise InputError(
                f"{path}: region {name!r} names vertex {int(index.max())} of a mesh with "
                f"{topology.vertex_count}; expected the regions of the mesh beside it"
            )
    return replace(topology, regions=regions)


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); it is damaged, capture that frame again"
        ) from None
