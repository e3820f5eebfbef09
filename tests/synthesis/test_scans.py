"""Scans are what their truth says: labels, holes, poses; and depend on nothing but their number."""

import io
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from topohead.core import ARKIT_52
from topohead.core.shapes import Heads, ShapeSource
from topohead.geometry.correspondence import TriangleTree
from topohead.geometry.meshes import edges_around, face_normals, triangle_areas
from topohead.geometry.subdivision import catmull_clark, refine
from topohead.io.shards import write_shards
from topohead.models.registration import FACE_CENTRE
from topohead.rendering.portraits import moved
from topohead.synthesis import scan_poses, scans
from topohead.synthesis import scan_surface as scan_surfaces
from topohead.synthesis.datasets import (
    BENT_MM,
    BentPeople,
    PooledPeople,
    RippledPeople,
    Ripples,
    ScanBatch,
    ScanSource,
    pooled,
    sample_indices,
    smooth_fields,
)
from topohead.synthesis.device_draws import Draws, draws
from topohead.synthesis.shapes import load_shapes
from topohead.synthesis.sights import seen_from_outside
from topohead.synthesis.stored import stored_scans


def surface_distance(source: ScanSource, batch, sample: int) -> torch.Tensor:
    """Millimetres from a scan's points to its true surface."""
    fine = refine(source.surface.refinement, batch.vertices[sample])
    tree = TriangleTree(fine.double().numpy()[source.surface.triangles.numpy()])
    points = batch.pose.inverse(batch.cloud.points)[sample].double().numpy()
    return torch.from_numpy(tree.closest(points)[2]) * 1e3


def test_the_population_satisfies_the_protocols(source: ScanSource) -> None:
    assert isinstance(source.people.shapes, ShapeSource)
    assert isinstance(source.people.shapes.draw(0, torch.arange(2)), Heads)


def test_a_scan_is_a_function_of_its_number(source: ScanSource) -> None:
    numbers = sample_indices(11, 6)
    together, alone = source.at(numbers), source.at(numbers[4:5])
    assert torch.equal(together.cloud.valid[4], alone.cloud.valid[0])
    assert torch.equal(together.cloud.inlier[4], alone.cloud.inlier[0])
    assert torch.allclose(together.vertices[4], alone.vertices[0], atol=1e-6)
    scale = float(alone.pose.scale[0])
    apart = (together.cloud.points[4] - alone.cloud.points[0]).abs().max()
    assert float(apart) < 1e-5 * scale
    again = source.at(numbers)
    assert torch.equal(again.cloud.points, together.cloud.points)


def test_pooled_people_are_the_same_people(source: ScanSource) -> None:
    pool = replace(source, people=pooled(source.people, 8, torch.device("cpu"), chunk=3))
    numbers = torch.tensor([5, 2])
    assert torch.allclose(pool.at(numbers).vertices, source.at(numbers).vertices, atol=1e-6)
    later = pool.at(numbers + 8)
    assert torch.allclose(later.vertices, source.at(numbers).vertices, atol=1e-6)
    assert not torch.equal(later.pose.rotation, pool.at(numbers).pose.rotation)


def test_blunt_scans_are_rounder_and_a_third(source: ScanSource) -> None:
    vertices = source.people.at(torch.arange(1))[0].expand(60, -1, -1)
    fine = refine(source.surface.refinement, vertices)
    blunted = scan_surfaces.blunted(source.surface, fine, draws(4, torch.arange(60)))
    change = 1e3 * (blunted - fine).norm(dim=-1)
    changed = change.amax(1) > 0
    assert 12 <= int(changed.sum()) <= 28
    assert 0.02 < float(change[changed].mean()) < 0.3
    # the tip of the nose is the foremost point of the face, and gets flatter
    tip = fine[0, :, 2].argmax()
    assert (blunted[changed, tip, 2] < fine[changed, tip, 2]).all()


