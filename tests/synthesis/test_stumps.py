"""What closes a neck: nothing is left open, it looks outward, and it has the skin's colour."""

import torch

from topohead.geometry.meshes import boundary_edges
from topohead.io.assets import reference_head
from topohead.synthesis.stumps import DEPTH, Stump, rim_colors


def test_head_and_stump_leave_no_hole_at_the_neck() -> None:
    head = reference_head(0)
    stump = Stump(head.topology)
    count, rim = len(head.template), len(stump.rim)
    made = stump.closing(torch.stack([head.template, 1.1 * head.template]))
    assert made.shape == (2, stump.size, 3)
    assert torch.allclose(made[0, :rim], head.template[stump.rim], atol=1e-6)
    assert torch.allclose(made[1], 1.1 * made[0], atol=1e-6)
    # the rim's edges run the other way round in the stump than in the head
    open_ = boundary_edges(head.topology)
    open_ = open_[head.topology.region_mask("boundary")[open_].all(1)]
    names = torch.cat([stump.rim, count + torch.arange(stump.size - rim)])
    triangles = names[stump.triangles]
    own = torch.cat([triangles[:, [k, (k + 1) % 3]] for k in range(3)])
    mine = {tuple(edge) for edge in own.tolist()}
    assert all((b, a) in mine for a, b in open_.tolist())


def test_it_bulges_down_and_looks_away() -> None:
    head = reference_head(0)
    stump = Stump(head.topology)
    made = stump.closing(head.template[None])[0]
    rim = head.template[stump.rim]
    radius = (rim - rim.mean(0)).norm(dim=1).mean()
    # a rim that slants: down and back is away from the head's middle
    depth = (made[-1] - rim.mean(0)).norm()
    assert abs(depth - DEPTH * radius) < 1e-5
    assert made[-1, 1] < rim[:, 1].mean()
    corner = made[stump.triangles]
    normal = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    away = corner.mean(1) - (rim.mean(0) + made[-1]) / 2
    solid = normal.norm(dim=1) > 1e-9
    assert ((normal * away).sum(1) > 0)[solid].float().mean() > 0.9


def test_colours_are_the_maps_at_the_rim() -> None:
    topology = reference_head(0).topology
    stump = Stump(topology)
    v = 1 - (torch.arange(64) + 0.5) / 64
    u = (torch.arange(64) + 0.5) / 64
    albedo = torch.stack(
        [u.expand(64, 64), v[:, None].expand(64, 64), torch.zeros(64, 64)], -1
    ).contiguous()
    found = rim_colors(albedo, torch.full((64, 64), 0.5), topology, stump.rim)
    wanted = topology.uv[topology.triangle_uv].reshape(-1, 2)
    rows = topology.triangles.flatten()
    for vertex, color in zip(stump.rim.tolist(), found, strict=True):
        apart = (wanted[rows == vertex] - color[:2]).abs().amax(1)
        assert apart.min() <= 0.5 / 64 + 1e-6
    tint = stump.tint(found[None])[0]
    assert torch.equal(tint[: len(found)], found)
    assert torch.allclose(tint[-1], found.mean(0), atol=1e-6)
