"""Planted heads are found again in scans of them, whole, cropped, holed, noisy and with hair."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from topohead.core import Scan, ScanFit
from topohead.geometry.alignment import apply, rigid
from topohead.geometry.metrics import surface_distance
from topohead.io.assets import reference_head
from topohead.solvers import (
    recording,
    scan_lips,
    scan_matching,
    scan_quality,
    scan_refine,
    scan_samples,
)
from topohead.solvers.nonrigid_icp import NonrigidConfig
from topohead.solvers.scan_baselines import nricp_fit, pca_fit, template_fit
from topohead.solvers.scan_detail import refine_level1
from topohead.solvers.scan_free import FreeConfig, FreeStep, fit_vertices, trust_by_place
from topohead.solvers.scan_head import ScanHead, fitted_surface
from topohead.solvers.scan_modes import Modes, without_creases
from topohead.solvers.scan_quality import judge
from topohead.solvers.scan_refine import RefineConfig, refine
from topohead.solvers.scan_samples import sample_scan
from topohead.synthesis.remeshing import Triangulated, scattered, seen_part
from topohead.synthesis.shapes import load_shapes

SEED, PERSON = 3, 0


@pytest.fixture(scope="module")
def head():
    return reference_head(0)


@pytest.fixture(scope="module")
def pose():
    """Somewhere else than the head frame, metres."""
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.from_numpy(Rotation.from_rotvec([0.3, 0.9, -0.2]).as_matrix())
    pose[:3, 3] = torch.tensor([0.2, -0.1, 0.4])
    return pose


@pytest.fixture(scope="module")
def truth(head, pose):
    """A made head in the pose [V 3]."""
    return apply(pose, load_shapes(ict=None).draw(SEED, [PERSON]).rest[0].double())


@pytest.fixture(scope="module")
def scan(head, truth):
    """Its outside as a mesh with 0.15 mm of noise."""
    surface = ScanHead.of(head.topology)
    points = surface.surface(truth)
    triangles = surface.fine.triangles
    triangles = triangles[~surface.inner[triangles].all(1)]
    used, corners = torch.unique(triangles, return_inverse=True)
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 1.5e-4, (len(used), 3)))
    return Scan((points[used] + noise).float(), corners)


@pytest.fixture(scope="module")
def start(head, pose, truth, scan):
    """The truth with 3 mm of smooth error and 3° of pose."""
    random = np.random.default_rng(1)
    upright = apply(torch.linalg.inv(pose), truth)
    waves = torch.from_numpy(random.normal(0, 1 / 0.06, (6, 3)))
    axes = torch.from_numpy(random.normal(0, 1, (6, 3)))
    error = torch.sin(upright @ waves.T + torch.arange(6)) @ axes
    error *= 3e-3 / error.square().sum(1).mean().sqrt()
    tilt = torch.eye(4, dtype=torch.float64)
    tilt[:3, :3] = torch.from_numpy(Rotation.from_rotvec([0.03, 0.04, -0.02]).as_matrix())
    off = pose @ tilt
    return ScanFit(
        apply(off, upright + error).float(),
        torch.full((len(truth),), 0.003 / 3**0.5),
        off.float(),
        torch.zeros(52),
        torch.ones(len(scan.points), dtype=torch.bool),
    )


def face_error(head, fit, truth):
    """Mean distance of the face's vertices from where they belong, mm."""
    face = head.topology.regions["face"]
    return 1000 * float((fit.vertices.double() - truth).norm(dim=1)[face].mean())


def face_gap(head, fit, scan):
    """Median distance of the scan's points near the face from the fitted surface, mm."""
    near = torch.cdist(scan.points, fit.vertices[head.topology.regions["face"]]).amin(1) < 0.004
    points = scan.points[near][::7]
    return 1000 * float(
        surface_distance(points, fitted_surface(head.topology, fit.vertices)).median()
    )


def cut(scan, keep):
    """The triangles whose corners are all kept."""
    used, corners = torch.unique(scan.triangles[keep[scan.triangles].all(1)], return_inverse=True)
    return Scan(scan.points[used], corners), used


@pytest.fixture(scope="module")
def found(head, scan, start):
    return refine(scan, start, head)


def test_refine_finds_a_disturbed_head_again(head, truth, scan, start, found):
    assert face_error(head, start, truth) > 3
    assert face_error(head, found, truth) < 0.55
    assert face_gap(head, found, scan) < 0.125
    assert float(found.inliers.float().mean()) > 0.95


