import numpy as np
import pytest
import torch

from topohead.core import Topology
from topohead.geometry import unwrapping


def sheet(size: int, triangles: bool = False) -> tuple[Topology, torch.Tensor]:
    """A flat square of quads in the x–y plane; UVs equal to positions."""
    index = torch.arange((size + 1) ** 2).reshape(size + 1, size + 1)
    corners = [index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]]
    faces = torch.stack(corners, -1).reshape(-1, 4)
    if triangles:
        faces[:, 3] = faces[:, 2]
    y, x = torch.meshgrid(*[torch.linspace(0, 1, size + 1)] * 2, indexing="ij")
    points = torch.stack([x, y, 0 * x], -1).reshape(-1, 3)
    return Topology(len(points), faces, points[:, :2].contiguous(), faces), points


def test_gradient_agrees_with_finite_differences():
    topology, points = sheet(3)
    random = np.random.default_rng(0)
    corners = topology.triangle_uv.numpy()
    rest, area = unwrapping._rest_shapes(points.double().numpy()[corners], np.ones(len(corners)))
    uv = topology.uv.double().numpy() + 0.03 * random.normal(size=(16, 2))
    _, gradient = unwrapping._dirichlet(uv, corners, rest, area)
    for row, axis in ((0, 0), (5, 1), (10, 0)):
        step = np.zeros_like(uv)
        step[row, axis] = 1e-6
        ahead = unwrapping._dirichlet(uv + step, corners, rest, area)[0]
        behind = unwrapping._dirichlet(uv - step, corners, rest, area)[0]
        assert gradient[row, axis] == pytest.approx((ahead - behind) / 2e-6, rel=1e-5)


@pytest.mark.parametrize("triangles", [False, True])
def test_a_flat_sheet_becomes_itself(triangles):
    """Started from a distorted layout, the isometric one is found: edges get their lengths."""
    topology, points = sheet(4, triangles)
    bent = topology.uv.clone()
    bent[:, 0] = bent[:, 0] ** 2 + 0.5 * bent[:, 0] + 0.2 * bent[:, 1]
    topology = Topology(25, topology.faces, bent, topology.faces)
    density = torch.full((len(topology.faces),), 2.0)
    uv = unwrapping.relax(topology, points, density, steps=60)
    edges = topology.edges
    drawn = (uv[edges[:, 0]] - uv[edges[:, 1]]).norm(dim=1)
    true = (points[edges[:, 0]] - points[edges[:, 1]]).norm(dim=1)
    assert torch.allclose(drawn, 2 * true.double(), rtol=0.03)


def test_folded_layouts_are_refused():
    topology, points = sheet(3)
    mirrored = Topology(16, topology.faces, topology.uv * torch.tensor([-1.0, 1]), topology.faces)
    with pytest.raises(ValueError, match="island 0 of the layout is folded or mirrored"):
        unwrapping.relax(mirrored, points, torch.ones(9))


def test_packed_islands_keep_their_shape_and_distance():
    """Four squares, two of them small, in one pile."""
    faces, uvs, count = [], [], 0
    for side in (1.0, 0.3, 0.9, 0.2):
        topology, points = sheet(2)
        faces.append(topology.faces + count)
        uvs.append(side * topology.uv)
        count += len(points)
    joined = Topology(count, torch.cat(faces), torch.cat(uvs), torch.cat(faces))
    packed = unwrapping.pack(joined.uv, joined, margin=8 / 1024)
    assert packed.min() > 7.5 / 1024 and packed.max() < 1 - 7.5 / 1024
    boxes = [packed[k * 9 : k * 9 + 9] for k in range(4)]
    scale = [
        (box.amax(0) - box.amin(0)).mean() / side
        for box, side in zip(boxes, (1.0, 0.3, 0.9, 0.2), strict=True)
    ]
    assert torch.allclose(torch.stack(scale), scale[0].expand(4))
    for i in range(4):
        for j in range(i):
            gap = torch.maximum(
                boxes[i].amin(0) - boxes[j].amax(0), boxes[j].amin(0) - boxes[i].amax(0)
            )
            assert gap.max() > 7 / 1024  # to half a cell of the packing grid


def test_upright_follows_the_head():
    topology, points = sheet(2)
    turned = Topology(
        9, topology.faces, topology.uv @ torch.tensor([[0.0, 1], [-1, 0]]), topology.faces
    )
    uv = unwrapping.upright(turned, points)
    assert torch.allclose(uv - uv[0], topology.uv - topology.uv[0], atol=1e-6)