def test_bent_people_are_others_of_the_stated_size(source: ScanSource) -> None:
    pool = pooled(source.people, 4, torch.device("cpu"))
    fields = smooth_fields(source.people.shapes.space)
    bent = BentPeople(pool, fields, 5)
    numbers = torch.arange(80)
    moved = bent.at(numbers)[0] - pool.at(numbers)[0]
    skin = source.people.shapes.topology.regions["skin"]
    rms = moved[:, skin].square().sum(-1).mean(1).sqrt() * 1e3
    assert 0.3 < float((rms > 1e-6).float().mean()) < 0.7
    assert float(rms.max()) < 3 * BENT_MM[1]
    # as `fields` promise it over all vertices, not the skin alone
    assert float(rms[rms > 1e-6].mean()) == pytest.approx(sum(BENT_MM) / 2, rel=0.35)
    # met again, a person is another
    same = (numbers % 4 == 1) & (rms > 1e-6)
    assert float((moved[same][0] - moved[same][1]).abs().max()) > 1e-4


def test_rippled_people_are_others_of_the_stated_size(source: ScanSource) -> None:
    pool = pooled(source.people, 2, torch.device("cpu"))
    numbers = torch.arange(120)
    topology, template = source.people.shapes.topology, source.people.shapes.head.template
    edges = edges_around(topology, template)
    long = Ripples("ripple", 0.5, 2e-3, (0.035, 0.15))
    moved = (RippledPeople(pool, [long], edges, 5).at(numbers)[0] - pool.at(numbers)[0]) * 1e3
    rms = moved.square().sum(-1).mean(1).sqrt()
    assert 0.3 < float((rms > 1e-6).float().mean()) < 0.7
    assert 0.6 < float(rms[rms > 1e-6].mean()) < 1.4
    # neighbours move alike: a ripple bends the skin and tears nothing
    first, second = topology.edges.unbind(1)
    length = (pool.at(numbers[:1])[0][0, first] - pool.at(numbers[:1])[0][0, second]).norm(dim=-1)
    apart = (moved[:, first] - moved[:, second]).norm(dim=-1) / 1e3
    assert float((apart / length.clamp(min=1e-4)).quantile(0.99)) < 0.5
    # waves as short as its edges leave coarse skin alone, and features not; each has its own people
    short = replace(long, name="short", waves=(0.008, 0.02))
    both = RippledPeople(pool, [long, short], edges, 5).at(numbers)[0] - pool.at(numbers)[0]
    fine = (1e3 * both - moved).norm(dim=-1)
    lids, scalp = (fine[:, topology.region_mask(name)] for name in ("eyelids", "scalp"))
    assert 0.5 < float(lids.mean()) / float(rms.mean()) < 1.2
    assert float(scalp.mean()) < 0.35 * float(lids.mean())
    assert 30 < int(((fine.amax(1) > 1e-3) ^ (rms > 1e-6)).sum()) < 90


def test_mild_scans_are_whole_and_near_their_surface(source: ScanSource) -> None:
    batch = replace(source, faults="mixed", mild=1.0).at(torch.arange(3))
    assert bool(batch.cloud.valid.all()) and bool(batch.cloud.inlier.all())
    assert torch.allclose(batch.cloud.normals.norm(dim=-1), torch.ones(3, 1024), atol=1e-4)
    for sample in range(3):
        assert float(surface_distance(source, batch, sample).median()) < 0.5


def test_bumps_are_as_steep_as_stated_and_turn_normals(source: ScanSource) -> None:
    flat = torch.rand(200, 4000, 3, generator=torch.Generator().manual_seed(3)) * 0.02
    flat[..., 2] = 0
    up = torch.tensor([0.0, 0, 1]).expand_as(flat)
    points, normals = scans.bumpy(flat, up, draws(8, torch.arange(200)))
    assert torch.equal(points[..., :2], flat[..., :2])
    # along a line of 20 mm, the normal is what the height's rise says
    line = torch.zeros(200, 4001, 3)
    line[..., 0] = torch.linspace(0, 0.02, 4001)
    raised, turned = scans.bumpy(line, up[:, :1].expand_as(line), draws(8, torch.arange(200)))
    rise = (raised[:, 2:, 2] - raised[:, :-2, 2]) / 1e-5
    tilt = -turned[:, 1:-1, 0] / turned[:, 1:-1, 2]
    assert float((tilt - rise).abs().max()) < 5e-3
    slope = (normals[..., :2].norm(dim=-1) / normals[..., 2]).square().mean(1).sqrt()
    bumps = slope > 0
    assert 70 < int(bumps.sum()) < 130
    assert 0.07 < float(slope[bumps].mean()) < 0.13 and float(slope.max()) < 0.35


