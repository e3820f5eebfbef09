"""USD in and out: quads, indexed UVs, points over time, material, cameras.

A stage of ours holds one default prim /NAME with the mesh `/NAME/mesh`, its material and, where
asked for, the cameras. Points are stored in the stage's own axes and unit, without transforms
above them, so that every program reads the same numbers. usd-core is an optional dependency.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import InputError, Rig, Topology
from topohead.geometry.morphs import unit_normals
from topohead.io.atomic import atomic_write

SUFFIXES = (".usd", ".usda", ".usdc", ".usdz")
CHUNK = 60
"""Frames after which what was written goes to the disk, so that memory stays bounded."""

SENSOR = 0.036
"""Metres across a camera's picture: USD wants a film size, calibrations know only ratios."""


def pxr(*names: str) -> tuple[Any, ...]:
    """Modules of usd-core, which has no types; an InputError that names the extra without it."""
    try:
        return tuple(import_module(f"pxr.{name}") for name in names)
    except ImportError:
        raise InputError("USD needs usd-core; pip install 'topohead[usd]'") from None


@dataclass(frozen=True)
class StageFacts:
    """What a whole stage says of itself: axes, unit in metres, frames a second, first and last."""

    name: str
    axis: str
    meters: float
    frames_per_second: float
    numbers: tuple[int, ...]


@contextmanager
def new_stage(path: Path, facts: StageFacts) -> Iterator[Any]:
    """A stage with its default prim, which becomes `path` when the block ends well."""
    Kind, Usd, UsdGeom = pxr("Kind", "Usd", "UsdGeom")

    with atomic_write(path) as partial:
        stage: Any = Usd.Stage.CreateNew(str(partial))
        UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z if facts.axis == "z-up" else "Y")
        UsdGeom.SetStageMetersPerUnit(stage, facts.meters)
        stage.SetTimeCodesPerSecond(facts.frames_per_second)
        stage.SetFramesPerSecond(facts.frames_per_second)
        if len(facts.numbers) > 1:
            stage.SetStartTimeCode(facts.numbers[0])
            stage.SetEndTimeCode(facts.numbers[-1])
        root = UsdGeom.Xform.Define(stage, f"/{facts.name}")
        Usd.ModelAPI(root.GetPrim()).SetKind(Kind.Tokens.component)
        stage.SetDefaultPrim(root.GetPrim())
        yield stage
        stage.GetRootLayer().Save()


def add_mesh(stage: Any, path: str, topology: Topology) -> Any:
    """The mesh without points: quads and triangles as they are, UVs with their indices."""
    Sdf, UsdGeom, Vt = pxr("Sdf", "UsdGeom", "Vt")

    mesh = UsdGeom.Mesh.Define(stage, path)
    used = _corners(topology)
    counts = (3 + topology.is_quad.int()).numpy()
    mesh.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(counts.astype(np.int32)))
    corners = topology.faces.numpy()[used].astype(np.int32)
    mesh.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(corners))
    # the tracked surface itself, not the smaller one that subdivision makes of it
    mesh.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    mesh.CreateDoubleSidedAttr(True)
    if len(topology.uv):
        uv = UsdGeom.PrimvarsAPI(mesh).CreatePrimvar(
            "st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.faceVarying
        )
        uv.Set(Vt.Vec2fArray.FromNumpy(topology.uv.numpy().astype(np.float32)))
        rows = topology.face_uv.numpy()[used].astype(np.int32)
        uv.SetIndices(Vt.IntArray.FromNumpy(rows))
    return mesh


def _corners(topology: Topology) -> np.ndarray:
    """Which of the four corners of every face count, bool [F 4]."""
    used = np.ones((len(topology.faces), 4), bool)
    used[:, 3] = topology.is_quad.numpy()
    return used


