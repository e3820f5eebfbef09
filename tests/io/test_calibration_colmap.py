"""COLMAP's models, text and binary: lenses by hand, one pose a camera, rigs, faults."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from random_rig import POINTS, lenses_for, make_rig, pixels
from topohead.core import Distortion, InputError, Rig
from topohead.geometry.cameras import project_through_lens
from topohead.io.calibration import read_rig
from topohead.io.calibration.colmap import write_colmap


@pytest.mark.parametrize("binary", [False, True])
def test_colmap_binary_and_text(binary: bool, tmp_path: Path) -> None:
    rig = make_rig(8, lenses=lenses_for("colmap", 8))
    write_colmap(rig, tmp_path / "sparse" / "0", binary)
    assert (pixels(read_rig(tmp_path, "m")) - pixels(rig)).abs().max() < 1e-6


def colmap_text(folder: Path, cameras: str, images: str, rigs: str | None = None) -> Path:
    (folder / "cameras.txt").write_text("# list\n" + cameras)
    (folder / "images.txt").write_text("# list\n" + images)
    if rigs is not None:
        (folder / "rigs.txt").write_text(rigs)
    return folder


def test_colmap_lens_models_by_hand(tmp_path: Path) -> None:
    cameras = (
        "1 SIMPLE_PINHOLE 640 480 700 310 250\n2 PINHOLE 640 480 700 710 310 250\n"
        "3 SIMPLE_RADIAL 640 480 700 310 250 -0.1\n4 RADIAL 640 480 700 310 250 -0.1 0.05\n"
    )
    # a half turn about y: quaternion 0 0 1 0, so that (x, y, z) → (−x, y, −z), then 2 forward
    images = "".join(
        f"{n} 0 0 1 0 0.1 0.2 2 {n} c{n}.jpg\n{'' if n % 2 else '10 20 -1 3 4 7'}\n"
        for n in (1, 2, 3, 4)
    )
    rig = read_rig(colmap_text(tmp_path, cameras, images), "m")
    point = torch.tensor([[0.3, -0.1, 0.5]], dtype=torch.float64)
    x, y = (-0.3 + 0.1) / 1.5, (-0.1 + 0.2) / 1.5
    r2 = x * x + y * y
    for index, (fy, radial) in enumerate(
        [(700, 1), (710, 1), (700, 1 - 0.1 * r2), (700, 1 - 0.1 * r2 + 0.05 * r2**2)]
    ):
        found = project_through_lens(rig, point)[0][index, 0]
        assert found.tolist() == pytest.approx([310 + 700 * x * radial, 250 + fy * y * radial])


CAMERAS_2 = "1 PINHOLE 640 480 700 700 320 240\n2 PINHOLE 640 480 700 700 320 240\n"


@pytest.mark.parametrize(
    "names",
    [("1/a.jpg", "1/b.jpg", "2/a.jpg", "2/b.jpg"), ("a/1.jpg", "b/1.jpg", "a/2.jpg", "b/2.jpg")],
)
def test_colmap_one_pose_a_camera(names: tuple, tmp_path: Path) -> None:
    """Instants of a fixed rig: folders are frames or cameras, whichever agrees with the poses."""
    images = "".join(
        f"{n} 1 0 0 0 {n % 2} 0 0 {2 - n % 2} {name}\n\n" for n, name in enumerate(names, 1)
    )
    rig = read_rig(colmap_text(tmp_path, CAMERAS_2, images), "m")
    assert rig.cameras.names == ("a", "b")
    assert rig.cameras.world_to_camera[:, 0, 3].tolist() == [1, 0]


def test_colmap_moving_rig_needs_its_rig_poses(tmp_path: Path) -> None:
    images = (
        "1 1 0 0 0 0 0 0 1 a/1.jpg\n\n2 1 0 0 0 0.2 0 0 2 b/1.jpg\n\n"
        "3 1 0 0 0 0 0 1 1 a/2.jpg\n\n4 1 0 0 0 0.2 0 1 2 b/2.jpg\n\n"
    )
    with pytest.raises(InputError, match="several poses"):
        read_rig(colmap_text(tmp_path, CAMERAS_2, images), "m")
    rigs = "# list\n1 2 CAMERA 1 CAMERA 2 1 1 0 0 0 0.2 0 0\n"
    rig = read_rig(colmap_text(tmp_path, CAMERAS_2, images, rigs), "m")
    assert rig.cameras.names == ("a", "b")
    assert rig.cameras.world_to_camera[1, :3, 3].tolist() == [0.2, 0, 0]
    two = rigs + "2 1 CAMERA 3\n"
    with pytest.raises(InputError, match="several poses"):
        read_rig(colmap_text(tmp_path, CAMERAS_2, images, two), "m")


def test_colmap_unknown_lens(tmp_path: Path) -> None:
    folder = colmap_text(
        tmp_path, "1 FOV 640 480 700 700 320 240 0.9\n", "1 1 0 0 0 0 0 0 1 a.jpg\n\n"
    )
    with pytest.raises(InputError, match="lens model FOV; supported: SIMPLE_PINHOLE"):
        read_rig(folder, "m")


def test_truncated_colmap_binary(tmp_path: Path) -> None:
    write_colmap(make_rig(3, lenses=(Distortion(),) * 3), tmp_path, binary=True)
    images = tmp_path / "images.bin"
    images.write_bytes(images.read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        read_rig(tmp_path, "m")


@pytest.mark.parametrize("binary", [False, True])
def test_models_that_pycolmap_writes(binary: bool, tmp_path: Path) -> None:
    """A rig of three cameras at two instants, by COLMAP's own writer and projection."""
    pycolmap = pytest.importorskip("pycolmap")
    lenses = lenses_for("colmap", 3)
    rig = make_rig(3, lenses=lenses)
    model, colmap_cameras = colmap_reconstruction(pycolmap, rig)
    (model.write_binary if binary else model.write_text)(str(tmp_path))
    again = read_rig(tmp_path, "m")
    relative = again.cameras.world_to_camera @ torch.linalg.inv(again.cameras.world_to_camera[0])
    expected = rig.cameras.world_to_camera @ torch.linalg.inv(rig.cameras.world_to_camera[0])
    assert torch.allclose(relative, expected, atol=1e-9)
    local = POINTS @ again.cameras.world_to_camera[:, :3, :3].transpose(1, 2)
    local = local + again.cameras.world_to_camera[:, None, :3, 3]
    # seen from its own rig frame a point may be behind; take points in front of each camera
    for index, camera in enumerate(colmap_cameras):
        ahead = local[index] + torch.tensor([0, 0, 2.0])
        theirs = np.stack([camera.img_from_cam(p) for p in ahead.numpy()])
        alone = replace(
            again.cameras.select([again.cameras.names[index]]),
            world_to_camera=torch.eye(4, dtype=torch.float64)[None],
        )
        ours = project_through_lens(Rig(alone, (again.distortion[index],)), ahead)[0][0]
        assert np.abs(ours.numpy() - theirs).max() < 1e-6


