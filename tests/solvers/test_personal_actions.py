"""A person's own actions: those of the head model on its own head, scaled, apart; exact in sum."""

import pytest
import torch

from topohead.core import ARKIT_52
from topohead.io.assets import reference_head
from topohead.solvers.personal_actions import PersonalActions
from topohead.synthesis.shapes import load_shapes

HEAD = reference_head(0)


@pytest.fixture(scope="module")
def actions() -> PersonalActions:
    return PersonalActions.of(HEAD)


def test_the_template_keeps_the_models_actions(actions: PersonalActions) -> None:
    found = actions.carried(HEAD.template)
    off = (found - HEAD.expression_basis).norm(dim=-1)
    # only lids and lips that cross on the template itself are moved
    folds = HEAD.topology.region_mask("eyelids", "eye_sockets", "lips", "mouth_interior")
    assert float((off.amax(0)[~folds] < 1e-6).float().mean()) > 0.9
    assert float(off.amax(0)[~folds].quantile(0.99)) < 1e-4


def test_a_head_twice_as_large_moves_twice_as_far(actions: PersonalActions) -> None:
    smile = ARKIT_52.index("mouthSmileLeft")
    small, large = (actions.carried(size * HEAD.template)[smile] for size in (1.0, 1.3))
    cheek = small.norm(dim=-1) > 0.004
    assert cheek.any()
    assert torch.allclose(large[cheek], 1.3 * small[cheek], atol=1e-4)


def test_expression_and_rest_make_up_what_is_shown_and_few_lips_cross(
    actions: PersonalActions,
) -> None:
    heads = load_shapes("cpu").draw(100, [1, 4])
    weights = HEAD.expressions(mouthSmileLeft=0.7, mouthSmileRight=0.5, browInnerUp=0.4)
    shown = heads.posed(weights.expand(2, -1))
    face = HEAD.topology.region_mask("face")
    crossed = {"own": 0, "model": 0}
    for person, rest in zip(shown, heads.rest, strict=True):
        neutral, own = actions.at_rest(person, weights)
        again = neutral + torch.tensordot(weights, own, 1)
        assert torch.allclose(again, person, atol=1e-6)
        plain = person - torch.tensordot(weights, HEAD.expression_basis, 1)
        error, before = ((v - rest)[face].norm(dim=1).mean() for v in (neutral, plain))
        assert error < 0.6 * before
        for name, start, basis in (
            ("own", neutral, own),
            ("model", plain, HEAD.expression_basis),
        ):
            for slit in actions.followers.slits:
                beyond = slit.depth(start + basis) - slit.depth(start[None]).clamp(min=0)
                crossed[name] += int((beyond.amax(1) > 5e-4).sum())
    assert crossed["own"] < 0.3 * crossed["model"]
