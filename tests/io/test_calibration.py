"""Every calibration format: round trips, and each format's own formula written out by hand."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from random_rig import head_points, make_rig
from topohead.core import Distortion, InputError, Rig
from topohead.geometry.cameras import project_through_lens, turned
from topohead.io.calibration import find_calibration, format_of, read_rig, write_rig
from topohead.io.calibration.colmap import write_colmap
from topohead.io.calibration.metashape import write_metashape

POINTS = head_points()
FILES = {
    "ours": "cameras.json",
    "metashape": "cameras.xml",
    "colmap": "sparse/0",
    "nerfstudio": "transforms.json",
    "opencv": "cameras.yml",
}


def pixels(rig: Rig) -> torch.Tensor:
    return project_through_lens(rig, POINTS)[0]


def brown(*numbers: float) -> Distortion:
    return Distortion("brown", tuple(float(n) for n in numbers))


def lenses_for(name: str, count: int = 12) -> tuple[Distortion, ...]:
    """Lenses that a format can hold, mixed."""
    random = torch.Generator().manual_seed(5)

    def draw(size: int, scale: float) -> list[float]:
        return (torch.randn(size, generator=random, dtype=torch.float64) * scale).tolist()

    lenses = []
    for index in range(count):
        k, p, above = draw(4, 0.05), draw(2, 0.003), draw(3, 0.02)
        k[3] = k[3] if name in ("ours", "metashape", "nerfstudio") else 0.0
        kinds = [brown(*k, *p), Distortion()]
        if name in ("ours", "colmap", "opencv"):
            kinds.append(Distortion("rational", (k[0], k[1], *p, k[2], *above)))
            kinds.append(Distortion("fisheye", tuple(draw(4, 0.01))))
        if name == "colmap":
            kinds.append(brown(k[0], k[1], 0, 0, *p))
        lenses.append(kinds[index % len(kinds)])
    return tuple(lenses)


# --- round trips -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("units", ["m", "mm"])
def test_round_trip(name: str, units: str, tmp_path: Path) -> None:
    skew = 2.0 if name in ("ours", "metashape", "opencv") else 0.0
    rig = make_rig(12, skew=skew, lenses=lenses_for(name))
    write_rig(rig, tmp_path / FILES[name], name, units)
    for path in (tmp_path / FILES[name], tmp_path):
        again = read_rig(path, units)
        assert again.cameras.names == rig.cameras.names
        assert torch.equal(again.cameras.sizes, rig.cameras.sizes)
        assert (pixels(again) - pixels(rig)).abs().max() < 1e-6
        assert (again.cameras.centers - rig.cameras.centers).abs().max() < 1e-9


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("turns", [-1, 1])
def test_turned_rigs_survive_every_format(name: str, turns: int, tmp_path: Path) -> None:
    rig = turned(make_rig(6, lenses=lenses_for(name, 6)), turns)
    write_rig(rig, tmp_path / FILES[name], name)
    assert (pixels(read_rig(tmp_path, "m")) - pixels(rig)).abs().max() < 1e-6


def test_all_formats_tell_the_same(tmp_path: Path) -> None:
    rig = make_rig(5, lenses=tuple(brown(-0.1, 0.05, 0.01, 0, 0.002, 0.001) for _ in range(5)))
    for name, file in FILES.items():
        write_rig(rig, tmp_path / name / file, name)
        assert (pixels(read_rig(tmp_path / name, "m")) - pixels(rig)).abs().max() < 1e-6


@pytest.mark.parametrize("name", [name for name in FILES if name != "ours"])
def test_formats_without_unit_ask_for_it(name: str, tmp_path: Path) -> None:
    rig = make_rig(3, lenses=(Distortion(),) * 3)
    write_rig(rig, tmp_path / FILES[name], name)
    with pytest.raises(InputError, match="--units"):
        read_rig(tmp_path)
    assert torch.allclose(
        read_rig(tmp_path, "cm").cameras.centers, rig.cameras.centers * 0.01, atol=1e-12
    )
    assert torch.allclose(
        read_rig(tmp_path, "0.25").cameras.centers, rig.cameras.centers * 0.25, atol=1e-12
    )
    with pytest.raises(InputError, match="expected mm, cm, m"):
        read_rig(tmp_path, "inch")


@pytest.mark.parametrize(
    ("name", "lens", "skew", "message"),
    [
        ("metashape", Distortion("fisheye", (0.1, 0.0, 0.0, 0.0)), 0.0, "no 'fisheye' lens"),
        ("colmap", brown(0.1, 0, 0, 0.1, 0, 0), 0.0, "no place for k4"),
        ("colmap", Distortion(), 1.0, "no place for skew"),
        ("nerfstudio", Distortion(), 1.0, "no place for skew"),
        ("opencv", brown(0.1, 0, 0, 0.1, 0, 0), 0.0, "no place for k4"),
    ],
)
def test_writers_refuse_what_does_not_fit(
    name: str, lens: Distortion, skew: float, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        write_rig(make_rig(2, skew=skew, lenses=(lens, lens)), tmp_path / FILES[name], name)


# --- ours --------------------------------------------------------------------------------------


def edit(path: Path, change: Callable[[dict], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_shared_lens_names_and_integer_centres(tmp_path: Path) -> None:
    """The variant with one list of coefficient names, in any order, for all cameras."""
    rig = make_rig(3, lenses=tuple(brown(-0.2, 0.1, 0.03, 0, 0.004, 0.005) for _ in range(3)))
    path = tmp_path / "cameras.json"
    write_rig(rig, path)

    def to_variant(document: dict) -> None:
        document["distortion_model"] = ["k1", "k2", "p1", "p2", "k3"]
        document["pixel_centers"] = "integer"
        for camera in document["cameras"].values():
            del camera["distortion_model"]
            camera["distortion"] = [-0.2, 0.1, 0.004, 0.005, 0.03]
            camera["intrinsics"][0][2] -= 0.5
            camera["intrinsics"][1][2] -= 0.5

    edit(path, to_variant)
    assert (pixels(read_rig(path)) - pixels(rig)).abs().max() < 1e-9


def test_units_override_the_file(tmp_path: Path) -> None:
    rig = make_rig(2)
    write_rig(rig, tmp_path / "cameras.json", units="mm")
    assert torch.allclose(
        read_rig(tmp_path, "m").cameras.centers, 1e3 * rig.cameras.centers, rtol=1e-12
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("units"), "add --units"),
        (lambda d: d.update(convention="opengl"), "convention 'opengl' is unknown"),
        (lambda d: d.update(pixel_centers="corner"), "'half-integer' or 'integer'"),
        (lambda d: d["cameras"]["cam01"].pop("intrinsics"), "'cam01' has no 'intrinsics'"),
        (lambda d: d["cameras"]["cam01"].pop("distortion_model"), "no distortion_model"),
        (lambda d: d["cameras"]["cam01"].update(distortion_model="fov"), "unknown lens model"),
        (lambda d: d["cameras"]["cam01"].update(distortion=[0.1]), "takes 6 coefficients"),
        (lambda d: d["cameras"]["cam01"].update(size=[640]), "needs size"),
        (lambda d: d["cameras"]["cam01"]["intrinsics"][0].__setitem__(0, -1), "focal lengths"),
        (lambda d: d["cameras"]["cam01"]["intrinsics"][0].__setitem__(2, 9e4), "same pixels"),
        (lambda d: d["cameras"]["cam01"]["world_to_camera"][0].__setitem__(0, 7), "no rotation"),
        (lambda d: d["cameras"]["cam01"]["intrinsics"][0].__setitem__(0, 1e999), "not finite"),
        (lambda d: d.update(cameras={}), "no calibrated camera"),
        (lambda d: d.update(cameras=[]), "no object 'cameras'"),
    ],
)
def test_faults_of_ours_are_named(change: Callable, message: str, tmp_path: Path) -> None:
    write_rig(make_rig(3), tmp_path / "cameras.json")
    edit(tmp_path / "cameras.json", change)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_rig(tmp_path)
    assert "\n" not in str(caught.value)


# --- Metashape ---------------------------------------------------------------------------------

METASHAPE = """<?xml version="1.0" encoding="UTF-8"?>
<document version="1.5.0"><chunk label="Chunk 1" enabled="true">
 <sensors><sensor id="3" label="lens" type="{type}"><resolution width="4096" height="3000"/>
  <calibration type="frame" class="initial"><resolution width="4096" height="3000"/>
   <f>9999</f><cx>0</cx><cy>0</cy></calibration>
  <calibration type="frame" class="adjusted"><resolution width="4096" height="3000"/>
   <f>8000</f><cx>41.5</cx><cy>-27.25</cy><b1>3.5</b1><b2>-2.25</b2>
   <k1>-0.11</k1><k2>0.07</k2><k3>0.02</k3><k4>-0.3</k4><p1>0.0011</p1><p2>-0.0023</p2>{more}
  </calibration></sensor></sensors>
 <components><component id="0" label="head"><transform>
   <rotation>0 0 1 1 0 0 0 1 0</rotation><translation>0.1 0.2 -0.3</translation>
   <scale>0.0125</scale></transform></component>
  <component id="1" label="hand"/></components>
 <cameras>
  <camera id="0" sensor_id="3" component_id="0" label="C1.jpg">
   <transform>1 0 0 4 0 0.8 -0.6 -7 0 0.6 0.8 -90 0 0 0 1</transform></camera>
  <group id="1"><camera id="1" sensor_id="3" component_id="{second}" label="C2" enabled="true">
   <transform>0 1 0 1 0 0 1 -60 1 0 0 2 0 0 0 1</transform></camera></group>
  <camera id="2" sensor_id="3" label="C3"/>
  <camera id="4" sensor_id="3" component_id="0" label="C4" enabled="false">
   <transform>1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1</transform></camera>
 </cameras></chunk></document>
