"""`evaluate` gives back what was planted into a run, and no more."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from planted_run import (
    ellipsoid,
    ellipsoid_normals,
    ellipsoid_topology,
    performance,
    striped_texture,
    write_planted_run,
    write_planted_take,
    write_planted_truth,
)
from topohead.core import InputError
from topohead.workflows.evaluate import EvaluateConfig, evaluate

FRAMES = 5


def planted(folder: Path, tracked: torch.Tensor, **config: object) -> EvaluateConfig:
    topology = ellipsoid_topology()
    run = write_planted_run(folder, tracked, topology, **config)
    truth = write_planted_truth(folder, performance(FRAMES), topology)
    return EvaluateConfig(run, truth, report=False)


def test_a_perfect_run_has_no_error(tmp_path: Path) -> None:
    found = evaluate(planted(tmp_path, performance(FRAMES))).metrics
    for name in ("surface", "scan_to_mesh", "correspondence", "slide", "vertex_number"):
        assert found[name]["max_mm"] < 1e-4
        assert found[name]["within_0.2_mm"] == 1
    assert found["temporal"]["step_error_mm"] < 1e-4
    assert found["pose"]["rotation_max_degrees"] < 1e-4


def test_an_offset_along_normals_comes_back_exactly(tmp_path: Path) -> None:
    """0.3 mm outward in frames 2…T: seen as surface distance, not as slide."""
    truth = performance(FRAMES)
    tracked = truth.clone()
    tracked[1:] += 0.0003 * ellipsoid_normals(ellipsoid())
    result = evaluate(planted(tmp_path, tracked))
    found = result.metrics
    assert found["first_frame"]["surface"]["max_mm"] < 1e-4
    assert found["vertex_number"]["median_mm"] == pytest.approx(0.3, abs=1e-4)
    assert found["correspondence"]["median_mm"] == pytest.approx(0.3, abs=1e-4)
    # the facets' normals turn from the exact ones by up to 8°, and the mouth moves
    assert found["surface"]["median_mm"] == pytest.approx(0.3, abs=0.004)
    assert found["surface"]["within_0.2_mm"] < 0.02
    assert found["surface"]["within_0.5_mm"] == 1
    assert found["slide"]["median_mm"] < 0.03
    rows = {row["frame"]: row for row in result.frames}
    assert rows["000001"]["surface_median_mm"] < 1e-4
    assert rows["000003"]["surface_median_mm"] == pytest.approx(0.3, abs=0.004)


def test_a_slide_shows_in_correspondence_not_in_surface_distance(tmp_path: Path) -> None:
    """Vertices turned 0.4° about the vertical axis glide over a body of revolution."""
    topology, truth = ellipsoid_topology(), performance(1)
    truth = truth * torch.tensor([1.0, 1.0, 0.075 / 0.095])  # now round seen from above
    angle = torch.deg2rad(torch.tensor(0.4)).double()
    turn = torch.tensor([[angle.cos(), 0, angle.sin()], [0, 1, 0], [-angle.sin(), 0, angle.cos()]])
    tracked = torch.cat([truth, truth @ turn.T])
    run = write_planted_run(tmp_path, tracked, topology)
    path = write_planted_truth(tmp_path, truth.expand(2, -1, -1).clone(), topology)
    found = evaluate(EvaluateConfig(run, path, report=False)).metrics
    face = topology.region_mask("face")
    expected = (tracked[1] - tracked[0])[face].norm(dim=-1) * 1000
    assert found["slide"]["max_mm"] == pytest.approx(float(expected.max()), rel=0.01)
    assert found["correspondence"]["median_mm"] == pytest.approx(float(expected.median()), rel=0.01)
    assert found["surface"]["max_mm"] < 0.1 * found["slide"]["max_mm"]


def test_another_topology_is_measured_through_the_surface(tmp_path: Path) -> None:
    """A coarser mesh on the same head: no vertex numbers, regions by nearest vertex."""
    fine = performance(FRAMES)
    coarse_topology = ellipsoid_topology(12, 16)
    anonymous = type(coarse_topology)(
        coarse_topology.vertex_count, coarse_topology.faces, coarse_topology.uv,
        coarse_topology.face_uv,
    )  # fmt: skip
    run = write_planted_run(tmp_path, performance(FRAMES, 12, 16), anonymous)
    truth = write_planted_truth(tmp_path, fine, ellipsoid_topology())
    found = evaluate(EvaluateConfig(run, truth, report=False)).metrics
    assert "vertex_number" not in found
    assert 0.5 < found["face_vertices"] / int(coarse_topology.region_mask("face").sum()) < 1.5
    # its vertices lie on the ellipsoid; the finer mesh cuts chords of at most 0.5 mm
    assert found["surface"]["max_mm"] < 0.6
    assert set(found["regions"]) == {"face", "lips"}


def test_cost_residuals_and_doubt_are_told_without_truth(tmp_path: Path) -> None:
    run = write_planted_run(tmp_path, performance(FRAMES), ellipsoid_topology())
    result = evaluate(EvaluateConfig(run, report=False))
    assert result.metrics == {} and result.truth is None
    assert result.doubtful == ["000004"]
    assert result.cost["coarse"] == {
        "frames": 5, "seconds": pytest.approx(3.0), "seconds_per_frame": 0.5,
        "first_frame_seconds": 1.0,
    }  # fmt: skip
    assert result.cost["first"]["seconds"] == 4.0
    assert [row["residual"] for row in result.frames] == pytest.approx(
        [0.010, 0.011, 0.012, 0.013, 0.014]
    )
    assert "doubtful frames: 000004" in result.summary()


def test_written_files_hold_the_numbers(tmp_path: Path) -> None:
    config = planted(tmp_path, performance(FRAMES) + 0.0002)
    result = evaluate(config)
    document = json.loads((config.run / "evaluation.json").read_text())
    assert document["metrics"]["surface"] == result.metrics["surface"]
    assert len(document["frames"]) == FRAMES
    arrays = load_file(config.run / "evaluation.safetensors")
    assert arrays["surface_mm"].shape == (FRAMES, result.metrics["face_vertices"])
    text = result.summary()
    assert "to true surface" in text and "lips" in text


def test_truth_beside_the_take_is_found(tmp_path: Path) -> None:
    config = planted(tmp_path, performance(FRAMES), source=str(tmp_path))
    assert evaluate(EvaluateConfig(config.run, report=False)).truth == tmp_path / "truth"


def test_wrong_folders_are_one_clear_line(tmp_path: Path) -> None:
    config = planted(tmp_path, performance(FRAMES))
    with pytest.raises(InputError, match=r"no run folder \(no run\.json\)"):
        evaluate(EvaluateConfig(tmp_path))
    with pytest.raises(InputError, match=r"no mesh\.obj"):
        evaluate(EvaluateConfig(config.run, config.run))
    (tmp_path / "truth" / "frames" / "000001.safetensors").unlink()
    with pytest.raises(InputError, match="first frame 000001"):
        evaluate(config)
    (config.run / "frames" / "000002" / "state.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="damaged"):
        evaluate(config)


def test_left_out_view_and_texture_agree_for_a_perfect_run(tmp_path: Path) -> None:
    """Truth rendered by the take and by the run meet in the left-out camera."""
    truth, topology = performance(2), ellipsoid_topology()
    take = write_planted_take(tmp_path / "take", truth, topology)
    write_planted_truth(take, truth, topology)
    config = {"source": str(take), "holdout": "spare"}
    exact = write_planted_run(tmp_path, truth, topology, **config)
    result = evaluate(EvaluateConfig(exact, report=False))
    assert set(result.left_out_views) == {"spare"}
    assert result.left_out_views["spare"]["psnr_db"] > 45
    assert result.left_out_views["spare"]["ssim"] > 0.99
    assert [row["frame"] for row in result.left_out_views["spare"]["frames"]] == [
        "000001", "000002",
    ]  # fmt: skip
    assert result.texture is not None and result.texture["psnr_db"] > 60
    moved = write_planted_run(tmp_path / "moved", truth + 0.004, topology, **config)
    worse = evaluate(EvaluateConfig(moved, report=False)).left_out_views["spare"]
    assert worse["psnr_db"] < result.left_out_views["spare"]["psnr_db"] - 10


def test_texture_of_another_layout_is_compared_through_the_surface(tmp_path: Path) -> None:
    """The run's UVs are upside down, its picture too: the same skin, so the same colours."""
    truth, topology = performance(1), ellipsoid_topology()
    take = write_planted_take(tmp_path / "take", truth, topology)
    write_planted_truth(take, truth, topology)
    flipped = replace(topology, uv=topology.uv * torch.tensor([1.0, -1.0]) + torch.tensor([0, 1]))
    run = write_planted_run(tmp_path, truth, flipped, source=str(take))
    texture = run / "frames" / "000001" / "texture_srgb.png"
    Image.fromarray(striped_texture()[::-1].copy()).save(texture)
    found = evaluate(EvaluateConfig(run, report=False)).texture
    assert found is not None and found["psnr_db"] > 38
    Image.fromarray(striped_texture()).save(texture)
    wrong = evaluate(EvaluateConfig(run, report=False)).texture
    assert wrong is not None and wrong["psnr_db"] < 25


