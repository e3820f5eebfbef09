"""The one mesh of a USD stage, ours or another program's, in metres and y up."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from topohead.core import InputError, Topology
from topohead.geometry.placement import AXIS_TURNS
from topohead.io.polygons import fans
from topohead.io.sequences import MeshSequence
from topohead.io.usd import pxr


def usd_sequence(path: Path) -> MeshSequence:
    """The mesh of a stage over the times at which it has points; quads and UV indices as stored.

    Faces of five and more corners become triangles. A stage with several meshes is an error.
    """
    Usd, UsdGeom = pxr("Usd", "UsdGeom")
    stage = open_stage(path)
    meshes = [prim for prim in stage.Traverse() if prim.IsA(UsdGeom.Mesh)]
    if len(meshes) != 1:
        told = ", ".join(str(prim.GetPath()) for prim in meshes[:4]) or "none"
        raise InputError(f"{path} holds {len(meshes)} meshes ({told}); expected one")
    mesh: Any = UsdGeom.Mesh(meshes[0])
    where = meshes[0].GetPath()
    times = mesh.GetPointsAttr().GetTimeSamples()
    numbers = tuple(round(time) for time in times)
    if len(set(numbers)) != len(times):
        raise InputError(f"{path} has points between whole frames; expected one sample a frame")
    frames = tuple(f"{number:06d}" for number in numbers) or ("000001",)
    codes = dict(zip(frames, times or [Usd.TimeCode.Default()], strict=True))

    def read(frame: str) -> Float[Tensor, "V 3"]:
        # a prim alone lets its stage go
        return points_at(stage, UsdGeom.Mesh(stage.GetPrimAtPath(where)), codes[frame])

    return MeshSequence(
        path.stem,
        stage_topology(mesh, path),
        frames,
        numbers or (1,),
        stage.GetTimeCodesPerSecond(),
        None,
        read,
        lambda frame: None,
        lambda frame: None,
    )


def open_stage(path: Path) -> Any:
    """The stage of a file; layers that it names and that are not there are left out."""
    Tf, Usd, UsdUtils = pxr("Tf", "Usd", "UsdUtils")
    told = UsdUtils.CoalescingDiagnosticDelegate()  # else USD writes lines of its own to stderr
    try:
        return Usd.Stage.Open(str(path))
    except Tf.ErrorException as error:
        reason = str(error).strip().splitlines()[0].rpartition(" : ")[2].strip("'")
        raise InputError(f"{path} is no readable USD stage ({reason})") from None
    finally:
        del told


def points_at(stage: Any, mesh: Any, time: Any) -> Float[Tensor, "V 3"]:
    """A mesh's points at a time, where its nodes put them, in metres and y up."""
    (UsdGeom,) = pxr("UsdGeom")

    turn = torch.tensor(AXIS_TURNS["z-up" if UsdGeom.GetStageUpAxis(stage) == "Z" else "y-up"])
    meters = UsdGeom.GetStageMetersPerUnit(stage)
    rows = np.array(mesh.GetPointsAttr().Get(time), np.float32).reshape(-1, 3)
    place = np.array(mesh.ComputeLocalToWorldTransform(time))
    shift = place[3, :3] @ turn.double().numpy() * meters
    matrix = place[:3, :3] @ turn.double().numpy() * meters
    if np.array_equal(matrix, np.eye(3)) and not shift.any():
        return torch.from_numpy(rows)
    return torch.from_numpy((rows @ matrix + shift).astype(np.float32))


def stage_topology(mesh: Any, path: Path) -> Topology:
    """Quads and UV indices of a mesh as stored; larger faces become triangles."""
    (UsdGeom,) = pxr("UsdGeom")

    sizes = face_sizes(mesh)
    corners = np.array(_first(mesh.GetFaceVertexIndicesAttr()) or (), np.int64)
    count = len(_first(mesh.GetPointsAttr()) or ())
    if not len(sizes) or sizes.min() < 3 or sizes.sum() != len(corners) or not (
        0 <= corners.min() <= corners.max() < count
    ):  # fmt: skip
        raise InputError(f"{path}: {mesh.GetPath()} has no faces, or faces without their points")
    uv, rows = _uv(mesh, corners)
    if len(rows) != len(corners) or (len(uv) and not 0 <= rows.min() <= rows.max() < len(uv)):
        raise InputError(f"{path}: {mesh.GetPath()} has UVs that do not fit its faces")
    chosen = fans(sizes)
    if mesh.GetOrientationAttr().Get() == UsdGeom.Tokens.leftHanded:
        quad = (chosen[:, 3] != chosen[:, 2])[:, None]
        chosen = np.where(quad, chosen[:, [0, 3, 2, 1]], chosen[:, [0, 2, 1, 1]])
    return Topology(
        count,
        torch.from_numpy(corners[chosen]),
        torch.from_numpy(uv),
        torch.from_numpy(rows[chosen]),
        name=path.stem,
    )


def face_sizes(mesh: Any) -> NDArray[np.int64]:
    """How many corners each face of a mesh has; none where it has no faces."""
    return np.array(_first(mesh.GetFaceVertexCountsAttr()) or (), np.int64)


def _uv(mesh: Any, corners: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """UV rows [U 2] and the row of every corner; no rows when the mesh has none."""
    (UsdGeom,) = pxr("UsdGeom")

    primvars = UsdGeom.PrimvarsAPI(mesh)
    others = [p for p in primvars.GetPrimvars() if p.GetTypeName().role == "TextureCoordinate"]
    for primvar in (*map(primvars.GetPrimvar, ("st", "UVMap", "map1", "uv")), *others):
        if not primvar or not primvar.HasValue():
            continue
        uv = np.array(primvar.Get(), np.float32).reshape(-1, 2)
        index = np.array(primvar.GetIndices(), np.int64) if primvar.IsIndexed() else None
        index = np.arange(len(uv)) if index is None else index
        if primvar.GetInterpolation() == UsdGeom.Tokens.faceVarying:
            return uv, index
        if primvar.GetInterpolation() in (UsdGeom.Tokens.vertex, UsdGeom.Tokens.varying):
            fits = len(index) > corners.max()
            return uv, index[corners] if fits else np.full_like(corners, -1)
    return np.zeros((0, 2), np.float32), np.zeros_like(corners)


def _first(attribute: Any) -> Any:
    """A value at the first time there is one."""
    times = attribute.GetTimeSamples()
    return attribute.Get(times[0]) if times else attribute.Get()
