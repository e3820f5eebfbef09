"""The registration network: exact look-ups and poses, a start at the template, learning."""

import copy
import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch

from topohead.geometry.neighbours import farthest_points, gather_rows, nearest
from topohead.io.assets import reference_head
from topohead.losses.registration import landmark_places, loss_surface
from topohead.models.learned_icp import IcpSize, LearnedIcp, Round
from topohead.models.registration import (
    FACE_CENTRE,
    Registration,
    RegistrationSize,
    Similarity,
    chosen_points,
    corrected,
    face_density,
    find_pose,
    in_head,
    register_points,
    template_of,
    umeyama,
)
from topohead.models.scan_pose import (
    PoseGuess,
    PoseSize,
    ScanPose,
    normalised,
    quarter_turns,
    rotation_from_6d,
)
from topohead.solvers.training import Training, train
from topohead.workflows.training import register
from topohead.workflows.training.register import PERCEIVERS, PRESETS, register_task


@pytest.fixture(scope="module")
def network() -> Registration:
    torch.manual_seed(0)
    size = PRESETS["xs"].size
    return Registration(size, template_of(reference_head(0), size.icp.nodes))


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)


def test_rounding_tells_no_neighbour_of_a_node(network: Registration) -> None:
    """The last neighbour wanted and the next are equally far, another device's rounding apart."""
    icp = copy.deepcopy(network.icp).eval()
    assert isinstance(icp, LearnedIcp)
    work, count = icp.rounds[0], icp.size.neighbours
    assert isinstance(work, Round)
    random = torch.Generator().manual_seed(2)
    node = 1e3 * icp.rest[:1]
    ways = torch.nn.functional.normalize(torch.randn(40, 3, generator=random), dim=1)
    away = 2 + 0.5 * torch.arange(40.0)  # mm
    away[count] = away[count - 1]
    places = node.expand(1, len(icp.rest), 3)
    seen = []
    for nearer in (count - 1, count):
        rounded = away.clone()
        rounded[nearer] -= 1e-4
        points = (node + rounded[:, None] * ways)[None]
        with torch.no_grad():
            seen.append(icp._look_up(work, places, points, ways[None])[0, 0])  # pyright: ignore
    assert float((seen[0] - seen[1]).abs().max()) < 3e-3 * float(seen[0].abs().max())


def random_similarity(count: int, seed: int = 0) -> Similarity:
    generator = torch.Generator().manual_seed(seed)
    rotation = rotation_from_6d(torch.randn(count, 6, generator=generator))
    scale = torch.rand(count, generator=generator) + 0.5
    return Similarity(scale, rotation, torch.randn(count, 3, generator=generator))


def test_nearest_is_what_brute_force_finds() -> None:
    generator = torch.Generator().manual_seed(1)
    points = 100 * torch.randn(2, 300, 3, generator=generator)
    queries = 100 * torch.randn(2, 50, 3, generator=generator)
    distance, index = nearest(queries, points, 7, quick=True)
    brute = (queries[:, :, None] - points[:, None]).norm(dim=-1).sort(-1)
    assert torch.equal(index, brute.indices[..., :7])
    assert torch.allclose(distance, brute.values[..., :7], atol=1e-4)
    assert torch.equal(gather_rows(points, index)[1, 3, 2], points[1, index[1, 3, 2]])
    # very many, of which most are left out unseen
    points = 100 * torch.randn(2, 4096, 3, generator=generator)
    exact = (queries.double()[:, :, None] - points.double()[:, None]).norm(dim=-1).sort(-1)
    distance, index = nearest(queries, points, 16)
    assert float((index == exact.indices[..., :16]).double().mean()) > 0.999
    assert torch.allclose(distance.double(), exact.values[..., :16], atol=1e-3)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_kernel_finds_what_brute_force_finds(device: str) -> None:
    """Under Triton's interpreter on a CPU; on CUDA with the sizes of training."""
    triton = pytest.importorskip("topohead.geometry.neighbours_triton")
    sizes = (2, 640, 4096) if device == "cuda" else (1, 3, 100)
    generator = torch.Generator().manual_seed(1)
    points = (100 * torch.randn(sizes[0], sizes[2], 3, generator=generator)).to(device)
    queries = (100 * torch.randn(sizes[0], sizes[1], 3, generator=generator)).to(device)
    index = triton.nearest_indices(queries, points, 5)
    found = (gather_rows(points, index) - queries[:, :, None]).norm(dim=-1)
    brute = torch.cdist(queries.double(), points.double()).sort(-1).values[..., :5]
    right = (found.double() - brute).abs() < 2e-3 * brute
    assert float(right.double().mean()) > 0.9995
    assert (found.diff(dim=-1) > -2e-3 * brute[..., 1:]).all()


