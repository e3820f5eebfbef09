"""The gradients of `kernels.gaussian_mesh`, and Adam, as tensor operations on any device.

Rings are padded to the longest one, so that every vertex gathers from its neighbours and nothing
is scattered: the sums keep their order, and no step waits for the device.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.linalg import cross

from topohead.solvers.gaussian_mesh import Links

ROOT_FLOOR = 1e-20


@dataclass(frozen=True)
class DeviceLinks:
    """`Links` on a device, rings padded to R neighbours and corners to K."""

    ring: Int[Tensor, "V R"]
    """Neighbours; the vertex itself where the ring has ended."""
    is_there: Bool[Tensor, "V R 1"]
    rest_lengths: Float[Tensor, "V R 1"]
    roots: Float[Tensor, "V R 1"]
    """√w of Eq. 9; zero where the ring has ended."""
    degree: Float[Tensor, "V 1"]
    triangles: Int[Tensor, "T 3"]
    across: Int[Tensor, "T 3"]
    """The triangle beyond each side; the triangle itself at open edges."""
    is_inner: Float[Tensor, "T 3"]
    rest_cosines: Float[Tensor, "T 3"]
    corners: Int[Tensor, "V K"]
    """Places (3 t + corner) of each vertex; 3 T where there are no more."""
    position_weights: Float[Tensor, "V 1"]

    @classmethod
    def of(cls, links: Links, device: torch.device) -> "DeviceLinks":
        """The same neighbourhoods there."""
        count = len(links.starts) - 1
        ring_slot, is_there = _padded(links.starts)
        corner_slot, is_corner = _padded(links.corner_starts)
        own = np.arange(count)[:, None]
        triangle = np.arange(len(links.triangles))[:, None]
        is_inner = links.across >= 0
        arrays = (
            np.where(is_there, links.neighbours[ring_slot], own).astype(np.int64),
            is_there[..., None],
            np.where(is_there, links.rest_lengths[ring_slot], 0)[..., None],
            np.where(is_there, links.roots[ring_slot], 0)[..., None],
            np.maximum(is_there.sum(1, keepdims=True), 1).astype(np.float32),
            links.triangles.astype(np.int64),
            np.where(is_inner, links.across, triangle).astype(np.int64),
            is_inner.astype(np.float32),
            links.rest_cosines,
            np.where(is_corner, links.corner_places[corner_slot], links.triangles.size).astype(
                np.int64
            ),
            links.position_weights[:, None],
        )
        return cls(*(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays))


@dataclass(frozen=True)
class DeviceRegularizer:
    """`gaussian_mesh.Regularizer` with tensors: physics against one last frame, topology against
    the first."""

    links: DeviceLinks
    last_offsets: Float[Tensor, "V R 3"]
    last_turns: Float[Tensor, "V 4"]
    strengths: tuple[float, float, float]
    flat: float
    floor: float

    @classmethod
    def since(
        cls,
        means: Float[Tensor, "V 3"],
        quats: Float[Tensor, "V 4"],
        links: DeviceLinks,
        strengths: tuple[float, float, float],
        flat: float,
        floor: float,
    ) -> "DeviceRegularizer":
        """`strengths` weigh rotation coherence, rigidity and isometry."""
        pairs = max(int(links.is_there.sum()), 1)
        rotation, rigid, equal = (strength / pairs for strength in strengths)
        turns = torch.nn.functional.normalize(quats, dim=1)
        offsets = means[links.ring] - means[:, None]
        return cls(links, offsets, turns, (rotation, rigid, equal), flat, floor)

    def gradient(
        self, means: Float[Tensor, "V 3"], quats: Float[Tensor, "V 4"]
    ) -> tuple[Float[Tensor, "V 3"], Float[Tensor, "V 4"]]:
        """∂/∂means and ∂/∂quats of Eqs. 8, 10, 12, 13 and rigidity."""
        d_means, d_quats = self._physics(means, quats)
        return d_means + self._position(means) + self._hinges(means), d_quats

    def _physics(self, means: Tensor, quats: Tensor) -> tuple[Tensor, Tensor]:
        links = self.links
        rotation, rigid, equal = self.strengths
        square_roots = links.roots.square()
        norm = quats.norm(dim=1, keepdim=True)
        unit = quats / norm
        turns = _product(unit, _back(self.last_turns))
        own, theirs = turns[:, None], turns[links.ring]

        # both directions of a pair cost the same, hence the factors of two
        apart = own - theirs
        length = (square_roots * apart.square().sum(-1, keepdim=True) + ROOT_FLOOR).sqrt()
        d_turn = (2 * rotation * square_roots / length * apart).sum(1)

        offsets = means[links.ring] - means[:, None]
        length = (offsets.square().sum(-1, keepdim=True) + ROOT_FLOOR).sqrt()
        strain = length - links.rest_lengths
        cost = (square_roots * strain.square() + ROOT_FLOOR).sqrt()
        d_means = -(2 * equal * square_roots * strain / (cost * length) * offsets).sum(1)

        # rigidity as seen from here, e = last - Δq_i⁻¹ o, and as seen from the neighbour
        error = self.last_offsets - _rotate(_back(own), offsets)
        pull = self._rigid_pull(square_roots, error, rigid)
        d_means = d_means + _rotate(turns, pull.sum(1))
        d_turn = d_turn + _by_turn(own, offsets, pull)
        error = _rotate(_back(theirs), offsets) - self.last_offsets
        pull = self._rigid_pull(square_roots, error, rigid)
        d_means = d_means - _rotate(theirs, pull).sum(1)

        d_unit = _product(d_turn, self.last_turns)
        along = (d_unit * unit).sum(1, keepdim=True)
        return d_means, (d_unit - along * unit) / norm

    @staticmethod
    def _rigid_pull(square_roots: Tensor, error: Tensor, rigid: float) -> Tensor:
        cost = (square_roots * error.square().sum(-1, keepdim=True) + ROOT_FLOOR).sqrt()
        return rigid * square_roots / cost * error

    def _position(self, means: Tensor) -> Tensor:
        links = self.links
        around = (means[links.ring] * links.is_there).sum(1) / links.degree
        pull = links.position_weights * (means - around)
        passed_on = ((pull / links.degree)[links.ring] * links.is_there).sum(1)
        return 2 / len(means) * (pull - passed_on)

    def _hinges(self, means: Tensor) -> Tensor:
        links = self.links
        a, b, c = means[links.triangles].unbind(1)
        side, other = b - a, c - a
        area = cross(side, other)
        inverse = (area.square().sum(1, keepdim=True) + ROOT_FLOOR).rsqrt()
        normal = area * inverse
        beyond = normal[links.across]
        cosine, rest = (normal[:, None] * beyond).sum(-1), links.rest_cosines
        sine_square = 1 - cosine.square() + self.floor
        rest_sine = (1 - rest.square() + self.floor).clamp(min=self.floor).sqrt()
        bend = rest_sine * cosine * sine_square.clamp(min=self.floor).rsqrt()
        slope = torch.where(sine_square > self.floor, bend - rest, -rest)
        slope = self.flat * links.is_inner * slope
        d_normal = (slope[..., None] * beyond).sum(1)
        d_area = (d_normal - (d_normal * normal).sum(1, keepdim=True) * normal) * inverse
        at_b, at_c = cross(other, d_area), cross(d_area, side)
        by_corner = torch.stack([-at_b - at_c, at_b, at_c], 1).reshape(-1, 3)
        # one more row, of zeros, for vertices with fewer corners than others
        return torch.cat([by_corner, by_corner.new_zeros(1, 3)])[links.corners].sum(1)


class DeviceAdam:
    """Adam's moments of one array; numbers as in `kernels.gaussian_mesh.adam_step`."""

    def __init__(self, values: Tensor) -> None:
        self.first, self.second = torch.zeros_like(values), torch.zeros_like(values)

    def move(self, values: Tensor, gradient: Tensor, rate: float, step: int) -> None:
        """One step, in place; `step` counts from one."""
        self.first.lerp_(gradient, 0.1)
        self.second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        below = self.second.sqrt().mul_(1 / math.sqrt(1 - 0.999**step)).add_(1e-15)
        values.addcdiv_(self.first, below, value=-rate / (1 - 0.9**step))