"""


def metashape_file(folder: Path, kind: str = "frame", more: str = "", second: int = 0) -> Path:
    path = folder / "cameras.xml"
    path.write_text(METASHAPE.format(type=kind, more=more, second=second))
    return path


def test_metashape_formula_by_hand(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The manual's equations, step by step, with the component's scale and the swapped p."""
    rig = read_rig(metashape_file(tmp_path), "m")
    assert rig.cameras.names == ("C1", "C2")
    assert "C3" in caplog.text and "C4" in caplog.text
    turn = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0.0]])
    to_chunk = np.array([[1, 0, 0, 4], [0, 0.8, -0.6, -7], [0, 0.6, 0.8, -90], [0, 0, 0, 1]])
    in_camera = np.array([[0.0, 0, 90], [5, -8, 85], [-20, 11, 92], [30, 25, 80]])
    in_chunk = in_camera @ to_chunk[:3, :3].T + to_chunk[:3, 3]
    world = 0.0125 * in_chunk @ turn.T + np.array([0.1, 0.2, -0.3])
    x, y = in_camera[:, 0] / in_camera[:, 2], in_camera[:, 1] / in_camera[:, 2]
    r2 = x**2 + y**2
    radial = 1 - 0.11 * r2 + 0.07 * r2**2 + 0.02 * r2**3 - 0.3 * r2**4
    p1, p2 = 0.0011, -0.0023
    bent_x = x * radial + p1 * (r2 + 2 * x * x) + 2 * p2 * x * y
    bent_y = y * radial + p2 * (r2 + 2 * y * y) + 2 * p1 * x * y
    u = 4096 / 2 + 41.5 + bent_x * 8000 + bent_x * 3.5 + bent_y * -2.25
    v = 3000 / 2 - 27.25 + bent_y * 8000
    found, depth = project_through_lens(rig.select(["C1"]), torch.from_numpy(world))
    assert np.abs(found[0].numpy() - np.stack([u, v], 1)).max() < 1e-8
    assert np.abs(depth[0].numpy() - 0.0125 * in_camera[:, 2]).max() < 1e-12


