"""`topohead avatar fit` and `topohead avatar animate`: a Gaussian head that can be driven."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class FitConfig:
    """Gaussians on the head of a finished capture, or of tracked photos, fitted to the pictures.

    Writes OUT/avatar.safetensors, avatar.json, avatar.glb (for `topohead view`) and preview.png.
    The same command goes on after an interruption.
    """

    source: Path
    """run folder of a finished `topohead capture`; photos that CAP4D's tracker has gone through
    (fit.npz, alignment.npz, images/, and bg/ for mattes); or, with --head, any calibrated take"""
    out: Path
    """folder of the avatar"""
    head: Path | None = None
    """mesh of the head in a calibrated take (COLMAP, nerfstudio, any that `capture` reads), in its
    world: a file for one instant, or a folder with FRAME.obj for each; any topology"""
    units: Literal["mm", "cm", "m"] | None = None
    """unit of the take and of --head where they do not say"""
    flame: Path | None = None
    """your FLAME 2023 file (pickle): fit.npz is then read exactly, and one photo is enough"""
    views: str | None = None
    """comma-separated cameras to use (default: all that the capture did not hold out)"""
    frames: str | None = None
    """frames A:B (both included), A:B:STEP; by default all"""
    instants: int = 24
    """at most so many frames, those whose expressions differ most"""
    height: int | None = None
    """picture height in pixels (default: 512 on cuda, 256 on a CPU); never enlarged"""
    gaussians: int | None = None
    """how many Gaussians, beside 2,000 on teeth (default: 60,000 on cuda, 15,000 on a CPU); about
    one a pixel of the head is right"""
    hull: bool = False
    """also Gaussians where mattes show more than the mesh: hair, shoulders; they follow the head"""
    steps: int | None = None
    """steps of the fit (default: 6000 on cuda, 1200 on a CPU)"""
    degree: Literal[0, 1, 2, 3] = 1
    """degree of the harmonics by which colour depends on the direction of view"""
    codes: int = 8
    """largest number of expression codes that change colours and places; 0: none"""
    refine: Literal["auto", "yes", "no"] = "auto"
    """let head poses, expressions and cameras move by a little while fitting; auto: for photos,
    whose tracks are off by some pixels"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where to fit; auto: cuda where there is one"""
    seed: int = 0
    """decides the order in which pictures are visited"""
    dashboard: bool = False
    """a page on this machine while it fits: pictures, curves, and a stop button"""
    dashboard_port: int | None = None
    """its port on 127.0.0.1 (default: 8766, or a free one when that is taken)"""
    json: bool = False
    """print one JSON object instead of lines"""


@dataclass(frozen=True)
class FitResult:
    """Where the avatar is and how near it came to the pictures that it was fitted to."""

    avatar: Path
    gaussians: int
    pictures: int
    psnr: float
    seconds: float

    def summary(self) -> str:
        """Lines for people."""
        return (
            f"{self.gaussians} Gaussians in {self.avatar}: {self.psnr:.2f} dB on the "
            f"{self.pictures} pictures they were fitted to, {self.seconds:.0f} s"
        )


def fit(config: FitConfig) -> FitResult:
    """Fit an avatar and write its folder."""
    from topohead.workflows.avatars import fitting

    return fitting.run(config)


@dataclass(frozen=True)
class AnimateConfig:
    """An avatar played by a recorded performance, as a video and as numbers.

    Writes OUT/video.mp4 and animation.npz; `topohead export OUT` writes its Gaussians.
    """

    avatar: Path
    """folder that `topohead avatar fit` wrote"""
    drive: Path
    """a Live Link Face CSV; MediaPipe's scores as CSV or JSON; a clip; the run of a finished
    capture of anybody; or what CAP4D's tracker left (a fit.npz alone wants --flame)"""
    out: Path
    """folder of the clip"""
    camera: str = "static"
    """static, orbit (once round the head), one of the drive's by name, or a path in an npz file:
    CAP4D's orbit.npz, or another clip's animation.npz"""
    size: int = 512
    """edge of the square video in pixels; a camera file has its own"""
    audio: Path | None = None
    """sound of the video: a WAV, MP3, M4A or the video of the performance"""
    flame: Path | None = None
    """your FLAME 2023 file (pickle), for a --drive of FLAME's numbers"""
    fps: float | None = None
    """frames a second (default: the drive's own; 30 where it has none)"""
    frames: int | None = None
    """at most so many frames"""
    still_head: bool = False
    """leave the head's own motion out"""
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """srgb colour behind the head"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where pictures are made; auto: cuda where there is one"""
    json: bool = False
    """print one JSON object instead of lines"""


@dataclass(frozen=True)
class AnimateResult:
    """Where the clip is."""

    clip: Path
    frames: int
    frames_per_second: float

    def summary(self) -> str:
        """Lines for people."""
        return f"{self.frames} frames at {self.frames_per_second:g} a second in {self.clip}"


def animate(config: AnimateConfig) -> AnimateResult:
    """Play an avatar and write the clip's folder."""
    from topohead.workflows.avatars import animating

    return animating.run(config)
