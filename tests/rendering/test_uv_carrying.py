"""Pictures and rigs on the reference head, carried to a topology with UVs of its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from topohead.core import Mesh, Topology
from topohead.geometry import alignment
from topohead.geometry.bridge import bind
from topohead.geometry.carried_rigs import rig_in_topology
from topohead.geometry.skinning import rigged
from topohead.io.assets import reference_head
from topohead.rendering.uv import bake, texel_map
from topohead.rendering.uv_carrying import carried_texture


@pytest.fixture(scope="module")
def coarse():
    return reference_head(0)


@pytest.fixture(scope="module")
def bridge(coarse):
    """To the finer head, its picture a quarter as large and on its side."""
    fine = reference_head(1)
    t = fine.topology
    uv = torch.stack([1 - t.uv[:, 1], t.uv[:, 0]], 1) / 2 + 0.1
    return bind(
        coarse.neutral(), Mesh(Topology(t.vertex_count, t.faces, uv, t.face_uv), fine.template)
    )


def test_a_picture_arrives_where_the_skin_is(coarse, bridge):
    """A smooth field drawn in one head's UVs, against the same field drawn in the other's."""
    field = torch.sin(60 * coarse.template) / 2 + 0.5
    picture = bake(field, coarse.topology, 512)
    carried = carried_texture(picture, bridge, 512)
    wanted = bake(bridge.values(field), bridge.target, 512)
    texels = texel_map(bridge.target, 512)
    skin = bridge.target.triangle_mask("skin").numpy()
    inside = texels.inside & skin[texels.triangle]
    gap = (carried - wanted).abs().amax(2)[torch.from_numpy(inside)]
    assert gap.median() < 0.01
    assert gap.quantile(0.99) < 0.08
    assert np.isfinite(carried.numpy()).all()


def test_a_seam_is_looked_up_rather_than_interpolated(coarse, bridge):
    """Triangles across the source's seams have the colours of their place, not of the whole map."""
    places = coarse.topology.uv
    picture = torch.stack(torch.meshgrid(*[torch.linspace(0, 1, 256)] * 2, indexing="ij"), -1)
    carried = carried_texture(picture, bridge, 256)
    texels = texel_map(bridge.target, 256)
    assert places.amax() <= 1
    # on the source's own islands only: every colour is the place of some texel inside of one
    inside = texel_map(coarse.topology, 256).inside
    row, column = np.nonzero(texels.inside)
    at = (carried[row, column] * 255).round().long().numpy()
    grown = torch.nn.functional.max_pool2d(torch.from_numpy(inside).float()[None], 5, 1, 2)[0]
    assert grown[at[:, 0], at[:, 1]].mean() > 0.999


def test_no_uvs_are_refused(coarse, bridge):
    target = replace(bridge.target, uv=torch.zeros(0, 2))
    with pytest.raises(ValueError, match="no UVs"):
        carried_texture(torch.zeros(8, 8, 3), replace(bridge, target=target), 64)


def test_a_rig_is_carried_with_its_actions(coarse, bridge):
    """The same person in both topologies, turned and in another place, jaw and lids alike."""
    fine = reference_head(1)
    identity = 0.5 * torch.randn(80, generator=torch.Generator().manual_seed(4))
    pose = torch.eye(4)
    pose[:3, :3] = torch.linalg.matrix_exp(
        torch.tensor([[0, 0, 0.5], [0, 0, 0.2], [-0.5, -0.2, 0]])
    )
    pose[:3, 3] = torch.tensor([0.3, -1.0, 0.2])

    def of(head):
        neutral = alignment.apply(pose, head.vertices(identity, torch.zeros(52)))
        basis = head.expression_basis @ pose[:3, :3].T
        return rigged(head.topology, neutral, basis, torch.linalg.inv(pose))

    carried, wanted = rig_in_topology(of(coarse), bridge), of(fine)
    skin = fine.topology.region_mask("face")
    assert (carried.neutral - wanted.neutral)[skin].norm(dim=1).mean() < 4e-4
    for name in ("jawOpen", "eyeBlinkLeft", "mouthSmileRight"):
        weights = fine.expressions(**{name: 1.0})
        ours, theirs = (torch.tensordot(weights, r.blendshapes, 1)[skin] for r in (carried, wanted))
        assert (ours - theirs).norm() < 0.1 * theirs.norm()
    assert carried.neck.sub(wanted.neck).norm() < 0.005
    with pytest.raises(ValueError, match="cannot carry"):
        rig_in_topology(of(fine), bridge)
