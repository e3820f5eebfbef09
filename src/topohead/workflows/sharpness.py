"""How sharp a run's textures are, by the resolution charts of `topohead stage --charts`."""

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from topohead.core import Mesh, SurfacePoints
from topohead.geometry.correspondence import closest_points, interpolate
from topohead.geometry.meshes import triangle_areas
from topohead.io.images import read_image
from topohead.io.results import RunResult, Truth
from topohead.losses.sharpness import mtf50, pixel_mtf50, star_contrast, star_offset
from topohead.rendering.mesh import rasterize_uv
from topohead.rendering.shading import srgb_to_linear
from topohead.synthesis.charts import Chart
from topohead.workflows.likeness import left_out, same_layout
from topohead.workflows.progress import track

FRAMES = 3
"""Textures of at most so many frames are looked at, evenly taken."""

FINEST, STEP, WIDTH = 0.0003, 1.05, 1.15
"""Radius in metres of the innermost ring, from one radius to the next, and of a ring's own two."""

SHOWN = 0.6
"""Share of its painted contrast that a ring must have in the true texture to be counted."""

REACH = 0.001
"""Metres by which a star may be out of place in a texture."""


def texture_sharpness(run: RunResult, truth: Truth) -> dict[str, Any] | None:
    """Effective size of the textures: of a texture whose Nyquist frequency is their MTF50.

    Each star's contrast is measured in rings of one frequency and divided by its contrast in the
    true texture. A row for each star (medians over frames), the median of all, and what the best
    placed camera could tell apart. Another topology's layout is compared through the surface of the
    first frame. None when the take has no charts, or the run no texture.
    """
    charts, settings = _charts(truth)
    lit = truth.picture("lit_srgb.png")
    template_path = truth.path / "template.safetensors"
    if not charts or lit is None or not template_path.exists():
        return None
    count = len(run.frames)
    wanted = sorted({round(k) for k in np.linspace(0, count - 1, min(count, FRAMES))})
    textures = [kept for kept in (run.texture(run.frames[k]) for k in wanted) if kept is not None]
    if not textures:
        return None
    # a start texture that was kept may have another size than those that the run made
    size = textures[-1].size
    textures = [kept for kept in textures if kept.size == size]
    template = load_file(template_path)["vertices"]
    true_first = truth.frame(run.frames[0]).mesh
    ours = _Skin(run.mesh(0), None if same_layout(run, truth) else true_first, template)
    theirs = _Skin(true_first, None, template)
    true_texture = read_image(lit)
    looked_for = (_Star.of(chart, ours, theirs, size, true_texture) for chart in charts)
    stars = [star for star in looked_for if star is not None]
    if not stars:
        return None
    found: list[list[tuple[float, str]]] = []
    for kept in track(textures, "measuring how sharp textures are"):
        texture = kept.read()
        found.append([star.effective(texture) for star in stars])
    result = {}
    for star, sizes in zip(stars, zip(*found, strict=True), strict=True):
        effective, bound = sorted(sizes)[len(sizes) // 2]
        result[star.chart.name] = {
            "effective_size": round(effective),
            "is": bound,
            "cycles_per_mm": star.cycles_per_mm(effective),
            "camera_size": _camera_size(run, true_first, template, star, settings),
        }
    middle = sorted(row["effective_size"] for row in result.values())
    cameras = sorted(row["camera_size"] for row in result.values() if row["camera_size"])
    return {
        "effective_size": middle[len(middle) // 2],
        "size": size,
        "camera_size": cameras[len(cameras) // 2] if cameras else None,
        "textures": len(textures),
        "charts": result,
    }


def _charts(truth: Truth) -> tuple[list[Chart], dict[str, Any]]:
    """The charts that were painted, and the take's settings."""
    path = truth.path / "truth.json"
    if not path.exists():
        return [], {}
    described = json.loads(path.read_text("utf-8"))
    charts = []
    for row in described.get("charts", []):
        center, across, up, normal = (tuple(row[k]) for k in ("center", "across", "up", "normal"))
        numbers = (row["radius"], row["spokes"], row["contrast"])
        charts.append(Chart(row["name"], center, across, up, normal, *numbers))
    return charts, described.get("settings", {})


@dataclass(frozen=True)
class _Skin:
    """A mesh with a texture layout, and where on the template its surface is.

    `carrier` is a mesh of the template's topology in the same pose; None when it is the mesh.
    """

    mesh: Mesh
    carrier: Mesh | None
    template: Float[Tensor, "V 3"]

    def texels(self, chart: Chart, size: int) -> tuple[Tensor, Tensor, Float[Tensor, "N 2"]] | None:
        """Rows, columns and places in the star's plane (metres) of the texels around a chart."""
        around = self._triangles(chart)
        if not len(around):
            return None
        topology = self.mesh.topology
        corner = topology.uv[topology.triangle_uv[around]].double()
        low, high = corner.amin((0, 1)), corner.amax((0, 1))
        left, right = int(low[0] * size), math.ceil(float(high[0]) * size)
        top, bottom = int((1 - high[1]) * size), math.ceil((1 - float(low[1])) * size)
        # a window of whole texels, stretched over the unit square
        start = torch.tensor([left / size, 1 - bottom / size], dtype=torch.float64)
        span = torch.tensor([right - left, bottom - top], dtype=torch.float64) / size
        uv = (corner.reshape(-1, 2) - start) / span
        numbers = torch.arange(len(uv)).reshape(-1, 3)
        raster = rasterize_uv(uv, numbers, (right - left, bottom - top))
        row, column = torch.nonzero(raster.covered).unbind(1)
        triangle = around[raster.triangle[row, column].long()]
        place = self._on_template(triangle, raster.barycentrics[row, column].double())
        x, y, above = chart.polar(place)
        kept = (torch.hypot(x, y) < 1.2 * chart.radius) & (above.abs() < chart.radius / 2)
        return row[kept] + top, column[kept] + left, torch.stack([x, y], 1)[kept]

    def _triangles(self, chart: Chart) -> Tensor:
        """Triangles near a chart."""
        center = torch.tensor(chart.center)
        if self.carrier is None:
            vertices = self.template
        else:  # the chart's place on the carrier is that of the template's nearest vertex
            vertices = self.mesh.vertices
            center = self.carrier.vertices[(self.template - center).norm(dim=1).argmin()]
        near = (vertices - center).norm(dim=1) < 2 * chart.radius
        return torch.nonzero(near[self.mesh.topology.triangles].any(1))[:, 0]

    def _on_template(self, triangle: Tensor, weights: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        topology = self.mesh.topology
        points = SurfacePoints(triangle, weights)
        if self.carrier is not None:
            place = interpolate(points, topology.triangles, self.mesh.vertices.double())
            points, _ = closest_points(place, self.carrier)
            topology = self.carrier.topology
        return interpolate(points, topology.triangles, self.template.double())


@dataclass(frozen=True)
class _Star:
    """A chart in a texture: its texels, and the rings in which it can be measured.

    `density` is texels a metre of the template; `stretch` metres of the subject's skin for one of
    the template.
    """

    chart: Chart
    size: int
    row: Tensor
    column: Tensor
    places: Float[Tensor, "N 2"]
    rings: Float[Tensor, "R 2"]
    true_contrast: Float[Tensor, " R"]
    density: float
    stretch: float

    @staticmethod
    def of(
        chart: Chart, ours: _Skin, theirs: _Skin, size: int, lit: Float[Tensor, "S S 3"]
    ) -> "_Star | None":
        """None when the chart is not on the texture, or not to be seen in the true one."""
        found, true_found = ours.texels(chart, size), theirs.texels(chart, len(lit))
        if found is None or true_found is None or not len(found[0]) or not len(true_found[0]):
            return None
        rings = _rings(chart)
        row, column, places = true_found
        true_contrast = star_contrast(_grey(lit, row, column), places, chart.spokes, rings)
        usable = true_contrast > SHOWN * chart.contrast
        # rings inside the first that does not show are the star's hub
        first = int((~usable).nonzero()[0, 0]) if not usable.all() else len(rings)
        inside = found[2].norm(dim=1) < chart.radius
        density = math.sqrt(int(inside.sum()) / math.pi) / chart.radius
        triangles = theirs._triangles(chart)
        area = [triangle_areas(v.double(), theirs.mesh.topology.triangles[triangles]).sum()
                for v in (theirs.mesh.vertices, theirs.template)]  # fmt: skip
        nyquist = chart.spokes / (2 * math.pi * rings.mean(1)) <= 0.5 * density
        rings, true_contrast = rings[:first], true_contrast[:first]
        kept = nyquist[:first]
        if not kept.any():
            return None
        return _Star(chart, size, *found, rings[kept], true_contrast[kept], density,
                     math.sqrt(float(area[0] / area[1])))  # fmt: skip

    def effective(self, texture: Float[Tensor, "S S 3"]) -> tuple[float, str]:
        """Effective size in texels, and whether that is its value or a bound."""
        values = _grey(texture, self.row, self.column)
        spokes = self.chart.spokes
        offset = star_offset(values, self.places, spokes, self.rings, REACH)
        contrast = star_contrast(values, self.places - offset, spokes, self.rings)
        transfer = contrast / self.true_contrast
        frequency = spokes / (2 * math.pi * self.rings.mean(1))
        known = transfer.isfinite()
        found, bound = mtf50(frequency[known].tolist(), transfer[known].tolist())
        return 2 * found / self.density * self.size, bound

    def cycles_per_mm(self, effective_size: float) -> float:
        """The MTF50 on the subject's skin that an effective size stands for."""
        return effective_size / 2 * self.density / self.size / self.stretch / 1000


def _rings(chart: Chart) -> Float[Tensor, "R 2"]:
    """Inner and outer radii from the rim inwards, so that frequencies rise."""
    count = int(math.log(chart.radius / FINEST) / math.log(STEP))
    outer = chart.radius * STEP ** -torch.arange(count, dtype=torch.float64)
    return torch.stack([outer / WIDTH, outer], 1)


def _grey(texture: Float[Tensor, "S S 3"], row: Tensor, column: Tensor) -> Float[Tensor, " N"]:
    """Linear light of texels, mean of the channels."""
    return srgb_to_linear(texture[row, column]).mean(1)


def _camera_size(
    run: RunResult,
    first: Mesh,
    template: Float[Tensor, "V 3"],
    star: _Star,
    settings: dict[str, Any],
) -> int | None:
    """Effective size of a texture as sharp as the picture of the camera that sees a chart best.

    From its pixels a millimetre, the mean of along and across where it looks askew, and MTF50 of
    pixels and lens. The rig's tracking cameras count.
    """
    if run.rig is None:
        return None
    near = (template.double() - torch.tensor(star.chart.center).double()).norm(dim=1).argmin()
    place = first.vertices[near].double()
    triangles = first.topology.triangles[(first.topology.triangles == near).any(1)]
    e = first.vertices[triangles].double()
    normal = torch.linalg.cross(e[:, 1] - e[:, 0], e[:, 2] - e[:, 0]).sum(0)
    normal = normal / normal.norm()
    tracking = [name for name in run.rig.cameras.names if name not in left_out(run)]
    cameras = run.rig.cameras.select(tracking)
    towards = cameras.centers.double() - place
    distance = towards.norm(dim=1)
    cosine = (towards / distance[:, None]) @ normal
    focal = (cameras.intrinsics[:, 0, 0] * cameras.intrinsics[:, 1, 1]).double().sqrt()
    pixels = focal / distance * cosine.clamp(min=0).sqrt() * (cosine > 0.3)
    if not (pixels > 0).any():
        return None
    frequency = pixel_mtf50(float(settings.get("blur", 0.45))) * float(pixels.max())
    return round(2 * frequency * star.stretch / star.density * star.size)
