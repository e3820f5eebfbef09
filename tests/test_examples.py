"""The numbered programs run, on a take as small as tracking allows."""

import contextlib
import io
import runpy
import sys
from pathlib import Path

import pytest

from topohead.io.expressions import read_live_link
from topohead.io.meshes import read_mesh
from topohead.workflows.stage import StageConfig, stage

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name: str, *words: object) -> str:
    """What a program prints; in this process, since imports take longer than the small take."""
    told = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(told):
        patch.setattr(sys, "argv", [name, *map(str, words)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return told.getvalue()


@pytest.fixture(scope="module")
def take(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("examples") / "take"
    stage(
        StageConfig(
            out, preset="tiny", cameras=4, frames=2, width=160, height=120, seed=12,
            supersampling=1, texture_size=256, turned=0.0,
        )
    )  # fmt: skip
    return out


@pytest.mark.slow
def test_rig_is_told_captured_and_read(take: Path) -> None:
    run = take.parent / "run"
    told = run_example("02_capture_your_rig.py", take, run)
    assert "2 frames, 4 cameras" in told and "focal" in told
    opened = run_example("03_read_a_run.py", run)
    assert opened.count("mm apart") == 2
    assert len(read_live_link(run / "expression.csv")) == 2
    rigged = run_example("05_rig.py", run, take.parent / "wink.obj")
    assert "true weights" in rigged and rigged.count("up to") == 5
    assert read_mesh(take.parent / "wink.obj").topology.vertex_count > 4000
    told = run_example("06_export.py", run, take.parent / "export")
    assert told.count("2 frames in") == 3 and "differ by 0.0" in told


def test_calibration_is_converted(take: Path) -> None:
    target = take.parent / "copy.json"
    assert "4 cameras" in run_example("04_convert_a_calibration.py", take / "cameras.json", target)
    assert target.exists()


@pytest.mark.slow
def test_stage_and_capture(tmp_path: Path) -> None:
    assert "to true surface" in run_example("01_stage_and_capture.py", tmp_path)


@pytest.mark.slow
def test_a_scan_is_made_and_registered(tmp_path: Path) -> None:
    told = run_example("07_register_a_scan.py", tmp_path, 256, tmp_path / "proof.jpg")
    assert "face, same vertex: median 0." in told and (tmp_path / "proof.jpg").exists()
