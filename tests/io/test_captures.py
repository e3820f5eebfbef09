"""Takes in every layout; every fault one line with advice; views that are truly pinhole."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_videos import write_video

from random_rig import head_points, make_rig
from topohead.core import Cameras, Capture, Distortion, InputError, Rig
from topohead.geometry.cameras import look_at, project, project_through_lens, triangulate
from topohead.io.calibration import write_rig
from topohead.io.captures import (
    choose_frames,
    open_capture,
    pinhole_cameras,
    seen_by_lens,
    undistorted_landmarks,
    undistorted_views,
)
from topohead.io.images import write_image
from topohead.io.masks import part_colours
from topohead.io.missing import MissingFrame

FRAMES = ("000001", "000002", "000003")


def small_rig(count: int = 3) -> Rig:
    """640×480 cameras, without the portrait ones of `make_rig`."""
    rig = make_rig(count)
    sizes = torch.tensor([[640, 480]]).expand(count, 2).clone()
    center = torch.tensor([[330.0, 225.0], [300.0, 260.0], [350.0, 250.0]], dtype=torch.float64)
    intrinsics = rig.cameras.intrinsics.clone()
    intrinsics[:, :2, 2] = center[:count]
    return Rig(
        Cameras(rig.cameras.names, rig.cameras.world_to_camera, intrinsics, sizes), rig.distortion
    )


def shade(frame: int, camera: int) -> float:
    return (10 * frame + camera) / 50


@pytest.fixture
def take(pristine: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(pristine, tmp_path / "take"))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cameras, three frames, masks: pictures at a quarter of the calibrated size."""
    root = tmp_path_factory.mktemp("pristine")
    rig = small_rig()
    write_rig(rig, root / "cameras.json")
    for number, frame in enumerate(FRAMES, 1):
        for index, name in enumerate(rig.cameras.names):
            picture = torch.full((120, 160, 3), shade(number, index))
            write_image(root / "frames" / frame / f"{name}.png", picture)
            write_image(root / "masks" / frame / f"{name}.png", torch.ones(120, 160))
    return root


# --- layouts -----------------------------------------------------------------------------------


def check_pictures(capture: Capture) -> None:
    for number, frame in enumerate(capture.frames, 1):
        for index, name in enumerate(capture.rig.cameras.names):
            image = capture.read_image(frame, name)
            assert image.shape == (120, 160, 3)
            assert float(image.mean()) == pytest.approx(shade(number, index), abs=0.03)


def test_ours(take: Path) -> None:
    (take / "start.obj").write_text("v 0 0 0\n")
    capture = open_capture(take)
    assert capture.frames == FRAMES
    assert capture.start_mesh == take / "start.obj"
    assert capture.frames_per_second == 30
    check_pictures(capture)
    assert capture.read_mask is not None and capture.read_mask("000002", "cam01").min() == 1
    expected = small_rig().cameras.resized(torch.tensor([[160, 120]]).expand(3, 2))
    assert torch.equal(capture.rig.cameras.sizes, expected.sizes)
    assert torch.allclose(capture.rig.cameras.intrinsics, expected.intrinsics)
    assert capture.rig.distortion == small_rig().distortion
    write_rig(small_rig(), take / "cameras.json", frames_per_second=60.0)
    assert open_capture(take).frames_per_second == 60


@pytest.mark.parametrize("masks", ["mask/{frame}", "{frame}/mask"])
def test_topo4d(masks: str, take: Path, tmp_path: Path) -> None:
    """cameras.xml, numbered folders beside it, colour masks, face_v5.obj."""
    root = tmp_path / "SEQ"
    write_rig(small_rig(), root / "cameras.xml", "metashape", "cm")
    for frame in FRAMES:
        shutil.copytree(take / "frames" / frame, root / frame)
        for name in small_rig().cameras.names:
            labels = np.zeros((120, 160), int)
            labels[30:90, 40:120], labels[40:44, 50:54] = 1, 4
            path = root / masks.format(frame=frame) / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), part_colours()[labels])
    (root / "face_v5.obj").write_text("v 0 0 0\n")
    with pytest.raises(InputError, match="--units"):
        open_capture(root)
    capture = open_capture(root, units="cm")
    check_pictures(capture)
    assert capture.frames == FRAMES and capture.start_mesh == root / "face_v5.obj"
    assert torch.allclose(capture.rig.cameras.centers, small_rig().cameras.centers)
    assert capture.read_mask is not None
    assert float(capture.read_mask("000003", "cam02").sum()) == 60 * 80


