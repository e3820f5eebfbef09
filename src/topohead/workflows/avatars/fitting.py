"""The steps of `topohead avatar fit`: open, start, fit, write."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import InputError
from topohead.geometry.avatars import Avatar, ExpressionChange, eyeballs, principal_codes
from topohead.geometry.placement import placement
from topohead.geometry.skinning import FaceRig, RigPerformance
from topohead.io.atomic import atomic_write
from topohead.io.avatars import BUNDLE, RECORD, write_avatar
from topohead.io.cap4d import is_tracked_photos
from topohead.io.gltf_rig import write_rig_glb
from topohead.io.images import write_image
from topohead.solvers.first_looks import first_looks
from topohead.solvers.gaussian_head import GaussianHead, Instant, Lights, SplattingConfig
from topohead.solvers.pose_changes import Doubt, PoseChanges
from topohead.solvers.splatting import Splatting, splat
from topohead.workflows.avatar import FitConfig, FitResult
from topohead.workflows.avatars.inputs import Sitting, run_sitting
from topohead.workflows.avatars.instants import camera_names, instants_of
from topohead.workflows.avatars.photos import tracked_sitting
from topohead.workflows.avatars.pictures import preview
from topohead.workflows.avatars.refusals import check_agreement, refuse_untracked
from topohead.workflows.avatars.scenes import scene_sitting
from topohead.workflows.avatars.start import at_rows, parts_of, some_rows, starting_gaussians
from topohead.workflows.progress import Sight, show
from topohead.workflows.progress import track as progress

CHECKPOINT = "fit.pt"
CHECKPOINT_EVERY_S = 30.0
SHOWN_EVERY = 50
BATCH = 8
"""Pictures that a CUDA device draws in one step."""

INSTANTS_A_CODE = 4
"""Expressions for each code that changes colours and places, where one picture showed each."""

HOLD, MANY, MANY_DOUBTED = 0.1, 16, 64
"""How much many pictures hold a fit to its start, and how many are many; more where it is not
certain where they show the head (tuning seeds 181 and 184)."""

RESUMED = (
    "source", "views", "frames", "instants", "height", "gaussians", "steps", "degree", "codes",
    "seed", "hull", "head", "units", "flame", "refine",
)  # fmt: skip
"""Settings that a fit must share with the one that it continues."""


def run(config: FitConfig) -> FitResult:
    """The whole of `topohead avatar fit`."""
    began = time.monotonic()
    config = resolved(config)
    _refuse_foreign(config.out)
    names = config.views.split(",") if config.views else None
    sitting = open_sitting(config, names)
    check_agreement(sitting)
    avatar, facts = fitted(sitting, config)
    result = FitResult(
        config.out, len(avatar.splats), facts["pictures"], facts["psnr"], time.monotonic() - began
    )
    record = {"source": str(config.source), **settings(config), **facts, "seconds": result.seconds}
    write_avatar(config.out, avatar, record)
    write_bundle(config.out / BUNDLE, avatar)
    write_image(config.out / "preview.png", preview(avatar))
    (config.out / CHECKPOINT).unlink(missing_ok=True)
    return result


def open_sitting(config: FitConfig, names: list[str] | None) -> Sitting:
    """The pictures and heads of whatever the source is."""
    assert config.height is not None
    source = config.source
    given = source, config.height, config.frames, config.instants, names
    if config.head is not None:
        head = config.head, config.height, config.frames, config.instants, names
        return scene_sitting(source, *head, config.units)
    if is_tracked_photos(source):
        return tracked_sitting(*given, config.flame)
    refuse_untracked(source)
    return run_sitting(*given)


def resolved(config: FitConfig) -> FitConfig:
    """The settings with what depends on the machine filled in."""
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        from topohead.rendering.splats_cuda import require_gsplat

        if not torch.cuda.is_available():
            raise InputError("--device cuda: this machine has no CUDA device; leave it out")
        require_gsplat()
    fast = device == "cuda"
    defaults = {"height": (256, 512), "steps": (1200, 6000), "gaussians": (15_000, 60_000)}
    for name, pair in defaults.items():
        value = getattr(config, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} expects a number above zero, got {value}")
        defaults[name] = pair if value is None else (value, value)
    numbers = {name: pair[fast] for name, pair in defaults.items()}
    refine = config.refine
    if refine == "auto":
        refine = "yes" if is_tracked_photos(config.source) else "no"
    config = replace(config, device=device, refine=refine, **numbers)
    if config.codes < 0:
        raise InputError(f"--codes expects zero or more, got {config.codes}")
    return config


def settings(config: FitConfig) -> dict[str, Any]:
    """What a fit was made with, as JSON and checkpoints hold it."""
    return {name: str(getattr(config, name)) for name in RESUMED}


def fitted(sitting: Sitting, config: FitConfig) -> tuple[Avatar, dict[str, Any]]:
    """The avatar of a sitting and what is worth telling of the fit."""
    assert config.gaussians is not None and config.steps is not None
    began = time.monotonic()
    refined = config.refine == "yes"
    pictures = sum(len(view.images) for view in sitting.posed.views)
    start = starting_gaussians(sitting, config.gaussians, config.hull)
    weights = sitting.posed.weights.float()
    mean, axes = principal_codes(weights, min(config.codes, code_count(sitting)))
    codes = (weights - mean) @ axes
    rows = some_rows(sitting.posed)
    some, parts = at_rows(sitting.posed, rows), parts_of(sitting, start)
    looks = first_looks(start, some, codes[rows], parts, refined, config.degree)
    start, colors = looks.splats, looks.changes
    still = torch.zeros_like(colors)
    change = ExpressionChange(mean, axes, codes.amin(0), codes.amax(0), colors, still)
    names = camera_names(sitting)
    device = torch.device(config.device)
    instants = instants_of(sitting, codes, names, device, refined)
    triangles = sitting.rig.topology.triangles.to(device)
    numbers = SplattingConfig(
        steps=config.steps, degree=config.degree, seed=config.seed, hold=hold(sitting, refined),
        batch=BATCH if device.type == "cuda" else 1,
    )  # fmt: skip
    rig = upright_rig(sitting.rig)
    changes, light = None, None
    if refined:
        changes = PoseChanges(_facial(rig).to(device), len(weights), len(names), Doubt())
        lights = torch.zeros(len(weights), 4, 3).index_copy(0, torch.tensor(rows), looks.lights)
        light = Lights(lights.to(device), looks.normals.to(device))
    begin = start.to(device), change.to(device)
    head = GaussianHead(*begin, len(names), config.degree, changes, light).to(device)
    fit = Splatting(head, numbers)
    _resume(config, fit)
    begun_at = time.monotonic()
    _walk(config, fit, instants, triangles)
    splats, change = head.result()
    avatar = Avatar(rig, splats, change)
    phases = {"start": begun_at - began, "descent": time.monotonic() - begun_at}
    quality = _training_quality(head, instants, triangles)
    facts = {
        "cameras": names,
        "instants": [view.frame for view in sitting.posed.views],
        "pictures": pictures,
        "psnr": quality,
        "phases": phases,
    }
    if changes is not None:
        facts["refined"] = changes.told()
    return avatar, facts


def code_count(sitting: Sitting) -> int:
    """How many codes a sitting's pictures can tell from pictures themselves.

    An expression that several cameras saw is known for itself; of those that one picture each
    showed, more codes would tell pictures apart.
    """
    views = sitting.posed.views
    pictures = sum(len(view.images) for view in views)
    return len(views) - 1 if pictures >= 2 * len(views) else len(views) // INSTANTS_A_CODE


def hold(sitting: Sitting, doubted: bool) -> float:
    """How much a fit is held to where it began: the fewer pictures, the more."""
    pictures = sum(len(view.images) for view in sitting.posed.views)
    return HOLD * max(1.0, (MANY_DOUBTED if doubted else MANY) / pictures)


def _facial(rig: FaceRig) -> Float[Tensor, "52 V 3"]:
    """The blendshapes but on the eyes, which turn by the gaze alone."""
    shapes = rig.blendshapes.float().clone()
    for eye in eyeballs(rig):
        if eye is not None:
            shapes[:, eye.vertices] = 0
    return shapes


def _walk(
    config: FitConfig, fit: Splatting, instants: Sequence[Instant], triangles: Tensor
) -> None:
    """Steps with progress and checkpoints; an interruption leaves the last step behind."""
    steps, saved = fit.config.steps, time.monotonic()
    walked = splat(fit, instants, triangles)
    try:
        for losses in progress(walked, "gaussians", total=steps, done=fit.step):
            if fit.step % SHOWN_EVERY == 0:
                show(Sight(f"{fit.step}", values={"loss": float(losses["loss"])}))
            if time.monotonic() - saved > CHECKPOINT_EVERY_S:
                _save(config, fit)
                saved = time.monotonic()
    except KeyboardInterrupt:
        _save(config, fit)
        raise


def _save(config: FitConfig, fit: Splatting) -> None:
    with atomic_write(config.out / CHECKPOINT) as partial:
        torch.save({"settings": settings(config), **fit.state()}, partial)


def _resume(config: FitConfig, fit: Splatting) -> None:
    """Goes on from the checkpoint that an interrupted fit left, if it was of these settings."""
    path = config.out / CHECKPOINT
    if not path.is_file():
        return
    try:
        state = torch.load(path, weights_only=True, map_location=config.device)
    except Exception as error:
        raise InputError(f"{path} cannot be read ({error}); delete it and fit again") from None
    now = settings(config)
    for name, value in state["settings"].items():
        if now[name] != value:
            raise InputError(
                f"{path} is of a fit with --{name} {value}, this one has {now[name]}; use the same "
                "or another --out"
            )
    fit.load(state)


def _refuse_foreign(out: Path) -> None:
    """Only an avatar, or the beginning of one, is replaced."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; expected a folder for the avatar")
    ours = (RECORD, CHECKPOINT)
    if out.is_dir() and any(out.iterdir()) and not any((out / name).exists() for name in ours):
        raise InputError(
            f"--out {out} holds {min(out.iterdir()).name!r} and no avatar; choose an empty or a "
            "new folder"
        )


