"""The surface that scans are made of, and what scanners make of it: edges rounded, folds blended,
few triangles.
"""

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.spatial import KDTree
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.subdivision import catmull_clark, refine
from topohead.synthesis.device_draws import Draws
from topohead.synthesis.sights import seen_from_outside

INNER = ("mouth_interior", "mouth_socket", "eye_sockets", "tongue", "teeth")
"""Regions that scanners rarely see."""

BLENDED = ("face", "ears", "eyes", "eyelids", *INNER)
"""Regions whose surface, as far as it is outside, is fine enough to be blended."""

WIDTH = 2.2e-3
"""Greatest deviation of the Gaussian that blends, metres."""

REACH, GROUPS = 6e-3, 8
"""Metres within which a vertex blends with others at rest, and in how many groups those lie that
have about as many."""

PAIRS = 160_000
"""So many pairs of a vertex and another are blended at once, of each scan of a batch."""

TRIANGULATIONS, SIDES = 24, (1.5e-3, 6e-3)
"""How many coarse triangulations there are, and how long their sides are about, metres."""

SHIFT = 2e-4
"""The most by which corners of coarse triangles are off, rms along each axis, metres."""


@dataclass(frozen=True)
class ScanSurface:
    """The surface that is scanned: one Catmull–Clark step finer than the control mesh.

    `smoothing` moves its vertices half-way to their neighbours' middle. `facing` sums triangles'
    normals at each vertex. `inner` marks triangles inside mouth and sockets, `scalp` those under
    the hair, `globes` those of the eyes. `blended` numbers vertices of `BLENDED` that show,
    `around` those near each of them, one lip's at the other, in groups of rows of the same length,
    S where there are fewer. `coarser` tells which vertex stands for each in coarse triangulations,
    `sides` how long its sides are about, `rim` how far each triangle is from what is hidden behind
    lips and lids at rest, metres.
    """

    refinement: Float[Tensor, "S V"]
    smoothing: Float[Tensor, "S S"]
    facing: Float[Tensor, "S T"]
    triangles: Int[Tensor, "T 3"]
    inner: Bool[Tensor, " T"]
    scalp: Bool[Tensor, " T"]
    globes: Bool[Tensor, " T"]
    blended: Int[Tensor, " L"]
    around: tuple[Int[Tensor, "_ _"], ...]
    coarser: Int[Tensor, "C S"]
    sides: Float[Tensor, " C"]
    rim: Float[Tensor, " T"]

    def to(self, device: torch.device | str) -> "ScanSurface":
        there = {
            entry.name: getattr(self, entry.name).to(device)
            for entry in fields(self)
            if entry.name != "around"
        }
        return ScanSurface(**there, around=tuple(part.to(device) for part in self.around))


def scan_surface(topology: Topology, template: Float[Tensor, "V 3"]) -> ScanSurface:
    """The scanned surface of a head topology with named regions; `template` says how long its edges
    are, metres.
    """
    finer, matrix = catmull_clark(replace(topology, mirror=None))
    inner = finer.region_mask(*(name for name in INNER if name in finer.regions))
    corners = finer.triangles
    globes = finer.region_mask(*(name for name in ("eyes",) if name in finer.regions))
    scalp = finer.region_mask("scalp")
    smoothing = _half_way(finer.edges, finer.vertex_count)
    places = refine(matrix, template.float())
    inner, scalp, globes = (mask[corners].all(1) for mask in (inner, scalp, globes))
    shown = torch.zeros(finer.vertex_count, dtype=torch.bool)
    shown[corners[~inner]] = True
    blended = shown & finer.region_mask(*(name for name in BLENDED if name in finer.regions))
    blended = blended.nonzero()[:, 0]
    blended, around = _around(places, blended, shown.nonzero()[:, 0])
    sides = torch.logspace(math.log10(SIDES[0]), math.log10(SIDES[1]), TRIANGULATIONS)
    coarser = [_clusters(places, finer.edges, float(side), k) for k, side in enumerate(sides)]
    surface = ScanSurface(
        matrix, smoothing, _facing(corners, finer.vertex_count), corners, inner, scalp, globes,
        blended, around, torch.stack(coarser), sides, torch.zeros(len(corners)),
    )  # fmt: skip
    return replace(surface, rim=_rim(surface, places, finer.edges))


