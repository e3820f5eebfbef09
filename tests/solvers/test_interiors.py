"""Globes turn by the gaze that was planted; lids and lips that cross are taken apart, no others."""

import math
import time
from dataclasses import replace

import pytest
import torch

from egg_head import egg_head
from planted_eyes import APART, RADIUS, filmed_eyes, looking, masked_eyes
from topohead.core import Mesh, Topology, TrackedFrame, Views
from topohead.geometry.globes import RadialMap, fit_sphere, gaze_rotation
from topohead.solvers.contact import (
    lid_contacts,
    lid_depth,
    lids_outside,
    lip_contact,
    lip_depth,
    lips_apart,
)
from topohead.solvers.eyes import EyeConfig, Eyes, Gaze, find_eyes, look_at_eyes
from topohead.solvers.gaze import solve_gaze
from topohead.solvers.interiors import find_interiors, finish_frame
from topohead.synthesis.performances import euler

STILL = torch.eye(4, dtype=torch.float64)
CONFIG = EyeConfig()


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return masked_eyes()


@pytest.fixture(scope="module")
def eyes(mesh: Mesh) -> Eyes:
    found = find_eyes(mesh, STILL, CONFIG)
    assert found is not None
    return look_at_eyes(filmed_eyes(mesh, mesh.vertices), found, mesh.vertices, CONFIG)


def _moved(yaw: float = 0.1) -> torch.Tensor:
    motion = STILL.clone()
    motion[:3, :3] = euler(torch.tensor([yaw, -0.05, 0.03], dtype=torch.float64))
    motion[:3, 3] = torch.tensor([0.002, -0.003, 0.001])
    return motion


def _answer(vertices: torch.Tensor, pose: torch.Tensor = STILL) -> TrackedFrame:
    return TrackedFrame("000002", vertices.float(), pose, torch.ones(6, 3), 0.0, False, 0.0)


def test_gaze_turns_as_the_stage_turns_eyes() -> None:
    """Yaw to the person's left is toward +x, pitch up toward +y."""
    gaze = torch.tensor([[0.3, -0.2], [-0.1, 0.4]], dtype=torch.float64)
    for (yaw, pitch), turn in zip(gaze.tolist(), gaze_rotation(gaze), strict=True):
        staged = euler(torch.tensor([yaw, -pitch, 0.0], dtype=torch.float64))
        assert torch.allclose(turn, staged, atol=1e-12)
    assert gaze_rotation(torch.tensor([0.3, 0.0]))[0, 2] > 0.29
    assert gaze_rotation(torch.tensor([0.0, 0.3]))[1, 2] > 0.29


def test_the_radial_map_gives_distances_to_a_sphere(mesh: Mesh) -> None:
    left = mesh.topology.regions["eyes"].reshape(2, -1)[0]
    center, radius = fit_sphere(mesh.vertices[left])
    assert radius == pytest.approx(RADIUS, rel=1e-3)
    assert torch.allclose(center, torch.tensor([APART, 0, 0]), atol=1e-5)
    own = mesh.topology.triangles[mesh.topology.triangle_mask("eyes")]
    own = own[(own <= int(left.max())).all(1)]
    shape = RadialMap.of(mesh.vertices.double() - center, own, radius)
    generator = torch.Generator().manual_seed(0)
    rays = torch.nn.functional.normalize(torch.randn(500, 3, generator=generator).double(), dim=1)
    away = torch.rand(500, generator=generator).double() * 0.004 - 0.002
    # the ball's facets lie up to 0.02 mm inside the sphere
    assert (shape.clearance(rays * (RADIUS + away)[:, None]) - away).abs().max() < 5e-5


@pytest.mark.parametrize(
    "gaze",
    [
        [[0.0, 0.0], [0.0, 0.0]],
        [[0.3, -0.12], [0.3, -0.12]],
        [[-0.35, 0.1], [-0.35, 0.1]],
        [[-0.08, 0.15], [0.02, 0.15]],
    ],
)
def test_a_planted_gaze_comes_back(mesh: Mesh, eyes: Eyes, gaze: list[list[float]]) -> None:
    """Half a degree from six views, across a saccade, on a head that moved."""
    true, motion = torch.tensor(gaze, dtype=torch.float64), _moved()
    vertices = looking(mesh, true, motion)
    views = filmed_eyes(mesh, vertices, seed=2)
    lids = looking(mesh, torch.zeros(2, 2), motion).double()
    found = solve_gaze(views, eyes, lids, motion, Gaze.first(), CONFIG)
    assert math.degrees(float((found.angles - true).abs().max())) < 0.6
    assert (found.confidence > 0.5).all()


