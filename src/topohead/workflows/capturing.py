"""The stages of `topohead capture`, each resumable: ingest, first, track, texture, package."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from topohead.core import (
    ARKIT_52,
    Capture,
    HeadModel,
    InputError,
    Mesh,
    Rig,
    Topology,
    TrackedFrame,
    Views,
)
from topohead.geometry.alignment import rigid
from topohead.geometry.bridge import fit_bridge
from topohead.io.assets import reference_head, topology_from, topology_tensors
from topohead.io.calibration import read_rig, write_rig
from topohead.io.captures import open_capture, undistorted_views
from topohead.io.gltf import write_glb
from topohead.io.images import write_image
from topohead.io.meshes import check_mesh, read_mesh, write_obj
from topohead.io.runs import RunFolder
from topohead.io.undistortion import undistorted_landmarks
from topohead.solvers.calibration import CalibrationReport, refine_cameras, refined_rig
from topohead.solvers.feature_tracks import find_tracks
from topohead.solvers.fusion import Texture, fuse_frames, fuse_texture
from topohead.solvers.registration import FirstFrameConfig, first_frame
from topohead.workflows import tracking_state
from topohead.workflows.capture import CaptureConfig, CaptureResult
from topohead.workflows.progress import track as progress

log = logging.getLogger(__name__)

WELL_SEEN = 4
"""Effective number of views that coverage.png shows as white."""
CHECKED_FRAMES = 5
"""Frames whose features tell whether the calibration fits."""

STATIC_FRAMES = 8
"""Frames that make the one texture of `--textures static`."""


@dataclass(frozen=True)
class Take:
    """The opened take and the cameras that take part."""

    capture: Capture
    names: tuple[str, ...]
    start_path: Path | None

    def views(self, frame: str, height: int | None) -> Views:
        """Undistorted pictures of a frame, at most `height` pixels high."""
        return undistorted_views(self.capture, frame, self.names, height)


@dataclass(frozen=True)
class Head:
    """The first frame's mesh and how a face like it moves.

    `basis` [K V 3] are the expression displacements of the head model at this head's place and
    size, `expression` [K] how much of each the mesh shows. `upright` moves the world to the head's
    y-up frame.
    """

    mesh: Mesh
    basis: Float[Tensor, "K V 3"]
    expression: Float[Tensor, " K"]
    upright: Float[Tensor, "4 4"]


def open_take(config: CaptureConfig) -> Take:
    """The take that the settings name, checked."""
    for flag, path in (("--start", config.start), ("--landmarks", config.landmarks)):
        if path is not None and not path.is_file():
            raise InputError(f"{flag} {path}: no such file")
    capture = open_capture(
        config.source,
        config.units,
        config.views,
        config.frames,
        config.allow_missing,
        config.full,
        calibration=config.calibration,
        component=config.component,
        landmarks=config.landmarks,
    )
    names = capture.rig.cameras.names
    held_out = [name for name in (config.holdout or "").split(",") if name]
    unknown = [name for name in held_out if name not in names]
    if unknown:
        raise InputError(f"--holdout {unknown[0]}: no such camera; the take has {', '.join(names)}")
    kept = tuple(name for name in names if name not in held_out)
    if len(kept) < 2:
        raise InputError(f"--holdout leaves {len(kept)} camera; tracking needs at least two")
    start = None if config.no_start else config.start or capture.start_mesh
    return Take(capture, kept, start)


def bytes_needed(take: Take, config: CaptureConfig) -> int:
    """A generous estimate of what the run still writes."""
    frames = len(take.capture.frames)
    textures = {"full": frames, "static": 1, "none": 0}[config.textures]
    return int(frames * 12e6 + textures * config.texture_size**2 * 3.5 + 20e6)


# ingest


def ingest(run: RunFolder, take: Take, config: CaptureConfig) -> Take:
    """The take with the calibration that the run uses: as delivered, or put right."""
    if not run.is_done("ingest"):
        started = time.perf_counter()
        rig = take.capture.rig
        if not config.keep_cameras:
            rig = _checked_rig(run, take, config)
        with run.write("cameras.json") as path:
            write_rig(rig, path)
        run.append_metrics("ingest", seconds=time.perf_counter() - started)
        run.finish("ingest")
    rig = read_rig(run.path / "cameras.json")
    return replace(
        take, capture=replace(take.capture, rig=rig.select(take.capture.rig.cameras.names))
    )


def _checked_rig(run: RunFolder, take: Take, config: CaptureConfig) -> Rig:
    """The rig, solved again when a camera has drifted or when that was asked for."""
    frames = _spread(take.capture.frames, CHECKED_FRAMES)
    height = max(config.height, 1024)
    views = [take.views(frame, height) for frame in frames]
    complete = [v for v in views if v.cameras.names == take.names]
    rig = take.capture.rig
    if not complete:
        return rig
    try:
        given = complete[0].cameras
        solved, report = refine_cameras(given, find_tracks(complete))
    except InputError as error:
        if config.refine_cameras:
            raise
        log.info("calibration not checked: %s", error)
        return rig
    _tell_calibration(run, report)
    if not (report.drifted or config.refine_cameras):
        return rig
    if report.drifted:
        log.warning(
            "the calibration of %s does not fit the pictures (%.2f px, %.2f px when solved again): "
            "poses and principal points are taken as solved; --keep-cameras forbids that",
            ", ".join(report.drifted),
            float(report.before.max()),
            float(report.after.max()),
        )
    return refined_rig(rig, given, solved)


def _tell_calibration(run: RunFolder, report: CalibrationReport) -> None:
    run.append_metrics(
        "calibration",
        tracks=report.tracks,
        drifted=list(report.drifted),
        cameras={
            name: {
                "before_px": float(report.before[i]),
                "after_px": float(report.after[i]),
                "turned_degrees": float(report.turned[i]),
                "moved_mm": float(report.moved[i]) * 1e3,
            }
            for i, name in enumerate(report.names)
        },
    )


# first frame


def first(run: RunFolder, take: Take, config: CaptureConfig) -> Head:
    """The head of the first frame, found or given."""
    if not (run.is_done("first") and run.has("first/head.safetensors")):
        started = time.perf_counter()
        for _ in progress(range(1), "first frame"):
            head, facts = _find_first(take, config)
        write_obj(head.mesh, run.path / "first" / "start.obj")
        tensors = topology_tensors(head.mesh.topology) | {
            "vertices": head.mesh.vertices,
            "basis": head.basis,
            "expression": head.expression,
            "upright": head.upright,
        }
        with run.write("first/head.safetensors") as path:
            save_file(_packed(tensors), path)
        regions = {k: v.tolist() for k, v in head.mesh.topology.regions.items()}
        run.write_json("regions.json", regions)
        run.append_metrics("first", seconds=time.perf_counter() - started, **facts)
        run.finish("first")
    return read_head(run.path / "first" / "head.safetensors")


def read_head(path: Path) -> Head:
    """The head of a run's first frame, as the stage `first` wrote it."""
    stored = load_file(path)
    mesh = Mesh(topology_from(stored), stored["vertices"])
    return Head(mesh, stored["basis"], stored["expression"], stored["upright"])


