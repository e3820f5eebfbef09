"""A folder as CAP4D's tracker leaves it, of the painted head, its points planted."""

from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from posed_person import painted, painted_picture, weights_of
from topohead.core import SurfacePoints
from topohead.geometry.correspondence import interpolate
from topohead.geometry.meshes import triangle_areas
from topohead.io.assets import reference_head
from topohead.io.cap4d import FLAME_VERTICES, FLIP
from topohead.io.images import write_image

SIZE = (96, 120)
FOCAL = 220.0
SHIFT = torch.tensor([0.004, 0.03, 0.02]).double()
"""The trackers' frame against the head frame, as FLAME's differs from ours."""

YAWS = (0.0, 0.4, -0.5)
PLAYED: tuple[dict[str, float], ...] = ({}, {"jawOpen": 0.7}, {"mouthSmileLeft": 0.9})


def identity() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(len(reference_head(0).identity_basis), generator=generator).clamp(-1.5, 1.5)


def planted_points() -> SurfacePoints:
    """As many points as FLAME has vertices, evenly at random on the front of the skin."""
    head = reference_head(0)
    topology, generator = head.topology, torch.Generator().manual_seed(1)
    skin = topology.triangle_mask("face", "neck", "scalp", "ears")
    areas = triangle_areas(head.template, topology.triangles) * skin
    chosen = torch.multinomial(areas, FLAME_VERTICES, True, generator=generator)
    corners = torch.rand(FLAME_VERTICES, 3, generator=generator)
    return SurfacePoints(chosen, corners / corners.sum(1, keepdim=True))


def shapes() -> torch.Tensor:
    head = reference_head(0)
    weights = torch.stack([weights_of(actions) for actions in PLAYED])
    return head.vertices(identity().expand(len(PLAYED), -1), weights)


def write_photos(folder: Path, noise: float = 0.3) -> Path:
    """Pictures, mattes and both npz files; returns the folder."""
    head, count = reference_head(0), len(YAWS)
    rot = np.outer(YAWS, [0.0, 1.0, 0.0])
    tra = np.tile([0.0, 0.0, -0.75], (count, 1))
    lens = torch.tensor([[FOCAL, 0, SIZE[0] / 2], [0, FOCAL, SIZE[1] / 2], [0, 0, 1]]).double()
    points, random = planted_points(), np.random.default_rng(0)
    coordinates, colors = [], painted(head.template)
    for name in ("images", "bg"):
        (folder / name / "cam0").mkdir(parents=True)
    for t, vertices in enumerate(shapes()):
        turn = torch.from_numpy(FLIP @ Rotation.from_rotvec(rot[t]).as_matrix())
        world = (vertices.double() + SHIFT) @ turn.T + torch.from_numpy(tra[t] @ FLIP)
        picture = painted_picture(
            world.float(), head.topology, colors, torch.eye(4).double(), lens, SIZE
        )
        write_image(folder / "images" / "cam0" / f"{t:04d}.png", picture[..., :3])
        write_image(folder / "bg" / "cam0" / f"{t:04d}.png", picture[..., 3:].expand(-1, -1, 3))
        places = interpolate(points, head.topology.triangles, world) @ lens.T
        coordinates.append((places[:, :2] / places[:, 2:]).numpy())
    exact = np.stack(coordinates)[None]
    given = exact + noise * random.normal(size=exact.shape)
    box = [2, 2, SIZE[0] - 2, SIZE[1] - 2]
    np.savez(
        folder / "fit.npz", fx=[[FOCAL]], fy=[[FOCAL]], cx=[[SIZE[0] / 2]], cy=[[SIZE[1] / 2]],
        extr=np.eye(4)[None], resolutions=[[SIZE[1], SIZE[0]]], camera_order=np.array(["cam0"]),
        rot=rot, tra=tra, eye_rot=np.tile([0.0, 0.2, 0.0], (count, 1)),
        expr=np.zeros((count, 65)), shape=np.zeros(150), fps=-1,
    )  # fmt: skip
    np.savez(
        folder / "alignment.npz", vertex_coords=given.astype(np.float32),
        vertex_confidences=np.full((1, count, FLAME_VERTICES, 1), 1.0, np.float32),
        crop_boxes=np.tile(box, (1, count, 1)), valid_mask=np.ones((1, count), bool),
    )  # fmt: skip
    return folder
