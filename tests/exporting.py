"""Runs to export: planted shapes in a turned world, with calibration, rig and curves."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from planted_run import ellipsoid_topology, performance, planted_rig, write_planted_run
from topohead.core import Topology
from topohead.geometry.skinning import RigPerformance, rigged
from topohead.io.assets import topology_tensors
from topohead.io.calibration import write_rig
from topohead.io.expressions import Performance, write_live_link
from topohead.io.gltf import write_glb
from topohead.io.gltf_rig import write_rig_glb
from topohead.synthesis.performances import euler

RATE = 24.0
FRAMES = 5


def world() -> torch.Tensor:
    """Head's upright frame to the run's world."""
    place = torch.eye(4, dtype=torch.float64)
    place[:3, :3] = euler(torch.tensor([0.9, -0.4, 0.2], dtype=torch.float64))
    place[:3, 3] = torch.tensor([0.3, 1.2, -0.8])
    return place


def heads() -> torch.Tensor:
    """Vertices [T V 3] in the head's own frame, float64."""
    return performance(FRAMES)


def write_run(folder: Path) -> Path:
    """A run folder with everything that `export` may look for, but a rig."""
    topology, place = ellipsoid_topology(), world()
    tracked = (heads() @ place[:3, :3].T + place[:3, 3]).float()
    run = write_planted_run(folder, tracked, topology)
    (run / "first").mkdir()
    tensors = topology_tensors(topology) | {
        "vertices": tracked[0],
        "upright": torch.linalg.inv(place),
    }
    packed = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(packed, run / "first" / "head.safetensors")
    write_glb(run / "sequence.glb", topology, tracked[:1], None, RATE)
    write_rig(planted_rig(), run / "cameras.json")
    weights = torch.linspace(0, 1, FRAMES * 52).reshape(FRAMES, 52)
    curves = Performance(
        torch.arange(FRAMES).double() / RATE,
        weights,
        torch.linspace(0, 0.3, FRAMES * 3).reshape(FRAMES, 3),
        torch.zeros(FRAMES, 2, 3),
    )
    write_live_link(curves, run / "expression.csv")
    return run


def planted_performance(frames: int = FRAMES) -> RigPerformance:
    """A rig in the run's world: local bumps for actions, a neck that half follows, head turns."""
    topology: Topology = ellipsoid_topology()
    place = world()
    neutral = (heads()[0] @ place[:3, :3].T + place[:3, 3]).float()
    generator = torch.Generator().manual_seed(3)
    centers = neutral[torch.randint(len(neutral), (52,), generator=generator)]
    bumps = torch.exp(-(neutral - centers[:, None]).square().sum(-1) / 0.02**2)
    shapes = bumps[..., None] * torch.randn(52, 1, 3, generator=generator) * 0.01
    shapes[bumps < 0.01] = 0
    share = ((heads()[0, :, 1].float() + 0.11) / 0.05).clamp(0, 1)
    poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    turns = torch.randn(frames, 3, generator=generator, dtype=torch.float64) * 0.2
    shift = place[:3, 3]
    poses[:, :3, :3] = euler(turns)
    poses[:, :3, 3] = shift - (poses[:, :3, :3] @ shift) + 0.01 * turns
    weights = torch.rand(frames, 52, generator=generator)
    upright = torch.linalg.inv(place).float()
    rig = rigged(topology, neutral, shapes, upright, share)
    below = replace(rig, neck=rig.neck + torch.tensor([0.01, -0.06, 0.02]).double())
    return RigPerformance(below, weights, poses, RATE)


def add_rig(run: Path) -> RigPerformance:
    """RUN/rig/rig.glb, and what it holds."""
    played = planted_performance()
    (run / "rig").mkdir()
    write_rig_glb(run / "rig" / "rig.glb", played)
    return played
