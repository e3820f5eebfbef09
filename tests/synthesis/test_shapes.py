"""Made heads: functions of (seed, index) alone, plausible, and intact in motion."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from topohead.core import ARKIT_52, InputError
from topohead.geometry.anthropometry import SURVEY, implausible
from topohead.geometry.globes import gaze_rotation
from topohead.io.assets import ict_head, reference_head, shape_space
from topohead.models.carrying import CarriedHead, carry
from topohead.synthesis import mixture, splits
from topohead.synthesis.draws import dirichlet, normals, uniforms
from topohead.synthesis.expressions import OPPOSED, draw_expressions
from topohead.synthesis.shapes import carried, load_shapes

SEED = 5


@pytest.fixture(scope="module")
def shapes():
    """Without ICT-FaceKit, so that the test needs no file."""
    return load_shapes(ict=None)


@pytest.fixture(scope="module")
def heads(shapes):
    return shapes.draw(SEED, range(11))


def action(shapes, count, **weights):
    return shapes.head.expressions(**weights).expand(count, -1)


# Random numbers and splits


def test_numbers_depend_on_seed_index_and_name_alone():
    some = uniforms(3, np.arange(100), "a", 7)
    assert np.array_equal(some[[40, 2]], uniforms(3, np.array([40, 2]), "a", 7))
    assert np.array_equal(some[:, :3], uniforms(3, np.arange(100), "a", 3))
    for other in (uniforms(4, np.arange(100), "a", 7), uniforms(3, np.arange(100), "b", 7)):
        assert not np.isin(other, some).any()


def test_numbers_have_the_distributions_they_are_named_for():
    z = normals(0, np.arange(20_000), "z", 4)
    assert np.abs(z.mean(0)).max() < 0.03 and np.abs(z.std(0) - 1).max() < 0.03
    assert np.abs(np.corrcoef(z.T) - np.eye(4)).max() < 0.03
    assert abs(np.corrcoef(z[:-1, 0], z[1:, 0])[0, 1]) < 0.03
    shares = dirichlet(0, np.arange(20_000), "d", 0.7, 3)
    assert np.allclose(shares.sum(1), 1)
    # the variance of one share of a symmetric Dirichlet: (1/3)(2/3)/(3a + 1)
    assert np.abs(shares.var(0) - 2 / 9 / 3.1).max() < 0.003


def test_splits_share_no_seed_and_no_head(shapes):
    every = [seed for seeds in splits.SEEDS.values() for seed in seeds]
    assert len(every) == len(set(every))
    assert [splits.split_of(s) for s in (0, 599, 600, 699, 700, 999)] == [
        "train", "train", "validation", "validation", "test", "test",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="seed 650 is for validation, not test; expected 700 to"):
        splits.check_split(650, "test")
    with pytest.raises(ValueError, match="seed 1000 belongs to no split"):
        splits.split_of(1000)
    drawn = [shapes.people(seeds.start, range(200)).weights for seeds in splits.SEEDS.values()]
    assert len(np.unique(np.concatenate(drawn), axis=0)) == 600


# Rest shapes


def test_a_head_has_the_same_bytes_in_any_batch(shapes, heads):
    again = load_shapes(ict=None).draw(SEED, [7, 3])
    assert torch.equal(again.rest, heads.rest[[7, 3]])
    coefficients, gaze = draw_expressions(SEED, range(11))
    neck = torch.linspace(-0.2, 0.2, 11)[:, None].expand(-1, 3)
    posed = heads.posed(coefficients, gaze, neck)
    some = draw_expressions(SEED, [7, 3])
    assert torch.equal(some[0], coefficients[[7, 3]]) and torch.equal(some[1], gaze[[7, 3]])
    assert torch.equal(again.posed(*some, neck[[7, 3]]), posed[[7, 3]])
    assert not torch.equal(heads.rest[0], heads.rest[1])


def test_the_mean_person_is_the_reference(shapes):
    """MakeHuman's controls at the middle of everything give the head they were made from."""
    names = shapes.space.named("control")
    from topohead.models.population import Phenotypes, phenotype_weights

    half = np.full(1, 0.5)
    who = Phenotypes(half, 0.35 * np.ones(1), half, half, half, np.full((1, 3), 1 / 3))
    weights = torch.zeros(len(shapes.space.names))
    for name, value in phenotype_weights(who).items():
        weights[names.index(name)] = float(value[0])
    mean = shapes.space.mean + torch.tensordot(weights, shapes.space.rows, 1)
    gap = (mean - shapes.head.template).norm(dim=1)[shapes.topology.regions["face"]]
    assert gap.mean() < 0.004  # the population's mean also holds its round, square… faces


