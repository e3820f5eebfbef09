"""`capture --textures` in every setting on one planted take: files, readers, resume."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from planted_run import (
    ellipsoid_topology,
    performance,
    striped_texture,
    write_planted_take,
    write_planted_truth,
)
from topohead.core import ARKIT_52, Mesh
from topohead.io.meshes import write_obj
from topohead.io.results import open_run
from topohead.io.runs import RunFolder
from topohead.io.textures import BASE, WRINKLES, delta_file, picture_file, read_texture
from topohead.workflows import capturing
from topohead.workflows.capture import CaptureConfig, capture
from topohead.workflows.capturing import dynamic
from topohead.workflows.evaluate import EvaluateConfig, evaluate

FRAMES = tuple(f"{t + 1:06d}" for t in range(4))
SIZE = 128


@pytest.fixture(scope="module", autouse=True)
def tracked_by_heart() -> Iterator[None]:
    """Frames are where the take has them; no search, no solver, no report, so seconds."""
    topology, shapes = ellipsoid_topology(), performance(len(FRAMES)).float()
    basis = torch.zeros(52, *shapes[0].shape)
    basis[ARKIT_52.index("jawOpen")] = shapes[1] - shapes[0]

    def first(run: RunFolder, take: capturing.Take, config: CaptureConfig) -> capturing.Head:
        regions = {name: index.tolist() for name, index in topology.regions.items()}
        run.write_json("regions.json", regions)
        return capturing.Head(Mesh(topology, shapes[0]), basis, torch.zeros(52), torch.eye(4))

    def track(run: RunFolder, *_: object) -> None:
        for frame, vertices in zip(FRAMES, shapes, strict=True):
            folder = run.path / "frames" / frame
            write_obj(Mesh(topology, vertices), folder / "mesh.obj")
            save_file({"vertices": vertices.clone()}, folder / "state.safetensors")
            run.append_metrics("track", frame, seconds=0.0, residual=0.0, doubtful=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capturing, "first", first)
        patch.setattr(capturing, "track_frames", track)
        patch.setattr(capturing, "report", lambda run: None)
        yield


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> CaptureConfig:
    """A captured take with a picture a frame."""
    folder = tmp_path_factory.mktemp("dynamic")
    topology, shapes = ellipsoid_topology(), performance(len(FRAMES))
    take = write_planted_take(folder / "take", shapes, topology, flushes())
    write_planted_truth(take, shapes, topology)
    config = CaptureConfig(
        take, folder / "full", no_start=True, keep_cameras=True, units="m", holdout="spare",
        texture_size=SIZE,
    )  # fmt: skip
    capture(config)
    return config


def flushes() -> list[np.ndarray]:
    """The stripes with a spot in the middle of the face that reddens as the jaw opens."""
    stripes = striped_texture(SIZE).astype(float)
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE - 0.5
    spot = np.exp(-(x**2 + y**2) / 0.02)[..., None] * [0.2, -0.5, -0.4]
    opening = np.sin(0.5 * np.arange(len(FRAMES)))
    return [np.rint((stripes * 2 ** (a * spot)).clip(0, 255)).astype(np.uint8) for a in opening]


def again(full: CaptureConfig, out: Path, textures: str) -> CaptureConfig:
    """The same run but for its textures, tracked frames taken over."""
    if not out.exists():
        shutil.copytree(full.out, out)
    return replace(full, out=out, textures=textures, restart="texture")  # pyright: ignore


def texture(run: Path, frame: str) -> np.ndarray:
    found = read_texture(run, frame)
    assert found is not None
    return found.numpy() * 255


@pytest.mark.parametrize("textures", ["full", "delta", "wrinkle", "static", "none"])
def test_every_setting_is_read_by_every_reader(
    full: CaptureConfig, tmp_path: Path, textures: str
) -> None:
    config = again(full, tmp_path / "run", textures)
    capture(config)
    run = open_run(config.out)
    assert run.config["textures"] == textures
    kept = [run.texture(frame) for frame in FRAMES]
    assert (config.out / "sequence.glb").exists()
    found = evaluate(EvaluateConfig(config.out, report=True))
    if textures == "none":
        assert kept == [None] * 4 and read_texture(config.out, FRAMES[0]) is None
        assert found.texture is None and not found.left_out_views
        return
    assert found.texture is not None and found.texture["psnr_db"] > 20
    assert len(found.left_out_views["spare"]["frames"]) == len(FRAMES)
    assert len(set(kept)) == (1 if textures == "static" else 4)
    assert all(stored and stored.picture.exists() for stored in kept)
    own = [config.out / picture_file(frame) for frame in FRAMES]
    assert [path.exists() for path in own] == {
        "full": [True] * 4, "static": [True, False, False, False],
    }.get(textures, [False] * 4)  # fmt: skip
    assert (config.out / BASE).exists() == (textures in ("delta", "wrinkle"))
    for frame in FRAMES:
        assert texture(config.out, frame).shape == (SIZE, SIZE, 3)


def test_deltas_keep_the_pictures(full: CaptureConfig, tmp_path: Path) -> None:
    config = again(full, tmp_path / "run", "delta")
    capture(config)
    for frame in FRAMES:
        off = np.abs(texture(config.out, frame) - texture(full.out, frame))
        # what a frame does not see is the base's, and may differ
        assert np.median(off) <= 2 and (off.max(-1) <= 2.01).mean() > 0.6


def test_wrinkle_maps_come_with_all_that_an_engine_needs(
    full: CaptureConfig, tmp_path: Path
) -> None:
    config = again(full, tmp_path / "run", "wrinkle")
    capture(config)
    document = json.loads((config.out / WRINKLES).read_text())
    maps, drivers = document["maps"], document["drivers"]
    assert 1 <= len(maps) <= 12
    assert all((config.out / "textures" / one["file"]).exists() for one in maps)
    assert tuple(document["frames"]) == FRAMES
    assert len(drivers["names"]) == 55 and len(drivers["matrix"]) == 55
    assert len(drivers["matrix"][0]) == len(drivers["intercept"]) == len(maps)
    fit = document["fit"]
    assert fit["weights_db"] > fit["base_db"] + 8
    strongest = [weights[0] for weights in document["frames"].values()]
    opening = np.sin(0.5 * np.arange(len(FRAMES)))
    assert abs(np.corrcoef(strongest, opening)[0, 1]) > 0.95
    assert not (config.out / dynamic.WORKING).exists()
    assert not list(config.out.glob("frames/*/texture*"))
    # 4 frames are played by at most 4 maps: the pictures themselves come back
    deltas = again(full, tmp_path / "deltas", "delta")
    capture(deltas)
    inside = texture(deltas.out, FRAMES[0]).sum(-1) > 30
    for frame in FRAMES:
        off = np.abs(texture(config.out, frame) - texture(deltas.out, frame))[inside]
        assert np.median(off) < 2


@pytest.mark.parametrize(
    ("textures", "killed_in"),
    [("delta", "write_delta"), ("wrinkle", "write_delta"), ("wrinkle", "write_codes")],
)
def test_goes_on_where_it_was_killed(
    full: CaptureConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    textures: str, killed_in: str,
) -> None:  # fmt: skip
    whole = again(full, tmp_path / "whole", textures)
    capture(whole)
    broken = again(full, tmp_path / "broken", textures)
    with monkeypatch.context() as patch:
        limit = 2 if killed_in == "write_delta" else 0
        patch.setattr(dynamic, killed_in, killed_after(getattr(dynamic, killed_in), limit))
        with pytest.raises(KeyboardInterrupt):
            capture(broken)
    fused: list[str] = []
    original = dynamic.DynamicStore.write_frame
    monkeypatch.setattr(
        dynamic.DynamicStore, "write_frame",
        lambda self, frame, *rest: (fused.append(frame), original(self, frame, *rest))[1],
    )  # fmt: skip
    capture(replace(broken, restart=None))
    assert fused == (list(FRAMES[2:]) if killed_in == "write_delta" else [])
    names = [BASE, WRINKLES, *map(delta_file, FRAMES)]
    names += [f"textures/wrinkle_{k:02d}.png" for k in range(1, 5)]
    present = [name for name in names if (whole.out / name).exists()]
    assert len(present) > 2
    for name in present:
        assert (broken.out / name).read_bytes() == (whole.out / name).read_bytes(), name


def killed_after(function: Callable, count: int) -> Callable:
    calls = 0

    def counted(*arguments):
        nonlocal calls
        calls += 1
        if calls > count:
            raise KeyboardInterrupt
        return function(*arguments)

    return counted


def test_large_textures_are_deltas_by_default(
    full: CaptureConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_run(full.out).config["textures"] == "full"
    monkeypatch.setattr("topohead.workflows.capture.LARGEST_FULL", 64)
    out = Path(shutil.copytree(full.out, tmp_path / "run"))
    capture(replace(full, out=out, restart="texture"))
    assert open_run(out).config["textures"] == "delta"
    assert all((out / delta_file(frame)).exists() for frame in FRAMES)
