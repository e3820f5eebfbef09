"""The published method's descent on a CUDA device: `published` with gsplat and tensors.

Schedule, losses, rates and the order of views are those of the CPU; only sums round differently,
and α is cut at 0.999 instead of 0.99. Within a frame nothing is read back from the device but what
gsplat reads itself, the number of its tile pairs.
"""

import time
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import TrackedFrame, Views
from topohead.losses.photometric import DeviceTarget
from topohead.rendering import splats_cuda
from topohead.solvers.gaussian_mesh_cuda import DeviceAdam, DeviceLinks, DeviceRegularizer
from topohead.solvers.published_scene import (
    PublishedConfig,
    PublishedScene,
    PublishedState,
    later_answer,
    pictures_to_match,
    starting_state,
    views_at_random,
)

ARRAYS = ("means", "quats", "scales", "colors", "gains", "offsets")


@dataclass(frozen=True)
class DeviceGaussians:
    """The arrays of a `PublishedState` as float32 tensors that a descent changes in place."""

    means: Float[Tensor, "V 3"]
    quats: Float[Tensor, "V 4"]
    scales: Float[Tensor, "V 3"]
    colors: Float[Tensor, "V 3"]
    gains: Float[Tensor, "C 3"]
    offsets: Float[Tensor, "C 3"]

    @classmethod
    def of(cls, state: PublishedState, device: torch.device) -> "DeviceGaussians":
        """Copies of the state's arrays."""
        arrays = (torch.from_numpy(getattr(state, name)) for name in ARRAYS)
        return cls(*(array.to(device, torch.float32, copy=True) for array in arrays))

    def into(self, state: PublishedState) -> PublishedState:
        """The state with these arrays."""
        return replace(state, **{name: getattr(self, name).cpu().numpy() for name in ARRAYS})


@torch.no_grad()
def learn_first_frame(
    views: Views, scene: PublishedScene, colors: Float[Tensor, "V 3"] | None = None
) -> PublishedState:
    """`published.learn_first_frame` where the pictures are."""
    config, rates = scene.config, scene.config.rates
    state = starting_state(views.to("cpu"), scene, None if colors is None else colors.cpu())
    descent = _DeviceDescent(views, scene, state)
    gaussians = descent.gaussians
    initial = gaussians.scales.clone()
    logarithms = initial.log()
    floor = (1e-3 * initial.amax(1, keepdim=True)).log()
    off_face = torch.from_numpy(~scene.is_face[:, None]).to(initial)
    for _ in range(config.first_steps):
        d_quats, d_scales, d_colors = descent.look("quats", "scales", "colors", with_camera=True)
        d_scales = d_scales + _scale_slope(gaussians.scales, initial, config)
        descent.move("quats", gaussians.quats, d_quats, rates.rotation)
        descent.move("scales", logarithms, d_scales * gaussians.scales, rates.log_scale)
        descent.move("colors", gaussians.colors, d_colors * off_face, rates.color)
        torch.maximum(logarithms, floor, out=logarithms)  # a flat Gaussian may not vanish
        torch.exp(logarithms, out=gaussians.scales)
    state = gaussians.into(state)
    return replace(state, steps=descent.step, first_residual=descent.residual.item())


@torch.no_grad()
def advance(
    views: Views, scene: PublishedScene, state: PublishedState
) -> tuple[PublishedState, TrackedFrame]:
    """`published.advance` where the pictures are."""
    started = time.perf_counter()
    config, rates, weights = scene.config, scene.config.rates, scene.config.weights
    descent = _DeviceDescent(views, scene, state)
    gaussians = descent.gaussians
    ruler = DeviceRegularizer.since(
        gaussians.means,
        gaussians.quats,
        DeviceLinks.of(scene.links, gaussians.means.device),
        (weights.rotation, weights.rigidity, weights.isometry),
        weights.flat,
        weights.flat_floor,
    )
    moves = torch.from_numpy(scene.moves[:, None]).to(gaussians.means)
    center_rate = rates.center * rates.center_factor
    for _ in range(config.steps):
        by_means, by_quats = descent.look("means", "quats")
        d_means, d_quats = ruler.gradient(gaussians.means, gaussians.quats)
        descent.move("means", gaussians.means, (by_means + d_means) * moves, center_rate)
        descent.move("quats", gaussians.quats, (by_quats + d_quats) * moves, rates.rotation)
    for _ in range(config.color_steps):
        (d_colors,) = descent.look("colors")
        descent.move("colors", gaussians.colors, d_colors, rates.last_color)
    state = replace(gaussians.into(state), steps=descent.step)
    return state, later_answer(views, scene, state, descent.residual.item(), started)


