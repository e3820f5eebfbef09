"""The autoencoder of heads from a weights file."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from topohead.models.head_vae import HeadVae

NAME = "head-vae"


def load_head_vae(path: Path | None = None, device: "torch.device | str" = "cpu") -> "HeadVae":
    """The autoencoder that `topohead train head-vae` wrote to `path`, by default the shipped one.

    Knows the reference's topology by itself. InputError where there is no such file.
    """
    from topohead.io.weights import read_weights, shipped_weights
    from topohead.models.head_vae import VaeSize, empty_head_vae

    weights = shipped_weights(NAME) if path is None else read_weights(path)
    size = VaeSize.from_plain(weights.config["size"])
    return empty_head_vae(size, weights.tensors).to(device).requires_grad_(False)
