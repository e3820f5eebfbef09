"""The training loop: closed forms of schedule and average, and a stop that changes nothing."""

import copy
import math

import pytest
import torch
from torch import nn

from topohead.solvers.training import Schedule, Training, average_at, rate_at, train

SCHEDULE = Schedule(steps=60, batch=4, rate=0.02, warmup=10, average=0.9)


def toy(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def losses_of(network: nn.Module, step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 3, generator=generator)
    error = network(x)[:, 0] - x.sum(1)
    return {"loss": error.square().mean(), "size": error.abs().mean()}


def run(training: Training, until: int | None = None) -> list[dict[str, float]]:
    told = []
    steps = train(
        training,
        lambda step: step,
        lambda step: losses_of(training.network, step),
        lambda l: l.backward(),
    )
    for step in steps:
        if step % 7 == 0:
            told.append(training.told())
        if step == until:
            break
    return told


def test_averaged_gradients_make_the_same_steps() -> None:
    """Two halves of a batch, their gradients averaged as processes do: the same weights."""
    whole, part = toy(), toy()
    training = Training(part, SCHEDULE, 20)
    run(Training(whole, SCHEDULE, 20))

    def half(step: int, second: bool) -> dict[str, torch.Tensor]:
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(step))[8 * second :][:8]
        error = part(x)[:, 0] - x.sum(1)
        return {"loss": error.square().mean()}

    def averaged(gradients: torch.Tensor) -> None:
        loss = half(training.step, second=True)["loss"]
        other = torch.autograd.grad(loss, list(part.parameters()))
        gradients.add_(torch.cat([each.flatten() for each in other])).div_(2)

    for _ in train(
        training,
        lambda step: step,
        lambda step: half(step, second=False),
        lambda loss: loss.backward(),
        averaged=averaged,
    ):
        pass
    for mine, theirs in zip(part.parameters(), whole.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_rate_rises_linearly_then_falls_as_half_a_cosine() -> None:
    assert rate_at(0, 60, SCHEDULE) == pytest.approx(0.002)
    assert rate_at(9, 60, SCHEDULE) == pytest.approx(0.02)
    assert rate_at(10, 60, SCHEDULE) == pytest.approx(0.02)
    assert rate_at(35, 60, SCHEDULE) == pytest.approx(0.01)
    assert rate_at(60, 60, SCHEDULE) == pytest.approx(0, abs=1e-12)
    # the warm-up does not know how long the run is
    assert [rate_at(k, 60, SCHEDULE) for k in range(10)] == [
        rate_at(k, 10_000, SCHEDULE) for k in range(10)
    ]


def test_the_average_forgets_more_at_first() -> None:
    assert average_at(0, SCHEDULE) == pytest.approx(0.01)
    assert average_at(300, SCHEDULE) == pytest.approx(301 / 400)
    assert average_at(10_000, SCHEDULE) == pytest.approx(0.9)


def test_the_average_of_known_weights() -> None:
    """Weights that are 1 after n steps from 0: the average is 1 − Π decay."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    training = Training(network, SCHEDULE, 20)

    def jump(step: int) -> dict[str, torch.Tensor]:
        return {"loss": network.weight.sum() * 0}

    for _ in train(training, lambda step: step, jump, lambda l: l.backward()):
        with torch.no_grad():
            network.weight.fill_(1.0)
    # the first step still saw a zero
    left = math.prod(average_at(step, SCHEDULE) for step in range(1, 20))
    decay = SCHEDULE.rate * SCHEDULE.decay  # AdamW shrinks a weight of 1 by at most this a step
    assert float(training.average["weight"]) == pytest.approx(1 - left, abs=2 * decay)
    with training.averaged() as averaged:
        assert float(averaged.weight.detach()) == pytest.approx(1 - left, abs=2 * decay)
        assert not averaged.training
    assert float(network.weight.detach()) == 1.0


def test_a_stopped_run_walks_the_same_way() -> None:
    whole = Training(toy(), SCHEDULE, 60)
    told = run(whole)
    first = Training(toy(), SCHEDULE, 60)
    before = run(first, until=25)
    state = copy.deepcopy(first.state())
    run(first)  # goes on after the checkpoint, as a killed run does
    second = Training(toy(seed=9), SCHEDULE, 60)
    second.load(state)
    assert second.step == 25
    after = run(second)
    assert before + after == told
    for name, value in whole.average.items():
        assert torch.equal(second.average[name], value)
    for (_, a), (_, b) in zip(whole._weights(), second._weights(), strict=True):
        assert torch.equal(a, b)


def test_it_learns_and_gradients_are_cut() -> None:
    training = Training(toy(), SCHEDULE, 60)
    told = run(training)
    assert told[-1]["loss"] < 0.3 * told[0]["loss"]
    steep = Training(toy(), Schedule(steps=1, batch=1, warmup=1), 1)

    def cliff(step: int) -> dict[str, torch.Tensor]:
        return {"loss": 1e6 * losses_of(steep.network, step)["loss"]}

    for _ in train(steep, lambda step: step, cliff, lambda l: l.backward()):
        norm = torch.stack([p.grad.norm() for p in steep.network.parameters()]).norm()
        assert float(norm) == pytest.approx(1.0, rel=1e-4)


def test_children_apart_are_cut_apart() -> None:
    """A child's steep gradient leaves the step of the other as it is."""
    network = nn.ModuleDict({"a": nn.Linear(1, 1, bias=False), "b": nn.Linear(1, 1, bias=False)})
    training = Training(network, Schedule(steps=1, batch=1, warmup=1, apart=("a", "b")), 1)

    def steep(step: int) -> dict[str, torch.Tensor]:
        return {"loss": 1e6 * network["a"].weight.sum() + 0.5 * network["b"].weight.sum()}

    for _ in train(training, lambda step: step, steep, lambda l: l.backward()):
        assert float(network["a"].weight.grad) == pytest.approx(1, rel=1e-4)
        assert float(network["b"].weight.grad) == pytest.approx(0.5, rel=1e-4)
