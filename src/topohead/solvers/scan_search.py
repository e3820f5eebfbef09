"""Where in a scan a head of known size is and how it is turned, without a network: ICP from 48
orientations, the classical way."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from topohead.solvers.headfit import HeadArrays
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_samples import ScanSamples

STAGES = (
    # points looked at, steps, candidates kept, robust scale in metres at first and at last
    (200, 8, 16, 0.06, 0.03),
    (500, 10, 4, 0.03, 0.015),
    (1500, 12, 1, 0.015, 0.006),
)
SIZE_SPREAD = 0.05
"""Deviation of the logarithm of a head's size against the mean head's."""


@dataclass(frozen=True)
class Placed:
    """Similarities from scan to head: q = size · turn · p + shift; `misfit` in [0, 1], less is
    better."""

    turn: Float[np.ndarray, "H 3 3"]
    shift: Float[np.ndarray, "H 3"]
    size: Float[np.ndarray, " H"]
    misfit: Float[np.ndarray, " H"]

    def points(self, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "H N 3"]:
        """Where each of them puts the scan's points."""
        turned = points @ self.turn.transpose(0, 2, 1)
        return self.size[:, None, None] * turned + self.shift[:, None]

    def best(self, count: int) -> "Placed":
        """The ones with the least misfit, best first."""
        order = np.argsort(self.misfit, kind="stable")[:count]
        return Placed(self.turn[order], self.shift[order], self.size[order], self.misfit[order])

    def pose(self) -> Float[np.ndarray, "4 4"]:
        """Head frame to scan, of the first."""
        pose = np.eye(4)
        pose[:3, :3] = self.turn[0].T / self.size[0]
        pose[:3, 3] = -pose[:3, :3] @ self.shift[0]
        return pose


