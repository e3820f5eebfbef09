"""What is exported: a run, an avatar, a rig, a sequence or a mesh, however it lies on the disk."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import BoundSplats, InputError, Rig
from topohead.geometry.carried_rigs import rig_in_topology
from topohead.geometry.placement import Placement, placement
from topohead.geometry.skinning import RigPerformance
from topohead.geometry.subdivision import catmull_clark, refine
from topohead.io.assets import reference_head
from topohead.io.avatars import is_avatar, read_avatar
from topohead.io.bridges import SOURCE_LEVEL, CheckedBridge, checked_bridge
from topohead.io.calibration import METRES, read_rig
from topohead.io.captures import choose_frames
from topohead.io.clips import CLIP, read_clip
from topohead.io.gltf import open_glb, read_glb
from topohead.io.gltf_rig import read_rig_glb
from topohead.io.meshes import check_mesh, material_picture, read_mesh
from topohead.io.sequences import DEFAULT_RATE, MeshSequence, run_sequence, still_sequence
from topohead.io.usd import SUFFIXES
from topohead.workflows.export import ExportConfig


@dataclass(frozen=True)
class Worn:
    """An avatar's Gaussians under one frame's expression.

    `rest` is the mesh at rest, where every triangle has an area; `turn` takes directions in the
    head, in which harmonics are, to the sequence's world.
    """

    splats: BoundSplats
    rest: Float[Tensor, "V 3"]
    turn: Float[Tensor, "3 3"]


@dataclass(frozen=True)
class Source:
    """The chosen frames, the rig that plays them where there is one, and the run they are of.

    All in the run's world, metres. `played` has a row a frame of the sequence. `bridge` led from
    the run's topology to the sequence's where they differ; textures are still in the run's UVs.
    `worn` are the Gaussians that an avatar wears in a frame, and how it is turned then.
    """

    sequence: MeshSequence
    played: RigPerformance | None
    run: Path | None
    bridge: CheckedBridge | None = None
    worn: Callable[[str], Worn] | None = None

    def placement(self, config: ExportConfig) -> Placement:
        """World to the file that this export writes."""
        upright = self.sequence.upright if config.origin == "head" else None
        return placement(upright, config.axis, METRES[config.units])

    def cameras(self) -> Rig:
        """The run's calibration as the run ended with it."""
        if self.run is None:
            raise InputError("a single mesh has no cameras; export them from a run folder")
        path = self.run / "cameras.json"
        if not path.exists():
            raise InputError(f"{self.run} has no cameras.json; run `topohead capture` again")
        return read_rig(path)


def open_source(config: ExportConfig) -> Source:
    """What `run` names, with the frames that `--frames` chooses."""
    path = Path(config.run)
    if not path.exists():
        raise InputError(f"no run or mesh at {path}; expected a run folder or a mesh file")
    if path.is_dir() and (is_avatar(path) or (path / CLIP).is_file()):
        if config.topology is not None:
            raise InputError(f"--topology is about meshes; {path} is worn by the reference head")
        return _only(_open_avatar(path), config.frames)
    if path.is_dir():
        if config.from_units or config.texture:
            flag = "--from-units" if config.from_units else "--texture"
            raise InputError(f"{flag} is about a single mesh; {path} is a folder")
        source = Source(run_sequence(path), None, path)
        still = config.splats and config.to != "glb"  # only a GLB's Gaussians follow a rig
        if not config.sequence and config.to in ("glb", "usd", "fbx") and not still:
            source = replace(source, played=_rig_of(source))
    else:
        source = _open_file(path, config)
    source = _only(source, config.frames)
    return source if config.topology is None else _in_topology(source, config)


def _open_avatar(path: Path) -> Source:
    """An avatar at rest, or the clip that one plays."""
    if is_avatar(path):
        avatar, still = read_avatar(path), torch.eye(4).double()[None]
        weights, gaze, poses, rate = torch.zeros(1, 52), torch.zeros(1, 2, 2), still, DEFAULT_RATE
    else:
        clip = read_clip(path / CLIP)
        avatar = read_avatar(clip.avatar)
        if avatar.rig.topology.fingerprint != clip.topology:
            raise InputError(
                f"{path} plays an avatar of the topology {clip.topology} and {clip.avatar} is of "
                f"{avatar.rig.topology.fingerprint}; animate again"
            )
        weights, gaze, poses = clip.weights, clip.gaze, clip.poses
        rate = clip.frames_per_second
    rig, frames = avatar.rig, tuple(f"{t:06d}" for t in range(1, len(weights) + 1))

    def read(frame: str) -> Tensor:
        row = slice(int(frame) - 1, int(frame))
        return avatar.vertices(weights[row], gaze[row], poses[row].float())[0]

    def worn(frame: str) -> Worn:
        row = int(frame) - 1
        return Worn(avatar.dressed(weights[row]), rig.neutral, poses[row, :3, :3].double())

    sequence = still_sequence(path.resolve().name, rig.topology, rig.neutral, None)
    sequence = replace(
        sequence, frames=frames, numbers=tuple(range(1, len(frames) + 1)), read=read,
        frames_per_second=rate, upright=rig.upright,
    )  # fmt: skip
    return Source(sequence, RigPerformance(rig, weights, poses, rate), None, worn=worn)


