"""Where a fit begins: flat Gaussians on the head, its teeth, and what surrounds it."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import (
    BoundSplats,
    GaussianBinding,
    InputError,
    PosedViews,
    Splats,
    SurfacePoints,
    Topology,
)  # fmt: skip
from topohead.core.splats import SH_DC
from topohead.geometry.binding import bind, decomposed, posed_factors
from topohead.geometry.correspondence import TriangleTree, interpolate
from topohead.geometry.meshes import triangle_areas, uniform_laplacian, vertex_normals
from topohead.geometry.surface_cells import SurfaceCells, cell_gaussians, surface_cells
from topohead.io.assets import reference_head
from topohead.rendering.shading import linear_to_srgb
from topohead.solvers.first_looks import Parts
from topohead.solvers.hull import hull_points
from topohead.solvers.reprojection import completed, seen_colors
from topohead.synthesis.complexions import random_skin
from topohead.synthesis.teeth import BANDS, Teeth, make_teeth
from topohead.workflows.avatars.inputs import Sitting, spread
from topohead.workflows.exporting.gaussians import OPACITY, cell_colors

FINENESS = {"face": 1.5, "lips": 2.0, "eyes": 2.5}
"""Edges of cells against those of the rest of the head: what one looks at is finer."""

HULL_SPACING = 0.007
"""Metres between Gaussians that stand off the mesh."""

HULL_OPACITY = 0.4
"""Theirs at first: a hull is always too large, and what is not there must fade."""

MOST_PICTURES = 64
"""Pictures that the first colours are taken from: more would hardly change where the fit begins."""

LEAST = 2000
"""Gaussians below which no face is left."""

DISC = (0.6, 0.6, 0.02)
"""Standard deviations of a disc against its patch's edge: wide enough to leave no gap between
neighbours, thin so that the outline does not grow."""

PATCH_SPREAD = 2.1
"""Standard deviations of a patch's Gaussian against the patch's own: `DISC` for a square one."""

INSET = 3.0
"""See `inset`; what a held-out outline wants (tuning seed 181)."""

MOUTH = (0.25, 0.10, 0.09)
"""srgb of a mouth's inside that no picture shows: red and dark."""

SEEN_INSIDE = 0.2
"""What `SeenColors.seen` must reach before a picture is believed between lips."""

TEETH = 2000
"""Gaussians on both rows of teeth: 1.7 mm apart."""

TEETH_LIGHT = 0.3
"""How much of the light outside reaches teeth, linear: the lips' shadow lies on them."""


def starting_gaussians(sitting: Sitting, count: int, hull: bool = False) -> BoundSplats:
    """About `count` Gaussians on the resting head; coloured by its texture or the pictures.

    Where that is fewer than triangles, flat ones stand for patches of them. Teeth, and
    what `hull_gaussians` finds, come on top.
    """
    if count < LEAST:
        raise InputError(f"--gaussians {count}: expected at least {LEAST}")
    topology, rest = sitting.rig.topology, sitting.rig.neutral
    banded = all(name in topology.regions for name in BANDS)
    drawn = triangle_areas(rest, topology.triangles) > 1e-10
    if banded:
        drawn &= ~topology.triangle_mask(*BANDS)
    kept, fineness = drawn.nonzero()[:, 0], _fineness(topology)
    if count < len(kept):
        found = patches(rest, topology.triangles, kept, fineness, count)
        cells = SurfaceCells(found.triangles, torch.eye(3).expand(len(found.triangles), 3, 3))
        colors = _starting_colors(sitting, cells)
        opacities = torch.full((len(colors),), OPACITY)
        flat = Splats.colored(found.means, found.quats, found.scales, opacities, colors)
        skin = bind(flat, cells.triangles, cells.centers, topology.triangles, rest)
    else:
        cells = surface_cells(rest, topology.triangles[kept], count, fineness[kept])
        cells = SurfaceCells(kept[cells.triangles], cells.corners)
        colors = _starting_colors(sitting, cells)
        opacities = torch.full((len(colors),), OPACITY)
        binding = cell_gaussians(cells, thickness=DISC[2] / DISC[0])
        skin = BoundSplats(binding, opacities, ((colors - 0.5) / SH_DC)[:, None])
    skin = inset(skin, topology, rest.float())
    parts = [skin, hull_gaussians(sitting)] if hull else [skin]
    return joined([*parts, teeth_gaussians(topology, rest)] if banded else parts)


