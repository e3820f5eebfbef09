"""How well an autoencoder of heads keeps people that it never saw, and what its latent is like."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from topohead.core.shapes import ExpressionSource
from topohead.geometry.meshes import face_normals
from topohead.geometry.subdivision import Parents
from topohead.losses.head_vae import divergence
from topohead.models.head_queries import Queries
from topohead.models.head_vae import HeadVae
from topohead.models.latents import fit_directions, interpolated, labels_of, moved
from topohead.synthesis.attributes import ATTRIBUTES, PHENOTYPES, attributes, measured
from topohead.synthesis.datasets import PosedPeople, sample_indices
from topohead.synthesis.shapes import Heads, Shapes
from topohead.synthesis.splits import SEEDS, Split

CHUNK = 64
"""Heads decoded at once."""

MODES = (50, 100, 200)
"""Of the linear model beside the autoencoder, and as many as the latent has numbers."""

ACTIVE = 0.01
"""A channel whose mean varies less between people, in squared units of the prior, says nothing
(Burda et al. 2016)."""

LABELLED = 4096
"""Neutral training people that directions are fitted to."""

STEPS = 16
"""Steps of an interpolation."""


class LinearModel(NamedTuple):
    """A mean head and orthonormal modes, the widest first."""

    mean: Float[Tensor, " M"]
    modes: Float[Tensor, "K M"]


class Scorer:
    """Measures an autoencoder on validation and test people of a seed.

    `fitted` are training people; `points` and `parents` are those of level 1.
    """

    def __init__(
        self,
        shapes: Shapes,
        expressions: ExpressionSource,
        seed: int,
        fitted: Float[Tensor, "P V 3"],
        points: Queries,
        parents: Parents,
    ) -> None:
        self.shapes = shapes
        self.seed = seed
        self.fitted = fitted
        self.points, self.parents = points, parents
        self.triangles = shapes.topology.triangles.to(fitted.device)
        self.people = {
            split: PosedPeople(shapes, expressions, self._seed(split))
            for split in ("validation", "test")
        }

    def _seed(self, split: Split) -> int:
        """Every training seed has a seed of its own in the other splits."""
        return SEEDS[split][self.seed % len(SEEDS[split])]

    @torch.no_grad()
    def validate(self, network: nn.Module, count: int) -> dict[str, float]:
        """Mean error of validation people, mm."""
        assert isinstance(network, HeadVae)
        truth, _ = self._drawn("validation", count)
        found = torch.cat(list(self._rebuilt(network, truth)))
        return {"validation": round(float((found - truth).norm(dim=-1).mean() * 1e3), 4)}

    @torch.no_grad()
    def evaluate(self, network: nn.Module, count: int) -> dict[str, Any]:
        """A table by kind of question; sets the network's latent statistics on the way."""
        assert isinstance(network, HeadVae)
        self.measure_latent(network)
        truth, moving = self._drawn("test", count)
        still = {"neutral": ~moving, "moving": moving}
        rebuilt = torch.cat(list(self._rebuilt(network, truth)))
        found = {"autoencoder": rebuilt, "template": network.rest.expand_as(truth)}
        linear = linear_model(self.fitted, network.size.nodes * network.size.channels)
        for modes in sorted({*MODES, len(linear.modes)}):
            if modes <= len(linear.modes):
                found[f"pca {modes}"] = projected(linear, truth, modes)
        rows = {
            kind: {name: self._errors(each[among], truth[among]) for name, each in found.items()}
            for kind, among in still.items()
            if among.any()
        }
        return rows | {
            "level 1": self._finer(network, truth, rebuilt),
            "latent": self._latent(network, truth),
            "between": self._between(network, truth[~moving]),
            "meanings": self._meanings(network, count),
        }

    def measure_latent(self, network: HeadVae) -> None:
        """Mean and deviation of every channel over the training people, and the directions of the
        synthesis' attributes over neutral ones, into the network."""
        tokens = torch.cat(list(self._tokens(network, self.fitted)))
        network.latent_mean.copy_(tokens.mean(0))
        network.latent_deviation.copy_(tokens.std(0).clamp(min=1e-4))
        heads, tokens = self._neutral(network, self.seed, min(len(self.fitted), LABELLED))
        labels, known = (part.to(tokens.device) for part in attributes(heads))
        network.set_directions(fit_directions(network, tokens, labels, known))

    def _drawn(self, split: Split, count: int) -> tuple[Tensor, Tensor]:
        """People of a split and which of them are not neutral."""
        device = self.fitted.device
        vertices, coefficients = self.people[split].at(sample_indices(0, count, device=device))
        return vertices, (coefficients > 0).any(1)

    def _tokens(self, network: HeadVae, vertices: Tensor) -> Iterator[Tensor]:
        for part in vertices.split(CHUNK):
            yield network.encode(part).mean

    def _rebuilt(self, network: HeadVae, vertices: Tensor) -> Iterator[Tensor]:
        basis = network.basis(network.queries)
        for tokens in self._tokens(network, vertices):
            yield network.decode(tokens, basis).points

    def _errors(self, found: Float[Tensor, "B V 3"], truth: Float[Tensor, "B V 3"]) -> Mapping:
        """Of vertices, mm, and of triangles' normals, degrees."""
        error = ((found - truth).norm(dim=-1) * 1e3).flatten().sort().values
        angles = torch.cat([
            self._angles(a, b) for a, b in zip(found.split(CHUNK), truth.split(CHUNK), strict=True)
        ])  # fmt: skip
        last = len(error) - 1
        return {
            "mean_mm": float(error.mean()),
            "median_mm": float(error[last // 2]),
            "p95_mm": float(error[int(0.95 * last)]),
            "worst_mm": float(error[-1]),
            "normals_deg": float(angles.mean()),
        }

    def _angles(self, a: Tensor, b: Tensor) -> Float[Tensor, "B T"]:
        agree = (face_normals(a, self.triangles) * face_normals(b, self.triangles)).sum(-1)
        return torch.rad2deg(torch.acos(agree.clamp(-1, 1)))

    def _finer(self, network: HeadVae, truth: Tensor, rebuilt: Tensor) -> Mapping:
        """Level 1 asked for, against the true level 1 and the one that level 0's answer gives."""
        basis = network.basis(self.points)
        few = slice(0, CHUNK)
        tokens = network.encode(truth[few]).mean
        asked = torch.cat([network.decode(part, basis).points for part in tokens.split(16)])
        goals = {"truth": truth[few], "level 0's answer, subdivided": rebuilt[few]}
        rows = {}
        for name, vertices in goals.items():
            error = (asked - self.parents.places(vertices)).norm(dim=-1).flatten() * 1e3
            rows[name] = {
                "mean_mm": float(error.mean()),
                "p95_mm": float(error.sort().values[int(0.95 * (len(error) - 1))]),
            }
        return rows

    def _latent(self, network: HeadVae, truth: Tensor) -> Mapping:
        """How much of it is used, and what the posterior's own uncertainty does to a head."""
        posterior = network.encode(truth[: 4 * CHUNK])
        nats = divergence(posterior)
        active = posterior.mean.var(0) > ACTIVE
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(0))
        drawn = posterior.mean + noise.to(truth) * posterior.log_deviation.exp()
        basis = network.basis(network.queries)
        apart = [
            (network.decode(a, basis).points - network.decode(b, basis).points).norm(dim=-1)
            for a, b in zip(drawn.split(CHUNK), posterior.mean.split(CHUNK), strict=True)
        ]
        used = {
            "active": float(active.float().mean()),
            "nats_a_token": float(nats.sum(2).mean()),
            "deviation": float(network.latent_deviation.mean()),
            "posterior_deviation": float(posterior.log_deviation.exp().mean()),
            "a_draw_is_off_by_mm": float(torch.cat(apart).mean() * 1e3),
        }
        return {"channels": used}

    def _between(self, network: HeadVae, neutral: Tensor) -> Mapping:
        """From one neutral head to the next: evenness of the steps, triangles turned over."""
        basis = network.basis(network.queries)
        tokens = network.encode(neutral[: 2 * 16]).mean
        shares = torch.linspace(0, 1, STEPS + 1, device=tokens.device)
        uneven, turned, bent = [], [], []
        for a, b in zip(tokens[::2], tokens[1::2], strict=False):
            way = network.decode(interpolated(a, b, shares), basis).points
            step = (way[1:] - way[:-1]).norm(dim=-1).mean(1)
            uneven.append(step.max() / step.mean())
            straight = torch.lerp(way[:1], way[-1:], shares[:, None, None])
            bent.append((way - straight).norm(dim=-1).amax(0).mean() * 1e3)
            ends = torch.minimum(self._angles(way, way[:1].expand_as(way)),
                                 self._angles(way, way[-1:].expand_as(way)))  # fmt: skip
            turned.append((ends > 90).float().mean())
        means = (float(torch.stack(each).mean()) for each in (uneven, bent, turned))
        names = ("longest_step", "off_straight_mm", "turned_over")
        return {"neutral heads": dict(zip(names, means, strict=True))}

    def _meanings(self, network: HeadVae, count: int) -> Mapping:
        """How well labels of test people are read, and what a step of one deviation does."""
        directions = network.directions
        heads, tokens = self._neutral(network, self._seed("test"), count)
        known = attributes(heads)
        told = labels_of(network, directions, tokens).cpu()
        basis = network.basis(network.queries)
        rows: dict[str, dict[str, float]] = {}
        for k, name in enumerate(ATTRIBUTES):
            there = known.known[:, k]
            true, read = known.values[there, k], told[there, k]
            missed = (read - true).square().mean() / true.var(correction=0)
            rows[name] = {"explained": float(1 - missed)}
            if name not in PHENOTYPES:  # a size can be measured again
                both = torch.stack([moved(each, directions, k, (0.0, 1.0)) for each in tokens[:16]])
                points = network.decode(both.flatten(0, 1), basis).points
                size = measured(heads, points)[:, k - len(PHENOTYPES)].view(-1, 2)
                gain = (size[:, 1] - size[:, 0]).mean() / directions.deviation[k].cpu()
                rows[name]["gained"] = float(gain)
        return rows

    def _neutral(self, network: HeadVae, seed: int, count: int) -> tuple[Heads, Tensor]:
        """People at rest and their tokens."""
        heads = self.shapes.draw(seed, torch.arange(count))
        return heads, torch.cat(list(self._tokens(network, heads.rest)))


def linear_model(heads: Float[Tensor, "P V 3"], modes: int) -> LinearModel:
    """Principal components, at most as many as there are heads but one.

    From the products of heads with one another, in float64.
    """
    flat = heads.flatten(1).double()
    mean = flat.mean(0)
    flat = flat - mean
    values, vectors = torch.linalg.eigh(flat @ flat.T)
    kept = min(modes, len(flat) - 1)
    top, strength = vectors[:, -kept:].flip(1), values[-kept:].flip(0)
    axes = (flat.T @ top / strength.clamp(min=1e-18).sqrt()).T
    return LinearModel(mean, axes)


def projected(
    linear: LinearModel, heads: Float[Tensor, "B V 3"], modes: int
) -> Float[Tensor, "B V 3"]:
    """The heads nearest to the given ones that so many modes can make."""
    axes = linear.modes[:modes]
    weights = (heads.flatten(1).double() - linear.mean) @ axes.T
    return (linear.mean + weights @ axes).to(heads.dtype).view_as(heads)
