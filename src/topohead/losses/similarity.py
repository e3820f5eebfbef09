"""What of two pictures' difference is only a camera's colour."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def affine_color_fit(
    image: Float[Tensor, "H W 3"], target: Float[Tensor, "H W 3"], mask: Bool[Tensor, "H W"]
) -> Float[Tensor, "H W 3"]:
    """The image under the 3×4 colour transform that brings its masked pixels nearest the target.

    Least squares in the pictures' own (srgb) values: takes a camera's gain, offset and colour
    response out of a comparison.
    """
    source = torch.cat([image, torch.ones_like(image[..., :1])], -1).double()
    matrix = torch.linalg.lstsq(source[mask], target[mask].double()).solution
    return (source @ matrix).clamp(0, 1).to(image)
