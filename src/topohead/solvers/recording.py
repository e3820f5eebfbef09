"""Work on a CUDA device as one graph: recorded once, then replayed without the host's help."""

from functools import cache

import torch
from torch import Tensor

from topohead.core.transfer import graph_lock
from topohead.solvers.engine import Work


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
