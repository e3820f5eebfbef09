"""Contact sheets of made people in clay: 64 heads from two sides, and one head's 52 actions.

    python benchmarks/people_sheet.py FOLDER [ict_face_model.npz]

Writes people_heads.jpg and people_actions.jpg, to be looked at: do ears, lips, lids, necks and the
backs of heads look like people's?
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from topohead.core import ARKIT_52, Topology
from topohead.geometry.subdivision import catmull_clark, refine
from topohead.io.expressions import gaze_of_looks
from topohead.rendering.shading import portrait_camera, render_mesh
from topohead.synthesis.shapes import load_shapes

SEED = 760
ACTOR = 6


def main(folder: Path, ict: Path | None) -> None:
    """Both sheets; the head that acts is one of the seed's."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = load_shapes(ict=ict)
    fine, matrix = catmull_clark(replace(shapes.topology, mirror=None))

    def tiles(heads: Float[Tensor, "B V 3"], size: tuple[int, int], *yaws: float) -> list[Tensor]:
        every = heads.reshape(-1, 3)
        views = [portrait_camera(every, size, yaw) for yaw in yaws]
        return [
            torch.cat([clay(refine(matrix, h), fine, size, v) for v in views], 1) for h in heads
        ]

    people = shapes.draw(SEED, range(64)).rest
    save(folder / "people_heads.jpg", tiles(people, (88, 128), 0.0, 0.65), 8)
    actions = torch.eye(52)
    close = ARKIT_52.index("mouthClose")  # closes lips over an open jaw; alone it crosses them
    actions[close, close] = actions[close, ARKIT_52.index("jawOpen")] = 0.4
    actor = shapes.draw(SEED, [ACTOR] * 52)
    save(
        folder / "people_actions.jpg",
        tiles(actor.posed(actions, gaze_of_looks(actions)), (112, 140), 0.25),
        13,
    )


def clay(
    vertices: Float[Tensor, "V 3"],
    topology: Topology,
    size: tuple[int, int],
    view: tuple[Tensor, Tensor],
) -> Tensor:
    """One picture."""
    return render_mesh(vertices, topology, None, *view, size, supersample=3)


def save(path: Path, tiles: list[Tensor], columns: int) -> None:
    """Tiles side by side, row by row, as a JPEG."""
    rows = [torch.cat(tiles[k : k + columns], 1) for k in range(0, len(tiles), columns)]
    picture = (torch.cat(rows) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(picture).save(path, quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
