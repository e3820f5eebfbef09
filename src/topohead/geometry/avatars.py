"""Avatars: a rig that plays, and the Gaussians that it carries."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import BoundSplats
from topohead.geometry.globes import fit_sphere, gaze_rotation
from topohead.geometry.skinning import FaceRig, blended, placed

EYES = ("eye_left", "eye_right")


@dataclass(frozen=True)
class ExpressionChange:
    """How N bound Gaussians change with expression, linear in R codes of the 52 weights.

    Codes are (weights − mean) · axes, kept between `low` and `high`, what the fit has seen: a
    linear map knows nothing beyond. `colors` are added to the first harmonic, `offsets` to the
    binding's, both a unit of code.
    """

    mean: Float[Tensor, " 52"]
    axes: Float[Tensor, "52 R"]
    low: Float[Tensor, " R"]
    high: Float[Tensor, " R"]
    colors: Float[Tensor, "N R 3"]
    offsets: Float[Tensor, "N R 3"]

    def codes(self, weights: Float[Tensor, "*B 52"]) -> Float[Tensor, "*B R"]:
        """The codes of expressions."""
        codes = (weights.to(self.mean) - self.mean) @ self.axes
        return torch.minimum(torch.maximum(codes, self.low), self.high)

    def to(self, device: torch.device | str) -> "ExpressionChange":
        """The same on another device."""
        return ExpressionChange(*(value.to(device) for value in vars(self).values()))


def principal_codes(
    weights: Float[Tensor, "T 52"], ranks: int
) -> tuple[Float[Tensor, " 52"], Float[Tensor, "52 R"]]:
    """Mean and axes of at most `ranks` codes of deviation one over T expressions.

    Principal axes; those with less than a hundredth of the first one's variance are left out.
    """
    mean = weights.double().mean(0)
    _, sizes, axes = torch.linalg.svd(weights.double() - mean, full_matrices=False)
    deviations = sizes / max(len(weights), 1) ** 0.5
    kept = (deviations > 0.1 * deviations[:1]) & (deviations > 1e-3)
    count = min(int(kept.sum()), ranks)
    return mean.float(), (axes[:count].T / deviations[:count]).float()


@dataclass(frozen=True)
class Eyeball:
    """Which vertices an eye has, its centre, and where the vertices lie from there at rest."""

    vertices: Int[Tensor, " E"]
    center: Float[Tensor, "3"]
    arms: Float[Tensor, "E 3"]


def eyeballs(rig: FaceRig) -> tuple[Eyeball | None, Eyeball | None]:
    """The rig's eyes, left and right, where its neutral head is; None for one without a name."""
    found = []
    for name in EYES:
        rows = rig.topology.regions.get(name)
        if rows is None:
            found.append(None)
            continue
        rows = rows.to(rig.neutral.device)
        center = fit_sphere(rig.neutral[rows].cpu())[0].to(rig.neutral)
        found.append(Eyeball(rows, center, rig.neutral[rows] - center))
    return found[0], found[1]


def gazed(
    eyes: tuple[Eyeball | None, Eyeball | None],
    shapes: Float[Tensor, "T V 3"],
    gaze: Float[Tensor, "T 2 2"],
) -> Float[Tensor, "T V 3"]:
    """Shapes in the head frame with resting eyes turned by `gaze`; a copy."""
    shapes = shapes.clone()
    for side, eye in enumerate(eyes):
        if eye is not None:
            turns = gaze_rotation(gaze[:, side].to(eye.arms))
            shapes[:, eye.vertices] = eye.center + eye.arms @ turns.transpose(1, 2)
    return shapes


@dataclass(frozen=True)
class Avatar:
    """A person that can be played: the rig in the head frame (y up, metres), and its Gaussians."""

    rig: FaceRig
    splats: BoundSplats
    change: ExpressionChange

    @cached_property
    def eyes(self) -> tuple[Eyeball | None, Eyeball | None]:
        """What the gaze turns."""
        return eyeballs(self.rig)

    def to(self, device: torch.device | str) -> "Avatar":
        """The same, what is posed and drawn on a device; the topology stays."""
        rig = self.rig
        parts = ("neutral", "blendshapes", "head_share", "upright", "neck", "head")
        moved = {name: getattr(rig, name).to(device) for name in parts}
        return Avatar(replace(rig, **moved), self.splats.to(device), self.change.to(device))

    def vertices(
        self,
        weights: Float[Tensor, "T 52"],
        gaze: Float[Tensor, "T 2 2"],
        poses: Float[Tensor, "T 4 4"],
    ) -> Float[Tensor, "T V 3"]:
        """Posed meshes in the head frame of the resting head; see `PosedViews` for gaze and poses.

        Eyes turn about their own centres, whatever the blendshapes say of them.
        """
        rig = self.rig
        shapes = gazed(self.eyes, blended(rig.neutral, rig.blendshapes, weights), gaze)
        share = rig.head_share.to(shapes)[:, None]
        return torch.lerp(shapes, placed(shapes, poses), share)

    def dressed(self, weights: Float[Tensor, " 52"]) -> BoundSplats:
        """The Gaussians as they look under an expression."""
        codes, splats = self.change.codes(weights), self.splats
        moved = splats.binding.offsets + torch.einsum("r,nrc->nc", codes, self.change.offsets)
        harmonics = splats.harmonics.clone()
        harmonics[:, 0] += torch.einsum("r,nrc->nc", codes, self.change.colors)
        return replace(splats, binding=replace(splats.binding, offsets=moved), harmonics=harmonics)
