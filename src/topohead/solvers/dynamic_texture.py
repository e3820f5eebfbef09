"""Wrinkle maps of a take: what its frames' textures have in common beyond one base.

Each frame's log2 ratio to the base, L [T N], is factored as W M with few rows: weights W [T K] and
maps M [K N]. The factors of the frames' Gram matrix L Lᵀ give the best W without L in memory (the
snapshot method of Sirovich 1987), maps follow texel by texel by least squares, and are turned until
each is large in one place and small elsewhere (varimax, Kaiser 1958). The weights are then
regressed on expression coefficients, so that an engine can drive the maps.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from topohead.rendering.uv import TexelMap
from topohead.rendering.wrinkle_maps import LINEAR_OF_CODE, strips

MOST_MAPS = 12

FLOOR = 0.004
"""Linear light added before ratios are taken: in the dark a code more or less says nothing."""

FADE = 16
"""Texels over which a frame's colours give way to the base where it sees nothing any more."""

SMALLEST_SHARE = 0.01
"""Share of the ratios' energy under which a map is not worth its file."""

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, np.inf)
"""Penalties that are tried; a coefficient that swings by 1 over T frames has an energy of T/4."""

WORTHWHILE = 0.9
"""Drivers must bring a map's error below this share of what its mean weight leaves."""

FOLDS = 5
"""Parts of a take that are predicted from the others to choose penalties."""


@dataclass(frozen=True)
class Wrinkles:
    """Weights of K maps in every frame, and the maps as mixtures of frames: `mixture` @ L."""

    weights: Float[np.ndarray, "T K"]
    mixture: Float[np.ndarray, "K T"]


@dataclass(frozen=True)
class Drivers:
    """Weights as a linear function of drivers: w = drivers @ matrix + intercept.

    `ridge` is each map's penalty; where no driver predicts a map it is infinite, its column zero.
    `predicted` are the weights that each part of the take gets from a fit to all other parts.
    """

    matrix: Float[np.ndarray, "D K"]
    intercept: Float[np.ndarray, " K"]
    ridge: Float[np.ndarray, " K"]
    predicted: Float[np.ndarray, "T K"]


