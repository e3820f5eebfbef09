"""Who is drawn: weights of the shape space for any sample, a function of (seed, index) alone."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from topohead.core.errors import InputError
from topohead.geometry.anthropometry import Callipers, implausible
from topohead.models.population import SHAPES, SLIDER_SPREAD, Phenotypes, phenotype_weights
from topohead.models.shape_space import ShapeSpace
from topohead.synthesis.draws import dirichlet, normals, uniforms

SOURCES = ("anny", "ict", "both", "field")
"""MakeHuman's controls; ICT-FaceKit's modes; their sum; a strong smooth field on a mild person."""

SHARES = (0.45, 0.25, 0.20, 0.10)
"""Of each source, in the order of `SOURCES`."""

Families = Literal["all", "anny", "ict"]

FAMILIES: dict[Families, tuple[str, ...]] = {
    "all": SOURCES,
    "anny": ("anny", "field"),
    "ict": ("ict",),
}
"""Sources that hold nothing of another family, to measure what a network makes of strangers."""

OTHERS: dict[Families, Families] = {"anny": "ict", "ict": "anny"}
"""Who is a stranger to whom."""

ACTIVE, ACTIVE_SPREAD = 0.35, 0.28
"""Share of two-ended controls that a person uses, and their deviation: as all with 0.17."""
ASYMMETRIES, ASYMMETRY_SPREAD = 4, 0.3
"""At most so many one-sided shapes, of which 1 is extreme."""
WEAK_MM, STRONG_MM = (1.0, 4.0), (5.0, 9.0)
"""Greatest displacement of fields, millimetres, in the mean over the skin's worst twentieth."""
PEAK = 2.0
"""Ratio of that to the rms."""
LOPSIDED = 0.35
"""Fields' one-sided parts against their symmetric ones."""
STRETCH = {"anny": (-0.040, -0.005, -0.055), "ict": (-0.040, 0.0, -0.015)}
"""Mean of the stretch along x, y, z that brings each family to the survey's means."""
STRETCH_SPREAD = 0.012
MEANS = {"eyes/eye-trans-in-out+": 0.2}
"""Controls that are not zero on average, for the same reason."""
ATTEMPTS = 12
"""A head that is implausible so many times is MakeHuman's base head: once in a thousand million."""


@dataclass(frozen=True)
class Draw:
    """Weights of the space's rows [B K], float64; the source of each (index in `SOURCES`).

    `attempts` counts the heads that were drawn before one was plausible.
    """

    weights: Float[np.ndarray, "B K"]
    source: Int[np.ndarray, " B"]
    attempts: Int[np.ndarray, " B"]


def shares(space: ShapeSpace, families: Families = "all") -> tuple[float, ...]:
    """Of each of `SOURCES`; those that need ICT-FaceKit fall to the first where it is not there.

    InputError where nothing is left.
    """
    known = SHARES
    if "ict" not in space.groups:
        known = (SHARES[0] + SHARES[1] + SHARES[2], 0.0, 0.0, SHARES[3])
    if families == "all":
        return known
    pairs = zip(SOURCES, known, strict=True)
    kept = [share * (name in FAMILIES[families]) for name, share in pairs]
    if not sum(kept):
        raise InputError(
            f"no heads of '{families}' without ICT-FaceKit; set TOPOHEAD_ICT to its file"
        )
    return tuple(share / sum(kept) for share in kept)


@dataclass(frozen=True)
class Population:
    """A shape space on the CPU, and what measures its heads."""

    space: ShapeSpace
    callipers: Callipers

    @cached_property
    def measured(self) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, "K N3"]]:
        """Mean and flat rows of the space at the vertices that the callipers use, float64."""
        used = self.callipers.vertices
        rows = self.space.rows[:, used].double().flatten(1)
        return self.space.mean[used].double().numpy(), rows.numpy()


def draw_weights(
    population: Population,
    seed: int,
    indices: Int[np.ndarray, " B"],
    families: Families = "all",
) -> Draw:
    """Plausible people: drawn again, with fresh numbers of their own, until their sizes are.

    Sizes are measured in float64 on the CPU, so every device draws the same people.
    """
    space, callipers = population.space, population.callipers
    edges = np.cumsum(shares(space, families))[:-1]
    source = np.searchsorted(edges, uniforms(seed, indices, "source", 1)[:, 0], side="right")
    mean, rows = population.measured
    weights = np.zeros((len(indices), len(space.names)))
    attempts = np.zeros(len(indices), dtype=np.int64)
    open_ = np.arange(len(indices))
    for attempt in range(ATTEMPTS):
        found = _weights(space, source[open_], seed, indices[open_], attempt)
        sizes = callipers((found @ rows).reshape(len(open_), -1, 3) + mean)
        bad = implausible(sizes)
        weights[open_[~bad]] = found[~bad]
        open_ = open_[bad]
        attempts[open_] += 1
        if not len(open_):
            break
    return Draw(weights, source, attempts)


