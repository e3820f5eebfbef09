"""`topohead register`: scans, meshes and point clouds of heads become heads of one topology."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Method = Literal["network+refine", "network", "pca+refine", "pca", "template", "nricp"]


@dataclass(frozen=True)
class RegisterConfig:
    """The reference head in the shape of a scan, in the scan's own frame, in metres.

    A folder of scans becomes a folder of heads and a report; with --sequence, one performer's
    frames become a run that `view`, `export`, `rig` and `evaluate` read.
    """

    source: Path
    """The scan: OBJ, PLY, STL, OFF, GLB, glTF, USD, XYZ or PTS; or a folder of such files."""
    out: Path
    """A file (OBJ, GLB, PLY, USD), what else there is beside it; or a folder."""
    method: Method | None = None
    """How to register; by default network+refine, or pca+refine without the network's weights."""
    weights: Path | None = None
    """Weights of the network that `topohead train register` made; by default those that ship."""
    unit: Literal["auto", "m", "dm", "cm", "mm", "in", "ft"] | float = "auto"
    """Unit of the scan, or how many metres one is; auto: that in which it has a head's size."""
    up: Literal["auto", "y", "z"] = "auto"
    """The scan's axis that points up; auto: however the head that is found stands."""
    level: Literal[0, 1] = 1
    """0: the reference head's 4.5 k vertices; 1: one Catmull-Clark step finer, 18 k."""
    topology: tuple[Path, ...] = ()
    """A mesh of your own: the head comes in its topology as well, head_NAME.obj; more than once for
    several."""
    mirror: bool = False
    """The scan is the mirror image of a person: left and right (x of the file) are exchanged."""
    crop: tuple[float, float, float, float, float, float] | None = None
    """Only what lies in the box XMIN YMIN ZMIN XMAX YMAX ZMAX, in the file's unit and frame."""
    neutral: bool = False
    """Write the head without its expression, too."""
    reference_frame: bool = False
    """Write heads upright (y up, face along +z, eyes at the origin), not where the scan is."""
    texture: Path | None = None
    """The picture of the scan's UVs; by default the one that its material names."""
    texture_size: int = 2048
    """Texture edge in texels, baked from the scan's colours where it has some; 0: none."""
    sequence: bool = False
    """The folder's files are frames of one performer: one identity, each from the one before."""
    frames_per_second: float = 30.0
    """How fast a sequence plays."""
    force: bool = False
    """Write the head that was found even where the scan does not seem to show one."""
    jobs: int = 1
    """Scans registered at the same time, each by a process; answers stay the same."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it is registered; auto: cuda where there is one."""
    seed: int = 0
    """Decides which points are looked at; same seed, same bytes."""
    restart: bool = False
    """Register again what an earlier call has finished."""
    report: bool = True
    """Write report.html for a folder of scans."""
    json: bool = False
    """Print one JSON object instead of lines."""


@dataclass(frozen=True)
class RegisteredScan:
    """One scan's head, or why there is none.

    `head` is the file to open first. Distances are from the seen part of the scan to the head,
    `sigma_median_mm` is what the method expects a vertex to be off by.
    """

    source: Path
    head: Path | None
    method: str = ""
    unit: str = ""
    median_mm: float | None = None
    p95_mm: float | None = None
    sigma_median_mm: float | None = None
    seconds: float = 0.0
    kept: bool = False
    """Found finished from an earlier call."""
    warnings: tuple[str, ...] = ()
    failure: str | None = None

    def line(self) -> str:
        """What a person reads about it."""
        if self.head is None:
            return f"{self.source.name}: {self.failure}"
        told = "done before" if self.kept else f"{self.seconds:.1f} s"
        if self.median_mm is not None:
            told = f"median {self.median_mm:.2f} mm from the scan, {told}"
        doubt = f", {len(self.warnings)} warnings" if len(self.warnings) > 1 else ""
        doubt = ", 1 warning" if len(self.warnings) == 1 else doubt
        return f"{self.source.name} ({self.unit}): {self.head}, {told}{doubt}"


@dataclass(frozen=True)
class RegisterResult:
    """What became of every scan, and the page that shows them side by side."""

    out: Path
    scans: tuple[RegisteredScan, ...]
    report: Path | None = None

    @property
    def failed(self) -> tuple[RegisteredScan, ...]:
        return tuple(scan for scan in self.scans if scan.head is None)

    @property
    def exit_code(self) -> int:
        """2 when a scan of a batch has no head: scripts should notice."""
        return 2 if self.failed else 0

    def summary(self) -> str:
        """Lines for people."""
        if len(self.scans) == 1 and self.report is None:
            return self.scans[0].line()
        lines = [f"{len(self.scans) - len(self.failed)} of {len(self.scans)} in {self.out}"]
        if self.failed:
            lines.append(f"without a head: {', '.join(scan.source.name for scan in self.failed)}")
        return "\n".join(lines if self.report is None else [*lines, f"report {self.report}"])


def register(config: RegisterConfig) -> RegisterResult:
    """Register a scan, a folder of scans, or the frames of one performer."""
    from topohead.core.errors import InputError
    from topohead.io.atomic import remove_stale
    from topohead.workflows.registering import batch, request, sequence, single

    if config.texture_size != 0 and not 64 <= config.texture_size <= 16384:
        raise InputError(f"--texture-size expects 0, or 64 to 16384; got {config.texture_size}")
    if not isinstance(config.unit, str) and not 0 < config.unit < float("inf"):
        raise InputError(f"--unit expects a name or metres above 0, got {config.unit}")
    if config.jobs < 1:
        raise InputError(f"--jobs expects at least 1, got {config.jobs}")
    config = request.resolved(config)
    if config.sequence:
        return sequence.register_sequence(config)
    if config.source.is_dir():
        return batch.register_folder(config)
    remove_stale(config.out.parent)
    found = single.register_scan(config)
    batch.tell_warnings(found)
    return RegisterResult(config.out, (found,))
