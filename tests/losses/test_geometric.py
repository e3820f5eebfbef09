import numpy as np
import pytest
import torch

from reference import geometric_ref
from topohead.losses import geometric


def patch(seed: int = 0, size: int = 5):
    """A bumpy sheet, its last frame, and its first; quaternions of any length."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    flat = torch.stack([x, y, 0.3 * torch.sin(x * 1.3 + y)], -1).reshape(-1, 3).double() * 0.02
    a = (torch.arange(size - 1)[:, None] * size + torch.arange(size - 1)).reshape(-1)
    triangles = torch.cat(
        [torch.stack([a, a + 1, a + size], 1), torch.stack([a + 1, a + size + 1, a + size], 1)]
    )

    def noise(*shape, scale):
        return scale * torch.randn(*shape, generator=g, dtype=torch.float64)

    rest = flat + noise(size * size, 3, scale=2e-3)
    last = rest + noise(size * size, 3, scale=2e-3)
    means = last + noise(size * size, 3, scale=2e-3)
    last_quats = noise(size * size, 4, scale=1.5)
    quats = last_quats + noise(size * size, 4, scale=0.2)
    return triangles, rest, last, means, last_quats, quats


def test_physics_matches_loops():
    triangles, rest, last, means, last_quats, quats = patch()
    pairs = geometric.neighbour_pairs(triangles)
    weights = geometric.edge_weights(rest, pairs, 2000.0)
    lengths = (rest[pairs[:, 1]] - rest[pairs[:, 0]]).norm(dim=1)
    ours = (
        geometric.rotation_coherence(quats, last_quats, pairs, weights),
        geometric.rigidity(means, quats, last, last_quats, pairs, weights),
        geometric.isometry(means, lengths, pairs, weights),
    )
    arrays = [t.numpy() for t in (means, quats, last, last_quats, rest, triangles)]
    expected = geometric_ref.physics_ref(*arrays, 2000.0)
    np.testing.assert_allclose([float(v) for v in ours], expected, rtol=1e-7)


def test_topology_matches_loops():
    triangles, rest, _, means, _, _ = patch()
    pairs = geometric.neighbour_pairs(triangles)
    weights = torch.linspace(0, 2, len(means), dtype=torch.float64)
    ours = geometric.neighbour_mean_distance(means, pairs, weights)
    expected = geometric_ref.position_ref(means.numpy(), triangles.numpy(), weights.numpy())
    assert ours.item() == pytest.approx(expected, rel=1e-9)

    hinges = geometric.hinges_of(triangles)
    cosines = [geometric.hinge_cosines(p, triangles, hinges) for p in (means, rest)]
    ours = geometric.hinge_change(*cosines, floor=1e-14)
    expected = geometric_ref.flattening_ref(means.numpy(), rest.numpy(), triangles.numpy())
    assert ours.item() == pytest.approx(expected, rel=1e-5)


def test_scale_excess_by_hand():
    scales = torch.tensor([[1.0, 2.0, 0.5], [4.0, 1.0, 1.0]])
    initial = torch.ones(2, 3)
    # thinnest 0.5 + 1; past 1.5 times: 0.5 and 2.5
    assert geometric.scale_excess(scales, initial, 1.5).item() == pytest.approx(4.5)


def test_rigid_motion_costs_nothing():
    """Turning everything together leaves all physics and hinges at zero."""
    triangles, rest, _, _, last_quats, _ = patch()
    pairs = geometric.neighbour_pairs(triangles)
    weights = geometric.edge_weights(rest, pairs, 2000.0)
    turn = torch.nn.functional.normalize(torch.tensor([[0.9, 0.1, -0.3, 0.2]]).double(), dim=1)
    rotation = torch.from_numpy(geometric_ref.rotation_matrix(turn[0].numpy()))
    moved = rest @ rotation.T + 0.3
    quats = geometric._product(turn.expand(len(rest), 4), last_quats)
    lengths = (rest[pairs[:, 1]] - rest[pairs[:, 0]]).norm(dim=1)
    assert geometric.rotation_coherence(quats, last_quats, pairs, weights) < 1e-9
    assert geometric.rigidity(moved, quats, rest, last_quats, pairs, weights) < 1e-9
    assert geometric.isometry(moved, lengths, pairs, weights) < 1e-9
    hinges = geometric.hinges_of(triangles)
    cosines = [geometric.hinge_cosines(p, triangles, hinges) for p in (moved, rest)]
    assert geometric.hinge_change(*cosines) < 1e-4


def test_gradient_is_finite_where_nothing_moved():
    triangles, rest, _, _, last_quats, _ = patch()
    pairs = geometric.neighbour_pairs(triangles)
    weights = geometric.edge_weights(rest, pairs, 2000.0)
    means, quats = rest.clone().requires_grad_(), last_quats.clone().requires_grad_()
    geometric.rigidity(means, quats, rest, last_quats, pairs, weights).backward()
    geometric.rotation_coherence(quats, last_quats, pairs, weights).backward()
    assert torch.isfinite(means.grad).all() and torch.isfinite(quats.grad).all()
