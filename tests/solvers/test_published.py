"""The published method on a coloured egg in front of a ring of cameras."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from topohead.core import Cameras, Mesh, Topology, Views
from topohead.geometry.cameras import look_at
from topohead.rendering import mesh as raster
from topohead.solvers import published
from topohead.solvers.gaussian_mesh import sample_vertex_colors

SIZE = (160, 120)
# so few steps need a larger stride to cover the motion
FAST = published.PublishedConfig(
    rates=published.PublishedRates(center_factor=5.0),
    first_steps=150,
    steps=300,
    color_steps=5,
    margin=0,
)


def egg(rings: int = 28) -> Mesh:
    """A head-sized ellipsoid of quads, open at the poles."""
    latitude = torch.linspace(0.06 * math.pi, 0.94 * math.pi, rings, dtype=torch.float64)
    longitude = torch.arange(2 * rings, dtype=torch.float64) * math.pi / rings
    vertices = torch.stack(
        [
            0.075 * latitude.sin()[:, None] * longitude.cos(),
            0.11 * latitude.cos()[:, None].expand(-1, len(longitude)),
            -0.09 * latitude.sin()[:, None] * longitude.sin(),
        ],
        -1,
    ).reshape(-1, 3)
    n = len(longitude)
    i, j = torch.meshgrid(torch.arange(rings - 1), torch.arange(n), indexing="ij")
    k = (j + 1) % n
    faces = torch.stack([i * n + j, (i + 1) * n + j, (i + 1) * n + k, i * n + k], -1).reshape(-1, 4)
    topology = Topology(len(vertices), faces, torch.zeros(1, 2), torch.zeros_like(faces))
    return Mesh(topology, vertices)


def paint(points: torch.Tensor) -> torch.Tensor:
    """A colour for every place on the egg, with waves of about five centimetres."""
    u, v, w = (points * 110).unbind(-1)
    waves = [torch.sin(u + 0.7 * v), torch.sin(1.1 * v - 0.6 * w), torch.sin(w + u + 0.5)]
    return 0.5 + 0.3 * torch.stack(waves, -1)


def ring_of_cameras(count: int = 6) -> Cameras:
    width, height = SIZE
    poses = []
    for k in range(count):
        angle = 2 * math.pi * k / count
        eye = torch.tensor(
            [0.7 * math.sin(angle), 0.12 * (-1) ** k, 0.7 * math.cos(angle)], dtype=torch.float64
        )
        up = torch.tensor([0.0, 1, 0], dtype=torch.float64)
        poses.append(look_at(eye, torch.zeros(3, dtype=torch.float64), up))
    lens = torch.tensor(
        [[330.0, 0, width / 2 + 1], [0, 330.0, height / 2 - 2], [0, 0, 1]], dtype=torch.float64
    )
    return Cameras(
        tuple(f"c{k}" for k in range(count)),
        torch.stack(poses),
        lens.repeat(count, 1, 1),
        torch.tensor([SIZE] * count),
    )


def film(shape: Mesh, original: Mesh, cameras: Cameras, frame: str) -> Views:
    """Pictures of the deformed egg, painted at its undeformed places; 3×3 samples a pixel."""
    fine = cameras.resized(cameras.sizes * 3)
    images, masks = [], []
    for index in range(len(cameras)):
        seen = raster.rasterize(
            shape.vertices, shape.topology.triangles, fine.world_to_camera[index],
            fine.intrinsics[index], fine.size(index),
        )  # fmt: skip
        place = raster.interpolate(original.vertices, shape.topology.triangles, seen)
        color = paint(place) * seen.covered[..., None]
        layers = torch.cat([color, seen.covered[..., None].double()], -1)
        height, width = layers.shape[0] // 3, layers.shape[1] // 3
        small = layers.reshape(height, 3, width, 3, 4).mean((1, 3)).float()
        masks.append(small[..., 3].contiguous())
        images.append((small[..., :3] / masks[-1].clamp(min=1e-6)[..., None]).clamp(0, 1))
    return Views(frame, cameras, tuple(images), tuple(masks))


@pytest.fixture(scope="module")
def take():
    first = egg()
    cameras = ring_of_cameras()
    bump = torch.exp(
        -((first.vertices - torch.tensor([0.02, 0.01, 0.085])) / 0.045).square().sum(1)
    )
    moved = first.vertices + bump[:, None] * torch.tensor([0.0024, 0.0016, 0.0008])
    second = Mesh(first.topology, moved)
    return first, second, [film(m, first, cameras, str(k)) for k, m in enumerate((first, second))]


def test_planted_motion_is_recovered(take):
    """The bump moves by about a pixel; where nothing moves, nothing is found to move.

    Both answers are compared with the answer for the unmoved egg: Gaussians have a volume, and at
    this size (5 mm between vertices) that alone shifts the surface by a millimetre.
    """
    first, second, views = take
    scene = published.make_scene(first, FAST)
    state = published.learn_first_frame(views[0], scene)
    found = [published.advance(v, scene, state)[1].vertices for v in views]
    planted = second.vertices - first.vertices
    error = (found[1] - found[0] - planted).norm(dim=1)
    moving = planted.norm(dim=1) > 0.0015
    assert moving.sum() > 40 and planted[moving].norm(dim=1).median() > 0.002
    assert error[moving].median() < 0.35 * planted[moving].norm(dim=1).median()
    still = planted.norm(dim=1) < 0.0001
    assert error[still].median() < 0.0003
    assert (found[0] - first.vertices).norm(dim=1).median() < 0.002


def test_sequence_of_answers(take):
    first, _, views = take
    config = replace(FAST, first_steps=30, steps=30)
    answers = list(published.track_published(views, first, config))
    assert [answer.frame for answer in answers] == ["0", "1"]
    torch.testing.assert_close(answers[0].vertices, first.vertices.float())
    assert not answers[1].doubtful and answers[1].gains.shape == (6, 3)
    np.testing.assert_allclose(answers[1].pose[:3, :3], np.eye(3), atol=0.01)


def test_runs_are_reproducible_and_resumable(take):
    first, _, views = take
    config = replace(FAST, first_steps=20, steps=20, color_steps=4)
    scene = published.make_scene(first, config)
    state = published.learn_first_frame(views[0], scene)
    state_again, answer = published.advance(views[1], scene, state)
    straight = list(published.track_published(views, first, config))
    assert torch.equal(answer.vertices, straight[1].vertices)
    assert state_again.steps == 44


def test_camera_gain_is_learnt(take):
    first, _, views = take
    images = list(views[0].images)
    images[2] = images[2] * torch.tensor([0.9, 1.0, 1.1])
    tinted = replace(views[0], images=tuple(images))
    # a rate that covers the way in few steps
    rates = replace(FAST.rates, camera=2e-3)
    scene = published.make_scene(first, replace(FAST, rates=rates, first_steps=300))
    state = published.learn_first_frame(tinted, scene, sample_vertex_colors(views[0], first))
    middle = 0.5  # what the camera makes of a middling colour
    made = state.gains * middle + state.offsets
    assert made[2, 2] - made[2, 0] > 0.05
    assert abs(made[0, 2] - made[0, 0]) < 0.03


def test_vertex_colors_are_those_of_the_surface(take):
    first, _, views = take
    colors = sample_vertex_colors(views[0], first)
    error = (colors - paint(first.vertices).float()).abs().max(1).values
    assert error.median() < 0.03


def test_expansion_pushes_outward_and_is_limited(take):
    first, _, _ = take
    scene = published.make_scene(first, FAST)
    state = published.learn_first_frame(
        take[2][0], replace(scene, config=replace(FAST, first_steps=0))
    )
    grown = published.expanded(scene, state) - first.vertices.float()
    outward = (grown * first.vertices.float()).sum(1)
    assert (outward > 0).all()
    thickness = torch.from_numpy(scene.initial_scales[:, 2]) * FAST.unit
    expected = thickness.clamp(max=FAST.expansion_limit * FAST.unit)
    torch.testing.assert_close(grown.norm(dim=1), expected, rtol=2e-2, atol=2e-7)


def test_frozen_vertices_stay_and_the_mouth_is_masked(take):
    first, _, views = take
    front = (first.vertices[:, 2] > 0.06).nonzero()[:, 0]
    topology = replace(first.topology, regions={"neck": front[:5], "mouth_interior": front})
    mesh = Mesh(topology, first.vertices)
    config = replace(FAST, first_steps=5, steps=20, color_steps=0, frozen=("neck",), mouth=0.0)
    scene = published.make_scene(mesh, config)
    state = published.learn_first_frame(views[0], scene)
    moved = published.advance(views[1], scene, state)[0].means - state.means
    assert np.abs(moved[front[:5]]).max() == 0 and np.abs(moved).max() > 0
    masks = [target.mask for target in published._targets(views[0], scene, mesh.vertices)]
    whole = [t.mask for t in published._targets(views[0], replace(
        scene, config=replace(config, mouth=1.0)), mesh.vertices)]  # fmt: skip
    # the front camera sees the mouth, the one behind the egg does not
    assert masks[0].sum() < 0.9 * whole[0].sum() and masks[3].sum() == whole[3].sum()


def test_background_off_the_masks_does_not_matter(take):
    first, _, views = take
    config = replace(FAST, first_steps=20, margin=12)
    scene = published.make_scene(first, config)
    lit = [torch.where(m[..., None] > 0, i, 0.7) for i, m in zip(
        views[0].images, views[0].masks, strict=True)]  # fmt: skip
    dark, bright = (
        published.learn_first_frame(v, scene, torch.full_like(first.vertices, 0.5).float())
        for v in (views[0], replace(views[0], images=tuple(lit)))
    )
    np.testing.assert_array_equal(dark.scales, bright.scales)
