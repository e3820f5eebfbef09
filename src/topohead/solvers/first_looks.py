"""What Gaussians look like before any step: the pictures' own colours, instant by instant.

Every Gaussian is looked up in every picture that sees it. What differs between instants is first
the light (a head turns in it; photos have exposures of their own), taken as a gain that is log
linear in the direction that the surface faces; then the expression, linear in its codes. A fit that
begins here begins with what a reprojection shows, and has misalignment alone to take away.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core import BoundSplats, PosedViews
from topohead.core.splats import SH_DC
from topohead.geometry.binding import posed_factors
from topohead.geometry.meshes import vertex_normals
from topohead.rendering.harmonics import view_basis
from topohead.rendering.mesh import depth_maps
from topohead.rendering.shading import linear_to_srgb, srgb_to_linear
from topohead.solvers.reprojection import DEPTH_TOLERANCE, picture_values, sight
from topohead.solvers.unseen_looks import filled, whitest

SHARP = 2.0
"""Power of the weights cos⁴ by which pictures of one instant are blended: facing ones win."""

LEAST = 0.01
"""Of cos⁴ over all pictures, what a Gaussian must have been seen by."""

DARK = 0.02
"""srgb below which a colour tells nothing of the light."""

LIGHT_RIDGE = (0.002, 0.02, 0.02, 0.02)
"""Of a picture's Gaussians, how much a gain and slopes of one cost, in squares of log colours."""

DOUBT = 0.15
"""Deviation in log colour beyond which a Gaussian is not the same skin in two pictures."""

CODE_RIDGE = 0.05
"""What a unit of change for a unit of code costs, in squares of srgb against facing sights."""


INNER_TOLERANCE = 0.001
"""Metres that eyes, teeth and tongue may lie behind what is seen: lids and lips are thin."""

TOOTH_LIGHT = 0.8
"""What of the light on the eyes' whites falls on teeth, linear, by their likeness."""


VIEW_RIDGE = 1.0
"""Sum of squares of directions that outweighs what lights say of their change with the view."""


@dataclass(frozen=True)
class Parts:
    """What N Gaussians belong to."""

    kinds: Int[Tensor, " N"]
    """Numbers of parts that do not share colours: skin, scalp, eyes, mouth, teeth."""
    inner: Bool[Tensor, " N"]
    """Eyes, teeth and the mouth's inside: hidden by what is hardly before them."""
    eyes: Bool[Tensor, " N"]
    teeth: Bool[Tensor, " N"]
    known: Bool[Tensor, " N"]
    """Gaussians whose first colours are kept where no picture shows them."""


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


def instant_colors(
    splats: BoundSplats, posed: PosedViews, inner: Bool[Tensor, " N"]
) -> InstantColors:
    """Each Gaussian's colour in each instant, facing pictures first; zeros where none sees it."""
    triangles, count = posed.topology.triangles, len(splats)
    colors = torch.zeros(len(posed.views), count, 3)
    seen = torch.zeros(len(posed.views), count)
    tolerance = torch.where(inner, INNER_TOLERANCE, DEPTH_TOLERANCE)
    for t, (view, vertices) in enumerate(zip(posed.views, posed.vertices.float(), strict=True)):
        places, _ = posed_factors(splats.binding, triangles, vertices)
        normals = facing(splats, posed, vertices)
        depths = depth_maps(vertices, triangles, view.cameras, cull=False)
        total = torch.zeros(count)
        for c, image in enumerate(view.images):
            camera = view.cameras.world_to_camera[c], view.cameras.intrinsics[c]
            pixels, weight = sight(places, normals, *camera, depths[c], tolerance)
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
    found: InstantColors, normals: Float[Tensor, "N 3"], rounds: int = 60
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
            ridge = trust[t].sum() * torch.tensor(LIGHT_RIDGE).double().clamp(min=1e-9).diag()
            square = basis.T @ rows + ridge
            lights[t] = torch.linalg.solve(square, rows.T @ (light[t] - own))
        lights -= lights.mean(0)
    return lights.float()


def light_over_views(
    lights: Float[Tensor, "T 4 3"], ways: Float[Tensor, "T 3"]
) -> Float[Tensor, "3 4 3"]:
    """How lights change with the direction of view: slopes along it, by ridge regression.

    Whoever turns in one room shows another light from another side, and so may the avatar.
    `ways` run from camera to head, in the head frame.
    """
    off = (ways - ways.mean(0)).double()
    square = off.T @ off + VIEW_RIDGE * torch.eye(3).double()
    slopes = torch.linalg.solve(square, off.T @ lights.double().flatten(1))
    return slopes.reshape(3, 4, 3).float()


@dataclass(frozen=True)
class FirstLooks:
    """Gaussians in the pictures' colours, harmonics of degree 0 or 1; what codes change in them;
    the directions that they face in the head frame; what each instant's light has beyond that."""

    splats: BoundSplats
    changes: Float[Tensor, "N R 3"]
    normals: Float[Tensor, "N 3"]
    lights: Float[Tensor, "T 4 3"]