def set_points(
    mesh: Any, topology: Topology, points: Float[Tensor, "V 3"], time: int | None, normals: bool
) -> None:
    """The mesh's positions, bounds and smooth normals, at a time or for good."""
    Usd, UsdGeom, Vt = pxr("Usd", "UsdGeom", "Vt")

    when = Usd.TimeCode.Default() if time is None else Usd.TimeCode(time)
    rows = points.numpy().astype(np.float32)
    mesh.CreatePointsAttr().Set(Vt.Vec3fArray.FromNumpy(rows), when)
    bounds = np.stack([rows.min(0), rows.max(0)])
    mesh.CreateExtentAttr().Set(Vt.Vec3fArray.FromNumpy(bounds), when)
    if normals:
        mesh.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
        across = unit_normals(points.float(), topology)
        mesh.CreateNormalsAttr().Set(Vt.Vec3fArray.FromNumpy(across), when)


def write_usd(
    path: Path,
    facts: StageFacts,
    topology: Topology,
    shapes: Iterator[Float[Tensor, "V 3"]],
    textures: Mapping[int, str] | None = None,
    *,
    normal_map: str | None = None,
    normals: bool = True,
    rig: Rig | None = None,
) -> None:
    """Write a sequence, or a single mesh, whose vertices are in the stage's axes and unit.

    `textures` are relative paths by frame number (one for all frames: one entry). `rig` adds its
    cameras; their world is the stage's, still in metres.
    """
    with new_stage(path, facts) as stage:
        mesh = add_mesh(stage, f"/{facts.name}/mesh", topology)
        still = len(facts.numbers) == 1
        for done, (number, points) in enumerate(zip(facts.numbers, shapes, strict=True), 1):
            set_points(mesh, topology, points, None if still else number, normals)
            flush(stage, done)
        add_skin(stage, mesh, facts, textures or {}, normal_map)
        if rig is not None:
            add_cameras(stage, facts, rig)


def flush(stage: Any, done: int) -> None:
    """Every `CHUNK` frames, brings what was written to the disk and lets go of it.

    Not of text, which would be written from its beginning each time.
    """
    layer = stage.GetRootLayer()
    if done % CHUNK == 0 and layer.GetFileFormat().formatId == "usdc":
        layer.Save()


def add_skin(
    stage: Any,
    mesh: Any,
    facts: StageFacts,
    textures: Mapping[int, str],
    normal_map: str | None = None,
) -> None:
    """A UsdPreviewSurface bound to the mesh: the pictures by relative path, or plain clay."""
    Sdf, UsdShade = pxr("Sdf", "UsdShade")

    base = f"/{facts.name}/skin"
    material = UsdShade.Material.Define(stage, base)
    surface = UsdShade.Shader.Define(stage, f"{base}/surface")
    surface.CreateIdAttr("UsdPreviewSurface")
    surface.CreateInput("roughness", Sdf.ValueTypeNames.Float).Set(0.6)
    surface.CreateInput("metallic", Sdf.ValueTypeNames.Float).Set(0.0)
    color = surface.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f)
    material.CreateSurfaceOutput().ConnectToSource(surface.ConnectableAPI(), "surface")
    if textures or normal_map:
        reader = UsdShade.Shader.Define(stage, f"{base}/uv")
        reader.CreateIdAttr("UsdPrimvarReader_float2")
        reader.CreateInput("varname", Sdf.ValueTypeNames.String).Set("st")
        reader.CreateOutput("result", Sdf.ValueTypeNames.Float2)
    if textures:
        picture = _add_picture(stage, f"{base}/texture", reader, "sRGB")
        file = picture.GetInput("file")
        for number, name in textures.items():
            time = (number,) if len(textures) > 1 else ()
            file.Set(Sdf.AssetPath(f"./{name}"), *time)
        color.ConnectToSource(picture.ConnectableAPI(), "rgb")
    else:
        color.Set((0.72, 0.68, 0.64))
    if normal_map:
        picture = _add_picture(stage, f"{base}/normal_map", reader, "raw")
        picture.GetInput("file").Set(Sdf.AssetPath(f"./{normal_map}"))
        # stored from 0 to 1; means −1 to 1
        picture.CreateInput("scale", Sdf.ValueTypeNames.Float4).Set((2, 2, 2, 1))
        picture.CreateInput("bias", Sdf.ValueTypeNames.Float4).Set((-1, -1, -1, 0))
        bumps = surface.CreateInput("normal", Sdf.ValueTypeNames.Normal3f)
        bumps.ConnectToSource(picture.ConnectableAPI(), "rgb")
    UsdShade.MaterialBindingAPI.Apply(mesh.GetPrim()).Bind(material)


