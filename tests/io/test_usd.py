"""USD: what goes in comes out, usd-core's readers agree and its validators have no complaint."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_ply import cloud, mixed

from exporting import RATE, planted_performance, world
from planted_run import ellipsoid_topology, performance, planted_rig
from random_rig import make_rig
from topohead.core import ARKIT_52, Distortion, InputError, Topology
from topohead.geometry.cameras import project
from topohead.geometry.placement import placement
from topohead.io.meshes import read_mesh
from topohead.io.usd import CHUNK, StageFacts, new_stage, prim_names, write_usd
from topohead.io.usd_reading import usd_sequence
from usd_checks import complaints

pxr = pytest.importorskip("pxr", reason="needs usd-core")


def facts(frames: int = 1, axis: str = "y-up", meters: float = 1.0) -> StageFacts:
    return StageFacts("head", axis, meters, RATE, tuple(range(11, 11 + frames)))


def usd_prim(path: Path, at: str) -> Any:
    from pxr import Usd

    stage = Usd.Stage.Open(str(path))
    usd_prim.stage = stage  # pyright: ignore -- prims do not keep their stage
    return stage.GetPrimAtPath(at)


@pytest.mark.parametrize("suffix", ["usdc", "usda"])
@pytest.mark.parametrize("make", [mixed, ellipsoid_topology])
def test_topology_and_numbers_come_back(make: Any, suffix: str, tmp_path: Path) -> None:
    topology: Topology = make()
    vertices = torch.rand(topology.vertex_count, 3, generator=torch.Generator().manual_seed(1))
    write_usd(tmp_path / f"a.{suffix}", facts(), topology, iter([vertices]))
    back = read_mesh(tmp_path / f"a.{suffix}")
    assert torch.equal(back.vertices, vertices)
    assert torch.equal(back.topology.faces, topology.faces)
    assert torch.equal(back.topology.is_quad, topology.is_quad)
    assert torch.equal(back.topology.uv, topology.uv)
    assert torch.equal(back.topology.face_uv, topology.face_uv)


def test_sequence_is_sampled_at_the_frames_numbers(tmp_path: Path) -> None:
    from pxr import Usd, UsdGeom

    topology, shapes = ellipsoid_topology(), performance(4).float()
    write_usd(tmp_path / "a.usdc", facts(4), topology, iter(shapes))
    stage = Usd.Stage.Open(str(tmp_path / "a.usdc"))
    mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/head/mesh"))
    assert mesh.GetPointsAttr().GetTimeSamples() == [11, 12, 13, 14]
    assert np.array_equal(np.array(mesh.GetPointsAttr().Get(13)), shapes[2].numpy())
    assert (stage.GetStartTimeCode(), stage.GetEndTimeCode()) == (11, 14)
    assert stage.GetTimeCodesPerSecond() == RATE
    assert stage.GetDefaultPrim().GetPath() == "/head"
    bounds = np.array(mesh.GetExtentAttr().Get(14))
    assert np.allclose(bounds, [shapes[3].amin(0).numpy(), shapes[3].amax(0).numpy()])
    normals = np.array(mesh.GetNormalsAttr().Get(14))
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("suffix", ["usdc", "usda"])
def test_long_sequences_go_to_the_disk_in_parts(suffix: str, tmp_path: Path) -> None:
    topology, shapes = mixed(), torch.rand(2 * CHUNK + 5, 8, 3)
    path = tmp_path / f"a.{suffix}"
    write_usd(path, facts(len(shapes)), topology, iter(shapes))
    back = usd_sequence(path)
    assert back.numbers == facts(len(shapes)).numbers
    assert torch.equal(torch.stack(list(back.shapes())), shapes)


def test_axis_and_unit_are_told_and_undone(tmp_path: Path) -> None:
    from pxr import Usd, UsdGeom

    topology, vertices = ellipsoid_topology(), performance(1)[0]
    place = placement(None, "z-up", 0.01)
    path = tmp_path / "a.usdc"
    write_usd(path, facts(1, "z-up", 0.01), topology, iter([place.points(vertices)]))
    stage = Usd.Stage.Open(str(path))
    assert UsdGeom.GetStageUpAxis(stage) == "Z"
    assert UsdGeom.GetStageMetersPerUnit(stage) == 0.01
    assert (read_mesh(path).vertices - vertices).abs().max() < 1e-7


def test_cameras_are_where_they_were(tmp_path: Path) -> None:
    """usd-core's own frustum projects points onto the pixels of our cameras."""
    from pxr import UsdGeom

    rig, path = make_rig(lenses=(Distortion(),) * 5), tmp_path / "a.usdc"
    topology, vertices = ellipsoid_topology(), performance(1)[0]
    place = placement(None, "z-up", 0.01)
    told = facts(1, "z-up", 0.01)
    write_usd(path, told, topology, iter([place.points(vertices)]), rig=place.cameras(rig))
    pixels, _ = project(rig.cameras, vertices)
    for index, name in enumerate(rig.cameras.names):
        width, height = rig.cameras.size(index)
        prim = usd_prim(path, f"/head/cameras/{name}")
        frustum = UsdGeom.Camera(prim).GetCamera(0).frustum
        matrix = np.array(frustum.ComputeViewMatrix()) @ np.array(frustum.ComputeProjectionMatrix())
        points = place.points(vertices).numpy()
        clip = np.concatenate([points, np.ones((len(points), 1))], 1) @ matrix
        seen = clip[:, :2] / clip[:, 3:]
        u, v = (seen[:, 0] + 1) / 2 * width, (1 - seen[:, 1]) / 2 * height
        # USD keeps film sizes in single precision
        assert np.abs(np.stack([u, v], 1) - pixels[index].numpy()).max() < 1e-3


