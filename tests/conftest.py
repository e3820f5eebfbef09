"""Shapes are checked at run time in tests; shared test data is optional."""

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.pop("TOPOHEAD_ICT", None)  # tests name the families that they want

import torch
from jaxtyping import install_import_hook

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported

# compilers cannot read functions that the hook has wrapped: load the kernels before it is there
SOURCE = Path(__file__).parents[1] / "src"
KERNELS = [
    *SOURCE.glob("*/rendering/*_cpu.py"),
    *SOURCE.glob("*/io/*_cpu.py"),
    *SOURCE.glob("*/rendering/*_triton*.py"),
    *SOURCE.glob("*/geometry/*_triton.py"),
    *SOURCE.glob("*/synthesis/*_triton.py"),
    *SOURCE.glob("*/solvers/kernels/[!_]*.py"),
]
for kernels in KERNELS:
    if find_spec("triton") or "_triton" not in kernels.stem:
        import_module(".".join(kernels.relative_to(SOURCE).with_suffix("").parts))

install_import_hook("topohead", "typechecking.checked")

import pytest  # noqa: E402 -- after the hook, which sees only what is imported later


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
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