def test_a_gaze_far_aside_is_not_taken_for_another(mesh: Mesh, eyes: Eyes) -> None:
    """Few samples of the coarse search would prefer one that is 8° off, from which no step leads
    back."""
    true = torch.deg2rad(torch.tensor([[-27.5, -22.3], [-29.0, -22.3]], dtype=torch.float64))
    views = filmed_eyes(mesh, looking(mesh, true, STILL), seed=11)
    lids = looking(mesh, torch.zeros(2, 2), STILL).double()
    found = solve_gaze(views, eyes, lids, STILL, Gaze.first(), CONFIG)
    assert math.degrees(float((found.angles - true).abs().max())) < 0.6
    one = solve_gaze(views, eyes, lids, STILL, Gaze.first(), replace(CONFIG, finalists=1))
    assert math.degrees(float((one.angles - true).abs().max())) > 5


def test_globes_come_back_whole(mesh: Mesh) -> None:
    """A dented and unturned globe is replaced by the first frame's, turned."""
    interiors = find_interiors(filmed_eyes(mesh, mesh.vertices), mesh, STILL)
    true, motion = torch.tensor([[0.2, 0.1]] * 2, dtype=torch.float64), _moved()
    vertices = looking(mesh, true, motion)
    tracked = looking(mesh, torch.zeros(2, 2), motion)
    region = mesh.topology.regions["eyes"]
    generator = torch.Generator().manual_seed(1)
    tracked[region] += 0.001 * torch.randn(len(region), 3, generator=generator)
    views = filmed_eyes(mesh, vertices, seed=3)
    answer, gaze = finish_frame(views, interiors, _answer(tracked, motion), Gaze.first())
    assert (answer.vertices - vertices)[region].norm(dim=1).max() < 2e-4
    assert math.degrees(float((gaze.angles - true).abs().max())) < 0.6
    others = ~mesh.topology.region_mask("eyes")
    assert torch.equal(answer.vertices[others], tracked[others])


def _shut(mesh: Mesh, vertices: torch.Tensor) -> torch.Tensor:
    """Both openings closed, by the plate's vertices beside them."""
    shut = vertices.clone()
    plate = ~mesh.topology.region_mask("eyes")
    x, y = shut[:, 0].abs() - APART, shut[:, 1]
    rim = plate & ((x / 0.0145) ** 2 + (y / 0.0085) ** 2 < 1)
    shut[rim, 1] = 0
    return shut


def test_closed_eyes_keep_their_gaze_and_say_so(mesh: Mesh, eyes: Eyes) -> None:
    last = Gaze(torch.tensor([[0.2, 0.05], [0.2, 0.05]]).double(), torch.ones(2).double())
    vertices = _shut(mesh, mesh.vertices)
    found = solve_gaze(filmed_eyes(mesh, vertices), eyes, vertices.double(), STILL, last, CONFIG)
    assert (found.confidence < 0.1).all()
    assert (found.angles - last.angles).abs().max() < 0.02