def _add_picture(stage: Any, path: str, reader: Any, space: str) -> Any:
    Sdf, UsdShade = pxr("Sdf", "UsdShade")

    picture = UsdShade.Shader.Define(stage, path)
    picture.CreateIdAttr("UsdUVTexture")
    picture.CreateInput("file", Sdf.ValueTypeNames.Asset)
    picture.CreateInput("sourceColorSpace", Sdf.ValueTypeNames.Token).Set(space)
    picture.CreateInput("wrapS", Sdf.ValueTypeNames.Token).Set("clamp")
    picture.CreateInput("wrapT", Sdf.ValueTypeNames.Token).Set("clamp")
    st = picture.CreateInput("st", Sdf.ValueTypeNames.Float2)
    st.ConnectToSource(reader.ConnectableAPI(), "result")
    picture.CreateOutput("rgb", Sdf.ValueTypeNames.Float3)
    return picture


def add_cameras(stage: Any, facts: StageFacts, rig: Rig) -> None:
    """The rig's cameras as pinholes: USD has no place for lens distortion and skew."""
    Gf, UsdGeom = pxr("Gf", "UsdGeom")

    UsdGeom.Scope.Define(stage, f"/{facts.name}/cameras")
    tenth = 10 / facts.meters  # film is measured in tenths of the stage's unit
    cameras = rig.cameras
    for index, name in enumerate(prim_names(cameras.names)):
        camera = UsdGeom.Camera.Define(stage, f"/{facts.name}/cameras/{name}")
        (fx, _, cx), (_, fy, cy) = cameras.intrinsics[index, :2].double().tolist()
        width, height = cameras.size(index)
        film = SENSOR * tenth
        tall = film * height / width * fx / fy
        camera.CreateFocalLengthAttr(fx / width * film)
        camera.CreateHorizontalApertureAttr(film)
        camera.CreateVerticalApertureAttr(tall)
        # the picture's middle as seen from the principal point, y up
        camera.CreateHorizontalApertureOffsetAttr((width / 2 - cx) / width * film)
        camera.CreateVerticalApertureOffsetAttr((cy - height / 2) / height * tall)
        camera.CreateClippingRangeAttr(Gf.Vec2f(0.01 / facts.meters, 100 / facts.meters))
        place = torch.linalg.inv(cameras.world_to_camera[index].double())
        place = place @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
        place[:3, 3] /= facts.meters
        # row vectors: the transpose of ours
        camera.AddTransformOp().Set(Gf.Matrix4d(place.T.tolist()))


def prim_names(names: Sequence[str]) -> list[str]:
    """Names that USD allows for prims, all different."""
    (Tf,) = pxr("Tf")

    made: list[str] = []
    for name in names:
        plain = Tf.MakeValidIdentifier(f"_{name}" if name[:1].isdigit() else name)
        spare = (f"{plain}_{k}" for k in range(2, len(names) + 2))
        made.append(plain if plain not in made else next(s for s in spare if s not in made))
    return made


def write_usdz(source: Path, path: Path) -> None:
    """Pack a stage and the pictures beside it into one .usdz, which must lie elsewhere."""
    (UsdUtils,) = pxr("UsdUtils")

    with atomic_write(path) as partial:
        if not UsdUtils.CreateNewUsdzPackage(str(source), str(partial)):
            raise InputError(f"{path}: USD could not pack {source.name}; export .usdc instead")
