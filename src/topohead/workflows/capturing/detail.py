"""Displacement and normal maps of every frame: relief finer than the mesh, from the photographs."""

import os
import time
from contextlib import closing
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Topology, Views
from topohead.io.images import write_heights, write_image
from topohead.io.runs import RunFolder
from topohead.rendering.displacement import displacement_map, normal_map
from topohead.solvers.detail import ReliefSolver, finest_pixel, halvings_for
from topohead.solvers.sightlines import texel_size
from topohead.workflows.background import Behind, ahead
from topohead.workflows.capture import CaptureConfig
from topohead.workflows.capturing.first import Head
from topohead.workflows.capturing.take import Take
from topohead.workflows.capturing.tracked import frame_vertices
from topohead.workflows.progress import Sight, show
from topohead.workflows.progress import track as progress

PIXELS_A_TEXEL = 1.3
"""Pictures are shrunk until no more of their pixels lie along a texel: the rest costs time only."""


def detail(run: RunFolder, take: Take, head: Head, config: CaptureConfig) -> None:
    """Maps of every frame, or none. The normal map comes last and says that the frame is done."""
    frames = take.capture.frames
    if config.detail == "none" or run.is_done("detail"):
        run.finish("detail")
        return
    done = [f for f in frames if run.has(f"frames/{f}/normal.png", f"frames/{f}/displacement.exr")]
    missing = [f for f in frames if f not in done]
    if missing:
        height, solver = _solver(take, head, config)
        cuda = config.device == "cuda"
        readers = max(1, (os.cpu_count() or 1) - 1) if cuda else 1

        def read(frame: str) -> Views:
            return take.views(frame, height, readers, config.device)

        # float pictures of full size: two frames' of them on a device, one frame's on the host
        pictures = ahead(read, missing, 1) if cuda else (read(frame) for frame in missing)
        with Behind(1) as behind, closing(pictures):
            for frame in progress(missing, "detail", len(frames), len(done)):
                started = time.perf_counter()
                views = next(pictures)
                vertices, size = frame_vertices(run, frame), config.detail_size
                maps = _maps(solver, head.mesh.topology, views, vertices, size)
                seconds = time.perf_counter() - started
                behind.do(_write, run, frame, maps, seconds)
                show(Sight(frame, {"detail, s a frame": seconds}))
    run.finish("detail")


@dataclass(frozen=True)
class _Maps:
    """A frame's maps on the host: metres along the normal, and tangent-space normals."""

    displacement: Float[Tensor, "S S"]
    normals: Float[Tensor, "S S 3"]
    solving_seconds: float
    seen: float


def _maps(
    solver: ReliefSolver,
    topology: Topology,
    views: Views,
    vertices: Float[Tensor, "V 3"],
    size: int,
) -> _Maps:
    started = time.perf_counter()
    relief = solver.solve(views, vertices)
    heights = relief.heights
    displacement = displacement_map(relief.fine, heights, size).cpu()
    placed = vertices.to(heights.device).double()
    normals = normal_map(relief.fine, topology, placed, heights.double(), size).cpu()
    seen = float((relief.confidence > 0.5).float().mean())
    return _Maps(displacement, normals, time.perf_counter() - started, seen)


def _write(run: RunFolder, frame: str, maps: _Maps, seconds: float) -> None:
    folder = run.path / "frames" / frame
    write_heights(folder / "displacement.exr", maps.displacement)
    run.append_metrics(
        "detail", frame, seconds=seconds, solving_seconds=maps.solving_seconds, seen=maps.seen
    )
    write_image(folder / "normal.png", maps.normals)


def _solver(take: Take, head: Head, config: CaptureConfig) -> tuple[int | None, ReliefSolver]:
    """Height of the pictures to solve on (None: as they are), and the solver of the take.

    Both follow from the first frame's mesh, so that every frame has the same whenever it is solved.
    """
    cameras = take.capture.rig.cameras.select(take.names)
    mesh = head.mesh
    texel = texel_size(mesh.topology, mesh.vertices, config.detail_size)
    pixel = finest_pixel(cameras, mesh.vertices)
    shrink = pixel * PIXELS_A_TEXEL / texel
    median = float(cameras.sizes[:, 1].double().median())
    height = max(64, round(median * shrink)) if shrink < 1 else None
    halvings = halvings_for(mesh.topology, mesh.vertices, cameras, texel)
    return height, ReliefSolver(mesh, halvings, device=torch.device(config.device))
