"""What scanners make of a surface: blended in space, few flat triangles."""

from dataclasses import replace

import pytest
import torch

from topohead.geometry.meshes import face_normals, triangle_areas
from topohead.geometry.subdivision import catmull_clark, refine
from topohead.synthesis import scan_surface as scan_surfaces
from topohead.synthesis.datasets import ScanSource
from topohead.synthesis.device_draws import draws


def test_blended_scans_are_gaussian_means_in_space(source: ScanSource) -> None:
    surface, topology = source.surface, source.people.shapes.topology
    fine = refine(surface.refinement, source.people.at(torch.arange(1))[0]).expand(40, -1, -1)
    outer = (~surface.inner).expand(40, -1)
    random = draws(4, torch.arange(40))
    blended, normals = scan_surfaces.blended(surface, fine, outer, random)
    change = 1e3 * (blended - fine).norm(dim=-1)
    changed = change.amax(1) > 1e-3
    assert 16 <= int(changed.sum()) <= 32
    lids, scalp = (topology.region_mask(name).nonzero()[:, 0] for name in ("eyelids", "scalp"))
    assert float(change[:, scalp].max()) < 1e-6
    assert 0.1 < float(change[changed][:, lids].mean()) < 1.5
    # asked of all others and not of those within reach, the means are about the same
    triangles = surface.triangles
    facing = 2 * triangle_areas(fine[0], triangles)[:, None] * face_normals(fine[0], triangles)
    facing = facing * outer[0, :, None]
    some = surface.blended[::97]
    distance = torch.cdist(fine[0, some].double(), fine[0].double()).float()
    mass, turned = (
        torch.zeros(len(fine[0]), part.shape[1]).index_add_(
            0, triangles.flatten(), part.repeat_interleave(3, 0)
        )
        for part in (facing.norm(dim=1, keepdim=True), facing)
    )
    for name in ("blend", "blend of normals"):
        widths = scan_surfaces.WIDTH * random.uniform(name, 1, 1)[:, 0, 0]
        row = int(change.mean(1).argmax() if name == "blend" else widths.argmax())
        width = float(widths[row])
        pull = torch.exp(-0.5 * (distance / width).square())
        if name == "blend":
            means = (pull * mass.T / (pull @ mass)) @ fine[row]
            off = (blended[row, some] - means).norm(dim=-1)
            assert float(off.mean()) < 0.25 * float((fine[row, some] - means).norm(dim=-1).mean())
        else:
            means = pull @ turned / (pull @ mass)
            assert float((normals[row, some] - means).norm(dim=-1).mean()) < 0.05
            flat = torch.nn.functional.normalize(turned[some], dim=-1)
            assert float((normals[row, some] - flat).norm(dim=-1).mean()) > 0.1


def test_backs_of_lids_are_blended_too(source: ScanSource) -> None:
    """The face ends at the edges of lids, what scanners blend does not."""
    surface, topology = source.surface, source.people.shapes.topology
    finer, _ = catmull_clark(replace(topology, mirror=None))
    lids = finer.region_mask("eyelids").nonzero()[:, 0]
    assert torch.isin(lids, surface.blended).all()


def test_what_is_not_there_draws_nothing(source: ScanSource) -> None:
    """Without the lower lip the upper one stays where it is but for its own rounding."""
    surface, topology = source.surface, source.people.shapes.topology
    fine = refine(surface.refinement, source.people.shapes.head.template[None]).expand(8, -1, -1)
    finer, _ = catmull_clark(replace(topology, mirror=None))
    lips = finer.region_mask("lips") & finer.region_mask("face")
    corners = fine[0][surface.triangles]
    seam = fine[0, lips, 1].mean()
    below = lips[surface.triangles].all(1) & (corners[..., 1].mean(1) < seam)
    outer = (~surface.inner).expand(8, -1)
    random = draws(4, torch.arange(8))
    both, upper = (scan_surfaces.blended(surface, fine, there, random)[0][..., 1] - fine[..., 1]
                   for there in (outer, outer & ~below))  # fmt: skip
    edge = lips & (fine[0, :, 1] > seam) & (fine[0, :, 1] < seam + 2e-3)
    assert float((upper - both)[:, edge].amax(0).mean()) > 1e-5


def test_coarse_scans_are_flat_triangles_between_points_of_the_skin(source: ScanSource) -> None:
    surface = source.surface
    vertices = source.people.at(torch.arange(1))[0].expand(40, -1, -1)
    fine = refine(surface.refinement, vertices)
    random = draws(4, torch.arange(40))
    normals = torch.nn.functional.normalize(fine, dim=-1)
    coarse, carried, there = scan_surfaces.coarsened(surface, fine, normals, random)
    shift = scan_surfaces.SHIFT * random.uniform("shift", 1) * random.chance("shifted", 0.5, 1)
    kinds = (len(surface.sides) * random.uniform("triangulation", 1)).long()
    changed = (coarse != fine).any(-1).any(-1)
    assert 6 <= int(changed.sum()) <= 21
    assert there[~changed].all()
    assert 3 <= int((~there).any(-1).sum()) <= 0.8 * int(changed.sum())
    # what is lost is where lips and lids turn in, and no wider than half a side
    assert float(surface.rim[(~there).any(0)].max()) < 0.5 * float(surface.sides[-1])
    corner = surface.triangles
    rows = changed.nonzero()[:, 0].tolist()
    assert 0.2 * len(rows) < sum(bool(shift[row]) for row in rows) < 0.8 * len(rows)
    for row in rows:
        # vertices are some of the finer ones, or near, and stand for those about a side around
        leader = surface.coarser[kinds[row, 0]]
        off = (coarse[row] - fine[row, leader])[leader.unique()]
        assert len(coarse[row].unique(dim=0)) == len(leader.unique())
        assert float(off.square().mean().sqrt()) == pytest.approx(float(shift[row]), rel=0.05)
        assert torch.equal(carried[row], normals[row, leader])
        assert float((coarse[row] - fine[row]).norm(dim=-1).max()) < 1.8 * 1.5 * 6e-3
    rest = refine(surface.refinement, source.people.shapes.head.template)
    for kind in (0, len(surface.sides) - 1):
        leader = surface.coarser[kind]
        assert torch.equal(leader[leader], leader)
        assert float((rest[leader] - rest).norm(dim=-1).max()) < 1.8 * float(surface.sides[kind])
        kept = leader[corner]
        kept = (kept != kept.roll(1, 1)).all(1).sum()
        assert float(kept) < (0.9, 0.3)[kind > 0] * len(corner)