def _find_first(take: Take, config: CaptureConfig) -> tuple[Head, dict[str, float]]:
    frame = take.capture.frames[0]
    views = take.views(frame, config.height)
    model = reference_head(1)
    settings = FirstFrameConfig(refine=not config.keep_start, units=config.units)
    if take.start_path is None:
        landmarks = undistorted_landmarks(take.capture, frame, views.cameras)
        found = first_frame(views, model, landmarks, config=replace(settings, refine=True))
        pose = found.pose.double()
        assert found.expression is not None, "the head model was fitted"
        basis = _turned(model.expression_basis, pose[:3, :3])
        head = Head(found.mesh, basis, found.expression, torch.linalg.inv(pose))
    else:
        start = read_mesh(take.start_path, config.units)
        check_mesh(start, take.start_path, uv_required=True)
        found = first_frame(views, start=start, config=settings)
        head = recognised(found.mesh)
    return head, {} if found.residual is None else {"residual": found.residual}


def recognised(mesh: Mesh) -> Head:
    """A mesh of any topology with what the reference head knows about it: regions and motion."""
    for level in (1, 0):
        model = reference_head(level)
        if _same_faces(model.topology, mesh.topology):
            pose = rigid(model.template.double(), mesh.vertices.double())
            known = replace(
                mesh.topology,
                regions=model.topology.regions,
                landmarks=model.topology.landmarks,
                mirror=model.topology.mirror,
            )
            basis = _turned(model.expression_basis, pose[:3, :3])
            # a start mesh is taken to be at rest
            return Head(Mesh(known, mesh.vertices), basis, _at_rest(), torch.linalg.inv(pose))
    model: HeadModel = reference_head(0)
    bridge, fit = fit_bridge(model, mesh)
    log.info("start mesh bridged to the reference head, %.2f mm apart", fit.residual * 1e3)
    similarity = fit.model_to_mesh.double()
    size = torch.linalg.det(similarity[:3, :3]) ** (1 / 3)
    pose = similarity.clone()
    pose[:3, :3] /= size
    basis = _turned(bridge.basis(model.expression_basis), similarity[:3, :3])
    # what lies beside the reference head (shoulders, lashes) has no expression to follow
    basis = basis * bridge.near[None, :, None]
    expression = fit.expression.float()
    return Head(Mesh(bridge.target, mesh.vertices), basis, expression, torch.linalg.inv(pose))


