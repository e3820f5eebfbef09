"""Photos that CAP4D tracked: planted points lead to the planted person, and faults to a line."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cap4d_photos import PLAYED, SHIFT, SIZE, shapes, write_photos
from topohead.core import ARKIT_52, InputError
from topohead.geometry.alignment import apply, rigid
from topohead.geometry.avatars import eyeballs, gazed
from topohead.io.cap4d import is_tracked_photos, read_tracked_photos
from topohead.workflows.avatars.fitting import upright_rig
from topohead.workflows.avatars.inputs import Sitting
from topohead.workflows.avatars.photos import tracked_sitting


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def sitting(folder: Path) -> Sitting:
    return tracked_sitting(folder, 60)


def test_heads_are_where_the_planted_points_are(folder: Path, sitting: Sitting) -> None:
    posed = sitting.posed
    assert is_tracked_photos(folder) and len(posed.views) == len(PLAYED)
    face = posed.topology.regions["face"]
    truth = shapes().double() + SHIFT
    for t, vertices in enumerate(posed.vertices.double()):
        back = torch.linalg.inv(read_tracked_photos(folder).poses[t])
        local = vertices @ back[:3, :3].T + back[:3, 3]
        # a larger head farther away is the same picture: distance and size are the prior's
        place = rigid(local[face], truth[t][face], scale=True)
        assert float((place[:3, 3]).norm()) < 0.02
        assert float(torch.det(place[:3, :3]) ** (1 / 3)) == pytest.approx(1, abs=0.03)
        apart = (apply(place, local) - truth[t])[face].norm(dim=1)
        assert float(apart.median()) < 0.002
    jaw, smile = ARKIT_52.index("jawOpen"), ARKIT_52.index("mouthSmileLeft")
    assert float(posed.weights[1, jaw]) == pytest.approx(0.7, abs=0.1)
    assert int(posed.weights[2].argmax()) == smile  # some goes to actions that look alike
    assert float(posed.weights[[0, 2], jaw].max()) < 0.1
    assert float(posed.gaze[0, 0, 0]) == pytest.approx(0.2, abs=1e-5)  # to the left
    # the rig at rest, posed, is the first picture's head but for the eyes, which look to the left
    rest = sitting.rig.neutral + torch.tensordot(posed.weights[0], sitting.rig.blendshapes, 1)
    still = ~posed.topology.region_mask("eyes")
    assert torch.allclose(rest[still], posed.vertices[0][still], atol=1e-5)
    turn = upright_rig(sitting.rig)
    back = posed.upright.double() @ torch.linalg.inv(posed.poses[0].double())
    local = posed.vertices[0].double() @ back[:3, :3].T + back[:3, 3]
    expected = gazed(eyeballs(turn), local[None].float(), posed.gaze[:1])[0]
    eyes = posed.topology.regions["eyes"]
    assert torch.allclose(expected[eyes], local[eyes].float(), atol=1e-5)
    assert float((rest[eyes] - posed.vertices[0][eyes]).norm(dim=1).max()) > 0.001


def test_pictures_are_cut_out_and_their_cameras_moved_with_them(sitting: Sitting) -> None:
    view = sitting.posed.views[1]
    height, width = view.images[0].shape[:2]
    assert height == 60 and view.cameras.size(0) == (width, height)
    lens, pose = view.cameras.intrinsics[0], view.cameras.world_to_camera[0]
    local = sitting.posed.vertices[1].double() @ pose[:3, :3].T + pose[:3, 3]
    pixels = (local @ lens.T)[:, :2] / local[:, 2:]
    assert view.masks is not None
    rows, columns = view.masks[0].gt(0.5).nonzero().unbind(1)
    low, high = pixels.amin(0), pixels.amax(0)
    assert abs(float(low[0] - columns.min())) < 3 and abs(float(high[0] - columns.max())) < 3
    assert abs(float(low[1] - rows.min())) < 3


def changed(folder: Path, target: Path, file: str, **arrays: object) -> Path:
    """A copy of the folder with some arrays replaced."""
    target.mkdir()
    for name in ("fit.npz", "alignment.npz"):
        stored = dict(np.load(folder / name))
        np.savez(target / name, **(stored | (arrays if name == file else {})))  # pyright: ignore
    for name in ("images", "bg"):
        (target / name).symlink_to(folder / name)
    return target


@pytest.mark.parametrize(
    ("file", "arrays", "told"),
    [
        ("fit.npz", {"expr": np.zeros((3, 100))}, "100,\\) wide, expected 65"),
        ("fit.npz", {"extr": 2 * np.eye(4)[None]}, "not rigid"),
        ("fit.npz", {"resolutions": np.array([[SIZE[0], SIZE[1]]])}, "height, width"),
        ("fit.npz", {"camera_order": np.array(["left"])}, "camera 'left' of fit.npz has no folder"),
        ("fit.npz", {"tra": np.full((3, 3), np.nan)}, "NaN"),
        ("fit.npz", {"rot": np.zeros((3, 3))}, "turns by 0° only"),
        ("alignment.npz", {"vertex_coords": np.zeros((1, 2, 5023, 2))}, "vertex_coords is"),
    ],
)
def test_broken_folders_are_told(
    folder: Path, tmp_path: Path, file: str, arrays: dict, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        tracked_sitting(changed(folder, tmp_path / "copy", file, **arrays), 64)


def test_a_missing_picture_is_told(folder: Path, tmp_path: Path) -> None:
    copy = changed(folder, tmp_path / "copy", "none")
    (copy / "images").unlink()
    (copy / "images" / "cam0").mkdir(parents=True)
    (copy / "images" / "cam0" / "0000.png").symlink_to(folder / "images" / "cam0" / "0000.png")
    with pytest.raises(InputError, match=r"has 1 pictures and fit\.npz 3 instants"):
        tracked_sitting(copy, 64)


def test_a_real_folder_is_read(shared_data: Path) -> None:
    photos = read_tracked_photos(shared_data / "portraits" / "felix")
    assert photos.points.shape == (1, 4, 5023, 2) and len(photos.masks[0]) == 4
    assert photos.frames_per_second is None
