"""Which seeds train, which validate and which test: disjoint for every kind of made data."""

from typing import Literal

Split = Literal["train", "validation", "test"]

SEEDS: dict[Split, range] = {
    "train": range(0, 600),
    "validation": range(600, 700),
    "test": range(700, 1000),
}
"""A sample is a pure function of (seed, index), so seeds that differ share no sample.

One seed holds as many indices as anyone needs; seeds tell kinds of use and splits apart.
"""


def split_of(seed: int) -> Split:
    """The split that a seed belongs to; ValueError outside all of them."""
    for split, seeds in SEEDS.items():
        if seed in seeds:
            return split
    raise ValueError(f"seed {seed} belongs to no split; expected 0 to {SEEDS['test'].stop - 1}")


def check_split(seed: int, split: Split) -> int:
    """The seed itself, or ValueError when it is another split's."""
    if split_of(seed) != split:
        seeds = SEEDS[split]
        raise ValueError(
            f"seed {seed} is for {split_of(seed)}, not {split}; expected "
            f"{seeds.start} to {seeds.stop - 1}"
        )
    return seed
