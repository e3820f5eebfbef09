"""Parts of scans, and their mirror images."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from topohead.core.errors import InputError
from topohead.core.scans import Scan
from topohead.geometry.alignment import apply
from topohead.geometry.meshes import triangle_areas
from topohead.io.scans import FEWEST
from topohead.models.registration import in_head

AROUND, SMALL = 1.3, 0.25
"""What lies around a head: a ball so many times its own; and the share of a scan, by area, below
which that is looked at by itself."""


def cropped(scan: Scan, box: Sequence[float], name: str) -> Scan:
    """The points in a box (least x y z, greatest x y z), and triangles that lie in it as a whole.

    InputError where the box is none, or holds too little for a head.
    """
    low, high = torch.tensor(box, dtype=torch.float64).view(2, 3)
    told = " ".join(f"{value:g}" for value in box)
    if not bool((low < high).all()):
        raise InputError(f"--crop expects XMIN YMIN ZMIN XMAX YMAX ZMAX in this order; got {told}")
    inside = ((scan.points.double() >= low) & (scan.points.double() <= high)).all(1)
    if int(inside.sum()) < FEWEST:
        there = " ".join(f"{v:.4g}" for v in torch.cat(scan.points.aminmax(dim=0)).tolist())
        raise InputError(
            f"{name}: {int(inside.sum())} points lie in --crop {told}; the scan fills {there}"
        )
    return part_of(scan, inside)


def around_head(scan: Scan, pose: Float[Tensor, "4 4"]) -> Bool[Tensor, " N"]:
    """Which points lie around a head; `pose` takes the head frame to the scan's."""
    return in_head(apply(pose.double().inverse(), scan.points.double()), AROUND)


def is_small(scan: Scan, inside: Bool[Tensor, " N"]) -> bool:
    """Whether those points are less than `SMALL` of the scan, but enough for a head."""
    if len(scan.triangles):
        area = triangle_areas(scan.points.double(), scan.triangles)
        share = float((area * inside[scan.triangles].all(1)).sum() / area.sum())
    else:
        share = float(inside.double().mean())
    return share < SMALL and int(inside.sum()) >= FEWEST


def part_of(scan: Scan, inside: Bool[Tensor, " N"]) -> Scan:
    """Those points, and triangles that lie in them as a whole."""
    number = inside.long().cumsum(0) - 1
    whole = inside[scan.triangles].all(1)
    return replace(
        scan,
        points=scan.points[inside],
        triangles=number[scan.triangles[whole]],
        normals=None if scan.normals is None else scan.normals[inside],
        colors=None if scan.colors is None else scan.colors[inside],
        triangle_uv=None if scan.triangle_uv is None else scan.triangle_uv[whole],
    )


def mirrored(scan: Scan) -> Scan:
    """The scan's mirror image in x, triangles turned so that their outside stays outside."""
    other = torch.tensor([-1.0, 1.0, 1.0])
    uv = scan.triangle_uv
    return replace(
        scan,
        points=scan.points * other,
        triangles=scan.triangles.flip(1),
        normals=None if scan.normals is None else scan.normals * other,
        triangle_uv=None if uv is None else uv.flip(1),
    )