def _weights(
    space: ShapeSpace, source: np.ndarray, seed: int, indices: np.ndarray, attempt: int
) -> Float[np.ndarray, "B K"]:
    weights = np.zeros((len(indices), len(space.names)))

    def even(name: str, count: int) -> np.ndarray:
        return uniforms(seed, indices, f"{attempt}/{name}", count)

    def normal(name: str, count: int) -> np.ndarray:
        return normals(seed, indices, f"{attempt}/{name}", count)

    anny, ict, both, strong = ((source == k)[:, None] for k in range(4))
    groups = space.groups
    control = weights[:, groups["control"]]
    control[:] = _controls(space, seed, indices, attempt) * (anny | both | strong)
    stretch = weights[:, groups["stretch"]]
    common = STRETCH_SPREAD * normal("size", 1)
    stretch[:] = np.where(ict, STRETCH["ict"], STRETCH["anny"]) + common
    asymmetry = weights[:, groups["asymmetry"]]
    asymmetry[:] = _asymmetries(even("asymmetries", 1 + asymmetry.shape[1]), normal)
    if "ict" in groups:
        modes = weights[:, groups["ict"]]
        spread = 0.7 + 0.7 * even("ict spread", 1)
        person = spread * normal("ict", modes.shape[1] - 1)
        modes[:, 0] = ict[:, 0]
        modes[:, 1:] = person * (ict + 0.6 * both)
    weak = even("field", 2)
    low, high = (
        np.where(strong, STRONG_MM[0], WEAK_MM[0]),
        np.where(strong, STRONG_MM[1], WEAK_MM[1]),
    )
    size = (low + (high - low) * weak[:, 1:]) * (strong | (weak[:, :1] < 0.5)) / 1000 / PEAK
    field = weights[:, groups["field"]]
    field[:] = size * field_spectrum(space).reshape(-1) * normal("field modes", field.shape[1])
    return weights


def _controls(
    space: ShapeSpace, seed: int, indices: np.ndarray, attempt: int
) -> Float[np.ndarray, "B C"]:
    names = space.named("control")
    column = {name: k for k, name in enumerate(names)}
    weights = np.zeros((len(indices), len(names)))
    u = uniforms(seed, indices, f"{attempt}/phenotypes", 2)
    z = normals(seed, indices, f"{attempt}/builds", 3)
    who = Phenotypes(
        female=u[:, 0],
        old=0.9 * (1 - (1 - u[:, 1]) ** (1 / 1.6)),  # Beta(1, 1.6)
        muscle=np.clip(0.5 + 0.17 * z[:, 0], 0, 1),
        fat=np.clip(0.5 + 0.17 * z[:, 1], 0, 1),
        tall=np.clip(0.5 + 0.05 * z[:, 2], 0, 1),
        race=dirichlet(seed, indices, f"{attempt}/race", 0.7, 3),
    )
    for name, value in phenotype_weights(who).items():
        weights[:, column[name]] = value
    shapes = normals(seed, indices, f"{attempt}/shapes", len(SHAPES))
    for k, shape in enumerate(SHAPES):
        weights[:, column[f"head/head-{shape}"]] = SLIDER_SPREAD * np.abs(shapes[:, k])
    low = [k for k, name in enumerate(names) if name.endswith("-")]
    high = [column[names[k][:-1] + "+"] for k in low]
    used = uniforms(seed, indices, f"{attempt}/used", len(low)) < ACTIVE
    value = ACTIVE_SPREAD * normals(seed, indices, f"{attempt}/controls", len(low)) * used
    weights[:, low] = np.clip(-value, 0, 1)
    weights[:, high] = np.clip(value, 0, 1)
    for name, value in MEANS.items():
        weights[:, column[name]] += value
    return weights


def _asymmetries(even: np.ndarray, normal) -> Float[np.ndarray, "B A"]:
    """None to `ASYMMETRIES` one-sided shapes, either way round."""
    count = np.floor(even[:, :1] * (ASYMMETRIES + 1))
    rank = even[:, 1:].argsort(1).argsort(1)
    value = np.clip(ASYMMETRY_SPREAD * normal("asymmetry", rank.shape[1]), -1, 1)
    return np.where(rank < count, value, 0.0)


def field_spectrum(space: ShapeSpace) -> Float[np.ndarray, "F 3"]:
    """Deviation of each field's weight for an rms of 1: long waves more, one-sided ones less."""
    wave = space.wavelength.cpu().double().numpy()[:, None]
    share = np.where(space.even.cpu().numpy() == 1, 1.0, LOPSIDED) * wave / (1 + (wave / 0.3) ** 2)
    return share / np.sqrt((share**2).sum())
