"""Procedural skin: albedo, roughness and pore height for any head with named regions.

Everything is a function of a texel's place on the template head, not of its UV, so seams do not
show and any layout or size gives the same skin. Pigments follow Beer's law: linear albedo =
base · exp(−melanin · a_m − haemoglobin · a_h), per channel.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor

from topohead.core import HeadModel, Topology
from topohead.geometry.meshes import triangle_areas
from topohead.rendering.mesh import interpolate, rasterize_uv
from topohead.synthesis import charts, strokes
from topohead.synthesis.irises import IrisColors, paint_globe
from topohead.synthesis.noise import Noise

BASE = (0.87, 0.76, 0.68)
MELANIN = (0.90, 1.40, 2.00)
HAEMOGLOBIN = (0.12, 0.75, 0.80)


@dataclass(frozen=True)
class SkinParameters:
    """What varies from person to person; drawn by `random_skin`.

    `melanin` and `haemoglobin` are optical depths, `freckles`, `moles`, `stubble`, `hair` (on the
    scalp), `redness` and `pores` strengths from 0 to 1.
    """

    melanin: float
    haemoglobin: float
    freckles: float
    moles: float
    stubble: float
    hair: float
    redness: float
    pores: float
    hair_color: tuple[float, float, float]
    iris: IrisColors


@dataclass(frozen=True)
class SkinMaps:
    """Maps of one person in the topology's UVs, square, row 0 at v = 1.

    Linear albedo, perceptual roughness (GGX alpha is its square), height of pores in metres, and
    where a texel lies on the surface; colours continue beyond the charts' borders.
    """

    albedo: Float[Tensor, "S S 3"]
    roughness: Float[Tensor, "S S"]
    height: Float[Tensor, "S S"]
    covered: Bool[Tensor, "S S"]


def random_skin(seed: int) -> SkinParameters:
    """A person's colours and blemishes, any complexion."""
    random = np.random.default_rng([seed, 31])
    melanin = float(0.10 + 1.5 * random.beta(0.9, 1.9))
    dark = min(melanin / 1.2, 1.0)
    brown, blond = np.array([0.035, 0.020, 0.012]), np.array([0.22, 0.13, 0.06])
    light = random.random() ** 2 * (1 - dark)
    red, green, blue = (brown + light * (blond - brown)).tolist()
    return SkinParameters(
        melanin=melanin,
        haemoglobin=float(random.uniform(0.30, 0.55)),
        freckles=float(random.random() ** 2 * (1 - dark)),
        moles=float(random.uniform(0.2, 1.0)),
        stubble=float(random.uniform(0.2, 0.9) * (random.random() < 0.5)),
        hair=float(random.uniform(0.55, 0.95)),
        redness=float(random.uniform(0.3, 1.0)),
        pores=float(random.uniform(0.5, 1.0)),
        hair_color=(red, green, blue),
        iris=IrisColors.random(random, dark),
    )


def paint(
    head: HeadModel,
    parameters: SkinParameters,
    seed: int,
    size: int,
    stars: tuple[charts.Chart, ...] = (),
) -> SkinMaps:
    """The maps of one person, `size` texels square, with resolution charts on top."""
    canvas = _Canvas(head, size)
    noise = Noise(seed)
    areas = _Areas(canvas)
    optical = _pigments(canvas, areas, noise, parameters, seed)
    albedo = torch.tensor(BASE) * torch.exp(-optical)
    height = _pore_height(canvas, areas, noise, parameters)
    roughness = _roughness(canvas, areas, noise)
    albedo = _paint_hair(canvas, areas, noise, parameters, seed, albedo)
    roughness = torch.lerp(
        roughness, torch.full_like(roughness, 0.55), areas.scalp * parameters.hair
    )
    for name, paint_part in (("mouth_interior", _paint_mouth), ("teeth", _paint_teeth)):
        inside = canvas.region(name)
        if inside is not None:
            albedo, roughness = paint_part(inside, albedo, roughness, canvas, noise)
            height = height * (1 - inside)
    albedo, roughness, height = _paint_eyes(canvas, noise, parameters, albedo, roughness, height)
    albedo, height = charts.draw(stars, canvas.points, canvas.texel, albedo, height)
    return canvas.maps(albedo.clamp(0.003, 0.95), roughness.clamp(0.03, 1.0), height)


