"""Which numbered samples are for training and which never are: one place, for every consumer."""

from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

Split = Literal["train", "validation", "test"]

RANGES: dict[str, range] = {
    "train": range(0, 1 << 40),
    "validation": range(1 << 40, 1 << 41),
    "test": range(1 << 41, 1 << 42),
}
"""Sample numbers of each split. They do not meet, so neither do the samples, under any seed."""


def sample_indices(
    split: str, step: int, batch: int, part: int = 0, parts: int = 1
) -> Int[Tensor, " N"]:
    """Numbers of the samples of a step, or of the `part`-th of `parts` equal shares of them.

    They follow the global step alone: any number of processes sees the same batches.
    """
    if batch % parts:
        raise ValueError(f"a batch of {batch} does not divide into {parts} equal shares")
    share = batch // parts
    numbers = RANGES[split]
    first = numbers.start + step * batch + part * share
    assert first + share <= numbers.stop
    return torch.arange(first, first + share)