def first_looks(
    splats: BoundSplats,
    posed: PosedViews,
    codes: Float[Tensor, "T R"],
    parts: Parts,
    lit: bool,
    degree: int = 1,
) -> FirstLooks:
    """What pictures say of the Gaussians' colours; `lit` where instants differ in light.

    With a `degree` above 0 light changes with the direction of view, as far as pictures tell.

    Where no picture looks those of `parts.known` keep their colours, teeth in the light that falls
    on the eyes' whites; the others have those across the face and around.
    """
    found = instant_colors(splats, posed, parts.inner)
    upright = posed.upright.float()
    back = torch.linalg.inv(posed.poses[0]).float()
    rest = posed.vertices[0].float() @ back[:3, :3].T + back[:3, 3]
    normals = facing(splats, posed, rest) @ upright[:3, :3].T
    lights = torch.zeros(len(posed.views), 4, 3)
    slopes, ways = torch.zeros(3, 4, 3), directions_of_view(posed)
    if lit:
        lights = matched_lights(found, normals)
    if lit and degree:
        slopes = light_over_views(lights, ways)
    directions = torch.cat([torch.ones(len(normals), 1), normals], 1)
    gains = torch.einsum("nk,tkc->tnc", directions, lights).clamp(-2, 2).exp()
    solved = _by_codes(found.colors / gains, found.seen**SHARP, codes)
    seen = found.seen.sum(0)
    blank = seen < LEAST
    solved[blank] = 0
    old = 0.5 + SH_DC * splats.harmonics[:, 0]
    white = whitest(solved[:, 0], seen, parts.eyes, LEAST)
    if white is not None:
        usual = srgb_to_linear(old[parts.teeth]).mean()
        light = TOOTH_LIGHT * srgb_to_linear(white) / usual
        lit_teeth = linear_to_srgb((srgb_to_linear(old) * light).clamp(0, 1))
        old = torch.where(parts.teeth[:, None], lit_teeth, old)
    colors = torch.where(blank[:, None], old, solved[:, 0])
    places, _ = posed_factors(splats.binding, posed.topology.triangles, rest)
    places = places @ upright[:3, :3].T + upright[:3, 3]
    sight_of = torch.where(parts.known & blank, 1.0, seen)
    colors = filled(colors, sight_of, places, normals, parts.kinds, LEAST)
    harmonics = ((colors - 0.5) / SH_DC)[:, None]
    if lit and degree:
        turned = torch.einsum("nk,dkc->ndc", directions, slopes)
        harmonics = _viewed(colors, turned, ways.mean(0))
        lights = lights - torch.einsum("td,dkc->tkc", ways - ways.mean(0), slopes)
    dressed = replace(splats, harmonics=harmonics)
    return FirstLooks(dressed, solved[:, 1:] / SH_DC, normals, lights)


def directions_of_view(posed: PosedViews) -> Float[Tensor, "T 3"]:
    """The mean direction from each instant's cameras to the head, in the head frame."""
    turns = posed.upright[:3, :3].double() @ posed.poses[:, :3, :3].double().mT
    ways = []
    for t, (view, vertices) in enumerate(zip(posed.views, posed.vertices, strict=True)):
        away = vertices.double().mean(0) - view.cameras.centers.double()
        away = torch.nn.functional.normalize(away, dim=1).mean(0)
        ways.append(torch.nn.functional.normalize(turns[t] @ away, dim=0))
    return torch.stack(ways).float()


def _viewed(
    colors: Float[Tensor, "N 3"], slopes: Float[Tensor, "N 3 3"], middle: Float[Tensor, "3"]
) -> Float[Tensor, "N 4 3"]:
    """Harmonics of degree 1 of colours · (1 + slopes · (direction − middle)), slopes [N d rgb]."""
    ways = torch.cat([torch.eye(3), -torch.eye(3)])
    constant = colors * (1 - torch.einsum("d,ndc->nc", middle, slopes))
    linear = colors[:, None] * slopes
    wanted = constant[:, None] + torch.einsum("md,ndc->nmc", ways, linear)
    basis = view_basis(ways, 4)
    return torch.linalg.pinv(basis) @ (wanted - 0.5)


def _by_codes(
    colors: Float[Tensor, "T N 3"], weight: Float[Tensor, "T N"], codes: Float[Tensor, "T R"]
) -> Float[Tensor, "N K 3"]:
    """Each Gaussian's colour at the codes' zero, and what a unit of each adds: ridge regression."""
    rows = torch.cat([torch.ones(len(codes), 1), codes], 1).double()
    ridge = torch.full((rows.shape[1],), CODE_RIDGE, dtype=torch.float64)
    ridge[0] = 1e-9
    square = torch.einsum("tn,tk,tl->nkl", weight.double(), rows, rows) + ridge.diag()
    right = torch.einsum("tn,tk,tnc->nkc", weight.double(), rows, colors.double())
    return torch.linalg.solve(square, right).float()
