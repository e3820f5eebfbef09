"""What can be done with heads as tokens, as pictures in clay at level 1.

    python benchmarks/head_vae_sheet.py PICTURE.jpg [head-vae.safetensors] [ict_face_model.npz]

Rows: from one made head to another and beyond; the first with the other's nose, mouth, eyes, ears,
and mirrored; the first with more and less of a meaning. Every head is decoded from tokens alone
and subdivided.
"""

import sys
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from topohead.geometry.subdivision import catmull_clark, refine
from topohead.models.latents import interpolated, mirrored, moved, region_of, swapped
from topohead.rendering.shading import portrait_camera, render_mesh
from topohead.synthesis.attributes import ATTRIBUTES
from topohead.synthesis.shapes import load_shapes
from topohead.workflows.head_vae import load_head_vae

SEED, FIRST, SECOND = 760, 6, 19
SIZE = (176, 232)
REGIONS = {
    "nose": ("nose",),
    "mouth": ("lips",),
    "eyes": ("eyelids", "eyes", "eye_sockets", "brows"),
    "ears": ("ears",),
}
MEANINGS = (("old", 2.0), ("female", 2.0), ("female", -2.0), ("fat", 2.0), ("face width", 2.0),
            ("face length", 2.0))  # fmt: skip


def main(picture: Path, weights: Path | None, ict: Path | None) -> None:
    shapes = load_shapes(ict=ict)
    network = load_head_vae(weights)
    topology = shapes.topology
    fine, matrix = catmull_clark(topology)
    basis = network.basis(network.queries)
    heads = shapes.draw(SEED, [FIRST, SECOND]).rest
    both = network.encode(heads).mean
    between = interpolated(*both, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 1.25]))
    parts = [
        swapped(network, heads[0], heads[1], region_of(network, topology, *names))
        for names in REGIONS.values()
    ]
    whole = region_of(network, topology, *(name for names in REGIONS.values() for name in names))
    parts += [swapped(network, heads[0], heads[1], whole), mirrored(both[:1])[0]]
    meant = [
        moved(both[0], network.directions, ATTRIBUTES.index(name), [amount])[0]
        for name, amount in MEANINGS
    ]
    tokens = torch.cat([between, torch.stack(parts), torch.stack(meant)])
    points = refine(matrix, network.decode(tokens, basis).points)
    view = portrait_camera(points.reshape(-1, 3), SIZE, 0.45)
    tiles = [render_mesh(head, fine, None, *view, SIZE, supersample=3) for head in points]
    save(picture, tiles, 6)


def save(path: Path, tiles: list[Float[Tensor, "H W 3"]], columns: int) -> None:
    rows = [torch.cat(tiles[k : k + columns], 1) for k in range(0, len(tiles), columns)]
    picture = (torch.cat(rows) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(picture).save(path, quality=88)


if __name__ == "__main__":
    given = [Path(word) for word in sys.argv[1:]]
    weights_file = next((path for path in given[1:] if path.suffix == ".safetensors"), None)
    main(given[0], weights_file, next((p for p in given[1:] if p.suffix == ".npz"), None))
