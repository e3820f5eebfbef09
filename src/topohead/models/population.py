"""A population of heads drawn from MakeHuman's shape controls, and its principal modes."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Target = Callable[[str], np.ndarray]
"""Reads a morph target by name: deltas [V 3] in metres."""

SLIDER_SPREAD = 0.17
"""Standard deviation of a two-ended control whose ends are ±1."""

SHAPES = ("oval", "round", "rectangular", "square", "triangular", "invertedtriangular", "diamond")
"""One-ended head shapes; weights are half-normal with `SLIDER_SPREAD`."""


@dataclass(frozen=True)
class Population:
    """Adults as a distribution over weights of morph targets.

    `base` is the undeformed mesh [V 3], `sliders` name two-ended controls (see `BaseMesh`), `area`
    weights vertices in alignment and components [V], `anchor` marks vertices that alignment may
    use, `mirror` is the opposite vertex.
    """

    base: np.ndarray
    target: Target
    sliders: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
    area: np.ndarray
    anchor: np.ndarray
    mirror: np.ndarray

    def sample(self, count: int, seed: int) -> np.ndarray:
        """Heads [count V 3], float32 metres: exactly symmetric, moved onto their common mean.

        Only rotation and translation are taken out, so size is kept.
        """
        random = np.random.default_rng(seed)
        weights = phenotype_weights(_phenotypes(random, count))
        for ends in self.sliders.values():
            value = np.clip(random.normal(0, SLIDER_SPREAD, count), -1, 1)
            for names, weight in zip(
                ends, (np.maximum(-value, 0), np.maximum(value, 0)), strict=True
            ):
                weights.update(dict.fromkeys(names, weight))
        for shape in SHAPES:
            weights[f"head/head-{shape}"] = np.abs(random.normal(0, SLIDER_SPREAD, count))
        heads = np.broadcast_to(self.base.astype(np.float32), (count, *self.base.shape)).copy()
        for names in _batches(list(weights), 32):
            deltas = np.stack([self.target(name).astype(np.float32) for name in names])
            mixed = np.stack([weights[name] for name in names], 1).astype(np.float32)
            heads += np.tensordot(mixed, deltas, 1)
        heads = (heads + heads[:, self.mirror] * np.array([-1, 1, 1], dtype=np.float32)) / 2
        return self._aligned(heads)

    def _aligned(self, heads: np.ndarray) -> np.ndarray:
        weight = (self.area * self.anchor).astype(np.float32)
        weight /= weight.sum()
        reference = heads[0]
        for _ in range(2):
            heads = _onto(heads, reference, weight)
            reference = heads.mean(0)
        return heads

    def basis(self, modes: int, count: int = 1200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Mean head [V 3] and modes [modes V 3], each one standard deviation of the population.

        Principal components under area weights; a mode's sign makes the largest entry
        of the left side positive.
        """
        heads = self.sample(count, seed)
        mean = heads.mean(0)
        flat = ((heads - mean) * np.sqrt(self.area / self.area.sum())[:, None]).reshape(count, -1)
        _, vectors = np.linalg.eigh((flat @ flat.T).astype(np.float64))
        scores = vectors[:, ::-1][:, :modes] * np.sqrt(count - 1)
        # Regressing the heads on unit-variance scores gives each mode at one standard deviation.
        components = np.tensordot(scores.T / (count - 1), heads - mean, 1)
        # One side only: in the other each entry returns, x with the opposite sign.
        side = components[:, self.base[:, 0] > 1e-6].reshape(modes, -1)
        sign = np.sign(side[np.arange(modes), np.abs(side).argmax(1)])
        return mean.astype(np.float64), components * sign[:, None, None]


@dataclass(frozen=True)
class Phenotypes:
    """What MakeHuman's macro targets are mixed from, one entry a person.

    `female`, `old` (young otherwise) and `tall` in [0, 1]; `muscle` and `fat` in [0, 1], ½ being
    average; `race` sums to one over African, Asian, Caucasian.
    """

    female: Float[np.ndarray, " N"]
    old: Float[np.ndarray, " N"]
    muscle: Float[np.ndarray, " N"]
    fat: Float[np.ndarray, " N"]
    tall: Float[np.ndarray, " N"]
    race: Float[np.ndarray, "N 3"]


def _phenotypes(random: np.random.Generator, count: int) -> Phenotypes:
    """Adults. Spreads are set so that heads vary in size as adults do.

    Distance between the eyes 62 ± 3 mm, height of the head 242 ± 15 mm.
    """
    return Phenotypes(
        female=random.uniform(0, 1, count),
        old=0.9 * random.beta(1.0, 1.6, count),
        muscle=np.clip(random.normal(0.5, 0.17, count), 0, 1),
        fat=np.clip(random.normal(0.5, 0.17, count), 0, 1),
        tall=np.clip(random.normal(0.5, 0.05, count), 0, 1),
        race=random.dirichlet([0.7] * 3, count),
    )


def phenotype_weights(of: Phenotypes) -> dict[str, np.ndarray]:
    """Weights [N] of MakeHuman's macro targets for adults: products of what each is made of.

    Body height changes the size of the head and is taken at average muscle and weight;
    proportions only lift the head and are left out.
    """
    gender = {"female": of.female, "male": 1 - of.female}
    age = {"old": of.old, "young": 1 - of.old}
    muscle, fat = _three(of.muscle, "muscle"), _three(of.fat, "weight")
    race = dict(zip(("african", "asian", "caucasian"), of.race.T, strict=True))
    weights = {}
    for g, a in itertools.product(gender, age):
        both = gender[g] * age[a]
        for m, w in itertools.product(muscle, fat):
            weights[f"macrodetails/universal-{g}-{a}-{m}-{w}"] = both * muscle[m] * fat[w]
        for r, value in race.items():
            weights[f"macrodetails/{r}-{g}-{a}"] = both * value
        for h, value in (("min", 1 - of.tall), ("max", of.tall)):
            name = f"macrodetails/height/{g}-{a}-averagemuscle-averageweight-{h}height"
            weights[name] = both * value
    return weights


def _three(value: np.ndarray, what: str) -> dict[str, np.ndarray]:
    """A control with a middle: linear between min at 0, average at ½ and max at 1."""
    return {
        f"min{what}": np.maximum(1 - 2 * value, 0),
        f"average{what}": 1 - np.abs(2 * value - 1),
        f"max{what}": np.maximum(2 * value - 1, 0),
    }


def _onto(heads: np.ndarray, reference: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Every head turned and shifted onto the reference (weighted least squares)."""
    centre = np.einsum("v,svk->sk", weight, heads)
    goal = weight @ reference
    source, target = heads - centre[:, None], reference - goal
    u, _, vt = np.linalg.svd(np.einsum("vk,svl->skl", target * weight[:, None], source))
    flip = np.ones((len(heads), 3), dtype=heads.dtype)
    flip[:, 2] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * flip[:, None]) @ vt
    return source @ rotation.transpose(0, 2, 1) + goal


def _batches(names: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]
