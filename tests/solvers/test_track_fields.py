"""Offsets of a head from points on it."""

import torch

from posed_person import turned
from topohead.core import SurfacePoints
from topohead.geometry.correspondence import interpolate
from topohead.io.assets import reference_head
from topohead.solvers.track_fields import Smoothness, offset_field

SMOOTH = Smoothness(offset=0.1, bend=0.0001)


def spread_points(generator: torch.Generator, count: int = 3000) -> SurfacePoints:
    topology = reference_head(0).topology
    skin = topology.triangle_mask("skin").nonzero()[:, 0]
    chosen = skin[torch.randint(len(skin), (count,), generator=generator)]
    corners = torch.rand(count, 3, generator=generator).double()
    return SurfacePoints(chosen, corners / corners.sum(1, keepdim=True))


def planted(places: torch.Tensor) -> torch.Tensor:
    """Millimetres of a person: a bulge of 3 mm round the tip of the nose."""
    near = torch.exp(-((places - places[places[:, 2].argmax()]).norm(dim=1) / 0.04).square() / 2)
    return 0.003 * near[:, None] * torch.nn.functional.normalize(places, dim=1)


def test_a_planted_field_is_found_through_noise_and_carries_the_eyes() -> None:
    head, generator = reference_head(0), torch.Generator().manual_seed(0)
    topology, rest = head.topology, head.template.double()
    points = spread_points(generator)
    truth = planted(rest)
    measured = interpolate(points, topology.triangles, truth)
    measured = measured + 0.0005 * torch.randn(measured.shape, generator=generator)
    slopes = torch.eye(3).double().expand(len(measured), 3, 3) / 0.0005
    found = offset_field(topology, rest, points, slopes, measured / 0.0005, SMOOTH)
    face = topology.region_mask("skin").nonzero()[:, 0]
    left = (found - truth)[face].norm(dim=1)
    assert float(left.square().mean().sqrt()) < 0.2 * float(truth[face].norm(dim=1).max())
    assert float(left.median()) < 0.0003
    eye = found[topology.regions["eye_left"]]
    assert float((eye - eye[0]).norm(dim=1).max()) < 1e-12  # a ball stays one
    assert float((eye[0] - truth[topology.regions["eyelids"]].mean(0)).norm()) < 0.001


def test_pictures_move_points_across_the_view_and_not_along_it() -> None:
    head = reference_head(0)
    rest = head.template.double()
    points = spread_points(torch.Generator().manual_seed(1))
    across = 1800 * turned(30.0)[:2, :3].expand(len(points.triangles), 2, 3)
    gaps = torch.tensor([2.0, -1.0]).double().expand(len(points.triangles), 2)
    found = offset_field(head.topology, rest, points, across, gaps, SMOOTH)
    seen = found @ turned(30.0)[:3, :3].T * 1800
    assert float((seen[:, :2] - gaps[0]).norm(dim=1).max()) < 0.05  # pixels; inside the mouth too
    assert float(seen[:, 2].abs().max()) < 1e-3
