"""Where `topohead register` finds a head, and of what size: units, parts of scans, doubts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from planted_scan import Planted, planted, written
from topohead.core import HeadModel, InputError
from topohead.core.scans import Scan, ScanFit
from topohead.io.assets import reference_head
from topohead.io.meshes import read_mesh
from topohead.workflows.register import RegisterConfig, register
from topohead.workflows.registering import (
    finding,
    methods,
    units,
)
from topohead.workflows.registering.units import find_unit, in_metres, longest_side

FACE = reference_head(0).topology.region_mask("face")


def test_units_by_the_size_of_a_head() -> None:
    scan = planted(seed=3).scan
    for unit, scale in (("m", 1), ("cm", 100), ("mm", 1000), ("in", 1 / 0.0254 / 1.7)):
        resized = replace(scan, points=scan.points * scale)
        assert find_unit(resized, "scan")[0] == unit
    assert find_unit(replace(scan, points=scan.points * 1000), "scan", True)[1]
    whatever = replace(scan, points=scan.points * 3e5)
    unit, _ = find_unit(whatever, "scan")
    assert isinstance(unit, float)
    assert float(longest_side(in_metres(whatever, unit).points)) == pytest.approx(units.USUAL)
    with pytest.raises(InputError, match="no head even in metres"):
        find_unit(replace(scan, points=scan.points / 3), "scan")
    strays = torch.cat([scan.points, scan.points[:40] * 500])
    scan = replace(scan, colors=None)
    assert find_unit(replace(scan, points=strays), "scan")[0] == "m"


def knowing_at_any_size(
    monkeypatch: pytest.MonkeyPatch, truth: Planted, doubts: tuple[str, ...] = ()
) -> None:
    """Puts the planted answer in the place of a method that finds heads of any size."""

    def fit(scan: Scan, head: HeadModel, means: methods.Means) -> methods.Found:
        scale = float(longest_side(scan.points) / longest_side(truth.scan.points))
        pose = truth.pose.clone()
        pose[:3] *= scale
        everything = torch.ones(len(scan.points), dtype=torch.bool)
        sigma = torch.full((len(truth.vertices),), 1e-3)
        return ScanFit(scale * truth.vertices, sigma, pose, truth.expression, everything), doubts

    for name in ("template", "network"):
        monkeypatch.setitem(methods.STARTS, name, fit)  # pyright: ignore


def test_a_bust_in_inches_is_no_small_head_in_centimetres(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size alone fits both; the face that is found does not. What no unit helps is refused."""
    truth = planted(seed=3)
    inches = replace(truth.scan, points=truth.scan.points / 0.0254)
    knowing_at_any_size(monkeypatch, truth)
    monkeypatch.setattr(units, "HEAD", (0.09, 0.75))  # as if there were shoulders
    scan = written(replace(truth, scan=inches), tmp_path / "a.ply")
    asked = RegisterConfig(scan, tmp_path / "out", method="template", texture_size=0, level=0)
    assert find_unit(inches, "scan")[0] == "cm"
    (one,) = register(asked).scans
    assert one.unit == "in" and any("taken for in:" in warning for warning in one.warnings)
    assert one.head is not None
    off = (read_mesh(one.head).vertices - truth.vertices).norm(dim=1)
    assert float(off.max()) < 1e-4
    with pytest.raises(InputError, match="no human head has"):
        register(replace(asked, unit="cm", out=tmp_path / "cm"))


@pytest.mark.parametrize(("metres", "unit"), [(0.1, "dm"), (0.167, None)])
def test_a_scan_as_large_as_a_head_in_no_usual_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metres: float, unit: str | None
) -> None:
    """The head in it tells the unit, or it has none and becomes the mean head's size, where the
    scan is. Named, it is the same."""
    truth = planted(seed=3)
    knowing_at_any_size(monkeypatch, truth)
    other = replace(truth.scan, points=truth.scan.points / metres)
    scan = written(replace(truth, scan=other), tmp_path / "a.ply")
    asked = RegisterConfig(scan, tmp_path / "out", method="network", texture_size=0, level=0)
    (one,) = register(asked).scans
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())
    own = told["unit_metres"]
    if unit is None:
        size = float(torch.linalg.det(truth.pose[:3, :3])) ** (1 / 3)
        assert own == pytest.approx(metres / size, rel=1e-4) and "mean one's" in one.warnings[-1]
    else:
        assert one.unit == unit and own == metres and f"taken for {unit}" in one.warnings[-1]
    assert one.head is not None
    found = read_mesh(one.head).vertices * metres / own
    assert float((found - truth.vertices).norm(dim=1).max()) < 1e-4
    named = replace(asked, unit=unit or metres, out=tmp_path / "named")
    (same,) = register(named).scans
    assert same.head is not None
    off = (read_mesh(same.head).vertices - truth.vertices).norm(dim=1)
    assert float(off.max()) < 1e-4
    with pytest.raises(InputError, match="--method template cannot tell"):
        register(replace(asked, method="template"))
    with pytest.raises(InputError, match="above 0"):
        register(replace(asked, unit=-1.0))


