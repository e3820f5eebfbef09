"""Processes of a training, and what they ask of their devices and of one another."""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from topohead.core.errors import InputError
from topohead.solvers.training import Training


def fabric_of(device: str, devices: int) -> Any:
    """Lightning Fabric on the chosen devices; bfloat16 autocast on CUDA, float32 on a CPU.

    Under torchrun it decides how many processes there are. InputError without Lightning or enough
    devices.
    """
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies import DDPStrategy
    except ImportError:
        try:
            # the full package brings it under this name
            from lightning.fabric import Fabric  # pyright: ignore[reportMissingImports]
            from lightning.fabric.strategies import (  # pyright: ignore[reportMissingImports]
                DDPStrategy,
            )
        except ImportError as error:
            raise InputError(
                "training needs Lightning Fabric; install it with: pip install 'topohead[train]'"
            ) from error
    for talker in ("lightning_fabric", "lightning.fabric", "lightning"):
        logging.getLogger(talker).setLevel(logging.WARNING)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    here = int(os.environ.get("LOCAL_WORLD_SIZE", devices))
    nodes = int(os.environ.get("WORLD_SIZE", here)) // here
    if device == "cuda" and here > torch.cuda.device_count():
        raise InputError(
            f"--devices {here}: this machine has {torch.cuda.device_count()} CUDA devices"
        )

    class Processes(DDPStrategy):  # pyright: ignore[reportGeneralTypeIssues]
        """One a device. They share no module: the loop averages gradients between its graphs."""

        def setup_module(self, module: Any) -> Any:
            return module

    return Fabric(
        accelerator=device,
        devices=here,
        num_nodes=nodes,
        strategy=Processes() if here * nodes > 1 else "auto",
        precision="bf16-mixed" if device == "cuda" else "32-true",
    )


def synchronised(fabric: Any) -> float:
    """The time when the device has done what it was told."""
    if fabric.device.type == "cuda":
        torch.cuda.synchronize(fabric.device)
    return time.monotonic()


def agreed(fabric: Any, asked: bool, now: bool) -> bool:
    """Whether to stop; several processes ask one another now and then, for none may stop alone."""
    if fabric.world_size == 1:
        return asked
    if not now:
        return False
    votes = torch.tensor(float(asked), device=fabric.device)
    return float(fabric.all_reduce(votes, reduce_op="sum")) > 0


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """On a CPU sums in one order: torch's threads add to shared places as they come otherwise."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def measured_network(training: Training) -> Iterator[Any]:
    """The averaged network, not compiled anew for the shapes of a measurement."""
    with training.averaged() as network, torch.compiler.set_stance("force_eager"):
        yield network


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or an interrupt came; the step that runs is finished first."""
    asked: list[int] = []
    signals = (signal.SIGTERM, signal.SIGINT)
    try:
        before = [signal.signal(each, lambda number, _: asked.append(number)) for each in signals]
    except ValueError:  # only the main thread may listen
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)
