"""The published method, Topo4D (Li et al. 2024), as the baseline of our own tracker.

One Gaussian on every vertex. The first frame teaches sizes, rotations and each camera's colour;
every later frame moves centres and rotations by Adam on one random view a step, held together by
losses of physics and topology. `published_scene` holds the numbers.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from torch import Tensor

from topohead.core import Mesh, TrackedFrame, Views
from topohead.losses.photometric import Target
from topohead.rendering import splats
from topohead.solvers import published_cuda
from topohead.solvers.gaussian_mesh import Regularizer
from topohead.solvers.kernels.gaussian_mesh import adam_step
from topohead.solvers.published_scene import (
    PublishedConfig,
    PublishedRates,
    PublishedScene,
    PublishedState,
    PublishedWeights,
    expanded,
    first_answer,
    later_answer,
    make_scene,
    pictures_to_match,
    starting_state,
    views_at_random,
)

__all__ = [
    "PublishedConfig", "PublishedRates", "PublishedScene", "PublishedState", "PublishedWeights",
    "advance", "expanded", "learn_first_frame", "make_scene", "track_published",
]  # fmt: skip


def track_published(
    frames: Iterable[Views],
    first: Mesh,
    config: PublishedConfig | None = None,
    colors: Float[Tensor, "V 3"] | None = None,
) -> Iterator[TrackedFrame]:
    """Carry the first frame's mesh through the frames; the first of them is the mesh's own.

    `colors` of the vertices (srgb, of a texture) default to what the first views show.
    """
    scene = make_scene(first, config or PublishedConfig())
    state = None
    for views in frames:
        if state is None:
            started = time.perf_counter()
            state = learn_first_frame(views, scene, colors)
            yield first_answer(views, scene, state, time.perf_counter() - started)
        else:
            state, answer = advance(views, scene, state)
            yield answer


def learn_first_frame(
    views: Views, scene: PublishedScene, colors: Float[Tensor, "V 3"] | None = None
) -> PublishedState:
    """Sizes, rotations, colours off the face, and camera colours from the first frame (Eq. 6).

    Where the pictures are, the work is done: on the CPU or on a CUDA device. The state is the same
    kind of thing either way.
    """
    if views.images[0].is_cuda:
        return published_cuda.learn_first_frame(views, scene, colors)
    config, rates = scene.config, scene.config.rates
    state = starting_state(views, scene, colors)
    descent = _Descent(views, scene, state, scene.mesh.vertices)
    logarithms = np.log(state.scales)
    floor = np.log(1e-3 * scene.initial_scales.max(1, keepdims=True))
    off_face = ~scene.is_face[:, None]
    for _ in range(config.first_steps):
        table = descent.look(with_camera=True)
        d_scales = table[:, 7:10] + _scale_slope(state.scales, scene.initial_scales, config)
        descent.move("quats", state.quats, table[:, 3:7], rates.rotation)
        descent.move("scales", logarithms, d_scales * state.scales, rates.log_scale)
        descent.move("colors", state.colors, table[:, 10:13] * off_face, rates.color)
        np.maximum(logarithms, floor, out=logarithms)  # a flat Gaussian may not vanish
        np.exp(logarithms, out=state.scales)
    return replace(state, steps=descent.step, first_residual=descent.residual)


def advance(
    views: Views, scene: PublishedScene, state: PublishedState
) -> tuple[PublishedState, TrackedFrame]:
    """One later frame: centres and rotations under Eq. 7, then colours alone; where the pictures
    are."""
    if views.images[0].is_cuda:
        return published_cuda.advance(views, scene, state)
    started = time.perf_counter()
    config, rates, weights = scene.config, scene.config.rates, scene.config.weights
    last = scene.to_meters(state.means)
    state = replace(state, **{k: getattr(state, k).copy() for k in ("means", "quats", "colors")})
    ruler = Regularizer.since(
        state.means,
        state.quats,
        scene.links,
        (weights.rotation, weights.rigidity, weights.isometry),
        weights.flat,
        weights.flat_floor,
    )
    descent = _Descent(views, scene, state, last)
    moves = scene.moves[:, None]
    for _ in range(config.steps):
        table = descent.look()
        d_means, d_quats = ruler.gradient(state.means, state.quats)
        d_means += table[:, :3]
        d_quats += table[:, 3:7]
        descent.move("means", state.means, d_means * moves, rates.center * rates.center_factor)
        descent.move("quats", state.quats, d_quats * moves, rates.rotation)
    for _ in range(config.color_steps):
        descent.move("colors", state.colors, descent.look()[:, 10:13], rates.last_color)
    state = replace(state, steps=descent.step)
    return state, later_answer(views, scene, state, descent.residual, started)


class _Descent:
    """Adam on one frame: pictures to match, moments, and a random view for every step."""

    def __init__(
        self, views: Views, scene: PublishedScene, state: PublishedState, vertices: Tensor
    ) -> None:
        config = scene.config
        self.scene, self.state = scene, state
        self.targets = _targets(views, scene, vertices)
        self.cameras = _cameras(views, scene)
        self.step, self.residual = state.steps, 0.0
        self.views = views_at_random(config.seed, state.steps, len(views.cameras))
        self.moments: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        sizes = [views.cameras.size(index) for index in range(len(views.cameras))]
        self.no_alpha = [np.zeros((height, width), np.float32) for width, height in sizes]
        self.looks = 0

    def look(self, with_camera: bool = False) -> np.ndarray:
        """∂L/∂Gaussians [V 14] of Eq. 4 in a view drawn at random."""
        state = self.state
        view = next(self.views)
        self.step += 1
        self.looks += 1
        opacities = np.ones(len(state.means), np.float32)
        gaussians = splats.Gaussians(
            state.means, state.quats, state.scales, opacities, state.colors
        )
        height, width = self.no_alpha[view].shape
        near = self.scene.near
        black = np.zeros(3, np.float32)
        drawn = splats.forward(gaussians, self.cameras[view], (width, height), black, near)
        # rows as vectors of 3 W numbers: numpy is slow where the last axis is short
        gain, offset = np.tile(state.gains[view], width), np.tile(state.offsets[view], width)
        flat = drawn.image.reshape(height, -1)
        seen = (flat * gain + offset).reshape(drawn.image.shape)
        value, by_pixel = self.targets[view].compare(seen, self.scene.config.weights.dssim)
        self.residual += (value - self.residual) * max(0.02, 1 / self.looks)
        by_flat = by_pixel.reshape(height, -1)
        by_color = (by_flat * gain).reshape(by_pixel.shape)
        table = splats.backward(gaussians, self.cameras[view], drawn, by_color, self.no_alpha[view])
        if with_camera:
            rate = self.scene.config.rates.camera
            d_gains, d_offsets = np.zeros_like(state.gains), np.zeros_like(state.offsets)
            d_gains[view] = (by_flat * flat).sum(0).reshape(-1, 3).sum(0)
            d_offsets[view] = by_flat.sum(0).reshape(-1, 3).sum(0)
            self.move("gains", state.gains, d_gains, rate)
            self.move("offsets", state.offsets, d_offsets, rate)
        return table

    def move(self, name: str, values: np.ndarray, gradient: np.ndarray, rate: float) -> None:
        """One step of Adam, in place."""
        if name not in self.moments:
            self.moments[name] = np.zeros_like(values), np.zeros_like(values)
        adam_step(values, gradient, *self.moments[name], rate, self.step)


def _targets(views: Views, scene: PublishedScene, vertices: Tensor) -> list[Target]:
    return [
        Target.of(picture.numpy(), counts.numpy())
        for picture, counts in pictures_to_match(views, scene, vertices)
    ]


def _cameras(views: Views, scene: PublishedScene) -> list[np.ndarray]:
    """Cameras of the scaled scene as the kernels read them."""
    poses = scene.poses_in_units(views)
    return [
        splats.pack_camera(*camera) for camera in zip(poses, views.cameras.intrinsics, strict=True)
    ]


def _scale_slope(scales: np.ndarray, initial: np.ndarray, config: PublishedConfig) -> np.ndarray:
    """∂/∂scales of the weighted Eq. 5 (`losses.geometric.scale_excess`)."""
    slope = (scales > config.weights.growth * initial).astype(np.float32)
    slope[np.arange(len(scales)), scales.argmin(1)] += 1
    return config.weights.scale * slope
