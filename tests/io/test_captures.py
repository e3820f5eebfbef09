"""Takes in every layout; every fault one line with advice."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_videos import write_video

from random_rig import small_rig
from topohead.core import Cameras, Capture, Distortion, InputError, Rig
from topohead.geometry.cameras import look_at, project, triangulate
from topohead.io.calibration import write_rig
from topohead.io.captures import (
    choose_frames,
    open_capture,
    undistorted_landmarks,
    undistorted_views,
)
from topohead.io.images import write_image
from topohead.io.masks import part_colours
from topohead.io.missing import MissingFrame

FRAMES = ("000001", "000002", "000003")


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
