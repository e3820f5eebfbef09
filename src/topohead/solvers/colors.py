"""Make cameras agree on colour: a 3×4 transform and radial vignetting each, from shared texels.

Everything is in sRGB code values, as images are stored and as tracker and fusion compare them:
there the noise of a developed photograph is about even, and highlights do not outweigh skin. A
gain in linear light is a power of the code value, so the transform follows it closely over the
tones of skin (to about 0.3 % for a gain of 5 %).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from topohead.core import Photographs, Topology, Views
from topohead.rendering.uv import texel_map
from topohead.solvers.kernels.fusion import gather_colors, reject_outliers
from topohead.solvers.sightlines import (
    SKIN,
    Patch,
    Sight,
    SightConfig,
    Surface,
    make_sights,
    make_surface,
    texel_size,
)

UNKNOWNS = 14
"""Per camera: the 3×4 matrix row by row, then the factors of r² and r⁴."""


@dataclass(frozen=True)
class CameraColors:
    """corrected = A·[v·c; 1], v = 1 + a r² + b r⁴; r is 1 at the corners of the image.

    `matrix` is A; `vignetting` is (a, b). The mean camera's correction, where it sees the head,
    is the identity.
    """

    names: tuple[str, ...]
    matrix: Float[Tensor, "C 3 4"]
    vignetting: Float[Tensor, "C 2"]

    @classmethod
    def identity(cls, names: tuple[str, ...]) -> "CameraColors":
        """No correction."""
        return cls(names, torch.eye(3, 4).repeat(len(names), 1, 1), torch.zeros(len(names), 2))

    def select(self, names: tuple[str, ...]) -> "CameraColors":
        """The corrections of these cameras, in this order."""
        index = [self.names.index(name) for name in names]
        return CameraColors(names, self.matrix[index], self.vignetting[index])

    def correct(self, image: Float[Tensor, "H W 3"], camera: str) -> Float[Tensor, "H W 3"]:
        """One camera's image in the colours of the mean camera."""
        index = self.names.index(camera)
        height, width = image.shape[:2]
        x = torch.arange(width) + 0.5 - width / 2
        y = torch.arange(height) + 0.5 - height / 2
        radius = (x**2 + y[:, None] ** 2) / ((width**2 + height**2) / 4)
        a, b = self.vignetting[index].to(image)
        brightened = image * (1 + a * radius + b * radius**2)[..., None].to(image)
        matrix = self.matrix[index].to(image)
        return brightened @ matrix[:, :3].T + matrix[:, 3]

    def packed(self, camera: str, size: tuple[int, int]) -> Float32[np.ndarray, " 18"]:
        """The form that the texel loops read, for an image of (width, height)."""
        index = self.names.index(camera)
        width, height = size
        packed = np.zeros(18, np.float32)
        packed[:12] = self.matrix[index].flatten().numpy()
        packed[12:14] = self.vignetting[index].numpy()
        packed[14:17] = width / 2, height / 2, 4 / (width**2 + height**2)
        return packed


@dataclass(frozen=True)
class Shared:
    """What every camera says of the same skin: colours [C N 3], weights [C N], r² [C N]."""

    colors: Float[Tensor, "C N 3"]
    weights: Float[Tensor, "C N"]
    radius: Float[Tensor, "C N"]


def solve_colors(
    views: Views | Photographs,
    topology: Topology,
    vertices: Float[Tensor, "V 3"],
    size: int = 256,
    prior: float = 3e-3,
    iterations: int = 6,
    config: SightConfig | None = None,
) -> CameraColors:
    """Transforms that make all cameras agree on the skin they share (see `CameraColors`).

    Minimises Σ w ρ(corrected_c − x) over transforms and texel colours x at once: x drops out as the
    weighted mean, Gauss–Newton solves the rest, ρ is Tukey's. `prior` pulls towards the identity,
    as a share of the data's own weight. A camera that shares nothing keeps the identity.
    """
    shared = gather_shared(views, topology, vertices, size, config or SightConfig())
    parameters = torch.zeros(len(views.cameras), UNKNOWNS, dtype=torch.float64)
    parameters[:, [0, 5, 10]] = 1.0
    for _ in range(iterations):
        parameters = parameters + _step(parameters, shared, prior)
    matrix = parameters[:, :12].reshape(-1, 3, 4).float()
    return CameraColors(views.cameras.names, matrix, parameters[:, 12:].float())


