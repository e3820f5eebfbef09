"""Shapes are checked at run time in tests; shared test data is optional."""

import os
from importlib import import_module
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from jaxtyping import install_import_hook

# numba cannot compile functions that the hook has wrapped: load the kernels before it is there
SOURCE = Path(__file__).parents[1] / "src"
for kernels in [*SOURCE.glob("*/rendering/*_cpu.py"), *SOURCE.glob("*/solvers/kernels/[!_]*.py")]:
    import_module(".".join(kernels.relative_to(SOURCE).with_suffix("").parts))

install_import_hook("topohead", "typechecking.checked")

import pytest  # noqa: E402 -- after the hook, which sees only what is imported later


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
