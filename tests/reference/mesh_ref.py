"""Rasterisation the slow way: a ray through every pixel centre, every triangle, float64."""

import numpy as np


def rasterize_ref(vertices, triangles, world_to_camera, intrinsics, size, cull=True, near=1e-3):
    """(triangle [H W], barycentrics [H W 3], depth [H W], margin [H W]), float64.

    Möller–Trumbore in camera space. `margin` is the distance of the decision from a tie: the
    smallest barycentric of the hit (or of the closest miss) and the relative gap to the next depth.
    """
    width, height = size
    points = vertices @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3) @ np.linalg.inv(intrinsics).T
    best_depth = np.full(len(rays), np.inf)
    best_triangle = np.full(len(rays), -1)
    best_weights = np.zeros((len(rays), 3))
    margin = np.full(len(rays), np.inf)
    for index, (a, b, c) in enumerate(points[triangles]):
        normal_facing = np.dot(np.cross(b - a, c - a), a)
        if cull and normal_facing >= 0:
            continue
        across = np.cross(rays, c - a)
        determinant = across @ (b - a)
        with np.errstate(divide="ignore", invalid="ignore"):
            weight_b = across @ (-a) / determinant
            twist = np.cross(-a, b - a)
            weight_c = rays @ twist / determinant
            depth = (c - a) @ twist / determinant
        weights = np.stack([1 - weight_b - weight_c, weight_b, weight_c], -1)
        smallest = weights.min(-1)
        in_front = depth > near
        margin = np.where(in_front, np.minimum(margin, np.abs(smallest)), margin)
        hit = (smallest >= 0) & in_front
        closer = hit & (depth < best_depth)
        both = hit & np.isfinite(best_depth)
        with np.errstate(divide="ignore", invalid="ignore"):
            gap = np.abs(depth - best_depth) / depth
        margin = np.where(both, np.minimum(margin, gap), margin)
        best_depth = np.where(closer, depth, best_depth)
        best_triangle = np.where(closer, index, best_triangle)
        best_weights = np.where(closer[:, None], weights, best_weights)
    shape = (height, width)
    return (
        best_triangle.reshape(shape),
        best_weights.reshape(*shape, 3),
        best_depth.reshape(shape),
        margin.reshape(shape),
    )