class _DeviceDescent:
    """Adam on one frame: pictures to match, moments, and a random view for every step."""

    def __init__(self, views: Views, scene: PublishedScene, state: PublishedState) -> None:
        device = views.images[0].device
        self.scene = scene
        self.gaussians = DeviceGaussians.of(state, device)
        self.opacities = self.gaussians.means.new_ones(len(state.means))
        vertices = scene.to_meters(state.means)
        self.targets = [
            DeviceTarget.of(picture, counts)
            for picture, counts in pictures_to_match(views, scene, vertices)
        ]
        poses, lenses = scene.poses_in_units(views), views.cameras.intrinsics
        self.cameras = [
            splats_cuda.camera_tensors(pose, lens, device)
            for pose, lens in zip(poses, lenses, strict=True)
        ]
        self.sizes = [views.cameras.size(index) for index in range(len(views.cameras))]
        self.step, self.looks = state.steps, 0
        self.residual = self.gaussians.means.new_zeros(())
        self.views = views_at_random(scene.config.seed, state.steps, len(views.cameras))
        self.moments: dict[str, DeviceAdam] = {}

    def look(self, *wanted: str, with_camera: bool = False) -> tuple[Tensor, ...]:
        """∂L/∂ the named arrays of Eq. 4 in a view drawn at random."""
        view = next(self.views)
        self.step += 1
        self.looks += 1
        gaussians = self.gaussians
        arrays = {name: getattr(gaussians, name).detach() for name in ARRAYS[:4]}
        leaves = [arrays[name].requires_grad_() for name in wanted]
        with torch.enable_grad():
            images, _ = splats_cuda.draw(
                arrays["means"],
                arrays["quats"],
                arrays["scales"],
                self.opacities,
                arrays["colors"],
                *self.cameras[view],
                self.sizes[view],
                self.scene.near,
            )
        drawn = images[0].detach()
        gain, offset = gaussians.gains[view], gaussians.offsets[view]
        seen = drawn * gain + offset
        value, by_pixel = self.targets[view].compare(seen, self.scene.config.weights.dssim)
        self.residual.lerp_(value, max(0.02, 1 / self.looks))
        by_color = (by_pixel * gain)[None]
        if with_camera:
            self._move_camera(view, drawn, by_pixel)
        return torch.autograd.grad(images, leaves, by_color)

    def _move_camera(self, view: int, drawn: Tensor, by_pixel: Tensor) -> None:
        gaussians, rate = self.gaussians, self.scene.config.rates.camera
        d_gains, d_offsets = torch.zeros_like(gaussians.gains), torch.zeros_like(gaussians.offsets)
        d_gains[view] = (by_pixel * drawn).sum((0, 1))
        d_offsets[view] = by_pixel.sum((0, 1))
        self.move("gains", gaussians.gains, d_gains, rate)
        self.move("offsets", gaussians.offsets, d_offsets, rate)

    def move(self, name: str, values: Tensor, gradient: Tensor, rate: float) -> None:
        """One step of Adam, in place."""
        if name not in self.moments:
            self.moments[name] = DeviceAdam(values)
        self.moments[name].move(values, gradient, rate, self.step)


def _scale_slope(scales: Tensor, initial: Tensor, config: PublishedConfig) -> Tensor:
    """∂/∂scales of the weighted Eq. 5 (`losses.geometric.scale_excess`)."""
    slope = (scales > config.weights.growth * initial).to(scales)
    thinnest = scales.argmin(1, keepdim=True)
    slope.scatter_add_(1, thinnest, torch.ones_like(slope[:, :1]))
    return config.weights.scale * slope
