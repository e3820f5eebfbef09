"""`topohead register`: planted scans come back, batches resume, what is no head is refused."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from planted_scan import Planted, errors_mm, planted, surface_of, two_heads, written
from topohead import cli
from topohead.core import InputError
from topohead.core.scans import ScanFit
from topohead.geometry.bridge import bind
from topohead.geometry.meshes import triangle_areas
from topohead.io.assets import reference_head
from topohead.io.gltf_rig import read_rig_glb
from topohead.io.images import read_image, write_image
from topohead.io.meshes import read_mesh, write_obj
from topohead.rendering.uv import texel_map
from topohead.workflows.register import Method, RegisterConfig, register
from topohead.workflows.registering import (
    batch,
    methods,
    single,
    topologies,
)

FACE = reference_head(0).topology.region_mask("face")
SMALL = 128


@pytest.mark.parametrize(
    ("unit", "up", "name", "method"),
    [
        pytest.param("cm", "z", "scan.ply", "pca", marks=pytest.mark.slow),
        ("mm", "y", "scan.obj", "network+refine"),
    ],
)
def test_a_planted_scan_comes_back(
    tmp_path: Path, unit: str, up: str, name: str, method: Method
) -> None:
    """Any unit and orientation; head and scan stay together, in metres."""
    truth = planted(seed=3, unit=unit, up=up, smile=0.6)
    scan = written(truth, tmp_path / name)
    result = register(RegisterConfig(scan, tmp_path / "out", method=method, texture_size=SMALL))
    (one,) = result.scans
    assert one.unit == unit and one.head is not None and result.exit_code == 0
    error = errors_mm(read_mesh(one.head).vertices, truth)
    assert float(error.median()) < 0.6 and float(error.quantile(0.95)) < 1.5
    assert one.median_mm is not None and one.median_mm < 0.3
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert told["unit"] == unit and told["method"] == method
    assert (told["weights"] is None) == (method == "pca")
    assert told["expression"]["mouthSmileLeft"] > 0.2
    pose = torch.tensor(told["pose"])
    assert torch.allclose(pose[:3, 3], truth.pose[:3, 3], atol=0.004)
    assert set(told["seconds"]) == {"read", "register", "level 1", "texture", "write"}


def test_everything_that_is_written(tmp_path: Path, knowing: Callable[[Planted], None]) -> None:
    truth = planted(seed=4, unit="cm", up="z", smile=0.7)
    knowing(truth)
    scan = written(truth, tmp_path / "person.ply")
    out = tmp_path / "out"
    asked = RegisterConfig(scan, out, method="template", texture_size=SMALL, neutral=True)
    (one,) = register(asked).scans
    assert one.head == out / "head.obj" and not one.kept
    mesh = read_mesh(out / "head.obj")
    assert mesh.topology.vertex_count == reference_head(1).topology.vertex_count
    assert float(errors_mm(mesh.vertices, truth).max()) < 1e-3
    assert (out / "head.mtl").read_text().split()[-1] == "textures/albedo_srgb.png"
    assert read_image(out / "textures" / "albedo_srgb.png").shape == (SMALL, SMALL, 3)
    played = read_rig_glb(out / "head.glb")
    shown = played.vertices()[0]
    assert torch.allclose(shown, mesh.vertices, atol=1e-5)
    assert float((played.rig.neutral - mesh.vertices).norm(dim=1).max()) > 2e-3
    neutral = read_mesh(out / "head_neutral.obj")
    assert torch.allclose(neutral.vertices, played.rig.neutral, atol=1e-6)
    upright = played.rig.upright.double() @ truth.pose.double()
    assert torch.allclose(upright, torch.eye(4).double(), atol=1e-5)
    assert np.load(out / "sigma.npy").shape == (len(mesh.vertices),)
    assert read_image(out / "proof.png").std() > 0.05
    told = json.loads((out / "manifest.json").read_text())
    assert all((out / name).is_file() for name in told["files"])
    found = {f.relative_to(out).as_posix() for f in out.rglob("*") if f.is_file()}
    assert found == {"manifest.json", *told["files"]}
    assert told["texture"]["seen"] > 0.5


@pytest.mark.parametrize("suffix", [".obj", ".glb", ".ply", ".usdc"])
def test_a_file_by_its_suffix_in_either_frame(
    tmp_path: Path, knowing: Callable[[Planted], None], suffix: str
) -> None:
    truth = planted(seed=4)
    knowing(truth)
    scan = written(truth, tmp_path / "person.ply")
    out = tmp_path / f"me{suffix}"
    asked = RegisterConfig(scan, out, method="template", level=0, texture_size=0)
    (one,) = register(asked).scans
    assert one.head == out
    there = read_mesh(out).vertices
    if suffix == ".glb":  # its node stands upright
        there = there @ truth.pose[:3, :3].T + truth.pose[:3, 3]
    assert torch.allclose(there, truth.vertices, atol=1e-5)
    assert (tmp_path / "me_manifest.json").exists() and (tmp_path / "me_sigma.npy").exists()
    register(replace(asked, reference_frame=True, restart=True))
    local = (truth.vertices - truth.pose[:3, 3]) @ truth.pose[:3, :3]
    assert torch.allclose(read_mesh(out).vertices, local, atol=1e-5)


def test_a_folder_resumes_and_lists_what_is_bad(
    tmp_path: Path, knowing: Callable[[Planted], None], capsys: pytest.CaptureFixture[str]
) -> None:
    truth = planted(seed=6)
    knowing(truth)
    scans, out = tmp_path / "scans", tmp_path / "heads"
    (scans / "sub").mkdir(parents=True)
    written(truth, scans / "a.ply")
    written(truth, scans / "sub" / "b.obj")
    (scans / "bad.ply").write_bytes(b"")
    (scans / "notes.txt").write_text("none of these")
    words = ["register", str(scans), "--out", str(out), "--method", "template"]
    words += ["--texture-size", "0", "--level", "0"]
    assert cli.run(words) == 2
    told = capsys.readouterr().out
    assert "bad.ply: no head: is empty" in told and "2 of 3 in" in told
    document = json.loads((out / "manifest.json").read_text())
    assert document["registered"] == 2 and document["failed"] == 1
    page = (out / "report.html").read_text()
    assert "bad.ply" in page and "a/proof.png" in page and "sub_b/proof.png" in page
    assert (out / "sub_b" / "head.obj").exists() and not (out / "bad").exists()

    stale = out / ".tmp-999999999-1-a"
    stale.mkdir()
    before = (out / "a" / "head.obj").stat().st_mtime_ns
    written(planted(seed=6), scans / "bad.ply")
    assert cli.run([*words, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert [row["kept"] for row in again["scans"]] == [True, False, True]
    assert (out / "a" / "head.obj").stat().st_mtime_ns == before and not stale.exists()

    register(RegisterConfig(scans, out, method="template", texture_size=0, level=1, report=False))
    assert (out / "a" / "head.obj").stat().st_mtime_ns != before  # another request


def test_scans_of_a_folder_have_names_of_their_own(tmp_path: Path) -> None:
    """Dots are no formats, and no two files share a folder."""
    names = ["anna.0001.obj", "anna.0002.obj", "anna.0002.ply", "anna/0001.obj", "x.stl"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = batch.scans_in(tmp_path)
    assert {name: path.relative_to(tmp_path).as_posix() for name, path in found} == {
        "anna_0001_obj_1": "anna/0001.obj", "anna_0001_obj_2": "anna.0001.obj", "x": "x.stl",
        "anna_0002_obj": "anna.0002.obj", "anna_0002_ply": "anna.0002.ply",
    }  # fmt: skip
    out = tmp_path / "v1.2"
    out.mkdir()
    (out / "run.json").touch()
    with pytest.raises(InputError, match=r"v1\.2 holds 'run\.json'"):
        register(RegisterConfig(tmp_path, out, method="template", device="cpu"))


def test_scans_are_ordered_as_people_number_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("take 10.ply", "take 9.ply", "b/1.obj", "B/2.obj", "take 010.ply"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for _, path in batch.scans_in(tmp_path)]
    assert found == ["B/2.obj", "b/1.obj", "take 9.ply", "take 10.ply", "take 010.ply"]
    walk = os.walk

    def barred(folder: Path, onerror: Callable[[OSError], object]) -> object:
        onerror(PermissionError(13, "Permission denied", str(folder / "b")))
        return walk(folder)

    monkeypatch.setattr(os, "walk", barred)
    batch.scans_in(tmp_path)
    assert "cannot be read (Permission denied): left out" in caplog.text


def test_what_a_scan_names_counts_for_what_is_finished(
    tmp_path: Path, knowing: Callable[[Planted], None]
) -> None:
    """A picture of its material that changes, or the middle of a file of the same length."""
    from topohead.workflows.registering.request import request_hash, resolved

    scan = tmp_path / "scan.obj"
    filler = "#" * 100_000 + "\n"
    scan.write_text(f"mtllib scan.mtl\n{filler}v 1 2 3\n{filler}")
    (tmp_path / "scan.mtl").write_text("newmtl skin\nmap_Kd skin.png\n")
    (tmp_path / "skin.png").write_bytes(b"one")
    asked = resolved(RegisterConfig(scan, tmp_path / "out", method="template", device="cpu"))
    hashes = [request_hash(asked), request_hash(asked)]
    (tmp_path / "skin.png").write_bytes(b"two")
    hashes.append(request_hash(asked))
    scan.write_text(scan.read_text().replace("v 1 2 3", "v 1 2 4"))
    hashes.append(request_hash(asked))
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3


def test_a_fault_of_the_program_stops_no_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> ScanFit:
        raise RuntimeError("singular matrix")

    monkeypatch.setitem(methods.STARTS, "template", broken)  # pyright: ignore
    scan = written(planted(seed=6), tmp_path / "a.ply")
    one = batch.attempt(RegisterConfig(scan, tmp_path / "out", method="template", device="cpu"))
    assert one.head is None and "RuntimeError: singular matrix" in (one.failure or "")
    assert not (tmp_path / "out").exists()


def test_foreign_files_are_left_alone(tmp_path: Path, knowing: Callable[[Planted], None]) -> None:
    truth = planted(seed=6)
    knowing(truth)
    scan = written(truth, tmp_path / "a.ply")
    asked = RegisterConfig(scan, tmp_path / "out", method="template", texture_size=0, level=0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        register(asked)
    with pytest.raises(InputError, match="cannot write"):
        register(replace(asked, out=tmp_path / "head.fbx"))
    assert (tmp_path / "out" / "thesis.tex").exists()


def test_a_topology_of_the_users(
    tmp_path: Path, knowing: Callable[[Planted], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control mesh as somebody's own: it comes back in the shape of the scan, textured."""
    truth = planted(seed=4)
    knowing(truth)
    scan = written(truth, tmp_path / "person.ply")
    fine, coarse = (reference_head(level).neutral() for level in (1, 0))
    # where a bridge comes from has tests of its own
    monkeypatch.setattr(topologies, "bridge_to", lambda path, find: bind(fine, coarse))
    for name in ("mine", "yours"):
        write_obj(coarse, tmp_path / f"{name}.obj")
    asked = RegisterConfig(
        scan, tmp_path / "out", method="template",
        topology=(tmp_path / "mine.obj", tmp_path / "yours.obj"), texture_size=SMALL,
    )  # fmt: skip
    register(asked)
    mesh = read_mesh(tmp_path / "out" / "head_mine.obj")
    assert torch.equal(mesh.topology.faces, coarse.topology.faces)
    assert float((mesh.vertices - truth.vertices)[FACE].norm(dim=1).median()) < 5e-4
    assert torch.equal(read_mesh(tmp_path / "out" / "head_yours.obj").vertices, mesh.vertices)
    played = read_rig_glb(tmp_path / "out" / "head_mine.glb")
    assert torch.allclose(played.vertices()[0][FACE], mesh.vertices[FACE], atol=1e-3)
    picture = read_image(tmp_path / "out" / "textures" / "mine_albedo_srgb.png")
    own = read_image(tmp_path / "out" / "textures" / "albedo_srgb.png")
    assert float((picture - own).abs().median()) < 0.02  # both have the same UVs
    with pytest.raises(InputError, match="level"):
        register(replace(asked, level=0, out=tmp_path / "other"))
    with pytest.raises(InputError, match="no such file"):
        register(replace(asked, topology=(tmp_path / "gone.obj",)))
    with pytest.raises(InputError, match="two are called mine"):
        register(replace(asked, topology=(tmp_path / "mine.obj", tmp_path / "a" / "mine.glb")))