def parts_of(sitting: Sitting, splats: BoundSplats) -> Parts:
    """What each Gaussian belongs to: colours do not go from skin to hair, eyes or mouth."""
    topology, triangles = sitting.rig.topology, splats.binding.triangles
    corners = topology.triangles[triangles]

    def within(*names: str) -> Tensor:
        known = [name for name in names if name in topology.regions]
        if not known:
            return torch.zeros(len(triangles), dtype=torch.bool)
        return topology.region_mask(*known)[corners].all(1)

    scalp, eyes, teeth = within("scalp"), within("eye_left", "eye_right"), within(*BANDS)
    mouth = within("mouth_interior", "mouth_socket", "tongue") | teeth
    kinds = torch.zeros(len(triangles), dtype=torch.long)
    for number, mask in enumerate((scalp, eyes, mouth, teeth)):
        kinds[mask] = number + 1
    known = mouth if sitting.texture is None else torch.ones_like(mouth)
    return Parts(kinds, eyes | mouth, eyes, teeth, known)


def inset(splats: BoundSplats, topology: Topology, rest: Float[Tensor, "V 3"]) -> BoundSplats:
    """The Gaussians moved inwards by `INSET` times their variance times the surface's curvature.

    A disc that touches a round surface stands off it by r²/2R at a distance r, so discs seen
    edge-on grow the outline of whatever bulges; hollows stay.
    """
    binding, triangles = splats.binding, topology.triangles
    laplacian = uniform_laplacian(topology).to(rest)
    normals = vertex_normals(rest, triangles)
    edges = rest[triangles] - rest[triangles].roll(1, 1)
    square = rest.new_zeros(len(rest)).index_add(
        0, triangles.flatten(), edges.square().sum(2).mean(1).repeat_interleave(3)
    )
    number = torch.bincount(triangles.flatten(), minlength=len(rest)).clamp(min=1)
    # the neighbours' mean lies ℓ²/2R below a vertex of mean curvature 1/R
    below = -((laplacian @ rest) * normals).sum(1)
    bend = (2 * below / (square / number).clamp(min=1e-12)).clamp(min=0)
    curvature = (bend[triangles[binding.triangles]] * binding.barycentrics.clamp(0, 1)).sum(1)
    _, factors = posed_factors(binding, triangles, rest)
    variance = factors.square().sum((1, 2)) / 2
    depth = torch.minimum(INSET * variance * curvature, 0.5 * variance.sqrt())
    size = (2 * triangle_areas(rest, triangles)[binding.triangles]).sqrt()
    offsets = binding.offsets.clone()
    offsets[:, 2] -= depth / size.clamp(min=1e-9)
    return replace(splats, binding=replace(binding, offsets=offsets))


def hull_gaussians(sitting: Sitting) -> BoundSplats:
    """Gaussians where mattes show the person and the mesh does not: hair, shoulders; maybe none.

    They follow the nearest of scalp, neck and back of the head. Without mattes there are none.
    """
    topology, rest = sitting.rig.topology, sitting.rig.neutral.float()
    carriers = torch.ones(len(topology.triangles), dtype=torch.bool)
    if "scalp" in topology.regions:
        still = [name for name in ("scalp", "neck", "ears") if name in topology.regions]
        carriers = topology.triangle_mask(*still)
    carriers &= triangle_areas(rest, topology.triangles) > 1e-8
    if sitting.counted is not None:
        carriers[:] = False
    found = (
        hull_points(sitting.posed, rest, carriers, HULL_SPACING) if bool(carriers.any()) else None
    )
    if found is None or not len(found.places):
        none = torch.zeros(0, 3)
        binding = GaussianBinding(torch.zeros(0).long(), none, none, torch.zeros(0, 4), none)
        return BoundSplats(binding, torch.zeros(0), torch.zeros(0, 1, 3))
    count = len(found.places)
    quats = torch.tensor([1.0, 0, 0, 0]).expand(count, 4)
    scales = torch.full((count, 3), 0.6 * found.spacing)
    opacities = torch.full((count,), HULL_OPACITY)
    balls = Splats.colored(found.places, quats, scales, opacities, found.colors)
    return bind(balls, found.triangles, found.barycentrics, topology.triangles, rest)