def _around(
    places: Float[Tensor, "S 3"], asked: Int[Tensor, " L"], others: Int[Tensor, " O"]
) -> tuple[Int[Tensor, " L"], tuple[Int[Tensor, "_ _"], ...]]:
    """Those asked, those with few others within `REACH` first, and these others, themselves among
    them, in `GROUPS` of rows as long as their longest; S where there is none.
    """
    tree = KDTree(places[others].double().numpy())
    points = places[asked].double().numpy()
    count = torch.from_numpy(tree.query_ball_point(points, REACH, return_length=True))
    count, order = count.sort(stable=True)
    numbers = torch.cat([others, torch.tensor([len(places)])])
    around = []
    for rows, counts in zip(order.chunk(GROUPS), count.chunk(GROUPS), strict=True):
        # of one nearest the tree would leave the second axis out
        near = tree.query(points[rows], max(int(counts[-1]), 2), distance_upper_bound=REACH)[1]
        around.append(numbers[torch.from_numpy(near)])
    return asked[order], tuple(around)


def _clusters(
    places: Float[Tensor, "S 3"], edges: Int[Tensor, "E 2"], side: float, seed: int
) -> Int[Tensor, " S"]:
    """The vertex that stands for each: the middle one of those that hang together in a cell.

    Vertex clustering (Rossignac and Borrel 1993) in cubes of this side, turned and moved at random;
    what lies in a cube but does not hang together there, one lip and the other, stays apart.
    """
    random = np.random.default_rng(seed)
    turn = np.linalg.qr(random.standard_normal((3, 3)))[0]
    points = places.double().numpy()
    cell = np.floor(points @ turn / side + random.random(3)).astype(np.int64)
    first, second = edges.numpy().T
    inside = (cell[first] == cell[second]).all(1)
    graph = coo_array(
        (np.ones(inside.sum()), (first[inside], second[inside])), shape=(len(points),) * 2
    )
    count, part = connected_components(graph, directed=False)
    size = np.bincount(part)[:, None]
    middle = np.stack([np.bincount(part, axis, count) for axis in points.T], 1) / size
    far = np.linalg.norm(points - middle[part], axis=1)
    order = np.lexsort((far, part))
    leader = order[np.searchsorted(part[order], np.arange(count))]
    return torch.from_numpy(leader[part])


def _rim(
    surface: ScanSurface, places: Float[Tensor, "S 3"], edges: Int[Tensor, "E 2"]
) -> Float[Tensor, " T"]:
    """How far each triangle is, along edges, from what is inside or lies lip on lip, metres."""
    hidden = surface.inner | (seen_from_outside(places, surface.triangles) == 0)
    length = (places[edges[:, 0]] - places[edges[:, 1]]).norm(dim=1).double().numpy()
    graph = coo_array((length, tuple(edges.T.numpy())), shape=(len(places),) * 2).tocsr()
    start = surface.triangles[hidden].unique().numpy()
    if not len(start):
        return torch.ones(len(surface.triangles))
    far = np.minimum(dijkstra(graph, False, start, min_only=True), 1.0)
    return torch.from_numpy(far).float()[surface.triangles].mean(1)


def _half_way(edges: Int[Tensor, "E 2"], count: int) -> Float[Tensor, "S S"]:
    """The sparse matrix that moves vertices half-way to the mean of their neighbours."""
    both = torch.cat([edges, edges.flip(1)])
    degree = torch.bincount(both[:, 0], minlength=count)
    itself = torch.arange(count)
    rows = torch.cat([both.T, itself.expand(2, -1)], 1)
    values = torch.cat([0.5 / degree[both[:, 0]], torch.where(degree > 0, 0.5, 1.0)])
    return torch.sparse_coo_tensor(rows, values, (count, count), check_invariants=False).coalesce()


def _facing(triangles: Int[Tensor, "T 3"], count: int) -> Float[Tensor, "S T"]:
    """The sparse matrix that sums what triangles have at their vertices."""
    triangle = torch.arange(len(triangles)).repeat_interleave(3)
    index = torch.stack([triangles.flatten(), triangle])
    shape = (count, len(triangles))
    ones = torch.ones(index.shape[1])
    return torch.sparse_coo_tensor(index, ones, shape, check_invariants=False).coalesce()


