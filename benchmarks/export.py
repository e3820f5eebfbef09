"""Time and memory of `topohead export` for a long take, one process a format.

    python benchmarks/export.py --out export.json

The run is made here: the reference head at production density plays a scripted performance with
head motion, and tracking noise is added to every vertex. Nothing of it needs a capture. Seconds are
those of the whole command, start-up and reading included; memory is the process's peak.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from measured_on import commit
from safetensors.torch import save_file

from topohead.core import Mesh
from topohead.geometry.skinning import posed
from topohead.io.assets import reference_head, topology_tensors
from topohead.io.gltf import write_glb
from topohead.io.meshes import write_obj
from topohead.synthesis.performances import scripted, with_head_motion

RATE = 60.0
NOISE = 1e-5
"""Metres of independent noise on every coordinate: what tracking leaves, and principal shapes
cannot hold."""


def main() -> None:
    """Make the run, export it in each format, write JSON, print a line a row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("export.json"))
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--formats", default="usd,glb,ply,obj")
    parser.add_argument("--commit", help="what to record when git is not there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="topohead-benchmark-") as folder:
        run = make_run(Path(folder) / "run", args.frames)
        rows = [measure(run, name) for name in args.formats.split(",")]
    result = {
        "benchmark": "export",
        "commit": args.commit or commit(),
        "hardware": f"{platform.processor() or platform.machine()}, "
        f"{len(os.sched_getaffinity(0))} cores",
        "load_at_end": os.getloadavg()[0],
        "frames": args.frames,
        "vertices": reference_head(1).topology.vertex_count,
        "noise_mm": NOISE * 1e3,
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def make_run(run: Path, frames: int) -> Path:
    """A run folder with what `export` reads of one; frames share one mesh.obj by link."""
    model = reference_head(1)
    generator = torch.Generator().manual_seed(0)
    middle = torch.tensor([0.0, -0.07, -0.02])
    motion = with_head_motion(scripted(frames, RATE, 2), middle, 1)
    first = None
    for t in range(frames):
        row = slice(t, t + 1)
        vertices = posed(
            model.template, model.expression_basis, motion.coefficients[row], motion.poses[row]
        )[0]
        vertices += NOISE * torch.randn(vertices.shape, generator=generator)
        folder = run / "frames" / f"{t + 1:06d}"
        folder.mkdir(parents=True)
        save_file({"vertices": vertices.contiguous()}, folder / "state.safetensors")
        if first is None:
            first = vertices
            write_obj(Mesh(model.topology, vertices), folder / "mesh.obj")
        else:
            (folder / "mesh.obj").symlink_to(run / "frames" / "000001" / "mesh.obj")
    assert first is not None
    (run / "run.json").write_text('{"verb": "capture"}')
    (run / "first").mkdir()
    head = topology_tensors(model.topology) | {"vertices": first, "upright": torch.eye(4)}
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in head.items()},
        run / "first" / "head.safetensors",
    )
    write_glb(run / "sequence.glb", model.topology, first[None], None, RATE)
    return run


def measure(run: Path, name: str) -> dict[str, float | str]:
    """One export as the command line does it."""
    out = run.parent / name
    words = [sys.executable, "-m", "topohead", "export", run, "--to", name, "--out", out, "--json"]
    began = time.perf_counter()
    child = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"export --to {name} failed")
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    row: dict[str, float | str] = {
        "to": name,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mb": round(usage.ru_maxrss / 1024),
        "megabytes": round(size / 1e6, 1),
    }
    print(json.dumps(row), flush=True)
    return row


if __name__ == "__main__":
    main()
