"""One training loop for every network, as a generator: who iterates owns clock, disk and device.

What a step does depends on its number alone: its batch, its rate, how much the average forgets. So
a run that was stopped and resumed walks the same way as one that never stopped.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Losses = Mapping[str, Float[Tensor, ""]]
"""The total under `loss`, and its parts."""


@dataclass(frozen=True)
class Schedule:
    """Steps, samples a step, and the numbers of AdamW (Loshchilov and Hutter 2019).

    Losses are told every `told` steps, the validation measured every `validated`. Gradients are
    cut to the norm `clip`; child modules named in `apart`, which share nothing with the rest, each
    by a norm of their own, so that the noise of one does not shorten the steps of the other.
    """

    steps: int
    batch: int
    rate: float = 1.5e-3
    warmup: int = 200
    average: float = 0.999
    clip: float = 1.0
    apart: tuple[str, ...] = ()
    decay: float = 0.01
    told: int = 50
    validated: int = 500


@dataclass(frozen=True)
class Task:
    """What is trained.

    `batch(step, part, parts)` makes the part of a step's batch that one of `parts` processes
    sees; `loss(network, batch)` calls the network once; `validate` and `evaluate` measure it.
    `describe` is what is needed to build the network again.
    """

    network: nn.Module
    schedule: Schedule
    batch: Callable[[int, int, int], Any]
    loss: Callable[[nn.Module, Any], Losses]
    validate: Callable[[nn.Module], dict[str, float]]
    evaluate: Callable[[nn.Module], dict[str, Any]]
    describe: Mapping[str, Any] = field(default_factory=dict)


def rate_at(step: int, steps: int, schedule: Schedule) -> float:
    """The learning rate of a step: a linear rise, then half a cosine down to zero at `steps`."""
    if step < schedule.warmup:
        return schedule.rate * (step + 1) / schedule.warmup
    share = (step - schedule.warmup) / max(1, steps - schedule.warmup)
    return schedule.rate * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def average_at(step: int, schedule: Schedule) -> float:
    """How much of the average stays in a step; less at first, when the weights are still random."""
    return min(schedule.average, (1 + step) / (100 + step))


class Training:
    """All that changes while a network is trained; `state` and `load` carry it over a stop.

    `average` is the exponential moving average of the floating-point weights. `steps` is None until
    it is known how many fit. `window` sums the losses since they were last told. On CUDA the
    learning rate and the average's share of a step are tensors, which a CUDA graph reads anew.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, steps: int | None) -> None:
        self.network = network
        self.schedule = schedule
        self.steps = steps
        self.step = 0
        device = next(network.parameters()).device
        cuda = device.type == "cuda"
        self.rate = torch.zeros((), device=device)
        self.taken = torch.zeros((), device=device)
        self.optimizer = torch.optim.AdamW(
            network.parameters(),
            self.rate if cuda else 0.0,
            weight_decay=schedule.decay,
            fused=cuda,
            capturable=cuda,
        )
        self.average = {name: value.detach().clone() for name, value in self._weights()}
        self.window: dict[str, Tensor] = {}
        self.window_steps = 0

    def _weights(self) -> list[tuple[str, Tensor]]:
        return list(self.network.named_parameters())

    def state(self) -> dict[str, Any]:
        """Everything, as `torch.save` keeps it."""
        return {
            "step": self.step,
            "steps": self.steps,
            "network": dict(self._weights()),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "window": self.window,
            "window_steps": self.window_steps,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken; the network must be of the same shape."""
        with torch.no_grad():
            for name, value in self._weights():
                value.copy_(state["network"][name])
                self.average[name].copy_(state["average"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.rate.is_cuda:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate
        self.step, self.steps = state["step"], state["steps"]
        device = next(self.network.parameters()).device
        self.window = {name: value.to(device) for name, value in state["window"].items()}
        self.window_steps = state["window_steps"]

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The network with the averaged weights inside the block, in evaluation mode."""
        own = {name: value.detach().clone() for name, value in self._weights()}
        self.network.eval()
        try:
            self._write(self.average)
            yield self.network
        finally:
            self._write(own)
            self.network.train()

    def _write(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self._weights():
                value.copy_(weights[name])

    def told(self) -> dict[str, float]:
        """Mean losses since the last call."""
        means = {name: float(total) / self.window_steps for name, total in self.window.items()}
        self.window, self.window_steps = {}, 0
        return means

    def set_step(self) -> None:
        """The rate of the step that comes, and how much of its weights the average takes."""
        rate = rate_at(self.step, self.steps or self.schedule.warmup, self.schedule)
        self.rate.fill_(rate)
        self.taken.fill_(1 - average_at(self.step, self.schedule))
        if not self.rate.is_cuda:
            for group in self.optimizer.param_groups:
                group["lr"] = rate

    def clipped(self) -> list[list[Tensor]]:
        """Weights whose gradients have a norm in common."""
        groups: dict[str, list[Tensor]] = {}
        for name, weight in self._weights():
            child = name.split(".")[0]
            groups.setdefault(child if child in self.schedule.apart else "", []).append(weight)
        return list(groups.values())


Work = Callable[[Any], Any]


def train(
    training: Training,
    batch_of: Callable[[int], Any],
    losses_of: Callable[[Any], Losses],
    backward: Callable[[Tensor], None],
    hastened: Callable[[Work], Work] = lambda work: work,
    averaged: Callable[[Float[Tensor, " N"]], None] | None = None,
) -> Iterator[int]:
    """One step of AdamW at a time; yields the number of steps done.

    `losses_of` runs the network on what `batch_of(step)` made; `backward` differentiates.
    `hastened` may replace all work on a batch by something that does the same sooner. `averaged`
    turns all gradients, one after the other, into their mean over processes, in place.
    """
    schedule = training.schedule
    names, weights = zip(*training._weights(), strict=True)
    averages = [training.average[name] for name in names]
    clipped = training.clipped()
    sizes = [weight.numel() for weight in weights]

    def differentiated(batch: Any) -> dict[str, Tensor]:
        losses = losses_of(batch)
        training.optimizer.zero_grad(set_to_none=True)
        backward(losses["loss"])
        return {name: value.detach().float() for name, value in losses.items()}

    def updated() -> None:
        for group in clipped:
            nn.utils.clip_grad_norm_(group, schedule.clip)
        training.optimizer.step()
        with torch.no_grad():
            change = torch._foreach_sub(weights, averages)
            torch._foreach_mul_(change, training.taken)
            torch._foreach_add_(averages, change)

    def alone(batch: Any) -> dict[str, Tensor]:
        losses = differentiated(batch)
        updated()
        return losses

    def lined_up(batch: Any) -> tuple[dict[str, Tensor], Tensor]:
        losses = differentiated(batch)
        return losses, torch.cat([_gradient(weight).flatten() for weight in weights])

    def taken_back(gradients: Float[Tensor, " N"]) -> None:
        parts = zip(weights, gradients.split(sizes), strict=True)
        for weight, part in parts:
            _gradient(weight).copy_(part.view_as(weight))
        updated()

    quick = hastened(alone)
    if averaged is not None:
        # what waits for other processes lies between two pieces of work that do not
        first, second, mean = hastened(lined_up), hastened(taken_back), averaged

        def in_two(batch: Any) -> dict[str, Tensor]:
            losses, gradients = first(batch)
            mean(gradients)
            second(gradients)
            return losses

        quick = in_two

    while training.steps is None or training.step < training.steps:
        training.set_step()
        for name, value in quick(batch_of(training.step)).items():
            training.window[name] = training.window.get(name, 0) + value
        training.window_steps += 1
        training.step += 1
        yield training.step


def _gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None, "a weight that no loss reaches"
    return weight.grad
