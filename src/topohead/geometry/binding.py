"""Gaussians bound to triangles: where a posed mesh takes them, and how to bind them.

A triangle's frame is the affine map F = [v₁ − v₀, v₂ − v₀, h n], n its unit normal and h = √|(v₁ −
v₀) × (v₂ − v₀)|, so that volume goes with area^(3/2). As M = F L for a fixed L, the covariance M Mᵀ
moves rigidly with the mesh, scales with it, and stretches where a triangle stretches. CAP4D
(Taubner et al. 2025) and GaussianAvatars (Qian et al. 2024) carry only turn and mean size:
`similarity_frames`, for their files.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import BoundSplats, GaussianBinding, InputError, Splats

Frames = Callable[[Float[Tensor, "*B 3 3"]], Float[Tensor, "*B 3 3"]]
"""From the corners of triangles, rows, to their frames, columns."""

FLAT = 1e-3
"""A Gaussian is never thinner than this share of its widest axis, and a triangle whose corners span
less of their edges' square has no area: below it float32 has no covariance left."""

SMALLEST = 1e-9
"""Standard deviation of a Gaussian whose triangle has collapsed; files hold logarithms."""


def triangle_frames(corners: Float[Tensor, "*B 3 3"]) -> Float[Tensor, "*B 3 3"]:
    """F = [v₁ − v₀, v₂ − v₀, h n] of triangles, in the unit of the corners; singular without area.

    Differentiable but where the area is zero.
    """
    along, across = corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :]
    normal = torch.linalg.cross(along, across)
    size = normal.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(normal.dtype).tiny)
    return torch.stack([along, across, normal * size.rsqrt()], -1)


def similarity_frames(corners: Float[Tensor, "*B 3 3"]) -> Float[Tensor, "*B 3 3"]:
    """s [e, n, b] as CAP4D's viewer turns triangles: a rotation times one size.

    e along v₁ − v₀, n normal, b = e × n; s = (|v₁ − v₀| + |b · (v₂ − v₀)|) / 2.
    """
    along, across = corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :]
    normal = torch.nn.functional.normalize(torch.linalg.cross(along, across), dim=-1)
    e = torch.nn.functional.normalize(along, dim=-1)
    b = torch.linalg.cross(e, normal)
    size = (along.norm(dim=-1) + (b * across).sum(-1).abs()) / 2
    return torch.stack([e, normal, b], -1) * size[..., None, None]


def posed_factors(
    binding: GaussianBinding,
    triangles: Int[Tensor, "T 3"],
    vertices: Float[Tensor, "*B V 3"],
    frames: Frames = triangle_frames,
) -> tuple[Float[Tensor, "*B N 3"], Float[Tensor, "*B N 3 3"]]:
    """Means of the bound Gaussians on posed vertices, and M of their covariances M Mᵀ.

    Differentiable in vertices and binding. Runs where its tensors are.
    """
    # whose gradient adds up in one pass; that of vertices[rows] sorts the rows first
    rows = triangles[binding.triangles].flatten()
    corners = vertices.index_select(-2, rows).unflatten(-2, (-1, 3))
    carried = frames(corners)
    means = (binding.barycentrics[..., None] * corners).sum(-2)
    means = means + (carried @ binding.offsets[..., None])[..., 0]
    return means, carried @ (turns(binding.quats) * binding.scales[:, None])


def posed_gaussians(
    binding: GaussianBinding,
    triangles: Int[Tensor, "T 3"],
    vertices: Float[Tensor, "*B V 3"],
    frames: Frames = triangle_frames,
) -> tuple[Float[Tensor, "*B N 3"], Float[Tensor, "*B N 3 3"]]:
    """`posed_factors` with covariances in the factors' place, in the vertices' unit squared."""
    means, factors = posed_factors(binding, triangles, vertices, frames)
    return means, factors @ factors.mT


def posed_splats(
    splats: BoundSplats,
    triangles: Int[Tensor, "T 3"],
    vertices: Float[Tensor, "V 3"],
    frames: Frames = triangle_frames,
) -> Splats:
    """The Gaussians on one posed mesh as turned and scaled ones, for files and renderers.

    Scales descend, so that a disc's third axis is its normal. Not differentiable.
    """
    binding = splats.binding
    places = vertices.detach().double()
    exact = GaussianBinding(
        binding.triangles, binding.barycentrics.double(), binding.offsets.double(),
        binding.quats.double(), binding.scales.double(),
    )  # fmt: skip
    means, covariances = posed_gaussians(exact, triangles, places, frames)
    quats, scales = decomposed(covariances)
    kind = vertices.dtype
    return Splats(
        means.to(kind), quats.to(kind), scales.to(kind), splats.opacities, splats.harmonics
    )