def test_old_photoscan_files_hold_pixels_and_opencvs_order(tmp_path: Path) -> None:
    text = METASHAPE.format(type="frame", more="", second=0)
    text = re.sub(
        r"<f>8000.*?<b2>-2.25</b2>",
        "<fx>8003.5</fx><fy>8000</fy><cx>2089.5</cx><cy>1472.75</cy><skew>-2.25</skew>",
        text,
        flags=re.S,
    )
    text = text.replace("<p1>0.0011</p1><p2>-0.0023</p2>", "<p1>-0.0023</p1><p2>0.0011</p2>")
    (tmp_path / "old.xml").write_text(text)
    new, old = read_rig(metashape_file(tmp_path), "m"), read_rig(tmp_path / "old.xml", "m")
    assert torch.allclose(new.cameras.intrinsics, old.cameras.intrinsics)
    assert new.distortion == old.distortion


def test_metashape_asks_which_component(tmp_path: Path) -> None:
    path = metashape_file(tmp_path, second=1)
    with pytest.raises(InputError, match=r"several components .*head, hand.*--component"):
        read_rig(path, "m")
    assert read_rig(path, "m", component="head").cameras.names == ("C1",)
    assert read_rig(path, "m", component="1").cameras.names == ("C2",)
    with pytest.raises(InputError, match="no component 'foot'"):
        read_rig(path, "m", component="foot")


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("fisheye", "", "lens type 'fisheye'; only 'frame'"),
        ("spherical", "", "only 'frame'"),
        ("frame", "<p3>0.1</p3>", "p3, p4"),
        ("frame", "<b1></b1>", None),
    ],
)
def test_metashape_faults(kind: str, more: str, message: str | None, tmp_path: Path) -> None:
    path = metashape_file(tmp_path, kind, more)
    if message is None:
        read_rig(path, "m")
        return
    with pytest.raises(InputError, match=message):
        read_rig(path, "m")