def _rig_of(source: Source) -> RigPerformance | None:
    """The rig that `topohead rig` made of a run; None when it made none."""
    assert source.run is not None
    path = source.run / "rig" / "rig.glb"
    if not path.exists():
        return None
    played = read_rig_glb(path)
    if len(played.weights) != len(source.sequence):
        raise InputError(
            f"{path} plays {len(played.weights)} frames and the run has {len(source.sequence)}; "
            "run `topohead rig` again, or export with --sequence"
        )
    return played


def _open_file(path: Path, config: ExportConfig) -> Source:
    if path.suffix.lower() in SUFFIXES:
        from topohead.io.usd_reading import usd_sequence

        return Source(usd_sequence(path), None, None)
    if path.suffix.lower() == ".glb" and _is_ours(path):
        return _open_ours(path)
    mesh = check_mesh(read_mesh(path, config.from_units), path)
    texture = config.texture or material_picture(path)
    if texture is not None and not texture.is_file():
        raise InputError(f"no texture at {texture}; name another with --texture")
    return Source(still_sequence(path.stem, mesh.topology, mesh.vertices, texture), None, None)


def _is_ours(path: Path) -> bool:
    try:
        open_glb(path)
    except InputError:
        return False
    return True


def _open_ours(path: Path) -> Source:
    """A sequence or a rig that we wrote as GLB."""
    gltf, _, extras = open_glb(path)
    if extras.get("rig"):
        played = read_rig_glb(path)
        rig, count = played.rig, len(played.weights)
        frames = tuple(f"{number:06d}" for number in range(1, count + 1))

        def pose(frame: str) -> torch.Tensor:
            row = slice(int(frame) - 1, int(frame))
            return rig.vertices(played.weights[row], played.poses[row])[0]

        sequence = still_sequence(path.stem, rig.topology, rig.neutral, None)
        sequence = replace(
            sequence, frames=frames, numbers=tuple(range(1, count + 1)), read=pose,
            frames_per_second=played.frames_per_second, upright=rig.upright,
        )  # fmt: skip
        return Source(sequence, played, None)
    held = read_glb(path)
    rows = dict(zip(held.names, held.vertices, strict=True))
    sequence = still_sequence(path.stem, held.topology, held.vertices[0], None)
    matrix = gltf.nodes[0].matrix
    sequence = replace(
        sequence, frames=held.names, numbers=tuple(range(1, len(rows) + 1)), read=rows.__getitem__,
        frames_per_second=held.frames_per_second,
        upright=torch.tensor(matrix).reshape(4, 4).T if matrix else None,
    )  # fmt: skip
    return Source(sequence, None, None)


def _only(source: Source, frames: str | None) -> Source:
    """The frames that a selection names."""
    everything = source.sequence.frames
    chosen = choose_frames(everything, frames)
    played = source.played
    if played is not None:
        rows = [everything.index(frame) for frame in chosen]
        played = replace(played, weights=played.weights[rows], poses=played.poses[rows])
    return replace(source, sequence=source.sequence.only(chosen), played=played)


def _in_topology(source: Source, config: ExportConfig) -> Source:
    """The same heads on the topology that is asked for."""
    assert config.topology is not None
    if config.splats or config.layout is not None:
        raise InputError("Gaussians lie on the run's own mesh; leave --topology out")
    run = source.sequence
    levels = {reference_head(level).topology.fingerprint: level for level in (0, 1)}
    level = levels.get(run.topology.fingerprint)
    if level is None:
        raise InputError(
            f"{config.run} is not of the reference head's topology but has "
            f"{run.topology.vertex_count} vertices of its own; leave --topology out"
        )
    checked = checked_bridge(config.topology)
    bridge = checked.bridge
    carry = _to_bridge(level)

    def read(frame: str) -> Tensor:
        return bridge.vertices(carry(run.read(frame)))

    played = source.played
    if played is not None:
        rig = played.rig
        shapes = torch.stack([carry(shape) for shape in rig.blendshapes])
        fine = replace(
            rig, topology=bridge.source, neutral=carry(rig.neutral), blendshapes=shapes,
            head_share=carry(rig.head_share[:, None])[:, 0],
        )  # fmt: skip
        played = replace(played, rig=rig_in_topology(fine, bridge))
    sequence = replace(run, topology=bridge.target, read=read, normal_map=lambda frame: None)
    return replace(source, sequence=sequence, played=played, bridge=checked)


def _to_bridge(level: int) -> Callable[[Tensor], Tensor]:
    """What takes vertex values of a level to the one that bridges start from."""
    if level == SOURCE_LEVEL:
        return lambda values: values
    matrix = catmull_clark(reference_head(level).topology)[1]
    return lambda values: refine(matrix, values)