def test_scans_lack_what_is_little_seen(source: ScanSource) -> None:
    """Closed lips hide their backs and the mouth; open ones show both, if enough views see it."""
    shapes, surface = source.people.shapes, source.surface
    jaw = torch.zeros(2, 52)
    jaw[1, ARKIT_52.index("jawOpen")] = 0.8
    posed = shapes.draw(5, torch.tensor([1, 1])).posed(jaw)
    fine = refine(surface.refinement, posed)
    seen = torch.stack([seen_from_outside(head, surface.triangles) for head in fine])
    finer, _ = catmull_clark(replace(shapes.topology, mirror=None))
    areas = 1e6 * triangle_areas(fine, surface.triangles) * (seen > 0)
    lips, mouth, nose = (finer.region_mask(name)[surface.triangles].all(1)
                           for name in ("lips", "mouth_interior", "nose"))  # fmt: skip
    shut, opened = (areas * lips).sum(1).tolist()
    assert shut < 0.85 * opened
    shut, opened = (areas * mouth).sum(1).tolist()
    assert opened > 20 * shut
    assert 0.7 < float(seen[:, nose & ~surface.inner].mean()) < 1
    assert float(seen.min()) == 0 and float(seen.max()) <= 1

    class Two:
        def at(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return posed[indices % 2], jaw[indices % 2]

    trees = [TriangleTree(head.double().numpy()[surface.triangles.numpy()]) for head in fine]

    def inside(seen: torch.Tensor) -> list[int]:
        made = replace(source, people=Two(), faults="mixed", mild=1.0, points=4096, seen=seen)
        batch = made.at(torch.arange(20))
        counts = []
        for sample in range(20):
            points = batch.pose.inverse(batch.cloud.points)[sample].double().numpy()
            triangle = torch.from_numpy(trees[sample % 2].closest(points)[0])
            counts.append(int(mouth[triangle].sum()))
        return counts

    found = inside(seen)
    assert sum(found[::2]) < 0.1 * sum(found[1::2])
    # few views see it, so most scans lose it; were it seen by all, coarse triangulations would
    often = inside(torch.where(mouth & (seen > 0), 1.0, seen))
    assert 1 <= sum(count > 10 for count in found[1::2]) < sum(count > 10 for count in often[1::2])
    assert 3 <= sum(count > 10 for count in often[1::2]) <= 9


def test_focused_scans_are_denser_on_the_face(source: ScanSource) -> None:
    even, focused = (replace(source, faults="none", focused=focused, points=4000)
                     for focused in (False, True))  # fmt: skip
    counts = []
    for made in (even, focused):
        batch = made.at(torch.arange(2))
        points = batch.pose.inverse(batch.cloud.points)
        counts.append(float((points - torch.tensor(FACE_CENTRE)).norm(dim=-1).lt(0.05).sum()))
    # about the mean density there over the mean density everywhere
    assert 1.7 < counts[1] / counts[0] < 4


def test_globes_are_seen_from_the_front(source: ScanSource) -> None:
    """Points behind the middle of the eyes belong to no globe: none are inside the head there."""
    batch = replace(source, faults="none", points=20_000).at(torch.arange(2))
    points = batch.pose.inverse(batch.cloud.points)
    for name in ("eye_left", "eye_right"):
        globe = batch.vertices[:, source.people.shapes.topology.regions[name]]
        middle = globe.mean(1, keepdim=True)
        radius = float((globe - middle).norm(dim=-1).median())
        inside = (points - middle).norm(dim=-1) < 1.05 * radius
        behind = points[..., 2] < middle[..., 2] + 0.5 * radius
        # lids are there too, a little
        assert int((inside & behind).sum()) < 0.15 * int((inside & ~behind).sum())


class Fixed(Draws):
    """Chances named in `on` fall, others do not; numbers named in `values` are what they are."""

    on: frozenset[str] = frozenset()
    values: Mapping[str, float] = {}

    def chance(self, name: str, share: float, *shape: int) -> torch.Tensor:
        return torch.full((len(self.keys), *shape), name in self.on)

    def uniform(self, name: str, *shape: int) -> torch.Tensor:
        drawn = super().uniform(name, *shape)
        return torch.full_like(drawn, self.values[name]) if name in self.values else drawn


def test_globes_are_seen_up_to_the_lids(source: ScanSource) -> None:
    """What lids leave open is shown where views tell of it, in some scans little but the iris."""
    surface = source.surface
    person = source.people.shapes.draw(5, torch.tensor([1])).rest
    fine = refine(surface.refinement, person)[0]
    seen = seen_from_outside(fine, surface.triangles)
    tree = TriangleTree(fine.double().numpy()[surface.triangles.numpy()])
    front = face_normals(fine, surface.triangles)[:, 2]

    def aside_and_hidden(eyes: float, *on: str) -> tuple[float, float]:
        """Shares of points on globes that look aside, and of those that no view sees."""
        random = Fixed(draws(6, torch.arange(1)).keys)
        random.on, random.values = frozenset(on), {"eyes": eyes, "views": 0.0, "mild noise": 0.0}
        found = scans.mild_cloud(surface, person, random, 8192, True, seen[None])
        triangle = torch.from_numpy(tree.closest(found.points[0].double().numpy())[0])
        triangle = triangle[surface.globes[triangle]]
        return (float((front[triangle] < 0.75).float().mean()),
                float((seen[triangle] == 0).float().mean()))  # fmt: skip

    whole = aside_and_hidden(0.0, "closed")
    assert whole[0] > 0.05 and whole[1] == 0
    assert aside_and_hidden(0.0, "closed", "behind lids")[1] > 0.02
    assert aside_and_hidden(1.0, "closed")[0] == 0
    assert aside_and_hidden(0.0)[0] == 0  # nothing is known of what is seen: the middle alone


def test_scans_are_written_and_read_back(source: ScanSource, tmp_path: Path) -> None:
    (path,) = write_shards(tmp_path, 2, stored_scans(source, 2).samples)
    with tarfile.open(path) as archive:
        read = {name.partition(".")[2]: np.load(io.BytesIO(archive.extractfile(name).read()))
                for name in archive.getnames() if name.startswith("00000001.")
                and name.endswith(".npy")}  # fmt: skip
    scan = source.at(torch.tensor([1]))
    valid = scan.cloud.valid[0]
    assert np.array_equal(read["points.npy"], scan.cloud.points[0, valid].numpy())
    assert np.array_equal(read["inlier.npy"], scan.cloud.inlier[0, valid].numpy())
    there = read["vertices.npy"] @ read["pose.npy"][:, :3].T + read["pose.npy"][:, 3]
    assert np.allclose(there, scan.pose.apply(scan.vertices)[0].numpy(), rtol=1e-4, atol=1e-5)


def test_inliers_lie_on_the_head_and_others_do_not(source: ScanSource) -> None:
    batch = source.at(sample_indices(0, 8))
    for sample in range(8):
        distance = surface_distance(source, batch, sample)
        inlier = batch.cloud.inlier[sample]
        # noise is at most 1.5 mm along each axis, the grid 2 mm
        assert float(distance[inlier].quantile(0.99)) < 6
        outlier = batch.cloud.valid[sample] & ~inlier
        if outlier.sum() > 20:
            assert float(distance[outlier].median()) > 3
    assert not (batch.cloud.inlier & ~batch.cloud.valid).any()


def test_clean_scans_lie_exactly_on_the_head(source: ScanSource) -> None:
    clean = replace(source, faults="none")
    batch = clean.at(sample_indices(3, 3))
    assert batch.cloud.valid.all()
    assert batch.cloud.inlier.all()
    for sample in range(3):
        assert float(surface_distance(clean, batch, sample).max()) < 0.01


def test_holes_take_the_share_that_was_drawn() -> None:
    numbers = torch.arange(400)
    random = draws(0, numbers)
    points = torch.nn.functional.normalize(random.normal("sphere", 500, 3), dim=-1)
    gone = scans._holes(points, random).float().mean(1)
    assert float(gone.max()) <= scans.MOST_HOLES
    wanted = scans.MOST_HOLES * random.uniform("holes", 1) * random.chance("holed", 0.5, 1)
    # holes may overlap, so at most what was drawn, and on the whole nearly that
    assert (gone <= wanted[:, 0] + 1e-6).all()
    assert float(gone.sum()) > 0.75 * float(wanted.sum())
    assert 0.4 < float((gone > 0).float().mean()) < 0.6


def test_one_view_sees_the_near_side_only() -> None:
    random = draws(0, torch.arange(32))
    directions = torch.nn.functional.normalize(random.normal("sphere", 20000, 3), dim=-1)
    inside = torch.arange(20000) >= 16000
    shell = torch.where(inside[:, None], 0.06, 0.1) * directions
    hidden = scans._hidden(shell, directions, random)
    seeing = hidden.any(1)
    assert 0.15 < float(seeing.float().mean()) < 0.55
    back = shell[..., 2] < -0.03
    assert hidden[seeing][back[seeing]].float().mean() > 0.97
    # the inner ball is behind the outer one
    assert hidden[seeing][:, inside].float().mean() > 0.97
    front = (directions[..., 2] > 0.9) & ~inside
    assert hidden[seeing][front[seeing]].float().mean() < 0.05


def test_poses_are_inverted_and_spread_as_stated() -> None:
    random = draws(2, torch.arange(2000))
    pose = scan_poses.random_pose(random)
    points = 0.1 * random.normal("p", 5, 3)
    back = pose.inverse(pose.apply(points))
    assert torch.allclose(back, points, atol=1e-5)
    identity = pose.rotation @ pose.rotation.transpose(1, 2)
    assert torch.allclose(identity, torch.eye(3).expand_as(identity), atol=1e-5)
    metric = (pose.scale > 0.8) & (pose.scale < 1.2)
    assert 0.87 < float(metric.float().mean()) < 0.93
    off, angle = scan_poses.guessed_turn(random)
    cosine = (off.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    assert torch.allclose(torch.acos(cosine.clamp(-1, 1)), angle, atol=2e-3)


def test_normals_agree_with_the_surface_or_are_absent(source: ScanSource) -> None:
    batch = source.at(sample_indices(2, 24))
    length = batch.cloud.normals.norm(dim=-1)
    absent = (length == 0).all(1)
    assert 1 <= int(absent.sum()) <= 14
    assert torch.allclose(length[~absent], torch.ones_like(length[~absent]), atol=1e-4)


def shared_points(here: ScanBatch, there: ScanBatch) -> torch.Tensor:
    """The share of each scan's points that the other has too, to 1e-5 of a head, as what it is."""
    shares = []
    for k, scale in enumerate(here.pose.scale):
        own, other = here.cloud.valid[k], there.cloud.valid[k]
        apart = torch.cdist(
            here.cloud.points[k, own], there.cloud.points[k, other],
            compute_mode="donot_use_mm_for_euclid_dist",
        )  # fmt: skip
        nearest, which = (apart / scale).min(1)
        alike = here.cloud.inlier[k, own] == there.cloud.inlier[k, other][which]
        shares.append(((nearest < 1e-5) & alike).float().mean())
    return torch.stack(shares)


def test_a_shape_moved_by_less_than_a_micrometre_keeps_the_faults_of_its_points(
    source: ScanSource,
) -> None:
    vertices, coefficients = source.people.at(sample_indices(1, 8))
    shake = 3e-7 * torch.randn(vertices.shape, generator=torch.Generator().manual_seed(1))
    first, second = (
        replace(source, people=PooledPeople(shapes, coefficients)).at(torch.arange(8))
        for shapes in (vertices, vertices + shake)
    )
    assert shared_points(first, second).min() > 0.98


@pytest.mark.gpu
def test_devices_make_the_same_scans(source: ScanSource) -> None:
    numbers = sample_indices(1, 16)
    here = source.at(numbers)
    people = replace(source.people, shapes=load_shapes("cuda"))
    there = replace(source, people=people, surface=source.surface.to("cuda")).at(numbers.cuda())
    assert torch.allclose(there.vertices.cpu(), here.vertices, atol=1e-6)
    # a point at the edge of a hole may be kept by one device alone: places in the list then differ
    shares = shared_points(here, moved(there, "cpu"))
    assert shares.mean() > 0.995 and shares.min() > 0.97