def upright_rig(rig: FaceRig) -> FaceRig:
    """The rig standing in the head frame."""
    still = RigPerformance(rig, torch.zeros(1, 52), torch.eye(4).double()[None], 30.0)
    return placement(rig.upright).performance(still).rig


@torch.no_grad()
def _training_quality(head: GaussianHead, instants: Sequence[Instant], triangles: Tensor) -> float:
    """PSNR in dB of all pictures together, where they count."""
    square, count = triangles.new_zeros((), dtype=torch.float64), 0.0
    for instant in instants:
        for first in range(0, len(instant.images), BATCH):
            chosen = slice(first, first + BATCH)
            images, _ = head(instant, triangles, chosen)
            gap = (images.clamp(0, 1) - instant.images[chosen].float() / 255).square()
            if instant.weights is not None:
                counted = instant.weights[chosen].float() / 255
                gap = gap * counted[..., None]
                count += 3 * counted.sum().double()
            else:
                count += gap.numel()
            square += gap.sum().double()
    return -10 * math.log10(max(float(square / count), 1e-12))


def write_bundle(path: Path, avatar: Avatar) -> None:
    """The rig and its Gaussians as one GLB, at rest: what `topohead view` plays."""
    still = RigPerformance(avatar.rig, torch.zeros(1, 52), torch.eye(4).double()[None], 30.0)
    write_rig_glb(path, still, splats=avatar.splats, change=avatar.change)