class _Canvas:
    """The covered texels of a map as a list, and where on the template head they lie."""

    def __init__(self, head: HeadModel, size: int) -> None:
        topology = head.topology
        self.topology, self.template, self.size = topology, head.template, size
        raster = rasterize_uv(topology.uv, topology.triangle_uv, (size, size))
        self.covered = raster.triangle >= 0
        self.raster = raster
        self.points = self.pick(head.template)
        area = triangle_areas(head.template, topology.triangles)
        seen = torch.bincount(raster.triangle[self.covered].flatten(), minlength=len(area))
        self.texel = float((area[seen > 0].sum() / max(int(seen.sum()), 1)).sqrt())
        points = topology.landmarks["ibug68"]
        corners = head.template[topology.triangles[points.triangles]]
        self.landmarks = (corners * points.barycentrics[..., None]).sum(1)

    def pick(self, values: Float[Tensor, "V K"]) -> Float[Tensor, "N K"]:
        """Vertex values at the covered texels."""
        return interpolate(values, self.topology.triangles, self.raster)[self.covered]

    def region(self, name: str, rings: int = 0) -> Float[Tensor, " N"] | None:
        """Membership of a region, 0 to 1, softened over `rings` edges; None without the region."""
        if name not in self.topology.regions:
            return None
        mask = self.topology.region_mask(name).float()
        return self.pick(_soften(mask, self.topology, rings)[:, None])[:, 0]

    def maps(
        self,
        albedo: Float[Tensor, "N 3"],
        roughness: Float[Tensor, " N"],
        height: Float[Tensor, " N"],
    ) -> SkinMaps:
        """Texel lists as square maps; the empty rest copies the nearest texel."""
        values = torch.cat([albedo, roughness[:, None], height[:, None]], 1)
        picture = torch.zeros(self.size, self.size, 5)
        picture[self.covered] = values
        row, column = np.asarray(
            ndimage.distance_transform_edt(
                ~self.covered.numpy(), return_distances=False, return_indices=True
            )
        )
        picture = picture[torch.from_numpy(row).long(), torch.from_numpy(column).long()]
        return SkinMaps(picture[..., :3], picture[..., 3], picture[..., 4], self.covered)


def _soften(mask: Float[Tensor, " V"], topology: Topology, rings: int) -> Float[Tensor, " V"]:
    first, second = topology.edges.unbind(1)
    degree = torch.bincount(topology.edges.flatten(), minlength=len(mask)).clamp(min=1)
    for _ in range(rings):
        mean = torch.zeros_like(mask).index_add_(0, first, mask[second])
        mask = 0.5 * mask + 0.5 * mean.index_add_(0, second, mask[first]) / degree
    return mask


class _Areas:
    """Soft masks of facial areas at the texels, from landmarks and regions."""

    def __init__(self, canvas: _Canvas) -> None:
        p, marks = canvas.points, canvas.landmarks
        zero = torch.zeros(len(p))

        def blob(center: Tensor, *radii: float) -> Tensor:
            r = torch.tensor(radii if len(radii) == 3 else radii * 3)
            return torch.exp(-(((p - center) / r) ** 2).sum(1))

        nose, chin = marks[30], marks[8]
        self.nose = blob(nose, 0.017, 0.016, 0.02)
        self.chin = blob(chin + torch.tensor([0, 0.012, 0.0]), 0.025, 0.018, 0.03)
        left = (marks[45] + marks[54]) / 2 + torch.tensor([0.004, -0.004, 0.0])
        right = (marks[36] + marks[48]) / 2 + torch.tensor([-0.004, -0.004, 0.0])
        self.cheeks = blob(left, 0.028, 0.02, 0.04) + blob(right, 0.028, 0.02, 0.04)
        lids = (marks[42:48].mean(0), marks[36:42].mean(0))
        self.under_eye = sum((blob(c - torch.tensor([0, 0.013, 0]), 0.017, 0.007, 0.03)
                              for c in lids), zero)  # fmt: skip
        self.lid = sum((blob(c + torch.tensor([0, 0.005, 0]), 0.018, 0.01, 0.03)
                        for c in lids), zero)  # fmt: skip
        forehead = marks[27] + torch.tensor([0.0, 0.04, 0.0])
        self.t_zone = (self.nose + blob(forehead, 0.05, 0.025, 0.05) + 0.7 * self.chin).clamp(max=1)
        lips = canvas.region("lips", 2)
        self.lips = zero if lips is None else (lips * 1.25 - 0.15).clamp(0, 1)
        ears = canvas.region("ears", 3)
        self.ears = zero if ears is None else ears
        scalp = canvas.region("scalp", 5)
        self.scalp = zero if scalp is None else (scalp * 1.4 - 0.2).clamp(0, 1)
        self.beard = self._beard_area(p, marks) * (1 - self.lips)

    @staticmethod
    def _beard_area(p: Tensor, marks: Tensor) -> Tensor:
        """Jaw, chin and upper lip: below the line from the nose's base to the ears' base."""
        mouth_y, nose_y, ear_y = marks[62, 1], marks[33, 1], (marks[2, 1] + marks[14, 1]) / 2
        side = (p[:, 0].abs() / marks[14, 0].abs()).clamp(0, 1)
        line = torch.lerp(nose_y, ear_y, side**2) - 0.004
        cheek = torch.exp(-(((p[:, 0].abs() - 0.03) / 0.014) ** 2)) * (p[:, 1] > mouth_y - 0.008)
        top = torch.sigmoid((line - p[:, 1]) / 0.004)
        bottom = torch.sigmoid((p[:, 1] - marks[8, 1] + 0.03) / 0.01)
        front = torch.sigmoid((p[:, 2] - marks[[0, 16], 2].mean() + 0.01) / 0.006)
        return top * bottom * front * (1 - 0.9 * cheek)