def test_refine_is_deterministic(head, scan, start, found):
    assert torch.equal(refine(scan, start, head).vertices, found.vertices)


def test_work_that_is_recorded_finds_the_same_head(head, scan, start, monkeypatch):
    """All shapes are the same for every scan: some samples are only there to fill them up, others
    lie hidden, and what finds nothing stays."""
    free = FreeConfig(steps=(FreeStep(0.006, 10.0), FreeStep(0.003, 0.4)))
    config = RefineConfig(len(scan.points) + 5000, (0.006,), free)
    cloud = Scan(scan.points[::2], scan.triangles[:0])
    near = cloud.points[:, 0] > cloud.points[:, 0].quantile(0.2)
    known = replace(start, inliers=near)
    expected = refine(cloud, known, head, config)
    quality, fine = judge(cloud, expected, head), refine_level1(cloud, expected, head, 50_000)
    for module in (recording, scan_lips, scan_matching, scan_quality, scan_samples):
        monkeypatch.setattr(module, "fixed", lambda _: True)
    found = refine(cloud, known, head, config)
    assert float((found.vertices - expected.vertices).abs().max()) < 1e-7
    assert float((found.sigma - expected.sigma).abs().max()) < 1e-7
    assert torch.equal(found.inliers, expected.inliers)
    finer = refine_level1(cloud, expected, head, 50_000)
    assert float((finer.vertices - fine.vertices).abs().max()) < 1e-7
    again = judge(cloud, expected, head)
    assert again.face.median_mm == pytest.approx(quality.face.median_mm, abs=1e-6)
    assert again.whole_to_scan.p95_mm == pytest.approx(quality.whole_to_scan.p95_mm, abs=1e-6)
    assert again.face_seen == pytest.approx(quality.face_seen, abs=1e-9)
    assert (again.inliers, again.flipped) == (quality.inliers, quality.flipped)


def test_bare_points_of_parts_get_normals_that_point_out_of_each():
    random = torch.Generator().manual_seed(0)
    ball = torch.nn.functional.normalize(torch.randn(3000, 3, generator=random), dim=1)
    balls = torch.cat([0.05 * ball, 0.03 * ball[:1500] + torch.tensor([0.0, 0.3, 0.1])])
    samples = sample_scan(Scan(balls, torch.zeros(0, 3, dtype=torch.long)))
    agree = (samples.normals * torch.cat([ball, ball[:1500]]).double()).sum(1)
    assert float((agree > 0.9).double().mean()) > 0.999


def test_baselines_find_a_head_in_any_pose(head, truth, scan):
    rough, fitted = template_fit(scan, head), pca_fit(scan, head)
    assert face_error(head, rough, truth) < 9
    assert face_error(head, fitted, truth) < 1.5
    assert face_gap(head, fitted, scan) < 0.3
    assert not judge(scan, fitted, head).failures


def test_nonrigid_icp_comes_near_without_a_model(head, truth, scan):
    config = NonrigidConfig(stiffness=(20.0, 4.0, 1.0), rounds=1)
    found = nricp_fit(scan, head, config=config)
    assert face_gap(head, found, scan) < 0.3
    assert face_error(head, found, truth) < 4


def test_unseen_places_follow_and_say_so(head, pose, truth, scan, start):
    upright = apply(torch.linalg.inv(pose), scan.points.double())
    cheek = torch.tensor([0.05, -0.06, 0.0]).double()
    part, used = cut(scan, (upright[:, 2] > -0.02) & ((upright - cheek).norm(dim=1) > 0.015))
    known = replace(start, inliers=torch.ones(len(used), dtype=torch.bool))
    found = refine(part, known, head)
    assert face_error(head, found, truth) < 1.2
    own = apply(torch.linalg.inv(pose), truth)
    scalp = head.topology.regions["scalp"]
    back = scalp[own[scalp, 2] < -0.1]
    nose = head.topology.regions["nose"]
    assert found.sigma[back].mean() > found.sigma[nose].mean()
    gap = (found.vertices.double() - truth).norm(dim=1)
    assert float(gap[back].mean()) < float(
        (start.vertices.double() - truth).norm(dim=1)[back].max()
    )


