"""`--solver published` with its own textures, on a planted take small enough for the CPU."""

from functools import partial
from pathlib import Path

import pytest

from planted_run import ellipsoid_topology, performance, write_planted_take
from topohead.core import Mesh
from topohead.io.images import read_image
from topohead.io.meshes import write_obj
from topohead.solvers import published, published_texture
from topohead.workflows import capturing
from topohead.workflows.capture import CaptureConfig, capture

FRAMES = ("000001", "000002")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        published,
        "PublishedConfig",
        partial(published.PublishedConfig, first_steps=20, steps=5, color_steps=2),
    )
    monkeypatch.setattr(
        published_texture,
        "PublishedTextureConfig",
        partial(published_texture.PublishedTextureConfig, gaussians=4000, steps=8),
    )
    monkeypatch.setattr(capturing.published_texture, "is_wanted", lambda config: True)


@pytest.mark.slow
def test_dense_textures_resume_where_they_stopped(tmp_path: Path) -> None:
    topology = ellipsoid_topology()
    shapes = performance(2)
    take = write_planted_take(tmp_path / "take", shapes, topology)
    write_obj(Mesh(topology, shapes[0].float()), take / "start.obj")
    config = CaptureConfig(
        take, tmp_path / "run", keep_start=True, keep_cameras=True, solver="published",
        texture_size=128, units="m",
    )  # fmt: skip
    capture(config)
    pictures = [tmp_path / "run" / "frames" / f / "texture_srgb.png" for f in FRAMES]
    made = [path.read_bytes() for path in pictures]
    texture = read_image(pictures[0])
    assert texture.std() > 0.05, "the stripes are there"
    assert not list((tmp_path / "run").glob("frames/*/published_colors.safetensors"))

    # the same again, killed after the first frame's texture
    stopped = tmp_path / "stopped"
    killed = partial(_killed_after, count=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published_texture, "fit_colors", killed(published_texture.fit_colors))
        with pytest.raises(KeyboardInterrupt):
            capture(CaptureConfig(**{**vars(config), "out": stopped}))
    assert (stopped / "frames" / FRAMES[0] / "texture_srgb.png").exists()
    assert not (stopped / "frames" / FRAMES[1] / "texture_srgb.png").exists()
    capture(CaptureConfig(**{**vars(config), "out": stopped}))
    assert [(stopped / "frames" / f / "texture_srgb.png").read_bytes() for f in FRAMES] == made


def _killed_after(function, count: int):
    calls = 0

    def counted(*arguments):
        nonlocal calls
        calls += 1
        if calls > count:
            raise KeyboardInterrupt
        return function(*arguments)

    return counted