def test_sizes_are_those_of_adults(shapes):
    rows = shapes.space.rows[:, shapes.callipers.vertices].double()
    people = shapes.people(SEED, range(1500))
    points = np.tensordot(people.weights, rows.numpy(), 1)
    sizes = shapes.callipers(points + shapes.space.mean[shapes.callipers.vertices].double().numpy())
    for name, published in SURVEY.items():
        assert abs(sizes[name].mean() - published.mean) < published.deviation, name
        assert 0.6 < sizes[name].std() / published.deviation < 1.4, name
    assert not implausible(sizes).any()
    assert 0 < (people.attempts > 0).mean() < 0.2


def test_implausible_heads_are_drawn_again(shapes, monkeypatch):
    """With narrower limits the same indices give other heads, those that were fine stay."""
    before = shapes.people(SEED, range(200))
    monkeypatch.setattr("topohead.geometry.anthropometry.LIMITS", 1.5)
    after = shapes.people(SEED, range(200))
    same = (before.weights == after.weights).all(1)
    assert 0.2 < same.mean() < 0.9
    assert (after.attempts[~same] > before.attempts[~same]).all()


def test_sources_without_ict_are_left_out(shapes):
    assert "ict" not in shapes.space.groups
    source = shapes.people(SEED, range(2000)).source
    share = np.bincount(source, minlength=4) / 2000
    assert np.abs(share - [0.9, 0, 0, 0.1]).max() < 0.03


def test_globes_are_round_and_lids_outside(shapes, heads):
    template = shapes.head.template
    for contact, center, radius in zip(
        shapes.globes, heads.centers.unbind(1), heads.radii.unbind(1), strict=True
    ):
        arms = heads.rest[:, contact.globe] - center[:, None]
        middle = template[contact.globe].mean(0) + contact.offset
        still = (template[contact.globe] - middle) / contact.radius
        assert (arms / radius[:, None, None] - still).abs().max() < 1e-4
    assert heads.radii.min() > 0.013 and heads.radii.max() < 0.020


# Motion


def test_no_expression_moves_nothing(heads):
    posed = heads.posed(torch.zeros(len(heads), 52))
    assert torch.equal(posed, heads.rest)


def test_actions_differ_between_people(shapes, heads):
    """Additive actions would be equal for all: the deltas must really vary."""
    plain = shapes.head.expression_basis[ARKIT_52.index("jawOpen")]
    moved = carried(
        shapes.head.expression_basis, heads.gradients, action(shapes, len(heads), jawOpen=1.0)
    )
    spread = (moved - moved.mean(0)).square().sum(-1).mean().sqrt()
    assert spread > 0.05 * plain.square().sum(-1).mean().sqrt()
    largest = moved.norm(dim=-1).amax(1)
    assert largest.min() > 0.02 and largest.max() < 0.07


def test_gradients_are_those_of_a_turn_and_a_scale(shapes):
    """Of a rotated, larger template: everywhere exactly that linear map."""
    angle = torch.tensor(0.7)
    turn = torch.eye(3)
    turn[:2, :2] = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    linear = 1.3 * turn
    found = shapes.gradients((shapes.head.template @ linear.T)[None])[0]
    assert (found - linear).abs().max() < 1e-4


def test_globes_stay_rigid_and_follow_the_gaze(shapes, heads):
    gaze = torch.tensor([[0.3, -0.2], [0.25, 0.1]]).expand(len(heads), 2, 2)
    posed = heads.posed(action(shapes, len(heads), jawOpen=0.5, eyeBlinkLeft=0.7), gaze)
    for k, contact in enumerate(shapes.globes):
        before = heads.rest[:, contact.globe] - heads.centers[:, k, None]
        after = posed[:, contact.globe] - heads.centers[:, k, None]
        turn = gaze_rotation(gaze[:, k])
        assert (after - before @ turn.transpose(1, 2)).abs().max() < 1e-6
        assert (after - before).norm(dim=-1).max() > 0.003


