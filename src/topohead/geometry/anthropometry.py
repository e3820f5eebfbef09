"""Sizes of heads, and what a survey of adults found: the prior that made heads are held to."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.correspondence import interpolate


@dataclass(frozen=True)
class Published:
    """Mean and standard deviation of men and of women, millimetres."""

    men: tuple[float, float]
    women: tuple[float, float]

    @property
    def mean(self) -> float:
        """Of adults, half of them women."""
        return (self.men[0] + self.women[0]) / 2

    @property
    def deviation(self) -> float:
        """Of adults, half of them women: within both groups, and between them."""
        within = (self.men[1] ** 2 + self.women[1] ** 2) / 2
        return (within + ((self.men[0] - self.women[0]) / 2) ** 2) ** 0.5


SURVEY = {
    "face width": Published((143.5, 6.9), (135.1, 6.5)),
    "interpupillary distance": Published((64.5, 3.6), (61.9, 3.5)),
    "head length": Published((197.3, 7.4), (187.5, 7.2)),
    "head breadth": Published((153.0, 6.0), (146.8, 5.6)),
    "face length": Published((122.7, 7.0), (113.4, 6.1)),
}
"""3,997 adults at work in the United States, 2003 (Zhuang and Bradtmiller 2005, J. Occup. Environ.
Hyg. 2:567–576): bizygomatic breadth, pupil to pupil, glabella to the back of the head, greatest
breadth above the ears, menton to sellion. The article's table was not at hand. Face width,
pupils and face length agree to 0.3 mm with what the survey's public data (CDC RD-10130-2020-0) give
when its four ethnic groups are weighted as workers are; head length and breadth were found for
another survey only (docs/people.md)."""

LIMITS = 3.2
"""A head is drawn again when a size is so many deviations from the survey's mean."""

CROWN_MM = (94.0, 132.0)
"""Our own bounds, that no survey gave, of the crown's height above the eyes: smooth fields know no
skull, and outside these a head looks flat or pointed."""


@dataclass(frozen=True)
class Callipers:
    """Which vertices measure a reference head: `vertices` [N] used, the rest rows of these.

    `cheeks` and `temples` are candidates for the widest place, `back` for the farthest, `top` for
    the highest; `globes` are the rows of both.
    """

    vertices: Int[Tensor, " N"]
    cheeks: Int[Tensor, " C"]
    temples: Int[Tensor, " T"]
    back: Int[Tensor, " B"]
    top: Int[Tensor, " C2"]
    globes: tuple[Int[Tensor, " G"], Int[Tensor, " G"]]
    glabella: int
    sellion: int
    menton: int

    @staticmethod
    def of(topology: Topology, template: Float[Tensor, "V 3"]) -> "Callipers":
        """From the reference head's named regions and landmarks."""
        x, y, z = template.unbind(1)
        face, scalp = topology.region_mask("face"), topology.region_mask("scalp")
        ears = topology.region_mask("ears")
        middle = topology.region_mask("skin") & (x.abs() < 1e-4)
        marks = interpolate(topology.landmarks["ibug68"], topology.triangles, template)
        brow = marks[21:23].mean(0)
        glabella = _nearest(template, middle & (z > 0), brow)
        # the arch of the cheekbone: from below the eyes to the nose's base, before the ears
        cheeks = face & (y < -0.005) & (y > marks[33, 1]) & (z > -0.045) & (z < 0.005)
        temples = (face | scalp) & ~ears & (y > template[ears][:, 1].amax() - 0.01)
        groups = {
            "cheeks": cheeks & _wide(x, cheeks),
            "temples": temples & _wide(x, temples),
            "back": scalp & (x.abs() < 0.03) & (z < z[scalp].amin() + 0.04),
            "top": scalp & (y > y[scalp].amax() - 0.03),
            "left": topology.region_mask("eye_left"),
            "right": topology.region_mask("eye_right"),
        }
        points = [glabella] + [_nearest(template, middle, marks[k]) for k in (27, 8)]
        groups["points"] = torch.zeros_like(face)
        groups["points"][points] = True
        used = torch.stack(list(groups.values())).any(0).nonzero()[:, 0]
        rows = {name: torch.searchsorted(used, m.nonzero()[:, 0]) for name, m in groups.items()}
        glabella, sellion, menton = torch.searchsorted(used, torch.tensor(points)).tolist()
        return Callipers(
            used,
            rows["cheeks"],
            rows["temples"],
            rows["back"],
            rows["top"],
            (rows["left"], rows["right"]),
            glabella,
            sellion,
            menton,
        )

    def __call__(self, points: Float[np.ndarray, "B N 3"]) -> dict[str, Float[np.ndarray, " B"]]:
        """The sizes of `SURVEY` and the crown's height, millimetres, from the used vertices."""
        x = points[..., 0]
        cheeks, temples = x[:, self.cheeks.numpy()], x[:, self.temples.numpy()]
        left, right = (points[:, rows.numpy()].mean(1) for rows in self.globes)
        glabella = points[:, self.glabella]
        back = points[:, self.back.numpy()]
        sizes = {
            "face width": np.ptp(cheeks, 1),
            "interpupillary distance": np.linalg.norm(left - right, axis=1),
            "head length": np.linalg.norm(back - glabella[:, None], axis=2).max(1),
            "head breadth": np.ptp(temples, 1),
            "crown height": points[:, self.top.numpy(), 1].max(1) - (left + right)[:, 1] / 2,
            "face length": np.linalg.norm(points[:, self.sellion] - points[:, self.menton], axis=1),
        }
        return {name: 1000 * value for name, value in sizes.items()}


def implausible(sizes: dict[str, Float[np.ndarray, " B"]]) -> Bool[np.ndarray, " B"]:
    """Heads more than `LIMITS` deviations from the survey's mean, or outside `CROWN_MM`."""
    far = [abs(sizes[n] - p.mean) > LIMITS * p.deviation for n, p in SURVEY.items()]
    crown = sizes["crown height"]
    return np.any([*far, crown < CROWN_MM[0], crown > CROWN_MM[1]], axis=0)


def _wide(x: Tensor, among: Tensor) -> Tensor:
    """What may become the widest place: vertices within a sixth of it."""
    return x.abs() > 0.84 * x[among].abs().amax()


def _nearest(template: Tensor, among: Tensor, place: Tensor) -> int:
    index = among.nonzero()[:, 0]
    return int(index[(template[index] - place).norm(dim=1).argmin()])
