"""Metashape (PhotoScan) camera XML.

The lens formula is that of the Metashape manual's appendix on camera models: principal point as an
offset from the picture's centre, f with b1 (affinity) and b2 (skew), radial k1–k4, and tangential
p1, p2 in the opposite order to OpenCV's. Files from before version 1.2 hold fx, fy, cx, cy, skew in
pixels, and p1, p2 in OpenCV's order (formula of the Agisoft Lens manual).
"""

import logging
from dataclasses import dataclass
from pathlib import Path, PurePath
from xml.etree import ElementTree

import numpy as np
import torch

from topohead.core import Distortion, InputError, Rig
from topohead.io.atomic import write_text
from topohead.io.calibration.entries import Entry, build_rig, metres_per_unit
from topohead.io.images import IMAGE_SUFFIXES

log = logging.getLogger(__name__)

Element = ElementTree.Element
_YES = ("1", "true", "yes", None)  # Metashape leaves `enabled` out of what is enabled


@dataclass(frozen=True)
class _Placed:
    """A camera that takes part: its XML, its chunk, and the component that placed it."""

    camera: Element
    chunk: Element
    component: str | None

    @property
    def key(self) -> str:
        """How the user names the part of the file that this camera is in."""
        chunk = self.chunk.get("label") or f"chunk {self.chunk.get('id', '0')}"
        if self.component is None:
            return chunk
        node = self.node
        return (node.get("label") if node is not None else None) or f"component {self.component}"

    @property
    def node(self) -> Element | None:
        return next(
            (c for c in self.chunk.iter("component") if c.get("id") == self.component), None
        )


def read_metashape(path: Path, units: str | None = None, component: str | None = None) -> Rig:
    """The aligned, enabled frame cameras of one chunk or component, in its world, metres."""
    root = parse(path)
    placed, unaligned, disabled = _cameras(root)
    if unaligned:
        log.warning("%s: cameras without a pose, left out: %s", path, ", ".join(unaligned))
    if disabled:
        log.warning("%s: disabled cameras, left out: %s", path, ", ".join(disabled))
    if not placed:
        raise InputError(
            f"{path} has no aligned, enabled camera (unaligned: {', '.join(unaligned) or 'none'}; "
            f"disabled: {', '.join(disabled) or 'none'}); align the photos and export again"
        )
    placed = _one_component(placed, component, path)
    scale = metres_per_unit(units, path)
    return build_rig([_entry(one, path) for one in placed], scale, path)


def parse(path: Path) -> Element:
    """The root element of an XML file."""
    try:
        return ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise InputError(f"{path} is not readable XML ({error})") from error


def is_metashape(path: Path) -> bool:
    """Whether an XML file is a Metashape camera export."""
    root = parse(path)
    return root.tag == "chunk" or next(root.iter("chunk"), None) is not None


def _cameras(root: Element) -> tuple[list[_Placed], list[str], list[str]]:
    """Usable cameras; names of those without a pose; names of those switched off."""
    placed, unaligned, disabled = [], [], []
    for chunk in root.iter("chunk"):
        for camera in chunk.iter("camera"):
            if camera.get("sensor_id") is None:  # mentions of cameras in markers and the like
                continue
            if camera.get("enabled") not in _YES:
                disabled.append(_name(camera))
            elif camera.find("transform") is None:
                unaligned.append(_name(camera))
            else:
                placed.append(_Placed(camera, chunk, camera.get("component_id")))
    return placed, unaligned, disabled


def _one_component(placed: list[_Placed], component: str | None, path: Path) -> list[_Placed]:
    keys = list(dict.fromkeys(one.key for one in placed))
    if component is not None:
        chosen = [one for one in placed if component in (one.key, one.component)]
        if not chosen:
            raise InputError(f"{path} has no component {component!r}; it has {', '.join(keys)}")
        return chosen
    if len(keys) > 1:
        raise InputError(
            f"{path} holds several components that share no world ({', '.join(keys)}); "
            "choose one with --component"
        )
    return placed


