"""Speed of capture's texture stage on a CUDA device, files in and files out.

    python benchmarks/texture_stage.py --out texture_stage.json

24 pictures of 4096×3000 a frame (those of `texture_cuda.py`, every frame the same files) are read,
fused to 8192² and written as PNG. `seconds_a_frame` is the median time from one finished texture to
the next; the first frame, in `total_s`, also waits for compilers and for the colour solve.
"""

import argparse
import json
import statistics
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

from measured_on import commit, hardware
from safetensors.torch import save_file
from texture_cuda import Scene, make_scene

from topohead.core import Capture, Mesh
from topohead.io.images import read_image, write_image
from topohead.io.runs import RunFolder
from topohead.workflows.capture import CaptureConfig
from topohead.workflows.capturing.take import Take
from topohead.workflows.capturing.texture import texture


def main() -> None:
    """Measure, write JSON, print a line a row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("texture_stage.json"))
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit", help="what to record when git is not there")
    args = parser.parse_args()
    scene = make_scene(24, args.seed)
    rows = []
    for suffix in (".jpg", ".png"):
        rows.append(whole_stage(scene, suffix, args.frames))
        print(json.dumps(rows[-1]), flush=True)
    result = {
        "benchmark": "texture_stage",
        "commit": args.commit or commit(),
        "hardware": hardware(),
        "seed": args.seed,
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def whole_stage(scene: Scene, suffix: str, frames: int) -> dict[str, Any]:
    """The stage over a take of so many frames, with pictures of one kind of file."""
    pictures = scene.pictures
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for name, image in zip(pictures.cameras.names, pictures.images, strict=True):
            write_image(root / f"{name}{suffix}", image.float() / 255)
        capture = Capture(
            rig=pictures.rig,
            frames=tuple(f"{i:06d}" for i in range(frames)),
            read_image=lambda frame, camera: read_image(root / f"{camera}{suffix}"),
        )
        run = _Run(root)
        for frame in capture.frames:
            state = root / "frames" / frame / "state.safetensors"
            state.parent.mkdir(parents=True)
            save_file({"vertices": scene.vertices}, state)
        config = CaptureConfig(root, root, texture_size=8192, device="cuda")
        take: Any = Take(capture, pictures.cameras.names, None)
        head: Any = SimpleNamespace(mesh=Mesh(scene.topology, scene.vertices))
        started = time.perf_counter()
        texture(cast(RunFolder, run), take, head, config)
        total = time.perf_counter() - started
        size = (root / "frames" / capture.frames[-1] / "texture_srgb.png").stat().st_size
    steps = [b - a for a, b in pairwise(run.finished)]
    return {
        "pictures": suffix,
        "frames": frames,
        "total_s": total,
        "seconds_a_frame": statistics.median(steps),
        "texture_mb": size / 1e6,
    }


class _Run:
    """As much of a run folder as the stage asks for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.finished: list[float] = []

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def is_done(self, stage: str) -> bool:
        return False

    def finish(self, stage: str) -> None:
        self.finished.append(time.perf_counter())

    def append_metrics(self, stage: str, frame: str, /, **values: Any) -> None:
        self.finished.append(time.perf_counter())


if __name__ == "__main__":
    main()