def test_hair_and_noise_do_not_move_the_skull(head, pose, truth, scan, start):
    surface = ScanHead.of(head.topology)
    inverse = torch.linalg.inv(pose)
    upright = apply(inverse, scan.points.double())
    template = surface.surface(apply(inverse, truth))
    near = torch.cdist(upright, template).argmin(1)
    hair = surface.scalp[near] & (upright[:, 1] > 0.03)
    normals = surface.normals(surface.surface(truth))[near]
    noise = torch.from_numpy(np.random.default_rng(2).normal(0, 8e-4, scan.points.shape))
    moved = scan.points.double() + noise + 0.015 * hair[:, None] * normals
    found = refine(Scan(moved.float(), scan.triangles), start, head)
    crown = head.topology.regions["scalp"]
    error = (found.vertices.double() - truth).norm(dim=1)
    assert 1000 * float(error[crown].median()) < 4
    assert face_error(head, found, truth) < 1.2
    assert float(found.inliers[hair].float().mean()) < 0.2
    assert float(found.inliers[~hair].float().mean()) > 0.9


def test_globes_stay_round_and_lids_outside(head, scan, found):
    for side in ("eye_left", "eye_right"):
        globe = head.topology.regions[side]
        onto = rigid(head.template[globe].double(), found.vertices[globe].double(), scale=True)
        away = (apply(onto, head.template[globe].double()) - found.vertices[globe]).norm(dim=1)
        assert float(away.max()) < 5e-5
    quality = judge(scan, found, head)
    assert quality.lids_mm < 0.3
    assert quality.lips_mm < 0.3
    assert not quality.failures


def test_judge_names_what_is_wrong(head, truth, scan, start):
    fit = replace(start, vertices=truth.float())
    right = judge(scan, fit, head)
    assert not right.failures
    assert right.face_seen > 0.95
    assert right.whole.median_mm < 0.2

    turned = Scan(scan.points, scan.triangles.flip(1))
    assert "mirrored" in judge(turned, fit, head).warnings

    behind = torch.cdist(scan.points, fit.vertices[head.topology.regions["face"]]).amin(1) > 0.01
    back, used = cut(scan, behind)
    fewer = replace(fit, inliers=torch.ones(len(used), dtype=torch.bool))
    assert "face unseen" in judge(back, fewer, head).failures

    large = replace(
        fit, vertices=fit.vertices * 1.5, pose=torch.diag(torch.tensor([1.5] * 3 + [1])) @ fit.pose
    )
    assert "size" in judge(Scan(scan.points * 1.5, scan.triangles), large, head).failures

    count, apart = len(scan.points), torch.tensor([0.35, 0.0, 0.0])
    both = Scan(
        torch.cat([scan.points, scan.points + apart]),
        torch.cat([scan.triangles, scan.triangles + count]),
    )
    first = torch.arange(2 * count) < count
    assert "several heads" in judge(both, replace(fit, inliers=first), head).failures


def test_a_cube_is_no_head(head):
    steps = torch.linspace(-0.1, 0.1, 60)
    u, v = (t.flatten() for t in torch.meshgrid(steps, steps, indexing="ij"))
    sides = []
    for axis in range(3):
        for sign in (-0.1, 0.1):
            columns = [u, v]
            columns.insert(axis, torch.full_like(u, sign))
            sides.append(torch.stack(columns, 1))
    cube = Scan(torch.cat(sides), torch.zeros(0, 3, dtype=torch.long))
    assert judge(cube, pca_fit(cube, head), head).failures


def test_fine_displacement_is_found_along_the_normal(head, truth, start):
    """Waves of 0.3 mm and 16 mm on the subdivided truth."""
    surface = ScanHead.of(head.topology)
    base = surface.surface(truth)
    height = 3e-4 * torch.sin(390 * base[:, 0])
    points = (base + height[:, None] * surface.normals(base)).float()
    triangles = surface.fine.triangles
    triangles = triangles[surface.skin[triangles].all(1)]
    exact = replace(start, vertices=truth.float(), inliers=torch.ones(len(base), dtype=torch.bool))
    found = refine_level1(Scan(points, triangles), exact, head)
    face = surface.face & surface.skin
    missed = found.displacement[face] - height[face]
    assert 1000 * float(missed.abs().median()) < 0.06
    assert torch.corrcoef(torch.stack([found.displacement[face], height[face].float()]))[0, 1] > 0.9


def test_ears_keep_their_form_where_creases_are_taken_out(head):
    topology = head.topology
    rough = np.random.default_rng(0).normal(0, 1e-3, (topology.vertex_count, 3))
    modes = Modes(np.eye(4), np.zeros(1), rough)
    smooth = without_creases(modes, topology).remainder
    ears, brows = (topology.region_mask(name).numpy() for name in ("ears", "brows"))
    assert np.abs(smooth - rough)[ears].mean() < 0.3 * np.abs(rough)[ears].mean()
    assert np.abs(smooth - rough)[brows].mean() > 0.5 * np.abs(rough)[brows].mean()


