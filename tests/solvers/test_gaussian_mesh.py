from dataclasses import replace

import numpy as np
import torch

from reference.geometric_ref import rotation_matrix
from topohead.core import Mesh, Topology
from topohead.losses import geometric
from topohead.solvers import gaussian_mesh
from topohead.solvers.kernels import gaussian_mesh as kernels


def bumpy_sheet(size: int = 6, seed: int = 0) -> Mesh:
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    g = torch.Generator().manual_seed(seed)
    noise = 2e-3 * torch.randn(size * size, 3, generator=g, dtype=torch.float64)
    vertices = torch.stack([x, y, torch.sin(x + 0.5 * y)], -1).reshape(-1, 3) * 0.02 + noise
    a = (torch.arange(size - 1)[:, None] * size + torch.arange(size - 1)).reshape(-1)
    faces = torch.stack([a, a + 1, a + size + 1, a + size], 1)
    topology = Topology(size * size, faces, torch.zeros(1, 2), torch.zeros_like(faces))
    return Mesh(topology, vertices)


def test_kernel_gradients_match_autograd():
    mesh = bumpy_sheet()
    count = len(mesh.vertices)
    g = torch.Generator().manual_seed(1)

    def noise(*shape, scale):
        return scale * torch.randn(*shape, generator=g, dtype=torch.float64)

    rest = mesh.vertices
    last, last_quats = rest + noise(count, 3, scale=1e-3), noise(count, 4, scale=1.3)
    means = (last + noise(count, 3, scale=1e-3)).requires_grad_()
    quats = (last_quats + noise(count, 4, scale=0.1)).requires_grad_()
    position = torch.linspace(0, 3, count, dtype=torch.float64)
    physics = torch.linspace(0.5, 1, count, dtype=torch.float64)
    links = gaussian_mesh.link(mesh.topology, rest, 2000.0, position, physics)

    triangles = mesh.topology.triangles
    pairs, hinges = geometric.neighbour_pairs(triangles), geometric.hinges_of(triangles)
    weights = geometric.edge_weights(rest, pairs, 2000.0)
    weights = weights * physics[pairs].min(1).values.square()
    lengths = (rest[pairs[:, 1]] - rest[pairs[:, 0]]).norm(dim=1)
    rest_cosines = geometric.hinge_cosines(rest, triangles, hinges)
    hinge_cosines = geometric.hinge_cosines(means, triangles, hinges)
    # (rotation, rigidity, isometry), position, flatness: one at a time
    terms = [
        ((20.0, 0.0, 0.0), 0.0, 0.0),
        ((0.0, 3.5, 0.0), 0.0, 0.0),
        ((0.0, 0.0, 20.0), 0.0, 0.0),
        ((0.0, 0.0, 0.0), 1.0, 0.0),
        ((0.0, 0.0, 0.0), 0.0, 2e-4),
    ]
    losses = [
        20 * geometric.rotation_coherence(quats, last_quats, pairs, weights),
        3.5 * geometric.rigidity(means, quats, last, last_quats, pairs, weights),
        20 * geometric.isometry(means, lengths, pairs, weights),
        geometric.neighbour_mean_distance(means, pairs, position),
        2e-4 * geometric.hinge_change(hinge_cosines, rest_cosines, 1e-6),
    ]
    arrays = [t.detach().float().numpy() for t in (last, last_quats, means, quats)]
    for (strengths, pull, flat), loss in zip(terms, losses, strict=True):
        expected = torch.autograd.grad(loss, [means, quats], allow_unused=True)
        scaled = replace(links, position_weights=links.position_weights * np.float32(pull))
        ruler = gaussian_mesh.Regularizer.since(*arrays[:2], scaled, strengths, flat, 1e-6)
        for ours, exact in zip(ruler.gradient(*arrays[2:]), expected, strict=True):
            if exact is None:
                assert np.abs(ours).max() == 0
                continue
            error = np.linalg.norm(ours - exact.numpy()) / np.linalg.norm(exact.numpy())
            assert error < 1e-3, (strengths, error)


def test_adam_matches_torch():
    start = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    ours, first, second = start.copy(), np.zeros_like(start), np.zeros_like(start)
    theirs = torch.from_numpy(start.copy()).requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.01, eps=1e-15)
    for step in range(1, 20):
        gradient = np.sin(start * step).astype(np.float32)
        kernels.adam_step(ours, gradient, first, second, 0.01, step)
        theirs.grad = torch.from_numpy(gradient)
        optimizer.step()
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_quaternions_point_their_third_axis_along_the_normal():
    normals = torch.nn.functional.normalize(
        torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=1
    )
    normals = torch.cat([normals, torch.tensor([[0.0, 0, -1], [0, 0, 1]], dtype=torch.float64)])
    for quat, normal in zip(gaussian_mesh.turn_to_normals(normals), normals, strict=True):
        np.testing.assert_allclose(rotation_matrix(quat.numpy())[:, 2], normal, atol=1e-12)


def test_half_shortest_edge():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 3, 0]], dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2, 2]])
    mesh = Mesh(Topology(3, faces, torch.zeros(1, 2), torch.zeros_like(faces)), vertices)
    assert gaussian_mesh.half_shortest_edge(mesh).tolist() == [0.5, 0.5, 1.5]