def _starting_colors(sitting: Sitting, cells: SurfaceCells) -> Float[Tensor, "N 3"]:
    """srgb colours of cells: the texture's, else what the pictures show, dark inside the mouth."""
    topology, rest = sitting.rig.topology, sitting.rig.neutral
    if sitting.texture is not None and len(topology.uv):
        return cell_colors(cells, topology, sitting.texture)
    points = SurfacePoints(cells.triangles, cells.centers)
    upright = sitting.rig.upright.float()
    places = interpolate(points, topology.triangles, rest) @ upright[:3, :3].T + upright[:3, 3]
    found = seen_colors(points, at_rows(sitting.posed, some_rows(sitting.posed)))
    colors = completed(found, places)
    if "mouth_interior" in topology.regions:
        inside = topology.region_mask("mouth_interior")[topology.triangles].any(1)
        dark = inside[cells.triangles] & (found.seen < SEEN_INSIDE)
        colors[dark] = torch.tensor(MOUTH)
    return colors


def some_rows(posed: PosedViews) -> list[int]:
    """Instants of at most `MOST_PICTURES` pictures in all, with different expressions."""
    count = max(MOST_PICTURES // max(len(posed.views[0].images), 1), 1)
    return spread(range(len(posed.views)), posed.weights, count)


def at_rows(posed: PosedViews, rows: list[int]) -> PosedViews:
    """Some of the instants."""
    return replace(
        posed, views=tuple(posed.views[row] for row in rows), vertices=posed.vertices[rows],
        weights=posed.weights[rows], gaze=posed.gaze[rows], poses=posed.poses[rows],
    )  # fmt: skip


@dataclass(frozen=True)
class Patches:
    """N patches of a surface: the triangle that stands for each, and a flat Gaussian over it."""

    triangles: Int[Tensor, " N"]
    means: Float[Tensor, "N 3"]
    quats: Float[Tensor, "N 4"]
    scales: Float[Tensor, "N 3"]


def patches(
    rest: Float[Tensor, "V 3"],
    triangles: Int[Tensor, "T 3"],
    kept: Int[Tensor, " K"],
    fineness: Float[Tensor, " T"],
    count: int,
) -> Patches:
    """At most `count` patches of the triangles that are kept.

    A patch is what of the surface lies in one cell of a grid and faces the same octant, so the two
    sides of a lip or an ear stay apart. Its best-shaped triangle stands for it; its Gaussian has
    the patch's own mean and, widened, its covariance.
    """
    corners = rest[triangles[kept]].double()
    areas = triangle_areas(rest, triangles)[kept].double()
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    facing = ((normals > 0).long() * torch.tensor([1, 2, 4])).sum(1)
    fine = fineness[kept].double()
    longest = (corners - corners.roll(1, 1)).norm(dim=2).amax(1)
    shape = areas / longest.square()
    edge = float(((areas * fine.square()).sum() / count).sqrt())
    while True:
        grid = (corners.mean(1) / (edge / fine)[:, None]).floor().long()
        key = torch.cat([grid, facing[:, None], (fine * 1000).long()[:, None]], 1)
        _, patch = torch.unique(key, dim=0, return_inverse=True)
        number = int(patch.max()) + 1
        if number <= count:
            break
        edge *= max((number / count) ** 0.5, 1.02)
    total = torch.zeros(number, dtype=torch.float64).index_add(0, patch, areas)
    order = torch.argsort(shape, stable=True)
    best = torch.zeros(number, dtype=torch.long)
    best[patch[order]] = order  # the last one written, of the best shape, stays
    centers = corners.mean(1)
    means = torch.zeros(number, 3).double().index_add(0, patch, areas[:, None] * centers)
    means = means / total[:, None]
    # a triangle with corners p around c has the covariance Σ (p − c)(p − c)ᵀ / 12
    arms, middle = corners - centers[:, None], centers - means[patch]
    spread = arms.mT @ arms / 12 + middle[:, :, None] * middle[:, None, :]
    shapes = torch.zeros(number, 3, 3).double().index_add(0, patch, areas[:, None, None] * spread)
    quats, scales = decomposed(PATCH_SPREAD**2 * shapes / total[:, None, None])
    edges = total.sqrt()
    scales = torch.stack([scales[:, 0], scales[:, 1], DISC[2] * edges], 1)
    return Patches(kept[best], means.float(), quats.float(), scales.float())


def _discs(
    corners: Float[Tensor, "N 3 3"], sizes: Float[Tensor, " N"], colors: Float[Tensor, "N 3"]
) -> Splats:
    """Flat round Gaussians on triangles, for patches of these edges."""
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    scales = torch.tensor(DISC) * sizes[:, None]
    opacities = torch.full((len(sizes),), OPACITY)
    return Splats.colored(corners.mean(1), _turned_to(normals), scales, opacities, colors)


def _fineness(topology: Topology) -> Float[Tensor, " T"]:
    fineness = torch.ones(len(topology.triangles))
    for name, value in FINENESS.items():
        if name in topology.regions:
            fineness[topology.triangle_mask(name)] = value
    return fineness


def joined(parts: list[BoundSplats]) -> BoundSplats:
    """Several sets of Gaussians on one mesh as one, of equal degree."""
    names = ("triangles", "barycentrics", "offsets", "quats", "scales")
    rows = {name: torch.cat([getattr(p.binding, name) for p in parts]) for name in names}
    opacities = torch.cat([p.opacities for p in parts])
    harmonics = torch.cat([p.harmonics for p in parts])
    return BoundSplats(replace(parts[0].binding, **rows), opacities, harmonics)


def teeth_gaussians(topology: Topology, rest: Float[Tensor, "V 3"]) -> BoundSplats:
    """Gaussians on two ordinary rows of teeth and their gums, carried by the mesh's own bands.

    The upper band is the skull's and the lower one the jaw's, so teeth follow without a rig.
    """
    model = reference_head(_level(topology))
    plain = replace(random_skin(0), tooth_disorder=0.0, tooth_shade=0.45)
    teeth = make_teeth(model, plain, 0)
    vertices = teeth.placed(rest, rest)
    parts = [_row_gaussians(teeth, vertices, topology, rest, k) for k in range(2)]
    return joined(parts)


def _level(topology: Topology) -> int:
    """Which of the reference head's levels a topology is."""
    for level in (1, 0):
        if reference_head(level).topology.vertex_count == topology.vertex_count:
            return level
    raise InputError(f"{topology.name} has rows of teeth but is not the reference head")


def _row_gaussians(
    teeth: Teeth,
    vertices: Float[Tensor, "P 3"],
    topology: Topology,
    rest: Float[Tensor, "V 3"],
    row: int,
) -> BoundSplats:
    """Discs spread evenly over one row, bound to the nearest triangles of its band."""
    name = ("upper", "lower")[row]
    mine = teeth.topology.triangle_mask(name)
    triangles = teeth.topology.triangles[mine]
    areas = triangle_areas(vertices, triangles).double()
    count = TEETH // 2
    # one draw in each of `count` equal shares of the area: even, and the same every time
    at = (torch.arange(count).double() + 0.5) / count * areas.sum()
    chosen = torch.searchsorted(areas.cumsum(0), at).clamp(max=len(triangles) - 1)
    corners = vertices[triangles[chosen]]
    colors = linear_to_srgb(TEETH_LIGHT * teeth.colors[triangles[chosen]].mean(1))
    discs = _discs(corners, (areas.sum() / count).sqrt().float().expand(count), colors)
    band = topology.triangle_mask(BANDS[row])
    band &= triangle_areas(rest, topology.triangles) > 1e-9
    owners = band.nonzero()[:, 0]
    tree = TriangleTree(rest[topology.triangles[owners]].double().numpy())
    nearest, weights, _ = tree.closest(discs.means.double().numpy())
    return bind(
        discs, owners[torch.from_numpy(nearest)], torch.from_numpy(weights).float(),
        topology.triangles, rest,
    )  # fmt: skip


def _turned_to(normals: Float[Tensor, "N 3"]) -> Float[Tensor, "N 4"]:
    """Quaternions wxyz that turn +z to the normals, the short way."""
    unit = torch.nn.functional.normalize(normals, dim=1)
    x, y, z = unit.unbind(1)
    near_back = z < -0.999
    quats = torch.stack([1 + z, -y, x, torch.zeros_like(x)], 1)
    quats[near_back] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    return torch.nn.functional.normalize(quats, dim=1)
