"""Slits and patches by kernels: what tensor algebra makes of them."""

import os
from types import ModuleType

import pytest
import torch

from topohead.geometry import patches, slits
from topohead.synthesis.shapes import Shapes, load_shapes

kernels = pytest.importorskip("topohead.geometry.slits_triton")
pytestmark = [
    pytest.mark.skipif(
        torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") != "1",
        reason="on a GPU tests/synthesis/test_shapes.py compares the devices",
    ),
    # the interpreter computes lanes that are masked out afterwards
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


@pytest.fixture(scope="module")
def shapes() -> Shapes:
    return load_shapes(ict=None)


def _by_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def always(_: torch.Tensor) -> ModuleType:
        return kernels

    monkeypatch.setattr(patches, "kernels_for", always)
    monkeypatch.setattr(slits, "kernels_for", always)


@pytest.mark.parametrize("name", ["lips", "left lids"])
def test_kernels_take_slits_apart_as_tensors_do(
    name: str, shapes: Shapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    slit = shapes.lips if name == "lips" else shapes.lids[0]
    lifted = torch.tensor([[5e-3], [8e-3]])  # the lower side, beyond the upper one
    crossed = shapes.head.template.repeat(2, 1, 1)
    crossed[:, slit.patch.vertices[slit.lower], 1] += lifted
    before = crossed.clone()
    depth = slit.depth(crossed)
    allowed = slit.depth(shapes.head.template[None]).clamp(min=0).expand(2, -1)
    wanted = slit.apart(crossed, allowed, 2)
    assert (depth > 1e-4).any() and (wanted - crossed).abs().max() > 1e-4
    _by_kernels(monkeypatch)
    assert (slit.depth(crossed) - depth).abs().max() < 1e-7
    assert (slit.apart(crossed, allowed, 2) - wanted).abs().max() < 1e-7
    assert torch.equal(crossed, before)


def test_kernels_spread_pushes_as_tensors_do(
    shapes: Shapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch = shapes.globes[0].patch
    push = torch.zeros(2, len(patch.vertices))
    push[0, 7], push[1, 3::50] = 1.0, 0.5
    wanted = patch.spread(push)
    _by_kernels(monkeypatch)
    assert torch.equal(patch.spread(push), wanted)
