"""The stage `detail`: maps of every frame, kept when it runs again, measured by `evaluate`."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from planted_run import (
    ellipsoid,
    ellipsoid_normals,
    ellipsoid_topology,
    performance,
    write_planted_run,
    write_planted_take,
    write_planted_truth,
)
from topohead.core import InputError, Mesh
from topohead.geometry.tessellation import tessellate
from topohead.io.images import read_heights, read_image, write_heights
from topohead.io.runs import RunFolder, Stage, read_metrics
from topohead.rendering.displacement import displacement_map
from topohead.workflows.capture import CaptureConfig, capture
from topohead.workflows.capturing import Head, detail, open_take
from topohead.workflows.evaluate import EvaluateConfig, evaluate

MAPS = ("displacement.exr", "normal.png")


@pytest.fixture
def config(tmp_path: Path) -> CaptureConfig:
    source = write_planted_take(tmp_path / "take", performance(2), ellipsoid_topology())
    return CaptureConfig(
        source,
        tmp_path / "run",
        units="m",
        detail="maps",
        device="cpu",
        detail_size=64,
        textures="none",
    )


def solve(config: CaptureConfig) -> Path:
    """The stage alone, on frames that are tracked already."""
    vertices = performance(2).float()
    head = Head(
        Mesh(ellipsoid_topology(), vertices[0]),
        torch.zeros(0, len(vertices[0]), 3),
        torch.zeros(0),
        torch.eye(4),
    )
    stages = (Stage("detail", ("detail", "detail_size"), tuple(f"frames/*/{m}" for m in MAPS)),)
    with RunFolder(config.out, "capture", config, stages, restart=config.restart) as run:
        for index, shape in enumerate(vertices):
            folder = run.path / "frames" / f"{index + 1:06d}"
            folder.mkdir(parents=True, exist_ok=True)
            save_file({"vertices": shape.contiguous()}, folder / "state.safetensors")
        detail(run, open_take(config), head, config)
    return config.out


def test_every_frame_gets_its_maps_and_keeps_them(config: CaptureConfig) -> None:
    run = solve(config)
    frames = [run / "frames" / name for name in ("000001", "000002")]
    for folder in frames:
        heights = read_heights(folder / "displacement.exr")
        assert heights.shape == (64, 64)
        assert 0 < heights.abs().max() <= 0.002
        normals = read_image(folder / "normal.png")
        assert normals.shape == (64, 64, 3)
        assert normals[..., 2].mean() > 0.8
    before = {folder / name: (folder / name).read_bytes() for folder in frames for name in MAPS}
    # a kill after the second frame's displacement: that frame is solved again, the first is not
    (frames[1] / "normal.png").unlink()
    (run / "stages" / "detail" / "done.json").unlink()
    touched = (frames[0] / "displacement.exr").stat().st_mtime_ns
    solve(config)
    assert {path: path.read_bytes() for path in before} == before
    assert (frames[0] / "displacement.exr").stat().st_mtime_ns == touched
    rows = [row for row in read_metrics(run) if row["stage"] == "detail"]
    assert sorted(row["frame"] for row in rows) == ["000001", "000002"]


def test_another_size_starts_the_stage_over(config: CaptureConfig) -> None:
    solve(config)
    larger = replace(config, detail_size=128)
    with pytest.raises(InputError, match="--restart detail"):
        solve(larger)
    run = solve(replace(larger, restart="detail"))
    assert read_heights(run / "frames" / "000001" / "displacement.exr").shape == (128, 128)


def test_none_makes_none(config: CaptureConfig) -> None:
    run = solve(replace(config, detail="none"))
    assert not list(run.glob("frames/*/displacement.exr"))
    assert (run / "stages" / "detail" / "done.json").exists()


def test_a_size_out_of_range_is_refused(config: CaptureConfig) -> None:
    with pytest.raises(InputError, match="--detail-size"):
        capture(replace(config, detail_size=8))


def test_evaluate_measures_the_displaced_mesh(tmp_path: Path) -> None:
    """Tracked 0.3 mm too deep, and a map that lifts by just that."""
    topology, truth = ellipsoid_topology(), performance(2)
    inside = truth - 3e-4 * ellipsoid_normals(ellipsoid())
    run = write_planted_run(tmp_path, inside, topology)
    write_planted_truth(tmp_path, truth, topology)
    fine = tessellate(topology, 0)
    lifted = displacement_map(fine, torch.full((fine.finer.vertex_count,), 3e-4), 256)
    write_heights(run / "frames" / "000002" / "displacement.exr", lifted)
    write_heights(run / "frames" / "000001" / "displacement.exr", 0 * lifted)
    found = evaluate(EvaluateConfig(run, tmp_path / "truth")).metrics
    assert "true surface to the detail" in (run / "report.html").read_text(encoding="utf-8")
    assert found["scan_to_mesh"]["median_mm"] == pytest.approx(0.3, abs=0.01)
    for name in ("detail_surface", "detail_scan"):
        assert found[name]["median_mm"] < 0.01
        # a map of nothing changes nothing
        assert found["first_frame"][name]["median_mm"] == pytest.approx(0.3, abs=0.01)
