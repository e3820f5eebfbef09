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
    """Run folder of a finished `topohead capture`; photos that CAP4D's tracker has gone through
    (fit.npz, alignment.npz, images/, and bg/ for mattes); or, with --head, any calibrated take."""
    out: Path
    """Folder of the avatar."""
    head: Path | None = None
    """Mesh of the head in a calibrated take (COLMAP, nerfstudio, any that `capture` reads), in its
    world: a file for one instant, or a folder with FRAME.obj for each; any topology."""
    units: Literal["mm", "cm", "m"] | None = None
    """Unit of the take and of --head where they do not say."""
    flame: Path | None = None
    """Your FLAME 2023 file (pickle): fit.npz is then read exactly, and one photo is enough."""
    views: str | None = None
    """Comma-separated cameras to use (default: all that the capture did not hold out)."""
    frames: str | None = None
    """Frames A:B (both included), A:B:STEP; by default all."""
    instants: int = 24
    """At most so many frames, those whose expressions differ most."""
    height: int | None = None
    """Picture height in pixels (default: 512 on cuda, 256 on a CPU); never enlarged."""
    gaussians: int | None = None
    """How many Gaussians, beside 2,000 on teeth (default: 60,000 on cuda, 15,000 on a CPU); about
    one a pixel of the head is right."""
    hull: bool = False
    """Also Gaussians where mattes show more than the mesh (hair, shoulders): they follow the
    head."""
    steps: int | None = None
    """Steps of the fit (default: 6000 on cuda, 1200 on a CPU)."""
    degree: Literal[0, 1, 2, 3] = 1
    """Degree of the harmonics by which colour depends on the direction of view."""
    codes: int = 8
    """Largest number of expression codes that change colours and places; 0: none."""
    refine: Literal["auto", "yes", "no"] = "auto"
    """Let head poses, expressions and cameras move by a little while fitting; auto: for photos,
    whose tracks are off by some pixels."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to fit; auto: cuda where there is one."""
    seed: int = 0
    """Decides the order in which pictures are visited."""
    dashboard: bool = False
    """A page on this machine while it fits: pictures, curves, and a stop button."""
    dashboard_port: int | None = None
    """Its port on 127.0.0.1 (default: 8766, or a free one when that is taken)."""
    json: bool = False
    """Print one JSON object instead of lines."""


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
    """Folder that `topohead avatar fit` wrote."""
    drive: Path
    """A Live Link Face CSV; MediaPipe's scores as CSV or JSON; a clip; the run of a finished
    capture of anybody; or what CAP4D's tracker left (a fit.npz alone wants --flame)."""
    out: Path
    """Folder of the clip."""
    camera: str = "static"
    """static, orbit (once round the head), one of the drive's by name, or a path in an npz file:
    CAP4D's orbit.npz, or another clip's animation.npz."""
    size: int = 512
    """Edge of the square video in pixels; a camera file has its own."""
    audio: Path | None = None
    """Sound of the video: a WAV, MP3, M4A or the video of the performance."""
    flame: Path | None = None
    """Your FLAME 2023 file (pickle), for a --drive of FLAME's numbers."""
    fps: float | None = None
    """Frames a second (default: the drive's own; 30 where it has none)."""
    frames: int | None = None
    """At most so many frames."""
    still_head: bool = False
    """Leave the head's own motion out."""
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Colour behind the head, srgb."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where pictures are made; auto: cuda where there is one."""
    json: bool = False
    """Print one JSON object instead of lines."""


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
