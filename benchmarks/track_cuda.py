"""Tracking on a CUDA device: milliseconds a frame, a step and a kernel, on a staged take.

    topohead stage TAKE --cameras 24 --width 512 --height 375 --frames 12 --images jpg
    topohead capture TAKE --out RUN --start TAKE/start/exact.obj --keep-start --keep-cameras \
        --height 375 --frames 1:1 --textures none
    python benchmarks/track_cuda.py TAKE RUN --out results.json

RUN gives the first frame's mesh and how its face moves. A frame is timed three ways, each a median
without the first frames, which wait for compilation: `frame_ms` with its pictures undistorted but
on the host, `brought_ms` with them on the device as `capture` reads them ahead, `files_ms` from
picture files on, as `capture` runs. With `--cpu FRAMES` as many are tracked on the CPU as well and
compared.
"""

import argparse
import json
import os
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from measured_on import commit
from safetensors.torch import load_file
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from topohead.core import Mesh, Views
from topohead.io.assets import topology_from
from topohead.io.captures import open_capture, undistorted_views
from topohead.solvers.first_look import Reference
from topohead.solvers.tracking import TrackConfig, TrackState, advance, make_reference
from topohead.workflows.background import ahead
from topohead.workflows.tracking_state import strides

CONFIG = TrackConfig()


def main() -> None:
    """Track, time, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("take", type=Path)
    parser.add_argument("run", type=Path, help="a run of it that found its first frame")
    parser.add_argument("--out", type=Path, default=Path("track_cuda.json"))
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cpu", type=int, default=0, help="frames to track on the CPU as well")
    parser.add_argument("--repeat", type=int, default=4, help="passes over the frames")
    parser.add_argument("--readers", type=int, default=max(1, (os.cpu_count() or 1) - 1))
    parser.add_argument("--commit", help="what to record when git is not there")
    args = parser.parse_args()
    head = Head.load(args.run)
    pictures = read_pictures(args.take, args.frames, args.height)
    started = time.perf_counter()
    reference = head.reference(pictures[0], args.device)
    first_look = time.perf_counter() - started
    answers, milliseconds = tracked(pictures[1:], reference)
    result: dict[str, Any] = {
        "benchmark": "track_cuda",
        "commit": args.commit or commit(),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else args.device,
        "torch": torch.__version__,
        "cameras": len(pictures[0].images),
        "sizes": pictures[0].cameras.sizes.tolist(),
        "vertices": head.mesh.topology.vertex_count,
        "samples": [len(samples) for samples in reference.surface.samples],
        "reference_s": first_look,
        "frame_ms": statistics.median(milliseconds[1:]),
        "frames_ms": milliseconds,
    }
    brought = [views.to(args.device) for views in pictures[1:]]
    resident, repeated = tracked(brought * args.repeat, reference)
    result |= {
        "brought_ms": statistics.median(repeated),
        "same_bytes": all(torch.equal(a, b) for a, b in zip(answers, resident, strict=False)),
        "read_ms": {
            f"{readers} readers, {device}": reading(args, readers, device)
            for readers in (1, args.readers)
            for device in dict.fromkeys(("cpu", args.device))
        },
        "files_ms": from_files(args, reference),
        "steps_ms": steps(brought, reference),
    }
    if args.device == "cuda":
        result |= kernels(brought, reference)
    if args.cpu:
        host = head.reference(pictures[0], "cpu")
        expected, slow = tracked(pictures[1 : args.cpu + 1], host)
        far = [(a - b).norm(dim=1) * 1e3 for a, b in zip(answers, expected, strict=False)]
        result["cpu"] = {
            "frames_ms": slow,
            "median_difference_mm": [float(d.median()) for d in far],
            "p95_difference_mm": [float(d.quantile(0.95)) for d in far],
        }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


@dataclass(frozen=True)
class Head:
    """What a run knows of its first frame."""

    mesh: Mesh
    basis: Tensor
    expression: Tensor

    @staticmethod
    def load(run: Path) -> "Head":
        stored = load_file(run / "first" / "head.safetensors")
        mesh = Mesh(topology_from(stored), stored["vertices"])
        return Head(mesh, stored["basis"], stored["expression"])

    def reference(self, views: Views, device: str) -> Reference:
        """As `topohead capture` makes it."""
        return make_reference(
            views, self.mesh, self.basis, CONFIG, -self.expression, strides(), device
        )


def read_pictures(take: Path, count: int, height: int) -> list[Views]:
    """The first frames' undistorted pictures."""
    capture = open_capture(take)
    names = capture.rig.cameras.names
    return [undistorted_views(capture, frame, names, height) for frame in capture.frames[:count]]


