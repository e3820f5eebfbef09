"""OpenCV's files, compared with OpenCV."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from random_rig import POINTS
from topohead.core import InputError
from topohead.geometry.cameras import project_through_lens
from topohead.io.calibration import read_rig


def stereo_storage(path: Path, parts: str = "intrinsics extrinsics") -> dict:
    """A stereo pair as OpenCV's samples save it; board in millimetres."""
    values = {
        "M1": np.array([[800, 0, 310.2], [0, 805, 244.1], [0, 0, 1.0]]),
        "D1": np.array([[-0.2, 0.1, 0.002, -0.003, 0.05]]),
        "M2": np.array([[820, 0, 325.7], [0, 822, 236.4], [0, 0, 1.0]]),
        "D2": np.array([[-0.18, 0.09, 0.001, 0.004, -0.02]]),
        "R": cv2.Rodrigues(np.array([0.02, -0.3, 0.01]))[0],
        "T": np.array([[-120.0], [3.0], [14.0]]),
    }
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    for name, value in values.items():
        if ("intrinsics" in parts) == (name[-1] in "12") or parts == "intrinsics extrinsics":
            storage.write(name, value)
    if "intrinsics" in parts:
        storage.write("image_width", 640)
        storage.write("image_height", 480)
    storage.release()
    return values


@pytest.mark.parametrize("split", [False, True])
def test_opencv_stereo_against_opencv(split: bool, tmp_path: Path) -> None:
    if split:
        values = stereo_storage(tmp_path / "intrinsics.yml", "intrinsics")
        stereo_storage(tmp_path / "extrinsics.yml", "extrinsics")
    else:
        values = stereo_storage(tmp_path / "stereo.yml")
    for path in (tmp_path, sorted(tmp_path.iterdir())[0]):
        rig = read_rig(path, "mm")
        assert rig.cameras.names == ("left", "right")
        points = POINTS * 0.5 + torch.tensor([0, 0, 0.8], dtype=torch.float64)
        found = project_through_lens(rig, points)[0].numpy()
        for index, (rotation, translation) in enumerate(
            [(np.zeros(3), np.zeros(3)), (cv2.Rodrigues(values["R"])[0], values["T"])]
        ):
            theirs = cv2.projectPoints(
                1e3 * points.numpy(), rotation, translation,
                values[f"M{index + 1}"], values[f"D{index + 1}"],
            )[0][:, 0]  # fmt: skip
            assert np.abs(found[index] - theirs - 0.5).max() < 1e-8


def test_half_a_stereo_pair(tmp_path: Path) -> None:
    stereo_storage(tmp_path / "intrinsics.yml", "intrinsics")
    with pytest.raises(InputError, match="half a stereo calibration"):
        read_rig(tmp_path / "intrinsics.yml", "mm")


def test_opencv_one_file_a_camera_with_rodrigues(tmp_path: Path) -> None:
    for number, name in enumerate(("west", "east")):
        storage = cv2.FileStorage(str(tmp_path / f"{name}.yml"), cv2.FILE_STORAGE_WRITE)
        storage.write("camera_matrix", np.array([[800, 0, 319.5], [0, 800, 239.5], [0, 0, 1.0]]))
        storage.write("distortion_coefficients", np.zeros((1, 5)))
        storage.write("image_width", 640)
        storage.write("image_height", 480)
        storage.write("rvec", np.array([[0.0], [0.1 * number], [0.0]]))
        storage.write("tvec", np.array([[0.0], [0.0], [0.5]]))
        storage.release()
    rig = read_rig(tmp_path, "m")
    assert rig.cameras.names == ("east", "west")
    assert rig.cameras.intrinsics[0, :2, 2].tolist() == [320, 240]
    assert np.allclose(rig.cameras.world_to_camera[0, 0, 2], np.sin(0.1))


def test_opencv_faults(tmp_path: Path) -> None:
    (tmp_path / "bad.yml").write_text("hello: [")
    with pytest.raises(InputError, match="OpenCV storage"):
        read_rig(tmp_path / "bad.yml", "m")
