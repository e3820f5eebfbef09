"""`topohead capture`: a calibrated multi-view take becomes a mesh per frame and textures."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

LARGEST_FULL = 4096
"""Texels up to which every frame has a picture of its own by default."""


@dataclass(frozen=True)
class CaptureConfig:
    """A calibrated multi-view take as one mesh of fixed topology per frame, with textures."""

    source: Path
    """The take: a folder with a calibration and frames or videos."""
    out: Path
    """Run folder; run the same command again and it goes on where it stopped."""
    start: Path | None = None
    """Start mesh of the first frame, any topology; by default start.obj or face_v5.obj."""
    no_start: bool = False
    """Find the first frame from landmarks and masks even when the take has a start mesh."""
    keep_start: bool = False
    """Take the start mesh as it is; by default it is refined on the pictures."""
    landmarks: Path | None = None
    """iBUG-68 landmarks (JSON); by default landmarks.json in the take."""
    units: Literal["mm", "cm", "m"] | None = None
    """Unit of a calibration that does not say, and of the start mesh."""
    calibration: Path | None = None
    """Calibration file; by default the one in the take."""
    component: str | None = None
    """Which component of a Metashape project with several."""
    full: Path | None = None
    """Folder FRAME/CAM.jpg of full-size pictures when the take holds small ones."""
    views: str | None = None
    """Comma-separated cameras to use; by default all."""
    holdout: str | None = None
    """Comma-separated cameras to leave out of everything, for `topohead evaluate`."""
    frames: str | None = None
    """Frames A:B (both included), A:B:STEP; by default all."""
    allow_missing: bool = False
    """Bear pictures that are absent or broken."""
    solver: Literal["newton", "published"] = "newton"
    """newton: ours; published: the method of the Topo4D paper, slow, for comparison."""
    height: int = 512
    """Picture height for tracking, pixels; larger pictures are shrunk."""
    refine_cameras: bool = False
    """Solve poses and principal points again even when the calibration seems to fit."""
    keep_cameras: bool = False
    """Never change the calibration; by default a camera that has drifted is put right."""
    textures: Literal["full", "delta", "wrinkle", "static", "none"] | None = None
    """full: a picture a frame; delta: one for the take and what differs; wrinkle: one and maps that
    expression drives; static: one; none. By default full up to 4096 texels, delta above."""
    texture_size: int = 2048
    """Texture edge in texels."""
    detail: Literal["none", "maps"] = "none"
    """maps: a displacement and a normal map a frame, from the photographs; none."""
    detail_size: int = 1024
    """Edge of displacement and normal maps in texels; larger ones want --device cuda."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where frames are tracked, textures and detail made; auto: cuda where there is one."""
    jobs: int = 1
    """Chunks of a long take tracked at the same time, each by a process; answers stay the same."""
    seed: int = 0
    """Decides the random choices of `--solver published`."""
    dashboard: bool = False
    """A page on this machine while the run lasts: cameras, mesh, curves, and a stop button."""
    dashboard_port: int | None = None
    """Its port on 127.0.0.1; by default 8766, or a free one when that is taken."""
    report: bool = True
    """Write report.html at the end; `topohead evaluate` writes it at any time."""
    json: bool = False
    """Print one JSON object instead of lines."""
    restart: str | None = None
    """Stage to start over: ingest, first, track, texture, detail or package."""


@dataclass(frozen=True)
class CaptureResult:
    """Where the run is and how it went."""

    run: Path
    frames: int
    doubtful: tuple[str, ...]
    seconds_per_frame: float
    sequence: Path
    report: Path | None

    def summary(self) -> str:
        """Lines for people."""
        doubt = f", {len(self.doubtful)} doubtful" if self.doubtful else ""
        pace = f"{self.seconds_per_frame:.2f} s of tracking a frame"
        lines = [f"{self.frames} frames in {self.run} ({pace}{doubt})"]
        return "\n".join(lines if self.report is None else [*lines, f"report {self.report}"])


def _resolved(config: CaptureConfig) -> CaptureConfig:
    """The settings with what depends on others or on the machine filled in."""
    if config.textures is None:
        textures = "full" if config.texture_size <= LARGEST_FULL else "delta"
        config = replace(config, textures=textures)
    return replace(config, device=_device(config))


def _device(config: CaptureConfig) -> Literal["cpu", "cuda"]:
    """Where to work; fails at once rather than when the first frame is tracked."""
    import torch

    from topohead.core.errors import InputError
    from topohead.rendering.splats_cuda import has_gsplat, require_gsplat

    if config.device == "cpu":
        return "cpu"
    if config.device == "auto":
        drawn = config.solver == "newton" or has_gsplat()
        return "cuda" if torch.cuda.is_available() and drawn else "cpu"
    if not torch.cuda.is_available():
        raise InputError(
            "--device cuda: torch finds no CUDA device; leave --device out, "
            "or see what `topohead doctor` says is missing"
        )
    if config.solver == "published":
        require_gsplat()
    return "cuda"


def capture(config: CaptureConfig) -> CaptureResult:
    """Capture a take into a run folder; finished frames of an earlier call are kept."""
    from topohead.core.errors import InputError
    from topohead.io.digests import digest
    from topohead.io.runs import RunFolder, Stage
    from topohead.workflows import capturing
    from topohead.workflows.background import prepare_for_readers

    if config.texture_size < 64 or config.texture_size > 16384:
        raise InputError(f"--texture-size expects 64 to 16384, got {config.texture_size}")
    if config.detail_size < 64 or config.detail_size > 16384:
        raise InputError(f"--detail-size expects 64 to 16384, got {config.detail_size}")
    if config.jobs < 1:
        raise InputError(f"--jobs expects at least 1, got {config.jobs}")
    if config.jobs > 1 and config.solver != "newton":
        raise InputError(f"--jobs: --solver {config.solver} goes frame by frame; leave --jobs out")
    if config.height < 64:
        raise InputError(f"--height expects at least 64 pixels, got {config.height}")
    config = _resolved(config)
    if config.device == "cuda":
        prepare_for_readers()
    take = capturing.open_take(config)
    files = {
        "calibration": config.calibration,
        "start": take.start_path,
        "landmarks": config.landmarks,
    }
    stages = (
        Stage("ingest", outputs=("cameras.json",)),
        Stage("first", ("start", "no_start", "keep_start", "landmarks"), ("first/*",)),
        Stage(
            "track",
            ("solver", "seed", "device"),
            ("track/*", "frames/*/mesh.obj", "frames/*/state.safetensors"),
        ),
        Stage(
            "texture",
            ("textures", "texture_size"),
            (
                "frames/*/texture_srgb.png",
                "frames/*/coverage.png",
                "frames/*/published_colors.safetensors",
                "frames/*/texture_delta.safetensors",
                "textures/*",
                "textures/working/*",
            ),
        ),
        Stage(
            "detail",
            ("detail", "detail_size"),
            ("frames/*/displacement.exr", "frames/*/normal.png"),
        ),
        Stage("package", outputs=("sequence.glb", "expression.csv")),
    )
    inputs = {name: digest(path) for name, path in files.items() if path and path.exists()}
    with RunFolder(
        config.out, "capture", config, stages, inputs=inputs, restart=config.restart
    ) as run:
        run.require_space(capturing.bytes_needed(take, config))
        take = capturing.ingest(run, take, config)
        head = capturing.first(run, take, config)
        capturing.show_head(take, head)
        capturing.track_frames(run, take, head, config)
        capturing.texture(run, take, head, config)
        capturing.detail(run, take, head, config)
        result = capturing.package(run, take, head, config)
        return replace(result, report=capturing.report(run)) if config.report else result
