"""The colour fit takes out what a camera's colour response puts in."""

import torch

from topohead.losses.similarity import affine_color_fit


def test_color_fit_undoes_a_planted_colour_change() -> None:
    generator = torch.Generator().manual_seed(3)
    target = torch.rand(24, 20, 3, generator=generator) * 0.6 + 0.2
    mask = torch.rand(24, 20, generator=generator) > 0.3
    mix = torch.tensor([[0.8, 0.1, 0.0], [0.05, 0.9, 0.0], [0.0, 0.05, 0.7]])
    seen = target @ mix + 0.03
    assert (affine_color_fit(seen, target, mask) - target).abs().max() < 1e-5
    spoiled = seen.clone()
    spoiled[~mask] = 0  # what the mask leaves out changes nothing
    assert torch.equal(affine_color_fit(spoiled, target, mask)[mask],
                       affine_color_fit(seen, target, mask)[mask])  # fmt: skip
