"""`topohead export`: the numbers stand where the policy says, and reading back undoes it."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from exporting import FRAMES, RATE, add_rig, heads, planted_performance, world, write_run
from khronos import issues
from planted_run import ellipsoid_topology, planted_rig, striped_texture
from random_rig import head_points, make_rig
from topohead import cli
from topohead.core import ARKIT_52, Distortion, InputError, Mesh, Topology
from topohead.geometry.cameras import project_through_lens, undistorted_pixels
from topohead.geometry.placement import placement
from topohead.io.calibration import read_rig, write_rig
from topohead.io.expressions import read_live_link
from topohead.io.gltf import read_glb
from topohead.io.gltf_rig import read_rig_glb, write_rig_glb
from topohead.io.meshes import read_mesh, write_obj
from topohead.io.splat_ply import read_splat_ply
from topohead.solvers.published_scene import PublishedConfig
from topohead.workflows.export import ExportConfig, ExportResult, export
from usd_checks import complaints


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def exported(run: Path, to: Any, **settings: Any) -> ExportResult:
    return export(ExportConfig(run, to, **settings))


def mixed_obj(folder: Path) -> Path:
    """A textured mesh of quads and a triangle, with seams and numbers that are not round."""
    generator = torch.Generator().manual_seed(5)
    topology = Topology(
        vertex_count=7,
        faces=torch.tensor([[0, 1, 2, 3], [3, 2, 4, 4], [1, 5, 6, 2]]),
        uv=torch.rand(11, 2, generator=generator),
        face_uv=torch.tensor([[0, 1, 2, 3], [3, 2, 4, 4], [8, 9, 10, 7]]),
    )
    folder.mkdir(exist_ok=True)
    Image.fromarray(striped_texture()).save(folder / "skin.png")
    vertices = torch.rand(7, 3, generator=generator)
    write_obj(Mesh(topology, vertices), folder / "patch.obj", "skin.png")
    return folder / "patch.obj"


# numbers stand where the policy says


def test_obj_sequence_stands_upright_in_metres(run: Path) -> None:
    result = exported(run, "obj")
    assert result.folder == run / "export" / "obj" and result.frames == FRAMES
    topology = ellipsoid_topology()
    for index, truth in enumerate(heads()):
        mesh = read_mesh(result.folder / f"run_{index + 1:06d}.obj")
        assert (mesh.vertices - truth).abs().max() < 1e-6
        assert torch.equal(mesh.topology.faces, topology.faces)
        assert torch.equal(mesh.topology.face_uv, topology.face_uv)
    text = (result.folder / "run_000003.mtl").read_text()
    assert "map_Kd run_texture.png" in text and (result.folder / "run_texture.png").exists()
    record = json.loads((result.folder / "export.json").read_text())
    assert record["units"] == "m" and record["frames"][0] == "000001"
    assert sorted(record["files"]) == sorted(result.files)


@pytest.mark.parametrize("to", ["obj", "ply", "usd"])
def test_units_and_axis(run: Path, to: str) -> None:
    if to == "usd":
        pytest.importorskip("pxr")
    result = exported(run, to, frames="2:2", units="cm", axis="z-up")
    (path,) = (p for p in result.folder.iterdir() if p.suffix in (".obj", ".ply", ".usdc"))
    found = read_mesh(path).vertices
    expected = heads()[1]
    if to != "usd":  # which knows its axes and unit: reading brings it back
        expected = 100 * expected @ torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]).double()
    assert (found - expected).abs().max() < 1e-4 / (100 if to == "usd" else 1)


def test_world_keeps_the_calibrations_axes(run: Path) -> None:
    place = world()
    result = exported(run, "ply", origin="world", frames="1:1")
    expected = heads()[0] @ place[:3, :3].T + place[:3, 3]
    assert (read_mesh(result.folder / "run.ply").vertices - expected).abs().max() < 1e-6


def test_frames_are_chosen_as_capture_does(run: Path) -> None:
    result = exported(run, "ply", frames="2:5:2")
    assert [f for f in result.files if f.endswith(".ply")] == ["run_000002.ply", "run_000004.ply"]


# there and back


@pytest.mark.parametrize("to", ["usd", "glb", "ply"])
def test_a_mesh_returns_with_order_quads_and_seams(to: str, tmp_path: Path) -> None:
    if to == "usd":
        pytest.importorskip("pxr")
    source = mixed_obj(tmp_path / "in")
    there = exported(source, to, out=tmp_path / "there")
    (path,) = (p for p in there.folder.iterdir() if p.suffix in (".usdc", ".glb", ".ply"))
    back = read_mesh(exported(path, "obj", out=tmp_path / "back").folder / "patch.obj")
    first = read_mesh(source)
    assert torch.equal(back.vertices, first.vertices)
    assert torch.equal(back.topology.faces, first.topology.faces)
    assert torch.equal(back.topology.is_quad, first.topology.is_quad)
    corners = back.topology.uv[back.topology.face_uv]
    assert (corners - first.topology.uv[first.topology.face_uv]).abs().max() < 1e-6
    if to == "usd":
        assert torch.equal(back.topology.face_uv, first.topology.face_uv)


def test_glb_of_a_sequence(run: Path) -> None:
    result = exported(run, "glb", frames="1:5:2")
    back = read_glb(result.folder / "run.glb")
    assert back.names == ("000001", "000003", "000005")
    assert (back.vertices - heads()[::2]).abs().max() < 1e-6
    assert torch.equal(back.topology.faces, ellipsoid_topology().faces)
    again = exported(result.folder / "run.glb", "ply", out=run / "again")
    assert len(again.files) == 3


def test_a_long_take_keeps_its_tolerance(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    state = load_file(run / "frames" / "000001" / "state.safetensors")
    generator = torch.Generator().manual_seed(0)
    for number in range(FRAMES + 1, 206):
        folder = run / "frames" / f"{number:06d}"
        folder.mkdir()
        (folder / "mesh.obj").symlink_to(run / "frames" / "000001" / "mesh.obj")
        moved = state["vertices"] + 1e-3 * torch.randn(1, 3, generator=generator)
        save_file({"vertices": moved}, folder / "state.safetensors")
    result = exported(run, "glb", origin="world")
    assert "205 frames as principal shapes" in result.summary()
    path = result.folder / "run.glb"
    back = read_glb(path)
    for name, found in zip(back.names, back.vertices, strict=True):
        true = load_file(run / "frames" / name / "state.safetensors")["vertices"]
        assert (found - true).norm(dim=1).max() < 0.05e-3
    from pygltflib import GLTF2

    # three directions of the whole, two of the planted frames: not two hundred
    assert len(GLTF2.load_binary(str(path)).meshes[0].primitives[0].targets) <= 8


def test_glb_passes_the_validator(run: Path) -> None:
    Image.fromarray(striped_texture()).save(run / "frames" / "000001" / "normal.png")
    assert issues(exported(run, "glb").folder / "run.glb") == []
    add_rig(run)
    assert issues(exported(run, "glb").folder / "run.glb") == []


# rigs


def test_glb_of_a_rig_stands_as_the_sequence_does(run: Path) -> None:
    played = add_rig(run)
    place = placement(torch.linalg.inv(world()))
    back = read_rig_glb(exported(run, "glb", frames="2:4").folder / "run.glb")
    expected = place.points(played.vertices())[1:4]
    assert (back.vertices() - expected).abs().max() < 1e-5
    assert torch.equal(back.rig.upright, torch.eye(4))
    sequence = exported(run, "glb", sequence=True).folder / "run.glb"
    assert len(read_glb(sequence).names) == FRAMES


def test_usd_of_a_rig_has_arkit_names(run: Path) -> None:
    pytest.importorskip("pxr")
    from pxr import Usd, UsdSkel

    add_rig(run)
    path = exported(run, "usd", cameras=True).folder / "run.usdc"
    stage = Usd.Stage.Open(str(path))
    mesh = stage.GetPrimAtPath("/run/rig/mesh")
    assert list(UsdSkel.BindingAPI(mesh).GetBlendShapesAttr().Get()) == list(ARKIT_52)
    cameras = stage.GetPrimAtPath("/run/cameras").GetChildren()
    assert [c.GetName() for c in cameras] == list(planted_rig().cameras.names)
    assert complaints(path) == []


def test_a_rig_of_other_frames_is_refused(run: Path) -> None:
    (run / "rig").mkdir()
    write_rig_glb(run / "rig" / "rig.glb", planted_performance(FRAMES - 1))
    with pytest.raises(InputError, match="plays 4 frames and the run has 5"):
        exported(run, "glb")


# pictures


def test_textures_are_copied_shrunk_or_left(run: Path) -> None:
    pytest.importorskip("pxr")
    second = Image.fromarray(255 - striped_texture())
    second.save(run / "frames" / "000002" / "texture_srgb.png")
    files = exported(run, "usd", texture_size=32).files
    assert [f for f in files if f.endswith(".png")] == ["textures/run_texture.png"]
    picture = Image.open(run / "export" / "usd" / "textures" / "run_texture.png")
    assert picture.size == (32, 32)
    whole = np.asarray(Image.fromarray(striped_texture()).resize((32, 32), Image.Resampling.BOX))
    assert np.abs(np.asarray(picture).astype(int) - whole).max() <= 2, "colours in their order"
    files = exported(run, "obj", textures="all").files
    assert [f for f in files if f.endswith(".png")] == [
        "run_000001_texture.png", "run_000002_texture.png",
    ]  # fmt: skip
    third = (run / "export" / "obj" / "run_000003.mtl").read_text()
    assert "run_000001_texture.png" in third, "a frame without its own takes the first's"
    assert not any(f.endswith("png") for f in exported(run, "obj", textures="none").files)


def test_usdz_holds_its_texture(run: Path) -> None:
    pytest.importorskip("pxr")
    from pxr import Usd, UsdGeom, UsdShade

    result = exported(run, "usd", usd_type="usdz")
    assert [f for f in result.files if f != "export.json"] == ["run.usdz"]
    path = result.folder / "run.usdz"
    stage = Usd.Stage.Open(str(path))
    points = UsdGeom.Mesh(stage.GetPrimAtPath("/run/mesh")).GetPointsAttr()
    assert np.abs(np.array(points.Get(3)) - heads()[2].numpy()).max() < 1e-6
    texture = UsdShade.Shader(stage.GetPrimAtPath("/run/skin/texture")).GetInput("file").Get()
    assert "run.usdz[" in texture.resolvedPath
    assert complaints(path) == []


# Gaussians, cameras, curves


def test_gaussians_of_the_published_solver(run: Path) -> None:
    scene = load_file(run / "first" / "head.safetensors")["vertices"].double()
    unit = PublishedConfig().unit
    colors = torch.rand(len(scene), 3, generator=torch.Generator().manual_seed(0))
    for folder in (run / "frames").iterdir():
        state = load_file(folder / "state.safetensors")
        means = (state["vertices"].double() - scene.mean(0)) / unit
        state |= {
            "published.means": means.float(),
            "published.quats": torch.eye(4)[:1].repeat(len(scene), 1),
            "published.scales": torch.full((len(scene), 3), 0.01),
            "published.colors": colors,
        }
        save_file({k: v.contiguous() for k, v in state.items()}, folder / "state.safetensors")
    result = exported(run, "ply", splats=True)
    back = read_splat_ply(result.folder / "run_000004.ply")
    upside_down = heads()[3] * torch.tensor([1.0, -1, -1])
    assert (back.means - upside_down).abs().max() < 1e-6
    assert torch.allclose(back.scales, torch.tensor(0.01 * unit).float())
    assert (back.colors - colors).abs().max() < 1e-5
    pytest.importorskip("pxr")
    from pxr import Usd, UsdVol

    if hasattr(UsdVol, "ParticleField3DGaussianSplat"):
        path = exported(run, "usd", splats=True, cameras=True).folder / "run.usdc"
        stage = Usd.Stage.Open(str(path))
        positions = stage.GetPrimAtPath("/run/splats").GetAttribute("positions")
        assert np.abs(np.array(positions.Get(4)) - heads()[3].numpy()).max() < 1e-6
        assert complaints(path) == []


def test_cameras_of_every_program_see_alike(run: Path) -> None:
    lenses = tuple(Distortion("brown", (0.05 * k, -0.02, 0.01, 0.0, 1e-3, -2e-3)) for k in range(5))
    rig = make_rig(lenses=lenses)
    write_rig(rig, run / "cameras.json")
    result = exported(run, "cameras", axis="z-up", units="mm")
    place = placement(torch.linalg.inv(world()), "z-up")
    moved = place.points(head_points())
    expected, _ = project_through_lens(rig, head_points())
    files = ("cameras.json", "colmap/sparse/0", "metashape.xml", "transforms.json", "opencv.yml")
    for name in files:
        back = read_rig(result.folder / name, "mm").select(rig.cameras.names)
        assert (project_through_lens(back, moved)[0] - expected).abs().max() < 1e-6, name
    pinholes = read_rig(result.folder / "colmap_undistorted" / "sparse" / "0", "mm")
    straight, _ = project_through_lens(pinholes.select(rig.cameras.names), moved)
    assert (straight - undistorted_pixels(rig, expected)).abs().max() < 1e-6


def test_pictures_are_called_as_in_the_take(run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "take" / "frames" / "000001" / "left.jpg"
    picture.parent.mkdir(parents=True)
    Image.fromarray(striped_texture()).save(picture)
    (run / "config.yaml").write_text(f"source: {tmp_path / 'take'}\n")
    exported(run, "cameras")
    images = (run / "export" / "cameras" / "colmap" / "sparse" / "0" / "images.txt").read_text()
    assert "left.jpg" in images and ".png" not in images


def test_what_a_format_cannot_hold_is_told(run: Path) -> None:
    write_rig(make_rig(skew=3.0), run / "cameras.json")
    result = exported(run, "cameras")
    assert not any(f.startswith("colmap/") for f in result.files)
    assert any("no colmap/sparse/0: " in note and "skew" in note for note in result.notes)
    assert "colmap_undistorted/sparse/0/cameras.txt" in result.files
    with pytest.raises(InputError, match="skew"):
        exported(run, "cameras", camera_format="nerfstudio")


def test_curves_at_another_rate(run: Path) -> None:
    plain = read_live_link(exported(run, "expression").folder / "run.csv")
    own = read_live_link(run / "expression.csv")
    assert torch.equal(plain.coefficients, own.coefficients)
    doubled = read_live_link(exported(run, "expression", rate=2 * RATE).folder / "run.csv")
    assert len(doubled) == 2 * FRAMES - 1
    assert torch.allclose(doubled.coefficients[::2], own.coefficients, atol=1e-4)
    middle = (own.coefficients[1] + own.coefficients[2]) / 2
    assert torch.allclose(doubled.coefficients[3], middle, atol=1e-4)
    some = read_live_link(exported(run, "expression", frames="2:3").folder / "run.csv")
    assert torch.equal(some.coefficients, own.coefficients[1:3]) and some.times[0] == 0


# what may be replaced


def test_only_an_earlier_export_is_replaced(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    exported(run, "obj", out=out)
    exported(run, "ply", out=out, frames="1:1")
    assert sorted(p.name for p in out.iterdir()) == ["export.json", "run.ply", "run_texture.png"]
    (out / "scene.blend").write_text("my work")
    with pytest.raises(InputError, match=r"holds 'scene\.blend', which no export wrote"):
        exported(run, "obj", out=out)
    assert (out / "run.ply").exists() and (out / "scene.blend").exists()
    with pytest.raises(InputError, match="is a file"):
        exported(run, "obj", out=out / "run.ply")


def test_a_failed_export_leaves_the_last_one(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    exported(run, "ply", out=out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    (run / "frames" / "000004" / "state.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="000004"):
        exported(run, "ply", out=out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".tmp-")]


# bad input


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--to", "glb", "--units", "cm"], "glTF is always in metres"),
        (["--to", "glb", "--axis", "z-up"], "glTF is always in y up"),
        (["--to", "obj", "--usd-type", "usda"], "--usd-type does not go with --to obj"),
        (["--to", "obj", "--frames", "9:12"], "no frame in '9:12'"),
        (["--to", "obj", "--from-units", "mm"], "about a single mesh"),
        (["--to", "obj", "--texture-size", "0"], "above zero"),
        (["--to", "expression", "--rate", "-1"], "above zero"),
        (["--to", "ply", "--splats", "--axis", "z-up"], "y down"),
        (["--to", "glb", "--splats", "--gaussians", "0"], "above zero"),
        (["--to", "obj", "--layout", "cap4d"], "--layout does not go with --to obj"),
        (["--to", "ply", "--splats", "--delta-bits", "8"], "about --layout cap4d"),
        (["--to", "ply", "--layout", "cap4d", "--axis", "z-up"], "y down"),
        (["--to", "abc", "--blender", "/no/such/blender"], "is no program"),
        (["--to", "stl"], "invalid choice"),
        ([], "--to"),
    ],
)
def test_bad_words_are_one_line(
    words: list[str], told: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["export", str(run), *words]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not (run / "export").exists() or not list((run / "export").iterdir())


def test_bad_sources_are_told(tmp_path: Path) -> None:
    for path, told in ((tmp_path / "nothing", "no run or mesh"), (tmp_path, "no run folder")):
        with pytest.raises(InputError, match=told):
            exported(path, "obj", out=tmp_path / "out")
    source = mixed_obj(tmp_path / "in")
    for to in ("cameras", "expression"):
        with pytest.raises(InputError, match="a single mesh has no"):
            exported(source, to)
    (source.parent / "skin.png").unlink()
    with pytest.raises(InputError, match=r"no texture at .*skin\.png"):
        exported(source, "glb")


def test_missing_packages_are_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pxr.Usd", None)
    with pytest.raises(InputError, match=r"pip install 'topohead\[usd\]'"):
        exported(run, "usd")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("TOPOHEAD_BLENDER", raising=False)
    with pytest.raises(InputError, match="pip install bpy"):
        exported(run, "fbx")
