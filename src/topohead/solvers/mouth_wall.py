"""The mouth's wall stays behind the skin of lips and cheeks.

No picture shows the wall, so where the skin is moved inwards it can come out in front. Each of its
vertices that has skin outside of it is pushed back to the inner side of that. Skin never moves, and
where the wall is behind nothing moves.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.meshes import vertex_normals

THICKNESS = 1e-3
"""The wall keeps this distance behind the skin, metres, or what it had if less."""
REACH = (9e-3, 3e-3, 3e-3)
"""Skin that is further outside of the wall, inside of it or beside it, metres, is not what the wall
lines."""
OPPOSITE = -0.3
"""Wall whose normal has more than this cosine to the skin's lines nothing: the rim of the lips."""
NEAREST = 64
"""Skin vertices around the one outside of the wall at the beginning, among which another may
come to be right outside later."""
ROUNDS = 4
"""Times that the wall is pushed; what is outside of it changes while it moves."""


@dataclass(frozen=True)
class MouthWall:
    """The mouth's wall where it lines skin: K vertices `inner`, the vertices of skin that may be
    outside of each, `near`, and how far behind the skin each must stay, metres. `triangles` are the
    wall's and `skin` the face's, for their normals."""

    inner: Int[Tensor, " K"]
    near: Int[Tensor, "K N"]
    needed: Float[Tensor, " K"]
    triangles: Int[Tensor, "T 3"]
    skin: Int[Tensor, "S 3"]

    def behind(
        self, vertices: Float[Tensor, "V 3"]
    ) -> tuple[Int[Tensor, " K"], Float[Tensor, " K"], Float[Tensor, "K 3"]]:
        """The skin's vertex right outside of each of the wall, -1 where there is none, how far
        behind it the wall is (negative: in front), and the skin's normals there."""
        own = self._wall_normals.of(vertices)
        normals = self._skin_normals.of(vertices)
        arms = vertices[self.inner][:, None] - vertices[self.near]
        behind = -(arms * normals).sum(-1)
        # right outside: least beside the line along the skin's normal
        beside = (arms + behind[..., None] * normals).norm(dim=-1)
        fits = (own[:, None] * normals).sum(-1) < OPPOSITE
        fits &= (behind < REACH[0]) & (behind > -REACH[1]) & (beside < REACH[2])
        best = torch.where(fits, beside, torch.inf).min(1)
        rows = torch.arange(len(self.near))
        there = torch.where(torch.isfinite(best.values), self.near[rows, best.indices], -1)
        return there, behind[rows, best.indices], normals[rows, best.indices]

    @cached_property
    def _wall_normals(self) -> "_NormalsAt":
        return _NormalsAt.on(self.triangles, self.inner)

    @cached_property
    def _skin_normals(self) -> "_NormalsAt":
        return _NormalsAt.on(self.skin, self.near)


@dataclass(frozen=True)
class _NormalsAt:
    """Normals of a few vertices, without those of all others: numbers of the vertices that matter,
    and triangles and the few as rows of these."""

    around: Int[Tensor, " N"]
    triangles: Int[Tensor, "T 3"]
    chosen: Int[Tensor, "*K"]

    @staticmethod
    def on(triangles: Int[Tensor, "T 3"], chosen: Int[Tensor, "*K"]) -> "_NormalsAt":
        near = triangles[torch.isin(triangles, chosen).any(1)]
        around, row = torch.unique(
            torch.cat([near.flatten(), chosen.flatten()]), return_inverse=True
        )
        return _NormalsAt(
            around, row[: near.numel()].reshape(-1, 3), row[near.numel() :].reshape(chosen.shape)
        )

    def of(self, vertices: Float[Tensor, "V 3"]) -> Float[Tensor, "*K 3"]:
        """`vertex_normals` of the chosen, to the bit."""
        return vertex_normals(vertices[self.around], self.triangles)[self.chosen]


def mouth_wall(topology: Topology, vertices: Float[Tensor, "V 3"]) -> MouthWall | None:
    """The wall of a mouth as it should be; None where a topology does not name its parts."""
    if not all(len(topology.regions.get(name, ())) for name in ("mouth_socket", "skin", "face")):
        return None
    socket = topology.region_mask("mouth_socket")
    around_mouth = topology.region_mask(*{"face", "lips"} & set(topology.regions))
    skin = topology.region_mask("skin") & around_mouth & ~socket
    triangles = topology.triangles[socket[topology.triangles].any(1)]
    outer = topology.triangles[skin[topology.triangles].all(1)]
    outside, wall, places = torch.unique(outer), torch.nonzero(socket)[:, 0], vertices.double()
    tree = KDTree(places[outside].numpy())

    def around(spots: Tensor) -> Int[Tensor, "K N"]:
        _, found = tree.query(places[spots].numpy(), min(NEAREST, len(outside)))
        return outside[torch.from_numpy(found)]

    near = around(wall)
    lined = MouthWall(wall, near, places.new_zeros(len(wall)), triangles, outer)
    there, depth, _ = lined.behind(places)
    kept = (there >= 0) & (depth > 0)
    needed = depth[kept].clamp(max=THICKNESS)
    return MouthWall(wall[kept], around(there[kept]), needed, triangles, outer)


def wall_behind(wall: MouthWall, vertices: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
    """The vertices with the wall pushed back along the skin's normals to where it must be."""
    for _ in range(ROUNDS):
        there, depth, normals = wall.behind(vertices.double())
        push = torch.where(there >= 0, wall.needed - depth, 0).clamp(min=0)
        if not bool((push > 1e-6).any()):
            break
        vertices = vertices.index_add(0, wall.inner, (-push[:, None] * normals).to(vertices))
    return vertices
