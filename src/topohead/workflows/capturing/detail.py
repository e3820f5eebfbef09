"""Displacement and normal maps of every frame: relief finer than the mesh, from the photographs."""

import time

import torch

from topohead.io.images import write_heights, write_image
from topohead.io.runs import RunFolder
from topohead.rendering.displacement import displacement_map, normal_map
from topohead.solvers.detail import ReliefSolver, finest_pixel, halvings_for
from topohead.solvers.sightlines import texel_size
from topohead.workflows.capture import CaptureConfig
from topohead.workflows.capturing.first import Head
from topohead.workflows.capturing.take import Take
from topohead.workflows.capturing.tracking import frame_vertices
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
    height, solver = None, None
    for frame in progress(missing, "detail", len(frames), len(done)):
        if solver is None:
            height, solver = _solver(take, head, config)
        started = time.perf_counter()
        views, vertices = take.views(frame, height), frame_vertices(run, frame)
        loaded = time.perf_counter()
        relief = solver.solve(views, vertices)
        heights, size = relief.heights, config.detail_size
        displacement = displacement_map(relief.fine, heights, size).cpu()
        placed = vertices.to(heights.device).double()
        normals = normal_map(relief.fine, head.mesh.topology, placed, heights.double(), size).cpu()
        solved = time.perf_counter()
        folder = run.path / "frames" / frame
        write_heights(folder / "displacement.exr", displacement)
        run.append_metrics(
            "detail",
            frame,
            seconds=time.perf_counter() - started,
            solving_seconds=solved - loaded,
            seen=float((relief.confidence > 0.5).float().mean()),
        )
        write_image(folder / "normal.png", normals)
        show(Sight(frame, {"detail, s a frame": time.perf_counter() - started}))
    run.finish("detail")


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
