"""Views of a take are truly pinhole, at any size, and landmarks and masks go with them."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from random_rig import head_points, make_rig, small_rig
from topohead.core import Cameras, Distortion, Rig
from topohead.geometry.cameras import project, project_through_lens
from topohead.io.calibration import write_rig
from topohead.io.captures import (
    open_capture,
    pinhole_cameras,
    seen_by_lens,
    undistorted_landmarks,
    undistorted_views,
)
from topohead.io.images import write_image


def wave(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A smooth picture of the normalised plane, one phase a channel."""
    phase = torch.stack([75 * x + 27 * y, 60 * y - 21 * x, 45 * (x + y)], -1)
    return 0.5 + 0.4 * torch.sin(phase)


def wave_take(root: Path, rig: Rig, oversample: int = 1) -> Path:
    """Pictures of `wave` through each lens, area-sampled, 16 bits."""
    from topohead.geometry.cameras import undistorted_pixels

    for index, name in enumerate(rig.cameras.names):
        width, height = rig.cameras.size(index)
        x, y = torch.meshgrid(
            (torch.arange(oversample * width, dtype=torch.float64) + 0.5) / oversample,
            (torch.arange(oversample * height, dtype=torch.float64) + 0.5) / oversample,
            indexing="xy",
        )
        one = rig.select([name])
        straight = Cameras(
            (name,),
            one.cameras.world_to_camera,
            torch.eye(3, dtype=torch.float64)[None],
            one.cameras.sizes,
        )
        plane = undistorted_pixels(one, torch.stack([x, y], -1).reshape(1, -1, 2), straight)[0]
        fine = wave(*plane.unbind(-1)).nan_to_num(0).reshape(*x.shape, 3)
        image = torch.nn.functional.avg_pool2d(fine.movedim(2, 0)[None], oversample)[0]
        path = root / "frames" / "000001" / f"{name}.png"
        write_image(path, image.movedim(0, 2).float().contiguous(), bits=16)
    write_rig(rig, root / "cameras.json")
    return root


LENSES = (
    Distortion("brown", (-0.15, 0.08, 0.01, -0.005, 0.004, -0.003)),
    Distortion("rational", (-0.1, 0.05, 0.002, -0.001, 0.01, 0.02, 0.01, 0.001)),
    Distortion("fisheye", (0.02, -0.01, 0.003, -0.0005)),
)


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rig = small_rig()
    intrinsics = rig.cameras.intrinsics.clone()
    intrinsics[:, 0, 1] = torch.tensor([0.0, 12.0, -8.0])
    sizes = torch.tensor([[240, 180]]).expand(3, 2)
    cameras = Cameras(
        rig.cameras.names, rig.cameras.world_to_camera, intrinsics, rig.cameras.sizes
    ).resized(sizes)
    return wave_take(tmp_path_factory.mktemp("waves"), Rig(cameras, LENSES))


@pytest.mark.parametrize("height", [None, 150, 90, 52])
def test_views_show_the_pinhole_picture(waves: Path, height: int | None) -> None:
    """Every pixel is the scene at its pinhole ray; a wrong half pixel would fail."""
    capture = open_capture(waves)
    views = undistorted_views(capture, "000001", height=height)
    assert (views.cameras.intrinsics[:, 0, 1] == 0).all()
    for index, seen in enumerate(seen_by_lens(capture, views.cameras)):
        width, tall = views.cameras.size(index)
        assert tall == (height or 180) and views.images[index].shape == (tall, width, 3)
        x, y = torch.meshgrid(torch.arange(width) + 0.5, torch.arange(tall) + 0.5, indexing="xy")
        (fx, _, cx), (_, fy, cy) = views.cameras.intrinsics[index, :2].tolist()
        expected = wave((x - cx) / fx, (y - cy) / fy)
        # away from the picture's border, where a filter sees beyond it
        inner = cv2.erode(seen.numpy(), np.ones((9, 9)), borderValue=0) > 0
        error = (views.images[index] - expected).abs().amax(-1)[torch.from_numpy(inner)]
        # the area average over a target pixel flattens the wave: 2nd order in its size
        flattening = 0.4 * (75 / fx) ** 2 / 24
        assert float(error.max()) < 2e-3 + 3 * flattening
        # half a pixel would be an error of 0.4 · 75 / fx / 2, averaged over the wave
        assert float(error.mean()) < 0.2 * (0.4 * 75 / fx / 2) * 2 / np.pi