def test_farthest_points_are_spread_and_mirrored() -> None:
    topology = reference_head(0).topology
    vertices, mirror = reference_head(0).template, topology.mirror
    chosen = farthest_points(vertices, 101, mirror)
    assert 100 <= len(chosen) <= 101
    assert set(mirror[chosen].tolist()) == set(chosen.tolist())
    assert len(set(chosen.tolist())) == len(chosen)
    gaps = torch.cdist(vertices[chosen], vertices[chosen]).fill_diagonal_(1).min(1).values
    reach = torch.cdist(vertices, vertices[chosen]).min(1).values.max()
    # greedy: nobody is farther from the set than its members are from one another
    apart = gaps[~torch.isin(chosen, mirror[chosen[:1]])].sort().values
    assert float(apart[5]) > 0.5 * float(reach)


def test_similarities_compose_invert_and_are_found() -> None:
    first, second = random_similarity(4, 0), random_similarity(4, 1)
    points = torch.randn(4, 30, 3, generator=torch.Generator().manual_seed(2))
    there = second.apply(first.apply(points))
    assert torch.allclose(first.then(second).apply(points), there, atol=1e-4)
    assert torch.allclose(first.inverse().apply(first.apply(points)), points, atol=1e-4)
    found = umeyama(points, there)
    assert torch.allclose(found.apply(points), there, atol=1e-4)


def test_quarter_turns_reach_every_orientation() -> None:
    turns = quarter_turns()
    assert len(turns) == 24
    assert torch.allclose(torch.linalg.det(turns), torch.ones(24))
    rotation = random_similarity(500).rotation
    traces = torch.einsum("tij,bij->bt", turns, rotation).amax(1)
    assert float(torch.rad2deg(torch.acos((traces - 1) / 2)).max()) < 63


def test_a_perfect_guess_is_the_true_pose() -> None:
    """`corrected` undoes normalisation and turn: from any of them the same similarity."""
    to_head = random_similarity(3)
    head = 0.1 * torch.randn(3, 200, 3, generator=torch.Generator().manual_seed(3))
    scan = to_head.inverse().apply(head)
    turn = random_similarity(3, 5).rotation
    cloud = normalised(scan, torch.ones(3, 200, dtype=torch.bool))
    turned = cloud.points @ turn.transpose(1, 2)
    true = umeyama(turned, head)
    guess = PoseGuess(true.rotation, true.scale, true.shift, torch.zeros(3))
    found = corrected(guess, cloud.center, cloud.radius, turn)
    assert torch.allclose(found.apply(scan), head, atol=1e-5)


def test_normalisation_does_not_see_padding_or_units() -> None:
    points = torch.randn(2, 101, 3, generator=torch.Generator().manual_seed(4))
    valid = torch.arange(101).expand(2, -1) < 71
    first = normalised(points, valid)
    second = normalised(torch.where(valid[..., None], 1000 * points + 7, 1e9), valid)
    assert torch.allclose(first.points, second.points, atol=1e-4)
    assert torch.allclose(1000 * first.radius, second.radius, rtol=1e-4)


def test_it_starts_at_the_template_and_ignores_padding(network: Registration) -> None:
    generator = torch.Generator().manual_seed(5)
    template = network.icp.template
    points = template[torch.randint(len(template), (2, 256), generator=generator)]
    valid = torch.arange(256).expand(2, -1) < 200
    normals = torch.zeros_like(points)
    found = network.icp(points, normals, valid)
    assert torch.allclose(found.vertices, template.expand(2, -1, -1), atol=1e-7)
    assert found.vertices.shape == (2, 4706, 3)
    weights = network.icp.weights()
    assert torch.allclose(weights.sum(1), torch.ones(len(weights)), atol=1e-5)
    # after some noise in the weights what padding holds still does not matter
    with torch.no_grad():
        shaken = LearnedIcp(network.size.icp, template_of(reference_head(0), 96))
        for parameter in shaken.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    other = torch.where(valid[..., None], points, torch.randn(2, 256, 3, generator=generator))
    first, second = (shaken(p, normals, valid).vertices for p in (points, other))
    assert not torch.allclose(first, template.expand(2, -1, -1), atol=1e-4)
    assert torch.equal(first, second)