def _pigments(
    canvas: _Canvas, areas: _Areas, noise: Noise, parameters: SkinParameters, seed: int
) -> Float[Tensor, "N 3"]:
    """Optical depth per channel: melanin and haemoglobin with all their patches and spots."""
    p, finest = canvas.points, 2.5 * canvas.texel
    patchy = noise.octaves(p, 0.045, 0.004, "melanin")
    grain = noise.octaves(p, 0.004, max(finest, 0.0006), "melanin-grain", 0.7)
    melanin = parameters.melanin * (1 + 0.05 * patchy + 0.045 * grain)
    melanin = melanin + 0.10 * areas.under_eye + 0.05 * areas.lid
    melanin = melanin + _freckles(p, noise, areas, parameters.freckles)
    melanin = melanin + _moles(canvas, parameters.moles, seed)
    mottle = noise.octaves(p, 0.014, max(finest, 0.0010), "blood", 0.75)
    flush = 0.55 * areas.cheeks + 0.6 * areas.nose + 0.3 * areas.chin + 0.5 * areas.ears
    blood = parameters.haemoglobin * (1 + 0.16 * mottle)
    blood = blood + parameters.redness * 0.6 * flush * (1 + 0.3 * mottle)
    blood = blood + 0.25 * areas.under_eye + 0.20 * areas.lid
    vermilion = areas.lips * (1 + 0.10 * mottle)
    blood = blood + 0.62 * vermilion
    melanin = melanin + 0.10 * vermilion
    vein = 1 - (noise.octaves(p, 0.022, 0.011, "veins").abs() / 0.12).clamp(max=1)
    temple = torch.exp(-(((p[:, 0].abs() - 0.062) / 0.012) ** 2)) * (1 - areas.lips)
    bluish = 0.10 * vein * temple * torch.exp(torch.tensor(-parameters.melanin))
    depth = melanin[:, None].clamp(min=0.02) * torch.tensor(MELANIN)
    depth = depth + blood[:, None].clamp(min=0.05) * torch.tensor(HAEMOGLOBIN)
    return depth + bluish[:, None] * torch.tensor([1.3, 0.7, 0.2])


def _freckles(
    p: Float[Tensor, "N 3"], noise: Noise, areas: _Areas, strength: float
) -> Float[Tensor, " N"]:
    if strength <= 0.02:
        return torch.zeros(len(p))
    where = (areas.cheeks + areas.nose + 0.35 * areas.t_zone).clamp(max=1)
    size = 0.20 + 0.10 * noise.smooth(p, 0.006, "freckle-size")[:, 0]
    spots = ((size - noise.cells(p, 0.0036, "freckles")) / 0.16).clamp(0, 1)
    return 0.7 * strength * where * spots


def _moles(canvas: _Canvas, strength: float, seed: int) -> Float[Tensor, " N"]:
    """A few dozen dark spots at random places, 0.5–2 mm in radius."""
    random = np.random.default_rng([seed, 32])
    order = canvas.points[:, 0].argsort()
    points = canvas.points[order].numpy()  # sorted by x, so that a spot looks at a slice only
    total = np.zeros(len(points), np.float32)
    low, high = canvas.template.amin(0).numpy(), canvas.template.amax(0).numpy()
    for _ in range(int(20 + 90 * strength)):
        # a spot in the box around the head, moved to the nearest skin: the same at any size
        spot = random.uniform(low, high)
        radius, depth = random.gamma(2.0, 0.00035) + 0.0004, random.uniform(0.4, 1.6)
        vertex = int((canvas.template - torch.tensor(spot).float()).square().sum(1).argmin())
        center = canvas.template[vertex].numpy()
        first, last = np.searchsorted(points[:, 0], center[0] + 1.5 * radius * np.array([-1, 1]))
        distance = np.linalg.norm(points[first:last] - center, axis=1)
        total[first:last] += depth * np.clip(1.5 - distance / radius, 0, 1)
    return torch.empty(len(points)).scatter_(0, order, torch.from_numpy(total))


