import pytest
import torch

from topohead.core import Topology
from topohead.geometry.face_grids import split_faces


def mixed_topology() -> tuple[Topology, torch.Tensor]:
    """Two quads wound so that their shared edge runs against itself, a third beyond, a triangle."""
    points = torch.tensor(
        [[0.0, 0, 0], [1, 0, 0.2], [2.2, 0, 0], [0, 1, 0], [1.1, 1.2, 0], [2, 1, 0.3], [0, 2, 0],
         [1, 2, 0], [2.5, 2, 0]]
    )  # fmt: skip
    faces = torch.tensor([[0, 1, 4, 3], [4, 1, 2, 5], [3, 4, 7, 6], [4, 5, 8, 8]])
    return Topology(9, faces, torch.zeros(1, 2), torch.zeros_like(faces)), points


@pytest.mark.parametrize("split", [1, 2, 5])
def test_every_face_finds_its_points_where_they_are(split):
    topology, points = mixed_topology()
    faces = torch.tensor([0, 1, 2, 3])
    grid = split_faces(topology, faces, split)
    placed = grid.interpolate(points[grid.corners])
    share = torch.arange(split + 1) / split
    t, s = (x[..., None] for x in torch.meshgrid(share, share, indexing="ij"))
    for face in range(len(faces)):
        a, b, c, d = points[topology.faces[face]]
        expected = (1 - s) * (1 - t) * a + s * (1 - t) * b + s * t * c + (1 - s) * t * d
        torch.testing.assert_close(placed[grid.points[face]], expected, atol=1e-6, rtol=0)


def test_points_are_shared_and_counted_once():
    topology, _ = mixed_topology()
    split = 4
    grid = split_faces(topology, torch.arange(4), split)
    edges = len(topology.edges)
    assert grid.count == 9 + edges * (split - 1) + 4 * (split - 1) ** 2
    assert torch.equal(grid.points.unique(), torch.arange(grid.count))
    # each face alone has its own
    assert split_faces(topology, torch.tensor([2]), split).count == (split + 1) ** 2
