"""Expression codes against a network: which tells better what a face does that was not seen.

    python benchmarks/avatar_network.py --device cuda --out results/avatar_network.json

One staged person, every third expression and two cameras held out (`benchmarks/avatar.py`). One
fit has as many codes as `avatar fit`, each Gaussian linear in them. The others have none and a
U-Net (2 M weights): from a picture in UV of how far the expression moves the mesh to what Gaussians
there change in place and first harmonic. All walk for the same time, as long as the codes'
`--steps` take; schedules, losses and pulls are the fit's own. The network may have several rates,
and its best is chosen after the fact, which the codes' is not. `still` has neither. All begin
alike, with Gaussians that nothing changes.
"""

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from avatar import chosen, drawn, judged, staged
from measured_on import commit, hardware
from scipy.spatial import KDTree
from torch import Tensor, nn

from topohead.core import BoundSplats
from topohead.geometry.avatars import Avatar, ExpressionChange, principal_codes
from topohead.geometry.skinning import blended
from topohead.solvers.gaussian_head import GaussianHead, Instant, SplattingConfig
from topohead.solvers.splatting import Splatting, splat
from topohead.workflows.avatars.fitting import code_count, upright_rig
from topohead.workflows.avatars.inputs import Sitting
from topohead.workflows.avatars.instants import instants_of
from topohead.workflows.avatars.start import starting_gaussians

MAP = 64
WAVES = 6
WIDTHS = (32, 64, 128, 256)
UNIT = 0.01
"""Metres of a mesh's motion that the network reads as one."""
CODES = 8
"""At most, as by default in `avatar fit`."""
SAID = (0.3, 0.5)
"""What the network's one means in places (triangles) and in the first harmonic."""


