"""Scans made from the reference head, so that the answer is known."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import trimesh
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from topohead.core import ARKIT_52, Mesh
from topohead.core.scans import Scan
from topohead.geometry.subdivision import catmull_clark
from topohead.geometry.subdivision import refine as carried
from topohead.io.assets import reference_head

UNITS = {"m": 1.0, "cm": 1e-2, "mm": 1e-3}


@dataclass(frozen=True)
class Planted:
    """A person of the reference population as a scan in some unit and pose.

    `vertices` is the control mesh in the scan's frame in metres, `pose` (rigid) brings the head's
    frame there.
    """

    scan: Scan
    vertices: Float[Tensor, "V 3"]
    pose: Float[Tensor, "4 4"]
    expression: Float[Tensor, " 52"]
    unit: str


def planted(
    seed: int = 3,
    unit: str = "m",
    up: str = "y",
    smile: float = 0.0,
    whole: bool = False,
    actions: Mapping[str, float] | None = None,
) -> Planted:
    """The skin of a person without what is inside, some way off the origin; colours by place."""
    head = reference_head(0)
    random = torch.Generator().manual_seed(seed)
    identity = 0.7 * torch.randn(len(head.identity_basis), generator=random)
    expression = torch.zeros(52)
    expression[[23, 24]] = smile
    for name, played in (actions or {}).items():
        expression[ARKIT_52.index(name)] = played
    shape = head.vertices(identity, expression)
    turn = Rotation.from_euler("yxz", [25, -10, 5], degrees=True).as_matrix()
    if up == "z":
        turn = Rotation.from_euler("x", 90, degrees=True).as_matrix() @ turn
    pose = torch.eye(4)
    pose[:3, :3] = torch.from_numpy(turn).float()
    pose[:3, 3] = torch.tensor([0.3, 1.4, -0.2])
    vertices = shape @ pose[:3, :3].T + pose[:3, 3]
    fine, matrix = catmull_clark(head.topology)
    surface = carried(matrix, vertices)
    hidden = fine.region_mask("eye_sockets", "mouth_interior", "mouth_socket", "tongue", "teeth")
    if whole:
        hidden = torch.zeros_like(hidden)
    triangles = fine.triangles[~hidden[fine.triangles].any(1)]
    used, index = torch.unique(triangles, return_inverse=True)
    places = carried(matrix, shape)[used]
    colors = colors_at(places)
    scan = Scan(surface[used] / UNITS[unit], index, None, colors)
    return Planted(scan, vertices, pose, expression, unit)


def errors_mm(vertices: Tensor, truth: Planted) -> Tensor:
    """Distances of the face's control vertices; finer levels begin with these, smoothed."""
    from topohead.workflows.registering.heads import level_of

    _, carry = level_of(1)
    wanted = carry(truth.vertices.double()).float()
    face = reference_head(0).topology.region_mask("face")
    return 1000 * (vertices - wanted)[: len(face)][face].norm(dim=1)


def colors_at(places: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Colours that say where on a head (its own frame, metres) a point is."""
    return (0.5 + 0.45 * torch.sin(places * (2 * math.pi / 0.2))).clamp(0, 1)


def written(planted: Planted, path: Path) -> Path:
    """As a file that trimesh writes: any format with or without vertex colours."""
    import trimesh

    scan = planted.scan
    colors = None if scan.colors is None else (scan.colors.numpy() * 255).round().astype("uint8")
    mesh = trimesh.Trimesh(
        scan.points.double().numpy(), scan.triangles.numpy(), vertex_colors=colors, process=False
    )
    mesh.export(path)
    return path


def surface_of(planted: Planted) -> Mesh:
    """The head's finer surface in the scan's frame, metres."""
    fine, matrix = catmull_clark(reference_head(0).topology)
    return Mesh(fine, carried(matrix, planted.vertices))


def two_heads(path: Path) -> None:
    """Writes a scan of two people side by side."""
    one, other = planted(seed=3, unit="cm").scan, planted(seed=8, unit="cm").scan
    parts = [
        trimesh.Trimesh(scan.points.numpy() + shift, scan.triangles.numpy(), process=False)
        for scan, shift in ((one, [0, 0, 0]), (other, [24, 0, 0]))
    ]
    trimesh.util.concatenate(parts).export(path)
