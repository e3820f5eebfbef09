"""Rigs: poses undo, necks bend smoothly, another head does the same."""

from dataclasses import replace

import torch

from topohead.geometry.meshes import boundary_edges, uniform_laplacian
from topohead.geometry.skinning import (
    RigPerformance,
    blended,
    measured_head_share,
    placed,
    posed,
    relaxed_head_share,
    retarget,
    rigged,
    unposed,
)
from topohead.io.assets import reference_head
from topohead.synthesis.performances import scripted, with_head_motion


def test_unposed_undoes_the_pose() -> None:
    head, motion = reference_head(0), with_head_motion(scripted(5, 10.0), torch.zeros(3))
    basis = head.expression_basis
    made = posed(head.template, basis, motion.coefficients, motion.poses)
    shapes = blended(head.template, basis, motion.coefficients)
    assert (unposed(made, motion.poses) - shapes).abs().max() < 1e-6


def test_the_neck_relaxes_from_rim_to_head() -> None:
    topology = reference_head(0).topology
    share = relaxed_head_share(topology)
    assert (share[topology.regions["boundary"]] == 0).all()
    assert (share[topology.region_mask("face", "scalp", "eyes", "teeth", "tongue")] == 1).all()
    neck = share[topology.regions["neck"]]
    assert ((neck > 0.1) & (neck < 0.9)).sum() > 0.4 * len(neck)
    # harmonic: every free vertex is the mean of its neighbours, so nothing jumps
    free = (share > 0) & (share < 1)
    assert (uniform_laplacian(topology).double() @ share)[free].abs().max() < 1e-5


def test_a_mask_without_a_neck_follows_as_a_whole() -> None:
    head = reference_head(0)
    kept = head.topology.region_mask("face")[head.topology.faces].all(1)
    faces, face_uv = head.topology.faces[kept], head.topology.face_uv[kept]
    mask = replace(head.topology, faces=faces, face_uv=face_uv)
    regions = dict(mask.regions) | {"boundary": boundary_edges(mask).unique()}
    assert (relaxed_head_share(replace(mask, regions=regions)) == 1).all()


def test_the_neck_of_a_take_is_measured() -> None:
    """Planted: the neck follows by a half; a head that keeps still says nothing."""
    head, motion = reference_head(0), with_head_motion(scripted(12, 10.0), torch.zeros(3))
    expected = relaxed_head_share(head.topology)
    planted = torch.where(expected < 1, 0.5, 1.0)
    shapes = blended(head.template, head.expression_basis, motion.coefficients)
    tracked = torch.lerp(shapes, placed(shapes, motion.poses), planted.float()[:, None])
    share = measured_head_share(tracked, shapes, motion.poses, expected)
    assert (share - planted).abs().max() < 0.1
    still = torch.eye(4, dtype=torch.float64).repeat(12, 1, 1)
    unmoved = measured_head_share(shapes, shapes, still, expected)
    assert (unmoved - expected).abs().max() < 1e-9


def test_another_head_in_another_place_makes_the_same_face() -> None:
    """A head model turned and moved in its world: retargeting lands on the posed model."""
    head, motion = reference_head(0), with_head_motion(scripted(4, 10.0), torch.zeros(3))
    share = torch.ones(head.topology.vertex_count)
    here = rigged(head.topology, head.template, head.expression_basis, torch.eye(4), share)
    place = motion.poses[-1].clone()
    place[:3, 3] += torch.tensor([0.5, 1.0, -2.0])
    turned = (head.expression_basis.double() @ place[:3, :3].T).float()
    neutral = placed(head.template[None], place[None])[0]
    there = rigged(head.topology, neutral, turned, torch.linalg.inv(place), share)
    source = RigPerformance(here, motion.coefficients, motion.poses, 10.0)
    played = retarget(source, there).vertices()
    expected = placed(source.vertices(), place.repeat(4, 1, 1))
    assert (played - expected).abs().max() < 1e-5
