"""COLMAP itself, where pycolmap is installed, sees through our cameras what we see."""

from pathlib import Path

import numpy as np
import pytest
import torch

from planted_run import (
    ellipsoid_topology,
    performance,
    planted_rig,
    write_planted_run,
    write_planted_take,
)
from topohead.core import Distortion, Rig
from topohead.geometry.cameras import project_through_lens
from topohead.io.calibration import read_rig, write_rig
from topohead.io.images import read_image
from topohead.workflows.export import ExportConfig, export

pycolmap = pytest.importorskip("pycolmap", reason="needs pycolmap")

LENSES = (
    Distortion("brown", (-0.12, 0.04, -0.01, 0.0, 0.001, -0.0008)),
    Distortion("rational", (-0.1, 0.02, 0.0005, -0.0003, 0.004, 0.01, -0.003, 0.001)),
    Distortion("fisheye", (-0.02, 0.005, 0.0, 0.0)),
    Distortion(),
)
TRIANGULATED = 60


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planted run whose cameras have every kind of lens; pictures ignore the lenses."""
    folder = tmp_path_factory.mktemp("colmap")
    truth, topology = performance(2), ellipsoid_topology()
    take = write_planted_take(folder / "take", truth, topology)
    run = write_planted_run(folder, truth, topology, source=str(take))
    for place in (run, take):
        write_rig(Rig(planted_rig().cameras, LENSES), place / "cameras.json")
    return run


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    return export(ExportConfig(run, "cameras", origin="world", pictures=True)).folder


def seen(model: Path, points: np.ndarray) -> dict[str, np.ndarray]:
    """COLMAP's pixels of world points by camera."""
    reconstruction = pycolmap.Reconstruction(model)
    found = {}
    for image in reconstruction.images.values():
        local = image.cam_from_world() * points
        found[Path(image.name).stem] = reconstruction.cameras[image.camera_id].img_from_cam(local)
    return found


def front() -> torch.Tensor:
    topology = ellipsoid_topology()
    return performance(2)[0][topology.regions["face"]]


def test_colmap_projects_through_our_lenses_as_we_do(exported: Path, run: Path) -> None:
    rig = read_rig(run / "cameras.json")
    ours, _ = project_through_lens(rig, front())
    theirs = seen(exported / "colmap" / "sparse" / "0", front().numpy())
    assert sorted(theirs) == sorted(rig.cameras.names)
    for index, name in enumerate(rig.cameras.names):
        assert np.abs(theirs[name] - ours[index].numpy()).max() < 1e-4


def test_undistorted_pictures_belong_to_their_pinholes(exported: Path, run: Path) -> None:
    """COLMAP's pixels in the undistorted picture and ours in the stored one show one colour."""
    rig = read_rig(run / "cameras.json")
    folder = exported / "colmap_undistorted"
    model = pycolmap.Reconstruction(folder / "sparse" / "0")
    assert {camera.model_name for camera in model.cameras.values()} == {"PINHOLE"}
    stored, _ = project_through_lens(rig, front())
    straight = seen(folder / "sparse" / "0", front().numpy())
    take = run.parent / "take" / "frames" / "000001"
    for image in model.images.values():
        name = Path(image.name).stem
        index = rig.cameras.names.index(name)
        assert (folder / "images" / image.name).is_file()
        before = read_image(take / f"{name}.png").numpy()
        after = read_image(folder / "images" / image.name).numpy()
        camera = model.cameras[image.camera_id]
        assert after.shape[:2] == (camera.height, camera.width)

        def colours(picture: np.ndarray, pixels: np.ndarray) -> np.ndarray:
            column, row = np.floor(pixels).astype(int).T
            return picture[row, column]

        here, there = stored[index].numpy(), straight[name]
        inside = np.all((here > 3) & (here < np.array(before.shape[1::-1]) - 3), 1)
        inside &= np.all((there > 3) & (there < np.array(after.shape[1::-1]) - 3), 1)
        assert inside.mean() > 0.5
        difference = np.abs(colours(before, here[inside]) - colours(after, there[inside]))
        assert np.median(difference) < 0.02


def test_splat_trainers_start_from_the_mesh(exported: Path) -> None:
    model = pycolmap.Reconstruction(exported / "colmap_undistorted" / "sparse" / "0")
    found = np.stack([model.points3D[n].xyz for n in sorted(model.points3D)])
    assert np.abs(found - performance(2)[0].numpy()).max() < 1e-6


def test_colmap_triangulates_from_our_cameras(exported: Path, tmp_path: Path, run: Path) -> None:
    """Pixels where our cameras see points of the face come back as these points."""
    points = front()[:: max(1, len(front()) // TRIANGULATED)]
    rig = read_rig(run / "cameras.json")
    pixels, _ = project_through_lens(rig, points)
    model = pycolmap.Reconstruction(exported / "colmap" / "sparse" / "0")
    database = pycolmap.Database.open(tmp_path / "database.db")
    for camera in model.cameras.values():
        database.write_camera(camera, use_camera_id=True)
    for one in model.rigs.values():
        database.write_rig(one, use_rig_id=True)
    for frame in model.frames.values():
        database.write_frame(frame, use_frame_id=True)
    numbers = sorted(model.images)
    for number in numbers:
        image = model.images[number]
        database.write_image(image, use_image_id=True)
        index = rig.cameras.names.index(Path(image.name).stem)
        database.write_keypoints(number, pixels[index].numpy().astype(np.float32))
    every = np.stack([np.arange(len(points))] * 2, 1).astype(np.uint32)
    for k, one in enumerate(numbers):
        for other in numbers[k + 1 :]:
            database.write_matches(one, other, every)
            geometry = pycolmap.TwoViewGeometry()
            geometry.config = pycolmap.TwoViewGeometryConfiguration.CALIBRATED
            geometry.inlier_matches = every
            database.write_two_view_geometry(one, other, geometry)
    database.close()
    out = tmp_path / "out"
    out.mkdir()
    solved = pycolmap.triangulate_points(model, tmp_path / "database.db", tmp_path, out)
    assert solved.num_points3D() > 0.9 * len(points)
    assert solved.compute_mean_reprojection_error() < 0.1
    found = torch.tensor(np.stack([point.xyz for point in solved.points3D.values()]))
    assert torch.cdist(found, points.double()).min(1).values.max() < 1e-4  # metres
