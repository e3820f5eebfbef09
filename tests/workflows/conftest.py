"""What tests of registering share."""

from collections.abc import Callable

import pytest
import torch

from planted_scan import Planted
from topohead.core import HeadModel
from topohead.core.scans import Scan, ScanFit
from topohead.workflows.registering import methods


@pytest.fixture
def knowing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Planted], None]:
    """Puts the planted answer in the place of a method: for tests of what is made of it."""

    def answer(truth: Planted) -> None:
        def fit(scan: Scan, head: HeadModel, means: methods.Means) -> methods.Found:
            low, high = truth.vertices.aminmax(dim=0)
            around = ((scan.points > low - 0.02) & (scan.points < high + 0.02)).all(1)
            sigma = torch.full((len(truth.vertices),), 1e-3)
            return ScanFit(truth.vertices, sigma, truth.pose, truth.expression, around), ()

        monkeypatch.setitem(methods.STARTS, "template", fit)  # pyright: ignore

    return answer
