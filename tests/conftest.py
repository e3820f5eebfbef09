"""Shapes are checked at run time in tests; shared test data is optional."""

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from jaxtyping import install_import_hook

install_import_hook("topohead", "beartype.beartype")

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The optional folder of real inputs, beside the repository or in TOPOHEAD_TEST_DATA."""
    default = Path(__file__).parents[2] / "shared" / "data"
    path = Path(os.environ.get("TOPOHEAD_TEST_DATA", default))
    if not path.is_dir():
        pytest.skip("no shared test data beside the repository")
    return path