def test_pictures_that_show_no_eye_do_not_turn_it(mesh: Mesh, eyes: Eyes) -> None:
    """A likely gaze is found in any noise, and not believed."""
    views = filmed_eyes(mesh, mesh.vertices)
    generator = torch.Generator().manual_seed(4)
    noise = tuple(torch.rand(image.shape, generator=generator) for image in views.images)
    last = Gaze(torch.full((2, 2), 0.1, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    vertices = mesh.vertices.double()
    found = solve_gaze(replace(views, images=noise), eyes, vertices, STILL, last, CONFIG)
    assert torch.equal(found.angles, last.angles)
    assert (found.confidence < 0.3).all()


def test_an_eye_that_winks_follows_the_other(mesh: Mesh, eyes: Eyes) -> None:
    true = torch.tensor([[0.25, -0.1], [0.25, -0.1]]).double()
    vertices = looking(mesh, true, STILL)
    shut = _shut(mesh, vertices)
    winking = torch.where((vertices[:, :1] > 0), vertices, shut)
    found = solve_gaze(
        filmed_eyes(mesh, winking), eyes, winking.double(), STILL, Gaze.first(), CONFIG
    )
    assert found.confidence[0] > 0.5
    assert found.confidence[1] < 0.1
    assert math.degrees(float((found.angles - true).abs().max())) < 1.0


def test_lids_inside_a_globe_come_out_and_no_others_move(mesh: Mesh, eyes: Eyes) -> None:
    contacts = lid_contacts(mesh, eyes)
    vertices = mesh.vertices.clone()
    left = (vertices[:, 0] > 0) & ~mesh.topology.region_mask("eyes")
    vertices[left, 2] -= 0.0035
    before = lid_depth(contacts[0], eyes, vertices, STILL, Gaze.first())[0].max()
    moved = lids_outside(contacts, eyes, vertices, STILL, Gaze.first())
    after = lid_depth(contacts[0], eyes, moved, STILL, Gaze.first())[0].max()
    assert before > 8e-4
    assert after < 1e-6
    changed = (moved - vertices).norm(dim=1) > 0
    assert not changed[mesh.vertices[:, 0] < 0].any()
    assert not changed[mesh.topology.regions["eyes"]].any()
    assert (moved - vertices).norm(dim=1).max() < before + 1e-6
    # smooth: neighbours of what was pushed furthest go along
    push = (moved - vertices).norm(dim=1)
    first, second = mesh.topology.edges.unbind(1)
    assert (push[first] - push[second]).abs().max() < 0.6 * before


def test_nothing_moves_where_nothing_touches(mesh: Mesh, eyes: Eyes) -> None:
    motion = _moved()
    vertices = looking(mesh, torch.zeros(2, 2), motion)
    moved = lids_outside(lid_contacts(mesh, eyes), eyes, vertices, motion, Gaze.first())
    assert torch.equal(moved, vertices)
    lips = _lips()
    contact = lip_contact(lips, STILL)
    assert contact is not None
    apart = lips.vertices @ motion[:3, :3].T.float() + motion[:3, 3].float()
    assert torch.equal(lips_apart(contact, apart, motion), apart)


def _lips() -> Mesh:
    """Two arched sheets 1 mm apart that face each other, 20 × 10 quads of 2 mm each."""
    x, z = torch.meshgrid(torch.arange(21) - 10.0, torch.arange(11) - 5.0, indexing="xy")
    height = 1.0 - 0.02 * z**2
    lower = torch.stack([2 * x, height - 1.5, 2 * z], -1).reshape(-1, 3) / 1e3
    upper = lower + torch.tensor([0, 1e-3, 0])
    index = torch.arange(len(lower)).reshape(x.shape)
    corners = [index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]]
    facing_up = torch.stack(corners, -1).reshape(-1, 4)
    faces = torch.cat([facing_up, facing_up.flip(1) + len(lower)])
    number = torch.arange(2 * len(lower))
    regions = {"lips_lower": number[: len(lower)], "lips_upper": number[len(lower) :]}
    topology = Topology(len(number), faces, torch.zeros(1, 2), torch.zeros_like(faces), regions)
    return Mesh(topology, torch.cat([lower, upper]))


def test_lips_that_cross_meet_half_way() -> None:
    lips = _lips()
    contact = lip_contact(lips, STILL)
    assert contact is not None
    vertices = lips.vertices.clone()
    upper = lips.topology.regions["lips_upper"]
    # the middle of the upper lip comes down by 1.8 mm: 0.8 mm too far
    down = 0.0018 * torch.exp(-((vertices[upper, 0] / 0.012) ** 2))
    vertices[upper, 1] -= down
    before = lip_depth(contact, vertices, STILL).max()
    moved = lips_apart(contact, vertices, STILL)
    after = lip_depth(contact, moved, STILL).max()
    assert before == pytest.approx(8e-4, rel=0.02)
    assert after < 5e-5
    step = (moved - vertices)[:, 1]
    assert step[upper].max() == pytest.approx(4e-4, rel=0.3)
    assert step.min() == pytest.approx(-4e-4, rel=0.3)
    assert (moved - vertices)[:, [0, 2]].abs().max() == 0


def test_an_overlap_of_the_first_frame_is_left_alone() -> None:
    lips = _lips()
    vertices = lips.vertices.clone()
    vertices[lips.topology.regions["lips_upper"], 1] -= 0.0014
    crossing = Mesh(lips.topology, vertices)
    contact = lip_contact(crossing, STILL)
    assert contact is not None
    assert torch.equal(lips_apart(contact, vertices, STILL), vertices)


def test_a_mesh_without_eyes_is_left_alone() -> None:
    head = egg_head()
    mesh = Mesh(head.topology, head.template)
    views = Views("000001", filmed_eyes(masked_eyes(), masked_eyes().vertices).cameras, ())
    interiors = find_interiors(views, mesh, STILL)
    assert interiors.eyes is None
    assert interiors.lips is None
    answer, gaze = finish_frame(views, interiors, _answer(mesh.vertices), Gaze.first())
    assert torch.equal(answer.vertices, mesh.vertices)
    assert torch.equal(gaze.angles, torch.zeros(2, 2).double())


def test_eyes_that_hang_on_the_skin_are_no_globes(mesh: Mesh) -> None:
    """Turning them would tear the mesh."""
    everything = torch.arange(mesh.topology.vertex_count)
    skin = everything[~mesh.topology.region_mask("eyes")]
    grown = replace(mesh.topology, regions={"eyes": skin[:400]})
    assert find_eyes(Mesh(grown, mesh.vertices), STILL, CONFIG) is None


def test_teeth_stay_rigid() -> None:
    """Upper teeth go with the skull, lower ones with what the jaw has done to them."""
    head = egg_head()
    count = head.topology.vertex_count
    tooth = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 100
    vertices = torch.cat([head.template, tooth, tooth + 0.02])
    quads = torch.tensor([[0, 1, 2, 2], [0, 1, 3, 3]])
    faces = torch.cat([head.topology.faces, quads + count, quads + count + 4])
    regions = {
        "teeth_upper": torch.arange(count, count + 4),
        "teeth_lower": torch.arange(count + 4, count + 8),
    }
    topology = Topology(len(vertices), faces, torch.zeros(1, 2), torch.zeros_like(faces), regions)
    mesh = Mesh(topology, vertices)
    motion = _moved()
    views = Views("000001", filmed_eyes(masked_eyes(), masked_eyes().vertices).cameras, ())
    interiors = find_interiors(views, mesh, STILL)
    carried = vertices @ motion[:3, :3].T.float() + motion[:3, 3].float()
    jaw = euler(torch.tensor([0.0, 0.2, 0.0]))
    lower = carried.clone()
    lower[-4:] = carried[-4:] @ jaw.T * torch.tensor([1.05, 1.0, 1.0])
    lower[count : count + 4] += 0.003
    answer, _ = finish_frame(views, interiors, _answer(lower, motion), Gaze.first())
    assert torch.allclose(answer.vertices[count : count + 4], carried[count : count + 4], atol=1e-6)
    found = answer.vertices[-4:]
    assert torch.allclose(torch.pdist(found), torch.pdist(tooth), atol=1e-6)
    assert (found - lower[-4:]).norm(dim=1).max() < 1e-3


@pytest.mark.gpu
def test_views_on_a_device_give_the_same_gaze(mesh: Mesh, eyes: Eyes) -> None:
    """What hides is drawn there, and comes to the host with the patches; the rest is the same
    arithmetic. A frame's eyes take a few ms."""
    true = torch.tensor([[0.3, -0.12], [0.3, -0.12]], dtype=torch.float64)
    vertices = looking(mesh, true, STILL)
    views = filmed_eyes(mesh, vertices, seed=2)
    lids = mesh.vertices.double()
    here = solve_gaze(views, eyes, lids, STILL, Gaze.first(), CONFIG)
    there = views.to("cuda")
    for _ in range(3):
        started = time.perf_counter()
        found = solve_gaze(there, eyes, lids, STILL, Gaze.first(), CONFIG)
        seconds = time.perf_counter() - started
    print(f"gaze of six views: {1000 * seconds:.1f} ms")
    assert (found.angles - here.angles).abs().max() < 1e-5
