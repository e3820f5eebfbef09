"""The reference head in paint, drawn as a mesh from a few sides: a sitting in seconds."""

import math

import torch

from topohead.core import ARKIT_52, Cameras, PosedViews, Views
from topohead.geometry.avatars import eyeballs, gazed
from topohead.geometry.skinning import blended, placed, rigged
from topohead.io.assets import reference_head
from topohead.rendering.mesh import interpolate, rasterize
from topohead.rendering.shading import portrait_camera
from topohead.workflows.avatars.inputs import Sitting

EDGE = 96
YAWS = (-70.0, -25.0, 25.0, 70.0, 180.0)
PLAYED: tuple[dict[str, float], ...] = (
    {},
    {"jawOpen": 0.8},
    {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9, "browInnerUp": 0.8},
)
NAMES = tuple(f"cam{index}" for index in range(len(YAWS)))


def weights_of(actions: dict[str, float]) -> torch.Tensor:
    weights = torch.zeros(52)
    for name, value in actions.items():
        weights[ARKIT_52.index(name)] = value
    return weights


def painted(vertices: torch.Tensor) -> torch.Tensor:
    """Vertex colours with large structure: brighter above, redder to the left, dark stripes."""
    x, y, z = (vertices * 10).unbind(1)
    stripes = 0.08 * torch.sin(9 * y) + 0.08 * torch.sin(7 * x + 2 * z)
    return torch.stack([0.6 + 0.2 * x, 0.5 + 0.1 * y, 0.4 - 0.1 * x], 1) + stripes[:, None]


def turned(degrees: float) -> torch.Tensor:
    pose = torch.eye(4, dtype=torch.float64)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    pose[:3, :3] = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return pose


def sitting(edge: int = EDGE, masks: bool = True) -> Sitting:
    """Three expressions, the head turned a little each time, from five sides."""
    head = reference_head(0)
    rig = rigged(
        head.topology, head.template, head.expression_basis, torch.eye(4),
        torch.ones(head.topology.vertex_count),
    )  # fmt: skip
    weights = torch.stack([weights_of(actions) for actions in PLAYED])
    gaze = torch.zeros(len(PLAYED), 2, 2)
    poses = torch.stack([turned(angle) for angle in (0.0, 8.0, -6.0)])
    shapes = gazed(eyeballs(rig), blended(rig.neutral, rig.blendshapes, weights), gaze)
    vertices = placed(shapes, poses)
    cameras = around(head.template, YAWS, edge)
    colors = painted(head.template)
    views = [
        drawn(f"{t + 1:06d}", v, head.topology, colors, cameras) for t, v in enumerate(vertices)
    ]
    if not masks:
        views = [Views(v.frame, v.cameras, v.images, None) for v in views]
    posed = PosedViews(
        head.topology, tuple(views), vertices, weights, gaze, poses, torch.eye(4), 25.0
    )
    return Sitting(posed, rig, None)


def around(template: torch.Tensor, yaws: tuple[float, ...], edge: int) -> Cameras:
    views = [portrait_camera(template, (edge, edge), math.radians(yaw)) for yaw in yaws]
    poses, lenses = (torch.stack(list(parts)) for parts in zip(*views, strict=True))
    names = tuple(f"cam{index}" for index in range(len(yaws)))
    return Cameras(names, poses, lenses, torch.full((len(yaws), 2), edge))


def drawn(frame, vertices, topology, colors, cameras) -> Views:
    """The painted head on black, unlit: its texture is what a vertex has."""
    images, masks = [], []
    for index in range(len(cameras)):
        pose, lens = cameras.world_to_camera[index], cameras.intrinsics[index]
        size = cameras.size(index)
        flat = painted_picture(vertices, topology, colors, pose, lens, size)
        images.append(flat[..., :3])
        masks.append(flat[..., 3])
    return Views(frame, cameras, tuple(images), tuple(masks))


def painted_picture(vertices, topology, colors, pose, lens, size):
    """srgb and coverage [H W 4], four samples a pixel."""
    fine = lens.clone()
    fine[:2] *= 2
    whole = (2 * size[0], 2 * size[1])
    raster = rasterize(vertices, topology.triangles, pose, fine, whole, cull=False)
    inside = (raster.triangle >= 0).float()[..., None]
    picture = torch.cat([interpolate(colors, topology.triangles, raster) * inside, inside], -1)
    pooled = torch.nn.functional.avg_pool2d(picture.permute(2, 0, 1)[None], 2)[0]
    return pooled.permute(1, 2, 0).clamp(0, 1)
