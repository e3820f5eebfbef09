"""Random numbers by counter: no state, no neighbours, the right distributions."""

import math
import zlib

import pytest
import torch

from topohead.synthesis.datasets import sample_indices
from topohead.synthesis.device_draws import draws
from topohead.synthesis.splits import SEEDS


def test_a_sample_does_not_depend_on_its_batch() -> None:
    many = draws(7, torch.arange(1000, 1064))
    alone = draws(7, torch.tensor([1013]))
    assert torch.equal(many.uniform("a", 5, 3)[13], alone.uniform("a", 5, 3)[0])
    assert torch.equal(many.normal("a", 7)[13], alone.normal("a", 7)[0])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_kernel_draws_the_same_bits(device: str) -> None:
    """Under Triton's interpreter on a CPU."""
    kernel = pytest.importorskip("topohead.synthesis.device_draws_triton")
    random = draws(7, torch.tensor([0, 5, 123456789, 2**40 + 3]))
    keys = random.keys.to(device)
    for name in ("a", "hair waves"):
        salt = zlib.crc32(name.encode())
        for count in (1, 7, 3000):
            assert torch.equal(kernel.uniform(keys, salt, count).cpu(), random.uniform(name, count))


def test_seed_index_and_name_each_change_everything() -> None:
    base = draws(0, torch.tensor([5])).uniform("a", 1000)
    others = [
        draws(1, torch.tensor([5])).uniform("a", 1000),
        draws(1 << 32, torch.tensor([5])).uniform("a", 1000),
        draws(0, torch.tensor([6])).uniform("a", 1000),
        draws(0, torch.tensor([5 + (1 << 40)])).uniform("a", 1000),
        draws(0, torch.tensor([5])).uniform("b", 1000),
    ]
    for other in others:
        assert (base == other).float().mean() < 0.01
        # uncorrelated: 1/√1000 is one standard deviation
        assert abs(float(torch.corrcoef(torch.cat([base, other]))[0, 1])) < 4 / math.sqrt(1000)


def test_distributions() -> None:
    random = draws(3, torch.arange(64))
    uniform = random.uniform("u", 4096).double()
    assert float(uniform.min()) >= 0
    assert float(uniform.max()) < 1
    # values, and steps between neighbours, which a lattice repeats
    for values in (uniform, (uniform[:, 1:] - uniform[:, :-1]) % 1):
        counts = torch.histc(values, 64, 0, 1)
        expected = values.numel() / 64
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        # neither uneven nor, as a lattice is, too even
        assert abs(chi_square - 63) < 5 * math.sqrt(2 * 63)
    sums = uniform.view(64, 256, 16).sum(-1)
    assert abs(float(sums.var()) / (16 / 12) - 1) < 5 * math.sqrt(2 / sums.numel())
    # neighbours in position and in sample are uncorrelated
    centred = uniform - 0.5
    for product in (centred[:, 1:] * centred[:, :-1], centred[1:] * centred[:-1]):
        assert abs(float(product.mean())) < 5 / 12 / math.sqrt(product.numel())
    normal = random.normal("n", 4095).double()
    assert abs(float(normal.mean())) < 5 / math.sqrt(normal.numel())
    assert abs(float(normal.square().mean()) - 1) < 5 * math.sqrt(2 / normal.numel())
    assert abs(float((normal.abs() < 1).double().mean()) - 0.6827) < 0.005


def test_splits_do_not_meet_and_parts_make_the_whole() -> None:
    used = [set(seeds) for seeds in SEEDS.values()]
    assert sum(map(len, used)) == len(set.union(*used))
    whole = sample_indices(3, 12)
    parts = [sample_indices(3, 12, part, 4) for part in range(4)]
    assert torch.equal(torch.cat(parts), whole)
    assert int(whole[0]) == int(sample_indices(2, 12)[-1]) + 1
