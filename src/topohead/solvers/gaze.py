"""Where the eyes look: two angles an eye that make a frame show what the first frame showed."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Views
from topohead.solvers.eye_patches import Patches
from topohead.solvers.eyes import EyeConfig, Eyes, Gaze, Globe
from topohead.solvers.kernels import eyes as kernels


def solve_gaze(
    views: Views,
    eyes: Eyes,
    vertices: Float[Tensor, "V 3"],
    motion: Float[Tensor, "4 4"],
    last: Gaze,
    config: EyeConfig,
) -> Gaze:
    """Where the eyes look now.

    `vertices` is the tracked surface, whose lids hide the globes; `motion` carries the first
    frame's skull to its place. Gazes over the whole range are compared, both eyes alike, then
    Gauss–Newton turns each, with priors about the last frame and about looking the same way.
    """
    both = [eyes.patches(side, views, vertices, motion, config) for side in (0, 1)]
    angles = _searched(eyes, both, last.angles, config)
    agreed = torch.zeros(2, dtype=torch.float64)
    for _ in range(config.iterations):
        matrix, vector = _priors(angles, last.angles, config)
        turns, slopes = _turns_and_slopes(eyes, angles)
        for side, globe in enumerate(eyes.globes):
            own, pull, agreed[side] = _equations(
                globe, both[side], turns[side], slopes[side], config
            )
            rows = slice(2 * side, 2 * side + 2)
            matrix[rows, rows] += config.evidence * torch.from_numpy(own)
            vector[rows] += config.evidence * torch.from_numpy(pull)
        move = -torch.linalg.solve(matrix, vector).reshape(2, 2)
        angles = angles + move.clamp(-config.step, config.step)
        if float(move.abs().max()) < 5e-4:
            break
    seen = torch.tensor([max(globe.seen, 1e-6) for globe in eyes.globes], dtype=torch.float64)
    confidence = (agreed / seen).clamp(0, 1)
    if float(confidence.max()) < config.least:
        # behind nearly closed lids chance finds a likely gaze somewhere
        angles = last.angles.clone()
    return Gaze(angles, confidence)


def _searched(
    eyes: Eyes, both: Sequence[Patches], last: Tensor, config: EyeConfig
) -> Float[Tensor, "2 2"]:
    """The likeliest of many gazes on a grid, common to both eyes, or the last frame's."""
    ways = [np.arange(-r, r + 1e-9, config.step) for r in config.reach]
    yaw, pitch = (torch.from_numpy(a) for a in np.meshgrid(*ways))
    grid = torch.stack([yaw, pitch], -1).reshape(-1, 1, 2).expand(-1, 2, -1)
    grid = torch.cat([last[None], grid])
    score = _scores(eyes, both, grid, last, config, config.few)
    grid = grid[np.argsort(-score, kind="stable")[: config.finalists]]
    return grid[int(_scores(eyes, both, grid, last, config, None).argmax())].clone()


def _scores(
    eyes: Eyes,
    both: Sequence[Patches],
    gazes: Float[Tensor, "G 2 2"],
    last: Tensor,
    config: EyeConfig,
    few: int | None,
) -> Float[np.ndarray, " G"]:
    """How likely each of many gazes is, by about so `few` samples an eye, or by all."""
    score = np.zeros(len(gazes), np.float32)
    for side, globe in enumerate(eyes.globes):
        count = len(globe.samples)
        if not count:
            continue
        part = slice(None, None, max(1, count // (few or count)))
        turns = eyes.turns(gazes[:, side]).float().numpy()
        score += kernels.likeness(
            globe.samples[part], globe.areas[part], globe.colors[part], globe.trust[part], turns,
            *both[side].arrays, np.float32(config.noise), np.float32(config.cut),
        ) * np.float32(count / len(globe.samples[part]))  # fmt: skip
    # under closed lids hardly a pixel speaks, and chance must not turn the eyes
    price = config.reluctance * sum(globe.seen for globe in eyes.globes)
    return score - price * (gazes - last).norm(dim=-1).mean(1).float().numpy()


def _priors(angles: Tensor, last: Tensor, config: EyeConfig) -> tuple[Tensor, Tensor]:
    """Normal equations [4 4], [4] of staying near the last frame and of looking the same way."""
    near = config.wander**-2
    matrix = torch.eye(4, dtype=torch.float64) * near
    vector = near * (angles - last).reshape(4)
    weights = torch.tensor(config.vergence, dtype=torch.float64) ** -2
    apart = weights * (angles[0] - angles[1])
    vector[:2] += apart
    vector[2:] -= apart
    matrix.diagonal().add_(weights.repeat(2))
    matrix[:2, 2:].diagonal().sub_(weights)
    matrix[2:, :2].diagonal().sub_(weights)
    return matrix, vector


def _turns_and_slopes(eyes: Eyes, gaze: Float[Tensor, "2 2"]) -> tuple[np.ndarray, np.ndarray]:
    """The globes' rotations [2 3 3] and their derivatives [2 2 3 3] in both angles."""
    nudge = 1e-5
    steps = nudge * torch.tensor([[0.0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    turns = eyes.turns(gaze[:, None] + steps)
    slopes = (turns[:, [1, 3]] - turns[:, [2, 4]]) / (2 * nudge)
    return turns[:, 0].float().numpy(), slopes.float().numpy()


def _equations(
    globe: Globe, patches: Patches, turn: np.ndarray, slopes: np.ndarray, config: EyeConfig
) -> tuple[np.ndarray, np.ndarray, float]:
    """Matrix [2 2] and gradient [2] of an eye's angles, and the pixels that agree."""
    terms = kernels.equations(
        globe.samples, globe.areas, globe.colors, globe.trust, turn, slopes, *patches.arrays,
        np.float32(config.noise), np.float32(config.cut),
    ).sum(0)  # fmt: skip
    return terms[[0, 1, 1, 2]].reshape(2, 2), terms[3:5], float(terms[5])