def test_the_tongue_comes_out_and_the_neck_turns(shapes, heads):
    tongue = shapes.topology.regions["tongue"]
    posed = heads.posed(action(shapes, len(heads), jawOpen=0.5, tongueOut=1.0))
    assert ((posed - heads.rest)[:, tongue, 2].amax(1) > 0.015).all()
    turned = heads.posed(torch.zeros(len(heads), 52), neck=torch.tensor([0.3, 0, 0]).repeat(11, 1))
    face = shapes.topology.regions["face"]
    assert torch.equal(turned[:, face], heads.rest[:, face])
    rim = shapes.topology.regions["boundary"]
    arms = [(x[:, rim] - shapes.pivot)[..., [2, 0]] for x in (heads.rest, turned)]
    angle = torch.atan2(arms[1][..., 1], arms[1][..., 0]) - torch.atan2(
        arms[0][..., 1], arms[0][..., 0]
    )
    # the head's yaw of 0.3 to its left leaves the rim 0.3 behind
    angle = torch.remainder(angle + np.pi, 2 * np.pi) - np.pi
    assert (angle.median(1).values + 0.3).abs().max() < 0.02


def test_planted_crossings_are_seen_and_mended(shapes):
    """The lower lip pushed up through the upper one, the upper lid through the lower one."""
    topology, template = shapes.topology, shapes.head.template
    assert all(slit.depth(template[None]).max() < 1e-4 for slit in (shapes.lips, *shapes.lids))
    lips = template.clone()
    lips[topology.regions["lips_lower"], 1] += 0.003
    lids = template.clone()
    rows = shapes.lids[0].patch.vertices[shapes.lids[0].upper]
    lids[rows, 1] -= 0.003
    for slit, planted in ((shapes.lips, lips), (shapes.lids[0], lids)):
        depth = slit.depth(planted[None]).max()
        assert 0.0015 < depth < 0.008
        mended = slit.apart(planted[None], torch.zeros(1, len(slit.patch.vertices)), 8)
        assert slit.depth(mended).max() < 0.15 * depth
    contact = shapes.globes[0]
    inside = template.clone()
    inside[contact.patch.vertices, 2] -= 0.002
    placed = *contact.placed(template[None]), torch.eye(3)[None]
    needed = contact.needed[None]
    assert (needed - contact.clearance(inside[None], *placed)).max() > 0.001
    mended = contact.outside(inside[None], *placed, needed)
    assert (needed - contact.clearance(mended, *placed)).max() < 1e-5


def test_random_faces_do_not_cross(shapes):
    """At most 1 % deeper than half a millimetre; without the remedy many more."""
    people = shapes.draw(SEED, range(64))
    coefficients, gaze = draw_expressions(SEED, range(64))
    plain = people.rest + carried(shapes.head.expression_basis, people.gradients, coefficients)
    posed = people.posed(coefficients, gaze)

    def share(vertices):
        deep = [
            (slit.depth(vertices) - slit.depth(people.rest).clamp(min=0)).amax(1)
            for slit in (shapes.lips, *shapes.lids)
        ]
        return float((torch.stack(deep).amax(0) > 5e-4).float().mean())

    assert share(posed) <= 0.01
    assert share(plain) > 0.1


def test_expressions_are_possible():
    coefficients, gaze = draw_expressions(SEED, range(3000))
    assert coefficients.min() >= 0 and coefficients.max() <= 1
    assert gaze.abs().max() < np.radians(36)
    for pair in OPPOSED:
        for side in ("Left", "Right"):
            names = [ARKIT_52.index(name.replace("*", side)) for name in pair]
            assert coefficients[:, names].sum(1).max() < 1 + 1e-6, pair
    close, jaw = (coefficients[:, ARKIT_52.index(n)] for n in ("mouthClose", "jawOpen"))
    assert (close <= jaw).all() and (close > 0).any()
    faces = coefficients.clone()
    faces[:, [k for k, n in enumerate(ARKIT_52) if n.startswith("eyeLook")]] = 0
    moving = (faces > 0).sum(1)
    assert 0.2 < (moving <= 2).float().mean() < 0.45
    used = (coefficients > 0).any(0)
    assert used.all(), [n for n, u in zip(ARKIT_52, used, strict=True) if not u]


