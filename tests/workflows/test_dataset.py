"""`topohead dataset`: resumable, divisible, split by seed, and refused where settings disagree."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from topohead.core import InputError
from topohead.io import synhead100
from topohead.io.meshes import read_mesh
from topohead.workflows import dataset as module
from topohead.workflows.dataset import DatasetConfig, dataset

TINY = {"size": 48, "looks": 2, "texture_size": 64, "device": "cpu"}


def names_of(shard: Path) -> list[str]:
    with tarfile.open(shard) as archive:
        return archive.getnames()


def test_portraits_are_written_once_and_the_rest_later(tmp_path: Path) -> None:
    config = DatasetConfig("portraits", tmp_path / "set", count=5, shard_size=2, **TINY)
    done = dataset(config)
    assert (done.samples, done.files, done.seed) == (5, 3, 0)
    shards = sorted((tmp_path / "set").glob("*.tar"))
    assert [s.name for s in shards] == ["00000000.tar", "00000002.tar", "00000004.tar"]
    assert "00000002.portrait.png" in names_of(shards[1])
    sheet = cv2.imread(str(tmp_path / "set" / "contact.jpg"))
    assert sheet is not None and sheet.shape[0] % 48 == 0
    before = shards[1].read_bytes()
    shards[1].unlink()
    kept = shards[0].stat().st_mtime_ns
    assert "5 portraits of seed 0" in dataset(config).summary()
    assert shards[1].read_bytes() == before
    assert shards[0].stat().st_mtime_ns == kept
    with pytest.raises(InputError, match="begun with --looks 2, not 3"):
        dataset(replace(config, looks=3))


def test_scans_are_divided_among_writers(tmp_path: Path) -> None:
    config = DatasetConfig("scans", tmp_path / "a", count=3, shard_size=1, split="test",
                           points=256, device="cpu")  # fmt: skip
    dataset(config)
    for part in ("0/2", "1/2"):
        dataset(replace(config, out=tmp_path / "b", shard=part))
    whole, parts = (sorted((tmp_path / x).glob("*.tar")) for x in "ab")
    assert [p.read_bytes() for p in whole] == [p.read_bytes() for p in parts]
    with tarfile.open(whole[0]) as archive:
        said = archive.extractfile("00000000.sample.json")
        assert said is not None
        assert json.loads(said.read()) == {"seed": 700, "index": 0}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 700}, "seed 700 is for test, not train"),
        ({"shard": "2/2"}, "expected I/N"),
        ({"count": 0}, "at least 1"),
        ({"kind": "scans", "layout": "synhead100"}, "is for heads, not scans"),
    ],
)
def test_bad_settings_are_told_in_a_line(changed: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        dataset(replace(DatasetConfig("portraits", tmp_path / "set"), **changed))
    assert not (tmp_path / "set").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(InputError, match="holds something else"):
        dataset(DatasetConfig("scans", tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_the_published_layout_goes_there_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("topohead.core.ARKIT_52", ("jawOpen",))
    monkeypatch.setattr("topohead.synthesis.views.RING", ((0.0, 5.0), (90.0, -20.0)))
    monkeypatch.setattr("topohead.synthesis.views.HAIR", (400, 8))
    ring = module._ring
    made = []
    monkeypatch.setattr(module, "_ring", lambda *a: (made.append(a[1]), ring(*a)))
    monkeypatch.setattr(
        "topohead.synthesis.views.HeadViews.ring", _with_open_jaw(made, monkeypatch)
    )
    out = tmp_path / "set"
    config = DatasetConfig("heads", out, count=2, layout="synhead100", shard="1/2", **TINY)
    dataset(config)
    assert made == [1]
    assert not (out / "images" / "dataset_pose.json").exists()
    dataset(replace(config, shard="0/2"))
    dataset(replace(config, shard="0/1"))
    assert made == [1, 0]
    labels = json.loads((out / "images" / "dataset_pose.json").read_text())["labels"]
    faces = dict(json.loads((out / "images" / "total_dataset_exp.json").read_text())["labels"])
    assert len(labels) == 2 * 2 * 2 * 2  # people, bald or not, expressions, views
    for path, numbers in labels:
        picture = cv2.imread(str(out / "images" / path), cv2.IMREAD_UNCHANGED)
        assert picture is not None and picture.shape == (48, 48, 4)
        pose, lens = synhead100.camera_of_label(numbers, 48)
        assert np.isclose(np.linalg.norm(np.linalg.inv(pose)[:3, 3]), 12, atol=0.2)
        mesh = read_mesh(out / "mesh_lms" / "meshes" / f"{_mesh_name(path)}.obj", units="m")
        points = mesh.vertices.double() * synhead100.UNIT
        seen = points @ pose[:3, :3].T + pose[:3, 3]
        pixels = (seen @ lens.T)[:, :2] / seen[:, 2:]
        x, y = pixels[((pixels > 1) & (pixels < 47)).all(1)].long().unbind(1)
        assert len(x) > 2000
        assert (picture[y, x, 3] > 0).mean() > 0.95
        assert sum(faces[path]) == (0.0 if "neutral" in path else 1.0)
    lips = np.loadtxt(out / "mesh_lms" / "lms" / "0000_neutral.txt")
    assert lips.shape == (12, 3)
    assert 0.015 < abs(lips[0, 0] - lips[6, 0]) < 0.04  # corners, in units of 2 m
    assert np.abs(lips[[0, 6], 0]).min() > np.abs(lips[[3, 9], 0]).max()


def _mesh_name(path: str) -> str:
    _, name, expression, _ = path.split("/")
    return f"{name.split('_')[0]}_{expression}"


def _with_open_jaw(made: list, monkeypatch: pytest.MonkeyPatch):
    """`HeadViews.ring` for a face of one action, which stands for all 52."""
    from topohead.synthesis.views import HeadViews

    original = HeadViews.ring

    def ring(self, person: int, face: torch.Tensor, slot: int | None):
        whole = torch.zeros(52)
        whole[17] = face[0]
        return original(self, person, whole, slot)

    return ring
