"""What folds where it was put down is laid smooth again, and nothing else moves."""

import pytest
import torch

from topohead.geometry.correspondence import interpolate
from topohead.geometry.lines import INNER
from topohead.geometry.mesh_quality import self_intersections
from topohead.io.assets import reference_head
from topohead.models.unfolding import Continued, places_on, unfolded


@pytest.fixture(scope="module")
def head():
    return reference_head(0)


def pierced(topology, vertices):
    """How many of the skin's triangles run through others."""
    skin = topology.region_mask("skin")
    corners = topology.triangles[skin[topology.triangles].all(1)]
    return int(self_intersections(vertices, corners).sum())


@pytest.mark.slow
def test_crumpled_ears_are_laid_smooth(head):
    """The other family is the reference itself, so the truth is the template."""
    topology, template = head.topology, head.template
    ears = topology.region_mask("ears")
    noise = 0.002 * torch.randn(template.shape, generator=torch.Generator().manual_seed(0))
    crumpled = torch.where(ears[:, None], template + noise, template)
    places = places_on(crumpled, head, topology)
    assert pierced(topology, places(template)) > 200
    found = unfolded(crumpled, head, head)
    assert pierced(topology, found.mean) < 30  # of which 18 on the lips are the template's own
    gap = (found.mean - template).norm(dim=1)
    assert gap[ears].mean() < 0.5 * (places(template) - template).norm(dim=1)[ears].mean()
    assert gap[topology.region_mask("face")].quantile(0.98) < 1e-4
    row = head.identity_basis[0]
    moved = (found.mode(row, topology) - row).norm(dim=1)
    assert moved[topology.region_mask("face", "ears")].mean() < 0.05 * row.norm(dim=1).mean()


def test_what_nothing_holds_moves_along_and_points_are_kept(head):
    topology = head.topology
    marks = topology.landmarks["ibug68"]
    inner = type(marks)(marks.triangles[INNER], marks.barycentrics[INNER])
    weight = topology.region_mask("scalp").double()
    shift = torch.tensor([1.0, -2.0, 3.0]).double()
    along = Continued(topology, weight)(shift.expand(len(weight), 3))
    assert (along - shift).abs().max() < 1e-6
    fill = Continued(topology, 1e-3 * weight, inner)
    found = fill(torch.zeros(len(weight), 3), shift.expand(41, 3))
    kept = interpolate(inner, topology.triangles, found)
    assert (kept - shift).norm(dim=1).median() < 0.1
    assert (found - shift)[topology.region_mask("tongue")].norm(dim=1).max() < 0.3
    tilted = 0.01 + head.template[:, 2:].double().expand(-1, 3) * 20  # runs on without bending
    rim = Continued(topology, weight)(tilted)
    known = tilted[topology.region_mask("scalp")]
    assert rim.min() > known.min() - 0.5 and rim.max() < known.max() + 0.5
