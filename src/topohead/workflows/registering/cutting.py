"""What a user may do to a scan first: cut a box out of it, exchange left and right."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from topohead.core.errors import InputError
from topohead.core.scans import Scan
from topohead.io.scans import FEWEST


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