class UNet(nn.Module):
    """27 channels of MAP² to six; nothing at first."""

    def __init__(self) -> None:
        super().__init__()

        def block(inner: int, outer: int) -> nn.Module:
            layers = []
            for width in (inner, outer):
                layers += [
                    nn.Conv2d(width, outer, 3, padding=1), nn.GroupNorm(8, outer), nn.SiLU(),
                ]  # fmt: skip
            return nn.Sequential(*layers)

        widths = (3 + 4 * WAVES, *WIDTHS)
        self.down = nn.ModuleList(block(*pair) for pair in pairwise(widths))
        pairs = list(zip(WIDTHS[::-1], WIDTHS[-2::-1], strict=False))
        self.up = nn.ModuleList(block(deep + wide, wide) for deep, wide in pairs)
        self.out = nn.Conv2d(WIDTHS[0], 6, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B 27 H W] to [B 6 H W]."""
        passed = []
        for k, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if k else x)
            passed.append(x)
        x = passed.pop()
        for block in self.up:
            larger = nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear")
            x = block(torch.cat([larger, passed.pop()], 1))
        return self.out(x)


class NetworkHead(GaussianHead):
    """A fit whose Gaussians change by what a network says in UV instead of by codes."""

    def __init__(self, start: BoundSplats, cameras: int, degree: int, maps: "Maps") -> None:
        # one code of nothing, so that what the network says is pulled to nothing as codes are
        super().__init__(start, unchanged(start, 1), cameras, degree)
        del self.offset_change, self.color_change
        self.maps = maps
        # aside: `Splatting` knows the rates of this module's own parameters only
        self.aside = (UNet().to(maps.uv.device),)

    def said(self, number: int) -> Tensor:
        """Changes [N 6] of an instant."""
        made = self.aside[0](self.maps.inputs[number][None])
        grid = (2 * self.maps.uv - 1)[None, None]
        return nn.functional.grid_sample(made, grid, align_corners=False)[0, :, 0].T

    def forward(self, instant: Instant, triangles: Tensor, chosen: slice) -> tuple[Tensor, Tensor]:
        """As the parent's, the network's change being that of one code at 1."""
        said = self.said(instant.number)
        self.offset_change, self.color_change = (
            SAID[0] * said[:, None, :3],
            SAID[1] * said[:, None, 3:],
        )
        return super().forward(
            replace(instant, codes=torch.ones(1, device=said.device)), triangles, chosen
        )


class Maps:
    """What the network reads for every frame of a sitting, and where Gaussians are in UV."""

    def __init__(self, sitting: Sitting, start: BoundSplats, device: str) -> None:
        topology, rig = sitting.rig.topology, upright_rig(sitting.rig)
        binding = start.binding
        shares = binding.barycentrics.clamp(min=0)
        shares = shares / shares.sum(1, keepdim=True)
        uv = (shares[..., None] * topology.uv[topology.triangle_uv[binding.triangles]]).sum(1)
        center = (torch.arange(MAP) + 0.5) / MAP
        texels = torch.stack(torch.meshgrid(center, center, indexing="xy"), -1).reshape(-1, 2)
        away, nearest = KDTree(uv.numpy()).query(texels.numpy())
        nearest, near = torch.from_numpy(nearest), torch.from_numpy(away) < 1.5 / MAP
        corners = topology.triangles[binding.triangles[nearest]]
        weights = sitting.posed.weights.float()
        moved = blended(rig.neutral, rig.blendshapes, weights) - rig.neutral
        offsets = (shares[nearest][..., None] * moved[:, corners]).sum(2) / UNIT * near[:, None]
        scales = torch.pi * 2.0 ** torch.arange(WAVES)
        waves = (texels[..., None] * scales).flatten(1)
        coded = torch.cat([waves.sin(), waves.cos()], 1).expand(len(weights), -1, -1)
        inputs = torch.cat([offsets, coded], 2).transpose(1, 2).unflatten(2, (MAP, MAP))
        self.uv, self.inputs = uv.to(device), inputs.contiguous().to(device)


def unchanged(start: BoundSplats, ranks: int = 0) -> ExpressionChange:
    """Codes that change nothing, where the Gaussians are."""
    ends, none = torch.zeros(ranks), torch.zeros(len(start), ranks, 3)
    change = ExpressionChange(torch.zeros(52), torch.zeros(52, ranks), ends, ends, none, none)
    return change.to(start.opacities.device)


def main() -> None:
    """Stage, fit in turns, judge, write JSON after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("avatar_network.json"))
    parser.add_argument("--seed", type=int, default=183)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--cameras", type=int, default=10)
    parser.add_argument("--height", type=int, default=384)
    parser.add_argument("--gaussians", type=int, default=60_000)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--degree", type=int, default=1)
    parser.add_argument("--rates", default="1e-3,3e-4", help="of the network, a fit each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--gloss", type=float, default=0.0)
    parser.add_argument("--keep", type=Path, help="folder of takes, staged once")
    parser.add_argument("--commit")
    args = parser.parse_args()
    folder = args.keep or Path(tempfile.mkdtemp(prefix="topohead-benchmark-"))
    try:
        whole = staged(args.seed, args, folder)
    finally:
        if args.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    names = whole.posed.views[0].cameras.names
    held = [name for name in names if name.startswith("hold")]
    frames = range(len(whole.posed.views))
    shown = [(t, name) for t in frames if t % 3 != 2 for name in names if name not in held]
    sitting = chosen(whole, shown)
    test = chosen(whole, [(t, name) for t in frames if t % 3 == 2 for name in held])
    result: dict[str, Any] = {
        "benchmark": "avatar_network", "commit": args.commit or commit(), "hardware": hardware(),
        "settings": {k: v for k, v in vars(args).items() if k not in ("out", "keep", "commit")},
        "pictures": len(shown), "expressions": len(sitting.posed.views),
        "judged": sum(len(view.images) for view in test.posed.views), "fits": {},
    }  # fmt: skip
    start = starting_gaussians(sitting, args.gaussians)
    budget = None
    for kind in ("codes", "still", *(f"network {rate}" for rate in args.rates.split(","))):
        found, spent = fit_one(kind, sitting, test, start, args, budget)
        budget = spent if budget is None else budget
        result["fits"][kind] = found
        print(kind, json.dumps(found), flush=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def fit_one(
    kind: str, sitting: Sitting, test: Sitting, start: BoundSplats, args: argparse.Namespace,
    budget: float | None,
) -> tuple[dict[str, Any], float]:  # fmt: skip
    """A fit within `budget` seconds (None: of all steps), judged where nothing was seen."""
    device, weights = torch.device(args.device), sitting.posed.weights.float()
    names = list(sitting.posed.views[0].cameras.names)
    mean, axes = principal_codes(weights, min(CODES, code_count(sitting)))
    codes = (weights - mean) @ axes
    none = torch.zeros(len(start), axes.shape[1], 3)
    change = ExpressionChange(mean, axes, codes.amin(0), codes.amax(0), none, none)
    if kind != "codes":
        change, codes = unchanged(start), codes[:, :0]
    instants = instants_of(sitting, codes, names, device)
    triangles = sitting.rig.topology.triangles.to(device)
    batch = 8 if device.type == "cuda" else 1

    def prepared(steps: int) -> Splatting:
        torch.manual_seed(0)
        numbers = SplattingConfig(steps=steps, degree=args.degree, batch=batch)
        if not kind.startswith("network"):
            begin = start.to(device), change.to(device)
            return Splatting(GaussianHead(*begin, len(names), args.degree).to(device), numbers)
        maps = Maps(sitting, start, args.device)
        head = NetworkHead(start.to(device), len(names), args.degree, maps).to(device)
        fit = Splatting(head, numbers)
        rate = float(kind.split()[1])
        fit.optimizer.add_param_group({"params": list(head.aside[0].parameters()), "lr": rate})
        fit.rates.append(rate)
        return fit

    def walked(fit: Splatting) -> float:
        began = time.perf_counter()
        for _ in splat(fit, instants, triangles):
            pass
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    warm = min(40, args.steps)
    walked(prepared(warm))  # compiles, and fills the allocator
    pace = walked(prepared(warm)) / warm
    steps = args.steps if budget is None else max(int(budget / pace), 1)
    fit = prepared(steps)
    seconds = walked(fit)
    pictures = pictures_of(fit.head, sitting, test, start, args.device)
    found = {"steps": steps, "seconds": seconds, "ms_a_step": 1e3 * pace, "codes": codes.shape[1]}
    if kind.startswith("network"):
        found["weights"] = sum(p.numel() for p in fit.head.aside[0].parameters())
    return found | judged(pictures, test.posed.views), seconds


@torch.no_grad()
def pictures_of(
    head: GaussianHead, sitting: Sitting, test: Sitting, start: BoundSplats, device: str
) -> list[Tensor]:
    """The test's pictures; a network speaks for each expression."""
    rig = upright_rig(sitting.rig)
    if not isinstance(head, NetworkHead):
        return drawn(Avatar(rig, *head.result()).to(device), test)
    head.maps, pictures = Maps(test, start, device), []
    head.offset_change = head.color_change = torch.zeros(len(start), 1, 3)
    splats, _ = head.result()
    for t, view in enumerate(test.posed.views):
        said = head.said(t).cpu()
        offsets = splats.binding.offsets + SAID[0] * said[:, :3]
        harmonics = splats.harmonics.clone()
        harmonics[:, 0] += SAID[1] * said[:, 3:]
        binding = replace(splats.binding, offsets=offsets)
        dressed = replace(splats, binding=binding, harmonics=harmonics)
        one = chosen(test, [(t, name) for name in view.cameras.names])
        pictures += drawn(Avatar(rig, dressed, unchanged(start)).to(device), one)
    return pictures


if __name__ == "__main__":
    main()
