"""Pieces of work side by side, a core each."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import torch

from topohead.rendering import fields_cpu


@contextmanager
def side_by_side(pieces: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """`map`, but with as many calls at a time as PyTorch may use cores.

    Inside, PyTorch and compiled loops have one core. It is the plain `map` where there is one
    piece or one core, and where numba has no OpenMP or TBB: its own threads serve one caller.
    """
    cores = torch.get_num_threads()
    if min(pieces, cores) < 2 or not _shared():
        yield map
        return
    with ThreadPoolExecutor(min(pieces, cores), initializer=_one_core) as pool:
        try:
            yield pool.map
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(cores)  # what a thread asks for holds for those that follow


def _one_core() -> None:
    torch.set_num_threads(1)
    numba.set_num_threads(1)


def _shared() -> bool:
    """Whether several threads may run compiled loops; known once one has run."""
    nothing = np.zeros((3, 1), np.float32)
    fields_cpu.octaves(nothing, nothing[0], nothing[0], np.zeros(1, np.uint32))
    return numba.threading_layer() != "workqueue"
