"""Gaussians as the PLY of the original 3DGS, which every splat viewer opens.

Columns: x y z, nx ny nz (zero), f_dc_0..2, f_rest_* (all of red, then green, then blue), opacity
as logit, scale_0..2 as logarithms, rot_0..3 wxyz; little-endian float32 (Kerbl et al. 2023).
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from topohead.core import InputError, Splats
from topohead.io.ply import read_header, read_table, write_tables

OPAQUE = 1e-6
"""How near to 0 and 1 an opacity may come: its logit must be finite."""


def write_splat_ply(splats: Splats, path: Path) -> None:
    """Write Gaussians as they stand; splat viewers expect y down (`geometry.placement`)."""
    columns, values = splat_columns(splats)
    rows = np.ascontiguousarray(values.detach().cpu().numpy().astype("<f4"))
    if not np.isfinite(rows).all():
        raise InputError(f"{path}: expected finite Gaussians with scales above zero")
    table = rows.view(np.dtype([(name, "<f4") for name in columns]))[:, 0]
    write_tables(path, {"vertex": table})


def splat_columns(
    splats: Splats, normals: bool = True
) -> tuple[list[str], Float[torch.Tensor, "N P"]]:
    """Names and values of the columns, float64; `normals` keeps the three that are zero."""
    count, coefficients = len(splats.means), splats.harmonics.shape[1]
    rest = [f"f_rest_{k}" for k in range(3 * (coefficients - 1))]
    columns = [
        "x", "y", "z", *(["nx", "ny", "nz"] if normals else []), "f_dc_0", "f_dc_1", "f_dc_2",
        *rest, "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
    ]  # fmt: skip
    values = torch.cat(
        [
            splats.means,
            *([torch.zeros_like(splats.means)] if normals else []),
            splats.harmonics[:, 0],
            splats.harmonics[:, 1:].transpose(1, 2).reshape(count, -1),
            torch.logit(splats.opacities.double().clamp(OPAQUE, 1 - OPAQUE))[:, None],
            splats.scales.double().log(),
            torch.nn.functional.normalize(splats.quats.double(), dim=1),
        ],
        1,
    )
    return columns, values


def read_splat_ply(path: Path) -> Splats:
    """The Gaussians of a 3DGS PLY, whoever wrote it; further columns are passed over."""
    return splats_of(read_table(path, read_header(path), "vertex"), path)


def splats_of(table: NDArray, path: Path) -> Splats:
    """The Gaussians in the rows of an element that was read from `path`."""
    names = table.dtype.names or ()
    needed = ["x", "y", "z", "opacity", *(f"f_dc_{k}" for k in range(3))]
    needed += [f"scale_{k}" for k in range(3)] + [f"rot_{k}" for k in range(4)]
    missing = [name for name in needed if name not in names]
    if missing:
        raise InputError(f"{path} is no 3DGS PLY: it has no column {missing[0]!r}")

    def columns(*chosen: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([table[name] for name in chosen], 1).astype(np.float32))

    rest = sum(name.startswith("f_rest_") for name in names)
    if rest not in (0, 9, 24, 45):
        raise InputError(f"{path} has {rest} columns f_rest_*; expected 0, 9, 24 or 45")
    harmonics = columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    if rest:
        further = columns(*(f"f_rest_{k}" for k in range(rest)))
        further = further.reshape(len(table), 3, -1).transpose(1, 2)
        harmonics = torch.cat([harmonics, further], 1)
    return Splats(
        means=columns("x", "y", "z"),
        quats=columns("rot_0", "rot_1", "rot_2", "rot_3"),
        scales=columns("scale_0", "scale_1", "scale_2").exp(),
        opacities=torch.sigmoid(columns("opacity")[:, 0]),
        harmonics=harmonics,
    )