def test_one_rounds_weights_serve_all_of_them() -> None:
    """Also under the names that they had before rounds had weights of their own."""
    generator = torch.Generator().manual_seed(6)
    size = PRESETS["xs"].size.icp
    assert isinstance(size, IcpSize)
    shared = dataclasses.replace(size, shared=True)
    template = template_of(reference_head(0), shared.nodes)
    one = LearnedIcp(shared, template)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    state = one.state_dict()
    before = {name.replace("rounds.0.", ""): value for name, value in state.items()}
    assert "seeing.layers.0.weight" in before
    points = one.template[torch.randint(4706, (1, 512), generator=generator)]
    cloud = points, torch.zeros_like(points), torch.ones(1, 512, dtype=torch.bool)
    for known in (state, before):
        each = LearnedIcp(dataclasses.replace(shared, shared=False), template)
        each.load_state_dict(dict(known))
        assert len(each.rounds) == len(shared.strides) > len(one.rounds)
        assert torch.equal(each(*cloud).vertices, one(*cloud).vertices)
        with torch.no_grad():
            each.get_parameter("rounds.1.move.bias").add_(0.1)
        moved = (each(*cloud).rounds - one(*cloud).rounds).detach()
        assert float(moved[0].abs().max()) == 0
        assert float(moved[1].mean()) == pytest.approx(1e-3, rel=1e-2)


def test_the_perceiver_starts_at_the_template_and_ignores_padding() -> None:
    generator = torch.Generator().manual_seed(5)
    size = dataclasses.replace(PRESETS["xs"].size, icp=PERCEIVERS["xs"])
    assert RegistrationSize.from_plain(size.plain()) == size
    torch.manual_seed(0)
    network = Registration(size, template_of(reference_head(0), size.icp.nodes))
    template = network.icp.template
    points = template[torch.randint(len(template), (2, 256), generator=generator)]
    valid = torch.arange(256).expand(2, -1) < 200
    normals = torch.zeros_like(points)
    found = network.icp(points, normals, valid)
    assert torch.allclose(found.vertices, template.expand(2, -1, -1), atol=1e-7)
    assert found.inlier.shape == (2, 256)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    other = torch.where(valid[..., None], points, torch.randn(2, 256, 3, generator=generator))
    first, second = (network.icp(p, normals, valid).vertices for p in (points, other))
    assert not torch.allclose(first, template.expand(2, -1, -1), atol=1e-4)
    assert torch.allclose(first, second, atol=1e-6)


def test_one_point_less_leaves_nearly_all_that_every_fourth_place_shows() -> None:
    """So that two devices, whose rounding differs, show a network the same points."""
    random = torch.Generator().manual_seed(2)
    points = 0.08 * torch.randn(1, 6000, 3, generator=random)
    valid = torch.ones(1, 6000, dtype=torch.bool)
    before = chosen_points(points, valid, 2000)
    valid[0, before[0, :5]] = False
    after = chosen_points(points, valid, 2000)
    for stride in (4, 2, 1):
        shown = torch.isin(before[0, ::stride], after[0, ::stride]).sum()
        assert int(shown) >= len(before[0, ::stride]) - 10
    assert len(after.unique()) == 2000


def test_chosen_points_are_valid_near_and_denser_on_the_face() -> None:
    generator = torch.Generator().manual_seed(3)
    points = 0.5 * (torch.rand(2, 60_000, 3, generator=generator) - 0.5)
    valid = torch.rand(2, 60_000, generator=generator) < 0.7
    chosen = chosen_points(points, valid, 1000)
    assert valid.gather(1, chosen).all()
    placed = gather_rows(points, chosen)
    assert in_head(placed, 1.3).all()
    assert len(set(chosen[0].tolist())) == 1000
    # a density of points against that of all, at the face and far from it
    densities = []
    for centre in (FACE_CENTRE, (0.0, 0.0, -0.16)):
        inside = [(part - torch.tensor(centre)).norm(dim=-1) < 0.04 for part in (placed, points)]
        densities.append(float(inside[0].float().sum() / (inside[1] & valid).float().sum()))
    wanted = face_density(torch.tensor([FACE_CENTRE, (0.0, 0.0, -0.16)]))
    assert densities[0] / densities[1] == pytest.approx(float(wanted[0] / wanted[1]), rel=0.35)


