"""Blood that moves with expression: skin that is pressed together reddens, stretched skin pales.

The change is one of haemoglobin's optical depth, which by Beer's law multiplies albedo; diffuse
light is multiplied instead, so that the skin's maps stay one for the take. Faces measured by
Jimenez et al. 2010 (A practical appearance model for dynamic facial color) do so, with more detail.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.synthesis.lights import GatheredLight
from topohead.synthesis.pigments import HAEMOGLOBIN
from topohead.synthesis.subjects import Subject, Surfaces

DEPTH = 0.8
"""Optical depth that arrives when skin shrinks to half its area, at strength 1."""

RINGS = 12
"""Smoothing steps: vessels are fed from around."""

BLOODLESS = ("eyes", "eye_sockets", "eye_shells", "mouth_interior", "teeth", "scalp")


def blood_change(subject: Subject, surfaces: Surfaces, strength: float) -> Float[Tensor, " S"]:
    """Haemoglobin's optical depth beyond that at rest, at every vertex of the filmed surface."""
    topology = subject.finer
    change = strength * DEPTH * surfaces.press.clamp(-0.4, 0.6)
    skin = torch.ones_like(change)
    for name in BLOODLESS:
        if name in topology.regions:
            skin[topology.regions[name]] = 0
    first, second = topology.edges.unbind(1)
    degree = torch.bincount(topology.edges.flatten(), minlength=len(change)).clamp(min=1)
    change = change * skin
    for _ in range(RINGS):
        mean = torch.zeros_like(change).index_add_(0, first, change[second])
        mean = mean.index_add_(0, second, change[first]) / degree
        change = (0.5 * change + 0.5 * mean) * skin
    return change


def flushed(light: GatheredLight, change: Float[Tensor, " S"]) -> GatheredLight:
    """Light whose diffuse part is changed on the first S vertices as blood changes their colour."""
    irradiance = light.irradiance.clone()
    factor = torch.exp(-change[:, None] * torch.tensor(HAEMOGLOBIN))
    irradiance[: len(factor)] *= factor.to(irradiance)
    return replace(light, irradiance=irradiance)
