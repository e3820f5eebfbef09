"""`topohead register --sequence`: frames of one performer follow each other."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from planted_scan import Planted, errors_mm, planted, written
from topohead import cli
from topohead.core import HeadModel
from topohead.core.scans import Scan, ScanFit
from topohead.io.assets import reference_head
from topohead.io.meshes import read_mesh
from topohead.io.results import open_run
from topohead.workflows.register import RegisterConfig, register
from topohead.workflows.registering import (
    methods,
    sequence,
)
from topohead.workflows.registering.units import longest_side

FACE = reference_head(0).topology.region_mask("face")


@pytest.mark.slow
def test_a_blink_and_a_mouth_that_opens_are_followed() -> None:
    """From one frame to the next, too far for what begins where the frame before was."""
    still = planted(seed=3)
    actions = {"jawOpen": 0.6, "eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}
    truth = planted(seed=3, actions=actions)
    count = len(still.scan.points)
    sigma, everything = torch.full((len(FACE),), 5e-4), torch.ones(count, dtype=torch.bool)
    last = ScanFit(still.vertices, sigma, still.pose, still.expression, everything)
    asked = RegisterConfig(Path("frames"), Path("run"), method="network+refine", device="cpu")
    found, doubts = sequence.following(truth.scan, sequence.personal(last), last, asked)
    assert not doubts
    regions = reference_head(0).topology.regions
    for name in ("lips", "eyelids"):
        rows = regions[name]
        off = 1000 * (found.vertices - truth.vertices)[rows].norm(dim=1)
        assert float(off.median()) < 1.0, name


@pytest.mark.slow
def test_a_frame_without_a_head_is_told_and_leads_nobody_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ball between two frames: the network's doubt is heard, and the frame after begins where the
    one before the ball was, as it does when the ball's frame was made by an earlier call."""
    frames, run = tmp_path / "frames", tmp_path / "run"
    frames.mkdir()
    truth = planted(seed=3)
    for number in (9, 11):
        written(truth, frames / f"take {number}.ply")
    trimesh.creation.icosphere(5, 0.11).export(frames / "take 10.ply")
    words = ["register", str(frames), "--out", str(run), "--sequence", "--no-report"]
    assert cli.run([*words, "--texture-size", "0", "--level", "0"]) == 0
    told = capsys.readouterr().out
    heard = [line for line in told.splitlines() if line.startswith("warning: frame")]
    assert len(heard) == 1 and heard[0].startswith("warning: frame 000002: ")
    assert "the network expects to be off by" in heard[0]
    last = run / "frames" / "000003"
    made = (last / "mesh.obj").read_bytes()
    error = 1000 * (read_mesh(last / "mesh.obj").vertices - truth.vertices)[FACE].norm(dim=1)
    assert float(error.median()) < 0.6
    (last / "state.safetensors").unlink()
    assert cli.run([*words, "--texture-size", "0", "--level", "0"]) == 0
    assert (last / "mesh.obj").read_bytes() == made


def test_frames_that_tell_their_unit_keep_it(
    tmp_path: Path, knowing: Callable[[Planted], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a sequence in a USD's centimetres every frame is as large as the first."""
    usd = pytest.importorskip("pxr.Usd")
    geometry = pytest.importorskip("pxr.UsdGeom")
    truth = planted(seed=3)
    knowing(truth)
    (tmp_path / "frames").mkdir()
    for number in range(2):
        stage = usd.Stage.CreateNew(str(tmp_path / "frames" / f"take_{number}.usdc"))
        geometry.SetStageMetersPerUnit(stage, 0.01)
        geometry.SetStageUpAxis(stage, "Y")
        mesh = geometry.Mesh.Define(stage, "/scan")
        mesh.CreatePointsAttr((100 * truth.scan.points).numpy())
        mesh.CreateFaceVertexIndicesAttr(truth.scan.triangles.flatten().int().numpy())
        mesh.CreateFaceVertexCountsAttr(np.full(len(truth.scan.triangles), 3, np.int32))
        stage.Save()
    sizes: list[float] = []

    def following(scan: Scan, person: HeadModel, last: ScanFit, config: object) -> methods.Found:
        sizes.append(float(longest_side(scan.points)))
        return replace(last, inliers=torch.ones(len(scan.points), dtype=torch.bool)), ()

    monkeypatch.setattr(sequence, "following", following)
    asked = RegisterConfig(
        tmp_path / "frames", tmp_path / "run", method="template", texture_size=0,
        sequence=True, report=False, level=0,
    )  # fmt: skip
    register(asked)
    assert sizes == [pytest.approx(longest_side(truth.scan.points), rel=1e-3)]


@pytest.mark.slow
def test_a_sequence_is_a_run(tmp_path: Path) -> None:
    """Two frames, the second smiling and shifted: one person, the right change between them."""
    frames = tmp_path / "frames"
    frames.mkdir()
    truths = [planted(seed=3, unit="mm", smile=smile) for smile in (0.0, 0.5)]
    for number, truth in enumerate(truths):
        moved = replace(truth.scan, points=truth.scan.points + 3.0 * number)
        written(replace(truth, scan=moved), frames / f"take_{number}.ply")
    asked = RegisterConfig(
        frames, tmp_path / "run", method="pca+refine", texture_size=0, sequence=True, report=False
    )
    result = register(asked)
    assert [one.source.name for one in result.scans] == ["take_0.ply", "take_1.ply"]
    run = open_run(tmp_path / "run")
    assert run.frames == ("000001", "000002") and "face" in run.topology.regions
    for number, truth in enumerate(truths):
        shifted = replace(truth, vertices=truth.vertices + 0.003 * number)
        assert float(errors_mm(run.vertices[number], shifted).median()) < 0.3
    assert torch.allclose(run.poses[1][:3, 3], torch.full((3,), 0.003), atol=1.5e-3)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "frames").rglob("*.*")}
    (tmp_path / "run" / "frames" / "000002" / "state.safetensors").unlink()
    again = register(asked)
    assert [one.kept for one in again.scans] == [True, False]
    kept = tmp_path / "run" / "frames" / "000001" / "mesh.obj"
    assert kept.stat().st_mtime_ns == stamps[kept]
    shutil.rmtree(tmp_path / "run" / "rig", ignore_errors=True)
    assert cli.run(["export", str(tmp_path / "run"), "--to", "glb", "--json"]) == 0
    assert os.path.getsize(tmp_path / "run" / "sequence.glb") > 1e5
