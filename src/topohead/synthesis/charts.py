"""Resolution charts on the skin: Siemens stars at known places, to measure how sharp textures are.

A star has `spokes` bright and dark sectors: its albedo is tone · (1 + contrast · cos(spokes ·
angle)) in linear light, so a circle of radius r holds one frequency only, spokes / 2πr, and all
frequencies are there between the rim and the centre. Stars are drawn in the tangent plane of the
template head, as all skin is a function of the place on it, and move and stretch with the face.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import HeadModel, Mesh
from topohead.geometry.correspondence import closest_points
from topohead.geometry.meshes import vertex_normals

RADIUS, SPOKES, CONTRAST = 0.008, 24, 0.5
"""Metres; 24 spokes go from 0.48 cycles a mm at the rim, which 2 pixels a mm resolve, to all that a
texture of 8192 texels can hold (9.8) at 0.4 mm from the centre."""

BRIGHTEST = 0.85
"""Linear albedo that no star exceeds."""


@dataclass(frozen=True)
class Chart:
    """A star in the template's frame, metres; `across`, `up` and `normal` are orthonormal."""

    name: str
    center: tuple[float, float, float]
    across: tuple[float, float, float]
    up: tuple[float, float, float]
    normal: tuple[float, float, float]
    radius: float = RADIUS
    spokes: int = SPOKES
    contrast: float = CONTRAST

    def polar(
        self, points: Float[Tensor, "N 3"]
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"]]:
        """Two coordinates in the star's plane and the height above it, metres, of the template's
        points."""
        exact = points.double()
        offset = exact - exact.new_tensor(self.center)
        axes = exact.new_tensor([self.across, self.up, self.normal])
        x, y, height = (offset @ axes.T).unbind(1)
        return x, y, height


def place_charts(head: HeadModel) -> tuple[Chart, ...]:
    """Stars on forehead, both cheeks (the head's own left and right) and chin of the template."""
    topology, template = head.topology, head.template.double()
    points = topology.landmarks["ibug68"]
    corners = template[topology.triangles[points.triangles]]
    marks = (corners * points.barycentrics[..., None].double()).sum(1)
    wanted = {
        "forehead": marks[27] + torch.tensor([0.0, 0.042, 0.0]),
        "left_cheek": (marks[45] + marks[54]) / 2 + torch.tensor([0.004, -0.004, 0.0]),
        "right_cheek": (marks[36] + marks[48]) / 2 + torch.tensor([-0.004, -0.004, 0.0]),
        "chin": 0.55 * marks[57] + 0.45 * marks[8],
    }
    normals = vertex_normals(template, topology.triangles)
    outer = torch.ones(len(template), dtype=torch.bool)
    for name in ("mouth_interior", "teeth", "eyes"):
        if name in topology.regions:
            outer[topology.regions[name]] = False
    return tuple(_chart(name, place, template[outer], normals[outer])
                 for name, place in wanted.items())  # fmt: skip


def _chart(
    name: str,
    place: Float[Tensor, "3"],
    vertices: Float[Tensor, "V 3"],
    normals: Float[Tensor, "V 3"],
) -> Chart:
    """A star about the vertex nearest to `place`, flat on the skin around it."""
    center = vertices[(vertices - place).norm(dim=1).argmin()]
    near = (vertices - center).norm(dim=1) < RADIUS
    normal = torch.nn.functional.normalize(normals[near].mean(0), dim=0)
    upward = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    across = torch.nn.functional.normalize(torch.linalg.cross(upward, normal), dim=0)
    up = torch.linalg.cross(normal, across)
    return Chart(name, _triple(center), _triple(across), _triple(up), _triple(normal))


def _triple(vector: Float[Tensor, "3"]) -> tuple[float, float, float]:
    return vector[0].item(), vector[1].item(), vector[2].item()


def disc(chart: Chart, rings: int = 24) -> Float[Tensor, "N 3"]:
    """Points spread evenly over a star, in the template's frame, metres."""
    count = torch.arange(3 * rings * rings)
    radius = chart.radius * ((count + 0.5) / len(count)).sqrt()
    angle = count * math.pi * (3 - math.sqrt(5))  # the golden angle
    across, up = torch.tensor(chart.across), torch.tensor(chart.up)
    offset = (radius * angle.cos())[:, None] * across + (radius * angle.sin())[:, None] * up
    return torch.tensor(chart.center) + offset


def uv_frame(chart: Chart, head: HeadModel) -> dict[str, list[float]]:
    """Where a star lies in the head's texture: UV of its centre, and a metre's step of UV along its
    axes there."""
    topology, template = head.topology, head.template.double()
    points, _ = closest_points(torch.tensor([chart.center]).double(), Mesh(topology, template))
    corner = template[topology.triangles[points.triangles[0]]]
    uv = topology.uv[topology.triangle_uv[points.triangles[0]]].double()
    axes = torch.tensor([chart.across, chart.up], dtype=torch.float64)
    # edges in the star's plane against edges in UV: J · plane = uv
    plane, step = (corner[1:] - corner[0]) @ axes.T, uv[1:] - uv[0]
    jacobian = torch.linalg.solve(plane, step)
    center = points.barycentrics[0].double() @ uv
    return {
        "uv": center.tolist(),
        "uv_across": jacobian[0].tolist(),
        "uv_up": jacobian[1].tolist(),
    }


def draw(
    charts: tuple[Chart, ...],
    points: Float[Tensor, "N 3"],
    texel: float,
    albedo: Float[Tensor, "N 3"],
    height: Float[Tensor, " N"],
    tones: tuple[Float[Tensor, "3"], ...],
) -> tuple[Float[Tensor, "N 3"], Float[Tensor, " N"]]:
    """Linear albedo and height of pores at the template's points, with the stars on them.

    Inside a star the skin is smooth and of one tone, its of `tones`, darkened where it would get
    too bright. What `texel` (metres) cannot hold fades out.
    """
    albedo, height = albedo.clone(), height.clone()
    for chart, own in zip(charts, tones, strict=True):
        close = (points - points.new_tensor(chart.center)).norm(dim=1) < 1.5 * chart.radius
        index = torch.nonzero(close)[:, 0]
        x, y, above = chart.polar(points[index])
        radius = torch.hypot(x, y)
        rim = ((1.15 * chart.radius - radius) / (0.1 * chart.radius)).clamp(0, 1)
        rim = rim * (above.abs() < chart.radius / 2)
        inside = rim > 0
        if not inside.any():
            continue
        tone = own.double()
        tone = tone * (BRIGHTEST / (1 + chart.contrast) / tone.max()).clamp(max=1)
        finest = chart.spokes * texel / math.pi  # radius at which a cycle is two texels
        shown = ((radius / finest - 1) / 0.15).clamp(0, 1)
        wave = 1 + chart.contrast * shown * torch.cos(chart.spokes * torch.atan2(y, x))
        star = (tone * wave[:, None]).to(albedo)
        share = rim.to(albedo)
        albedo[index] = torch.lerp(albedo[index], star, share[:, None])
        height[index] = height[index] * (1 - share)
    return albedo, height
