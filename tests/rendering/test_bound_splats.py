"""A head under bound Gaussians in the extremes of all 52 actions: no hole opens, none spikes."""

import torch

from topohead.core import ARKIT_52, BoundSplats
from topohead.geometry.binding import posed_splats
from topohead.geometry.surface_cells import cell_gaussians, surface_cells
from topohead.io.assets import reference_head
from topohead.rendering.mesh import rasterize
from topohead.rendering.shading import portrait_camera
from topohead.rendering.splats import render

COUNT = 12_000
SIZE = (72, 90)


def test_extremes_have_no_holes_and_no_spikes() -> None:
    head = reference_head(0)
    triangles = head.topology.triangles
    cells = surface_cells(head.template, triangles, COUNT)
    splats = BoundSplats(
        cell_gaussians(cells), torch.full((COUNT,), 0.97), torch.zeros(COUNT, 1, 3)
    )
    widest = posed_splats(splats, triangles, head.template).scales.max()
    for index, name in enumerate(ARKIT_52):
        shape = head.template + head.expression_basis[index]
        posed = posed_splats(splats, triangles, shape)
        assert posed.scales.max() < 2.5 * widest, f"{name} spikes"
        yaw = (0.0, 1.1, -1.1, 0.5)[index % 4]
        pose, lens = portrait_camera(head.template.double(), SIZE, yaw=yaw, margin=1.25)
        _, alpha = render(
            posed.means, posed.quats, posed.scales, posed.opacities, posed.colors,
            pose.float(), lens.float(), SIZE,
        )  # fmt: skip
        covered = rasterize(shape, triangles, pose, lens, SIZE).covered.float()
        inside = -torch.nn.functional.max_pool2d(-covered[None], 3, 1, 1)[0] > 0
        assert inside.sum() > 1000
        assert alpha[inside].min() > 0.8, f"{name} opens a hole"
