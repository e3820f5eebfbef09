"""The network on whole scans: any frame, unit and normals give one fit, and doubt is told."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from topohead.core import HeadModel, Scan
from topohead.geometry.meshes import face_normals
from topohead.geometry.subdivision import catmull_clark
from topohead.io.assets import reference_head
from topohead.models.learned_icp import Registered
from topohead.models.registration import Registration, Registrations, Similarity
from topohead.models.scan_pose import rotation_from_6d
from topohead.solvers import network_samples, recording, scan_network, scan_samples
from topohead.solvers.network_samples import draw_samples, estimated_normals
from topohead.solvers.scan_network import Hypothesis, judged_fit, network_fit, shows_head
from topohead.synthesis.datasets import PosedPeople, ScanBatch, ScanSource
from topohead.synthesis.expressions import draw_expressions
from topohead.synthesis.scan_surface import scan_surface
from topohead.synthesis.shapes import load_shapes
from topohead.workflows.registering.network import load_registration

BARE = torch.zeros(0, 3, dtype=torch.int64)


@pytest.fixture(scope="module")
def network() -> Registration:
    return load_registration()


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return reference_head(0)


@pytest.fixture(scope="module")
def people() -> ScanBatch:
    """Whole clean scans of two people of a test seed, in metres, neither turned nor moved."""
    shapes = load_shapes("cpu")
    drawn = PosedPeople(shapes, draw_expressions, 731)
    source = ScanSource(
        drawn, scan_surface(shapes.topology, shapes.head.template.cpu()), 731, 20_000, "none"
    )
    return source.at(torch.arange(2))


def mesh(people: ScanBatch, number: int, head: HeadModel) -> Scan:
    """A scan as triangles, one Catmull–Clark step finer than the control mesh, in its head frame.

    Eyes, mouth and teeth are left out.
    """
    finer, matrix = catmull_clark(head.topology)
    inner = finer.region_mask("eyes", "eye_sockets", "mouth_interior", "teeth", "tongue")
    kept = finer.triangles[~inner[finer.triangles].any(1)]
    return Scan(torch.sparse.mm(matrix.float(), people.vertices[number]), kept)


def turned(scan: Scan, similarity: Similarity) -> Scan:
    return dataclasses.replace(scan, points=similarity.apply(scan.points[None])[0])


def somewhere(seed: int, scale: float) -> Similarity:
    generator = torch.Generator().manual_seed(seed)
    rotation = rotation_from_6d(torch.randn(1, 6, generator=generator))
    shift = scale * torch.randn(1, 3, generator=generator)
    return Similarity(torch.tensor([scale]), rotation, shift)


def face_error(vertices: torch.Tensor, truth: torch.Tensor, head: HeadModel) -> float:
    """Median on the face, mm."""
    inner = head.topology.region_mask("eye_sockets", "mouth_interior", "teeth", "tongue")
    face = head.topology.region_mask("face") & ~inner
    return float((vertices - truth)[face].norm(dim=-1).median()) * 1e3


@pytest.mark.parametrize("number", [0, 1])
def test_a_new_person_is_found_wherever_the_scan_lies(
    network: Registration, head: HeadModel, people: ScanBatch, number: int
) -> None:
    """In any orientation; in metres the head's size is known too."""
    truth, scan = people.vertices[number], mesh(people, number, head)
    for seed in range(3):
        there = somewhere(seed, 1.0)
        fit, found = judged_fit(turned(scan, there), network, head)
        back = there.inverse().apply(fit.vertices[None])[0]
        assert face_error(back, truth, head) < FOUND_MM
        assert found[0].sigma < FOUND_MM / 1e3
        # most of the head's clean surface belongs to the head
        assert float(fit.inliers.float().mean()) > 0.9


FOUND_MM = 1.5
"""Median error on the face within which a clean scan of the population is found."""


def test_units_bare_points_and_flipped_normals(
    network: Registration, head: HeadModel, people: ScanBatch
) -> None:
    truth, scan = people.vertices[0], mesh(people, 0, head)
    cases = {
        "millimetres": (turned(scan, somewhere(5, 1000.0)), 1000.0),
        "flipped": (turned(dataclasses.replace(scan, triangles=scan.triangles.flip(1)),
                           somewhere(5, 1.0)), 1.0),
        "bare": (turned(Scan(scan.points, BARE), somewhere(5, 1.0)), 1.0),
    }  # fmt: skip
    for name, (there, unit) in cases.items():
        fit = network_fit(there, network, head)
        back = somewhere(5, unit).inverse().apply(fit.vertices[None])[0]
        assert face_error(back, truth, head) < FOUND_MM, name
        # sigma is in the scan's unit
        assert 1e-4 < float(fit.sigma.median()) / unit < 5e-3, name
        pose = fit.pose[:3, :3]
        assert float(torch.linalg.det(pose)) ** (1 / 3) == pytest.approx(unit, rel=0.15), name


