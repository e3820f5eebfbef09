"""Where the views of a level see a surface well enough to be believed, on either device."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Topology
from topohead.rendering.mesh import projected_depths
from topohead.solvers.features import FeatureLevel
from topohead.solvers.kernels import photometric


def visible_depth(
    topology: Topology, vertices: Float[Tensor, "V 3"], level: FeatureLevel, index: int
) -> Float[Tensor, "C H W"]:
    """Depth of the surface in every view of a level, −1 where it is not to be trusted."""
    maps = projected_depths(
        vertices, topology.triangles, level.projections, level.extents, level.size
    ).numpy()
    focal = level.cameras[:, 12].numpy()
    out = np.full(maps.shape, np.float32(-1))
    for i, (width, height) in enumerate(level.extents.tolist()):
        depth = np.ascontiguousarray(maps[i, :height, :width])
        covered = np.isfinite(depth)
        if covered.any():
            # one pixel of a slanted surface: the neighbours may differ by a few pixels' widths
            step = np.float32(3 * float(depth[covered].mean()) / focal[i] + 0.001)
            reach = 2 if index == 0 else 1
            out[i, :height, :width] = photometric.usable_depth(depth, reach, step)
    return torch.from_numpy(out)


def device_visible_depth(
    triangles: Int[Tensor, "T 3"], vertices: Float[Tensor, "V 3"], level: FeatureLevel, index: int
) -> Float[Tensor, "C H W"]:
    """`visible_depth` where the vertices are, without waiting for the device."""
    from topohead.rendering.depth_triton import mean_depth, usable_depth  # noqa: PLC0415

    depth = projected_depths(vertices, triangles, level.projections, level.extents, level.size)
    tolerance = 3 * mean_depth(depth) / level.cameras[:, 12] + 0.001
    return usable_depth(depth, 2 if index == 0 else 1, tolerance)
