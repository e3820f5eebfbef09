"""A made-up person as a scanner might leave them, registered: how far is the head from the truth?

    python examples/07_register_a_scan.py OUT [TEXELS [PICTURE.jpg]]

Writes OUT/scan.ply (millimetres, z up, holes where the scanner did not look) and OUT/head; the
picture is a smaller copy of OUT/head/proof.png.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
import trimesh
from scipy.spatial.transform import Rotation

from topohead.geometry.meshes import vertex_normals
from topohead.geometry.subdivision import catmull_clark, refine
from topohead.io.assets import reference_head
from topohead.io.images import read_image, write_image
from topohead.io.meshes import read_mesh
from topohead.rendering.shading import linear_to_srgb, sample_texture
from topohead.synthesis.complexions import random_skin
from topohead.synthesis.expressions import draw_expressions
from topohead.synthesis.shapes import load_shapes
from topohead.synthesis.skin import paint
from topohead.workflows.register import RegisterConfig, register

SEED, PERSON, SKIN, TEXELS = 11, 5, 26, 1024
PLACE = np.array([0.4, -1.1, 1.6])
"""Metres from the scanner's origin to the head's."""
INNER = ("mouth_interior", "mouth_socket", "eye_sockets", "tongue", "teeth")


def two_steps(values: torch.Tensor) -> tuple:
    """Topology and values of the control mesh, subdivided twice."""
    topology = reference_head(0).topology
    for _ in range(2):
        topology, matrix = catmull_clark(topology)
        values = refine(matrix, values)
    return topology, values


def skin_at_vertices(topology, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Srgb colour and height in metres of painted skin at every vertex."""
    maps = paint(reference_head(0), random_skin(SKIN), SKIN, size)
    place = torch.zeros(topology.vertex_count, dtype=torch.long)
    place[topology.faces.flatten()] = topology.face_uv.flatten()
    picture = torch.cat([linear_to_srgb(maps.albedo), maps.height[..., None]], -1)
    values = sample_texture(picture, topology.uv[place])
    return values[:, :3].clamp(0, 1), values[:, 3:]


out = Path(sys.argv[1])
texels = int(sys.argv[2]) if len(sys.argv) > 2 else TEXELS
out.mkdir(parents=True, exist_ok=True)
person = load_shapes().draw(SEED, torch.tensor([PERSON]))
expression, gaze = draw_expressions(SEED, [PERSON])
truth = person.posed(expression, gaze)[0]
topology, points = two_steps(truth)
colors, heights = skin_at_vertices(topology, texels)
points = points + heights * vertex_normals(points, topology.triangles)

# the scanner saw neither what is inside nor the back of the head, and it measures to 0.1 mm
random = np.random.default_rng(SEED)
missing = topology.region_mask(*(name for name in INNER if name in topology.regions))
missing |= (points - torch.tensor([0.01, 0.03, -0.19])).norm(dim=1) < 0.07
kept = topology.triangles[~missing[topology.triangles].any(1)].numpy()
measured = points.numpy() + random.normal(0, 1e-4, points.shape)
turn = Rotation.from_euler("xy", [90, 0], degrees=True) * Rotation.from_euler("y", 20, degrees=True)
measured = 1000 * (turn.apply(measured) + PLACE)
scan = trimesh.Trimesh(
    measured, kept, vertex_colors=(255 * colors.numpy()).astype(np.uint8), process=False
)
scan.remove_unreferenced_vertices()
scan.export(out / "scan.ply")

result = register(RegisterConfig(out / "scan.ply", out / "head", texture_size=texels))
print(result.summary())

head = read_mesh(out / "head" / "head.obj").vertices
_, matrix = catmull_clark(reference_head(0).topology)
wanted = turn.apply(refine(matrix, truth).numpy()) + PLACE
face = reference_head(1).topology.region_mask("face")
apart = 1000 * (head - torch.from_numpy(wanted)).norm(dim=1)[face]
print(f"face, same vertex: median {apart.median():.2f} mm, 95 % under {apart.quantile(0.95):.2f}")

if len(sys.argv) > 3:
    proof = read_image(out / "head" / "proof.png").numpy()
    smaller = cv2.resize(proof, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    write_image(Path(sys.argv[3]), torch.from_numpy(smaller), quality=86)
