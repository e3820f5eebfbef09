"""The surface that scans are made of, and what scanners make of it: edges rounded, folds filled up,
few triangles, closed lips and lids hidden.
"""

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, dijkstra
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.subdivision import catmull_clark, refine
from topohead.synthesis.device_draws import Draws

INNER = ("mouth_interior", "mouth_socket", "eye_sockets", "tongue", "teeth")
"""Regions that scanners rarely see."""

CREASED = ("face", "ears")
"""Regions whose creases scanners do not look into."""

REACH, NEAREST, SPREAD = 8e-3, 48, 48
"""Metres within which the walls of a crease are looked for, how many of the nearest vertices are
asked, and how many of the others."""

GRAZING = 0.02
"""Sine of the angle to a vertex's tangent plane below which others do not stand in front of it."""

TOUCHING = 6e-4
"""Radius of the balls that fit nowhere between closed lips, metres."""

FILLINGS = 24
"""Steps in which the surface over a crease is pulled taut."""

MELTED, MELTINGS = 2.2e-3, 24
"""Deviation of the blur of melted surfaces, metres, in as many steps."""

TRIANGULATIONS, SIDES = 24, (1.5e-3, 6e-3)
"""How many coarse triangulations there are, and how long their sides are about, metres."""


@dataclass(frozen=True)
class ScanSurface:
    """The surface that is scanned: one Catmull–Clark step finer than the control mesh.

    `smoothing` moves its vertices half-way to their neighbours' middle, `melting` less where edges
    are long: `MELTINGS` times it is a blur of `MELTED`. `facing` sums triangles' normals at each
    vertex. `inner` marks triangles inside mouth and sockets, `scalp` those under the hair, `globes`
    those of the eyes, which are seen only where they look forward. `creased` numbers vertices of
    face and ears, `walls` those that may stand in front of each of them. `coarser` tells which
    vertex stands for each in coarse triangulations, `sides` how long its sides are about, `rim` how
    far each triangle is from what is hidden behind lips and lids at rest, metres.
    """

    refinement: Float[Tensor, "S V"]
    smoothing: Float[Tensor, "S S"]
    melting: Float[Tensor, "S S"]
    facing: Float[Tensor, "S T"]
    triangles: Int[Tensor, "T 3"]
    inner: Bool[Tensor, " T"]
    scalp: Bool[Tensor, " T"]
    globes: Bool[Tensor, " T"]
    creased: Int[Tensor, " L"]
    walls: Int[Tensor, "L K"]
    coarser: Int[Tensor, "C S"]
    sides: Float[Tensor, " C"]
    rim: Float[Tensor, " T"]

    def to(self, device: torch.device | str) -> "ScanSurface":
        return ScanSurface(*(getattr(self, entry.name).to(device) for entry in fields(self)))


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
    melting = _half_way(finer.edges, finer.vertex_count, places)
    inner, scalp, globes = (mask[corners].all(1) for mask in (inner, scalp, globes))
    shown = torch.zeros(finer.vertex_count, dtype=torch.bool)
    shown[corners[~inner]] = True
    creased = shown & finer.region_mask(*(name for name in CREASED if name in finer.regions))
    creased = creased.nonzero()[:, 0]
    walls = _walls(places, creased, shown.nonzero()[:, 0])
    sides = torch.logspace(math.log10(SIDES[0]), math.log10(SIDES[1]), TRIANGULATIONS)
    coarser = [_clusters(places, finer.edges, float(side), k) for k, side in enumerate(sides)]
    surface = ScanSurface(
        matrix, smoothing, melting, _facing(corners, finer.vertex_count), corners, inner, scalp,
        globes, creased, walls, torch.stack(coarser), sides, torch.zeros(len(corners)),
    )  # fmt: skip
    return replace(surface, rim=_rim(surface, places, finer.edges))


def _walls(
    places: Float[Tensor, "S 3"], asked: Int[Tensor, " L"], others: Int[Tensor, " O"]
) -> Int[Tensor, "L K"]:
    """The `NEAREST` others of each one asked, and `SPREAD` of those within `REACH`; itself where
    there are fewer.
    """
    near = []
    for rows in asked.split(1024):
        distance, order = torch.cdist(places[rows], places[others]).sort(1)
        within = (distance < REACH).sum(1, keepdim=True)
        far = torch.arange(SPREAD) * (within - 1 - NEAREST).clamp(min=0) // SPREAD
        many = torch.cat([torch.arange(NEAREST).expand(len(rows), -1), NEAREST + far], 1) + 1
        many = many.clamp(max=len(others) - 1)
        close = distance.gather(1, many) < REACH
        near.append(torch.where(close, others[order.gather(1, many)], rows[:, None]))
    return torch.cat(near)


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
    shut = open_radius(surface, places[None])[0] < TOUCHING
    hidden = surface.inner | shut[surface.triangles].any(1)
    length = (places[edges[:, 0]] - places[edges[:, 1]]).norm(dim=1).double().numpy()
    graph = coo_array((length, tuple(edges.T.numpy())), shape=(len(places),) * 2).tocsr()
    start = surface.triangles[hidden].unique().numpy()
    if not len(start):
        return torch.ones(len(surface.triangles))
    far = np.minimum(dijkstra(graph, False, start, min_only=True), 1.0)
    return torch.from_numpy(far).float()[surface.triangles].mean(1)


