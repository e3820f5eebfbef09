"""`unseen.surrounding_colors` on a CUDA device, in one graph that waits for nothing."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.rendering.uv_cuda import DeviceTexels
from topohead.solvers.kernels.sparse_triton import ConjugateGradient, Feeds
from topohead.solvers.recording import Recording
from topohead.solvers.sightlines import EYES, MOUTH, SKIN, triangle_parts
from topohead.solvers.sightlines_cuda import area_resized
from topohead.solvers.unseen import (
    CELLS,
    HOLD,
    LEAST,
    PART_COLORS,
    corner_cells,
    part_laplacian,
    vertex_parts,
)

_SOLVED = 1e-14
"""Share of the squared preconditioned residual at which colours are solved: to about 1e-5."""
_STEPS = 64, 4
"""Steps at most: so many, and so many times the square root of the vertices, because colours walk
an edge a step."""


@dataclass(frozen=True)
class DeviceCopy:
    """`unseen.Copy` on a device, but for what depends on the topology alone."""

    color: Float[Tensor, "S S 3"]
    seen: Float[Tensor, "S S"]


class Surroundings:
    """What filling a topology's textures needs of the topology, at the smaller copy's size.

    `parts` tells every triangle's part, `part` that of the copy's texels (255: none), `inside`
    which of these lie on an island and `everywhere` their places in the flattened copy.
    """

    def __init__(self, texels: DeviceTexels) -> None:
        topology, device = texels.topology, texels.triangle.device
        self.texels = texels
        self.parts = torch.from_numpy(triangle_parts(topology)).to(device)
        self.inside = texels.triangle >= 0
        part = self.parts[texels.triangle.clamp(min=0).long()]
        self.part = part.masked_fill(~self.inside, 255)
        self.everywhere = self.inside.flatten().nonzero()[:, 0]
        self._cells = min(CELLS, texels.size)
        whole = area_resized(self.inside[..., None].float(), (self._cells, self._cells))
        row, column = corner_cells(topology, self._cells)
        self._places = torch.from_numpy(row * self._cells + column).to(device)
        self._whole = whole.reshape(-1, 1)[self._places]
        count = topology.vertex_count
        corners = topology.triangles.numpy().reshape(-1, 1)
        self._around = Feeds(corners, np.ones(corners.shape), count, device)
        members = vertex_parts(topology)
        self._members = torch.from_numpy(np.stack([members == p for p in (SKIN, EYES, MOUTH)]))
        self._members = self._members.to(device)
        lips = np.zeros(count, bool)
        if "lips" in topology.regions:
            lips = topology.region_mask("lips").numpy() & (members == SKIN)
        self._lips = torch.from_numpy(lips).to(device)
        colors = torch.tensor([PART_COLORS[p] for p in (SKIN, EYES, MOUTH)])
        self._plain = colors.to(device)
        laplacian = part_laplacian(topology, members)
        alone = np.arange(count + 1), np.arange(count)
        self._solver = ConjugateGradient(
            alone,
            (laplacian.indptr, laplacian.indices, laplacian.data),
            _STEPS[0] + int(_STEPS[1] * count**0.5),
            _SOLVED,
            device,
        )
        self._recording: Recording | None = None

    def colors(self, copy: DeviceCopy) -> Float[Tensor, "V 3"]:
        """`unseen.surrounding_colors`."""
        given = copy.color, copy.seen
        if not copy.color.is_cuda:
            return self._solved(*given)[0]
        if self._recording is None:
            self._recording = Recording(self._solved, given, torch.cuda.graph_pool_handle())
        return self._recording(*given)[0]

    def _solved(
        self, color: Float[Tensor, "S S 3"], seen: Float[Tensor, "S S"]
    ) -> tuple[Float[Tensor, "V 3"]]:
        known, share = self._known(color, seen)
        hold = torch.where(share > LEAST, HOLD * share, 0.0)
        held = (self._members & (hold > 0)).float()
        mean = (held @ known) / held.sum(1, keepdim=True).clamp(min=1)
        there = held.any(1, keepdim=True)
        there[MOUTH] = False
        default = (self._members.float().T @ torch.where(there, mean, self._plain)).contiguous()
        # lips meet in the dark: without this the line of a closed mouth would vanish
        hidden = self._lips & (hold == 0)
        hold = torch.where(hidden, 1.0, hold)
        known = torch.where(hidden[:, None], self._plain[MOUTH], known)
        none = torch.zeros_like(hold)
        blocks = torch.stack([hold, none, none, hold, none, hold], 1)
        # what the default lacks: the Laplacian of a part's colour is nothing
        lacking = hold[:, None] * (known - default)
        return (default + self._solver.solve(lacking, blocks),)

    def _known(
        self, color: Float[Tensor, "S S 3"], seen: Float[Tensor, "S S"]
    ) -> tuple[Float[Tensor, "V 3"], Float[Tensor, " V"]]:
        """Colour of the known texels around each vertex, and how far they are known."""
        packed = torch.cat([color * seen[..., None], seen[..., None]], -1)
        packed = area_resized(packed, (self._cells, self._cells)).reshape(-1, 4)
        values = torch.cat([packed[self._places], self._whole], 1)
        sums = self._around.gather(values)
        share = sums[:, 3] / sums[:, 4].clamp(min=1e-6)
        return sums[:, :3] / sums[:, 3:4].clamp(min=1e-9), share