def _entry(one: _Placed, path: Path) -> Entry:
    name = _name(one.camera)
    where = f"{path}: camera {name!r}"
    size, intrinsics, lens = _sensor(one, where)
    to_chunk = _numbers(one.camera.findtext("transform"), 16, f"{where}: transform").reshape(4, 4)
    rotation, translation, scale = _similarity(one, where)
    to_world = rotation @ to_chunk[:3, :3]
    center = scale * rotation @ to_chunk[:3, 3] + translation
    pose = np.eye(4)
    pose[:3, :3] = to_world.T
    pose[:3, 3] = -to_world.T @ center
    return Entry(name, size, intrinsics, pose, lens)


def _similarity(one: _Placed, where: str) -> tuple[np.ndarray, np.ndarray, float]:
    """world = scale · rotation · x + translation, of the component, else of the chunk."""
    node = one.node.find("transform") if one.node is not None else None
    if node is None:
        node = one.chunk.find("transform")
    if node is None:
        return np.eye(3), np.zeros(3), 1.0
    rotation = _numbers(node.findtext("rotation", "1 0 0 0 1 0 0 0 1"), 9, f"{where}: rotation")
    translation = _numbers(node.findtext("translation", "0 0 0"), 3, f"{where}: translation")
    scale = _numbers(node.findtext("scale", "1"), 1, f"{where}: scale")
    return rotation.reshape(3, 3), translation, float(scale[0])


def _sensor(one: _Placed, where: str) -> tuple[tuple[int, int], np.ndarray, Distortion]:
    number = one.camera.get("sensor_id")
    sensor = next((s for s in one.chunk.iter("sensor") if s.get("id") == number), None)
    if sensor is None:
        raise InputError(f"{where} refers to sensor {number}, which is not in the file")
    if sensor.get("master_id") is not None or one.camera.get("master_id") is not None:
        raise InputError(
            f"{where} belongs to a multi-camera system; expected one pose a camera: "
            "export it with the system taken apart"
        )
    found = sensor.findall("calibration")
    adjusted = [c for c in found if c.get("class") == "adjusted"]
    if not found:
        raise InputError(f"{where}: sensor {number} has no calibration")
    if not adjusted:
        log.warning("%s: sensor %s has no adjusted calibration; its first is used", where, number)
    calibration = (adjusted or found)[0]
    kind = calibration.get("type") or sensor.get("type") or "frame"
    if "frame" not in kind.split() or sensor.get("type", "frame") != "frame":
        raise InputError(f"{where}: lens type '{sensor.get('type', kind)}'; only 'frame' is read")
    resolution = calibration.find("resolution")
    resolution = sensor.find("resolution") if resolution is None else resolution
    if resolution is None:
        raise InputError(f"{where}: sensor {number} has no resolution")
    width, height = int(resolution.get("width", 0)), int(resolution.get("height", 0))
    intrinsics, lens = _calibration(calibration, width, height, where)
    return (width, height), intrinsics, lens


def _calibration(
    node: Element, width: int, height: int, where: str
) -> tuple[np.ndarray, Distortion]:
    """Intrinsics and lens of a <calibration>."""

    def value(name: str) -> float:
        return float(_numbers(node.findtext(name, "0"), 1, f"{where}: {name}")[0])

    if value("p3") or value("p4"):
        raise InputError(f"{where} has tangential terms p3, p4; calibrate without them")
    old = node.find("fx") is not None
    if old:
        fx, fy, skew, cx, cy = (value(n) for n in ("fx", "fy", "skew", "cx", "cy"))
        p1, p2 = value("p1"), value("p2")
    else:
        fy, skew = value("f"), value("b2")
        fx, cx, cy = fy + value("b1"), width / 2 + value("cx"), height / 2 + value("cy")
        p1, p2 = value("p2"), value("p1")
    radial = tuple(value(f"k{n}") for n in (1, 2, 3, 4))
    lens = Distortion("brown", (*radial, p1, p2)) if any((*radial, p1, p2)) else Distortion()
    return np.array([[fx, skew, cx], [0, fy, cy], [0, 0, 1]]), lens


