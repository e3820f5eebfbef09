"""Metashape's and old PhotoScan's files: the formula by hand, components, faults."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from random_rig import make_rig, pixels
from topohead.core import InputError
from topohead.geometry.cameras import project_through_lens
from topohead.io.calibration import read_rig
from topohead.io.calibration.metashape import write_metashape

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
