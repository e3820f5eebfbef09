"""Bundles: what is written comes back, glTF's validator is content, broken ones are refused."""

import json
import struct
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporting import heads, planted_performance
from khronos import issues
from planted_run import ellipsoid_topology
from topohead.core import BoundSplats, InputError
from topohead.geometry.avatars import ExpressionChange
from topohead.geometry.surface_cells import cell_gaussians, surface_cells
from topohead.io.gltf import read_glb, write_glb
from topohead.io.gltf_rig import read_rig_glb, write_rig_glb
from topohead.io.gltf_splats import read_bound_splats, read_expression

TOPOLOGY = ellipsoid_topology()


def laid(count: int = 2000, coefficients: int = 1) -> BoundSplats:
    cells = surface_cells(heads()[0].float(), TOPOLOGY.triangles, count)
    draw = torch.Generator().manual_seed(0)
    opacities = torch.rand(count, generator=draw)
    harmonics = torch.randn(count, coefficients, 3, generator=draw)
    return BoundSplats(cell_gaussians(cells), opacities, harmonics)


@pytest.mark.parametrize("kind", ["rig", "sequence"])
def test_a_bundle_comes_back(tmp_path: Path, kind: str) -> None:
    """Bit by bit, and the mesh is what it is without Gaussians."""
    splats, path = laid(coefficients=4), tmp_path / "head.glb"
    if kind == "rig":
        played = planted_performance()
        write_rig_glb(path, played, splats=splats)
        assert torch.equal(read_rig_glb(path).weights, played.weights)
    else:
        write_glb(path, TOPOLOGY, heads().float(), splats=splats)
        assert (read_glb(path).vertices - heads()).abs().max() < 1e-6
    back, topology = read_bound_splats(path)
    assert topology.fingerprint == TOPOLOGY.fingerprint
    for field in fields(splats.binding):
        here, there = getattr(splats.binding, field.name), getattr(back.binding, field.name)
        assert torch.equal(here, there), field.name
    assert torch.equal(back.opacities, splats.opacities)
    assert torch.equal(back.harmonics, splats.harmonics)
    assert issues(path) == []


def changing(ranks: int, count: int = 2000) -> ExpressionChange:
    draw = torch.Generator().manual_seed(ranks)
    rows = [torch.randn(shape, generator=draw) for shape in ((52,), (52, ranks), (ranks,))]
    both = torch.randn(2, count, ranks, 3, generator=draw)
    return ExpressionChange(*rows, rows[2] + 1, *both)


@pytest.mark.parametrize("ranks", [0, 1, 8])
def test_what_expression_changes_comes_back(tmp_path: Path, ranks: int) -> None:
    """Codes bit by bit, changes as half floats."""
    path, change = tmp_path / "head.glb", changing(ranks)
    write_rig_glb(path, planted_performance(), splats=laid(), change=change)
    back = read_expression(path)
    assert back is not None
    for name in ("mean", "axes", "low", "high"):
        assert torch.equal(getattr(back, name), getattr(change, name)), name
    for name in ("colors", "offsets"):
        assert torch.equal(getattr(back, name), getattr(change, name).half().float()), name
    assert issues(path) == []
    write_rig_glb(path, planted_performance(), splats=laid())
    assert read_expression(path) is None


def test_broken_changes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.glb"
    with pytest.raises(InputError, match="changes of 3 Gaussians for 2000"):
        write_rig_glb(path, planted_performance(), splats=laid(), change=changing(2, 3))
    write_rig_glb(path, planted_performance(), splats=laid(), change=changing(2))
    lost = changed(path, lambda d, _: block(d)["change"]["arrays"].pop("values"))
    with pytest.raises(InputError, match="how its Gaussians change cannot be read"):
        read_expression(lost)
    fewer = changed(path, lambda d, _: block(d)["change"].update(ranks=3))
    with pytest.raises(InputError, match="how its Gaussians change cannot be read"):
        read_expression(fewer)


def test_other_faces_have_another_fingerprint() -> None:
    turned = replace(TOPOLOGY, faces=TOPOLOGY.faces.roll(1, 1))
    assert len({TOPOLOGY.fingerprint, turned.fingerprint, ellipsoid_topology(25).fingerprint}) == 3


def changed(path: Path, change: Callable[[dict[str, Any], bytearray], None]) -> Path:
    """The GLB with its document and buffer changed."""
    data = path.read_bytes()
    (length,) = struct.unpack("<I", data[12:16])
    document, body = json.loads(data[20 : 20 + length]), bytearray(data[28 + length :])
    change(document, body)
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(body))
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    chunks += struct.pack("<I4s", len(body), b"BIN\0") + bytes(body)
    broken = path.with_name("broken.glb")
    broken.write_bytes(head + chunks)
    return broken


def block(document: dict[str, Any]) -> dict[str, Any]:
    return document["meshes"][0]["extras"]["topohead"]["splats"]


def overwrite(name: str, value: np.ndarray) -> Callable[[dict[str, Any], bytearray], None]:
    def change(document: dict[str, Any], body: bytearray) -> None:
        accessor = document["accessors"][block(document)["arrays"][name]]
        start = document["bufferViews"][accessor["bufferView"]].get("byteOffset", 0)
        body[start : start + value.nbytes] = value.tobytes()

    return change


def shorter(document: dict[str, Any], body: bytearray) -> None:
    document["accessors"][block(document)["arrays"]["scales"]]["count"] -= 1


BROKEN: dict[str, tuple[Callable[[dict[str, Any], bytearray], None], str]] = {
    "off the faces": (
        overwrite("triangles", np.uint32([10**6])),
        "Gaussian 0 is bound to triangle",
    ),
    "NaN": (overwrite("quats", np.float32([np.nan])), "quats that are no numbers"),
    "no size": (overwrite("scales", np.float32([0])), "scales that are not above zero"),
    "another topology": (lambda d, _: block(d).update(topology="0" * 16), "another program"),
    "another format": (lambda d, _: block(d).update(format=9), "format 9, expected 1"),
    "an array lost": (lambda d, _: block(d)["arrays"].pop("offsets"), "cannot be read"),
    "rows lost": (shorter, "cannot be read"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_bundles_are_refused(tmp_path: Path, what: str) -> None:
    write_rig_glb(tmp_path / "head.glb", planted_performance(), splats=laid())
    change, told = BROKEN[what]
    with pytest.raises(InputError, match=told):
        read_bound_splats(changed(tmp_path / "head.glb", change))


def test_a_glb_without_gaussians_says_so(tmp_path: Path) -> None:
    write_rig_glb(tmp_path / "head.glb", planted_performance())
    with pytest.raises(InputError, match="holds no Gaussians"):
        read_bound_splats(tmp_path / "head.glb")