def test_looks_at_a_cloud_are_given_different_points() -> None:
    """Each as dense as one alone, the first the same; points that fill up shapes change nothing."""
    random = torch.Generator().manual_seed(4)
    cloud = 0.08 * torch.randn(1, 6000, 3, generator=random)
    valid = torch.ones(1, 6000, dtype=torch.bool)
    alone = chosen_points(cloud, valid, 2000)
    points, four = cloud.expand(4, -1, -1), valid.expand(4, -1)
    looks = chosen_points(points, four, 2000, apart=True)
    assert torch.equal(looks[:1], alone)
    times = torch.bincount(looks.flatten(), minlength=6000)
    assert int(times.sum()) == 8000
    inside = in_head(cloud[0], 1.3)
    # a third would be seen by one look and by all
    assert float((times[inside] > 0).float().mean()) > 0.9
    again = torch.bincount(chosen_points(points, four, 2000).flatten(), minlength=6000)
    assert int((times == 4).sum()) < 0.05 * int((again == 4).sum())
    for stride in (8, 4):  # nor do rounds that look at some of them see the same
        seen = [set(look[::stride].tolist()) for look in looks]
        assert len(seen[0] & seen[2]) < 0.05 * len(seen[0])
    weight = [float(face_density(cloud[0, look]).mean()) for look in looks]
    assert weight == pytest.approx([weight[0]] * 4, rel=0.03)
    more = torch.cat([points, torch.zeros(4, 500, 3)], 1)
    filled = torch.cat([four, torch.zeros(4, 500, dtype=torch.bool)], 1)
    assert torch.equal(chosen_points(more, filled, 2000, apart=True), looks)


def test_units_and_places_do_not_change_the_result(network: Registration) -> None:
    """Scale is found from the cloud; only the size token could tell, and 1000 is not believed."""
    template = network.icp.template
    chosen = torch.randint(len(template), (1, 300), generator=torch.Generator().manual_seed(6))
    points = template[chosen[0]][None]
    normals, valid = torch.zeros_like(points), torch.ones(1, 300, dtype=torch.bool)
    far = 100 * points + 20
    farther = 1e3 * points - 300
    one, two = (find_pose(network.pose, p, normals, valid)[0] for p in (far, farther))
    assert torch.allclose(one.apply(far), two.apply(farther), atol=1e-4)
    result = register_points(network, far, normals, valid)
    assert torch.isfinite(result.found.vertices).all()


class KnowingPose(ScanPose):
    """A pose network that has seen the head, point by point: it corrects any guess within 65°."""

    def __init__(self, head: torch.Tensor) -> None:
        super().__init__(PoseSize(points=head.shape[1]))
        self.head = head

    def forward(self, points, normals, valid, radius) -> PoseGuess:
        fix = umeyama(points, self.head)
        trace = fix.rotation.diagonal(dim1=1, dim2=2).sum(1)
        lost = (trace < 1 + 2 * math.cos(math.radians(65)))[:, None, None]
        rotation = torch.where(lost, torch.eye(3), fix.rotation)
        return PoseGuess(rotation, fix.scale, fix.shift, trace)


def test_any_orientation_is_found_by_a_network_that_knows_the_head() -> None:
    generator = torch.Generator().manual_seed(8)
    template = reference_head(0).template
    head = template[torch.randint(len(template), (6, 400), generator=generator)]
    to_head = random_similarity(6, 7)
    scan = to_head.inverse().apply(head)
    valid = torch.ones(6, 400, dtype=torch.bool)
    found, score = find_pose(KnowingPose(head), scan, torch.zeros_like(scan), valid)
    assert torch.allclose(found.apply(scan), head, atol=1e-5)
    assert (score > 2.99).all()  # the last guess is the answer itself


def test_landmarks_are_read_off_the_vertices() -> None:
    head = reference_head(0)
    points = head.topology.landmarks["ibug68"]
    surface = loss_surface(head.topology, points)
    places = landmark_places(head.template[None], surface)[0]
    assert places.shape == (68, 3)
    tip = places[30]  # of the nose
    assert float(head.template[:, 2].max() - tip[2]) < 0.006
    assert abs(float(surface.weights.mean()) - 1) < 1e-6


def test_sizes_survive_the_weights_file() -> None:
    for preset in PRESETS.values():
        assert RegistrationSize.from_plain(preset.size.plain()) == preset.size


def test_it_learns_eight_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vertices of eight fixed scans come twice as close; every gradient is finite."""
    small = dataclasses.replace(
        PRESETS["xs"],
        pool=8,
        schedule=dataclasses.replace(PRESETS["xs"].schedule, steps=45, rate=8e-3, warmup=10),
    )
    monkeypatch.setattr(register, "PRESETS", {"xs": small})
    task = register_task("xs", 0, torch.device("cpu"))
    batch = task.batch(0, 0, 1)
    training = Training(task.network, task.schedule, task.schedule.steps)
    errors = []
    for _ in train(
        training,
        lambda _: batch,
        lambda batch: task.loss(task.network, batch),
        lambda loss: loss.backward(),
    ):
        for name, parameter in task.network.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
        told = training.told()
        errors.append((told["vertices"], told["pose"]))
    (first, first_pose), (last, last_pose) = errors[0], errors[-1]
    assert last < first / 2, (first, last)
    assert last_pose < first_pose / 1.8, (first_pose, last_pose)
