"""What is known of made people by how they were made: labels for directions in a latent space."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from topohead.geometry.anthropometry import SURVEY
from topohead.models.shape_space import ShapeSpace
from topohead.synthesis.mixture import SOURCES
from topohead.synthesis.shapes import Heads

PHENOTYPES = ("female", "old", "muscle", "fat", "african", "asian", "caucasian")
"""MakeHuman's, in [0, 1]; known of people who are not ICT-FaceKit's alone."""

ATTRIBUTES = (*PHENOTYPES, *SURVEY)
"""Then sizes of the survey, millimetres, measured on the neutral head."""


class Attributes(NamedTuple):
    """Values by person and attribute, in the order of `ATTRIBUTES`, and which of them are known."""

    values: Float[Tensor, "B A"]
    known: Bool[Tensor, "B A"]


def attributes(heads: Heads) -> Attributes:
    """What is known of people, on the CPU."""
    made = phenotypes(heads.shapes.space, heads.weights)
    sizes = measured(heads, heads.rest)
    known = torch.ones(len(made), len(ATTRIBUTES), dtype=torch.bool)
    known[heads.source == SOURCES.index("ict"), : len(PHENOTYPES)] = False
    return Attributes(torch.cat([made, sizes], 1), known)


def measured(heads: Heads, rest: Float[Tensor, "B V 3"]) -> Float[Tensor, "B S"]:
    """The survey's sizes of neutral heads, mm, in its order."""
    callipers = heads.shapes.callipers
    sizes = callipers(rest[:, callipers.vertices].double().cpu().numpy())
    return torch.stack([torch.from_numpy(sizes[name]) for name in SURVEY], 1).float()


def phenotypes(space: ShapeSpace, weights: Float[Tensor, "B K"]) -> Float[Tensor, "B 7"]:
    """`PHENOTYPES` from the weights of MakeHuman's macro targets, which are products of them."""
    names = space.named("control")
    own = weights[:, space.groups["control"]]

    def total(*words: str) -> Float[Tensor, " B"]:
        of = [k for k, name in enumerate(names) if all(word in name for word in words)]
        return own[:, of].sum(1)

    races = ("african", "asian", "caucasian")
    female = torch.stack([total(f"/{race}-female-") for race in races]).sum(0)
    old = torch.stack([total(f"/{race}-", "-old") for race in races]).sum(0)
    muscle = (1 + total("universal-", "-maxmuscle-") - total("universal-", "-minmuscle-")) / 2
    fat = (1 + total("universal-", "-maxweight") - total("universal-", "-minweight")) / 2
    return torch.stack([female, old, muscle, fat, *(total(f"/{race}-") for race in races)], 1)
