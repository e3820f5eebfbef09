"""A function of fixed shapes as one CUDA graph: hundreds of small launches become one."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from topohead.models.attention import CrossAttention, SelfAttention
from topohead.models.learned_icp import Seeing

log = logging.getLogger(__name__)

Value = TypeVar("Value")

WARM_UPS = 3


def captured(
    function: Callable[[Tensor], Value], inputs_of: Callable[[int], Tensor]
) -> Callable[[int], Value]:
    """What the function makes of a step's inputs, on CUDA replayed from a graph and made ahead.

    After a step's result the next one's is made on a stream of its own, while the device does what
    it is told in between. The function must not wait for the device or copy from the CPU; one that
    does is called as it is, with a warning. Results are copies, so two calls do not share memory.
    """

    def plain(step: int) -> Value:
        return function(inputs_of(step))

    static = inputs_of(0).clone()
    if not static.is_cuda:
        return plain
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            function(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, capture_error_mode=_strictness()):
            result = function(static)
    except RuntimeError as error:
        log.warning("no CUDA graph (%s); data are made call by call", str(error).split("\n")[0])
        return plain
    ahead: int | None = None

    def make(step: int) -> None:
        nonlocal ahead
        static.copy_(inputs_of(step))
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            graph.replay()
        ahead = step

    def replayed(step: int) -> Value:
        torch.cuda.current_stream().wait_stream(side)
        if step != ahead:
            make(step)
            torch.cuda.current_stream().wait_stream(side)
        kept = _copied(result)
        make(step + 1)
        return kept

    return replayed


def _strictness() -> str:
    """What may disturb a graph in the making: of several processes, not the thread that watches
    over what they send one another."""
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    return "thread_local" if several else "global"


def fused(network: nn.Module) -> None:
    """Compile the parts of a network that repeat, in place: one kernel for what was ten.

    They take seconds, the whole network would take minutes. What cannot be compiled runs as it is.
    """
    torch._dynamo.config.suppress_errors = True
    torch._dynamo.config.recompile_limit = 64
    for module in network.modules():
        if isinstance(module, SelfAttention | CrossAttention | Seeing):
            module.compile(dynamic=False)


def repeated(work: Callable[[Any], Value]) -> Callable[[Any], Value]:
    """Work that is done over and over on CUDA inputs of the same shapes, from the fourth time on
    replayed from a graph; what it changes (weights, an optimiser) must stay where it is in memory.

    Results hold until the next call. Work that waits for the device is done as it is, with a
    warning.
    """
    graph = torch.cuda.CUDAGraph()
    side = torch.cuda.Stream()
    held: list[Any] = []
    calls = 0

    def done(inputs: Any) -> Value:
        nonlocal calls
        calls += 1
        if calls <= WARM_UPS:
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                result = work(inputs)
            torch.cuda.current_stream().wait_stream(side)
            return result
        if calls == WARM_UPS + 1:
            static = _copied(inputs)
            try:
                with torch.cuda.graph(graph, capture_error_mode=_strictness()):
                    result = work(static)
                held.extend((static, result))
            except RuntimeError as error:
                log.warning("no CUDA graph (%s); steps are slower", str(error).split("\n")[0])
        if not held:
            return work(inputs)
        _fill(held[0], inputs)
        graph.replay()
        return held[1]

    return done


def _fill(held: Any, value: Any) -> None:
    """Copies tensors into those that a graph reads."""
    if isinstance(held, Tensor):
        held.copy_(value)
    elif isinstance(held, Mapping):
        for key, item in held.items():
            _fill(item, value[key])
    elif is_dataclass(held):
        for entry in fields(held):
            _fill(getattr(held, entry.name), getattr(value, entry.name))
    elif isinstance(held, tuple):
        for item, other in zip(held, value, strict=True):
            _fill(item, other)


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
