"""The frames of one performer: one identity, each frame from the one before, written as a run.

The first frame is registered as any scan. Its head without expression is the person: later frames
are that person in another pose and expression, and what remains moves vertex by vertex.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.spatial import KDTree
from torch import Tensor

from topohead.core import HeadModel, InputError
from topohead.core.scans import Scan, ScanFit
from topohead.geometry.alignment import apply, rigid
from topohead.io.assets import reference_head, topology_tensors
from topohead.io.digests import digest, plain
from topohead.io.gltf import write_glb
from topohead.io.images import write_image
from topohead.io.meshes import write_obj
from topohead.io.runs import RunFolder, Stage
from topohead.io.textures import find_texture
from topohead.models.linear import LinearHead
from topohead.solvers.expressions import ExpressionTrack
from topohead.workflows.capturing.first import packed
from topohead.workflows.progress import Sight, show
from topohead.workflows.progress import track as progress
from topohead.workflows.register import RegisterConfig, RegisteredScan, RegisterResult
from topohead.workflows.registering.batch import scans_in
from topohead.workflows.registering.finding import Prepared, found_in
from topohead.workflows.registering.heads import at_rest, level_of, registered_head
from topohead.workflows.registering.methods import (
    Found,
    Means,
    fit_scan,
    judge_fit,
    means_of,
    refine_fit,
)
from topohead.workflows.registering.single import bake_maps, prepare
from topohead.workflows.registering.units import metres_in, named, unit_name
from topohead.workflows.rigging import write_expression

log = logging.getLogger(__name__)

NEAR = 0.02
"""Metres from the frame before within which points of the next one are looked for."""

START_SIGMA = 1e-3
"""Expected error of the frame before as the next one's start, beside pose and expression."""

HELD = 0.25
"""Share of how expressions spread within which they are held about the frame before. It was made of
them, so how well they explain it says nothing."""

LOST_MM = 1.5
"""Median distance to the scan beyond which a frame is looked for anew, without the one before."""

STAGES = (
    Stage("first", outputs=("first/*",)),
    Stage("track", outputs=("frames/*/*",)),
    Stage("package", ("frames_per_second",), ("sequence.glb", "expression.csv")),
)


def register_sequence(config: RegisterConfig) -> RegisterResult:
    """A run folder of all frames; those that an earlier call has finished are kept."""
    if not config.source.is_dir():
        raise InputError(f"--sequence expects a folder of frames, got {config.source}")
    scans = [path for _, path in scans_in(config.source, config.out)]
    settings = {k: v for k, v in plain(config).items() if k not in ("source", "force", "sequence")}
    settings["scans"] = str(config.source.resolve())
    restart = "first" if config.restart else None
    inputs = {"scans": digest(*scans)}
    with RunFolder(config.out, "register", settings, STAGES, inputs=inputs, restart=restart) as run:
        found = _track(run, config, scans)
        _package(run, config)
        report = None
        if config.report:
            from topohead.workflows.report import write_report

            report = write_report(run.path)
    return RegisterResult(config.out, tuple(found), report)


def _track(run: RunFolder, config: RegisterConfig, scans: Sequence[Path]) -> list[RegisteredScan]:
    """Every frame's mesh and state."""
    names = [f"{number:06d}" for number in range(1, len(scans) + 1)]
    found: list[RegisteredScan] = []
    person: HeadModel | None = None
    first = last = None
    told: set[str] = set()
    for name, path in progress(list(zip(names, scans, strict=True)), "frames"):
        state = run.path / "frames" / name / "state.safetensors"
        if run.has(f"frames/{name}/mesh.obj", f"frames/{name}/state.safetensors"):
            fit, sure = _stored(state)
            found.append(RegisteredScan(path, state.with_name("mesh.obj"), kept=True))
        else:
            try:
                fit, sure = _frame(run, config, name, path, person, first, last, found)
            except InputError as error:
                if first is None and not config.force:
                    raise  # without a first frame nobody knows the person
                log.warning("frame %s: %s", name, error)
                found.append(RegisteredScan(path, None, failure=str(error)))
                continue
            for warning in found[-1].warnings:
                if warning not in told:  # of what all frames have in common, once
                    log.warning("frame %s: %s", name, warning)
                told.add(warning)
        last = fit if sure or last is None else last
        if first is None:
            first, person = fit, personal(fit)
            metres = float(load_file(state)["unit_metres"])
            config = replace(config, unit=named(metres))  # the frames of a sequence share one
    run.finish("track")
    return found


