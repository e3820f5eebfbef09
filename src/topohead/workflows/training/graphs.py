"""A function of fixed shapes as one CUDA graph: hundreds of small launches become one."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Value = TypeVar("Value")

WARM_UPS = 3


def captured(function: Callable[[Tensor], Value], example: Tensor) -> Callable[[Tensor], Value]:
    """The same function, on CUDA replayed from a graph captured with inputs like `example`.

    The function must not wait for the device or copy from the CPU; one that does is called as it
    is, with a warning. Results are copies, so two calls do not share memory.
    """
    if not example.is_cuda:
        return function
    static = example.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            function(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            result = function(static)
    except RuntimeError as error:
        log.warning("no CUDA graph (%s); data are made call by call", str(error).split("\n")[0])
        return function

    def replayed(inputs: Tensor) -> Value:
        static.copy_(inputs)
        graph.replay()
        return _copied(result)

    return replayed


def _copied(value: Any) -> Any:
    """Tensors inside dataclasses, named tuples and mappings, copied."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(*(_copied(getattr(value, entry.name)) for entry in fields(value)))
    if isinstance(value, tuple):
        return type(value)(*map(_copied, value))
    return value