def blunted(
    surface: ScanSurface, fine: Float[Tensor, "B S 3"], random: Draws
) -> Float[Tensor, "B S 3"]:
    """Surfaces with edges rounded by up to 0.6 mm where their radius is 5 mm, as fusing depth and
    coarse triangles leave them; two of three scans keep theirs.
    """
    round_ = refine(surface.smoothing, refine(surface.smoothing, fine))
    strength = random.uniform("blunt", 1, 1) * random.chance("blunted", 1 / 3, 1, 1)
    return torch.lerp(fine, round_, strength)


def blended(
    surface: ScanSurface,
    fine: Float[Tensor, "B S 3"],
    there: Bool[Tensor, "B T"],
    random: Draws,
) -> tuple[Float[Tensor, "B S 3"], Float[Tensor, "B S 3"]]:
    """Surfaces whose vertices are Gaussian means of what is `there` around them, in space and not
    along the skin: edges of lids sink towards the eye, creases fill up, one lip draws the other,
    as where depth is averaged or points are few. Three of five scans are, by up to `WIDTH`.

    And such means, as wide, of the normals around the vertices where they were: as those are found
    from points around them, or from depth that was averaged.
    """
    width = WIDTH * random.uniform("blend", 1, 1) * random.chance("blended", 0.6, 1, 1)
    wide = WIDTH * random.uniform("blend of normals", 1, 1)
    corner, second, third = fine[:, surface.triangles].unbind(2)
    facing = torch.linalg.cross(second - corner, third - corner)
    area = facing.norm(dim=-1, keepdim=True)
    weighed = refine(surface.facing, torch.cat([area, facing], 2) * there[..., None])
    sharp, blunt = (-0.5 / deviation.clamp(min=1e-5).square() for deviation in (width, wide))
    place, mass = (torch.nn.functional.pad(each, (0, 0, 0, 1)) for each in (fine, weighed))
    moved, turned, first = [], [], 0
    for around in surface.around:
        here = fine[:, surface.blended[first : first + len(around)], None]
        first += len(around)
        # what draws a place, and where to; the area around it and how that faces
        total = fine.new_zeros(len(fine), len(around), 8)
        for some in around.split(PAIRS // len(around), dim=1):
            away, area = place[:, some] - here, mass[:, some]
            square = away.square().sum(-1, keepdim=True)
            pull = torch.exp(sharp[..., None] * square) * area[..., :1]
            parts = (pull, pull * away, torch.exp(blunt[..., None] * square) * area)
            total = total + torch.cat(parts, 3).sum(2)
        moved.append(here[:, :, 0] + total[..., 1:4] / total[..., :1].clamp(min=1e-12))
        turned.append(total[..., 4:])
    weighed = weighed.index_copy(1, surface.blended, torch.cat(turned, 1))
    normals = weighed[..., 1:] / weighed[..., :1].clamp(min=1e-12)
    return fine.index_copy(1, surface.blended, torch.cat(moved, 1)), normals


def coarsened(
    surface: ScanSurface,
    fine: Float[Tensor, "B S 3"],
    normals: Float[Tensor, "B S 3"],
    random: Draws,
) -> tuple[Float[Tensor, "B S 3"], Float[Tensor, "B S 3"], Bool[Tensor, "B T"]]:
    """Surfaces of few flat triangles, their vertices' normals, and which triangles are still there.

    Nine of twenty are, with sides of 1.5 to 6 mm: vertices move to the one that stands for them,
    in half of these off by up to `SHIFT`, and triangles between fewer than three of those have no
    area. Half lose up to half a side's length where lips and lids turn in, as triangulations
    without points behind there do.
    """
    count = len(surface.sides)
    kind = (count * random.uniform("triangulation", 1)).long()
    on = random.chance("coarse", 0.45, 1)
    itself = torch.arange(fine.shape[1], device=fine.device)
    index = torch.where(on, surface.coarser[kind[:, 0]], itself)
    lost = 0.5 * surface.sides[kind] * random.uniform("lost rim", 1)
    lost = lost * (on & random.chance("rim lost", 0.5, 1))
    off = SHIFT * random.uniform("shift", 1, 1) * (on & random.chance("shifted", 0.5, 1))[..., None]
    fine = fine + off * random.normal("shifts", fine.shape[1], 3)
    index = index[..., None].expand_as(fine)
    return fine.gather(1, index), normals.gather(1, index), surface.rim >= lost
