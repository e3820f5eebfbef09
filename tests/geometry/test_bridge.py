import numpy as np
import pytest
import torch

from topohead.core import Mesh, Topology
from topohead.geometry import alignment
from topohead.geometry.bridge import bind, fit_bridge
from topohead.geometry.correspondence import interpolate
from topohead.io.assets import ict_head, reference_head
from topohead.io.meshes import read_mesh


@pytest.fixture(scope="module")
def coarse():
    return reference_head(0)


@pytest.fixture(scope="module")
def fine():
    return reference_head(1)


def bare(mesh: Mesh) -> Mesh:
    """The same surface as a stranger would hand it over: nothing named."""
    t = mesh.topology
    return Mesh(Topology(t.vertex_count, t.faces, t.uv, t.face_uv), mesh.vertices)


@pytest.fixture(scope="module")
def own_bridge(coarse, fine):
    """From level 0 to an unnamed level 1, which has the same shape."""
    return bind(coarse.neutral(), bare(fine.neutral()))


def test_bound_vertices_come_back_and_follow_other_shapes(coarse, fine, own_bridge):
    rebuilt = own_bridge.vertices(coarse.template)
    error = (rebuilt - fine.template).norm(dim=1)
    assert error.max() < 1e-6
    identity = torch.randn(80, generator=torch.Generator().manual_seed(0))
    expression = fine.expressions(jawOpen=0.4, mouthSmileLeft=0.5)
    moved = own_bridge.vertices(coarse.vertices(identity, expression))
    error = (moved - fine.vertices(identity, expression)).norm(dim=1)
    face = fine.topology.region_mask("face")
    assert error[face].mean() < 4e-4
    assert error.quantile(0.95) < 1.5e-3


def test_regions_landmarks_and_mirror_travel(coarse, fine, own_bridge):
    target, truth = own_bridge.target, fine.topology
    for name in ("face", "lips_upper", "lips_lower", "nose", "eyelids", "eye_left", "tongue"):
        ours, theirs = target.region_mask(name), truth.region_mask(name)
        share = (ours & theirs).sum() / (ours | theirs).sum()
        assert share > (0.97 if name == "face" else 0.7), (name, share)
    marks = interpolate(target.landmarks["ibug68"], target.triangles, fine.template)
    want = interpolate(truth.landmarks["ibug68"], truth.triangles, fine.template)
    assert (marks - want).norm(dim=1).max() < 1e-3
    skin = truth.region_mask("skin")
    assert (target.mirror == truth.mirror)[skin].float().mean() > 0.97
    assert set(truth.regions["boundary"].tolist()) <= set(target.regions["boundary"].tolist())


def test_fields_are_interpolated(coarse, fine, own_bridge):
    height = own_bridge.values(coarse.template[:, 1:2])[:, 0]
    assert (height - fine.template[:, 1]).abs().max() < 0.003


def test_fit_recovers_a_planted_head_in_another_place(coarse):
    """A random head, turned, shifted, in centimetres, its faces cut into triangles."""
    generator = torch.Generator().manual_seed(5)
    identity = 0.7 * torch.randn(80, generator=generator)
    shape = coarse.vertices(identity, torch.zeros(52))
    pose = torch.eye(4)
    pose[:3, :3] = torch.linalg.matrix_exp(
        torch.tensor([[0, 0, 2.0], [0, 0, 0.1], [-2.0, -0.1, 0]])
    )
    pose[:3, 3] = torch.tensor([0.4, 1.2, -0.3])
    vertices = 100 * alignment.apply(pose, shape)
    topology = coarse.topology
    triangles = topology.triangles[:, [0, 1, 2, 2]]
    mesh = Mesh(Topology(len(vertices), triangles, torch.zeros(0, 2), 0 * triangles), vertices)
    bridge, fit = fit_bridge(coarse, mesh)
    assert fit.residual < 0.1  # cm: a millimetre
    face = topology.regions["face"]
    slide = (fit.vertices[face] - vertices[face]).norm(dim=1)
    assert slide.median() < 0.2
    marks = interpolate(bridge.target.landmarks["ibug68"], bridge.target.triangles, vertices)
    want = interpolate(topology.landmarks["ibug68"], topology.triangles, vertices)
    assert (marks - want)[17:].norm(dim=1).mean() < 0.25


def test_a_face_cut_out_of_a_scan_is_found(shared_data, coarse):
    """It looks along (0.81, 0, −0.59), has no back, and its faces are wound clockwise."""
    scan = read_mesh(shared_data / "scans" / "vtk-fran" / "scan.obj")
    bridge, fit = fit_bridge(coarse, scan)
    linear = fit.model_to_mesh[:3, :3]
    rotation = linear / torch.linalg.det(linear) ** (1 / 3)
    assert rotation[:, 2] @ torch.tensor([0.81, 0, -0.59]).double() > 0.99
    assert fit.residual < 5e-4
    assert len(bridge.target.regions["face"]) > 0.5 * scan.topology.vertex_count


@pytest.mark.slow
def test_landmarks_of_a_real_scan(shared_data, fine):
    """Carried landmarks against those picked by hand; the model knows nothing of them."""
    folder = shared_data / "scans" / "flame-fitting-scan"
    scan = read_mesh(folder / "scan.obj")
    bridge, _ = fit_bridge(fine, scan)
    points = bridge.target.landmarks["ibug68"]
    marks = interpolate(points, scan.topology.triangles, scan.vertices)[17:]
    picked = torch.from_numpy(np.load(folder / "landmarks_51.npy")).float()
    assert (marks - picked).norm(dim=1).median() < 0.005


def test_bridge_to_ict(shared_data, fine):
    """Reference to a head of other make: landmarks within millimetres, lips not swapped."""
    ict = ict_head(shared_data / "ict")
    points = ict.topology.landmarks["ibug68"]
    mesh = bare(ict.neutral())
    bridge, fit = fit_bridge(fine, mesh, points)
    assert fit.residual < 1e-4
    marks = interpolate(bridge.target.landmarks["ibug68"], mesh.topology.triangles, mesh.vertices)
    want = interpolate(points, mesh.topology.triangles, mesh.vertices)
    error = (marks - want).norm(dim=1)
    assert error[27:].max() < 0.004  # nose, eyes, mouth
    assert error.mean() < 0.006  # brows and outline are drawn by other rules there
    target = bridge.target
    for name, other in (("lips_upper", "lips_lower"), ("lips_lower", "lips_upper")):
        ours = target.region_mask(name)
        assert (ours & ict.topology.region_mask(name)).sum() > 0.7 * ours.sum()
        assert (ours & ict.topology.region_mask(other)).sum() < 0.05 * ours.sum()
    shells = ict.topology.region_mask("eye_shells")
    assert not (target.region_mask("face") & shells).any()  # lashes and tear lines
    face = ict.topology.region_mask("face")
    goal = mesh.vertices * torch.tensor([-1.0, 1, 1])
    assert (mesh.vertices[target.mirror] - goal)[face].norm(dim=1).quantile(0.95) < 0.004
