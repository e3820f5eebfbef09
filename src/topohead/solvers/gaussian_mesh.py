"""A Gaussian on every vertex: where it starts, what it costs to leave its neighbours.

The parts of the published method (Topo4D, Li et al. 2024) that know the mesh. Everything is in
the scene's unit of `PublishedConfig`, not in metres.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool2d

from topohead.core import Cameras, Mesh, Topology, Views
from topohead.geometry.cameras import project
from topohead.geometry.meshes import vertex_normals
from topohead.losses import geometric
from topohead.rendering.mesh import depth_maps, rasterize
from topohead.solvers.kernels import gaussian_mesh as kernels


@dataclass(frozen=True)
class Links:
    """Who is whose neighbour, as the kernels read it, and how things were in the first frame."""

    starts: np.ndarray
    """[V + 1]: the ring of vertex i is neighbours[starts[i]:starts[i + 1]]."""
    neighbours: np.ndarray
    rest_lengths: np.ndarray
    roots: np.ndarray
    """[K] √w of Eq. 9, zero where physics is off."""
    triangles: np.ndarray
    across: np.ndarray
    """[T 3] the triangle beyond each side, -1 at open edges."""
    rest_cosines: np.ndarray
    corner_starts: np.ndarray
    corner_places: np.ndarray
    position_weights: np.ndarray
    """[V] weight of Eq. 12."""


def link(
    topology: Topology,
    rest: Float[Tensor, "V 3"],
    falloff: float,
    position_weights: Float[Tensor, " V"],
    physics: Float[Tensor, " V"],
) -> Links:
    """Neighbourhoods of a mesh in its first frame.

    `physics` scales Eqs. 8–10 at each vertex (a pair takes the smaller of its two).
    """
    triangles = topology.triangles
    pairs = geometric.neighbour_pairs(triangles)
    weights = geometric.edge_weights(rest, pairs, falloff)
    weights = weights * physics[pairs].min(1).values.square()
    lengths = (rest[pairs[:, 1]] - rest[pairs[:, 0]]).norm(dim=1)
    degree = torch.bincount(pairs[:, 0], minlength=len(rest))
    corners = torch.bincount(triangles.flatten(), minlength=len(rest))
    across = _across(triangles)
    sides = (across >= 0).nonzero()
    hinges = torch.stack([sides[:, 0], across[across >= 0]], 1)
    cosines = torch.ones(len(triangles), 3, dtype=rest.dtype)
    cosines[across >= 0] = geometric.hinge_cosines(rest, triangles, hinges)
    return Links(
        _starts(degree),
        pairs[:, 1].to(torch.int32).numpy(),
        lengths.float().numpy(),
        weights.sqrt().float().numpy(),
        triangles.to(torch.int32).numpy(),
        across.to(torch.int32).numpy(),
        cosines.float().numpy(),
        _starts(corners),
        triangles.flatten().argsort(stable=True).to(torch.int32).numpy(),
        position_weights.float().numpy(),
    )


@dataclass(frozen=True)
class Regularizer:
    """Physics against one last frame, topology against the first: gradients by (6 + 1)."""

    links: Links
    last_offsets: np.ndarray
    last_turns: np.ndarray
    strengths: np.ndarray
    flat: np.float32
    floor: np.float32

    @classmethod
    def since(
        cls,
        means: np.ndarray,
        quats: np.ndarray,
        links: Links,
        strengths: tuple[float, float, float],
        flat: float,
        floor: float,
    ) -> "Regularizer":
        """`strengths` weigh rotation coherence, rigidity and isometry."""
        own = np.repeat(np.arange(len(means)), np.diff(links.starts))
        turns = quats / np.linalg.norm(quats, axis=1, keepdims=True)
        return cls(
            links,
            means[links.neighbours] - means[own],
            turns.astype(np.float32),
            (np.array(strengths) / max(len(own), 1)).astype(np.float32),
            np.float32(flat),
            np.float32(floor),
        )

    def gradient(self, means: np.ndarray, quats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """∂/∂means [V 3] and ∂/∂quats [V 4] of Eqs. 8, 10, 12, 13 and rigidity."""
        links = self.links
        d_means, d_quats = kernels.physics_gradient(
            means,
            quats,
            self.last_offsets,
            self.last_turns,
            links.rest_lengths,
            links.roots,
            links.starts,
            links.neighbours,
            self.strengths,
        )
        d_means += kernels.position_gradient(
            means, links.position_weights, links.starts, links.neighbours
        )
        d_means += kernels.hinge_gradient(
            means,
            links.triangles,
            links.across,
            links.rest_cosines,
            self.floor,
            links.corner_starts,
            links.corner_places,
            self.flat,
        )
        return d_means, d_quats


def half_shortest_edge(mesh: Mesh) -> Float[Tensor, " V"]:
    """Half the distance to the nearest neighbour; the smallest found where there is none."""
    pairs = geometric.neighbour_pairs(mesh.topology.triangles)
    lengths = (mesh.vertices[pairs[:, 1]] - mesh.vertices[pairs[:, 0]]).norm(dim=1)
    shortest = torch.full((len(mesh.vertices),), torch.inf, dtype=mesh.vertices.dtype)
    shortest.scatter_reduce_(0, pairs[:, 0], lengths, "amin")
    return torch.where(torch.isinf(shortest), lengths.min(), shortest) / 2


def turn_to_normals(normals: Float[Tensor, "V 3"]) -> Float[Tensor, "V 4"]:
    """Quaternions wxyz whose third axis is the normal."""
    x, y, z = normals.unbind(1)
    quats = torch.stack([1 + z, -y, x, torch.zeros_like(z)], 1)
    turned_over = quats.new_tensor([0.0, 1, 0, 0]).expand_as(quats)
    quats = torch.where((z < -1 + 1e-6)[:, None], turned_over, quats)
    return torch.nn.functional.normalize(quats, dim=1)


def sample_vertex_colors(views: Views, mesh: Mesh) -> Float[Tensor, "V 3"]:
    """Colour of each vertex in the views that see it, weighted by cos²; srgb.

    Vertices that no view sees take their neighbours' mean, ring by ring.
    """
    vertices, triangles = mesh.vertices.double(), mesh.topology.triangles
    normals = vertex_normals(vertices, triangles)
    centers = views.cameras.centers
    pixels, depth = project(views.cameras, vertices)
    tolerance = 4 * float(half_shortest_edge(mesh).median())
    total = torch.zeros(len(vertices), 3)
    weight = torch.zeros(len(vertices))
    for index, visible in enumerate(depth_maps(vertices, triangles, views.cameras)):
        sight = torch.nn.functional.normalize(centers[index] - vertices, dim=1)
        cosine = (sight * normals).sum(1).clamp(min=0)
        layers = [views.images[index]]
        layers.append(
            (torch.isfinite(visible) if views.masks is None else views.masks[index])[..., None]
        )
        near = visible.where(torch.isfinite(visible), visible.new_zeros(()))
        layers.append(near[..., None])
        sampled = _bilinear(torch.cat([layer.float() for layer in layers], 2), pixels[index])
        seen = (cosine > 0.25) & (depth[index] < sampled[:, 4] + tolerance) & (sampled[:, 3] > 0.9)
        share = torch.where(seen, cosine.square(), 0).float()
        total += share[:, None] * sampled[:, :3]
        weight += share
    return _spread(total, weight, geometric.neighbour_pairs(triangles))


def outline_masks(
    mesh: Mesh,
    cameras: Cameras,
    index: int,
    region: str,
    margin: int,
    device: torch.device | None = None,
) -> tuple[Bool[Tensor, "H W"], Bool[Tensor, "H W"]]:
    """Pixels within `margin` of the mesh in one camera, and pixels that see a region of it.

    On the mesh's device, or on `device`.
    """
    vertices = mesh.vertices.to(device)
    raster = rasterize(
        vertices,
        mesh.topology.triangles,
        cameras.world_to_camera[index],
        cameras.intrinsics[index],
        cameras.size(index),
    )
    inside = raster.covered
    if margin > 0:
        window = 2 * margin + 1
        grown = inside.float()[None]
        grown = max_pool2d(grown, (1, window), 1, (0, margin))
        inside = max_pool2d(grown, (window, 1), 1, (margin, 0))[0] > 0
    if region not in mesh.topology.regions:
        return inside, torch.zeros_like(inside)
    within = mesh.topology.triangle_mask(region)
    within = within.to(vertices.device)
    seen = raster.covered & within[raster.triangle.long().clamp(min=0)]
    return inside, seen


def _bilinear(picture: Tensor, pixels: Tensor) -> Tensor:
    """Values [N K] of a picture [H W K] at pixels [N 2]; zero outside."""
    height, width = picture.shape[:2]
    place = pixels.float() / torch.tensor([width / 2, height / 2]) - 1
    sampled = torch.nn.functional.grid_sample(
        picture.permute(2, 0, 1)[None], place[None, None], align_corners=False
    )
    return sampled[0, :, 0].T


def _spread(total: Tensor, weight: Tensor, pairs: Tensor) -> Tensor:
    """Colours where weight > 0, carried to the rest ring by ring; mean colour where unreachable."""
    known = weight > 0
    colors = torch.where(known[:, None], total / weight.clamp(min=1e-12)[:, None], 0.0)
    mean = colors[known].mean(0) if known.any() else torch.full((3,), 0.5)
    first, second = pairs.unbind(1)
    while not known.all():
        counts = known.float().new_zeros(len(known)).index_add(0, first, known[second].float())
        reached = ~known & (counts > 0)
        if not reached.any():
            break
        around = torch.zeros_like(colors).index_add(0, first, colors[second])
        colors = torch.where(reached[:, None], around / counts.clamp(min=1)[:, None], colors)
        known = known | reached
    return torch.where(known[:, None], colors, mean)


def _starts(counts: Tensor) -> np.ndarray:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32).numpy()


def _across(triangles: Tensor) -> Tensor:
    """The triangle beyond side (k, k + 1) of each triangle [T 3]; -1: not just one."""
    sides = torch.stack([triangles, triangles.roll(-1, 1)], -1).reshape(-1, 2).sort(1).values
    _, edge, count = torch.unique(sides, dim=0, return_inverse=True, return_counts=True)
    order = edge.argsort(stable=True)
    twins = order[(count == 2)[edge[order]]].reshape(-1, 2)
    across = torch.full((len(sides),), -1)
    across[twins[:, 0]] = twins[:, 1] // 3
    across[twins[:, 1]] = twins[:, 0] // 3
    return across.reshape(-1, 3)