def test_full_size_pictures_of_some_frames(take: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    for index, name in enumerate(small_rig().cameras.names):
        picture = torch.full((480, 640, 3), shade(2, index))
        write_image(full / "000002" / f"{name}.png", picture)
    (take / "landmarks.json").write_text(json.dumps({"000002": {"cam01": {"30": [80, 40]}}}))
    capture = open_capture(take, full=full)
    assert torch.allclose(capture.rig.cameras.intrinsics, small_rig().cameras.intrinsics)
    assert capture.read_image("000002", "cam01").shape == (480, 640, 3)
    assert capture.read_image("000001", "cam01").shape == (120, 160, 3)
    assert capture.landmarks == {"000002": {"cam01": {30: (320.0, 160.0)}}}
    assert capture.read_mask is not None
    assert capture.read_mask("000002", "cam01").shape == (480, 640)
    views = undistorted_views(capture, "000001", height=60)
    assert views.images[0].shape == (60, 80, 3)
    (full / "000002" / "cam01.png").unlink()
    with pytest.raises(InputError, match="no full-size picture of camera 'cam01'"):
        open_capture(take, full=full)


def test_videos(tmp_path: Path) -> None:
    rig = small_rig()
    write_rig(rig, tmp_path / "cameras.json")
    (tmp_path / "videos").mkdir()
    cameras = rig.cameras.resized(torch.tensor([[64, 64]]).expand(3, 2))
    write_rig(Rig(cameras, rig.distortion), tmp_path / "cameras.json")
    for name in rig.cameras.names:
        write_video(tmp_path / "videos" / f"{name}.mp4", 12, rate=50)
    capture = open_capture(tmp_path, frames="3:7")
    assert capture.frames == ("000003", "000004", "000005", "000006", "000007")
    assert capture.frames_per_second == pytest.approx(50)
    assert float(capture.read_image("000005", "cam02").mean()) == pytest.approx(32 / 255, abs=0.01)
    write_video(tmp_path / "videos" / "cam02.mp4", 11, rate=50)
    with pytest.raises(InputError, match=r"differ in length \(cam00 12, cam01 12, cam02 11 frames"):
        open_capture(tmp_path)
    write_video(tmp_path / "videos" / "cam02.mp4", 12, rate=25)
    with pytest.raises(InputError, match="differ in frame rate"):
        open_capture(tmp_path)


@pytest.mark.parametrize("name", ["metashape", "colmap", "nerfstudio", "opencv"])
def test_any_calibration_beside_frames(name: str, take: Path) -> None:
    files = {"metashape": "rig.xml", "colmap": "sparse", "nerfstudio": "transforms.json"}
    rig = Rig(small_rig().cameras, (Distortion("brown", (0.1, 0.0, 0.0, 0.0, 0.0, 0.0)),) * 3)
    (take / "cameras.json").unlink()
    write_rig(rig, take / files.get(name, "rig.yml"), name, "mm")
    capture = open_capture(take, units="mm")
    check_pictures(capture)
    assert torch.allclose(capture.rig.cameras.centers, rig.cameras.centers)
    named = open_capture(take, units="mm", calibration=files.get(name, "rig.yml"))
    assert torch.equal(named.rig.cameras.intrinsics, capture.rig.cameras.intrinsics)


def test_one_instant_and_folders_by_camera(take: Path) -> None:
    frames = take / "frames"
    for name in small_rig().cameras.names:
        (take / "images" / name).mkdir(parents=True)
        for frame in FRAMES:
            shutil.copy(frames / frame / f"{name}.png", take / "images" / name / f"{frame}.png")
    shutil.move(frames, take / "unused")
    capture = open_capture(take)
    assert capture.frames == FRAMES
    check_pictures(capture)
    shutil.rmtree(take / "images")
    shutil.copytree(take / "unused" / "000001", take / "images")
    capture = open_capture(take)
    assert capture.frames == ("000001",)
    check_pictures(capture)


# --- frames and landmarks ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (None, "3 4 5 8"), ("4:", "4 5 8"), (":4", "3 4"), ("4:5", "4 5"), ("3:8:2", "3 5"),
        ("8,3", "3 8"), (["000004"], "4"), ("000005", "5"), ("1:100", "3 4 5 8"),
    ],
)  # fmt: skip
def test_frame_selection(selection: str | list | None, expected: str) -> None:
    available = [f"{n:06d}" for n in (3, 4, 5, 8)]
    assert [str(int(f)) for f in choose_frames(available, selection)] == expected.split()