def test_a_box_is_cut_out_and_a_mirror_undone(tmp_path: Path) -> None:
    """Beside the head lies a slab; the file is a mirror image. The same scan comes out."""
    mesh = surface_of(planted(seed=4))
    corners = mesh.topology.triangles
    slab = torch.tensor([[2.0, 0, 0], [2.5, 0, 0], [2.0, 0.5, 0]])
    points = torch.cat([mesh.vertices, slab]) * torch.tensor([-1.0, 1, 1])
    extra = torch.tensor([[0, 1, 2]]) + len(mesh.vertices)
    file = tmp_path / "scan.stl"
    trimesh.Trimesh(
        points.numpy(), torch.cat([corners, extra]).flip(1).numpy(), process=False
    ).export(file)
    asked = RegisterConfig(file, tmp_path / "out", mirror=True, crop=(-1, 0.5, -1, 1, 2, 1))
    found = single.prepare(asked).scan
    assert len(found.triangles) == len(corners)
    assert torch.allclose(triangle_areas(found.points, found.triangles).sum(),
                          triangle_areas(mesh.vertices, corners).sum(), rtol=1e-4)  # fmt: skip
    low, high = mesh.vertices.aminmax(dim=0)
    assert torch.allclose(
        torch.stack(found.points.aminmax(dim=0)), torch.stack([low, high]), atol=1e-5
    )
    volume = [torch.linalg.det(v[t].double()).sum() for v, t in
              ((found.points, found.triangles), (mesh.vertices, corners))]  # fmt: skip
    assert torch.allclose(volume[0], volume[1], rtol=1e-3)  # the outside is still outside
    with pytest.raises(InputError, match="in this order"):
        single.prepare(replace(asked, crop=(1, -1, -1, -1, 1, 1)))
    with pytest.raises(InputError, match="3 points lie in --crop"):
        single.prepare(replace(asked, crop=(-3, -1, -1, -1.5, 1, 1)))


