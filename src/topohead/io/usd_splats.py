"""Gaussians in USD: the schema ParticleField3DGaussianSplat of UsdVol, a sample a frame."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from topohead.core import InputError, Rig, Splats
from topohead.io.usd import StageFacts, add_cameras, flush, new_stage, pxr

REACH = 3.0
"""Standard deviations that a Gaussian is taken to reach for the bounds, as the schema has it."""


def write_splats_usd(
    path: Path, facts: StageFacts, frames: Iterator[Splats], cameras: Rig | None = None
) -> None:
    """Write `/NAME/splats`, already in the stage's axes and unit; linear scales and opacities."""
    (UsdVol,) = pxr("UsdVol")

    if not hasattr(UsdVol, "ParticleField3DGaussianSplat"):
        raise InputError(
            "this usd-core has no schema for Gaussians; pip install -U usd-core, "
            "or export them with --to ply --splats"
        )
    with new_stage(path, facts) as stage:
        field: Any = UsdVol.ParticleField3DGaussianSplat.Define(stage, f"/{facts.name}/splats")
        for done, (number, splats) in enumerate(zip(facts.numbers, frames, strict=True), 1):
            _set(field, splats, None if len(facts.numbers) == 1 else number)
            flush(stage, done)
        if cameras is not None:
            add_cameras(stage, facts, cameras)


def _set(field: Any, splats: Splats, time: int | None) -> None:
    Usd, UsdGeom, Vt = pxr("Usd", "UsdGeom", "Vt")

    when = Usd.TimeCode.Default() if time is None else Usd.TimeCode(time)

    def rows(values: torch.Tensor) -> np.ndarray:
        return np.ascontiguousarray(values.detach().cpu().numpy().astype(np.float32))

    prim = field.GetPrim()
    turns = torch.nn.functional.normalize(splats.quats, dim=1)
    xyzw = rows(turns[:, [1, 2, 3, 0]])  # as Gf keeps quaternions in memory
    values = {
        "positions": Vt.Vec3fArray.FromNumpy(rows(splats.means)),
        "orientations": Vt.QuatfArray.FromNumpy(xyzw),
        "scales": Vt.Vec3fArray.FromNumpy(rows(splats.scales)),
        "opacities": Vt.FloatArray.FromNumpy(rows(splats.opacities)),
        "radiance:sphericalHarmonicsCoefficients": Vt.Vec3fArray.FromNumpy(
            rows(splats.harmonics.reshape(-1, 3))
        ),
    }
    for name, value in values.items():
        prim.GetAttribute(name).Set(value, when)
    degree = round(splats.harmonics.shape[1] ** 0.5) - 1
    prim.GetAttribute("radiance:sphericalHarmonicsDegree").Set(degree)
    reach = REACH * splats.scales.amax(1, keepdim=True)
    low, high = (splats.means - reach).amin(0), (splats.means + reach).amax(0)
    bounds = Vt.Vec3fArray.FromNumpy(rows(torch.stack([low, high])))
    UsdGeom.Boundable(prim).CreateExtentAttr().Set(bounds, when)
