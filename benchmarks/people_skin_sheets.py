"""Pictures of procedural skin for the documents: close-ups, faces, eyes and an open mouth.

    python benchmarks/people_skin_sheets.py --out docs/images --device cuda

Filmed by the stage's own renderer under one soft lamp; seeds 700 and up. Every picture is kept
below 300 kB.
"""

import argparse
import math
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from topohead.core import ARKIT_52, Distortion
from topohead.geometry.cameras import look_at
from topohead.io.assets import asymmetry_basis, reference_head
from topohead.rendering.shading import linear_to_srgb
from topohead.synthesis import props, render, skin, subjects
from topohead.synthesis.lights import Lamp, Lighting
from topohead.synthesis.performances import Motion
from topohead.synthesis.teeth import make_teeth

FIRST, LARGEST = 700, 300_000

LIGHT = Lighting(
    (0.10, 0.10, 0.11),
    (0.30, 0.31, 0.33),
    (Lamp((0.55, 0.55, 0.9), 0.16, (62.0, 58.0, 52.0)),
     Lamp((-0.9, 0.1, 0.8), 0.4, (2.2, 2.4, 2.8))),
)  # fmt: skip

SMILE = {"jawOpen": 0.35, "mouthUpperUpLeft": 0.7, "mouthUpperUpRight": 0.7,
         "mouthSmileLeft": 0.5, "mouthSmileRight": 0.5, "mouthLowerDownLeft": 0.6,
         "mouthLowerDownRight": 0.6}  # fmt: skip
FROWN = {"browInnerUp": 0.9, "browOuterUpLeft": 0.8, "browOuterUpRight": 0.8,
         "eyeSquintLeft": 0.8, "eyeSquintRight": 0.8, "mouthSmileLeft": 0.7,
         "mouthSmileRight": 0.7}  # fmt: skip


@dataclass(frozen=True)
class Shot:
    """A square crop: landmarks whose mean it aims at, an offset and its width in metres, degrees to
    the side that the camera stands."""

    marks: tuple[int, ...]
    offset: tuple[float, float, float]
    width: float
    side: float


CHEEK = Shot((45, 54), (0.004, -0.002, 0.0), 0.034, 20.0)
EYE = Shot((42, 45), (0.0, 0.0, 0.0), 0.040, 6.0)
LIPS = Shot((51, 57), (0.0, 0.002, 0.0), 0.050, 6.0)
NOSE = Shot((30,), (0.005, 0.002, 0.0), 0.036, 8.0)
FACE = Shot((0, 16), (0.0, -0.005, 0.0), 0.29, 10.0)
MOUTH = Shot((51, 57), (0.0, -0.002, 0.0), 0.075, 8.0)
TEMPLE = Shot((45,), (0.012, -0.002, 0.0), 0.050, 30.0)
FOREHEAD = Shot((27,), (0.0, 0.040, 0.0), 0.080, 6.0)


def main() -> None:
    """Paint, film, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--level", type=int, default=1, help="of the reference head")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    closeups, faces, eyes = [], [], []
    for seed in range(FIRST, FIRST + args.people):
        person = Person(seed, args)
        closeups.append(torch.cat([person.film(s, 224) for s in (CHEEK, EYE, LIPS)], 1))
        faces.append(person.film(FACE, 512))
        eyes.append(person.film(EYE, 384))
    write(args.out / "skin-closeups.jpg", grid(closeups, 2))
    write(args.out / "skin-faces.jpg", grid(faces[:6], 3))
    write(args.out / "skin-eyes.jpg", grid(eyes[:8], 4))
    old = max(range(FIRST, FIRST + 60), key=lambda s: skin.random_skin(s).age)
    still, moved = (Person(old, args, e) for e in ({}, FROWN))
    rows = [
        torch.cat([p.film(s, 384) for s in (FOREHEAD, TEMPLE, NOSE)], 1) for p in (still, moved)
    ]
    write(args.out / "skin-folds.jpg", grid(rows, 1))
    smiles = [Person(s, args, SMILE).film(MOUTH, 512) for s in (702, 705)]
    write(args.out / "skin-teeth.jpg", grid(smiles, 2))


class Person:
    """One random person with maps and light, ready to be filmed."""

    def __init__(
        self, seed: int, args: argparse.Namespace, expression: dict[str, float] | None = None
    ) -> None:
        head, device = reference_head(args.level), args.device
        coefficients = torch.zeros(52)
        for name, value in (expression or {}).items():
            coefficients[ARKIT_52.index(name)] = value
        subject = subjects.make_subject(head, seed, 0.8, 1.0, 0.05, asymmetry_basis(args.level))
        motion = Motion(coefficients[None].double(), torch.zeros(1, 2, 2).double(),
                        torch.eye(4).double()[None], 30.0, "still")  # fmt: skip
        surfaces = subject.at(motion, 0)
        parameters = skin.random_skin(seed)
        teeth = props.dentures(make_teeth(head, parameters, seed), subject, surfaces)
        extras = [props.neck_plug(subject, surfaces), teeth]
        blockers = (surfaces.vertices, subject.blockers)
        self._lit = render.light_head(
            subject.finer, surfaces.surface, blockers, props.joined(extras), LIGHT, device=device
        )
        there = replace(head, template=head.template.to(device))
        maps = skin.paint(there, parameters, seed, args.size, expression=coefficients)
        self._materials = render.Materials.of(maps).to(device)
        points = head.topology.landmarks["ibug68"]
        corners = surfaces.vertices[head.topology.triangles[points.triangles]]
        self._marks = (corners * points.barycentrics[..., None]).sum(1).double()

    def film(self, shot: Shot, pixels: int) -> Tensor:
        """The crop as srgb [P P 3]."""
        target = self._marks[list(shot.marks)].mean(0) + torch.tensor(shot.offset).double()
        side = math.radians(shot.side)
        eye = target + torch.tensor([math.sin(side), 0.02, math.cos(side)]).double()
        pose = look_at(eye, target, torch.tensor([0.0, 1.0, 0.0]).double())
        focal = pixels / shot.width
        intrinsics = torch.tensor([[focal, 0, pixels / 2], [0, focal, pixels / 2], [0, 0, 1]])
        lens = Distortion("brown", (0.0,) * 6)
        color, coverage = render.render_view(
            self._lit, self._materials, pose, intrinsics.double(), lens, (pixels, pixels)
        )
        color = 0.8 * color.cpu() + 0.10 * (1 - coverage.cpu()[..., None])
        return linear_to_srgb(color.clamp(0, 1))


def grid(pictures: list[Tensor], columns: int) -> np.ndarray:
    """Pictures side by side as 8-bit codes, black where there is none."""
    columns = min(columns, len(pictures))
    pictures = pictures + [torch.zeros_like(pictures[0])] * (-len(pictures) % columns)
    rows = [torch.cat(pictures[i : i + columns], 1) for i in range(0, len(pictures), columns)]
    return (torch.cat(rows) * 255).round().byte().numpy()


def write(path: Path, picture: np.ndarray) -> None:
    """A JPEG of the best quality that keeps it small enough."""
    for quality in range(92, 40, -4):
        _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        if len(data) < LARGEST:
            break
    path.write_bytes(data.tobytes())


if __name__ == "__main__":
    main()