@pytest.mark.parametrize("textured", [False, True])
def test_validators_accept_a_sequence(textured: bool, tmp_path: Path) -> None:
    from PIL import Image

    from planted_run import striped_texture

    for name in ("skin.png", "bumps.png"):
        Image.fromarray(striped_texture()).save(tmp_path / name)
    textures = {11: "skin.png", 12: "skin.png"} if textured else None
    bumps = "bumps.png" if textured else None
    path = tmp_path / "a.usdc"
    write_usd(
        path, facts(2), ellipsoid_topology(), iter(performance(2)), textures,
        normal_map=bumps, rig=planted_rig(),
    )  # fmt: skip
    assert complaints(path) == []


def test_validators_are_awake(tmp_path: Path) -> None:
    """A stage without a default prim is reported: the tests above can fail."""
    path = tmp_path / "a.usda"
    write_usd(path, facts(), ellipsoid_topology(), iter(performance(1)))
    text = path.read_text()
    path.write_text(text.replace('    defaultPrim = "head"\n', ""))
    assert text != path.read_text()
    assert complaints(path) != []


# rigs


def test_rig_is_named_and_plays_as_ours(tmp_path: Path) -> None:
    """UsdSkel's own evaluation of joints and blend shapes gives our vertices."""
    from pxr import Usd, UsdGeom, UsdSkel

    from topohead.io.usd_rig import write_rig_usd

    played = placement(torch.linalg.inv(world())).performance(planted_performance())
    path = tmp_path / "rig.usdc"
    write_rig_usd(path, facts(len(played.weights)), played)
    assert complaints(path) == []
    stage = Usd.Stage.Open(str(path))
    mesh = stage.GetPrimAtPath("/head/rig/mesh")
    assert list(UsdSkel.BindingAPI(mesh).GetBlendShapesAttr().Get()) == list(ARKIT_52)
    assert [child.GetName() for child in mesh.GetChildren()] == list(ARKIT_52)
    expected = played.vertices()
    UsdSkel.BakeSkinning(UsdSkel.Root(stage.GetPrimAtPath("/head/rig")))
    points = UsdGeom.Mesh(mesh).GetPointsAttr()
    for row in range(len(played.weights)):
        found = np.array(points.Get(11 + row))
        assert np.abs(found - expected[row].numpy()).max() < 1e-5
    bounds = np.array(UsdSkel.Root(stage.GetPrimAtPath("/head/rig")).GetExtentAttr().Get(12))
    assert np.allclose(bounds, [expected[1].amin(0).numpy(), expected[1].amax(0).numpy()])


