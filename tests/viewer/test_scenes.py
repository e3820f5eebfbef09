"""What is found at a path, and how it is described to the page."""

from pathlib import Path

import numpy as np
import pytest
import torch
from shown_things import RATE, write_shown_rig, write_shown_run, write_shown_splats

from topohead.core import ARKIT_52, InputError
from topohead.viewer.scenes import open_scene
from topohead.viewer.sequences import turned_up


def test_kinds_of_files(tmp_path: Path) -> None:
    rig = open_scene(write_shown_rig(tmp_path / "a.glb")).document["subjects"][0]
    assert rig["kind"] == "model" and rig["actions"] == list(ARKIT_52)
    splats = write_shown_splats(tmp_path / "b.ply")
    document = open_scene(splats).document["subjects"][0]
    assert document["kind"] == "splats" and document["upright"][5] == -1  # y down until turned
    assert open_scene(splats, "z").document["subjects"][0]["upright"][6] == 1
    for path, said in ((tmp_path / "none.obj", "nothing at"), (tmp_path, "no run folder")):
        with pytest.raises(InputError, match=said):
            open_scene(path)
    (tmp_path / "points.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
        "property float z\nend_header\n0 0 0\n"
    )
    with pytest.raises(InputError, match="no faces"):
        open_scene(tmp_path / "points.ply")


def test_a_run_shows_its_rig(tmp_path: Path) -> None:
    run = write_shown_run(tmp_path)
    write_shown_rig(run / "rig" / "rig.glb")
    kinds = [s["kind"] for s in open_scene(run).document["subjects"]]
    assert kinds == ["sequence", "model"]


@pytest.mark.parametrize("axis", ["x", "y", "z", "-x", "-y", "-z"])
def test_up_becomes_y(axis: str) -> None:
    matrix = turned_up(axis)[:3, :3]
    up = torch.zeros(3, dtype=torch.float64)
    up["xyz".index(axis[-1])] = -1.0 if axis.startswith("-") else 1.0
    assert torch.equal(matrix @ up, torch.tensor([0.0, 1.0, 0.0]).double())
    assert torch.allclose(matrix @ matrix.T, torch.eye(3).double())
    assert torch.det(matrix) == 1


def test_offline_keeps_times_and_ends(tmp_path: Path) -> None:
    whole = open_scene(write_shown_run(tmp_path)).subjects[0]
    few = whole.reduced(4)
    document = few.document
    assert document["frames"] == ["000001", "000004", "000008", "000011"]
    assert np.allclose(document["times"], np.array([0, 3, 7, 10]) / RATE)
    assert document["doubtful"] == [1]
    assert all(few.body(name.split("/")) is not None for name in few.names())
    errors = few.body(["errors", "surface", "0"])
    assert errors is not None
    values = np.frombuffer(errors.read(), np.uint16).reshape(4, -1)
    assert values[:, 1].tolist() == [0, 300, 700, 1000]