def test_truth_without_regions_takes_the_runs(tmp_path: Path, monkeypatch) -> None:
    """As for a staged ICT head whose model file is not here."""
    monkeypatch.delenv("TOPOHEAD_ICT", raising=False)
    config = planted(tmp_path, performance(FRAMES) + torch.tensor([0, 0, 0.0002]))
    named = (tmp_path / "truth" / "regions.json").rename(config.run / "regions.json")
    settings = {"settings": {"head": "ict", "ict": "elsewhere.npz"}}
    (tmp_path / "truth" / "truth.json").write_text(json.dumps(settings))
    found = evaluate(config).metrics
    assert found["vertex_number"]["median_mm"] == pytest.approx(0.2, abs=1e-4)
    named.unlink()
    with pytest.raises(InputError, match="names a region 'face'"):
        evaluate(config)


def test_gaze_is_measured_from_the_first_frame(tmp_path: Path) -> None:
    """Eyes that truly begin 0.1 rad to the left, and a run whose left eye is 3° off in pitch."""
    config = planted(tmp_path, performance(FRAMES))
    yaw = torch.linspace(0, 0.3, FRAMES, dtype=torch.float64)
    for index in range(FRAMES):
        gaze = torch.zeros(2, 2, dtype=torch.float64)
        gaze[:, 0] = yaw[index]
        name = f"{index + 1:06d}"
        assert config.truth is not None
        true = config.truth / "frames" / f"{name}.safetensors"
        start = torch.tensor([0.1, 0.0], dtype=torch.float64)
        save_file(load_file(true) | {"gaze": gaze + start}, true)
        state = config.run / "frames" / name / "state.safetensors"
        found = gaze.clone()
        found[0, 1] = math.radians(3) * (index > 0)
        save_file(load_file(state) | {"gaze": found}, state)
    result = evaluate(config)
    row = result.metrics["interiors"]
    assert row["gaze_max_degrees"] == pytest.approx(3, abs=0.02)
    assert row["gaze_p95_degrees"] == pytest.approx(3, abs=0.02)
    assert "gaze: " in result.summary()
    assert "globe_median_mm" not in row
