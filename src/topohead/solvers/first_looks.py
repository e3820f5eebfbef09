"""What Gaussians look like before any step: the pictures' own colours, instant by instant.

Every Gaussian is looked up in every picture that sees it. What differs between instants is first
the light (a head turns in it; photos have exposures of their own), taken as a gain that is log
linear in the direction that the surface faces; then the expression, linear in its codes. A fit that
begins here begins with what a reprojection shows, and has misalignment alone to take away.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import BoundSplats, PosedViews
from topohead.core.splats import SH_DC
from topohead.geometry.binding import posed_factors
from topohead.geometry.meshes import vertex_normals
from topohead.rendering.mesh import depth_maps
from topohead.solvers.reprojection import SeenColors, completed, picture_values, sight

SHARP = 2.0
"""Power of the weights cos⁴ by which pictures of one instant are blended: facing ones win."""

LEAST = 0.01
"""Of cos⁴ over all pictures, what a Gaussian must have been seen by."""

DARK = 0.02
"""srgb below which a colour tells nothing of the light."""

LIGHT_RIDGE = 0.02
"""Of a picture's Gaussians, how much a light's deviation of one costs, in squares of log colours."""

DOUBT = 0.15
"""Deviation in log colour beyond which a Gaussian is not the same skin in two pictures."""

CODE_RIDGE = 0.05
"""What a unit of change for a unit of code costs, in squares of srgb against fully facing sights."""


@dataclass(frozen=True)
class InstantColors:
    """srgb colours of N Gaussians in each of T instants, and Σ cos⁴ of the pictures that saw it."""

    colors: Float[Tensor, "T N 3"]
    seen: Float[Tensor, "T N"]


def facing(splats: BoundSplats, posed: PosedViews, vertices: Tensor) -> Float[Tensor, "N 3"]:
    """Normals of the skin under every Gaussian on a posed mesh."""
    binding, triangles = splats.binding, posed.topology.triangles
    normals = vertex_normals(vertices, triangles)[triangles[binding.triangles]]
    shares = binding.barycentrics.clamp(0, 1)[..., None]
    return torch.nn.functional.normalize((shares * normals).sum(1), dim=1)


def instant_colors(splats: BoundSplats, posed: PosedViews) -> InstantColors:
    """Each Gaussian's colour in each instant, facing pictures first; zeros where none sees it."""
    triangles, count = posed.topology.triangles, len(splats)
    colors = torch.zeros(len(posed.views), count, 3)
    seen = torch.zeros(len(posed.views), count)
    for t, (view, vertices) in enumerate(zip(posed.views, posed.vertices.float(), strict=True)):
        places, _ = posed_factors(splats.binding, triangles, vertices)
        normals = facing(splats, posed, vertices)
        depths = depth_maps(vertices, triangles, view.cameras, cull=False)
        total = torch.zeros(count)
        for c, image in enumerate(view.images):
            camera = view.cameras.world_to_camera[c], view.cameras.intrinsics[c]
            pixels, weight = sight(places, normals, *camera, depths[c])
            if view.masks is not None:
                weight = weight * picture_values(view.masks[c][..., None], pixels)[:, 0] ** 4
            sharp = weight**SHARP
            colors[t] += sharp[:, None] * picture_values(image, pixels)
            total += sharp
            seen[t] += weight
        colors[t] /= total.clamp(min=1e-12)[:, None]
        colors[t][total < 1e-12] = 0
    return InstantColors(colors, seen)


def matched_lights(
    found: InstantColors, normals: Float[Tensor, "N 3"], rounds: int = 12
) -> Float[Tensor, "T 4 3"]:
    """Each instant's light: log gain and its slope along the normals (head frame), mean zero.

    Solved in turn with each Gaussian's own colour over those that several instants see; what is
    not the same skin there (teeth, hair, misplaced edges) counts less (Geman and McClure 1985).
    """
    count = len(found.colors)
    directions = torch.cat([torch.ones(len(normals), 1), normals], 1).double()
    lights = torch.zeros(count, 4, 3, dtype=torch.float64)
    usable = found.seen * (found.colors.amin(-1) > DARK)
    several = (usable > LEAST).sum(0) > 1
    if count < 2 or not bool(several.any()):
        return lights.float()
    weight = usable[:, several].double()
    light = found.colors[:, several].clamp(min=DARK).double().log()
    basis = directions[several]
    for _ in range(rounds):
        free = light - torch.einsum("nk,tkc->tnc", basis, lights)
        own = (weight[..., None] * free).sum(0) / weight.sum(0).clamp(min=1e-9)[:, None]
        gap = (free - own).square().mean(-1)
        trust = weight / (1 + gap / DOUBT**2).square()
        for t in range(count):
            rows = basis * trust[t, :, None]
            square = basis.T @ rows + LIGHT_RIDGE * trust[t].sum() * torch.eye(4).double()
            lights[t] = torch.linalg.solve(square, rows.T @ (light[t] - own))
        lights -= lights.mean(0)
    return lights.float()


def first_looks(
    splats: BoundSplats,
    posed: PosedViews,
    codes: Float[Tensor, "T R"],
    lit: bool,
    trusted: bool,
) -> tuple[BoundSplats, Float[Tensor, "N R 3"], Float[Tensor, "N 3"], Float[Tensor, "T 4 3"]]:
    """The Gaussians in the pictures' colours, their change with the codes, normals, and lights.

    `lit`: instants differ in light. Where no picture looks Gaussians keep their colours if these
    are `trusted`, else they have those across the face or around.
    """
    found = instant_colors(splats, posed)
    upright = posed.upright.float()
    inverse = torch.linalg.inv(posed.poses[0]).float()
    rest = posed.vertices[0].float() @ inverse[:3, :3].T + inverse[:3, 3]
    normals = facing(splats, posed, rest) @ upright[:3, :3].T
    lights = torch.zeros(len(posed.views), 4, 3)
    if lit:
        lights = matched_lights(found, normals)
    directions = torch.cat([torch.ones(len(normals), 1), normals], 1)
    gains = torch.einsum("nk,tkc->tnc", directions, lights).clamp(-2, 2).exp()
    values, weight = found.colors / gains, found.seen**SHARP
    ranks = codes.shape[1]
    rows = torch.cat([torch.ones(len(codes), 1), codes], 1).double()
    ridge = torch.full((ranks + 1,), CODE_RIDGE, dtype=torch.float64)
    ridge[0] = 1e-9
    square = torch.einsum("tn,tk,tl->nkl", weight.double(), rows, rows) + ridge.diag()
    right = torch.einsum("tn,tk,tnc->nkc", weight.double(), rows, values.double())
    solved = torch.linalg.solve(square, right).float()
    known = found.seen.sum(0) >= LEAST
    solved[~known] = 0
    old = 0.5 + SH_DC * splats.harmonics[:, 0]
    colors = torch.where(known[:, None], solved[:, 0], old)
    if not trusted:
        places, _ = posed_factors(splats.binding, posed.topology.triangles, rest)
        places = places @ upright[:3, :3].T + upright[:3, 3]
        colors = completed(SeenColors(colors, found.seen.sum(0)), places, LEAST)
    harmonics = splats.harmonics.clone()
    harmonics[:, 0] = (colors - 0.5) / SH_DC
    return replace(splats, harmonics=harmonics), solved[:, 1:] / SH_DC, normals, lights
