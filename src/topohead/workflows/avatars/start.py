"""Where a fit begins: flat Gaussians on the head, its teeth, and what surrounds it."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import BoundSplats, InputError, Splats, Topology
from topohead.core.splats import SH_DC
from topohead.geometry.binding import bind
from topohead.geometry.correspondence import TriangleTree
from topohead.geometry.meshes import triangle_areas
from topohead.geometry.surface_cells import SurfaceCells, cell_gaussians, surface_cells
from topohead.io.assets import reference_head
from topohead.rendering.shading import linear_to_srgb
from topohead.synthesis.complexions import random_skin
from topohead.synthesis.teeth import BANDS, Teeth, make_teeth
from topohead.workflows.avatars.inputs import Sitting
from topohead.workflows.exporting.gaussians import OPACITY, PLAIN, cell_colors

FINENESS = {"face": 1.5, "lips": 2.0, "eyes": 2.5}
"""Edges of cells against those of the rest of the head: what one looks at is finer."""

TEETH = 3000
"""Gaussians on both rows of teeth: 1.4 mm apart."""

TEETH_LIGHT = 0.55
"""How much of the light outside reaches teeth, linear: the lips' shadow lies on them."""


def starting_gaussians(sitting: Sitting, count: int) -> BoundSplats:
    """About `count` Gaussians on the resting head; colours from its texture, teeth from ours."""
    topology, rest = sitting.rig.topology, sitting.rig.neutral
    banded = all(name in topology.regions for name in BANDS)
    drawn = torch.ones(len(topology.triangles), dtype=torch.bool)
    if banded:
        drawn = ~topology.region_mask(*BANDS)[topology.triangles].all(1)
    least = int(drawn.sum()) + TEETH * banded
    if count < least:
        raise InputError(
            f"--gaussians {count}: expected at least {least}, one a triangle of {topology.name}"
        )
    kept = drawn.nonzero()[:, 0]
    cells = surface_cells(
        rest, topology.triangles[kept], count - TEETH * banded, _fineness(topology)[kept]
    )
    cells = SurfaceCells(kept[cells.triangles], cells.corners)
    colors = torch.full((len(cells.triangles), 3), PLAIN)
    if sitting.texture is not None and len(topology.uv):
        colors = cell_colors(cells, topology, sitting.texture)
    opacities = torch.full((len(colors),), OPACITY)
    skin = BoundSplats(cell_gaussians(cells), opacities, ((colors - 0.5) / SH_DC)[:, None])
    return joined([skin, teeth_gaussians(topology, rest)]) if banded else skin


def _fineness(topology: Topology) -> Float[Tensor, " T"]:
    fineness = torch.ones(len(topology.triangles))
    for name, value in FINENESS.items():
        if name in topology.regions:
            fineness[topology.region_mask(name)[topology.triangles].all(1)] = value
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
    mine = teeth.topology.region_mask(name)[teeth.topology.triangles].all(1)
    triangles = teeth.topology.triangles[mine]
    areas = triangle_areas(vertices, triangles).double()
    count = TEETH // 2
    # one draw in each of `count` equal shares of the area: even, and the same every time
    at = (torch.arange(count).double() + 0.5) / count * areas.sum()
    chosen = torch.searchsorted(areas.cumsum(0), at).clamp(max=len(triangles) - 1)
    corners = vertices[triangles[chosen]]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    size = float((areas.sum() / count).sqrt())
    colors = linear_to_srgb(TEETH_LIGHT * teeth.colors[triangles[chosen]].mean(1))
    scales = torch.tensor([0.75, 0.75, 0.2]).mul(size).expand(count, 3)
    discs = Splats.colored(
        corners.mean(1), _turned_to(normals), scales, torch.full((count,), OPACITY), colors
    )
    band = topology.region_mask(BANDS[row])[topology.triangles].all(1)
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
