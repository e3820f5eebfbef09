"""Slits, normals and gradients by kernels: what tensor algebra makes of them."""

import os
from collections.abc import Callable

import pytest
import torch

from topohead.core import Topology
from topohead.geometry import gradients, head_field, lids, meshes, patches, slits
from topohead.geometry.globes import gaze_rotation
from topohead.geometry.gradients import GradientOperator
from topohead.geometry.head_field import HeadField
from topohead.synthesis.shapes import Shapes, load_shapes

pytest.importorskip("triton")
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


@pytest.fixture
def by_kernels(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, it lets kernels do the work of the modules under test."""

    def switch() -> None:
        for module in (gradients, head_field, lids, meshes, patches, slits):
            monkeypatch.setattr(module, "compiled", lambda _: True)

    return switch


@pytest.mark.parametrize("name", ["lips", "left lids"])
def test_kernels_take_slits_apart_as_tensors_do(
    name: str, shapes: Shapes, by_kernels: Callable[[], None]
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
    by_kernels()
    assert (slit.depth(crossed) - depth).abs().max() < 1e-7
    assert (slit.apart(crossed, allowed, 2) - wanted).abs().max() < 1e-7
    assert torch.equal(crossed, before)


def test_kernels_spread_pushes_as_tensors_do(
    shapes: Shapes, by_kernels: Callable[[], None]
) -> None:
    patch = shapes.globes[0].patch
    push = torch.zeros(2, len(patch.vertices))
    push[0, 7], push[1, 3::50] = 1.0, 0.5
    wanted = patch.spread(push)
    by_kernels()
    assert torch.equal(patch.spread(push), wanted)


def test_kernels_keep_lids_outside_globes_as_tensors_do(
    shapes: Shapes, by_kernels: Callable[[], None]
) -> None:
    contact = shapes.globes[0]
    heads = shapes.head.template.repeat(2, 1, 1)
    heads[1] *= 1.1
    center, size = contact.placed(heads)
    turn = gaze_rotation(torch.tensor([[0.3, -0.2], [-0.4, 0.1]]))
    needed = torch.where(contact.needed > -1, 1.5e-3, contact.needed).expand(2, -1)
    clear = contact.clearance(heads, center, size, turn)
    wanted = contact.outside(heads, center, size, turn, needed)
    assert (wanted - heads).abs().max() > 1e-3
    by_kernels()
    assert (contact.clearance(heads, center, size, turn) - clear).abs().max() < 1e-7
    assert (contact.outside(heads, center, size, turn, needed) - wanted).abs().max() < 1e-7


def test_kernels_find_the_normals_and_gradients_that_tensors_find(
    by_kernels: Callable[[], None],
) -> None:
    side = 6
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    corner = (y * side + x)[:-1, :-1].reshape(-1, 1)
    faces = corner + torch.tensor([0, 1, side + 1, side])
    flat = torch.stack([x, y, torch.zeros_like(x)], -1).reshape(-1, 3) * 0.01
    topology = Topology(side**2, faces, flat[:, :2], faces, {"corner": torch.arange(4)})
    operator = GradientOperator.of(topology, flat, 3, ("corner",))
    generator = torch.Generator().manual_seed(5)
    shapes = flat + 0.002 * torch.randn(3, side**2, 3, generator=generator)
    fan = meshes.vertex_fan(topology.triangles, side**2)
    normals = meshes.fan_normals(shapes, topology.triangles, fan)
    stretched = operator(shapes)
    by_kernels()
    found = meshes.fan_normals(shapes, topology.triangles, fan)
    assert (found - normals).abs().max() < 1e-6
    assert (operator(shapes) - stretched).abs().max() < 1e-6
    turned = operator(flat[None] @ torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]))
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    assert (turned - quarter).abs().max() < 1e-5


def test_kernels_measure_the_distances_that_tensors_measure(
    shapes: Shapes, by_kernels: Callable[[], None]
) -> None:
    field = HeadField.of(shapes.topology, shapes.head.template)
    heads = torch.stack([shapes.head.template, 1.05 * shapes.head.template])
    generator = torch.Generator().manual_seed(6)
    near = field.solid[torch.randint(len(field.solid), (2, 200), generator=generator)]
    points = heads.gather(1, near[..., None].expand(-1, -1, 3))
    points = points + 0.004 * torch.randn(points.shape, generator=generator)
    points[:, :20, 1] -= 0.1  # some in the body of capsules
    placed = field.place(heads)
    distance, away = field.distance(points, placed, near)
    assert (distance < 0).any() and (distance > 2e-3).any()
    by_kernels()
    found, direction = field.distance(points, placed, near)
    assert (found - distance).abs().max() < 1e-6
    assert (direction - away).norm(dim=-1).quantile(0.99) < 1e-3