def _half_way(
    edges: Int[Tensor, "E 2"], count: int, places: Float[Tensor, "S 3"] | None = None
) -> Float[Tensor, "S S"]:
    """The sparse matrix that moves vertices half-way to the mean of their neighbours.

    With `places` so much less that all are blurred by the same width, where that is not more.
    """
    both = torch.cat([edges, edges.flip(1)])
    degree = torch.bincount(both[:, 0], minlength=count)
    itself = torch.arange(count)
    rows = torch.cat([both.T, itself.expand(2, -1)], 1)
    far = torch.where(degree > 0, 0.5, 0.0)
    if places is not None:
        square = (places[both[:, 0]] - places[both[:, 1]]).square().sum(1)
        square = torch.zeros(count).index_add_(0, both[:, 0], square) / degree.clamp(min=1)
        # a step that goes a share of the way to the mean of two axes' neighbours blurs by share/2
        far = torch.minimum(far, 2 * MELTED**2 / MELTINGS / square.clamp(min=1e-12))
    values = torch.cat([(far / degree.clamp(min=1))[both[:, 0]], 1 - far])
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


def melted(
    surface: ScanSurface, fine: Float[Tensor, "B S 3"], random: Draws
) -> Float[Tensor, "B S 3"]:
    """Surfaces blurred by up to `MELTED`, one width everywhere: lids and nostrils lose their folds,
    as in cells or triangles of a few millimetres; half of them keep theirs.

    Of half of the blurred ones creases fill up and ridges stay, as where no scanner looks to the
    bottom.
    """
    melted = fine
    for _ in range(MELTINGS):
        melted = refine(surface.melting, melted)
    moved = melted - fine
    corner, second, third = fine[:, surface.triangles].unbind(2)
    normal = refine(surface.facing, torch.linalg.cross(second - corner, third - corner))
    normal = torch.nn.functional.normalize(normal, dim=-1, eps=1e-20)
    raised = (moved * normal).sum(-1, keepdim=True).clamp(min=0) * normal
    moved = torch.where(random.chance("filled", 0.5, 1, 1), raised, moved)
    strength = random.uniform("melt", 1, 1) * random.chance("melted", 0.5, 1, 1)
    return fine + strength * moved


def coarsened(
    surface: ScanSurface, fine: Float[Tensor, "B S 3"], random: Draws
) -> tuple[Float[Tensor, "B S 3"], Bool[Tensor, "B T"]]:
    """Surfaces of few flat triangles, and which triangles are still there.

    Nine of twenty are, with sides of 1.5 to 6 mm: vertices move to the one that stands for them,
    and triangles between fewer than three of those have no area. Half of these lose up to half a
    side's length where lips and lids turn in, as triangulations without points behind there do.
    """
    count = len(surface.sides)
    kind = (count * random.uniform("triangulation", 1)).long()
    on = random.chance("coarse", 0.45, 1)
    itself = torch.arange(fine.shape[1], device=fine.device)
    index = torch.where(on, surface.coarser[kind[:, 0]], itself)
    lost = 0.5 * surface.sides[kind] * random.uniform("lost rim", 1)
    lost = lost * (on & random.chance("rim lost", 0.5, 1))
    coarse = fine.gather(1, index[..., None].expand_as(fine))
    return coarse, surface.rim >= lost


def open_radius(surface: ScanSurface, fine: Float[Tensor, "B S 3"]) -> Float[Tensor, "B S"]:
    """The largest ball that touches the surface at a vertex from outside and holds none of the
    vertex's `walls`, by its radius, metres: where lips meet it is 0, in a crease half its width.

    One metre where nothing stands in front of a vertex, and outside face and ears. See Amenta et
    al. 2001 (medial balls).
    """
    corner, second, third = fine[:, surface.triangles].unbind(2)
    area = torch.linalg.cross(second - corner, third - corner) * ~surface.inner[:, None]
    normal = torch.nn.functional.normalize(refine(surface.facing, area), dim=-1, eps=1e-20)
    here, normal = fine[:, surface.creased], normal[:, surface.creased]
    least = fine.new_ones(here.shape[:2])
    for walls in surface.walls.split(16, dim=1):
        away = fine[:, walls] - here[:, :, None]
        square = away.square().sum(-1)
        ahead = (away * normal[:, :, None]).sum(-1)
        radius = square / (2 * ahead).clamp(min=1e-12)
        standing = ahead > GRAZING * square.sqrt()
        least = torch.minimum(least, torch.where(standing, radius, 1.0).amin(2))
    return fine.new_ones(fine.shape[:2]).index_copy(1, surface.creased, least)


def spanned(
    surface: ScanSurface, fine: Float[Tensor, "B S 3"], across: Bool[Tensor, "B S"]
) -> Float[Tensor, "B S 3"]:
    """Surfaces pulled taut where they are to be spanned, which fills creases up."""
    taut = fine
    for _ in range(FILLINGS):
        taut = torch.where(across[..., None], refine(surface.smoothing, taut), taut)
    return taut
