"""A captured function is the function."""

import pytest
import torch
from torch import nn

from topohead.solvers.training import Schedule, Training, train
from topohead.workflows.training import register
from topohead.workflows.training.graphs import captured, repeated
from topohead.workflows.training.register import register_task


def test_on_a_cpu_nothing_is_captured() -> None:
    made = captured(torch.neg, lambda step: torch.full((2,), float(step)))
    assert torch.equal(made(3), torch.full((2,), -3.0))


@pytest.mark.gpu
def test_captured_batches_are_those_of_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    task = register_task("xs", 0, torch.device("cuda"))
    replayed = [task.batch(step, 0, 1) for step in (0, 5, 6, 0)]
    monkeypatch.setattr(
        register, "captured", lambda function, inputs_of: lambda step: function(inputs_of(step))
    )
    task = register_task("xs", 0, torch.device("cuda"))
    plain = [task.batch(step, 0, 1) for step in (0, 5, 6, 0)]
    for a, b in zip(replayed, plain, strict=True):
        assert torch.allclose(a.near["points"], b.near["points"], atol=1e-6)
        assert torch.equal(a.near["valid"], b.near["valid"])
        assert torch.allclose(a.truth.vertices, b.truth.vertices, atol=1e-6)
    assert not torch.equal(replayed[0].near["points"], replayed[1].near["points"])


@pytest.mark.gpu
def test_a_function_that_waits_is_called_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def waiting(values: torch.Tensor) -> torch.Tensor:
        return values * float(values.sum())

    found = captured(waiting, lambda step: torch.ones(3, device="cuda"))
    assert "no CUDA graph" in caplog.text
    assert torch.equal(found(0).cpu(), torch.full((3,), 3.0))


@pytest.mark.gpu
def test_steps_from_a_graph_are_the_steps() -> None:
    """Rate, average and optimiser go on inside the graph as they do outside."""
    schedule = Schedule(steps=40, batch=4, rate=0.02, warmup=10, average=0.9, apart=("0",))
    ended = []
    for hastened in ((), (repeated,)):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).cuda()
        training = Training(network, schedule, 40)

        def losses_of(x: torch.Tensor, network: nn.Module = network) -> dict[str, torch.Tensor]:
            return {"loss": (network(x)[:, 0] - x.sum(1)).square().mean()}

        def batch_of(step: int) -> torch.Tensor:
            return torch.randn(16, 3, generator=torch.Generator().manual_seed(step)).cuda()

        for _ in train(training, batch_of, losses_of, lambda loss: loss.backward(), *hastened):
            pass
        ended.append((training.average, training.told()))
    (first, told), (second, told_again) = ended
    assert told["loss"] == pytest.approx(told_again["loss"], rel=1e-4)
    for name, value in first.items():
        assert torch.allclose(value, second[name], atol=1e-5)
