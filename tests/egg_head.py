"""A small linear head for registration tests: an egg with a nose, eight identities, two actions."""

from dataclasses import replace

import numpy as np
import torch

from planted_sphere import skin_texture, sphere
from topohead.core import Cameras, Mesh, SurfacePoints, Topology, Views
from topohead.geometry.cameras import look_at, project
from topohead.geometry.meshes import vertex_normals
from topohead.models.linear import LinearHead
from topohead.rendering.mesh import rasterize
from topohead.rendering.shading import render_mesh


def egg_head() -> LinearHead:
    """About 0.24 m tall, y up, face along +z; landmarks spread over the front."""
    topology, points = sphere(36, 72, 1.0)
    directions = points.double()
    x, y, z = directions.unbind(1)
    radius = torch.stack([0.078 * x, 0.12 * y, 0.095 * z], 1)
    nose = torch.exp(-((x / 0.18) ** 2 + (y / 0.22) ** 2)) * (z > 0)
    template = radius + 0.018 * nose[:, None] * torch.tensor([0.0, 0.0, 1.0])
    modes = torch.stack([x, y, z, x * y, y * z, z * x, x * x - y * y, 3 * z * z - 1], 1)
    identity = 0.003 * torch.einsum("vk,vd->kvd", modes, directions)
    expression = torch.zeros(52, len(points), 3, dtype=torch.float64)
    jaw = torch.sigmoid((-y - 0.3) / 0.08) * torch.sigmoid(z / 0.1)
    expression[17, :, 1] = -0.015 * jaw
    cheek = torch.exp(-(((x.abs() - 0.6) / 0.25) ** 2) - (y / 0.3) ** 2) * (z > 0)
    expression[46, :, 0] = 0.01 * cheek * x.sign()
    regions = {"face": torch.nonzero((z > 0.25) & (y.abs() < 0.8)).ravel()}
    topology = replace(topology, regions=regions, name="egg")
    landmarks = SurfacePoints(*_landmarks(topology, template))
    topology = replace(topology, landmarks={"ibug68": landmarks})
    return LinearHead(topology, template.float(), identity.float(), expression.float())


def _landmarks(topology: Topology, template: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """68 vertices: an outline from ear over chin to ear, the rest on a spiral over the face."""
    turn = torch.linspace(-np.pi / 2, np.pi / 2, 17, dtype=torch.float64)
    outline = torch.stack([0.075 * turn.sin(), -0.095 * turn.cos(), 0 * turn + 0.03], 1)
    k = torch.arange(51, dtype=torch.float64)
    reach = (k + 0.5).sqrt() / 7.2
    inner = torch.stack(
        [0.055 * reach * (2.4 * k).cos(), 0.08 * reach * (2.4 * k).sin(), 0 * k + 0.09], 1
    )
    nearest = torch.cdist(torch.cat([outline, inner]), template).argmin(1)
    owner = torch.zeros(topology.vertex_count, 2, dtype=torch.long)
    for corner in range(3):
        owner[topology.triangles[:, corner], 0] = torch.arange(len(topology.triangles))
        owner[topology.triangles[:, corner], 1] = corner
    weights = torch.nn.functional.one_hot(owner[nearest, 1], 3).float()
    return owner[nearest, 0], weights


def ring(count: int = 6, size: tuple[int, int] = (192, 240), arc: float = 70.0) -> Cameras:
    """Cameras 0.9 m away over ±`arc` degrees, alternately above and below."""
    poses = []
    for index in range(count):
        angle = np.radians(-arc + 2 * arc * index / max(count - 1, 1))
        rise = np.radians(12 if index % 2 else -10)
        eye = 0.9 * np.array(
            [np.sin(angle) * np.cos(rise), np.sin(rise), np.cos(angle) * np.cos(rise)]
        )
        up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
        poses.append(look_at(torch.from_numpy(eye), torch.zeros(3, dtype=torch.float64), up))
    width, height = size
    focal = 0.9 * height / 0.30
    matrix = [[focal, 0, width / 2 + 4], [0, focal, height / 2 - 3], [0, 0, 1]]
    return Cameras(
        tuple(f"cam{index:02d}" for index in range(count)),
        torch.stack(poses),
        torch.tensor([matrix] * count, dtype=torch.float64),
        torch.tensor([list(size)] * count),
    )


def filmed(mesh: Mesh, cameras: Cameras, seed: int = 0, noise: float = 0.004) -> Views:
    """Pictures of a skin-textured mesh with gains of ±4 % and noise, and its masks."""
    texture = skin_texture(512, seed)
    random = torch.Generator().manual_seed(seed)
    images, masks = [], []
    for index in range(len(cameras)):
        pose, matrix = cameras.world_to_camera[index], cameras.intrinsics[index]
        size = cameras.size(index)
        picture = render_mesh(
            mesh.vertices, mesh.topology, texture, pose, matrix, size, 2, "texture", (0, 0, 0)
        )
        raster = rasterize(mesh.vertices, mesh.topology.triangles, pose, matrix, size)
        gain = 1 + 0.04 * float(torch.randn((), generator=random))
        grain = noise * torch.randn(picture.shape, generator=random)
        images.append((gain * picture + grain).clamp(0, 1))
        masks.append(raster.covered.float())
    return Views("000001", cameras, tuple(images), tuple(masks))


def marked(
    mesh: Mesh, cameras: Cameras, seed: int = 0, noise: float = 0.7
) -> dict[str, dict[int, tuple[float, float]]]:
    """Landmarks that cameras see, with Gaussian noise in pixels."""
    random = torch.Generator().manual_seed(seed)
    points = mesh.topology.landmarks["ibug68"]
    corners = mesh.topology.triangles[points.triangles]
    vertices = mesh.vertices.double()
    normals = vertex_normals(vertices, mesh.topology.triangles)
    weights = points.barycentrics.double()[:, :, None]
    spots = (weights * vertices[corners]).sum(1)
    facing = (weights * normals[corners]).sum(1)
    pixels, _ = project(cameras, spots)
    found = {}
    for index, name in enumerate(cameras.names):
        toward = ((cameras.centers[index] - spots) * facing).sum(1) > 0.15
        moved = pixels[index] + noise * torch.randn(pixels[index].shape, generator=random)
        found[name] = {k: tuple(moved[k].tolist()) for k in range(68) if toward[k]}
    return found
