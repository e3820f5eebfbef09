"""`topohead stage`: a virtual light stage films a random head; everything about it is known."""

import json
import logging
import os
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from topohead.core.errors import InputError, check_ranges

log = logging.getLogger(__name__)

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"cameras": 6, "held_out": 0, "width": 384, "height": 288, "frames": 3, "fps": 10.0,
             "texture_size": 1024},
    "small": {"cameras": 16, "held_out": 0, "width": 512, "height": 375, "frames": 30, "fps": 30.0,
              "texture_size": 2048},
    "standard": {"cameras": 24, "held_out": 2, "width": 4096, "height": 3000, "frames": 60,
                 "fps": 60.0, "texture_size": 4096},
}  # fmt: skip
"""Numbers of the presets; each can be overridden by its flag."""

RANGES: Mapping[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1), "cameras": (1, 60), "held_out": (0, 57), "width": (32, 16384),
    "height": (32, 16384), "frames": (1, 1_000_000), "head_motion": (0, 100), "gloss": (0, 10),
    "background": (0, 1), "arc": (0, 180), "turned": (0, 1), "principal_point": (0, 1000),
    "distortion": (0, 5), "calibration_error": (0, 100), "color_error": (0, 1), "noise": (0, 100),
    "blur": (0, 10), "shutter": (0, 1), "supersampling": (1, 8), "texture_size": (128, 8192),
    "identity": (0, 10), "field": (0, 20), "relief": (0, 2), "blood_flow": (0, 10),
    "start_noise": (0, 20), "quality": (1, 100), "samples": (1, 65536),
}  # fmt: skip
"""What the numbers may be; beyond lies no head, no rig or no sensor."""


@dataclass(frozen=True)
class StageConfig:
    """A virtual light-stage take with full ground truth. Numbers left out come from the preset."""

    out: Path
    """Folder of the new take."""
    preset: Literal["tiny", "small", "standard"] = "small"
    """tiny: 6 views, 3 frames; small: 16 views of 512x375, 30; standard: 26 views of 12 MP, 60."""
    seed: int = 0
    """Decides person, skin, rig, motion and noise; same seed, same bytes."""
    head: Literal["reference", "ict"] = "reference"
    """Head model whose topology the truth has."""
    ict: Path | None = None
    """ICT-FaceKit model file for --head ict; by default where it was found before."""
    cameras: int | None = None
    """Number of cameras that are for tracking, 3 to 60 with those held out."""
    held_out: int | None = None
    """Number of further cameras named holdNN, meant for `capture --holdout`."""
    width: int | None = None
    """Picture width in pixels."""
    height: int | None = None
    """Picture height in pixels."""
    frames: int | None = None
    """Number of frames."""
    fps: float | None = None
    """Frames a second; a lower rate plays the same motion in larger steps."""
    performance: Path | None = None
    """Live Link Face CSV to play; by default a scripted range of motion."""
    performance_start: float | None = None
    """Seconds into the recording; by default its most neutral moment."""
    still_head: bool = False
    """Keep the head in place; by default it nods, turns and sways."""
    head_motion: float = 3.0
    """Millimetres that the face travels a frame, on average."""
    light: Literal["dome", "studio", "key"] = "dome"
    """dome: even white sphere; studio: two soft boxes; key: one small lamp. They stay in place."""
    gloss: float = 0.0
    """Strength of the skin's and eyes' gloss: 0 none, 1 natural."""
    background: float = 0.0
    """Light behind the head, linear, 0 to 1."""
    arc: float = 100.0
    """Degrees to each side over which cameras spread."""
    turned: float = 0.35
    """Share of sensors that are mounted a quarter turn off."""
    principal_point: float = 60.0
    """Largest offset of a principal point, pixels of a 4096-pixel picture."""
    distortion: float = 1.0
    """Strength of lens distortion; 0 none."""
    calibration_error: float = 0.1
    """Error of the calibration that is handed over, pixels rms."""
    color_error: float = 0.03
    """Spread of the cameras' gains and offsets; 0 also removes vignetting."""
    noise: float = 1.0
    """Sensor noise relative to an ordinary camera's."""
    blur: float = 0.45
    """Blur of the optics, standard deviation in pixels."""
    shutter: float = 0.0
    """Motion blur: share of a frame's time that the shutter is open."""
    supersampling: int = 3
    """Samples along each side of a pixel."""
    texture_size: int | None = None
    """Side of the skin's maps in texels."""
    identity: float = 0.8
    """Spread of the person's shape within the head model's population."""
    field: float = 1.2
    """Shape beyond the head model, millimetres rms."""
    charts: bool = False
    """Paint resolution charts on the skin, by which `evaluate` tells how sharp textures are."""
    relief: float = 0.12
    """Depth of wrinkles on the filmed surface, millimetres."""
    blood_flow: float = 0.0
    """How much skin reddens where expression presses it and pales where stretched; 1 natural."""
    start_noise: float = 1.0
    """Error of start/noisy.obj, millimetres rms."""
    images: Literal["png", "jpg"] = "png"
    """File format of the pictures."""
    quality: int = 93
    """JPEG quality."""
    renderer: Literal["stage", "pathtrace"] = "stage"
    """stage: built in; pathtrace: Mitsuba 3 (extra `pathtrace`), slower, light as it is."""
    samples: int = 64
    """Samples a pixel of the path tracer."""
    hair: str | None = None
    """random, a style ("crew cut"), or brows for brows and lashes alone; none by default."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where skin and --renderer stage's pictures are made; a take may go on on the other."""
    json: bool = False
    """Print one JSON object instead of lines."""