def _frame(
    run: RunFolder,
    config: RegisterConfig,
    name: str,
    path: Path,
    person: HeadModel | None,
    first: ScanFit | None,
    last: ScanFit | None,
    found: list[RegisteredScan],
) -> tuple[ScanFit, bool]:
    """Registers a frame and writes it; its state comes last and says that it is done. Gives the fit
    and whether it may be believed, and the next frame begin from it.
    """
    began = time.perf_counter()
    prepared = prepare(replace(config, source=path))
    assert config.method is not None, "resolved"
    doubts: tuple[str, ...] = ()
    if person is None or last is None:
        prepared, fit, quality, doubts = found_in(prepared, config)
    else:
        fit, doubts = following(prepared.scan, person, last, config)
        quality = judge_fit(prepared.scan, fit, reference_head(0), config.device)
    failures = tuple(quality.failures.values())
    if failures and not config.force and first is None:
        raise InputError(f"{path}: {'; '.join(failures)}; --force takes it nevertheless")
    shown = registered_head(fit, config.level, reference_frame=False)
    if first is None:
        _write_first(run, config, prepared, fit, name)
    folder = run.path / "frames" / name
    write_obj(shown.mesh, folder / "mesh.obj")
    seconds = time.perf_counter() - began
    told = {"p2s_median_mm": quality.whole.median_mm, "p2s_p95_mm": quality.whole.p95_mm}
    doubtful = bool(failures or doubts)
    run.append_metrics("track", name, seconds=seconds, doubtful=doubtful, scan=path.name, **told)
    motion = rigid_motion(fit if first is None else first, fit)
    # a unit that is named is that of the file's own numbers
    own = prepared.file.metres_per_unit if config.unit == "auto" else 1.0
    tensors = {
        "vertices": shown.mesh.vertices,
        "pose": motion,
        "control": fit.vertices,
        "sigma": fit.sigma,
        "fit_pose": fit.pose,
        "expression": fit.expression,
        "unit_metres": torch.tensor(metres_in(prepared.unit) * own),
        "doubtful": torch.tensor(doubtful),
    }
    with run.write(f"frames/{name}/state.safetensors") as partial:
        save_file(packed(tensors), partial)
    show(Sight(name, {"distance to the scan, mm": told["p2s_median_mm"]}, {"head": shown.mesh}))
    found.append(
        RegisteredScan(
            path, folder / "mesh.obj", config.method, unit_name(prepared.unit),
            told["p2s_median_mm"], told["p2s_p95_mm"], 1000 * float(fit.sigma.median()), seconds,
            False, (*prepared.notes, *doubts, *quality.warnings.values(), *failures),
        )
    )  # fmt: skip
    return fit, not doubtful


def following(scan: Scan, person: HeadModel, last: ScanFit, config: RegisterConfig) -> Found:
    """The person in the next frame, anew where nothing leads there; and the network's doubts.

    With the network, from the pose and the expression that it sees: a blink, or a mouth that opens
    fast, is out of reach of the frame before, from which all else begins.
    """
    start, doubts = _seen(scan, person, last, config)
    if start is None:
        tree = KDTree(last.vertices.double().numpy())
        near = tree.query(scan.points.double().numpy(), distance_upper_bound=NEAR)[0] < NEAR
        start = replace(
            last,
            sigma=torch.full_like(last.sigma, START_SIGMA),
            inliers=torch.from_numpy(np.asarray(near)),
        )
    if start.inliers.any():
        fit = refine_fit(scan, start, person, config.device, HELD)
        if judge_fit(scan, fit, person, config.device).whole.median_mm < LOST_MM:
            return fit, doubts
    return fit_scan(scan, person, "pca+refine", Means(config.seed, config.device))[0], doubts


