"""A staged take on disk: same seed, same bytes; truth that agrees with the pictures; resuming."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from topohead.core import InputError, Mesh
from topohead.geometry.cameras import project_through_lens
from topohead.io import assets
from topohead.io.calibration import read_rig
from topohead.io.captures import open_capture
from topohead.io.expressions import read_live_link
from topohead.io.images import read_image
from topohead.io.meshes import read_mesh
from topohead.workflows.stage import PRESETS, StageConfig, resolved, stage

SMALL = StageConfig(
    Path("take"), preset="tiny", seed=11, cameras=4, width=128, height=96, frames=2,
    texture_size=256, supersampling=2, light="studio", gloss=1.0, fps=10.0,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def coarse_head():
    """The reference head at level 0: a quarter of the vertices, the same code."""
    level_1, asymmetry = assets.reference_head, assets.asymmetry_basis
    assets.reference_head = lambda level=0: level_1(level)
    assets.asymmetry_basis = lambda level=0: asymmetry(level)
    yield
    assets.reference_head, assets.asymmetry_basis = level_1, asymmetry


@pytest.fixture(scope="module")
def take(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("staged") / "take"
    stage(replace(SMALL, out=out))
    return out


def _bytes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_same_seed_same_bytes_and_resumed_the_same(take: Path, tmp_path: Path) -> None:
    first = _bytes(take)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="finds no CUDA device"):
            stage(replace(SMALL, out=take, device="cuda"))
    with pytest.raises(InputError, match="pathtrace runs on the CPU"):
        stage(replace(SMALL, out=take, device="cuda", renderer="pathtrace"))
    again = tmp_path / "again"
    stage(replace(SMALL, out=again, frames=1))
    # a kill in the middle of frame 2: pictures without the file that says the frame is done
    picture = again / "frames" / "000002" / "cam01.png"
    picture.parent.mkdir()
    picture.write_bytes(b"half a picture")
    stage(replace(SMALL, out=again))
    assert _bytes(again) == first
    other = tmp_path / "other"
    stage(replace(SMALL, out=other, frames=1, seed=12))
    assert _bytes(other)["frames/000001/cam00.png"] != first["frames/000001/cam00.png"]


@pytest.mark.gpu
def test_a_take_goes_on_on_a_gpu_with_the_same_truth(take: Path, tmp_path: Path) -> None:
    out = tmp_path / "mixed"
    stage(replace(SMALL, out=out, frames=1))
    stage(replace(SMALL, out=out, device="cuda"))
    expected, found = _bytes(take), _bytes(out)
    assert found.keys() == expected.keys()
    # painted and lit by other sums: codes apart
    maps = {f"truth/{name}.png" for name in ("lit_srgb", "albedo_srgb", "roughness", "normal")}
    maps |= {"start.png"}
    differ = {name for name in found if found[name] != expected[name]} - maps
    assert all(name.startswith(("frames/000002", "masks/000002")) for name in differ), differ
    for name in maps | differ:
        codes = ((read_image(out / name) - read_image(take / name)) * 255).round().abs()
        assert (codes > 0).float().mean() < 0.02 and (codes > 2).float().mean() < 2e-3


def test_the_take_opens_as_a_capture(take: Path) -> None:
    capture = open_capture(take)
    assert capture.frames == ("000001", "000002")
    assert capture.rig.cameras.names == ("cam00", "cam01", "cam02", "cam03")
    assert capture.frames_per_second == 10.0
    assert capture.landmarks is not None and len(capture.landmarks["000001"]) >= 1
    image, mask = capture.read_image("000001", "cam01"), capture.read_mask("000001", "cam01")
    assert image.shape == (96, 128, 3)
    assert image[mask > 0.99].mean() > 0.25 and image[mask == 0].mean() < 0.05


def test_truth_lies_inside_the_masks(take: Path) -> None:
    capture, rig = open_capture(take), read_rig(take / "truth" / "cameras.json")
    for frame in capture.frames:
        truth = load_file(take / "truth" / "frames" / f"{frame}.safetensors")
        pixels, _ = project_through_lens(rig, truth["surface"].double())
        for index, name in enumerate(rig.cameras.names):
            mask = capture.read_mask(frame, name)
            column, row = pixels[index].floor().long().unbind(1)
            inside = (column >= 0) & (row >= 0) & (column < 128) & (row < 96)
            seen = mask[row[inside], column[inside]]
            # a vertex on the outline may fall into a pixel whose samples all missed
            assert (seen > 0).float().mean() > 0.99
            assert 0.1 < mask.mean() < 0.8


def test_landmarks_are_where_the_truth_projects(take: Path) -> None:
    capture, rig = open_capture(take), read_rig(take / "truth" / "cameras.json")
    topology = assets.reference_head().topology
    points = topology.landmarks["ibug68"]
    vertices = load_file(take / "truth" / "frames" / "000001.safetensors")["vertices"].double()
    corners = vertices[topology.triangles[points.triangles]]
    places = (corners * points.barycentrics[..., None].double()).sum(1)
    pixels, _ = project_through_lens(rig, places)
    offsets = []
    for name, marks in capture.landmarks["000001"].items():
        index = rig.cameras.names.index(name)
        offsets += [pixels[index, i] - torch.tensor(xy) for i, xy in marks.items() if i > 16]
    rms = float(torch.stack(offsets).square().mean().sqrt())
    sigma = 1.5 * 128 / 512
    assert 0.6 * sigma < rms < 1.5 * sigma


def test_meshes_and_their_files(take: Path) -> None:
    truth = load_file(take / "truth" / "frames" / "000001.safetensors")
    mesh, surface = read_mesh(take / "truth" / "mesh.obj"), read_mesh(take / "truth/surface.obj")
    count = mesh.topology.vertex_count
    assert torch.allclose(mesh.vertices, truth["vertices"], atol=1e-6)
    assert torch.allclose(surface.vertices, truth["surface"], atol=1e-6)
    assert torch.equal(truth["vertices"], truth["surface"][:count])
    start = read_mesh(take / "start.obj")
    assert torch.equal(start.topology.faces, assets.reference_head().topology.faces)
    noisy: Mesh = read_mesh(take / "start" / "noisy.obj")
    error = (noisy.vertices - start.vertices).norm(dim=1)
    assert float(error.square().mean().sqrt()) == pytest.approx(0.001, rel=0.02)
    edges = start.topology.edges
    jump = (noisy.vertices - start.vertices)[edges].diff(dim=1).norm(dim=-1)
    assert jump.median() < 0.5 * error.median()  # smooth, though edges are 6 mm long here
    for name in ("start.png", "truth/lit_srgb.png", "truth/albedo_srgb.png", "truth/normal.png"):
        assert read_image(take / name).shape == (256, 256, 3)


def test_motion_on_disk(take: Path) -> None:
    first = load_file(take / "truth" / "frames" / "000001.safetensors")
    second = load_file(take / "truth" / "frames" / "000002.safetensors")
    assert first["expression"].abs().max() == 0
    assert torch.allclose(first["pose"], torch.eye(4).double(), atol=1e-9)
    rigid = assets.reference_head().topology.regions["rigid"]
    carried = first["vertices"].double() @ second["pose"][:3, :3].T + second["pose"][:3, 3]
    off = (carried - second["vertices"].double())[rigid].norm(dim=1)
    assert off.max() < 2e-4
    assert (second["vertices"] - first["vertices"]).norm(dim=1).max() > 0.002
    track = read_live_link(take / "truth" / "expression.csv")
    assert torch.allclose(track.coefficients[1].float(), second["expression"], atol=1e-6)


def test_another_take_in_the_same_folder_is_refused(take: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seed 11, now 12"):
        stage(replace(SMALL, out=take, seed=12))
    with pytest.raises(InputError, match="frames 2, now 1"):
        stage(replace(SMALL, out=take, frames=1))
    (tmp_path / "frames").mkdir()
    with pytest.raises(InputError, match="another capture"):
        stage(replace(SMALL, out=tmp_path))


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [("frames", 0, "--frames expects 1 to"), ("seed", -1, "--seed expects 0 to"),
     ("noise", -2.0, "--noise expects 0 to 100, got -2.0"), ("blur", float("nan"), "got nan"),
     ("fps", 0.0, "--fps must be positive"), ("held_out", -1, "--held-out expects")],
)  # fmt: skip
def test_numbers_that_mean_nothing_are_refused(
    tmp_path: Path, setting: str, value: float, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        stage(replace(SMALL, out=tmp_path / "new", **{setting: value}))
    assert not (tmp_path / "new").exists()


def test_presets_can_be_overridden() -> None:
    for name, numbers in PRESETS.items():
        settings = resolved(StageConfig(Path("x"), preset=name, frames=7))
        assert settings["frames"] == 7
        assert settings["cameras"] == numbers["cameras"]
        assert all(settings[key] is not None for key in numbers)


@pytest.mark.slow
def test_motion_blur_and_jpeg(tmp_path: Path) -> None:
    out = tmp_path / "blurred"
    stage(replace(SMALL, out=out, cameras=3, shutter=0.8, head_motion=12.0, images="jpg"))
    sharp = tmp_path / "sharp"
    stage(replace(SMALL, out=sharp, cameras=3, head_motion=12.0))
    soft = read_image(out / "frames" / "000002" / "cam01.jpg").diff(dim=1).abs().mean()
    crisp = read_image(sharp / "frames" / "000002" / "cam01.png").diff(dim=1).abs().mean()
    assert soft < 0.93 * crisp


def test_truth_names_everything(take: Path) -> None:
    described = json.loads((take / "truth" / "truth.json").read_text())
    assert described["settings"]["seed"] == 11
    assert set(described["cameras"]) == {"cam00", "cam01", "cam02", "cam03"}
    assert "out" not in described["settings"]


@pytest.mark.slow
def test_path_tracing_agrees_with_the_stage(tmp_path: Path) -> None:
    pytest.importorskip("mitsuba")
    plain = replace(
        SMALL, frames=1, cameras=3, gloss=0.0, light="dome", noise=0.0, color_error=0.0
    )  # fmt: skip
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    stage(replace(plain, out=ours))
    stage(replace(plain, out=theirs, renderer="pathtrace", samples=256))
    for name in ("cam00", "cam01", "cam02"):
        a, b = (read_image(p / "frames" / "000001" / f"{name}.png") for p in (ours, theirs))
        mask = read_image(ours / "masks" / "000001" / f"{name}.png")[..., 0] > 0.99
        psnr = -10 * torch.log10((a - b)[mask].square().mean())
        assert psnr > 33
