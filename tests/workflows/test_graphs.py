"""A captured function is the function."""

import pytest
import torch

from topohead.workflows.training import register
from topohead.workflows.training.graphs import captured
from topohead.workflows.training.register import register_task


def test_on_a_cpu_nothing_is_captured() -> None:
    assert captured(torch.neg, torch.zeros(2)) is torch.neg


@pytest.mark.gpu
def test_captured_batches_are_those_of_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    task = register_task("xs", 0, torch.device("cuda"))
    replayed = [task.batch(step, 0, 1) for step in (0, 5, 0)]
    monkeypatch.setattr(register, "captured", lambda function, example: function)
    task = register_task("xs", 0, torch.device("cuda"))
    plain = [task.batch(step, 0, 1) for step in (0, 5, 0)]
    for a, b in zip(replayed, plain, strict=True):
        assert torch.allclose(a.near["points"], b.near["points"], atol=1e-6)
        assert torch.equal(a.near["valid"], b.near["valid"])
        assert torch.allclose(a.truth.vertices, b.truth.vertices, atol=1e-6)
    assert not torch.equal(replayed[0].near["points"], replayed[1].near["points"])


@pytest.mark.gpu
def test_a_function_that_waits_is_called_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def waiting(values: torch.Tensor) -> torch.Tensor:
        return values * float(values.sum())

    found = captured(waiting, torch.ones(3, device="cuda"))
    assert "no CUDA graph" in caplog.text
    assert torch.equal(found(torch.ones(3, device="cuda")).cpu(), torch.full((3,), 3.0))
