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
    assert float(off.amax(0)[~folds].quantile(0.99)) < 1e-5


def test_a_head_twice_as_large_moves_twice_as_far(actions: PersonalActions) -> None:
    smile = ARKIT_52.index("mouthSmileLeft")
    small, large = (actions.carried(size * HEAD.template)[smile] for size in (1.0, 1.3))
    cheek = small.norm(dim=-1) > 0.004
    assert cheek.any()
    assert torch.allclose(large[cheek], 1.3 * small[cheek], atol=1e-4)


def test_expression_and_rest_make_up_what_is_shown_and_lips_do_not_cross(
    actions: PersonalActions,
) -> None:
    heads = load_shapes("cpu").draw(100, [1, 4])
    weights = HEAD.expressions(mouthSmileLeft=0.7, mouthSmileRight=0.5, browInnerUp=0.4)
    shown = heads.posed(weights.expand(2, -1))
    for person, rest in zip(shown, heads.rest, strict=True):
        neutral, own = actions.at_rest(person, weights)
        again = neutral + torch.tensordot(weights, own, 1)
        assert torch.allclose(again, person, atol=1e-6)
        face = HEAD.topology.region_mask("face")
        better = (neutral - rest)[face].norm(dim=1).mean()
        plain = person - torch.tensordot(weights, HEAD.expression_basis, 1)
        assert better < 0.6 * (plain - rest)[face].norm(dim=1).mean()
        for slit in actions.followers.slits:
            beyond = slit.depth(neutral + own) - slit.depth(neutral[None]).clamp(min=0)
            assert float(beyond.amax()) < 1.0e-3