def test_neutral_of_a_rig_reads_as_a_mesh(tmp_path: Path) -> None:
    from topohead.io.usd_rig import write_rig_usd

    played = planted_performance()
    write_rig_usd(tmp_path / "rig.usdc", facts(len(played.weights)), played)
    back = read_mesh(tmp_path / "rig.usdc")
    assert torch.equal(back.vertices, played.rig.neutral)
    assert torch.equal(back.topology.faces, played.rig.topology.faces)


# Gaussians


def test_gaussians_are_stored_as_the_schema_says(tmp_path: Path) -> None:
    from pxr import UsdVol

    from topohead.io.usd_splats import write_splats_usd

    if not hasattr(UsdVol, "ParticleField3DGaussianSplat"):
        pytest.skip("this usd-core has no schema for Gaussians")
    splats, path = cloud(4), tmp_path / "s.usdc"
    write_splats_usd(path, facts(2), iter([splats, splats]))
    assert complaints(path) == []
    field = usd_prim(path, "/head/splats")
    assert field.GetTypeName() == "ParticleField3DGaussianSplat"
    assert np.array_equal(field.GetAttribute("positions").Get(12), splats.means.numpy())
    assert np.allclose(field.GetAttribute("scales").Get(12), splats.scales)
    assert np.allclose(field.GetAttribute("opacities").Get(12), splats.opacities)
    turn = field.GetAttribute("orientations").Get(12)[3]
    assert np.allclose([turn.GetReal(), *turn.GetImaginary()], splats.quats[3], atol=1e-6)
    harmonics = np.array(field.GetAttribute("radiance:sphericalHarmonicsCoefficients").Get(12))
    assert np.allclose(harmonics.reshape(7, 4, 3), splats.harmonics)
    assert field.GetAttribute("radiance:sphericalHarmonicsDegree").Get() == 1


# names and other programs' files


def test_names_become_prims() -> None:
    assert prim_names(["cam 01", "cam_01", "3d", "é"])[:3] == ["cam_01", "cam_01_2", "_3d"]
    assert len(set(prim_names(["a b", "a.b", "a_b"]))) == 3


def test_other_stages_are_read(tmp_path: Path) -> None:
    """Left-handed faces, a five-cornered one, UVs per corner without indices, a moved parent."""
    from pxr import Gf, Sdf, UsdGeom

    path = tmp_path / "other.usda"
    with new_stage(path, facts()) as stage:
        UsdGeom.Xform(stage.GetPrimAtPath("/head")).AddTranslateOp().Set(Gf.Vec3d(1, 2, 3))
        mesh = UsdGeom.Mesh.Define(stage, "/head/thing")
        mesh.CreatePointsAttr([(0, 0, 0), (1, 0, 0), (2, 1, 0), (1, 2, 0), (0, 2, 0), (-1, 1, 0)])
        mesh.CreateFaceVertexCountsAttr([5, 3])
        mesh.CreateFaceVertexIndicesAttr([4, 3, 2, 1, 0, 0, 5, 4])
        mesh.CreateOrientationAttr("leftHanded")
        uv = UsdGeom.PrimvarsAPI(mesh).CreatePrimvar(
            "st", Sdf.ValueTypeNames.TexCoord2fArray, "faceVarying"
        )
        uv.Set([(k / 8, 0) for k in range(8)])
    back = read_mesh(path)
    assert torch.equal(back.vertices[1], torch.tensor([2.0, 2, 3]))
    assert back.topology.faces.tolist() == [[4, 2, 3, 3], [4, 1, 2, 2], [4, 0, 1, 1], [0, 4, 5, 5]]
    assert back.topology.uv[back.topology.face_uv[3, 1], 0] == pytest.approx(7 / 8)


def test_bad_stages_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "no.usda").write_text("not a stage")
    with pytest.raises(InputError, match=r"no\.usda is no readable USD"):
        read_mesh(tmp_path / "no.usda")
    with new_stage(tmp_path / "empty.usda", facts()):
        pass
    with pytest.raises(InputError, match="0 meshes"):
        read_mesh(tmp_path / "empty.usda")
