"""Triton's kernels against numba's: interpreted without a CUDA device, on it where there is one."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from egg_head import egg_head, filmed, ring
from planted_sphere import sphere
from topohead.core import Cameras, Mesh, Views
from topohead.geometry.meshes import vertex_normals
from topohead.solvers import first_look, tracking
from topohead.solvers.device_features import DevicePyramid
from topohead.solvers.elasticity import ElasticConfig, Elasticity, block_slots, vertex_graph
from topohead.solvers.engine import SampleTerms
from topohead.solvers.features import FeatureConfig, feature_pyramid, pack_cameras
from topohead.solvers.kernels import (
    elastic_triton,
    noise_triton,
    photometric,
    photometric_triton,
    sparse,
    sparse_triton,
)
from topohead.solvers.numba_engine import NumbaEngine
from topohead.solvers.samples import Samples, surface_samples
from topohead.solvers.surface import anchored_stiffness, take_surface
from topohead.solvers.triton_engine import TritonEngine

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


TURN = torch.linalg.matrix_exp(
    torch.tensor([[0, -0.03, 0.06], [0.03, 0, -0.02], [-0.06, 0.02, 0]], dtype=torch.float64)
)


def there(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(DEVICE)


@dataclass
class Scene:
    """A dented ball before four small cameras, with noise for pictures."""

    triangles: np.ndarray
    rest: np.ndarray
    vertices: np.ndarray
    samples: Samples
    cameras: np.ndarray
    depth: np.ndarray
    features: np.ndarray
    elasticity: Elasticity
    graph: tuple[np.ndarray, np.ndarray]

    def surface(self) -> tuple[np.ndarray, np.ndarray]:
        vertices = torch.from_numpy(self.vertices)
        normals = vertex_normals(vertices, torch.from_numpy(self.triangles))
        return self.vertices.astype(np.float32), normals.float().numpy()

    def looks(self) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(5)
        count = len(self.samples)
        trust = np.where(random.random(count) < 0.2, 0, 3).astype(np.float32)
        return random.normal(0, 0.3, (count, 3)).astype(np.float32), trust


@pytest.fixture(scope="module")
def scene() -> Scene:
    topology, points = sphere(9, 16, 1.0)
    rest = 0.1 * points.double()
    random = np.random.default_rng(2)
    vertices = rest.numpy() + random.normal(0, 0.002, rest.shape)
    samples = surface_samples(topology, rest, 0.02, torch.zeros(len(rest), dtype=torch.bool))
    cameras = ring(4, (40, 48))
    packed = pack_cameras(cameras, 1.0, np.zeros(3))
    depth = random.uniform(0.75, 0.95, (4, 48, 40)).astype(np.float32)
    depth[random.random(depth.shape) < 0.1] = -1
    features = random.normal(0, 0.5, (4, 48, 40, 9)).astype(np.float32)
    triangles = topology.triangles.numpy()
    graph = vertex_graph(triangles, len(rest))
    elasticity = Elasticity(topology, rest, ElasticConfig())
    return Scene(
        triangles, rest.numpy(), vertices, samples, packed, depth, features, elasticity, graph
    )


def test_surface_normals_match(scene: Scene):
    feeds = sparse_triton.Feeds(
        scene.triangles, np.ones(scene.triangles.shape), len(scene.rest), DEVICE
    )
    positions, normals = photometric_triton.placed_surface(
        there(scene.vertices),
        there(scene.triangles.astype(np.int32)),
        feeds.starts,
        feeds.sources,
        torch.zeros(3, dtype=torch.float64, device=DEVICE),
    )
    expected = scene.surface()
    assert np.abs(positions.cpu().numpy() - expected[0]).max() < 1e-7
    assert np.abs(normals.cpu().numpy() - expected[1]).max() < 1e-5


def test_samples_read_the_same_features(scene: Scene):
    arrays = (*scene.surface(), scene.samples.corners, scene.samples.weights)
    pictures = (scene.cameras, scene.depth, scene.features)
    limits = (np.float32(0.25), np.float32(0.05))
    expected = photometric.sample_features(*arrays, *pictures[:1], *pictures[1:], *limits)
    found = photometric_triton.sample_features(
        *map(there, arrays), *map(there, pictures), *map(float, limits)
    )
    assert (expected[1] > 0).sum() > 100
    for own, other in zip(found, expected, strict=True):
        assert np.abs(own.cpu().numpy() - other).max() < 1e-4


def test_accumulated_blocks_match(scene: Scene):
    arrays = (*scene.surface(), scene.samples.corners, scene.samples.weights, scene.samples.areas)
    arrays += (scene.cameras, scene.depth, scene.features, *scene.looks())
    limits = (2.5, 0.25, 0.05)
    expected = photometric.accumulate(*arrays, np.float32(0.35), *map(np.float32, limits))
    found = photometric_triton.accumulate(
        *map(there, arrays), torch.tensor(0.35, device=DEVICE), *limits
    )
    assert (expected[2][:, 2] >= 2).sum() > 20
    for own, other in zip(found, expected, strict=True):
        assert np.abs(own.cpu().numpy() - other).max() < 2e-4 * np.abs(other).max()


def evidence(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Positive blocks and gradients of every sample, some empty."""
    random = np.random.default_rng(8)
    roots = random.normal(0, 1, (len(scene.samples), 3, 3))
    full = roots @ roots.transpose(0, 2, 1) * 1e4
    full[random.random(len(full)) < 0.2] = 0
    rows, columns = np.triu_indices(3)
    gradients = np.where(full[:, :1, 0] > 0, random.normal(0, 10, (len(full), 3)), 0)
    return full[:, rows, columns].astype(np.float32), gradients.astype(np.float32)