def test_modes_are_held_the_looser_the_less_they_explain_a_start(head, scan, start, monkeypatch):
    held = []

    def stopped(model, samples, modes, prior, *rest):
        held.append(float(prior.precision.max()))
        raise InterruptedError

    monkeypatch.setattr(scan_refine, "fit_modes", stopped)
    waves = torch.sin(head.template.double() @ torch.full((3, 3), 2 * np.pi / 0.02).double())
    for rms in (0.0, 0.3e-3, 0.6e-3, 1.2e-3):
        rippled = head.template + 2**0.5 * rms * waves / 3**0.5
        guess = replace(start, vertices=apply(start.pose.double(), rippled.double()).float())
        with pytest.raises(InterruptedError):
            refine(scan, guess, head)
    known, some, more, stranger = held
    # a fourth power of what is left, but for the template, which modes explain wholly
    assert known > 2 * some and 8 * more < some < 32 * more and 8 * stranger < more < 32 * stranger


def test_folds_trust_a_sure_start_more_than_the_scan(head, truth):
    surface, config = ScanHead.of(head.topology), FreeConfig()
    sure = torch.full((surface.fine.vertex_count,), 0.5 * config.sure, dtype=torch.float64)
    trust, rough = (trust_by_place(surface, truth, s, config) for s in (sure, 4 * sure))
    nose = surface.fine.region_mask("nose")
    assert float(trust[nose].median()) == pytest.approx(0.25)
    assert float(rough[nose].median()) == 1
    cheek = surface.bare & surface.face
    assert float(trust[cheek].median()) == 1
    wide = trust_by_place(surface, truth, 4 * sure, replace(config, close=5e-3))
    for name in ("lips", "ears"):  # lips face each other, ears are thin
        close = wide[surface.fine.region_mask(name) & surface.skin] == config.folded
        assert 0.02 < float(close.double().mean()) < 0.7
    assert float((wide[cheek] < 1).double().mean()) < 0.1


def test_triangles_as_large_as_folds_do_not_spoil_a_sure_start(head, truth):
    """They are chords of lips and ears, off the skin by more than a good start is; one that is not
    sure does not know better."""
    surface, config = ScanHead.of(head.topology), FreeConfig()
    skin = Triangulated(surface.surface(truth).float(), surface.fine.triangles)
    coarse = scattered(seen_part(skin), 8000, torch.Generator().manual_seed(0))
    samples = sample_scan(Scan(coarse.vertices, coarse.triangles))
    sure = torch.full((len(truth),), 3e-4, dtype=torch.float64)
    found = fit_vertices(surface, samples, truth, sure, config)[0]
    off = 1000 * (found - truth).norm(dim=1)
    for name in ("lips", "ears"):  # 0.03 mm each; 0.07 and 0.10 for scans trusted everywhere
        assert float(off[head.topology.regions[name]].mean()) < 0.05
    rough = torch.full_like(sure, config.sure)
    unsure, believing = (
        fit_vertices(surface, samples, truth, rough, each)[0]
        for each in (config, replace(config, chords=0.0))
    )
    # σ of the finer surface is σ but for rounding
    assert float((unsure - believing).norm(dim=1).max()) < 1e-9


def test_only_triangles_have_sides(scan):
    """Rms, of right triangles whose short sides are 3 mm and 4 mm long."""
    corners = torch.tensor([[0, 0, 0], [3e-3, 0, 0], [0, 4e-3, 0]])
    samples = sample_scan(Scan(corners, torch.arange(3)[None]), 100)
    assert torch.allclose(samples.side, torch.tensor(5e-3 * (2 / 3) ** 0.5).double())
    assert not sample_scan(replace(scan, triangles=scan.triangles[:0])).side.any()


def test_the_curvature_of_a_ball_is_one_over_its_radius(head):
    surface = ScanHead.of(head.topology)
    normals = torch.nn.functional.normalize(surface.surface(head.template.double()), dim=1)
    curvature = surface.curvature(0.09 * normals, normals)
    assert torch.allclose(curvature, torch.tensor(1 / 0.09).double())


def test_the_number_of_cores_decides_nothing(head, scan, start) -> None:
    """Bytes are the same whatever PyTorch may use, as several jobs at a time use fewer."""
    cores, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            fit = refine(scan, start, head, RefineConfig(samples=6000))
            found.append((fit.vertices, fit.sigma, refine_level1(scan, fit, head).vertices))
    finally:
        torch.set_num_threads(cores)
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