@pytest.mark.parametrize("selection", ["9:12", "a:b", "7", "1:2:3:4", "5:3", "3:8:-1"])
def test_wrong_frame_selections(selection: str) -> None:
    with pytest.raises(InputError, match=r"frame"):
        choose_frames([f"{n:06d}" for n in (3, 4, 5, 8)], selection)


def test_frames_named_by_words_are_counted_from_one() -> None:
    assert choose_frames(["smile", "frown", "kiss"], "2:3") == ("frown", "kiss")
    assert choose_frames(["smile", "frown", "kiss"], "kiss") == ("kiss",)


def test_landmark_files(take: Path) -> None:
    path = take / "landmarks.json"
    path.write_text(json.dumps({"cam00": {"8": [10, 20.5]}, "cam01": {}}))
    assert open_capture(take).landmarks == {"000001": {"cam00": {8: (10.0, 20.5)}, "cam01": {}}}
    assert open_capture(take, views="cam01,cam02").landmarks == {"000001": {"cam01": {}}}
    for content, message in [
        ("{", "not readable JSON"),
        ('{"cam00": {"70": [1, 2]}}', "index 70; expected iBUG's 0 to 67"),
        ('{"cam00": {"8": [1000, 2]}}', "far outside its 160×120"),
        ('{"cam00": {"8": [1, NaN]}}', "far outside"),
        ('{"cam9": {"8": [1, 2]}}', "name camera 'cam9'"),
        ('{"000001": [1]}', "are not"),
    ]:
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            open_capture(take)


# --- faults ------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def picture(root: Path, frame: str = "000002", camera: str = "cam01") -> Path:
    return root / "frames" / frame / f"{camera}.png"


def remove_camera(root: Path) -> None:
    for frame in FRAMES:
        picture(root, frame).unlink()


def add_camera(root: Path) -> None:
    for frame in FRAMES:
        shutil.copy(picture(root, frame), picture(root, frame, "cam77"))


def rescale_camera(root: Path) -> None:
    for frame in FRAMES:
        write_image(picture(root, frame), torch.ones(240, 320, 3))


def turn_camera(root: Path) -> None:
    for frame in FRAMES:
        write_image(picture(root, frame), torch.ones(160, 120, 3))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (remove_camera, r"'cam01' is calibrated .* no pictures .*--views cam00,cam02"),
        (add_camera, r"'cam77' has pictures .* no calibration .*--views cam00,cam01,cam02"),
        (rescale_camera, r"'cam01': .*cam01\.png is 320×240 but the calibration 640×480.*0\.25"),
        (turn_camera, r"is 120×160 but the calibration 640×480.*looks turned"),
        (lambda r: write_image(picture(r), torch.ones(60, 80, 3)), r"is 80×60 but .* 160×120"),
        (lambda r: picture(r).unlink(), r"frame 000002, camera 'cam01'.*--allow-missing"),
        (lambda r: cut(picture(r)), r"frame 000002, camera 'cam01': .*cut off.*--allow-missing"),
        (lambda r: picture(r).write_bytes(b"x" * 99), r"frame 000002, camera 'cam01'.*cam01\.png"),
        (lambda r: shutil.rmtree(r / "frames"), r"no pictures .*frames/000001/CAM\.png"),
        (lambda r: (r / "cameras.json").unlink(), "no calibration in"),
        (lambda r: write_image(r / "masks/000001/cam01.png", torch.zeros(120, 160)), "is empty"),
        (lambda r: write_image(r / "masks/000001/cam01.png", torch.ones(160, 120)), "same shape"),
        (lambda r: (r / "masks/000003/cam01.png").unlink(), r"no mask of frame 000003"),
        (lambda r: shutil.copy(picture(r), picture(r).with_suffix(".jpg")), "keep one"),
    ],
)
def test_faults_are_one_line_of_advice(
    fault: Callable[[Path], object], message: str, take: Path
) -> None:
    fault(take)
    with pytest.raises(InputError, match=message) as caught:
        open_capture(take)
    assert "\n" not in str(caught.value)


def test_a_wrong_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        open_capture(tmp_path / "nowhere")