def _at_rest() -> Float[Tensor, " K"]:
    return torch.zeros(len(ARKIT_52))


def _same_faces(a: Topology, b: Topology) -> bool:
    return a.vertex_count == b.vertex_count and torch.equal(a.faces, b.faces)


def _turned(basis: Float[Tensor, "K V 3"], turn: Float[Tensor, "3 3"]) -> Float[Tensor, "K V 3"]:
    return (basis.double() @ turn.T.double()).float()


# tracking


def track_frames(run: RunFolder, take: Take, head: Head, config: CaptureConfig) -> None:
    """Every frame's mesh, from the last one that is there on."""
    frames = take.capture.frames
    done = 0
    while done < len(frames) and run.has(*_frame_files(frames[done])):
        done += 1
    if done == len(frames):
        run.finish("track")
        return
    follow = tracking_state.SOLVERS[config.solver]
    last = None
    if done:
        last = load_file(run.path / "frames" / frames[done - 1] / "state.safetensors")
    pictures = (take.views(frame, config.height) for frame in frames[done:])
    first_views = take.views(frames[0], config.height)
    start = tracking_state.Start(head.mesh, head.basis, -head.expression, first_views)
    answers = follow(start, pictures, last, config.seed, config.device)
    for state, answer in progress(answers, "tracking", len(frames), done):
        _write_frame(run, head.mesh.topology, state, answer)
    run.finish("track")


def _frame_files(frame: str) -> tuple[str, str]:
    return f"frames/{frame}/mesh.obj", f"frames/{frame}/state.safetensors"


def _write_frame(
    run: RunFolder, topology: Topology, state: dict[str, Tensor], answer: TrackedFrame
) -> None:
    """A frame's files; its state comes last and says that the frame is done."""
    folder = run.path / "frames" / answer.frame
    write_obj(Mesh(topology, answer.vertices), folder / "mesh.obj")
    run.append_metrics(
        "track",
        answer.frame,
        seconds=answer.seconds,
        residual=answer.residual,
        doubtful=answer.doubtful,
    )
    if answer.doubtful:
        log.warning("frame %s is doubtful: few views agree with the first frame", answer.frame)
    common = {"vertices": answer.vertices, "pose": answer.pose, "gains": answer.gains}
    with run.write(f"frames/{answer.frame}/state.safetensors") as path:
        save_file(_packed(state | common), path)


# texture