def system(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    samples, (starts, columns) = scene.samples, scene.graph
    return sparse.scatter(
        *evidence(scene),
        samples.corners,
        samples.weights,
        block_slots(samples.corners, starts, columns),
        len(columns),
        len(scene.rest),
    )


def test_gathered_system_is_the_scattered_one(scene: Scene):
    samples, (starts, columns) = scene.samples, scene.graph
    blocks, gradients = evidence(scene)
    pairs = (samples.weights[:, :, None] * samples.weights[:, None, :]).reshape(-1, 9)
    slots = block_slots(samples.corners, starts, columns)
    matrix = sparse_triton.Feeds(slots, pairs, len(columns), DEVICE).gather(there(blocks), 0.5)
    vector = sparse_triton.Feeds(samples.corners, samples.weights, len(scene.rest), DEVICE).gather(
        there(gradients)
    )
    expected = system(scene)
    assert np.allclose(2 * matrix.cpu().numpy(), expected[0], atol=1e-5 * expected[0].max())
    assert np.allclose(vector.cpu().numpy(), expected[1], atol=1e-5 * np.abs(expected[1]).max())


def test_conjugate_gradients_find_the_same_solution_again_and_again(scene: Scene):
    matrix, vector = system(scene)
    stiffness = anchored_stiffness(scene.elasticity, np.zeros(len(scene.graph[0]) - 1))
    expected = sparse.conjugate_gradient(
        vector, *scene.graph, matrix, *stiffness, 40, np.float32(1e-5)
    )
    solver = sparse_triton.ConjugateGradient(scene.graph, stiffness, 40, 1e-5, DEVICE)
    first = solver.solve(there(vector), there(matrix)).clone()
    again = solver.solve(there(vector), there(matrix))
    assert torch.equal(first, again)
    assert np.abs(first.cpu().numpy() - expected).max() < 1e-3 * np.abs(expected).max()
    # no steps once converged: many more steps change nothing
    longer = sparse_triton.ConjugateGradient(scene.graph, stiffness, 60, 1e-5, DEVICE)
    same = longer.solve(there(vector), there(matrix)).cpu().numpy()
    expected = sparse.conjugate_gradient(
        vector, *scene.graph, matrix, *stiffness, 60, np.float32(1e-5)
    )
    assert np.abs(same - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("expressions", [0, 52])
def test_steps_of_pose_and_expression_are_the_cpus(scene: Scene, expressions: int):
    random = np.random.default_rng(expressions)
    rest = torch.from_numpy(scene.rest)
    basis = torch.from_numpy(random.normal(0, 0.004, (expressions, *rest.shape)))
    mesh = Mesh(sphere(9, 16, 1.0)[0], rest.float())
    config = tracking.TrackConfig(features=FeatureConfig(levels=1), spacing=0.02)
    surface = take_surface(mesh, basis, config)
    engines = NumbaEngine(surface, config), TritonEngine(surface, config, DEVICE)
    count = len(surface.samples[0])
    roots = random.normal(0, 1e3, (count, 3, 3))
    rows, columns = np.triu_indices(3)
    terms = SampleTerms(
        torch.from_numpy((roots @ roots.transpose(0, 2, 1))[:, rows, columns]).float().contiguous(),
        torch.from_numpy(random.normal(0, 3e5, (count, 3))).float(),
        torch.zeros(count, 4),
    )
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3], pose[:3, 3] = TURN, torch.tensor([0.1, -0.2, 0.3])
    expression, tie = torch.from_numpy(random.uniform(-1, 1.5, (2, expressions)))
    answers = []
    for engine in engines:
        where = engine.surface.vertices.device
        held = SampleTerms(*(getattr(terms, n).to(where) for n in ("blocks", "gradients", "stats")))
        vertices = torch.from_numpy(scene.vertices).to(where)
        system = engine.reduced(held, 0, vertices, pose.to(where))
        pace = torch.tensor(9.0, dtype=torch.float64, device=where)
        own = (t.to(where) for t in (pose, expression, tie))
        answers.append((system.cpu(), *(t.cpu() for t in engine.stepped(system, *own, pace))))
    for found, wanted in zip(*reversed(answers), strict=True):
        far, largest = (found - wanted).numpy(), wanted.numpy()
        assert np.abs(far).max(initial=0) <= 1e-9 * np.abs(largest).max(initial=0)
    assert not torch.allclose(answers[0][1], pose, atol=0.05)


@pytest.mark.parametrize("count", [0, 1, 2, 501, 1000])
def test_noise_is_learnt_from_the_median(count: int):
    random = np.random.default_rng(count)
    stats = random.gamma(2.0, 1.0, (1500, 4)).astype(np.float32)
    stats[:, 1] *= 10.0 ** random.integers(-4, 2, 1500)
    stats[:, 2] = np.where(random.permutation(1500) < count, random.integers(2, 9, 1500), 1)
    seen = stats[stats[:, 2] >= 2].astype(np.float64)
    spread = seen[:, 1] / (3 * seen[:, 0] * seen[:, 3])
    expected = 0.4 * np.sqrt(np.median(spread)) if count else 0.4
    noise = torch.tensor(0.4, device=DEVICE)
    found = noise_triton.learnt_noise(noise, there(stats), 1e-9, 1e9)
    assert abs(float(found) / expected - 1) < 1e-6
    bounded = noise_triton.learnt_noise(noise, there(stats), 2 * expected, 3 * expected)
    assert abs(float(bounded) / (2 * expected if count else expected) - 1) < 1e-6


def rotated(scene: Scene, vertices: np.ndarray) -> tuple[Tensor, np.ndarray]:
    starts, columns, weights = scene.elasticity.rings
    weights = weights / weights.mean()
    found = elastic_triton.local_rotations(
        there(scene.rest), there(vertices), there(starts), there(columns), there(weights)
    )
    return found, scene.elasticity.rotations(scene.rest, vertices)


@pytest.mark.parametrize("kind", ["bumpy", "turned", "flat", "mirrored"])
def test_rotations_are_those_of_singular_values(scene: Scene, kind: str):
    turn = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
    vertices = {
        "bumpy": scene.vertices,
        "turned": scene.vertices @ (turn * np.linalg.det(turn)).T,
        "flat": scene.vertices * [1, 1, 1e-7],
        "mirrored": scene.vertices * [-1, 1, 1],
    }[kind]
    found, expected = rotated(scene, vertices)
    far = np.abs(found.cpu().numpy() - expected).max(axis=(1, 2))
    # rings that turn inside out have two rotations all but equally good: compare what they reach
    assert np.quantile(far, 0.9) < 1e-5
    assert np.allclose(np.linalg.det(found.cpu().numpy()), 1)


def test_descent_is_minus_the_gradient(scene: Scene):
    elasticity = scene.elasticity
    found, rotations = rotated(scene, scene.vertices)
    random = np.random.default_rng(6)
    anchor = random.uniform(1, 2, len(scene.rest))
    pictures = random.normal(0, 5, scene.rest.shape).astype(np.float32)
    moved = elastic_triton.descent(
        there(scene.rest),
        there(scene.vertices),
        found,
        tuple(map(there, elasticity.rings)),
        there(elasticity.bend.diagonal()),
        there(anchor),
        there(pictures),
    )
    expected = elasticity.gradient(scene.rest, scene.vertices, rotations)
    expected += anchor[:, None] * (scene.vertices - scene.rest) + pictures
    assert np.abs(-moved.cpu().numpy() - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("masked", [False, True])
def test_device_pyramid_filters_as_opencv_does(masked: bool):
    random = torch.Generator().manual_seed(1)
    cameras = ring(3, (43, 50))
    sizes = [(50, 43), (43, 50), (50, 43)]  # one camera is turned; odd sizes lose a row
    images = tuple(torch.rand(*size, 3, generator=random) for size in sizes)
    masks = tuple((torch.rand(size, generator=random) > 0.3).float() for size in sizes)
    views = Views("1", cameras, images, masks if masked else None)
    origin, config = torch.zeros(3, dtype=torch.float64), FeatureConfig(levels=3)
    expected = feature_pyramid(views, origin, config)
    pyramid = DevicePyramid(views, config, DEVICE)
    before = replace(views, images=tuple(0 * image for image in images))
    for pictures in (before, views):  # nothing of the pictures before may stay
        pyramid.load(pictures, origin)
        pyramid.make()
    for own, other in zip(pyramid.levels, expected, strict=True):
        assert torch.equal(own.extents.cpu(), other.extents)
        assert torch.equal(own.projections.cpu(), other.projections)
        assert torch.equal(own.cameras.cpu(), other.cameras)
        assert (own.features.cpu() - other.features).abs().max() < 1e-4


SMALL = tracking.TrackConfig(
    features=FeatureConfig(levels=2),
    coarse_iterations=(0, 2),
    free_iterations=(1, 1),
    solver_iterations=4,
)


@pytest.mark.parametrize(
    ("config", "cameras"),
    [
        pytest.param(SMALL, ring(3, (72, 90), 40), marks=pytest.mark.slow),  # interpreted
        pytest.param(tracking.TrackConfig(), ring(), marks=pytest.mark.gpu),
    ],
)
def test_device_tracks_as_the_cpu_does(
    config: tracking.TrackConfig, cameras: Cameras, monkeypatch: pytest.MonkeyPatch
):
    head = egg_head()
    rest = head.template.double()
    moved = (rest + 0.5 * head.expression_basis[17].double()) @ TURN.T + 0.003
    first, later = (filmed(Mesh(head.topology, v.float()), cameras, 3) for v in (rest, moved))
    start = tracking.TrackState.first(len(rest), 52)

    def frame(engine) -> tuple[tracking.TrackState, torch.Tensor, float]:
        monkeypatch.setattr(first_look, "make_engine", engine)
        reference = tracking.make_reference(
            first, Mesh(head.topology, rest.float()), head.expression_basis, config
        )
        state, answer = tracking.advance(later, reference, start, config)
        if DEVICE.type == "cuda":
            # a resumed run must give the same bytes: nothing of another frame may stay in what was
            # recorded, nor of one that lacks a camera, nor may it count who brought the pictures
            surface = reference.surface.vertices
            tracking.advance(first, reference, state, config)
            names = later.cameras.names[1:]
            fewer = Views("2", later.cameras.select(names), later.images[1:], later.masks[1:])
            tracking.advance(fewer, reference, start, config)
            again = tracking.advance(later.to(surface.device), reference, start, config)[1]
            assert torch.equal(answer.vertices, again.vertices)
        return state, answer.vertices, answer.residual

    make = first_look.make_engine
    expected = frame(make)
    found = frame(lambda surface, config, _: TritonEngine(surface, config, DEVICE))
    far = (found[1] - expected[1]).norm(dim=1) * 1000
    assert far.median() < 0.01
    assert (far < 0.1).double().mean() > 0.95
    assert (found[0].pose - expected[0].pose).abs().max() < 1e-4
    assert abs(found[2] - expected[2]) < 1e-3