def test_views_bear_what_they_leave_out(take: Path) -> None:
    remove_camera(take)
    assert open_capture(take, views="cam02,cam00").rig.cameras.names == ("cam00", "cam02")
    for views, message in [
        ("cam00,nose", "'nose' of --views is not in"),
        ("cam00", "only one view"),
    ]:
        with pytest.raises(InputError, match=message):
            open_capture(take, views=views)
    with pytest.raises(InputError, match="'cam01' of --views has no pictures"):
        open_capture(take, views=["cam00", "cam01"])


def test_few_views_warn(take: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_capture(take)
    assert "3 views" in caplog.text


def test_allowed_to_be_missing(take: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture(take).unlink()
    cut(picture(take, "000003", "cam00"))
    (take / "masks/000001/cam02.png").unlink()
    write_image(take / "masks/000001/cam01.png", torch.zeros(120, 160))
    capture = open_capture(take, allow_missing=True)
    assert "frame 000002 goes without camera cam01" in caplog.text
    with pytest.raises(MissingFrame):
        capture.read_image("000002", "cam01")
    assert undistorted_views(capture, "000002").cameras.names == ("cam00", "cam02")
    assert undistorted_views(capture, "000003").cameras.names == ("cam01", "cam02")
    first = undistorted_views(capture, "000001")
    assert first.cameras.names == ("cam00", "cam02")  # cam01's mask was empty
    assert first.masks is not None and first.masks[1].min() >= 0 and first.masks[1].max() == 1


def test_a_picture_that_breaks_later_is_named(take: Path) -> None:
    capture = open_capture(take)
    cut(picture(take))
    with pytest.raises(InputError, match=r"frame 000002, camera 'cam01': .*cut off"):
        capture.read_image("000002", "cam01")


def test_implausible_distance_names_the_unit_that_fits(take: Path) -> None:
    rig, points = small_rig(), torch.zeros(3, dtype=torch.float64)
    up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    poses = torch.stack([look_at(c, points, up) for c in rig.cameras.centers])
    rig = Rig(
        Cameras(rig.cameras.names, poses, rig.cameras.intrinsics, rig.cameras.sizes),
        rig.distortion,
    )
    (take / "cameras.json").unlink()
    write_rig(rig, take / "cameras.xml", "metashape", "mm")
    open_capture(take, units="mm")
    with pytest.raises(InputError, match=r"cameras stand .* m from .*--units mm would fit"):
        open_capture(take, units="m")


# --- undistorted views -------------------------------------------------------------------------


def wave(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A smooth picture of the normalised plane, one phase a channel."""
    phase = torch.stack([75 * x + 27 * y, 60 * y - 21 * x, 45 * (x + y)], -1)
    return 0.5 + 0.4 * torch.sin(phase)


def wave_take(root: Path, rig: Rig, oversample: int = 2) -> Path:
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


# --- the real take -----------------------------------------------------------------------------


def test_three_camera_take(shared_data: Path) -> None:
    root = shared_data / "captures" / "ipcv-subject-1"
    if not root.is_dir():
        pytest.skip("no three-camera take")
    capture = open_capture(root)
    assert capture.frames == tuple(f"{n:06d}" for n in range(1, 6))
    assert capture.rig.cameras.names == ("left", "middle", "right")
    views = undistorted_views(capture, "000001", height=256)
    assert [tuple(i.shape) for i in views.images] == [(256, 256, 3)] * 3
    assert views.masks is None
    marks = undistorted_landmarks(capture, "000001", views.cameras)
    shared = sorted(set.intersection(*(set(points) for points in marks.values())))
    pixels = torch.tensor(
        [[marks[name][i] for i in shared] for name in views.cameras.names], dtype=torch.float64
    )
    points = triangulate(pixels, views.cameras)
    error = 4 * (project(views.cameras, points)[0] - pixels).norm(dim=-1).amax(0)
    assert float(error.median()) < 0.6 and float(error.max()) < 1.5  # README: 0.4 and 1.2 px
    known = json.loads((root / "landmarks_3d.json").read_text())
    known = known.get("points", known)
    theirs = torch.tensor([known[str(i)] for i in shared if str(i) in known]) * 1e-3
    ours = points[[n for n, i in enumerate(shared) if str(i) in known]]
    assert (ours - theirs).norm(dim=1).max() < 2e-3
    stale = open_capture(root, calibration="cameras_checkerboard_set2.json")
    assert not torch.allclose(stale.rig.cameras.intrinsics, capture.rig.cameras.intrinsics)