def completed_codes(
    codes: UInt8[np.ndarray, "S S 3"],
    seen: Bool[np.ndarray, "S S"],
    texels: TexelMap,
    base: UInt8[np.ndarray, "S S 3"],
    workers: Executor,
) -> UInt8[np.ndarray, "S S 3"]:
    """A frame's texture with the base's colours where the frame saw nothing, srgb codes.

    What a single frame makes up is worse than what others saw, and would change from frame to
    frame. All that it saw is kept; beyond that its colours, which go on smoothly, give way to the
    base over `FADE` texels.
    """
    distance = cv2.distanceTransform((~seen).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    completed = codes.copy()

    def complete(rows: slice) -> None:
        share = np.clip(distance[rows] / np.float32(FADE), 0, 1)
        np.copyto(completed[rows], base[rows], where=(share >= 1)[..., None])
        near = (share > 0) & (share < 1)
        own, other = codes[rows][near].astype(np.float32), base[rows][near]
        completed[rows][near] = np.rint(own + share[near][:, None] * (other - own))

    list(workers.map(complete, strips(len(base))))
    texels.dilate(completed)
    return completed


def log_ratios(
    codes: UInt8[np.ndarray, "*S"], base: UInt8[np.ndarray, "*S"]
) -> Float32[np.ndarray, "*S"]:
    """log2 of linear light over the base's, both raised by `FLOOR`."""
    table = np.log2(LINEAR_OF_CODE + np.float32(FLOOR))
    return table[codes] - table[base]


def shrunk_log_ratios(
    codes: UInt8[np.ndarray, "S S 3"], base: UInt8[np.ndarray, "S S 3"], size: int
) -> Float32[np.ndarray, "s s 3"]:
    """`log_ratios` averaged down to at most `size` texels square."""
    if len(base) <= size:
        return log_ratios(codes, base)
    shrunk = np.empty((size, size, 3), np.float32)
    rows_each = max(1, len(base) // size)
    if size * rows_each != len(base):
        return cv2.resize(log_ratios(codes, base), (size, size), interpolation=cv2.INTER_AREA)
    for rows in strips(size):
        fine = slice(rows.start * rows_each, rows.stop * rows_each)
        shrunk[rows] = cv2.resize(
            log_ratios(codes[fine], base[fine]),
            (size, rows.stop - rows.start),
            interpolation=cv2.INTER_AREA,
        )
    return shrunk


def gram_matrix(
    ratios: Sequence[np.ndarray], counts: Bool[np.ndarray, "s s"]
) -> Float[np.ndarray, "T T"]:
    """L Lᵀ over the texels that count; `ratios` are [s s 3] arrays, mapped from disk if large."""
    total = np.zeros((len(ratios), len(ratios)))
    for rows in strips(len(counts), 64):
        chosen = counts[rows]
        if chosen.any():
            part = np.stack([frame[rows][chosen].ravel() for frame in ratios]).astype(np.float32)
            total += part @ part.T
    return total


def factor(
    gram: Float[np.ndarray, "T T"],
    most: int = MOST_MAPS,
    smallest_share: float = SMALLEST_SHARE,
) -> Wrinkles:
    """The strongest maps, at most `most`, each with `smallest_share` of the energy or more."""
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    count = int((values[:most] > max(smallest_share, 1e-9) * values.sum()).sum())
    weights = vectors[:, :count] * np.sqrt(values[:count])
    return Wrinkles(weights, np.linalg.pinv(weights))


def mixed(
    mixture: Float[np.ndarray, "K T"], ratios: Iterable[np.ndarray]
) -> Float32[np.ndarray, "K *S"]:
    """Sums over frames of their ratios: maps, or a strip of them."""
    total = np.zeros(1, np.float32)
    for column, frame in zip(mixture.T.astype(np.float32), ratios, strict=True):
        total = total + column.reshape(-1, *[1] * frame.ndim) * frame.astype(np.float32)
    return total


def localised(wrinkles: Wrinkles, maps: Float32[np.ndarray, "K N"]) -> Wrinkles:
    """The same factors turned so that each map acts in few places (varimax), strongest first.

    `maps` are its maps, a sample of texels is enough. Weights are scaled and signed so that their
    farthest excursion in the take is 1: a map then shows its full effect.
    """
    if not len(maps):
        return wrinkles
    turn = _varimax(maps.astype(np.float64).T)
    weights = wrinkles.weights @ turn
    turn = turn / np.take_along_axis(weights, np.abs(weights).argmax(0)[None], 0)
    back = np.linalg.inv(turn)  # weights @ maps stays what it is
    order = np.argsort(-np.square(back @ maps).sum(1))
    return Wrinkles(wrinkles.weights @ turn[:, order], back[order] @ wrinkles.mixture)


def _varimax(loadings: Float[np.ndarray, "N K"], rounds: int = 60) -> Float[np.ndarray, "K K"]:
    """The rotation that makes squared loadings vary most within each column (Kaiser 1958)."""
    turn, before = np.eye(loadings.shape[1]), 0.0
    for _ in range(rounds):
        turned = loadings @ turn
        u, values, vt = np.linalg.svd(loadings.T @ (turned**3 - turned * (turned**2).mean(0)))
        turn = u @ vt
        if values.sum() < before * (1 + 1e-6):
            break
        before = values.sum()
    return turn


def fit_drivers(drivers: Float[np.ndarray, "T D"], weights: Float[np.ndarray, "T K"]) -> Drivers:
    """Ridge regression of weights on drivers, each map's penalty chosen by cross-validation.

    Parts of the take are runs of consecutive frames: neighbours are nearly equal, so that leaving
    out single frames would prove nothing.
    """
    frames = np.arange(len(weights))
    parts = [part for part in np.array_split(frames, min(FOLDS, len(frames))) if len(part)]
    guesses = np.zeros((len(RIDGES), *weights.shape))
    for part in parts if len(parts) > 1 else ():
        known = np.setdiff1d(frames, part)
        for index, penalty in enumerate(RIDGES):
            matrix, intercept = ridge_regression(drivers[known], weights[known], penalty)
            guesses[index, part] = drivers[part] @ matrix + intercept
    handicap = np.where(np.isinf(RIDGES), WORTHWHILE, 1.0)
    errors: np.ndarray = np.square(guesses - weights).sum(1) * handicap[:, None]
    if len(parts) < 2:
        errors[: len(RIDGES) - 1] = np.inf
    best = np.argmin(errors, axis=0)
    matrix, intercept = np.zeros((drivers.shape[1], weights.shape[1])), np.zeros(weights.shape[1])
    for index, penalty in enumerate(RIDGES):
        chosen = best == index
        if chosen.any():
            matrix[:, chosen], intercept[chosen] = ridge_regression(
                drivers, weights[:, chosen], penalty
            )
    predicted = np.take_along_axis(guesses, best[None, None], 0)[0]
    return Drivers(matrix, intercept, np.asarray(RIDGES)[best], predicted)


def ridge_regression(
    drivers: Float[np.ndarray, "T D"], weights: Float[np.ndarray, "T K"], penalty: float
) -> tuple[Float[np.ndarray, "D K"], Float[np.ndarray, " K"]]:
    """Matrix and free intercept, in the dual form: frames may be fewer than drivers."""
    mean, level = drivers.mean(0), weights.mean(0)
    if np.isinf(penalty):
        return np.zeros((drivers.shape[1], weights.shape[1])), level
    centered = drivers - mean
    kernel = centered @ centered.T + penalty * np.eye(len(drivers))
    matrix = centered.T @ np.linalg.solve(kernel, weights - level)
    return matrix, level - mean @ matrix


def explained_share(
    gram: Float[np.ndarray, "T T"],
    mixture: Float[np.ndarray, "K T"],
    weights: Float[np.ndarray, "T K"],
) -> float:
    """Share of the ratios' energy that these weights of the maps explain; below 0: they harm."""
    mix = np.eye(len(gram)) - weights @ mixture
    return 1 - float(np.einsum("ij,jk,ik->", mix, gram, mix)) / max(float(np.trace(gram)), 1e-12)