def test_metashape_without_aligned_cameras(tmp_path: Path) -> None:
    path = metashape_file(tmp_path)
    path.write_text(re.sub(r"<transform>[-\d. ]+</transform>", "", path.read_text()))
    with pytest.raises(InputError, match=r"no aligned, enabled camera .*C3"):
        read_rig(path, "m")


def test_metashape_chunk_scale_round_trip(tmp_path: Path) -> None:
    rig = make_rig(4)
    turn = cv2.Rodrigues(np.array([0.3, -1.0, 0.5]))[0]
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = 0.037 * turn, [0.4, -2.0, 1.5]
    write_metashape(rig, tmp_path / "cameras.xml", world)
    assert (pixels(read_rig(tmp_path, "m")) - pixels(rig)).abs().max() < 1e-6


# --- COLMAP ------------------------------------------------------------------------------------


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


# --- nerfstudio --------------------------------------------------------------------------------


def test_nerfstudio_axes_and_world_by_hand(tmp_path: Path) -> None:
    """A camera at z = +2 that looks down −z with y up (OpenGL's rest pose), in a moved world."""
    to_world = np.eye(4)
    to_world[2, 3] = 2
    applied = np.array([[0, 1, 0, 0.5], [0, 0, 1, 0], [1, 0, 0, -1.0]])  # axes permuted and shifted
    moved = np.vstack([applied, [0, 0, 0, 1]]) @ to_world
    moved[:3, 3] *= 0.25
    document = {
        "camera_model": "OPENCV", "fl_x": 900, "fl_y": 910, "w": 640, "h": 480, "cx": 300,
        "cy": 260, "k1": -0.1, "k4": 0.2, "p1": 0.003, "p2": -0.002,
        "applied_transform": applied.tolist(), "applied_scale": 0.25,
        "frames": [
            {"file_path": "images/a.png", "transform_matrix": moved.tolist()},
            {"file_path": "b.png", "transform_matrix": moved.tolist(), "fl_x": 950, "cx": 310},
        ],
    }  # fmt: skip
    (tmp_path / "transforms.json").write_text(json.dumps(document))
    rig = read_rig(tmp_path, "m")
    assert torch.allclose(rig.cameras.centers, torch.tensor([0.0, 0, 2]).double(), atol=1e-12)
    x, y = 0.2 / 1.5, -0.1 / 1.5  # world (0.2, 0.1, 0.5): right of the axis and above it
    r2 = x * x + y * y
    radial = 1 - 0.1 * r2 + 0.2 * r2**4
    u = x * radial + 2 * 0.003 * x * y - 0.002 * (r2 + 2 * x * x)
    v = y * radial + 0.003 * (r2 + 2 * y * y) + 2 * -0.002 * x * y
    found = project_through_lens(rig, torch.tensor([[0.2, 0.1, 0.5]], dtype=torch.float64))[0][:, 0]
    assert found[0].tolist() == pytest.approx([300 + 900 * u, 260 + 910 * v], abs=1e-9)
    assert found[1].tolist() == pytest.approx([310 + 950 * u, 260 + 910 * v], abs=1e-9)