def _padded(starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places [V R] in the list that `starts` cuts, and which of them belong to the row."""
    counts = np.diff(starts)
    column = np.arange(max(int(counts.max(initial=0)), 1))
    is_there = column < counts[:, None]
    return np.where(is_there, starts[:-1, None] + column, 0), is_there


def _back(quats: Tensor) -> Tensor:
    return torch.cat([quats[..., :1], -quats[..., 1:]], -1)


def _product(p: Tensor, q: Tensor) -> Tensor:
    """Hamilton's product of quaternions wxyz."""
    scalar = p[..., :1] * q[..., :1] - (p[..., 1:] * q[..., 1:]).sum(-1, keepdim=True)
    vector = p[..., :1] * q[..., 1:] + q[..., :1] * p[..., 1:] + cross(p[..., 1:], q[..., 1:])
    return torch.cat([scalar, vector], -1)


def _rotate(quats: Tensor, vectors: Tensor) -> Tensor:
    """Vectors turned by unit quaternions."""
    axis = quats[..., 1:].expand_as(vectors)
    twice = 2 * cross(axis, vectors)
    return vectors + quats[..., :1] * twice + cross(axis, twice)


def _by_turn(turn: Tensor, offsets: Tensor, pull: Tensor) -> Tensor:
    """∂/∂Δq [V 4] of -Σ u·(Δq⁻¹ o), with Δq⁻¹ o = o - 2 w (v × o) + 2 v × (v × o)."""
    w, v = turn[..., :1], turn[..., 1:].expand_as(offsets)
    along_v = (v * pull).sum(-1, keepdim=True)
    along_o = (offsets * pull).sum(-1, keepdim=True)
    shared = (v * offsets).sum(-1, keepdim=True)
    scalar = (pull * cross(v, offsets)).sum(-1, keepdim=True)
    vector = w * cross(offsets, pull) - along_v * offsets - shared * pull + 2 * along_o * v
    return 2 * torch.cat([scalar, vector], -1).sum(1)