def colmap_reconstruction(pycolmap, rig: Rig):
    """The rig at two places in COLMAP's world, which differ by a move of the whole rig."""
    models = {"none": "PINHOLE", "rational": "FULL_OPENCV", "brown": "FULL_OPENCV"}
    model, cameras = pycolmap.Reconstruction(), []
    colmap_rig = pycolmap.Rig(rig_id=1)
    to_first = rig.cameras.world_to_camera @ torch.linalg.inv(rig.cameras.world_to_camera[0])
    for index, lens in enumerate(rig.distortion):
        (fx, _, cx), (_, fy, cy) = rig.cameras.intrinsics[index, :2].tolist()
        numbers = [fx, fy, cx, cy, *lens.coefficients]
        if lens.model == "brown":
            k1, k2, k3, _, p1, p2 = lens.coefficients
            numbers = [fx, fy, cx, cy, k1, k2, p1, p2, k3, 0, 0, 0]
        width, height = rig.cameras.size(index)
        camera = pycolmap.Camera(
            camera_id=index + 1,
            model=models[lens.model],
            width=width,
            height=height,
            params=numbers,
        )
        model.add_camera(camera)
        cameras.append(camera)
        pose = pycolmap.Rigid3d(to_first[index, :3].numpy())
        if index == 0:
            colmap_rig.add_ref_sensor(camera.sensor_id)
        else:
            colmap_rig.add_sensor(camera.sensor_id, pose)
    model.add_rig(colmap_rig)
    for number in (1, 2):
        move = np.eye(4)[:3]
        move[:, 3] = [0.1 * number, 0.2, -0.3 * number]
        frame = pycolmap.Frame(frame_id=number, rig_id=1)
        frame.rig_from_world = pycolmap.Rigid3d(move)
        images = [
            pycolmap.Image(
                image_id=10 * number + c.camera_id,
                name=f"{rig.cameras.names[c.camera_id - 1]}/{number}.jpg",
                camera_id=c.camera_id,
            )
            for c in cameras
        ]
        for image in images:
            frame.add_data_id(image.data_id)
            image.frame_id = number
        model.add_frame(frame)
        for image in images:
            model.add_image(image)
        model.register_frame(number)
    return model, cameras