def gather_shared(
    views: Views | Photographs,
    topology: Topology,
    vertices: Float[Tensor, "V 3"],
    size: int,
    config: SightConfig,
) -> Shared:
    """Colours of the skin texels (of a size² map) that two views or more see, at most 20,000."""
    texels = texel_map(topology, size)
    surface = make_surface(topology, vertices.cpu())
    skin = surface.parts == SKIN
    patch = surface.patch(texels, np.where(skin[texels.triangle], texels.triangle, -1), 0, 0)
    if views.images[0].is_cuda:
        from topohead.solvers.fusion_cuda import view_looks  # noqa: PLC0415 -- only where CUDA is

        looks = view_looks(views, topology, vertices, size, torch.from_numpy(skin), config)
        colors, weights, cameras, shapes = looks
    else:
        assert isinstance(views, Views), "lenses are undone for the CPU"
        sights = make_sights(views, surface, texel_size(topology, vertices, size), config)
        colors, weights = _looks(sights, patch, surface, config)
        cameras = np.stack([sight.camera for sight in sights])
        shapes = [sight.image.shape[1::-1] for sight in sights]
    radius = np.stack(
        [_radius(patch, camera, shape) for camera, shape in zip(cameras, shapes, strict=True)]
    )
    reject_outliers(colors, weights, np.float32(0.25), np.float32(4.0))
    chosen = np.flatnonzero((weights > 0).sum(0) >= 2)
    chosen = chosen[:: max(1, len(chosen) // 20_000)]
    count = len(cameras)
    return Shared(
        torch.from_numpy(colors.reshape(count, -1, 3)[:, chosen]).double(),
        torch.from_numpy(weights.reshape(count, -1)[:, chosen]).double(),
        torch.from_numpy(radius.reshape(count, -1)[:, chosen]).double(),
    )


def _looks(
    sights: Sequence[Sight], patch: Patch, surface: Surface, config: SightConfig
) -> tuple[Float32[np.ndarray, "C h w 3"], Float32[np.ndarray, "C h w"]]:
    """Uncorrected colours and weights of a patch in every view."""
    weights = np.stack([sight.weights(patch, surface, config) for sight in sights])
    colors = np.zeros((*weights.shape, 3), np.float32)
    same = np.zeros(18, np.float32)
    same[[0, 5, 10]] = 1
    for sight, weight, color in zip(sights, weights, colors, strict=True):
        gather_colors(sight.image, patch.points, sight.camera, same, np.float32(0), weight, color)
    return colors, weights


def _radius(
    patch: Patch, camera: Float32[np.ndarray, " K"], shape: tuple[int, int]
) -> Float32[np.ndarray, "h w"]:
    """r² of `CameraColors` where a patch's texels lie in an image of (width, height)."""
    local = patch.points @ camera[:9].reshape(3, 3).T + camera[9:12]
    pixel = local[..., :2] / np.maximum(local[..., 2:], 1e-6)
    pixel = pixel * camera[12:14] + camera[14:16] - np.array(shape, np.float32) / 2
    return (pixel**2).sum(-1) * np.float32(4 / (shape[0] ** 2 + shape[1] ** 2))


def _corrected(
    parameters: Float[Tensor, "C 14"], shared: Shared
) -> tuple[Float[Tensor, "C N 3"], Float[Tensor, "C N 3"]]:
    """Observations as corrected now, and brightened only."""
    a, b = parameters[:, 12, None], parameters[:, 13, None]
    bright = shared.colors * (1 + a * shared.radius + b * shared.radius**2)[..., None]
    matrix = parameters[:, :12].reshape(-1, 3, 4)
    return bright @ matrix[:, :, :3].transpose(1, 2) + matrix[:, None, :, 3], bright


def _step(parameters: Float[Tensor, "C 14"], shared: Shared, prior: float) -> Float[Tensor, "C 14"]:
    """One robust Gauss–Newton step, with the mean camera held at the identity."""
    corrected, bright = _corrected(parameters, shared)
    weights = _robust(corrected, shared.weights)
    total = weights.sum(0).clamp(min=1e-12)
    residual = corrected - (weights[..., None] * corrected).sum(0) / total[:, None]
    cameras = len(parameters)
    matrix = torch.zeros(cameras, UNKNOWNS, cameras, UNKNOWNS, dtype=torch.float64)
    gradient = torch.zeros(cameras, UNKNOWNS, dtype=torch.float64)
    linear = parameters[:, :12].reshape(-1, 3, 4)[:, :, :3]
    unvignetted = shared.colors @ linear.transpose(1, 2)
    for channel in range(3):
        columns = torch.tensor([*range(4 * channel, 4 * channel + 4), 12, 13])
        slopes = torch.stack(
            [
                *bright.unbind(-1),
                torch.ones_like(shared.radius),
                unvignetted[..., channel] * shared.radius,
                unvignetted[..., channel] * shared.radius**2,
            ],
            -1,
        )
        weighted = weights[..., None] * slopes
        cross = -torch.einsum("cnp,dnq->cpdq", weighted / total[:, None], weighted)
        own = torch.einsum("cnp,cnq->cpq", weighted, slopes)
        index = torch.arange(cameras)
        cross[index, :, index] += own
        rows = columns[None, :] + UNKNOWNS * index[:, None]
        flat = rows.flatten()
        matrix.view(cameras * UNKNOWNS, -1)[flat[:, None], flat] += cross.reshape(len(flat), -1)
        gradient[:, columns] += torch.einsum("cnp,cn->cp", weighted, residual[..., channel])
    pull = _prior(weights, shared) * prior
    start = torch.zeros(UNKNOWNS, dtype=torch.float64)
    start[[0, 5, 10]] = 1.0
    gradient += pull * (parameters - start)
    matrix = matrix.reshape(cameras * UNKNOWNS, -1) + torch.diag(pull.flatten())
    held, error = _mean_camera(parameters, weights, shared)
    return _solve_held(matrix, gradient.flatten(), held, error).reshape(cameras, UNKNOWNS)


def _robust(
    corrected: Float[Tensor, "C N 3"], weights: Float[Tensor, "C N"]
) -> Float[Tensor, "C N"]:
    """Weights × Tukey of the distance to the texel's mean colour; scale from the distances."""
    total = weights.sum(0).clamp(min=1e-12)
    mean = (weights[..., None] * corrected).sum(0) / total[:, None]
    distance = (corrected - mean).norm(dim=-1)
    used = weights > 0
    if not used.any():
        return weights
    scale = max(0.02, 6 * float(distance[used].median()))
    return weights * (1 - (distance / scale) ** 2).clamp(min=0) ** 2


def _prior(weights: Float[Tensor, "C N"], shared: Shared) -> Float[Tensor, "C 14"]:
    """Stiffness of each unknown towards the identity, in the unit of the data's normal matrix.

    Offsets are held ten times tighter: over the narrow tones of skin they mimic a gain.
    """
    level = (weights[..., None] * shared.colors.square()).sum((1, 2)) / 3
    stiffness = torch.tensor([1.0, 1.0, 1.0, 10.0] * 3 + [1.0, 1.0], dtype=torch.float64)
    return level[:, None] * stiffness + 1e-9


def _mean_camera(
    parameters: Float[Tensor, "C 14"], weights: Float[Tensor, "C N"], shared: Shared
) -> tuple[Float[Tensor, "12 P"], Float[Tensor, " 12"]]:
    """Linearised constraints that hold the mean correction at the identity, and their error now.

    Without them the fit would shrink all colours to nothing. Vignetting enters at the radius
    where each camera sees the head, because there it is a gain like any other.
    """
    cameras = len(parameters)
    seen = weights.sum(1).clamp(min=1e-12)
    square = (weights * shared.radius).sum(1) / seen
    fourth = (weights * shared.radius**2).sum(1) / seen
    gain = 1 + parameters[:, 12] * square + parameters[:, 13] * fourth
    matrix = parameters[:, :12].reshape(-1, 3, 4)
    held = torch.zeros(12, cameras, UNKNOWNS, dtype=torch.float64)
    error = -torch.eye(3, 4, dtype=torch.float64).flatten()
    for k in range(12):
        row, column = divmod(k, 4)
        factor = gain if column < 3 else torch.ones_like(gain)
        held[k, :, k] = factor / cameras
        if column < 3:
            held[k, :, 12] = matrix[:, row, column] * square / cameras
            held[k, :, 13] = matrix[:, row, column] * fourth / cameras
        error[k] += (matrix[:, row, column] * factor).mean()
    return held.reshape(12, -1), error


def _solve_held(
    matrix: Float[Tensor, "P P"],
    gradient: Float[Tensor, " P"],
    held: Float[Tensor, "Q P"],
    error: Float[Tensor, " Q"],
) -> Float[Tensor, " P"]:
    """The step that minimises the quadratic under held·step = −error (Lagrange)."""
    count, constraints = len(gradient), len(error)
    scale = matrix.diagonal().mean()
    system = torch.zeros(count + constraints, count + constraints, dtype=torch.float64)
    system[:count, :count] = matrix
    system[count:, :count] = held * scale
    system[:count, count:] = held.T * scale
    right = torch.cat([-gradient, -error * scale])
    return torch.linalg.solve(system, right)[:count]