def tracked(pictures: list[Views], reference: Reference) -> tuple[list[Tensor], list[float]]:
    """Every frame's vertices, and milliseconds."""
    surface = reference.surface
    state = TrackState.first(len(surface.vertices), len(surface.basis))
    answers, milliseconds = [], []
    for views in pictures:
        started = time.perf_counter()
        state, answer = advance(views, reference, state, CONFIG)
        milliseconds.append(1e3 * (time.perf_counter() - started))
        answers.append(answer.vertices)
    return answers, milliseconds


def reading(args: argparse.Namespace, readers: int, device: str) -> float:
    """Milliseconds a frame of decoding pictures and undistorting them on a device."""
    capture = open_capture(args.take)
    seconds = []
    for frame in capture.frames[: args.frames]:
        started = time.perf_counter()
        undistorted_views(capture, frame, None, args.height, readers, device)
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds)


def from_files(args: argparse.Namespace, reference: Reference) -> float:
    """Milliseconds a frame from files to vertices, pictures read ahead as `capture` does."""
    capture = open_capture(args.take)
    frames = list(capture.frames[1 : args.frames]) * args.repeat

    def read(frame: str) -> Views:
        return undistorted_views(capture, frame, None, args.height, args.readers, args.device)

    surface = reference.surface
    state = TrackState.first(len(surface.vertices), len(surface.basis))
    ends = [time.perf_counter()]
    for views in ahead(read, frames):
        state, _ = advance(views, reference, state, CONFIG)
        ends.append(time.perf_counter())
    # the first frames wait for the reader
    warm = ends[min(3, len(ends) - 2) :]
    return 1e3 * (warm[-1] - warm[0]) / (len(warm) - 1)


class Timed:
    """An engine whose every piece of work is waited for and timed."""

    def __init__(self, engine: Any) -> None:
        self.surface, self._engine = engine.surface, engine
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)

    def __getattr__(self, name: str) -> Any:
        step = getattr(self._engine, name)

        def timed(*args: Any) -> Any:
            _wait()
            started = time.perf_counter()
            found = step(*args)
            _wait()
            told = " ".join(map(str, args[0][:2])) if name == "whole" else name
            self.seconds[told] += time.perf_counter() - started
            self.calls[told] += 1
            return found

        return timed


def steps(pictures: list[Views], reference: Reference) -> dict[str, dict[str, float]]:
    """Milliseconds and calls a frame of every piece (kind, level), each waited for."""
    engine = Timed(reference.engine)
    tracked(pictures, replace(reference, engine=engine))
    count = len(pictures)
    return {
        name: {"ms": 1e3 * seconds / count, "calls": engine.calls[name] / count}
        for name, seconds in sorted(engine.seconds.items(), key=lambda item: -item[1])
    }


def kernels(pictures: list[Views], reference: Reference) -> dict[str, Any]:
    """What the device did a frame: busy time, launches, and the kernels that took longest."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as record:
        tracked(pictures, reference)
        _wait()
    ran = [e for e in record.key_averages() if e.device_type == DeviceType.CUDA]
    ran.sort(key=lambda event: -event.self_device_time_total)
    count = len(pictures)
    return {
        "gpu_busy_ms": sum(e.self_device_time_total for e in ran) / 1e3 / count,
        "gpu_launches": sum(e.count for e in ran) / count,
        "kernels": {
            e.key[:80]: {"ms": e.self_device_time_total / 1e3 / count, "calls": e.count / count}
            for e in ran[:30]
        },
    }


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