def _seen(
    scan: Scan, person: HeadModel, last: ScanFit, config: RegisterConfig
) -> tuple[ScanFit | None, tuple[str, ...]]:
    """The person as the network sees them in a scan: its pose and expression, the person's shape
    and size. None without the network, or where it is in doubt, which is told."""
    assert config.method is not None, "resolved"
    if not config.method.startswith("network"):
        return None, ()
    seen, doubts = fit_scan(scan, reference_head(0), "network", means_of(config))
    if doubts:
        return None, doubts
    shape = person.template + torch.tensordot(seen.expression, person.expression_basis, 1)
    size = torch.linalg.det(last.pose[:3, :3].double()) ** (1 / 3)
    face = person.topology.region_mask("face")
    pose = rigid(size * shape[face].double(), seen.vertices[face].double())
    pose[:3, :3] *= size
    fit = ScanFit(
        apply(pose, shape.double()).float(),
        torch.full_like(last.sigma, START_SIGMA),
        pose.float(),
        seen.expression,
        seen.inliers,
    )
    return fit, ()


def personal(fit: ScanFit) -> LinearHead:
    """The person of a fit as a head model of one identity: neutral and their own actions.

    Its one identity mode moves nothing: solvers expect a model to have some.
    """
    head = reference_head(0)
    neutral, actions = at_rest(fit)
    still = torch.zeros_like(head.identity_basis[:1])
    return LinearHead(head.topology, neutral, still, actions)


def rigid_motion(first: ScanFit, fit: ScanFit) -> Tensor:
    """What moves the head of the first frame to this one's, without the change of size."""
    head = reference_head(0)
    here = [apply(one.pose.double(), head.template.double()) for one in (first, fit)]
    return rigid(here[0], here[1]).float()


def _stored(state: Path) -> tuple[ScanFit, bool]:
    """A frame's fit as it was written, and whether to believe it; which points were inliers is not
    kept."""
    told = packed(load_file(state))
    none = torch.zeros(0, dtype=torch.bool)
    fit = ScanFit(told["control"], told["sigma"], told["fit_pose"], told["expression"], none)
    return fit, not bool(told.get("doubtful", False))


def _write_first(
    run: RunFolder, config: RegisterConfig, prepared: Prepared, fit: ScanFit, name: str
) -> None:
    """What `rig`, `view` and `evaluate` want to know of the head, and its texture."""
    shown = registered_head(fit, config.level, reference_frame=False)
    tensors = topology_tensors(shown.mesh.topology) | {
        "vertices": shown.mesh.vertices,
        "basis": shown.rig.blendshapes,
        "expression": shown.expression,
        "upright": shown.rig.upright,
    }
    with run.write("first/head.safetensors") as partial:
        save_file(packed(tensors), partial)
    regions = {key: rows.tolist() for key, rows in shown.mesh.topology.regions.items()}
    run.write_json("regions.json", regions)
    texture, _, _ = bake_maps(config, prepared, shown.mesh)
    if texture is not None:
        write_image(run.path / "frames" / name / "texture_srgb.png", texture)
    run.finish("first")


def _states(run: RunFolder) -> Iterator[tuple[str, dict[str, Tensor]]]:
    for path in sorted(run.path.glob("frames/*/state.safetensors")):
        yield path.parent.name, load_file(path)


def _package(run: RunFolder, config: RegisterConfig) -> None:
    """The sequence in one GLB, and its expression curves."""
    if run.is_done("package") and run.has("sequence.glb", "expression.csv"):
        return
    states = dict(_states(run))
    names = list(states)
    upright = load_file(run.path / "first" / "head.safetensors")["upright"]
    stored = find_texture(run.path, names[0], names)
    topology, _ = level_of(config.level)
    rate = config.frames_per_second
    write_glb(
        run.path / "sequence.glb",
        topology,
        torch.stack([state["vertices"] for state in states.values()]),
        None if stored is None else stored.picture,
        rate,
        names=names,
        upright=upright,
    )
    track = ExpressionTrack(
        torch.stack([state["expression"] for state in states.values()]).double(),
        torch.stack([state["pose"] for state in states.values()]).double(),
    )
    write_expression(run.path / "expression.csv", track, upright, rate)
    run.finish("package")