def test_answers_to_the_mirror_image_are_turned_back(
    network: Registration, head: HeadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a head without symmetry, by a network that knows it; and points looked at agree once."""
    random = torch.Generator().manual_seed(0)
    mirror, sides = head.topology.mirror, torch.tensor([-1.0, 1, 1])
    assert mirror is not None
    vertices = head.template + 0.01 * torch.randn(head.template.shape, generator=random)
    sigma, actions = (torch.rand(n, generator=random) for n in (len(vertices), 52))
    logits = torch.tensor([[3.0, 1, -2], [-1, 1, -2], [-1, -4, 5], [3, 1, 5]])
    numbers = torch.tensor([[0, 1, 2], [0, 4, 2], [0, 1, 5], [3, 4, 5]])

    def knowing(_network, points, _normals, _valid, *_rest, **_options) -> Registrations:
        turned = [not torch.equal(part, points[0]) for part in points]
        assert turned == [False, True, False, True]
        seen = zip(
            *(((vertices * sides)[mirror], sigma[mirror], actions[scan_network.OTHER_SIDE])
              if over else (vertices, sigma, actions) for over in turned),
            strict=True,
        )  # fmt: skip
        found, log_sigma, coefficients = (torch.stack(part) for part in seen)
        answer = Registered(found[None], found, log_sigma, logits, coefficients)
        same = Similarity(torch.ones(4), torch.eye(3).expand(4, 3, 3), torch.zeros(4, 3))
        return Registrations(answer, same, torch.zeros(4), numbers)

    monkeypatch.setattr(scan_network, "register_points", knowing)
    cloud = head.template[:7], torch.zeros(7, 3), torch.tensor([True] * 5 + [False] * 2)
    start = somewhere(3, 2.0)
    turns = scan_network._Mirror.of(head, torch.device("cpu"))
    told = scan_network._mean_of_looks(network, turns, start.packed(), head.template, *cloud)
    assert torch.allclose(start.apply(told[0][None])[0], vertices, atol=1e-6)
    assert torch.allclose(told[1], sigma.exp() / 1e3 / 2)
    assert torch.allclose(told[3], actions)
    seen = told[4].isfinite().all(1)
    assert seen.tolist() == [True] * 5 + [False] * 2
    assert told[5][seen].tolist() == [True, False, False, True, True]


def test_the_same_seed_gives_the_same_bytes(
    network: Registration, head: HeadModel, people: ScanBatch
) -> None:
    scan = turned(mesh(people, 1, head), somewhere(2, 1.0))
    first, second = (network_fit(scan, network, head, seed=3) for _ in range(2))
    other = network_fit(scan, network, head, seed=4)
    for entry in dataclasses.fields(first):
        assert torch.equal(getattr(first, entry.name), getattr(second, entry.name)), entry.name
    assert not torch.equal(first.vertices, other.vertices)


def test_what_is_no_head_fits_badly(
    network: Registration, head: HeadModel, people: ScanBatch
) -> None:
    """A box leaves the network unsure, whatever way it is turned."""
    corners = torch.rand(6000, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    side = torch.arange(6000) % 3
    corners[torch.arange(6000), side] = corners[torch.arange(6000), side].sign() / 2
    box = 0.3 * corners * torch.tensor([1.0, 0.3, 2.0])
    _, wrong = judged_fit(Scan(box, BARE), network, head)
    _, right = judged_fit(mesh(people, 0, head), network, head)
    assert isinstance(wrong[0], Hypothesis)
    assert wrong[0].sigma > 2 * right[0].sigma
    assert len(wrong) > len(right) == 1
    assert [each.sigma for each in wrong] == sorted(each.sigma for each in wrong)


def test_a_head_above_a_large_trunk_is_found(
    network: Registration, head: HeadModel, people: ScanBatch
) -> None:
    """Two thirds of the surface are no head: the scan as a whole does not look like one."""
    scan = mesh(people, 0, head)
    generator = torch.Generator().manual_seed(1)
    ball = torch.nn.functional.normalize(torch.randn(40_000, 3, generator=generator), dim=1)
    trunk = ball * torch.tensor([0.24, 0.2, 0.13]) + torch.tensor([0.0, -0.36, -0.08])
    bust = Scan(torch.cat([scan.points, trunk]), BARE)
    there = somewhere(4, 1.0)
    fit, found = judged_fit(turned(bust, there), network, head)
    back = there.inverse().apply(fit.vertices[None])[0]
    assert face_error(back, people.vertices[0], head) < 2 * FOUND_MM
    assert found[0].sigma < 2 * FOUND_MM / 1e3
    assert float(fit.inliers[len(scan.points) :].float().mean()) < 0.1


@pytest.mark.slow
def test_a_head_before_a_wall_is_found(
    network: Registration, head: HeadModel, people: ScanBatch
) -> None:
    """A twentieth of the surface is a head: too few of the points that are drawn of all of it."""
    scan = mesh(people, 0, head)
    steps = torch.linspace(-0.8, 0.8, 40)
    x, y = (part.flatten() for part in torch.meshgrid(steps, steps, indexing="xy"))
    wall = torch.stack([x, y, torch.full_like(x, -0.3)], 1)
    corner = (torch.arange(39) + 40 * torch.arange(39)[:, None]).flatten()
    sides = torch.cat([corner[:, None] + torch.tensor(each) for each in ((0, 1, 41), (0, 41, 40))])
    triangles = torch.cat([scan.triangles, sides + len(scan.points)])
    room = Scan(torch.cat([scan.points, wall]), triangles)
    there = somewhere(5, 1.0)
    room = turned(room, there)
    fit, found = judged_fit(room, network, head)
    back = there.inverse().apply(fit.vertices[None])[0]
    assert face_error(back, people.vertices[0], head) < 2 * FOUND_MM
    assert found[0].sigma < 2 * FOUND_MM / 1e3
    assert shows_head(room, network, head)
    assert not shows_head(Scan(wall, sides), network, head)


def test_too_few_points_are_refused(network: Registration, head: HeadModel) -> None:
    with pytest.raises(ValueError, match="100 points, got 40"):
        network_fit(Scan(torch.rand(40, 3), BARE), network, head)


def test_samples_are_even_on_any_triangulation() -> None:
    """A square of one large and many small triangles: halves get half of the points."""
    grid = torch.stack(torch.meshgrid(torch.linspace(0, 1, 41), torch.linspace(0, 0.5, 21),
                                      indexing="ij"), -1).flatten(0, 1)  # fmt: skip
    cell = (torch.arange(40)[:, None] * 21 + torch.arange(20)).flatten()
    small = torch.cat([torch.stack([cell, cell + 21, cell + 22], 1),
                       torch.stack([cell, cell + 22, cell + 1], 1)])  # fmt: skip
    large = torch.tensor([[861, 862, 863], [861, 863, 864]])
    points = torch.cat([grid, torch.tensor([[0, 0.5], [1, 0.5], [1, 1], [0, 1.0]])])
    flat = torch.cat([points, torch.zeros(len(points), 1)], 1)
    scan = Scan(flat, torch.cat([small, large]))
    samples = draw_samples(scan, None, np.random.default_rng(0), torch.device("cpu"))
    upper = float((samples.points[:, 1] > 0.5).float().mean())
    assert upper == pytest.approx(0.5, abs=1e-3)
    assert torch.allclose(samples.normals.abs(), torch.tensor([0.0, 0, 1]).expand_as(flat[:1]))


def test_work_that_is_recorded_sees_the_same_head(
    network: Registration, head: HeadModel, people: ScanBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filled up to the shapes that CUDA records, and each cell's speaker asked again and again."""
    scan = mesh(people, 0, head)
    random = torch.Generator().manual_seed(0)
    cloud = Scan(scan.points[torch.randperm(len(scan.points), generator=random)[:5000]], BARE)
    expected = network_fit(cloud, network, head)
    for module in (recording, scan_network, scan_samples):
        monkeypatch.setattr(module, "fixed", lambda _: True)
    found = network_fit(cloud, network, head)
    for entry in dataclasses.fields(found):
        here, there = (getattr(fit, entry.name).float() for fit in (found, expected))
        assert float((here - there).abs().max()) < 2e-6


def test_crowded_points_are_thinned() -> None:
    """Half a sphere has nine tenths of the points, and less than two thirds of the samples."""
    generator = torch.Generator().manual_seed(0)
    ball = torch.nn.functional.normalize(torch.randn(200_000, 3, generator=generator), dim=1)
    dense = torch.rand(len(ball), generator=generator) < torch.where(ball[:, 0] > 0, 1.0, 1 / 9)
    points = ball[dense]
    assert float((points[:, 0] > 0).float().mean()) > 0.88
    chosen = network_samples._spread(points.double(), None, np.random.default_rng(0))
    assert len(chosen) > 5000
    assert float((points[chosen][:, 0] > 0).float().mean()) < 0.67


def test_estimated_normals_are_those_of_a_sphere() -> None:
    generator = torch.Generator().manual_seed(0)
    ball = torch.nn.functional.normalize(torch.randn(4000, 3, generator=generator), dim=1)
    agree = (estimated_normals(ball) * ball).sum(1).abs()
    assert float(agree.quantile(0.05)) > math.cos(math.radians(8))


@pytest.mark.parametrize("wrong", ["flipped", "mixed", "absent", "right"])
def test_normals_are_turned_outwards(head: HeadModel, wrong: str) -> None:
    topology = head.topology
    inner = topology.region_mask("eye_sockets", "eyes", "teeth", "mouth_interior", "tongue")
    triangles = topology.triangles[~inner[topology.triangles].any(1)]
    points = head.template[triangles].mean(1)
    normals = face_normals(head.template, triangles)
    sign = torch.rand(len(points), 1, generator=torch.Generator().manual_seed(0)).sub(0.5).sign()
    given = {"flipped": -normals, "mixed": normals * sign, "absent": 0 * normals,
             "right": normals}[wrong]  # fmt: skip
    if wrong == "absent":
        given = estimated_normals(points)
    valid = torch.ones(len(points), dtype=torch.bool)
    turned_out = scan_network._outward(points, given, valid, head.template, topology.triangles)
    agree = (turned_out * normals).sum(1)
    assert float((agree > 0).float().mean()) > (0.999 if wrong in ("flipped", "right") else 0.93)