def test_nerfstudio_unknown_lens_and_missing_size(tmp_path: Path) -> None:
    write_rig(make_rig(2, lenses=(Distortion(),) * 2), tmp_path / "transforms.json", "nerfstudio")
    edit(tmp_path / "transforms.json", lambda d: d.update(camera_model="EQUIRECTANGULAR"))
    with pytest.raises(InputError, match="'EQUIRECTANGULAR'; supported: OPENCV"):
        read_rig(tmp_path, "m")
    edit(tmp_path / "transforms.json", lambda d: d.update(camera_model="OPENCV"))
    edit(tmp_path / "transforms.json", lambda d: d["frames"][0].pop("w"))
    with pytest.raises(InputError, match="no picture size"):
        read_rig(tmp_path, "m")


def test_nerfstudio_fisheye_round_trip(tmp_path: Path) -> None:
    rig = make_rig(3, lenses=(Distortion("fisheye", (0.02, -0.01, 0.005, 0.001)),) * 3)
    write_rig(rig, tmp_path / "transforms.json", "nerfstudio")
    assert (pixels(read_rig(tmp_path, "m")) - pixels(rig)).abs().max() < 1e-6


# --- OpenCV ------------------------------------------------------------------------------------


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


# --- finding -----------------------------------------------------------------------------------


def test_ours_is_preferred_and_other_ambiguity_is_told(tmp_path: Path) -> None:
    rig = make_rig(2, lenses=(Distortion(),) * 2)
    write_rig(rig, tmp_path / "transforms.json", "nerfstudio")
    write_rig(rig, tmp_path / "rig.xml", "metashape")
    with pytest.raises(InputError, match=r"several calibrations \(transforms.json, rig.xml\)"):
        find_calibration(tmp_path)
    write_rig(rig, tmp_path / "cameras.json")
    assert format_of(find_calibration(tmp_path)) == "ours"


def test_no_calibration(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no calibration .*expected cameras.json"):
        read_rig(tmp_path)
    with pytest.raises(InputError, match="no calibration at"):
        read_rig(tmp_path / "nowhere.json")
    (tmp_path / "rig.doc").write_text("")
    with pytest.raises(InputError, match="no calibration that is known"):
        read_rig(tmp_path / "rig.doc")