def texture(run: RunFolder, take: Take, head: Head, config: CaptureConfig) -> None:
    """Textures of every frame, or one of the take, or none."""
    frames = take.capture.frames
    if config.textures == "none" or run.is_done("texture"):
        run.finish("texture")
        return
    if config.textures == "static":
        if not run.has(f"frames/{frames[0]}/texture_srgb.png"):
            started = time.perf_counter()
            chosen = progress(_spread(frames, STATIC_FRAMES), "texture")
            pairs = ((take.views(f, None), _vertices(run, f)) for f in chosen)
            fused = fuse_frames(pairs, head.mesh.topology, config.texture_size)
            _write_texture(run, frames[0], fused, time.perf_counter() - started)
    else:
        done = [f for f in frames if run.has(f"frames/{f}/texture_srgb.png")]
        missing = [f for f in frames if f not in done]
        colors = None
        for frame in progress(missing, "textures", len(frames), len(done)):
            started = time.perf_counter()
            if colors is None:
                colors = _camera_colors(run, take, head)
            fused = fuse_texture(
                take.views(frame, None),
                head.mesh.topology,
                _vertices(run, frame),
                config.texture_size,
                colors=colors,
            )
            _write_texture(run, frame, fused, time.perf_counter() - started)
    run.finish("texture")


def _camera_colors(run: RunFolder, take: Take, head: Head):
    """The cameras' colour corrections, from the first frame: the same for all frames."""
    from topohead.solvers.colors import solve_colors

    frame = take.capture.frames[0]
    return solve_colors(take.views(frame, None), head.mesh.topology, _vertices(run, frame))


def _write_texture(run: RunFolder, frame: str, fused: Texture, seconds: float) -> None:
    folder = run.path / "frames" / frame
    write_image(folder / "coverage.png", (fused.coverage / WELL_SEEN).clamp(max=1))
    run.append_metrics("texture", frame, seconds=seconds)
    write_image(folder / "texture_srgb.png", fused.srgb)


def _vertices(run: RunFolder, frame: str) -> Float[Tensor, "V 3"]:
    return load_file(run.path / "frames" / frame / "state.safetensors")["vertices"]


# package


def package(run: RunFolder, take: Take, head: Head, config: CaptureConfig) -> CaptureResult:
    """The sequence in one GLB, and what there is to say about the run."""
    frames = take.capture.frames
    sequence = run.path / "sequence.glb"
    if not (run.is_done("package") and sequence.exists()):
        vertices = torch.stack([_vertices(run, frame) for frame in frames])
        picture = run.path / "frames" / frames[0] / "texture_srgb.png"
        for _ in progress(range(1), "package"):
            write_glb(
                sequence,
                head.mesh.topology,
                vertices,
                picture if picture.exists() else None,
                take.capture.frames_per_second,
                names=frames,
                upright=head.upright.float(),
            )
        _write_expression(run, take, head, vertices)
        run.finish("package")
    rows = [row for row in run.metrics() if row.get("stage") == "track"]
    seconds = [row["seconds"] for row in rows[1:]] or [row["seconds"] for row in rows]
    return CaptureResult(
        run.path,
        len(frames),
        tuple(row["frame"] for row in rows if row["doubtful"]),
        sum(seconds) / max(len(seconds), 1),
        sequence,
        run.path / "report.html",
    )


def _write_expression(
    run: RunFolder, take: Take, head: Head, vertices: Float[Tensor, "T V 3"]
) -> None:
    """expression.csv: an extra, for which no finished take may be lost."""
    from topohead.workflows.rigging import expression_track, write_expression

    try:
        track = expression_track(head, vertices)
        rate = take.capture.frames_per_second
        write_expression(run.path / "expression.csv", track, head.upright, rate)
    except (RuntimeError, ValueError) as error:  # torch and LAPACK raise these on broken numbers
        log.warning("no expression.csv: %s", error)


def report(run: RunFolder) -> None:
    """report.html and evaluation.json; they can be had again from `topohead evaluate`."""
    from topohead.workflows.report import write_report

    try:
        write_report(run.path)
    except InputError as error:
        log.warning("no report: %s", error)


def _packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share no memory and have no holes, as safetensors wants them."""
    return {k: v.clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}


def _spread(frames: Sequence[str], count: int) -> list[str]:
    """At most `count` frames, evenly over the take, the first among them."""
    if len(frames) <= count:
        return list(frames)
    step = (len(frames) - 1) / (count - 1)
    return [frames[round(i * step)] for i in range(count)]
