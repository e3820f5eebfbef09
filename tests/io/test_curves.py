"""Hair through its files and back."""

from pathlib import Path

import pytest
import torch

from topohead.core import InputError, Strands, Topology
from topohead.geometry.strands import gaussians
from topohead.io.curves import (
    read_curves_npz,
    read_curves_usd,
    write_curves_npz,
    write_curves_splats,
    write_curves_usd,
)
from topohead.io.splat_ply import read_splat_ply
from topohead.rendering.shading import linear_to_srgb

TOPOLOGY = Topology(
    4,
    torch.tensor([[0, 1, 2, 3]]),
    torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]),
    torch.tensor([[0, 1, 2, 3]]),
)


def _strands(count: int = 5, points: int = 7) -> Strands:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    steps = 0.004 * (draw(count, points, 3) + 0.2)
    weights = draw(count, 3)
    widths = 0.0005 * (0.5 + draw(count, points))
    widths[2] = 0.0  # a slot without hair
    return Strands(
        steps.cumsum(1),
        widths,
        draw(count, points, 3),
        torch.tensor([0, 1, 0, 1, 0])[:count],
        weights / weights.sum(1, keepdim=True),
    )


def _assert_same(read: Strands, written: Strands) -> None:
    packed = written.packed()
    for name in ("points", "widths", "colors", "root_triangle", "root_barycentrics"):
        assert torch.equal(getattr(read, name), getattr(packed, name)), name


def test_npz_holds_the_strands_that_are_there(tmp_path: Path) -> None:
    strands = _strands()
    write_curves_npz(strands, tmp_path / "hair.npz")
    read = read_curves_npz(tmp_path / "hair.npz")
    assert len(read.points) == 4
    _assert_same(read, strands)


@pytest.mark.parametrize("suffix", ["usda", "usdc"])
def test_usd_curves_come_back(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("pxr")
    from pxr import Usd, UsdGeom

    strands = _strands()
    path = tmp_path / f"hair.{suffix}"
    write_curves_usd(strands, TOPOLOGY, path)
    _assert_same(read_curves_usd(path), strands)
    stage = Usd.Stage.Open(str(path))
    curves = UsdGeom.BasisCurves(stage.GetPrimAtPath("/hair/curves"))
    assert curves.GetTypeAttr().Get() == "cubic" and curves.GetWrapAttr().Get() == "pinned"
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1.0
    corners = TOPOLOGY.uv[TOPOLOGY.triangle_uv[strands.packed().root_triangle]]
    expected = (corners * strands.packed().root_barycentrics[..., None]).sum(1)
    stored = torch.tensor(UsdGeom.PrimvarsAPI(curves).GetPrimvar("st").Get())
    assert torch.allclose(stored, expected, atol=1e-6)


def test_a_bald_head_writes_and_reads(tmp_path: Path) -> None:
    pytest.importorskip("pxr")
    strands = _strands()
    bald = Strands(strands.points, 0 * strands.widths, strands.colors,
                   strands.root_triangle, strands.root_barycentrics)  # fmt: skip
    write_curves_npz(bald, tmp_path / "bald.npz")
    write_curves_usd(bald, TOPOLOGY, tmp_path / "bald.usda")
    assert len(read_curves_npz(tmp_path / "bald.npz").points) == 0
    assert len(read_curves_usd(tmp_path / "bald.usda").points) == 0


def test_splats_lie_along_segments(tmp_path: Path) -> None:
    strands = _strands()
    write_curves_splats(strands, tmp_path / "hair.ply")
    read = read_splat_ply(tmp_path / "hair.ply")
    made = gaussians(strands)
    assert len(read.means) == 4 * 6
    assert torch.allclose(read.means, made.means, atol=1e-6)
    assert torch.allclose(read.scales, made.scales, rtol=1e-4)
    colors = strands.packed().colors
    middle = (linear_to_srgb(colors)[:, 1:] + linear_to_srgb(colors)[:, :-1]) / 2
    assert torch.allclose(read.colors, middle.reshape(-1, 3), atol=1e-5)
    w, x, y, z = read.quats.unbind(1)
    first = torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], 1)
    along = torch.nn.functional.normalize(strands.packed().points.diff(dim=1), dim=-1)
    assert torch.allclose(first, along.reshape(-1, 3), atol=1e-4)


def test_a_foreign_npz_is_refused(tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "other.npz", vertices=np.zeros(3))
    with pytest.raises(InputError, match="no array 'points'"):
        read_curves_npz(tmp_path / "other.npz")
    (tmp_path / "torn.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="not an npz"):
        read_curves_npz(tmp_path / "torn.npz")