def _name(camera: Element) -> str:
    """The camera's label without the picture's extension."""
    label = camera.get("label") or f"camera {camera.get('id')}"
    name = PurePath(label)
    return name.stem if name.suffix.lower() in (*IMAGE_SUFFIXES, ".tif", ".tiff") else label


def _numbers(text: str | None, count: int, where: str) -> np.ndarray:
    try:
        numbers = np.array([float(part) for part in (text or "").split()])
    except ValueError:
        numbers = np.empty(0)
    if len(numbers) != count:
        raise InputError(f"{where} should hold {count} numbers, got {text!r}")
    return numbers


def write_metashape(rig: Rig, path: Path, world: np.ndarray | None = None) -> None:
    """Writes a camera XML of one chunk.

    `world` [4 4] is the similarity chunk → world that the chunk's transform shall hold (identity
    when left out): poses are stored in the chunk, so that readers which ignore it go wrong.
    """
    world = np.eye(4) if world is None else world
    scale = float(np.cbrt(np.linalg.det(world[:3, :3])))
    document = ElementTree.Element("document", version="1.5.0")
    chunk = ElementTree.SubElement(document, "chunk", label="Chunk 1", enabled="true")
    sensors = ElementTree.SubElement(chunk, "sensors")
    cameras = ElementTree.SubElement(chunk, "cameras")
    for index, name in enumerate(rig.cameras.names):
        number = str(index)
        _add_sensor(sensors, rig, index)
        camera = ElementTree.SubElement(
            cameras, "camera", id=number, sensor_id=number, label=name, enabled="true"
        )
        to_world = torch.linalg.inv(rig.cameras.world_to_camera[index].double()).numpy()
        to_chunk = np.linalg.inv(world) @ to_world
        to_chunk[:3, :3] *= scale  # the similarity's scale is not the camera frame's
        ElementTree.SubElement(camera, "transform").text = _text(to_chunk)
    transform = ElementTree.SubElement(chunk, "transform")
    ElementTree.SubElement(transform, "rotation").text = _text(world[:3, :3] / scale)
    ElementTree.SubElement(transform, "translation").text = _text(world[:3, 3])
    ElementTree.SubElement(transform, "scale").text = repr(scale)
    ElementTree.indent(document)
    write_text(path, ElementTree.tostring(document, "unicode", xml_declaration=True) + "\n")


def _add_sensor(sensors: Element, rig: Rig, index: int) -> None:
    lens, name = rig.distortion[index], rig.cameras.names[index]
    if lens.model not in ("none", "brown"):
        raise InputError(f"camera {name!r}: Metashape's frame cameras have no '{lens.model}' lens")
    k1, k2, k3, k4, p1, p2 = lens.coefficients or (0.0,) * 6
    width, height = rig.cameras.size(index)
    (fx, skew, cx), (_, fy, cy) = rig.cameras.intrinsics[index, :2].double().tolist()
    values = {
        "f": fy, "cx": cx - width / 2, "cy": cy - height / 2, "b1": fx - fy, "b2": skew,
        "k1": k1, "k2": k2, "k3": k3, "k4": k4, "p1": p2, "p2": p1,
    }  # fmt: skip
    sensor = ElementTree.SubElement(sensors, "sensor", id=str(index), label=name, type="frame")
    size = {"width": str(width), "height": str(height)}
    ElementTree.SubElement(sensor, "resolution", size)
    node = ElementTree.SubElement(sensor, "calibration", {"type": "frame", "class": "adjusted"})
    ElementTree.SubElement(node, "resolution", size)
    for key, number in values.items():
        ElementTree.SubElement(node, key).text = repr(number)


def _text(numbers: np.ndarray) -> str:
    return " ".join(repr(float(number)) for number in numbers.ravel())
