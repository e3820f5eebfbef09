"""The picture of a scan beside its head."""

import torch

from topohead.core import Scan
from topohead.rendering.shading import portrait_camera
from topohead.workflows.registering.proof import _scan_picture  # pyright: ignore

SIZE = (40, 40)


def test_a_scan_is_darker_from_inside() -> None:
    """One square wound towards the camera, the other away from it."""
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    points = torch.cat([corners, corners + torch.tensor([1.0, 0, 0])])
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 6, 5], [4, 7, 6]])
    scan = Scan(points, triangles, colors=torch.full((8, 3), 0.8))
    pose, intrinsics = portrait_camera(points, SIZE, margin=0.8)
    shown = _scan_picture(scan, None, pose, intrinsics, SIZE)
    outside, inside = shown[20, 12], shown[20, 28]
    assert outside.min() > 0.7 and inside.max() < 0.4 * outside.min()