@pytest.mark.parametrize("surface", [True, False], ids=["triangles", "points"])
def test_a_head_that_is_little_of_its_scan_is_looked_at_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, surface: bool
) -> None:
    """Of a head before a large wall the network sees the head in the end; the unit is the head's,
    and there must be none in the rest."""
    truth = planted(seed=3)
    head = truth.scan
    steps = torch.linspace(-1.5, 1.5, 120 if surface else 500)
    wall = torch.cartesian_prod(steps, steps, torch.tensor([-0.6]))
    wall = wall @ truth.pose[:3, :3].T + truth.pose[:3, 3]
    corner = torch.arange(119)[:, None] * 120 + torch.arange(119)
    sides = torch.stack([corner, corner + 120, corner + 121, corner + 1], -1).flatten(0, 1)
    sides = torch.cat([sides[:, [2, 1, 0]], sides[:, [3, 2, 0]]]) + len(head.points)
    points = torch.cat([head.points, wall])
    triangles = torch.cat([head.triangles, sides]) if surface else head.triangles[:0]
    seen: list[int] = []
    others: list[int] = []

    def more(rest: Scan) -> bool:
        others.append(len(rest.points))
        return len(others) > 1

    def fit(scan: Scan, model: HeadModel, means: methods.Means) -> methods.Found:
        seen.append(len(scan.points))
        scale = float(scan.points[0].norm() / head.points[0].norm())
        pose = truth.pose.clone()
        pose[:3] *= scale
        everything = torch.zeros(len(scan.points), dtype=torch.bool)
        everything[: len(head.points)] = True
        sigma = torch.full((len(truth.vertices),), 1e-3)
        return ScanFit(scale * truth.vertices, sigma, pose, truth.expression, everything), ()

    monkeypatch.setitem(methods.STARTS, "network", fit)  # pyright: ignore
    monkeypatch.setattr(finding, "another_head", lambda rest, method, means: more(rest))
    room = Scan(1000 * points, triangles)
    scan = written(replace(truth, scan=room), tmp_path / "a.ply")
    asked = RegisterConfig(scan, tmp_path / "out", method="network", texture_size=0, level=0)
    (one,) = register(asked).scans
    assert seen == [len(points), len(head.points), len(head.points)]
    assert others == [len(wall)]
    assert one.unit == "mm" and not [w for w in one.warnings if "normals" not in w]
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert told["scan"] == {"points": len(points), "triangles": len(triangles)}
    with pytest.raises(InputError, match="several heads"):
        register(replace(asked, out=tmp_path / "again"))


@pytest.mark.parametrize(
    ("metres", "doubt", "refused"),
    [
        (1.0, "unsure", None),
        (1.0, methods.Lost("no head for it"), "no head for it"),
        (0.167, "unsure", None),
        (0.167, methods.Lost("no head for it"), "no head for it"),
        (0.55, "unsure", "no human head has"),
    ],
    ids=["metres", "lost", "no unit", "lost without unit", "as large as a head in metres"],
)
def test_a_doubtful_head_is_told_and_a_lost_one_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    metres: float,
    doubt: str,
    refused: str | None,
) -> None:
    """What is not sure to be a head gets no unit of its own where one had fitted; `--force` does
    what it can."""
    truth = planted(seed=3)
    knowing_at_any_size(monkeypatch, truth, (doubt,))
    other = replace(truth.scan, points=truth.scan.points / metres)
    scan = written(replace(truth, scan=other), tmp_path / "a.ply")
    asked = RegisterConfig(scan, tmp_path / "out", method="network", texture_size=0, level=0)
    if refused is not None:
        with pytest.raises(InputError, match=refused):
            register(asked)
        asked = replace(asked, force=True)
    (one,) = register(asked).scans
    assert one.head is not None and doubt in one.warnings
