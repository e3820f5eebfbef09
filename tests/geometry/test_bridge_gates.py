"""Every gate of a bridge, passed by a good one and failed by one that is broken on purpose."""

from dataclasses import replace

import pytest
import torch

from topohead.core import ARKIT_52, Mesh, SurfacePoints, Topology
from topohead.geometry.bridge import _frames, bind
from topohead.geometry.bridge_quality import BridgeQuality, check_bridge
from topohead.geometry.correspondence import interpolate
from topohead.geometry.following import CONTINUED
from topohead.io.assets import reference_head
from topohead.models.linear import LinearHead

HEADS = 3


@pytest.fixture(scope="module")
def coarse():
    return reference_head(0)


@pytest.fixture(scope="module")
def fine():
    return reference_head(1)


@pytest.fixture(scope="module")
def good(coarse, fine):
    """From level 0 to level 1, which knows its landmarks but no regions."""
    t = fine.topology
    known = Topology(t.vertex_count, t.faces, t.uv, t.face_uv, landmarks=t.landmarks)
    return bind(coarse.neutral(), Mesh(known, fine.template))


def failed(quality: BridgeQuality) -> set[str]:
    """The gates that fail, by the first word of their lines."""
    return {line.split(":")[0].split(",")[0] for line in quality.failures()}


def rebound(bridge, other):
    """The same mesh, each vertex bound where `other` vertex was."""
    points = SurfacePoints(bridge.points.triangles[other], bridge.points.barycentrics[other])
    frames = _frames(bridge.source, points, bridge.placed)
    foot = interpolate(points, bridge.source.triangles, bridge.placed)
    offsets = (frames * (bridge.rest - foot)[..., None]).sum(1)
    return replace(bridge, points=points, offsets=offsets)


def checked(bridge, coarse, fine, **others):
    return check_bridge(bridge, others.pop("own", fine.topology), coarse, **others)


def test_a_good_bridge_passes_every_gate(good, coarse, fine):
    quality = checked(good, coarse, fine, other=fine, identities=HEADS)
    assert quality.failures() == []
    assert quality.landmarks_max_mm < 0.5
    assert set(quality.lines_mm) and max(quality.lines_mm.values()) < 1
    assert quality.round_trip_p99_mm < 0.5
    assert quality.mirror_mm < 0.1
    assert quality.identities_mm < 0.15
    assert min(quality.expressions.values()) > 0.95
    assert quality.covered > 0.95


def test_wrong_landmarks_fail(good, coarse, fine):
    """A mesh whose right eye's outer corner is on the nose's tip."""
    points = fine.topology.landmarks["ibug68"]
    swap = torch.arange(68)
    swap[33] = 30
    wrong = SurfacePoints(points.triangles[swap], points.barycentrics[swap])
    own = replace(fine.topology, landmarks={"ibug68": wrong})
    quality = checked(good, coarse, fine, own=own, identities=0)
    assert failed(quality) == {"landmarks"}
    assert quality.landmark == 33
    assert "landmark 33" in quality.failures()[0]


def test_lids_that_slid_fail(good, coarse, fine):
    """The mesh's lids are 3 mm lower than where the bridge has them, and nothing else is."""
    lids = coarse.topology.region_mask("eyelids")
    placed = good.placed + torch.tensor([0, -0.003, 0]) * lids[:, None]
    slid = bind(Mesh(coarse.topology, placed), Mesh(good.target, good.rest))
    quality = checked(slid, coarse, fine, identities=0)
    assert {"line", "landmarks"} <= failed(quality)
    assert {name for name, mm in quality.lines_mm.items() if mm > 1} == {
        f"{side} {lid} lid" for side in ("left", "right") for lid in ("upper", "lower")
    }


def test_lips_swapped_end_to_end_are_out_of_order(good, coarse, fine):
    points = fine.topology.landmarks["ibug68"]
    turned = torch.arange(68)
    turned[60:65] = torch.arange(64, 59, -1)
    own = SurfacePoints(points.triangles[turned], points.barycentrics[turned])
    quality = checked(
        good, coarse, fine, own=replace(fine.topology, landmarks={"ibug68": own}), identities=0
    )
    assert "upper lip" in quality.disordered
    assert any("upper lip are out of order" in line for line in quality.failures())


def test_places_that_slid_fail_the_round_trip_and_the_mirror(good, coarse, fine):
    """On the left side each vertex is bound where its neighbour belongs."""
    neighbour = torch.arange(good.target.vertex_count)
    first, second = good.target.edges.unbind(1)
    left = fine.template[:, 0] > 0.005
    neighbour[first[left[first]]] = second[left[first]]
    quality = checked(rebound(good, neighbour), coarse, fine, identities=0)
    assert {"round trip", "mirrored bridge"} <= failed(quality)


def test_skin_that_floats_fails_on_other_heads(good, coarse, fine):
    quality = checked(
        replace(good, offsets=good.offsets + torch.tensor([0, 0, 0.0005])), coarse, fine,
        identities=HEADS,
    )  # fmt: skip
    assert "random heads carried over" in failed(quality)


def test_skin_that_is_bound_at_random_folds_on_other_heads(good, coarse, fine):
    nose = fine.topology.regions["nose"]
    other = torch.arange(good.target.vertex_count)
    other[nose] = nose[torch.randperm(len(nose), generator=torch.Generator().manual_seed(1))]
    quality = checked(rebound(good, other), coarse, fine, identities=HEADS)
    assert "flipped triangles" in failed(quality)
    assert quality.flips_at in ("nose", "face")


def test_an_action_that_means_something_else_fails_unless_it_is_excepted(good, coarse, fine):
    basis = fine.expression_basis.clone()
    smile = ARKIT_52.index("mouthSmileLeft")
    basis[smile] = -basis[smile]
    other = LinearHead(fine.topology, fine.template, fine.identity_basis, basis)
    quality = checked(good, coarse, fine, other=other, identities=0)
    assert failed(quality) == {"expression"}
    assert "mouthSmileLeft" in quality.failures()[0]
    assert quality.failures(("mouthSmileLeft",)) == []


def test_a_mesh_that_misses_the_face_fails(good, coarse, fine):
    kind = torch.where(fine.topology.region_mask("face"), CONTINUED, good.kind)
    quality = checked(replace(good, kind=kind), coarse, fine, identities=0)
    assert "face covered" in failed(quality)
