"""The texture stage writes every frame whole, goes on where it stopped, and keeps its colours."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from planted_sphere import photograph, ring_of_cameras, skin_texture, sphere
from topohead.core import Capture, Distortion, Mesh, Rig
from topohead.io.images import read_image
from topohead.io.runs import RunFolder, Stage
from topohead.solvers.colors import solve_colors
from topohead.solvers.fusion import fuse_texture
from topohead.workflows.background import Behind
from topohead.workflows.capture import CaptureConfig
from topohead.workflows.capturing import Head
from topohead.workflows.capturing import texture as stage
from topohead.workflows.capturing.take import Take
from topohead.workflows.capturing.texture import Fusion, OnTheWay

SIZE = 64
STAGES = (Stage("texture", ("textures", "texture_size"), ("frames/*/texture_srgb.png",)),)


@pytest.fixture(scope="module")
def planted() -> tuple[Any, Any, Any]:
    """A take of three frames that get darker, its head, and the views of each frame."""
    topology, vertices = sphere()
    cameras = ring_of_cameras(vertices, [math.radians(a) for a in (-40, 0, 40)])
    cameras = cameras.resized(cameras.sizes // 2)
    views = photograph(cameras, topology, vertices, skin_texture(128))
    gains = {"1": 1.0, "2": 0.9, "3": 0.8}
    by_name = dict(zip(cameras.names, views.images, strict=True))
    capture = Capture(
        Rig(cameras, (Distortion(),) * 3), tuple(gains), lambda f, c: gains[f] * by_name[c]
    )
    still = torch.zeros(52, len(vertices), 3)
    head = Head(Mesh(topology, vertices), still, torch.zeros(52), torch.eye(4))
    shown = {
        f: replace(views, frame=f, images=tuple(g * image for image in views.images))
        for f, g in gains.items()
    }
    return Take(capture, cameras.names, None), head, shown


def run_stage(out: Path, planted: tuple[Any, Any, Any], **options: Any) -> list[dict[str, Any]]:
    """The stage on a run folder; its metrics."""
    take, head, _ = planted
    settings = {"textures": "full", "device": "cpu", "texture_size": SIZE} | options
    config = CaptureConfig(out, out / "run", **settings)
    with RunFolder(config.out, "capture", config, STAGES) as run:
        for frame in take.capture.frames:
            path = run.path / "frames" / frame / "state.safetensors"
            if not path.exists():
                path.parent.mkdir(parents=True)
                save_file({"vertices": head.mesh.vertices.clone()}, path)
        stage(run, take, head, config)
        return [row for row in run.metrics() if row["stage"] == "texture"]


def test_every_frame_has_its_texture_and_an_interrupted_run_goes_on(
    tmp_path: Path, planted: tuple[Any, Any, Any]
) -> None:
    _, head, shown = planted
    assert len(run_stage(tmp_path, planted)) == 3
    files = [tmp_path / "run" / "frames" / f / "texture_srgb.png" for f in shown]
    first = [path.read_bytes() for path in files]
    topology, vertices = head.mesh.topology, head.mesh.vertices
    colors = solve_colors(shown["1"], topology, vertices)
    for path, views in zip(files, shown.values(), strict=True):
        expected = fuse_texture(views, topology, vertices, SIZE, colors=colors)
        assert torch.allclose(read_image(path), expected.srgb, atol=0.51 / 255)
        assert read_image(path.with_name("coverage.png")).shape == (SIZE, SIZE, 3)
    files[1].unlink()
    files[2].unlink()
    (tmp_path / "run" / "stages" / "texture" / "done.json").unlink()
    before = files[0].stat().st_mtime_ns
    run_stage(tmp_path, planted)
    assert files[0].stat().st_mtime_ns == before
    assert [path.read_bytes() for path in files] == first


def test_one_texture_for_the_take(tmp_path: Path, planted: tuple[Any, Any, Any]) -> None:
    run_stage(tmp_path, planted, textures="static")
    frames = tmp_path / "run" / "frames"
    assert [path.parent.name for path in frames.glob("*/texture_srgb.png")] == ["1"]


def test_a_picture_that_cannot_be_read_stops_the_stage_between_whole_files(
    tmp_path: Path, planted: tuple[Any, Any, Any]
) -> None:
    take, head, shown = planted

    def failing(frame: str, camera: str) -> torch.Tensor:
        if frame == "3":
            raise OSError("the disk fell asleep")
        return take.capture.read_image(frame, camera)

    broken = replace(take, capture=replace(take.capture, read_image=failing))
    with pytest.raises(OSError, match="asleep"):
        run_stage(tmp_path, (broken, head, shown))
    frames = tmp_path / "run" / "frames"
    assert sorted(p.parent.name for p in frames.glob("*/texture_srgb.png")) == ["1", "2"]
    assert not list(frames.glob("*/.tmp-*"))


def test_textures_made_while_tracking_are_those_made_afterwards(
    tmp_path: Path, planted: tuple[Any, Any, Any]
) -> None:
    take, head, shown = planted
    run_stage(tmp_path, planted)
    files = [tmp_path / "run" / "frames" / f / "texture_srgb.png" for f in shown]
    afterwards = [path.read_bytes() for path in files]
    for path in files[:2]:
        path.unlink()
    settings: dict[str, Any] = {"textures": "full", "device": "cpu", "texture_size": SIZE}
    config = CaptureConfig(tmp_path, tmp_path / "run", **settings)
    with (
        RunFolder(config.out, "capture", config, STAGES) as run,
        ThreadPoolExecutor(1) as workers,
        Behind() as behind,
    ):
        textures = OnTheWay(Fusion(run, take, head, config, workers), behind)
        for frame in ("1", "2"):  # the reader is ahead, and a run-up has left its pictures
            textures.keep(shown[frame])
        textures.tracked("2", head.mesh.vertices)
        assert not textures.waiting
        textures.keep(shown["3"])
        textures.tracked("3", head.mesh.vertices)
    assert [path.exists() for path in files] == [False, True, True]
    assert [path.read_bytes() for path in files[1:]] == afterwards[1:]