@dataclass(frozen=True)
class StagedTake:
    """Where the take is and what it holds."""

    out: Path
    cameras: int
    frames: int
    motion: str

    def summary(self) -> str:
        return f"{self.frames} frames of {self.cameras} cameras in {self.out} ({self.motion})"


def stage(config: StageConfig) -> StagedTake:
    """Film a take into `config.out`; frames that are there already are kept."""
    from topohead.synthesis import records
    from topohead.workflows.progress import track

    settings = resolved(config)
    _check(settings)
    out = Path(config.out)
    before = _begun(out, settings)
    take = make_take(settings)
    if before and before["motion"] != take.motion.source:
        raise InputError(
            f"{out} plays '{before['motion']}', {settings['frames']} frames would play "
            f"'{take.motion.source}'; give the same --performance-start"
        )
    done = before is not None and before["settings"]["frames"] == settings["frames"]
    surfaces, lit = take.light(take.motion, 0)
    if not done:
        records.write_statics(out, take, surfaces, lit, settings["start_noise"])
        described = records.describe(take, _plain(settings))
        records.write_text(out / "truth" / "truth.json", json.dumps(described, indent=1) + "\n")
    count = settings["frames"]
    missing = [f for f in range(count) if not records.truth_file(out, f).exists()]
    _film(out, take, track(missing, "stage", total=count, done=count - len(missing)), settings)
    return StagedTake(out, len(take.rig.exact.cameras), count, take.motion.source)


def resolved(config: StageConfig) -> dict[str, Any]:
    """All settings, the preset's numbers filled in where none was given."""
    values = {entry.name: getattr(config, entry.name) for entry in fields(config)}
    for name, value in PRESETS[config.preset].items():
        if values[name] is None:
            values[name] = value
    if values["hair"] == "none":
        values["hair"] = None
    return values


def make_take(settings: Mapping[str, Any]):
    """The take that these settings (`resolved`) describe, not yet filmed."""
    from topohead.synthesis import lights, takes
    from topohead.synthesis.rigs import RigSettings

    motion = takes.make_motion(
        settings["frames"],
        settings["fps"],
        settings["seed"],
        settings["performance"],
        settings["performance_start"],
    )
    rig = RigSettings(
        settings["cameras"],
        settings["held_out"],
        settings["width"],
        settings["height"],
        settings["arc"],
        settings["turned"],
        settings["principal_point"],
        settings["distortion"],
        settings["calibration_error"],
        settings["color_error"],
    )
    optics = takes.Optics(
        settings["supersampling"],
        settings["gloss"],
        (settings["background"],) * 3,
        settings["shutter"],
        settings["blur"],
        settings["noise"],
    )
    head, asymmetry = _load_head(settings["head"], settings["ict"])
    return takes.make_take(
        head,
        motion,
        rig,
        lights.preset(settings["light"]),
        optics,
        settings["seed"],
        settings["texture_size"],
        settings["identity"],
        settings["field"],
        settings["relief"],
        0.0 if settings["still_head"] else settings["head_motion"],
        asymmetry,
        settings["charts"],
        settings["blood_flow"],
        settings["device"],
        settings["hair"],
    )