def _pore_height(
    canvas: _Canvas, areas: _Areas, noise: Noise, parameters: SkinParameters
) -> Float[Tensor, " N"]:
    """Height in metres: pores, fine grain along no direction, vertical lines on the lips."""
    p, finest = canvas.points, 3.0 * canvas.texel
    height = 0.000022 * noise.octaves(p, 0.005, max(finest, 0.0005), "grain", 0.8)
    if finest < 0.0016:
        pore = ((0.36 - noise.cells(p, 0.0016, "pores")) / 0.36).clamp(min=0)
        where = 0.35 + areas.cheeks + areas.nose
        height = height - 0.00012 * parameters.pores * pore * where.clamp(max=1.2)
    narrow = p * torch.tensor([1.0, 0.12, 0.12])
    lines = noise.octaves(narrow, 0.0022, max(finest, 0.0010), "lip-lines")
    lip = 0.00010 * lines
    return torch.lerp(height, lip, areas.lips) * (1 - 0.8 * areas.scalp)


def _roughness(canvas: _Canvas, areas: _Areas, noise: Noise) -> Float[Tensor, " N"]:
    p = canvas.points
    rough = 0.47 + 0.03 * noise.octaves(p, 0.02, 0.003, "roughness")
    return rough - 0.09 * areas.t_zone - 0.05 * areas.cheeks - 0.14 * areas.lips


def _paint_hair(
    canvas: _Canvas,
    areas: _Areas,
    noise: Noise,
    parameters: SkinParameters,
    seed: int,
    albedo: Float[Tensor, "N 3"],
) -> Float[Tensor, "N 3"]:
    """Brows and lashes by strokes; stubble and close-cropped hair by density."""
    p = canvas.points
    color = torch.tensor(parameters.hair_color)
    grain = noise.octaves(p, 0.0024, max(2.2 * canvas.texel, 0.0007), "hair-grain", 0.9)
    cropped = (areas.scalp * parameters.hair * (0.80 + 0.16 * grain)).clamp(0, 0.97)
    shadow = (areas.beard * parameters.stubble * (0.38 + 0.20 * grain)).clamp(0, 0.8)
    drawn = strokes.opacity(strokes.brows(canvas.landmarks, seed), p, canvas.texel)
    rims = strokes.opacity(strokes.lashes(canvas.landmarks, seed), p, canvas.texel)
    drawn, rims = 0.85 * drawn, 0.9 * rims
    for density in (cropped, shadow, drawn, rims):
        albedo = torch.lerp(albedo, color.expand_as(albedo), density[:, None])
    return albedo


def _paint_mouth(
    inside: Float[Tensor, " N"],
    albedo: Float[Tensor, "N 3"],
    roughness: Float[Tensor, " N"],
    canvas: _Canvas,
    noise: Noise,
) -> tuple[Tensor, Tensor]:
    """Wet, red, darker towards the throat."""
    depth = (canvas.landmarks[62, 2] - canvas.points[:, 2]).clamp(0, 0.06) / 0.06
    red = torch.tensor([0.36, 0.11, 0.10]) * (1 - 0.75 * depth[:, None])
    red = red * (1 + 0.12 * noise.octaves(canvas.points, 0.008, 0.002, "mouth"))[:, None]
    weight = inside.clamp(0, 1)
    wet = torch.full_like(roughness, 0.28)
    return torch.lerp(albedo, red, weight[:, None]), torch.lerp(roughness, wet, weight)


def _paint_teeth(
    inside: Float[Tensor, " N"],
    albedo: Float[Tensor, "N 3"],
    roughness: Float[Tensor, " N"],
    canvas: _Canvas,
    noise: Noise,
) -> tuple[Tensor, Tensor]:
    shade = 1 + 0.06 * noise.smooth(canvas.points, 0.006, "teeth")
    ivory = torch.tensor([0.70, 0.62, 0.50]) * shade
    smooth = torch.full_like(roughness, 0.18)
    return torch.lerp(albedo, ivory, inside[:, None]), torch.lerp(roughness, smooth, inside)


def _paint_eyes(
    canvas: _Canvas,
    noise: Noise,
    parameters: SkinParameters,
    albedo: Float[Tensor, "N 3"],
    roughness: Float[Tensor, " N"],
    height: Float[Tensor, " N"],
) -> tuple[Tensor, Tensor, Tensor]:
    eyes = canvas.region("eyes")
    if eyes is None:
        return albedo, roughness, height
    albedo, roughness, height = albedo.clone(), roughness.clone(), height.clone()
    members: Int[Tensor, " E"] = canvas.topology.regions["eyes"]
    for side in (1.0, -1.0):
        texels = (eyes > 0.5) & (canvas.points[:, 0] * side > 0)
        globe = canvas.template[members[canvas.template[members, 0] * side > 0]]
        albedo[texels] = paint_globe(canvas.points[texels], globe, parameters.iris, noise)
        roughness[texels], height[texels] = 0.06, 0.0
    return albedo, roughness, height