def decomposed(
    covariances: Float[Tensor, "N 3 3"],
) -> tuple[Float[Tensor, "N 4"], Float[Tensor, "N 3"]]:
    """Quaternions wxyz and standard deviations (descending) with R diag(s²) Rᵀ = covariance."""
    # brings torch's compiler: four seconds that opening a page need not wait for
    import roma  # noqa: PLC0415

    squares, axes = torch.linalg.eigh(covariances)
    scales = squares.clamp(min=0).sqrt().flip(-1)
    scales = torch.maximum(scales, FLAT * scales[:, :1]).clamp(min=SMALLEST)
    axes = axes.flip(-1)
    axes = axes * torch.linalg.det(axes).sign()[:, None, None]  # eigenvectors have no hand
    return roma.rotmat_to_unitquat(axes)[:, [3, 0, 1, 2]], scales


def bind(
    splats: Splats,
    owners: Int[Tensor, " N"],
    barycentrics: Float[Tensor, "N 3"],
    triangles: Int[Tensor, "T 3"],
    vertices: Float[Tensor, "V 3"],
    frames: Frames = triangle_frames,
) -> BoundSplats:
    """The inverse of `posed_splats`: each Gaussian in the frame of its triangle.

    `owners` are rows of `triangles`, `barycentrics` the point of it that carries the Gaussian (such
    as the nearest: `geometry.correspondence.TriangleTree`).
    """
    corners = vertices[triangles[owners]].double()
    carried = frames(corners)
    narrow = carried.norm(dim=-2).prod(-1) * FLAT >= torch.linalg.det(carried).abs()
    if bool(narrow.any()):
        first = int(owners[narrow][0])
        raise InputError(
            f"triangle {first} has no area to bind a Gaussian to; bind it to another triangle"
        )
    inward = torch.linalg.inv(carried)
    points = (barycentrics.double()[..., None] * corners).sum(-2)
    offsets = (inward @ (splats.means.double() - points)[..., None])[..., 0]
    factors = inward @ (turns(splats.quats.double()) * splats.scales.double()[:, None])
    quats, scales = decomposed(factors @ factors.mT)
    kind = splats.means.dtype
    binding = GaussianBinding(
        owners, barycentrics.to(kind), offsets.to(kind), quats.to(kind), scales.to(kind)
    )
    return BoundSplats(binding, splats.opacities, splats.harmonics)


def check_bound(splats: BoundSplats, triangle_count: int, told: str) -> None:
    """Refuses what a broken file may hold: Gaussians off the faces, without size, or NaN."""
    binding = splats.binding
    off = (binding.triangles < 0) | (binding.triangles >= triangle_count)
    if bool(off.any()):
        at = int(off.nonzero()[0, 0])
        raise InputError(
            f"{told}: Gaussian {at} is bound to triangle {int(binding.triangles[at])} of a mesh "
            f"that has {triangle_count}; write it again"
        )
    parts = {
        "barycentrics": binding.barycentrics, "offsets": binding.offsets, "quats": binding.quats,
        "scales": binding.scales, "opacities": splats.opacities, "harmonics": splats.harmonics,
    }  # fmt: skip
    for name, values in parts.items():
        if not bool(torch.isfinite(values).all()):
            raise InputError(f"{told}: its Gaussians have {name} that are no numbers (NaN)")
    if bool((binding.scales <= 0).any()):
        raise InputError(f"{told}: its Gaussians have scales that are not above zero")
    if bool(((splats.opacities < 0) | (splats.opacities > 1)).any()):
        raise InputError(f"{told}: its Gaussians have opacities outside [0, 1]")


def turns(quats: Float[Tensor, "N 4"]) -> Float[Tensor, "N 3 3"]:
    """Rotations of quaternions wxyz of any length above zero."""
    unit = torch.nn.functional.normalize(quats, dim=-1)
    import roma  # noqa: PLC0415

    return roma.unitquat_to_rotmat(unit[:, [1, 2, 3, 0]])
