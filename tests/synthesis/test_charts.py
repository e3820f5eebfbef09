"""Stars on the reference head: where they are, and that the texture holds what was asked for."""

import math

import pytest
import torch

from topohead.core import Mesh, Topology
from topohead.geometry.correspondence import closest_points, interpolate
from topohead.io.assets import reference_head
from topohead.losses.sharpness import star_contrast
from topohead.rendering.mesh import interpolate as to_texels
from topohead.rendering.mesh import rasterize_uv
from topohead.synthesis.charts import Chart, draw, place_charts, uv_frame

SIZE = 2048


@pytest.fixture(scope="module")
def head():
    return reference_head(0)


@pytest.fixture(scope="module")
def charts(head) -> tuple[Chart, ...]:
    return place_charts(head)


def test_stars_are_on_the_face_and_mirror_each_other(head, charts) -> None:
    assert [chart.name for chart in charts] == ["forehead", "left_cheek", "right_cheek", "chin"]
    centers = torch.tensor([chart.center for chart in charts])
    face = head.template[head.topology.region_mask("face")]
    assert all((face - center).norm(dim=1).min() < 1e-4 for center in centers)
    assert torch.allclose(centers[1], centers[2] * torch.tensor([-1.0, 1, 1]), atol=1e-4)
    assert centers[1, 0] > 0.02  # the head's own left
    assert centers[0, 1] > centers[1, 1] > centers[3, 1]
    for chart in charts:
        axes = torch.tensor([chart.across, chart.up, chart.normal])
        assert torch.allclose(axes @ axes.T, torch.eye(3), atol=1e-5)
        assert float(torch.linalg.det(axes)) == pytest.approx(1, abs=1e-5) and chart.normal[2] > 0.7


def test_the_recorded_uv_leads_back_to_the_star(head, charts) -> None:
    topology, step = head.topology, 0.001
    layout = Topology(len(topology.uv), topology.face_uv, topology.uv, topology.face_uv)
    flat = Mesh(layout, torch.cat([topology.uv, torch.zeros(len(topology.uv), 1)], 1))
    for chart in charts:
        frame = {name: torch.tensor(uv) for name, uv in uv_frame(chart, head).items()}
        # a millimetre along each axis, found again through the texture's layout
        wanted = [frame["uv"], *(frame["uv"] + step * frame[k] for k in ("uv_across", "uv_up"))]
        points = torch.cat([torch.stack(wanted), torch.zeros(3, 1)], 1)
        found, distance = closest_points(points.double(), flat)
        assert distance.max() < 1e-6
        x, y, _ = chart.polar(interpolate(found, topology.triangles, head.template.double()))
        expected = torch.tensor([[0, 0], [step, 0], [0, step]]).double()
        # chords of curved skin between vertices 6 mm apart
        assert torch.allclose(torch.stack([x, y], 1), expected, atol=2e-4)


def test_a_painted_star_has_its_contrast_at_all_frequencies(head, charts) -> None:
    topology = head.topology
    raster = rasterize_uv(topology.uv, topology.triangle_uv, (SIZE, SIZE))
    points = to_texels(head.template, topology.triangles, raster)[raster.covered]
    generator = torch.Generator().manual_seed(0)
    skin = torch.rand(len(points), 3, generator=generator) * 0.2 + 0.3
    texel = 1 / (2.4 * SIZE)  # this head's layout: 2.4 of the square a metre
    tones = (torch.tensor([0.4, 0.4, 0.4]),) * len(charts)
    albedo, height = draw(charts, points, texel, skin, torch.ones(len(points)), tones)
    touched = (albedo != skin).any(1)
    for chart in charts:
        x, y, above = chart.polar(points)
        near = (torch.hypot(x, y) < chart.radius) & (above.abs() < chart.radius / 2)
        assert touched[near].all() and (height[near] == 0).all()
        touched &= (torch.hypot(x, y) > 1.2 * chart.radius) | (above.abs() > chart.radius / 2)
        finest = chart.spokes * texel / math.pi
        radii = torch.tensor([0.99 * chart.radius, 0.004, 0.003, 1.5 * finest])
        rings = torch.stack([radii / 1.15, radii], 1).double()
        places = torch.stack([x[near], y[near]], 1)
        contrast = star_contrast(albedo[near].mean(1), places, chart.spokes, rings)
        assert torch.allclose(contrast, torch.tensor(chart.contrast).double(), atol=0.02)
        hub = near & (torch.hypot(x, y) < finest)
        assert int(hub.sum()) > 20 and albedo[hub].std(0).max() < 1e-6
        assert albedo[near].mean(0).sub(0.4).abs().max() < 0.02
    assert not touched.any()  # nothing else changed
