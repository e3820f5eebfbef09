"""A ball beside the head, seen in the mattes alone, becomes Gaussians that follow the scalp."""

from dataclasses import replace

import torch

from posed_person import sitting
from topohead.core import Views
from topohead.geometry.binding import posed_splats
from topohead.workflows.avatars.inputs import matted
from topohead.workflows.avatars.start import hull_gaussians

BALL = torch.tensor([0.115, 0.06, -0.08])
RADIUS = 0.03


def with_ball(person):
    """The sitting with a white ball that moves with the head, in pictures and mattes."""
    posed, views = person.posed, []
    for view, pose in zip(posed.views, posed.poses.float(), strict=True):
        center = pose[:3, :3] @ BALL + pose[:3, 3]
        images, masks = [], []
        for c, (image, mask) in enumerate(zip(view.images, view.masks or (), strict=True)):
            camera, lens = view.cameras.world_to_camera[c].float(), view.cameras.intrinsics[c]
            local = camera[:3, :3] @ center + camera[:3, 3]
            spot = local[:2] / local[2] * lens.diagonal()[:2].float() + lens[:2, 2].float()
            rows, columns = torch.meshgrid(
                *(torch.arange(n) + 0.5 for n in mask.shape), indexing="ij"
            )
            far = (torch.stack([columns, rows], -1) - spot).norm(dim=-1)
            disc = (far < RADIUS / float(local[2]) * float(lens[0, 0])).float()
            images.append(torch.maximum(image, disc[..., None]))
            masks.append(torch.maximum(mask, disc))
        views.append(Views(view.frame, view.cameras, tuple(images), tuple(masks)))
    return replace(person, posed=replace(posed, views=tuple(views)))


def test_what_stands_off_the_mesh_is_found_and_bound_to_the_scalp() -> None:
    person = sitting()
    side = float(person.rig.neutral[:, 0].max())
    assert float(BALL[0]) + RADIUS > side + 0.02  # it does stand out
    bare, crowned = hull_gaussians(person), hull_gaussians(with_ball(person))
    assert len(crowned) > len(bare) + 20
    topology = person.rig.topology
    splats = posed_splats(crowned, topology.triangles, person.rig.neutral.float())
    beside = splats.means[:, 0] > side + 0.003
    assert int(beside.sum()) > 15
    # five pictures leave the ball a long false tail, away from the cameras
    assert float((splats.means[beside] - BALL).norm(dim=1).median()) < 2 * RADIUS
    assert float(splats.colors[beside].mean()) > 0.6  # white ball, not black background
    owners = topology.triangles[crowned.binding.triangles[beside]].reshape(-1)
    still = topology.region_mask("scalp", "ears", "neck")
    assert bool(still[owners].all())


def test_without_mattes_there_is_no_hull() -> None:
    assert len(hull_gaussians(matted(sitting(48, masks=False)))) == 0