def _film(out: Path, take, frames: Iterable[int], settings: Mapping[str, Any]) -> None:
    """Films frames while earlier pictures are encoded and written by a thread for each core."""
    from topohead.synthesis import records

    def finish(frame: int, written: list[Future]) -> None:
        """The truth file says that a frame is done, so it waits for the frame's pictures."""
        for picture in written:
            picture.result()
        records.write_truth(out, take, frame, take.subject.at(take.motion, frame))

    threads = os.cpu_count() or 1
    # a pool starts jobs in the order they come: who waits in `finish` waits for running ones only
    with ThreadPoolExecutor(threads) as pool:
        unfinished: deque[Future] = deque()
        for frame in frames:
            written = []
            for picture in _pictures(take, frame, settings):
                job = pool.submit(
                    records.write_picture, out, frame, picture, settings["images"],
                    settings["quality"],
                )  # fmt: skip
                written.append(job)
                unfinished.append(job)
                while len(unfinished) > threads:  # each holds a picture in memory
                    unfinished.popleft().result()
            unfinished.append(pool.submit(finish, frame, written))
        for job in unfinished:
            job.result()


def _pictures(take, frame: int, settings: Mapping[str, Any]):
    if settings["renderer"] == "stage":
        from topohead.synthesis.takes import film

        return film(take, frame)
    from topohead.synthesis.pathtrace import film as film_by_path_tracing

    return film_by_path_tracing(take, frame, settings["samples"])


def _load_head(name: str, ict: Path | None):
    """A head model, and shapes beyond its span where there are some."""
    from topohead.io import assets

    if name == "ict":
        return assets.ict_head(ict), None
    return assets.reference_head(), assets.asymmetry_basis()


def _check(settings: Mapping[str, Any]) -> None:
    check_ranges(settings, RANGES)
    if not 0 < settings["fps"] <= 10_000:
        raise InputError(f"--fps must be positive and at most 10000, got {settings['fps']:g}")
    if settings["blood_flow"] and settings["renderer"] != "stage":
        raise InputError("--blood-flow needs --renderer stage; leave one of them out")
    if settings["hair"] and settings["renderer"] != "stage":
        raise InputError("--hair needs --renderer stage; leave one of them out")
    if settings["device"] == "cuda":
        _check_cuda(settings["renderer"])


def _check_cuda(renderer: str) -> None:
    import torch

    if renderer != "stage":
        raise InputError(f"--device cuda: --renderer {renderer} runs on the CPU; leave one out")
    if not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no CUDA device; leave --device out")


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON holds them, without what does not belong to the take.

    That is where it lies, how to talk, and the device: pictures differ by a code in some pixels.
    Takes from before there was hair do not speak of it, nor do those without.
    """
    return {
        key: value.name if isinstance(value, Path) else value
        for key, value in settings.items()
        if key not in ("out", "json", "device") and not (key == "hair" and value is None)
    }


def _begun(out: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """`truth.json` of this very take, if the folder holds its beginning; others are refused."""
    path = out / "truth" / "truth.json"
    if not path.exists():
        if out.exists() and not out.is_dir():
            raise InputError(f"{out} is a file; name a folder for the take")
        foreign = any((out / name).exists() for name in ("frames", "cameras.json"))
        # a kill before truth.json leaves truth/ without it: everything is written again
        if foreign and not (out / "truth").is_dir():
            raise InputError(f"{out} holds another capture; choose an empty folder")
        return None
    described = json.loads(path.read_text(encoding="utf-8"))
    before = described["settings"]
    now = _plain(settings)
    keys = [*now, *(key for key in before if key not in now and key == "hair")]
    changed = [key for key in keys if before.get(key) != now.get(key) and key != "frames"]
    if changed or before.get("frames", 0) > now["frames"]:
        key = changed[0] if changed else "frames"
        raise InputError(
            f"{out} holds a take with {key} {before.get(key)}, now {now.get(key)}; "
            "choose another folder or delete this one"
        )
    return described
