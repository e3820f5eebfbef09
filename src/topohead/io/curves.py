"""Hair as files: USD BasisCurves, splat PLY, and plain polylines as npz.

All are of one head, in the head frame: metres, y up. Empty slots are not written.
"""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from topohead.core import InputError, Strands, Topology
from topohead.geometry.strands import gaussians
from topohead.io.atomic import atomic_write
from topohead.io.splat_ply import write_splat_ply
from topohead.io.usd import StageFacts, new_stage, pxr
from topohead.rendering.shading import linear_to_srgb

ARRAYS = ("points", "widths", "colors", "root_triangle", "root_barycentrics")


def write_curves_npz(strands: Strands, path: Path) -> None:
    """Polylines [S P 3] with widths, linear colours and where their roots stand, as they are."""
    packed = strands.packed().to("cpu")
    arrays = {name: getattr(packed, name).detach().numpy() for name in ARRAYS}
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_curves_npz(path: Path) -> Strands:
    """The strands of an npz that `write_curves_npz` wrote."""
    try:
        with np.load(path) as archive:
            arrays = dict(archive)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not an npz archive ({error}); write it again") from error
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        raise InputError(f"{path} holds no hair: it has no array {missing[0]!r}")
    return Strands(*(torch.from_numpy(arrays[name]) for name in ARRAYS))


def write_curves_usd(strands: Strands, topology: Topology, path: Path, name: str = "hair") -> None:
    """Cubic curves `/NAME/curves` through the strands' points, Catmull–Rom with pinned ends.

    Widths and colours stand at points; `st` is the root's place in the topology's UVs, one a
    curve, `rootTriangle` and `rootBarycentrics` bind it.
    """
    Sdf, UsdGeom, Vt = pxr("Sdf", "UsdGeom", "Vt")

    packed = strands.packed().to("cpu")
    count, length = packed.widths.shape
    facts = StageFacts(name, "y-up", 1.0, 24.0, (1,))
    corners = topology.uv[topology.triangle_uv[packed.root_triangle]]
    uv = (corners * packed.root_barycentrics[..., None]).sum(1)
    with new_stage(path, facts) as stage:
        curves: Any = UsdGeom.BasisCurves.Define(stage, f"/{name}/curves")
        curves.CreateTypeAttr(UsdGeom.Tokens.cubic)
        curves.CreateBasisAttr(UsdGeom.Tokens.catmullRom)
        curves.CreateWrapAttr(UsdGeom.Tokens.pinned)
        sizes = np.full(count, length, np.int32)
        curves.CreateCurveVertexCountsAttr(Vt.IntArray.FromNumpy(sizes))
        points = _rows(packed.points.reshape(-1, 3))
        curves.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(points))
        curves.CreateWidthsAttr(Vt.FloatArray.FromNumpy(_rows(packed.widths.reshape(-1))))
        curves.SetWidthsInterpolation(UsdGeom.Tokens.vertex)
        half = float(packed.widths.max()) / 2 if count else 0.0
        if count:
            bounds = np.stack([points.min(0) - half, points.max(0) + half]).astype(np.float32)
            curves.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(bounds))
        colors = curves.CreateDisplayColorPrimvar(UsdGeom.Tokens.vertex)
        colors.Set(Vt.Vec3fArray.FromNumpy(_rows(packed.colors.reshape(-1, 3))))
        types = Sdf.ValueTypeNames
        for key, kind, values in (
            ("st", types.TexCoord2fArray, Vt.Vec2fArray.FromNumpy(_rows(uv))),
            ("rootTriangle", types.IntArray,
             Vt.IntArray.FromNumpy(packed.root_triangle.numpy().astype(np.int32))),
            ("rootBarycentrics", types.Float3Array,
             Vt.Vec3fArray.FromNumpy(_rows(packed.root_barycentrics))),
        ):  # fmt: skip
            primvar = UsdGeom.PrimvarsAPI(curves).CreatePrimvar(key, kind, UsdGeom.Tokens.uniform)
            primvar.Set(values)


def read_curves_usd(path: Path) -> Strands:
    """The strands of a stage that `write_curves_usd` wrote."""
    Tf, Usd, UsdGeom = pxr("Tf", "Usd", "UsdGeom")

    try:
        stage: Any = Usd.Stage.Open(str(path))
    except Tf.ErrorException as error:
        raise InputError(f"{path} is no readable USD stage ({error})") from None
    found = [prim for prim in stage.Traverse() if prim.IsA(UsdGeom.BasisCurves)]
    if len(found) != 1:
        raise InputError(f"{path} holds {len(found)} sets of curves; expected one")
    curves: Any = UsdGeom.BasisCurves(found[0])
    sizes = np.array(curves.GetCurveVertexCountsAttr().Get() or [], np.int64)
    if len(set(sizes.tolist())) > 1:
        raise InputError(f"{path} has curves of several lengths; expected one number of points")
    api = UsdGeom.PrimvarsAPI(curves)
    primvars = {key: api.GetPrimvar(key) for key in ("rootTriangle", "rootBarycentrics")}
    missing = [key for key, primvar in primvars.items() if not primvar]
    if missing:
        raise InputError(f"{path} has no primvar {missing[0]!r}: its hair is bound to no head")
    count, length = len(sizes), int(sizes[0]) if len(sizes) else 2

    def floats(values: Any, *shape: int) -> torch.Tensor:
        return torch.from_numpy(np.array(values or [], np.float32).reshape(count, *shape))

    triangle = np.array(primvars["rootTriangle"].Get() or [], np.int64)
    return Strands(
        floats(curves.GetPointsAttr().Get(), length, 3),
        floats(curves.GetWidthsAttr().Get(), length),
        floats(curves.GetDisplayColorPrimvar().Get(), length, 3),
        torch.from_numpy(triangle),
        floats(primvars["rootBarycentrics"].Get(), 3),
    )


def write_curves_splats(strands: Strands, path: Path) -> None:
    """One Gaussian a segment, srgb, as a 3DGS PLY (`splat_ply`), in the head frame."""
    packed = strands.packed().to("cpu")
    srgb = linear_to_srgb(packed.colors.clamp(0, 1))
    colored = Strands(packed.points, packed.widths, srgb, packed.root_triangle,
                      packed.root_barycentrics)  # fmt: skip
    write_splat_ply(gaussians(colored), path)


def _rows(values: torch.Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(values.detach().numpy().astype(np.float32))
