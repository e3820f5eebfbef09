"""The first frame of rendered heads whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from egg_head import egg_head, filmed, marked, ring
from topohead.core import Cameras, InputError, Mesh, Topology, Views
from topohead.geometry.correspondence import closest_points
from topohead.solvers.registration import FirstFrameConfig, first_frame


def planted(seed: int = 0, beyond: float = 0.001) -> tuple[Mesh, Views]:
    """A posed head with a shape outside the model's span, and its pictures."""
    head = egg_head()
    random = np.random.default_rng(seed)
    identity = torch.from_numpy(random.normal(0, 0.8, 8)).float()
    expression = torch.zeros(52)
    expression[17] = 0.4
    vertices = head.vertices(identity, expression).double()
    wave = torch.sin(vertices * 70 + torch.tensor([0.3, 1.1, 2.0]))
    vertices = vertices + beyond * wave[:, [1, 2, 0]]
    turn = torch.linalg.matrix_exp(
        torch.tensor([[0, -0.05, 0.1], [0.05, 0, -0.08], [-0.1, 0.08, 0]])
    )
    vertices = vertices @ turn.double().T + torch.tensor([0.01, -0.006, 0.004])
    mesh = Mesh(head.topology, vertices.float())
    return mesh, filmed(mesh, ring(), seed)


@pytest.fixture(scope="module")
def scene() -> tuple[Mesh, Views]:
    return planted()


def off_surface(found: Mesh, truth: Mesh) -> np.ndarray:
    """Distances of the face's vertices from the true surface, mm."""
    face = truth.topology.regions["face"]
    return closest_points(found.vertices[face], truth)[1].numpy() * 1000


def test_landmarks_and_pictures_find_the_head(scene):
    truth, views = scene
    bare = replace(views, masks=None)
    marks = marked(truth, views.cameras)
    model = egg_head()
    fitted = first_frame(bare, model, marks, config=FirstFrameConfig(refine=False))
    assert np.median(off_surface(fitted.mesh, truth)) < 1.5
    refined = first_frame(bare, model, marks)
    assert np.median(off_surface(refined.mesh, truth)) < 0.2
    face = truth.topology.regions["face"]
    slide = (refined.mesh.vertices - truth.vertices)[face].norm(dim=1) * 1000
    assert slide.median() < 1.2
    posed = model.vertices(refined.identity, refined.expression).double()
    posed = posed @ refined.pose[:3, :3].T + refined.pose[:3, 3]
    assert (posed - refined.mesh.vertices)[face].norm(dim=1).median() < 1.5e-3


def test_masks_alone_find_the_head(scene):
    truth, views = scene
    found = first_frame(views, egg_head())
    assert np.median(off_surface(found.mesh, truth)) < 0.3
    # the face looks where it looked: the nose is not at the back
    nose = int(egg_head().template[:, 2].argmax())
    assert (found.mesh.vertices[nose] - truth.vertices[nose]).norm() < 0.01


def test_outlines_hold_what_no_landmark_sees(scene):
    truth, views = scene
    marks = marked(truth, views.cameras)
    config = FirstFrameConfig(refine=False)
    without = first_frame(replace(views, masks=None), egg_head(), marks, config=config).mesh
    outlined = first_frame(views, egg_head(), marks, config=config).mesh
    scalp = truth.vertices[:, 1] > 0.09
    error = [(m.vertices - truth.vertices)[scalp].norm(dim=1).mean() for m in (without, outlined)]
    assert error[1] < error[0]


def test_noisy_start_of_another_topology_is_refined(scene):
    truth, views = scene
    plain = truth.topology
    # no regions, no landmarks: nothing but faces and UVs
    bare = Topology(plain.vertex_count, plain.faces, plain.uv, plain.face_uv, name="user")
    wave = torch.cos(truth.vertices * 60 + torch.tensor([0.7, 0.1, 1.4]))
    start = Mesh(bare, truth.vertices + 0.0011 * wave[:, [2, 0, 1]])
    before = np.median(off_surface(start, truth))
    kept = first_frame(views, start=start, config=FirstFrameConfig(refine=False))
    assert torch.equal(kept.mesh.vertices, start.vertices)
    after = np.median(off_surface(first_frame(views, start=start).mesh, truth))
    assert before > 0.4
    assert after < 0.15


def test_exact_start_stays(scene):
    truth, views = scene
    found = first_frame(views, start=truth)
    assert np.median(off_surface(found.mesh, truth)) < 0.1
    face = truth.topology.regions["face"]
    slide = (found.mesh.vertices - truth.vertices)[face].norm(dim=1) * 1000
    assert slide.median() < 0.4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v * 1000, "scaled by 0.001"),
        (lambda v: v / 10, "scaled by 10"),
        (lambda v: v @ torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), "z-up to y-up"),
        (lambda v: v + torch.tensor([0.5, 0.0, 0.0]), "put it into the world"),
        (lambda v: v * torch.nan, "NaN at vertex 0"),
    ],
)
def test_start_off_the_subject_is_refused_with_advice(scene, change, said):
    truth, views = scene
    with pytest.raises(InputError, match=said):
        first_frame(views, start=Mesh(truth.topology, change(truth.vertices)))


def scaled(cameras: Cameras, factor: float) -> Cameras:
    poses = cameras.world_to_camera.clone()
    poses[:, :3, 3] *= factor
    return replace(cameras, world_to_camera=poses)


@pytest.mark.parametrize(("factor", "units", "said"), [(10, "cm", "mm"), (0.1, "mm", "cm")])
def test_wrong_units_are_named(scene, factor, units, said):
    truth, views = scene
    wrong = replace(views, cameras=scaled(views.cameras, factor))
    marks = marked(truth, views.cameras)
    config = FirstFrameConfig(units=units)
    with pytest.raises(InputError, match=f"--units {said}"):
        first_frame(replace(wrong, masks=None), egg_head(), marks, config=config)
    with pytest.raises(InputError, match=f"--units {said}"):
        first_frame(wrong, egg_head(), config=config)


def test_pictures_alone_are_not_enough(scene):
    _, views = scene
    with pytest.raises(InputError, match=f"in frame {views.frame}, .*points of that frame"):
        first_frame(replace(views, masks=None), egg_head())
