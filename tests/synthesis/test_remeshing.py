"""New triangles lie on the old surface, face outwards, and keep none of the old ones."""

import math

import pytest
import torch

from topohead.core import Mesh, Topology
from topohead.geometry.correspondence import closest_points
from topohead.geometry.meshes import face_normals, triangle_areas
from topohead.synthesis.remeshing import (
    Triangulated,
    depth_view,
    fused,
    halved,
    scattered,
    seen_part,
)
from topohead.synthesis.sights import seen_from_outside

RADIUS = 0.1


def ball(radius: float = RADIUS, bands: int = 60) -> Triangulated:
    """A closed sphere about the origin, outward."""
    u, v = torch.meshgrid(torch.arange(1, bands), torch.arange(2 * bands), indexing="ij")
    theta, phi = math.pi * u.flatten() / bands, math.pi * v.flatten() / bands
    ring = torch.stack([theta.sin() * phi.cos(), theta.cos(), theta.sin() * phi.sin()], 1)
    vertices = torch.cat([ring, torch.tensor([[0.0, 1, 0], [0, -1, 0]])])
    around = 2 * bands
    a = (u[:-1] - 1) * around + v[:-1]
    b = (u[:-1] - 1) * around + (v[:-1] + 1) % around
    sides = torch.stack([a, b, b + around, a, b + around, a + around], -1).reshape(-1, 3)
    k = torch.arange(around)
    north, south, last = len(ring), len(ring) + 1, (bands - 2) * around
    caps = torch.cat(
        [
            torch.stack([torch.full_like(k, north), (k + 1) % around, k], 1),
            torch.stack([torch.full_like(k, south), last + k, last + (k + 1) % around], 1),
        ]
    )
    return Triangulated(radius * vertices.float(), torch.cat([sides, caps]))


def off(surface: Triangulated, onto: Triangulated) -> torch.Tensor:
    """Distances of vertices to another surface, metres."""
    faces = onto.triangles[:, [0, 1, 2, 2]]
    mesh = Mesh(
        Topology(len(onto.vertices), faces, torch.zeros(1, 2), torch.zeros_like(faces)),
        onto.vertices.double(),
    )
    return closest_points(surface.vertices.double(), mesh)[1]


def outward(surface: Triangulated) -> torch.Tensor:
    middle = surface.vertices[surface.triangles].mean(1)
    return (face_normals(*surface) * middle).sum(1) > 0


def test_only_the_outside_is_seen() -> None:
    outer, inner = ball(), ball(0.05)
    count = len(outer.vertices)
    both = Triangulated(
        torch.cat([outer.vertices, inner.vertices]),
        torch.cat([outer.triangles, inner.triangles + count]),
    )
    seen = seen_part(both)
    # every view stands off the poles, so a sliver of the smallest triangles may be missed
    assert float(seen.vertices.norm(dim=1).min()) > 0.99 * RADIUS
    assert float(triangle_areas(*seen).sum()) > 0.99 * float(triangle_areas(*outer).sum())


def test_nobody_looks_out_from_inside() -> None:
    """Through the opening of a bowl with a ball in it: neither the ball's far side nor the wall's
    back is seen, and the bowl hides the ball from everywhere else."""
    outer, inner = ball(), ball(0.03)
    open_below = outer.vertices[outer.triangles][..., 1].mean(1) > -0.95 * RADIUS
    bowl = Triangulated(outer.vertices, outer.triangles[open_below])
    # inside out, as the bag of a mouth is that hangs in a head
    bag = inner.triangles.flip(1) + len(bowl.vertices)
    both = Triangulated(
        torch.cat([bowl.vertices, inner.vertices]), torch.cat([bowl.triangles, bag])
    )
    assert float(seen_part(both).vertices.norm(dim=1).min()) > 0.99 * RADIUS
    assert float(fused(both, 0.004).vertices.norm(dim=1).min()) > 0.97 * RADIUS


def test_halved_triangles_are_four_of_the_same_surface() -> None:
    given = ball(bands=12)
    made = halved(given)
    assert len(made.triangles) == 4 * len(given.triangles)
    assert float(off(made, given).max()) < 1e-8
    assert outward(made).all()
    assert float(triangle_areas(*made).sum()) == pytest.approx(float(triangle_areas(*given).sum()))
    edges = torch.cat([made.triangles[:, [k, (k + 1) % 3]] for k in range(3)])
    assert (edges.sort(1).values.unique(dim=0, return_counts=True)[1] == 2).all()


@pytest.mark.parametrize("cell", [0.004, 0.008])
def test_a_fused_ball_is_closed_and_lies_on_the_ball(cell: float) -> None:
    given = ball()
    made = fused(given, cell)
    assert float(off(made, given).max()) < 0.15 * cell
    area = 4 * math.pi * RADIUS**2
    assert float(triangle_areas(*made).sum()) == pytest.approx(area, rel=0.02)
    assert outward(made).all()
    edges = torch.cat([made.triangles[:, [k, (k + 1) % 3]] for k in range(3)])
    assert (edges.sort(1).values.unique(dim=0, return_counts=True)[1] == 2).all()


def test_scattered_points_close_the_ball_and_depend_on_the_seed() -> None:
    given = ball()
    made = scattered(given, 600, torch.Generator().manual_seed(1))
    assert len(made.vertices) == 600
    assert float(off(made, given).max()) < 1e-7
    assert float(outward(made).float().mean()) > 0.995
    area = 4 * math.pi * RADIUS**2
    assert float(triangle_areas(*made).sum()) == pytest.approx(area, rel=0.05)
    again = scattered(given, 600, torch.Generator().manual_seed(1))
    other = scattered(given, 600, torch.Generator().manual_seed(2))
    assert torch.equal(made.triangles, again.triangles)
    assert not torch.equal(made.vertices, other.vertices)


def test_a_depth_camera_sees_the_near_half_with_its_error() -> None:
    given = ball()
    towards = torch.tensor([0.2, 0.1, 1.0])
    clean = depth_view(given, towards, 128, 0.0)
    side = clean.vertices @ torch.nn.functional.normalize(towards, dim=0)
    assert float(side.min()) > 0.0
    assert float(off(clean, given).median()) < 2e-5
    assert outward(clean).all()
    rough = depth_view(given, towards, 128, 1e-3)
    assert 0.5e-3 < float(off(rough, given).square().mean().sqrt()) < 1.2e-3


def test_seen_triangles_are_those_of_no_ball_within_a_ball() -> None:
    outside, within = ball(), ball(0.05)
    vertices = torch.cat([outside.vertices, within.vertices])
    triangles = torch.cat([outside.triangles, within.triangles + len(outside.vertices)])
    seen = seen_from_outside(vertices, triangles)
    convex = seen[: len(outside.triangles)]
    assert float((convex > 0).float().mean()) > 0.99 and float(convex.mean()) > 0.95
    assert not seen[len(outside.triangles) :].any()
    # through a hole as wide as the inner ball it shows its top alone
    hole = outside.vertices[triangles[: len(outside.triangles)]][..., 1].amin(1) > 0.085
    opened = triangles[~torch.cat([hole, torch.zeros(len(within.triangles), dtype=torch.bool)])]
    seen = seen_from_outside(vertices, opened)[-len(within.triangles) :]
    heights = within.vertices[within.triangles][..., 1].mean(1)
    assert (seen[heights > 0.048] > 0).all() and not seen[heights < 0].any()
    # not all views before the top look through, and fewer where it goes down
    top, below = seen[heights > 0.048].mean(), seen[(heights > 0.02) & (heights < 0.04)].mean()
    assert 0.9 > float(top) > 2 * float(below)