def test_frames_of_a_recording_are_taken_as_they_are():
    from topohead.io.expressions import Performance

    times = torch.arange(50) / 30
    rows = torch.rand(50, 52, generator=torch.Generator().manual_seed(0))
    recording = Performance(times, rows, torch.zeros(50, 3), torch.zeros(50, 2, 3))
    coefficients, _ = draw_expressions(SEED, range(1000), recording)
    taken = (coefficients[:, None] == rows[None]).all(-1).any(1)
    assert 0.16 < taken.float().mean() < 0.24
    without, _ = draw_expressions(SEED, range(1000))
    assert torch.equal(without[~taken], coefficients[~taken])


# ICT-FaceKit


def test_ict_identities_come_over_a_checked_bridge(shared_data):
    """Modes move the reference's landmarks as they move ICT's own."""
    other, reference = ict_head(shared_data / "ict"), reference_head(0)
    head = carry(other, reference).checked("ICT-FaceKit")
    from topohead.geometry.correspondence import interpolate
    from topohead.geometry.mesh_quality import self_intersections

    skin = reference.topology.region_mask("skin")
    corners = reference.topology.triangles[skin[reference.topology.triangles].all(1)]
    assert self_intersections(head.mean, corners).sum() < 30  # 368 before folds were laid smooth
    marks = []
    for topology, basis in (
        (reference.topology, head.identity[:10]),
        (other.topology, other.identity_basis[:10]),
    ):
        points = topology.landmarks["ibug68"]
        rows = torch.stack([interpolate(points, topology.triangles, row)[27:] for row in basis])
        marks.append(rows - rows.mean(1, keepdim=True))
    gap = (marks[0] - marks[1]).norm(dim=-1)
    assert gap.median() < 4e-4  # also holds the turn that is taken out of ours


def test_a_bad_bridge_is_refused():
    quality = {"landmarks_mm": 0.1, "lines_mm": 0.8, "surface_mm": 0.8, "flipped": 0.0}
    quality["expressions"] = 0.8
    empty = CarriedHead(torch.zeros(4, 3), torch.zeros(1, 4, 3), quality)
    assert empty.checked("x") is empty
    bad = replace(empty, quality=quality | {"expressions": 0.2})
    with pytest.raises(ValueError, match=r"bridge to x fails its gate expressions: 0\.2"):
        bad.checked("x")


def test_all_sources_are_drawn_with_ict(shared_data):
    space = shape_space(shared_data / "ict")
    assert len(space.named("ict")) == 101
    shapes = load_shapes(ict=shared_data / "ict")
    people = shapes.people(SEED, range(2000))
    share = np.bincount(people.source, minlength=4) / 2000
    assert np.abs(share - mixture.SHARES).max() < 0.03
    ict = space.groups["ict"]
    uses = (people.weights[:, ict] != 0).any(1)
    assert np.array_equal(uses, np.isin(people.source, [1, 2]))


@pytest.mark.gpu
def test_cuda_draws_the_same_people(shapes):
    device = load_shapes("cuda", ict=None)
    coefficients, gaze = draw_expressions(SEED, range(32))
    here, there = shapes.draw(SEED, range(32)), device.draw(SEED, range(32))
    assert torch.equal(here.weights, there.weights)
    assert (here.rest - there.rest.cpu()).abs().max() < 2e-6
    gap = (here.posed(coefficients, gaze) - there.posed(coefficients, gaze).cpu()).abs()
    assert gap.quantile(0.999) < 2e-6 and gap.max() < 2e-4


def test_a_family_can_be_left_out(shapes):
    """Without ICT-FaceKit's data its people cannot be drawn, and nobody else changes."""
    assert mixture.shares(shapes.space) == pytest.approx((0.9, 0.0, 0.0, 0.1))
    alone = replace(shapes, families="anny").draw(SEED, range(6))
    assert torch.equal(alone.rest, shapes.draw(SEED, range(6)).rest)
    with pytest.raises(InputError, match="TOPOHEAD_ICT"):
        load_shapes(ict=None, families="ict")


def test_families_hold_nothing_of_each_other(shared_data):
    space = shape_space(shared_data / "ict")
    whole = mixture.shares(space)
    assert sum(whole) == pytest.approx(1)
    anny, ict = (mixture.shares(space, families) for families in ("anny", "ict"))
    assert anny == pytest.approx((0.45 / 0.55, 0, 0, 0.10 / 0.55))
    assert ict == (0, 1, 0, 0)