def skull_of(surface: ScanHead, arrays: HeadArrays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `find_head` looks for: a head's skin, its normals, and its face."""
    template = surface.surface(torch.from_numpy(arrays.template))
    normals, skin = surface.normals(template), surface.skin
    return template[skin].numpy(), normals[skin].numpy(), template[surface.face].numpy()


def find_head(
    samples: ScanSamples,
    surface: Float[np.ndarray, "S 3"],
    normals: Float[np.ndarray, "S 3"],
    face: Float[np.ndarray, "F 3"],
    seed: int = 0,
) -> Placed:
    """The best placing of a scan on a template surface (head frame, metres).

    Eight yaws under six directions of up, each from three places: crowns together, the scan on the
    face, middles together. Then point-to-plane steps from scan to template, robust, the worst
    left behind after each stage. Says nothing about whether there is a head at all. On the CPU.
    """
    places, facings = samples.points.cpu().numpy(), samples.normals.cpu().numpy()
    random = np.random.default_rng(seed)
    tree = KDTree(surface)
    placed = _starts(places, surface, face)
    for count, steps, kept, first, last in STAGES:
        chosen = random.permutation(len(places))[:count]
        points, facing = places[chosen], facings[chosen]
        free_size = kept == 1
        for step in range(steps):
            cut = first * (last / first) ** (step / (steps - 1))
            placed = _improved(placed, points, facing, tree, normals, cut, free_size)
        placed = _judged(placed, points, facing, tree, normals, last).best(kept)
    return placed


def _starts(places: np.ndarray, surface: np.ndarray, face: np.ndarray) -> Placed:
    sample = places[:: max(1, len(places) // 4000)]
    ups = [m for m in _quarter_turns() if m[2, 2] == 1 or abs(m[2]).argmax() != 2]
    ups = {tuple(m[1]): m for m in ups}.values()  # one rotation for each direction that is up
    yaws = Rotation.from_rotvec(np.arange(8)[:, None] * [0, np.pi / 4, 0]).as_matrix()
    turns, shifts = [], []
    for up, yaw in itertools.product(ups, yaws):
        turn = yaw @ up
        moved = sample @ turn.T
        for own, goal in (
            (_crown(moved), _crown(surface)),
            (_middle(moved), _middle(face)),
            (_middle(moved), _middle(surface)),
        ):
            turns.append(turn)
            shifts.append(goal - own)
    count = len(turns)
    return Placed(np.stack(turns), np.stack(shifts), np.ones(count), np.ones(count))


def _quarter_turns() -> list[np.ndarray]:
    signed = itertools.product(
        itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)
    )
    found = []
    for axes, signs in signed:
        matrix = np.zeros((3, 3))
        matrix[range(3), axes] = signs
        if np.linalg.det(matrix) > 0:
            found.append(matrix)
    return found


def _middle(points: np.ndarray) -> Float[np.ndarray, "3"]:
    return (np.quantile(points, 0.01, 0) + np.quantile(points, 0.99, 0)) / 2


def _crown(points: np.ndarray, depth: float = 0.15) -> Float[np.ndarray, "3"]:
    """Middle of what lies within `depth` of the top, at the top's height."""
    top = np.quantile(points[:, 1], 0.995)
    middle = _middle(points[points[:, 1] > top - depth])
    return np.array([middle[0], top, middle[2]])


def _improved(
    placed: Placed,
    points: np.ndarray,
    facing: np.ndarray,
    tree: KDTree,
    normals: np.ndarray,
    cut: float,
    free_size: bool,
) -> Placed:
    """One Gauss–Newton step of every candidate: turn, shift and, if free, size."""
    moved = placed.points(points)
    normal, gap, weight = _gaps(placed, moved, facing, tree, normals, cut)
    center = moved.mean(1, keepdims=True)
    arm = moved - center
    rows = np.concatenate([np.cross(arm, normal), normal, (normal * arm).sum(2, keepdims=True)], 2)
    weighted = rows * weight[..., None]
    system = weighted.transpose(0, 2, 1) @ rows
    right = (weighted.transpose(0, 2, 1) @ gap[..., None])[..., 0]
    strength = weight.sum(1)
    diagonal = np.array([1e-6] * 3 + [1e-3] * 3 + [0.0])
    noise = 0.003
    size_pull = (noise / SIZE_SPREAD) ** 2 if free_size else 1e3
    index = np.arange(7)
    system[:, index, index] += strength[:, None] * diagonal + 1e-12
    system[:, 6, 6] += size_pull
    right[:, 6] -= size_pull * np.log(placed.size) if free_size else 0.0
    step = np.linalg.solve(system, right[..., None])[..., 0]
    turn = Rotation.from_rotvec(np.clip(step[:, :3], -0.3, 0.3)).as_matrix()
    grow = np.exp(np.clip(step[:, 6], -0.1, 0.1))
    shift = placed.shift - center[:, 0]
    shift = grow[:, None] * (turn @ shift[..., None])[..., 0] + center[:, 0] + step[:, 3:6]
    return Placed(turn @ placed.turn, shift, grow * placed.size, placed.misfit)


def _gaps(placed, moved, facing, tree, normals, cut):
    """Per candidate and point: plane normal, signed gap along it, robust weight."""
    distance, near = tree.query(moved.reshape(-1, 3))
    surface, theirs = tree.data[near].reshape(moved.shape), normals[near].reshape(moved.shape)
    own = facing @ placed.turn.transpose(0, 2, 1)
    between = own + theirs
    length = np.linalg.norm(between, axis=2, keepdims=True)
    between = between / np.maximum(length, 1e-6)
    gap = (between * (surface - moved)).sum(2)
    agreement = np.maximum((own * theirs).sum(2), 0)
    weight = agreement / (1 + (distance.reshape(gap.shape) / cut) ** 2) ** 2
    return between, gap, weight


def _judged(placed, points, facing, tree, normals, cut) -> Placed:
    """With each candidate's misfit: how little of the scan lies near the template facing alike."""
    _, _, weight = _gaps(placed, placed.points(points), facing, tree, normals, cut)
    return Placed(placed.turn, placed.shift, placed.size, 1 - np.sqrt(weight).mean(1))
