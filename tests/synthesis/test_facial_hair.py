"""Brows, lashes and beards: in their places, outside the face, carried by it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from topohead.core import Mesh
from topohead.geometry.correspondence import closest_points
from topohead.geometry.head_field import HeadField
from topohead.geometry.root_frames import carried, from_local, to_local
from topohead.geometry.strands import segment_lengths
from topohead.io.assets import reference_head
from topohead.models.linear import LinearHead
from topohead.synthesis.facial_hair import (
    BEARDS,
    Beard,
    Brows,
    grow_beard,
    grow_brows,
    grow_lashes,
)
from topohead.synthesis.subjects import make_subject


@pytest.fixture(scope="module")
def head() -> LinearHead:
    return reference_head(0)


@pytest.fixture(scope="module")
def field(head: LinearHead) -> HeadField:
    return HeadField.of(head.topology, head.template)


@pytest.fixture(scope="module")
def rest(head: LinearHead) -> torch.Tensor:
    return make_subject(head, 8).rest


def test_brows_stay_in_their_region(head: LinearHead, field: HeadField, rest: torch.Tensor) -> None:
    strands = grow_brows(Brows(), field, rest, 1).packed()
    assert len(strands.points) > 250
    brows = head.topology.region_mask("brows")
    assert brows[head.topology.triangles[strands.root_triangle]].any(1).all()
    # no hair reaches farther than a centimetre from the brows' vertices, or below the upper lid
    apart = torch.cdist(strands.points[:, -1], rest[brows]).amin(1)
    assert apart.max() < 0.010
    left = strands.points[..., 0] > 0
    assert 0.4 < left[:, 0].float().mean() < 0.6
    assert (left == left[:, :1]).all()  # nothing crosses the nose
    # no thicker than a brow: the landmarks run along its upper edge
    points = head.topology.landmarks["ibug68"]
    corners = head.template[head.topology.triangles[points.triangles]]
    line = (corners * points.barycentrics[..., None]).sum(1)[22:27].numpy()
    roots = field.place(rest[None]).canonical(strands.points[None, :, 0])[0].numpy()
    above = roots[:, 1] - np.interp(np.abs(roots[:, 0]), line[:, 0], line[:, 1])
    assert above.min() > -0.009 and above.max() < 0.005
    sparse = grow_brows(Brows(density=0.3), field, rest, 1)
    assert 0.25 < len(sparse.packed().points) / len(strands.points) < 0.45


def test_lashes_grow_on_the_margins(field: HeadField, rest: torch.Tensor, head: LinearHead) -> None:
    strands = grow_lashes((0.02, 0.01, 0.01), field, rest, 1)
    assert strands.present.all()
    _, distance = closest_points(strands.points[:, 0], Mesh(head.topology, rest))
    assert distance.max() < 1e-5
    lids = torch.cat([rest[head.topology.regions["eyelids"]], rest[head.topology.regions["eyes"]]])
    assert torch.cdist(strands.points[:, 0], lids).amin(1).max() < 0.003
    assert (strands.points[:, -1, 2] > strands.points[:, 0, 2]).float().mean() > 0.95  # forward


@pytest.mark.parametrize("name", list(BEARDS))
def test_beards_grow_where_they_say(
    name: str, head: LinearHead, field: HeadField, rest: torch.Tensor
) -> None:
    beard = BEARDS[name]
    strands = grow_beard(beard, field, rest, 1, strands=2500).packed()
    if beard == BEARDS["shaved"]:
        assert len(strands.points) == 0
        return
    assert len(strands.points) > 50
    marks = head.topology.landmarks["ibug68"]
    corners = rest[head.topology.triangles[marks.triangles]]
    mouth = float((corners * marks.barycentrics[..., None]).sum(1)[62, 1])
    roots = strands.points[:, 0]
    assert roots[:, 1].max() < 0.01 and roots[:, 2].min() > -0.08
    upper = (roots[:, 1] > mouth) & (roots[:, 0].abs() < 0.02)
    assert bool(upper.any()) == (beard.moustache > 0)
    assert bool((roots[:, 1] < mouth - 0.02).any()) == (max(beard.chin, beard.cheeks) > 0)
    longest = segment_lengths(strands.points).sum(1).max()
    assert longest < 1.6 * max(beard.moustache, beard.chin, beard.cheeks) + 0.004


def test_density_of_a_beard_moves_no_hair(field: HeadField, rest: torch.Tensor) -> None:
    full = grow_beard(Beard(), field, rest, 3, strands=800)
    thin = grow_beard(replace(Beard(), density=0.3), field, rest, 3, strands=800)
    assert torch.equal(full.points, thin.points)
    assert 0 < thin.present.sum() < 0.5 * full.present.sum()


def test_a_beard_goes_with_the_jaw(head: LinearHead, field: HeadField, rest: torch.Tensor) -> None:
    strands = grow_beard(BEARDS["short"], field, rest, 1, strands=800).packed()
    opened = rest + head.expression_basis[17] * 0.8  # jawOpen
    moved = carried(strands, head.topology, rest, opened)
    corners = opened[head.topology.triangles[moved.root_triangle]]
    roots = (corners * moved.root_barycentrics[..., None]).sum(1)
    assert torch.allclose(moved.points[:, 0], roots, atol=1e-6)
    assert (moved.points - strands.points).norm(dim=-1).max() > 0.01
    before, after = segment_lengths(strands.points), segment_lengths(moved.points)
    assert torch.allclose(before, after, atol=1e-6)


def test_any_head_carries_local_hair(
    head: LinearHead, field: HeadField, rest: torch.Tensor
) -> None:
    strands = grow_brows(Brows(), field, rest, 1, strands=400).packed()
    local = to_local(strands, rest, head.topology)
    back = from_local(local, strands, rest, head.topology, keep_length=False)
    assert torch.allclose(back.points, strands.points, atol=1e-6)
    larger = from_local(local, strands, 1.3 * rest, head.topology, keep_length=False)
    assert torch.allclose(larger.points, 1.3 * strands.points, atol=1e-6)
