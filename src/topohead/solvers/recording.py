"""Work on a CUDA device as one graph: recorded once, then replayed without the host's help."""

from collections.abc import Hashable
from functools import cache
from threading import get_ident

import torch
from torch import Tensor
from torch.nn.functional import pad

from topohead.core.transfer import graph_lock
from topohead.solvers.engine import Work

USUAL = 1 << 16
"""Points that a scan is filled up to where work on all of them is recorded; few scans have more."""


def filled(rows: Tensor, count: int, value: float = 0.0) -> Tensor:
    """So many rows, those that lack of one value, where work is recorded; elsewhere as they are."""
    lack = count - len(rows) if fixed(rows) else 0
    return pad(rows, (*[0, 0] * (rows.dim() - 1), 0, lack), value=value) if lack > 0 else rows


def fixed(values: Tensor) -> bool:
    """Whether work on values is recorded: then no shape may hang on what is in them."""
    return values.is_cuda


@cache
def _stream(device: int) -> torch.cuda.Stream:
    """What is recorded; those of other threads are of another priority, so never this one."""
    return torch.cuda.Stream(device, priority=-1)


class Recording:
    """Work whose shapes never change, as one CUDA graph.

    Launching a thousand small kernels from Python takes several times as long as running them. The
    answers are copies, so that recordings may share memory (`pool`) as long as they are replayed
    one after another.
    """

    def __init__(self, work: Work, inputs: tuple[Tensor, ...], pool: tuple[int, int]) -> None:
        self._work = work  # what it reads beside its inputs must not go away
        self._inputs = tuple(given.clone() for given in inputs)
        work(*self._inputs)  # compiles, and makes libraries ready: neither can be recorded
        self._graph = torch.cuda.CUDAGraph()
        # other threads may bring pictures over meanwhile, but not decode them
        with graph_lock:
            torch.cuda.synchronize()
            with torch.cuda.graph(
                self._graph,
                stream=_stream(torch.cuda.current_device()),
                pool=pool,  # pyright: ignore[reportArgumentType] -- its default, None, passes for its type
                capture_error_mode="thread_local",
            ):
                self._found = work(*self._inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the work makes of the inputs."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return tuple(found.clone() for found in self._found)


def done(_name: Hashable, work: Work, *inputs: Tensor) -> tuple[Tensor, ...]:
    """What the work makes of the inputs, in place of a `Recordings` where shapes are unusual."""
    return work(*inputs)


class Recordings:
    """Pieces of work by name, each recorded when it is first done on a CUDA device.

    A name stands for all that the work is made of beside its inputs: these alone may differ from
    call to call, and only in value. Elsewhere the work is done as it stands.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, Recording] = {}
        self._pools: dict[int, tuple[int, int]] = {}

    def __call__(self, name: Hashable, work: Work, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the work makes of the inputs."""
        if not inputs[0].is_cuda:
            return work(*inputs)
        thread = get_ident()  # buffers serve one at a time
        key = name, thread, tuple((given.shape, given.dtype) for given in inputs)
        if key not in self._known:
            pool = self._pools.setdefault(thread, torch.cuda.graph_pool_handle())
            self._known[key] = Recording(work, inputs, pool)
        return self._known[key](*inputs)
