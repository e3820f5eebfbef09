"""The autoencoder of heads: what a token may reach, mirrors, any query set, any topology."""

from collections.abc import Iterator

import pytest
import torch

from topohead.core import Mesh, Topology
from topohead.geometry.bridge import bind
from topohead.geometry.subdivision import Parents, catmull_clark, refine
from topohead.io.assets import reference_head
from topohead.losses.head_vae import divergence
from topohead.models.head_queries import (
    APART,
    audience,
    bridged,
    nodes_of,
    queries_of,
    subdivided,
)
from topohead.models.head_vae import (
    MANY,
    HeadVae,
    Posterior,
    VaeSize,
    empty_head_vae,
    gathered,
    head_vae,
    multiplied,
)
from topohead.models.latents import (
    fit_directions,
    interpolated,
    labels_of,
    mirrored,
    moved,
    reached,
    region_of,
    swapped,
    token_shares,
)
from topohead.workflows.training.head_vae import PRESETS

SIZE = PRESETS["xs"].size


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network() -> HeadVae:
    """Random weights everywhere, so that nothing is zero by chance."""
    torch.manual_seed(0)
    network = head_vae(SIZE, reference_head(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def heads() -> torch.Tensor:
    """Six linear heads, the last three lopsided."""
    head = reference_head(0)
    generator = torch.Generator().manual_seed(2)
    identity = torch.randn(6, head.identity_basis.shape[0], generator=generator)
    expression = 0.5 * torch.rand(6, 52, generator=generator) * (torch.arange(6)[:, None] > 2)
    return head.vertices(identity, expression)


def flipped(vertices: torch.Tensor, topology: Topology) -> torch.Tensor:
    assert topology.mirror is not None
    return vertices[:, topology.mirror] * torch.tensor([-1.0, 1, 1])


def level_1(network: HeadVae):
    _, matrix = catmull_clark(reference_head(0).topology)
    return subdivided(network.queries, matrix), matrix


def test_nodes_come_in_pairs_that_see_mirror_images() -> None:
    head = reference_head(0)
    queries = queries_of(head)
    nodes = nodes_of(head.topology, queries, 128, 24)
    mirror, x = head.topology.mirror, head.template[:, 0]
    assert len(nodes.vertices.unique()) == 128
    left, right = nodes.vertices.chunk(2)
    assert (x[left] > 0).all()
    assert torch.equal(mirror[left], right)
    seen, opposite = nodes.patches.chunk(2)
    assert torch.equal(mirror[seen], opposite)
    assert torch.equal(nodes.patches[:, 0], nodes.vertices)
    # eigenfunctions of a symmetric head are even or odd
    odd = queries.fields - nodes.parity * queries.fields[mirror]
    assert float(odd.abs().max()) < 1e-6
    for part in ("lips_upper", "lips_lower", "eyelids", "ears", "tongue", "eyes"):
        assert head.topology.region_mask(part)[nodes.vertices].any(), part


def test_lips_and_globes_are_apart_where_they_touch() -> None:
    head = reference_head(0)
    queries = queries_of(head)
    upper, lower = (head.topology.region_mask(f"lips_{name}") for name in ("upper", "lower"))
    marks = head.topology.landmarks["ibug68"]
    inner = head.topology.triangles[marks.triangles[[62, 66]], 0]  # the lips' middle
    assert upper[inner[0]] and lower[inner[1]]
    closed = (head.template[inner[0]] - head.template[inner[1]]).norm()
    opened = (queries.places[inner[0]] - queries.places[inner[1]]).norm()
    assert float(closed) < 0.005
    assert float(opened) > 0.012
    globe, lids = head.topology.region_mask("eyes"), head.topology.region_mask("eyelids")
    assert float(torch.cdist(head.template[globe], head.template[lids]).min()) < 0.004
    assert float(torch.cdist(queries.places[globe], queries.places[lids]).min()) >= 0.999 * APART


def test_audience_is_a_continuous_partition_of_unity() -> None:
    generator = torch.Generator().manual_seed(3)
    nodes = torch.rand(40, 9, generator=generator)
    line = torch.lerp(torch.zeros(1, 9), torch.ones(1, 9), torch.linspace(0, 1, 4001)[:, None])
    heard = audience(line, nodes, 4)
    assert torch.allclose(heard.weights.sum(1), torch.ones(len(line)), atol=1e-6)
    dense = torch.zeros(len(line), 40).scatter(1, heard.nodes, heard.weights)
    assert (dense[1:] - dense[:-1]).abs().max() < 0.02  # though who is heard changes
    assert len(heard.nodes.sort(1).values.unique(dim=0)) > 5


def test_a_vertex_decodes_alike_in_any_query_set(network: HeadVae, heads: torch.Tensor) -> None:
    tokens = network.encode(heads[:2]).mean
    whole = network.decode(tokens)
    chosen = torch.randperm(len(network.queries), generator=torch.Generator().manual_seed(4))[:300]
    some = network.decode(tokens, network.queries[chosen])
    assert torch.allclose(some.points, whole.points[:, chosen], atol=1e-6)
    assert torch.allclose(some.log_sigma, whole.log_sigma[:, chosen], atol=1e-4)
    prepared = network.decode(tokens, network.basis(network.queries))
    assert torch.equal(prepared.points, whole.points)
    # and beside any other heads
    assert torch.allclose(network.decode(tokens[:1]).points, whole.points[:1], atol=1e-6)


def test_one_product_says_what_gathering_says(network: HeadVae) -> None:
    basis = network.basis(network.queries[::7])
    generator = torch.Generator().manual_seed(7)
    spoken, rows = (torch.randn(3, SIZE.nodes, count, generator=generator)
                    for count in (basis.fields.shape[-1], basis.rows.shape[-1]))  # fmt: skip
    for one, other in zip(
        gathered(basis, spoken, rows), multiplied(basis, spoken, rows), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-4)


def test_a_mirrored_head_has_its_tokens_swapped(network: HeadVae, heads: torch.Tensor) -> None:
    topology = reference_head(0).topology
    tokens = network.encode(heads).mean
    opposite = network.encode(flipped(heads, topology)).mean
    assert torch.allclose(opposite, mirrored(tokens), atol=1e-4)
    assert not torch.allclose(opposite[3:], tokens[3:], atol=1e-1)
    there = network.decode(mirrored(tokens))
    assert torch.allclose(there.points, flipped(network.decode(tokens).points, topology), atol=2e-6)


def test_a_token_moves_its_surroundings_alone(network: HeadVae, heads: torch.Tensor) -> None:
    tokens = network.encode(heads[:1]).mean
    changed = tokens.clone()
    changed[0, 5] += 1
    before, after = network.decode(tokens).points[0], network.decode(changed).points[0]
    far = ~reached(network, (torch.arange(SIZE.nodes) == 5).float())
    assert 0.5 < float(far.float().mean()) < 1
    assert torch.equal(before[far], after[far])
    assert float((after - before)[~far].norm(dim=1).max()) > 1e-4


def test_other_topologies_ask_the_same_weights(network: HeadVae, heads: torch.Tensor) -> None:
    """Triangles cut from quads, some vertices left out: bound to the reference, they get what the
    reference's vertices get."""
    head = reference_head(0)
    topology = head.topology
    kept = topology.region_mask("face")
    triangles = topology.triangles[kept[topology.triangles].all(1)]
    used, corner = triangles.unique(return_inverse=True)
    faces = corner[:, [0, 1, 2, 2]]
    other = Topology(len(used), faces, torch.zeros(0, 2), faces)
    bridge = bind(Mesh(topology, head.template), Mesh(other, head.template[used]))
    tokens = network.encode(heads[:2]).mean
    found = network.decode(tokens, bridged(network.queries, bridge)).points
    apart = (found - network.decode(tokens).points[:, used]).norm(dim=-1)
    assert float(apart.median()) < 1e-5
    assert float(apart.quantile(0.95)) < 2e-4


def test_level_1_lies_between(network: HeadVae) -> None:
    queries, matrix = level_1(network)
    head = reference_head(0)
    assert len(queries) == matrix.shape[0]
    assert torch.allclose(queries.rest, refine(matrix, head.template), atol=1e-7)
    assert torch.allclose(queries.parts.sum(1), torch.ones(len(queries)), atol=1e-5)
    parents = Parents.of(matrix)
    vertices = torch.randn(2, len(head.template), 3, generator=torch.Generator().manual_seed(5))
    rows = torch.tensor([3, 5000, 18_000])
    assert torch.allclose(parents[rows].places(vertices), refine(matrix, vertices)[:, rows],
                          atol=1e-5)  # fmt: skip


def test_a_nose_is_swapped_and_nothing_else(network: HeadVae, heads: torch.Tensor) -> None:
    topology = reference_head(0).topology
    nose = region_of(network, topology, "nose")
    shares = token_shares(network, nose)
    inside = nose[network.nodes]
    assert inside.any()
    assert (shares[inside] == 1).all()
    assert (shares == 0).any()
    both = swapped(network, heads[0], heads[1], nose)
    own = network.encode(heads[:2]).mean
    assert torch.equal(both[shares == 0], own[0, shares == 0])
    points = network.decode(torch.stack([both, own[0]])).points
    far = ~reached(network, shares)
    assert torch.equal(points[0, far], points[1, far])
    assert not torch.allclose(points[0, nose], points[1, nose], atol=1e-5)
    # a head's own nose is its own; another's, moved elsewhere, comes back to where it belongs
    assert torch.allclose(swapped(network, heads[0], heads[0], nose), own[0], atol=1e-3)
    away = swapped(network, heads[0], 1.3 * heads[1] + 0.2, nose)
    assert torch.allclose(away, both, atol=1e-3)


def test_interpolation_meets_its_ends(network: HeadVae, heads: torch.Tensor) -> None:
    a, b = network.encode(heads[:2]).mean
    way = interpolated(a, b, torch.tensor([0.0, 0.5, 1.0]))
    assert torch.equal(way[0], a)
    assert torch.allclose(way[1], (a + b) / 2)
    assert torch.allclose(way[2], b)


def test_planted_directions_are_found(network: HeadVae) -> None:
    """A label that is a sum over some tokens: it is read, and a step changes it by a deviation."""
    generator = torch.Generator().manual_seed(6)
    shape = (400, SIZE.nodes, SIZE.channels)
    tokens = torch.randn(shape, generator=generator) * torch.linspace(0.2, 2, SIZE.channels)
    planted = torch.zeros(shape[1:])
    planted[:6, :3] = torch.randn(6, 3, generator=generator)
    labels = (tokens * planted).sum((1, 2))[:, None] + 7
    known = torch.rand(400, 1, generator=generator) < 0.9
    labels = torch.where(known, labels, 1e9)  # never looked at
    found = fit_directions(network, tokens, labels, known, ridge=1e-3)
    told = labels_of(network, found, tokens)
    assert torch.allclose(told[known], labels[known], atol=0.05)
    step = moved(tokens[0], found, 0, (0.0, 1.0, -2.0))
    change = ((step - step[:1]) * planted).sum((1, 2)) / labels[known].std()
    assert torch.allclose(change, torch.tensor([0.0, 1.0, -2.0]), atol=0.1)


def test_divergence_is_that_of_normals() -> None:
    mean, log = torch.tensor([[[0.7, 0.0]]]), torch.tensor([[[-0.5, 0.0]]])
    normal = torch.distributions.Normal
    wanted = torch.distributions.kl_divergence(normal(mean, log.exp()), normal(0.0, 1.0))
    assert torch.allclose(divergence(Posterior(mean, log)), wanted)


def test_a_file_holds_all_that_the_network_knows(network: HeadVae, heads: torch.Tensor) -> None:
    tensors = {name: value.int() if value.dtype == torch.int64 else value
               for name, value in network.state_dict().items()}  # fmt: skip
    again = empty_head_vae(VaeSize.from_plain(network.size.plain()), tensors)
    assert torch.equal(again.encode(heads).mean, network.encode(heads).mean)
    tokens = network.encode(heads).mean
    assert torch.equal(again.decode(tokens).points, network.decode(tokens).points)
    assert torch.allclose(network.unwhitened(network.whitened(tokens)), tokens, atol=1e-5)


def test_sizes_are_what_the_issue_asks() -> None:
    for name, most in (("s", 8e6), ("l", 78e6)):
        size = PRESETS[name].size
        network = head_vae(size, reference_head(0))
        count = sum(parameter.numel() for parameter in network.parameters())
        assert count < most
        if name == "s":
            assert (size.nodes, size.channels) == (256, 16)
            stored = 2 * count + sum(buffer.nbytes for buffer in network.buffers())
            assert stored < 16 << 20


@pytest.mark.gpu
def test_cuda_says_what_the_cpu_says(heads: torch.Tensor, network: HeadVae) -> None:
    many = torch.cat([heads] * 6)[: MANY + 1]
    tokens = network.encode(many).mean
    wanted = network.decode(tokens)
    network.to("cuda")
    try:
        with torch.autocast("cuda", torch.bfloat16):
            found = network.encode(many.cuda()).mean
            few, all_ = network.decode(tokens[:2].cuda()), network.decode(tokens.cuda())
    finally:
        network.to("cpu")
    assert torch.allclose(found.cpu(), tokens, atol=1e-4)
    assert torch.allclose(few.points.cpu(), wanted.points[:2], atol=5e-6)
    assert torch.allclose(all_.points.cpu(), wanted.points, atol=5e-6)