def test_a_picture_that_is_named(tmp_path: Path, knowing: Callable[[Planted], None]) -> None:
    truth = planted(seed=4)
    knowing(truth)
    fine = surface_of(truth)
    write_obj(fine, tmp_path / "scan.obj")
    write_image(tmp_path / "red.png", torch.tensor([0.8, 0.1, 0.1]).expand(16, 16, 3))
    asked = RegisterConfig(
        tmp_path / "scan.obj", tmp_path / "out", method="template", texture_size=SMALL
    )
    assert "--texture FILE" in single.prepare(asked).notes[0]
    register(replace(asked, texture=tmp_path / "red.png"))
    baked = read_image(tmp_path / "out" / "textures" / "albedo_srgb.png")
    inside = texel_map(reference_head(1).topology, SMALL).inside
    assert torch.allclose(baked[inside].mean(0), torch.tensor([0.8, 0.1, 0.1]), atol=0.01)
    scan = written(truth, tmp_path / "bare.ply")
    with pytest.raises(InputError, match="no UVs"):
        register(replace(asked, source=scan, texture=tmp_path / "red.png"))


@pytest.mark.slow
def test_force_writes_what_was_found_and_says_what_is_wrong(
    tmp_path: Path, knowing: Callable[[Planted], None]
) -> None:
    truth = planted(seed=3)
    knowing(truth)
    two_heads(tmp_path / "two.ply")
    asked = RegisterConfig(
        tmp_path / "two.ply", tmp_path / "out", method="template", texture_size=0, level=0
    )
    with pytest.raises(InputError, match="several heads"):
        register(asked)
    (one,) = register(replace(asked, force=True)).scans
    assert one.head is not None and one.head.exists()
    assert any("several heads" in warning for warning in one.warnings)


def test_a_head_that_does_not_stand_as_told(
    tmp_path: Path, knowing: Callable[[Planted], None]
) -> None:
    truth = planted(seed=3, up="z")
    knowing(truth)
    scan = written(truth, tmp_path / "a.ply")
    asked = RegisterConfig(scan, tmp_path / "out", method="template", texture_size=0, up="y")
    with pytest.raises(InputError, match="not along y"):
        register(asked)
    register(replace(asked, up="z"))