def test_projections_land_on_the_same_content(waves: Path) -> None:
    """Stored pixel of a point and pinhole pixel of it show the same colour."""
    capture = open_capture(waves)
    views = undistorted_views(capture, "000001")
    points = head_points(200)
    stored, _ = project_through_lens(capture.rig, points)
    straight, _ = project(views.cameras, points)
    for index, name in enumerate(views.cameras.names):
        raw = capture.read_image("000001", name).numpy()
        a = sample(raw, stored[index])
        b = sample(views.images[index].numpy(), straight[index])
        width, height = views.cameras.size(index)
        inside = (
            (stored[index] > 8) & (stored[index] < torch.tensor([width - 8, height - 8]))
        ).all(1)
        inside &= (
            (straight[index] > 8) & (straight[index] < torch.tensor([width - 8, height - 8]))
        ).all(1)
        assert int(inside.sum()) > 30
        assert np.abs(a - b)[inside.numpy()].max() < 0.01


def sample(image: np.ndarray, pixels: torch.Tensor) -> np.ndarray:
    at = (pixels - 0.5).float().numpy()[None]
    return cv2.remap(image, at[..., 0], at[..., 1], cv2.INTER_CUBIC)[0]


def test_masks_are_zero_where_the_lens_saw_nothing(tmp_path: Path) -> None:
    """A pincushion lens leaves the pinhole picture's corners without any stored pixel."""
    cameras = small_rig(2).cameras.resized(torch.tensor([[160, 120]]).expand(2, 2))
    lens = Distortion("brown", (0.9, 0.0, 0.0, 0.0, 0.0, 0.0))
    write_rig(Rig(cameras, (lens, Distortion())), tmp_path / "cameras.json")
    for name in cameras.names:
        write_image(tmp_path / "frames/000001" / f"{name}.png", torch.full((120, 160, 3), 0.5))
        write_image(tmp_path / "masks/000001" / f"{name}.png", torch.ones(120, 160))
    views = undistorted_views(open_capture(tmp_path), "000001")
    assert views.masks is not None
    bent, plain = views.masks
    assert bent[0, 0] == 0 and bent[60, 80] == 1
    assert plain.min() == 1
    assert views.images[0].min() > 0.49  # filled with the border's colour, not with black


def test_one_factor_for_all_cameras_and_no_enlarging(tmp_path: Path) -> None:
    rig = make_rig(9, seed=4, lenses=(Distortion(),) * 9)
    heights = rig.cameras.sizes[:, 1]
    assert {480, 640} == set(heights.tolist())
    write_rig(rig, tmp_path / "cameras.json")
    for index, name in enumerate(rig.cameras.names):
        width, height = rig.cameras.size(index)
        write_image(tmp_path / "frames/000001" / f"{name}.jpg", torch.ones(height, width, 3))
    capture = open_capture(tmp_path)
    factor = 160 / float(heights.double().quantile(0.5))
    some = pinhole_cameras(capture, ["cam02", "cam00"], height=160)
    expected = (rig.cameras.select(["cam02", "cam00"]).sizes * factor).round().long()
    assert torch.equal(some.sizes, expected)
    views = undistorted_views(capture, "000001", ["cam02", "cam00"], height=160)
    assert views.cameras.names == ("cam02", "cam00")
    assert [i.shape[:2] for i in views.images] == [(h, w) for w, h in expected.tolist()]
    assert torch.equal(pinhole_cameras(capture, height=4000).sizes, rig.cameras.sizes)


def test_landmarks_move_with_the_views(waves: Path, tmp_path: Path) -> None:
    capture = open_capture(waves)
    points = head_points(5)
    stored, _ = project_through_lens(capture.rig, points)
    marks = {
        name: {str(i): stored[c, i].tolist() for i in range(5)}
        for c, name in enumerate(capture.rig.cameras.names)
    }
    (tmp_path / "marks.json").write_text(json.dumps(marks))
    capture = open_capture(waves, landmarks=tmp_path / "marks.json")
    cameras = pinhole_cameras(capture, height=100)
    moved = undistorted_landmarks(capture, "000001", cameras)
    expected, _ = project(cameras, points)
    found = torch.tensor(
        [[moved[name][i] for i in range(5)] for name in cameras.names], dtype=torch.float64
    )
    assert (found - expected).abs().max() < 1e-8
    assert undistorted_landmarks(capture, "000009", cameras) == {}
