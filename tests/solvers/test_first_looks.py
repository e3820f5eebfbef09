"""What Gaussians look like before any step."""

from dataclasses import replace

import pytest
import torch

from posed_person import sitting
from topohead.core.splats import SH_DC
from topohead.geometry.binding import posed_factors
from topohead.rendering.harmonics import view_basis
from topohead.solvers.first_looks import (
    LEAST,
    facing,
    first_looks,
    instant_colors,
    matched_lights,
)
from topohead.solvers.unseen_looks import SURE, filled, sidelight, whitest
from topohead.workflows.avatars.start import parts_of, starting_gaussians

EDGE = 64


@pytest.fixture(scope="module")
def person():
    """Three instants of the painted head, each from another of its cameras."""
    whole = sitting(EDGE)
    views = tuple(
        replace(
            view, cameras=view.cameras.select([view.cameras.names[c]]), images=(view.images[c],),
            masks=None if view.masks is None else (view.masks[c],),
        )
        for view, c in zip(whole.posed.views, (1, 2, 3), strict=True)
    )  # fmt: skip
    return replace(whole, posed=replace(whole.posed, views=views))


@pytest.fixture(scope="module")
def start(person):
    return starting_gaussians(person, 4000)


def in_lights(person, lights):
    """The sitting with every instant's pictures in one light of its own, the same all over."""
    views = tuple(
        replace(view, images=tuple(image * light.exp() for image in view.images))
        for view, light in zip(person.posed.views, lights, strict=True)
    )
    return replace(person.posed, views=views)


def test_planted_lights_are_found_and_taken_off(person, start) -> None:
    """Exposures and casts of three pictures; colours then agree where two of them look."""
    planted = torch.tensor([[0.2, 0.1, 0.0], [-0.3, -0.2, -0.2], [0.1, 0.1, 0.2]])
    parts = parts_of(person, start)
    plain = instant_colors(start, person.posed, parts.inner)
    lit = instant_colors(start, in_lights(person, planted), parts.inner)
    normals = facing(start, person.posed, person.posed.vertices[0])
    before, after = matched_lights(plain, normals), matched_lights(lit, normals)
    found = (after - before)[:, 0]
    assert float((found - (planted - planted.mean(0))).abs().max()) < 0.05
    # and the same colours come out of both
    none = torch.zeros(3, 0)
    looks = [
        first_looks(start, posed, none, parts, True, 0).splats.harmonics[:, 0] * SH_DC
        for posed in (person.posed, in_lights(person, planted - planted.mean(0)))
    ]
    seen = plain.seen.sum(0) > SURE
    assert float((looks[1] - looks[0])[seen].abs().mean()) < 0.02


def test_colours_follow_expressions_that_were_seen(person, start) -> None:
    """One picture redder than the others: so is the Gaussian under that expression alone."""
    redder = torch.tensor([[0.0, 0, 0], [0.4, 0, 0], [0.0, 0, 0]])
    posed, parts = in_lights(person, redder), parts_of(person, start)
    codes = torch.tensor([[-0.7, -1.2], [1.4, 0.0], [-0.7, 1.2]])
    looks = first_looks(start, posed, codes, parts, False)
    found = instant_colors(start, posed, parts.inner)
    played = looks.splats.harmonics[:, 0] + torch.einsum("tr,nrc->tnc", codes, looks.changes)
    shown = found.seen > 0.5
    gap = (0.5 + SH_DC * played - found.colors)[shown]
    assert float(gap.abs().mean()) < 0.03
    flat = (0.5 + SH_DC * looks.splats.harmonics[:, 0] - found.colors)[1][shown[1]]
    assert float(flat[:, 0].abs().mean()) > 0.06


def test_light_turns_with_the_view(person, start) -> None:
    """Pictures of three sides in three lights: each side keeps something of its own."""
    planted = torch.tensor([[0.3, 0.3, 0.3], [0.0, 0.0, 0.0], [-0.3, -0.3, -0.3]])
    parts = parts_of(person, start)
    looks = first_looks(start, in_lights(person, planted), torch.zeros(3, 0), parts, True)
    assert looks.splats.harmonics.shape[1] == 4
    ways = torch.tensor([[0.42, 0.0, -0.9], [-0.9, 0.0, -0.42]])
    basis = view_basis(torch.nn.functional.normalize(ways, dim=1), 4)
    sides = torch.einsum("mk,nkc->mnc", basis, looks.splats.harmonics).mean((1, 2))
    assert abs(float(sides[0] - sides[1])) > 0.03


def test_the_other_side_fills_what_was_not_seen_in_its_own_light(start, person) -> None:
    """One half of a symmetric head in light from one side: the other is found, and darker."""
    rest = person.rig.neutral
    places, _ = posed_factors(start.binding, person.posed.topology.triangles, rest)
    normals = facing(start, person.posed, rest)
    kinds = parts_of(person, start).kinds
    height = 0.5 + 1.2 * places[:, 1:2]
    true = (height.clamp(0.3, 0.7) * (0.3 * normals[:, :1]).exp()).expand(-1, 3)
    # a strip right of the middle is seen too: it tells the light
    seen = torch.where(places[:, 0] > -0.035, 1.0, 0.0)
    given = torch.where(seen[:, None] > 0, true, 0.0)
    found = filled(given, seen, places, normals, kinds, LEAST)
    assert torch.equal(found[seen > 0], given[seen > 0])
    gap = (found - true)[seen == 0].abs().mean(1)
    assert float(gap.median()) < 0.03
    assert float(gap.quantile(0.95)) < 0.12


def test_nothing_seen_says_nothing_of_light() -> None:
    """No pairs: no slope. No eyes: no white."""
    colors, normals = torch.rand(10, 3), torch.eye(3)[torch.zeros(10).long()]
    twins = torch.full((10,), -1)
    assert torch.equal(sidelight(colors, torch.ones(10), normals, twins), torch.zeros(3))
    assert whitest(colors, torch.ones(10), torch.zeros(10).bool(), LEAST) is None
