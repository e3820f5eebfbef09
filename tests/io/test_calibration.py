"""Every calibration format: round trips; ours and nerfstudio's; which file is taken."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from random_rig import brown, lenses_for, make_rig, pixels
from topohead.core import Distortion, InputError
from topohead.geometry.cameras import project_through_lens, turned
from topohead.io.calibration import find_calibration, format_of, read_rig, write_rig

FILES = {
    "ours": "cameras.json",
    "metashape": "cameras.xml",
    "colmap": "sparse/0",
    "nerfstudio": "transforms.json",
    "opencv": "cameras.yml",
}


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
    path = tmp_path / "cameras.json"
    write_rig(rig, path, units="mm")
    path.write_text(path.read_text(), encoding="utf-8-sig")  # as editors of Windows save it
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
