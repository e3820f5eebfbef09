"""Soft masks of facial areas, and the lines of least skin tension, at points of the template."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import HeadModel
from topohead.synthesis.canvas import Texels


def template_landmarks(head: HeadModel) -> Float[Tensor, "68 3"]:
    """The iBUG-68 points on the template, on the host."""
    points = head.topology.landmarks["ibug68"]
    corners = head.template.cpu()[head.topology.triangles[points.triangles]]
    return (corners * points.barycentrics[..., None]).sum(1)


@dataclass(frozen=True)
class Areas:
    """Membership from 0 to 1 at every point of a list; `tension` is a unit vector or zero."""

    nose: Float[Tensor, " N"]
    chin: Float[Tensor, " N"]
    cheeks: Float[Tensor, " N"]
    under_eye: Float[Tensor, " N"]
    lid: Float[Tensor, " N"]
    temples: Float[Tensor, " N"]
    t_zone: Float[Tensor, " N"]
    lips: Float[Tensor, " N"]
    ears: Float[Tensor, " N"]
    neck: Float[Tensor, " N"]
    scalp: Float[Tensor, " N"]
    beard: Float[Tensor, " N"]
    caruncle: Float[Tensor, " N"]
    tension: Float[Tensor, "N 3"]

    @staticmethod
    def of(texels: Texels, marks: Float[Tensor, "68 3"]) -> "Areas":
        """The areas at a tile's texels; `marks` are the template's landmarks."""
        p, zero = texels.points, texels.zero
        at = marks.to(p.device)

        def blob(center: Tensor, *radii: float) -> Tensor:
            r = p.new_tensor(radii if len(radii) == 3 else radii * 3)
            return torch.exp(-(((p - center) / r) ** 2).sum(1))

        def shifted(mark: Tensor, *by: float) -> Tensor:
            return mark + p.new_tensor(by)

        def region(name: str, gain: float = 1.0, offset: float = 0.0) -> Tensor:
            return (texels.regions.get(name, zero) * gain - offset).clamp(0, 1)

        left = shifted((at[45] + at[54]) / 2, 0.004, -0.004, 0.0)
        right = shifted((at[36] + at[48]) / 2, -0.004, -0.004, 0.0)
        eyes = (at[42:48].mean(0), at[36:42].mean(0))
        nose = blob(at[30], 0.017, 0.016, 0.02)
        chin = blob(shifted(at[8], 0.0, 0.012, 0.0), 0.025, 0.018, 0.03)
        forehead = blob(shifted(at[27], 0.0, 0.04, 0.0), 0.05, 0.025, 0.05)
        lips = region("lips", 1.25, 0.15)
        corners = (shifted(at[42], 0.0010, -0.0003, 0.0), shifted(at[39], -0.0010, -0.0003, 0.0))
        return Areas(
            nose=nose,
            chin=chin,
            cheeks=blob(left, 0.028, 0.02, 0.04) + blob(right, 0.028, 0.02, 0.04),
            under_eye=sum((blob(shifted(c, 0.0, -0.013, 0.0), 0.017, 0.007, 0.03) for c in eyes),
                          zero),
            lid=sum((blob(shifted(c, 0.0, 0.005, 0.0), 0.018, 0.010, 0.03) for c in eyes), zero),
            temples=torch.exp(-(((p[:, 0].abs() - 0.062) / 0.012) ** 2)) * (1 - lips),
            t_zone=(nose + forehead + 0.7 * chin).clamp(max=1),
            lips=lips,
            ears=region("ears"),
            neck=region("neck"),
            scalp=region("scalp", 1.4, 0.2),
            beard=_beard_area(p, at) * (1 - lips),
            caruncle=sum((blob(c, 0.0018, 0.0012, 0.004) for c in corners), zero),
            tension=_tension(p, at),
        )  # fmt: skip


def _beard_area(p: Tensor, marks: Tensor) -> Tensor:
    """Jaw, chin and upper lip: below the line from the nose's base to the ears' base."""
    mouth_y, nose_y, ear_y = marks[62, 1], marks[33, 1], (marks[2, 1] + marks[14, 1]) / 2
    side = (p[:, 0].abs() / marks[14, 0].abs()).clamp(0, 1)
    line = torch.lerp(nose_y, ear_y, side**2) - 0.004
    cheek = torch.exp(-(((p[:, 0].abs() - 0.03) / 0.014) ** 2))
    cheek = cheek * torch.sigmoid((p[:, 1] - mouth_y + 0.010) / 0.004)
    top = torch.sigmoid((line - p[:, 1]) / 0.004)
    bottom = torch.sigmoid((p[:, 1] - marks[8, 1] + 0.03) / 0.01)
    front = torch.sigmoid((p[:, 2] - marks[[0, 16], 2].mean() + 0.01) / 0.006)
    return top * bottom * front * (1 - 0.9 * cheek)


def _tension(p: Tensor, marks: Tensor) -> Tensor:
    """Directions along which skin is least stretched (Langer 1861), where dents lie lengthwise.

    Rings around eyes and mouth, level across the forehead, slanting from the nose down to the jaw
    over the cheeks, all as lines in the frontal plane: angles are doubled, so that a line has no
    sign, and the weighted mean turns softly from one to the next.
    """
    brow, mouth = marks[19:25, 1].mean(), marks[62, 1]
    level = ((p[:, 1] - mouth) / (brow - mouth)).clamp(0, 1)
    side = (p[:, 0] / 0.03).clamp(-1, 1)
    slant = -2 * 0.8 * side * (1 - level)
    doubled = 0.4 * torch.stack([slant.cos(), slant.sin()], 1)
    rings = ((marks[42:48].mean(0), 0.022), (marks[36:42].mean(0), 0.022), (marks[62], 0.026))
    for center, reach in rings:
        x, y = (p - center)[:, :2].unbind(1)
        square = x * x + y * y
        ring = -torch.stack([x * x - y * y, 2 * x * y], 1) / (square + 1e-8)[:, None]
        doubled = doubled + torch.exp(-square / reach**2)[:, None] * ring
    angle = 0.5 * torch.atan2(doubled[:, 1], doubled[:, 0])
    return torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], 1)
