"""`topohead demo`: a virtual performance is filmed, captured and measured, in a few minutes."""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DemoConfig:
    """Film a virtual performance, capture it from pictures and landmarks, measure the result."""

    out: Path = Path("demo")
    """Folder for the take, the run and the pictures."""
    cameras: int = 12
    """Cameras of the virtual rig."""
    frames: int = 6
    """Frames of the performance."""
    seed: int = 4
    """Decides person, skin, rig and motion."""
    hair: str = "side part"
    """What the person wears, as `topohead stage --hair` has it; none is a bald head."""
    json: bool = False
    """Print one JSON object instead of lines."""


@dataclass(frozen=True)
class DemoResult:
    """Where things are, and how far the meshes are from the truth (mm, median over the face)."""

    report: Path
    sequence: Path
    picture: Path
    meshes: Path
    surface_median_mm: float

    def summary(self) -> str:
        return (
            f"report    {self.report}\n"
            f"sequence  {self.sequence} (any glTF viewer plays it)\n"
            f"picture   {self.picture}\n"
            f"meshes    {self.meshes}/*/mesh.obj\n"
            f"median distance to the true face: {self.surface_median_mm:.2f} mm"
        )


def demo(config: DemoConfig) -> DemoResult:
    """Stages, captures and measures under `config.out`; goes on where an earlier call stopped."""
    from topohead.io.results import open_run, open_source
    from topohead.workflows.capture import CaptureConfig, capture
    from topohead.workflows.pictures import write_performance_sheet
    from topohead.workflows.stage import StageConfig, stage

    out = Path(config.out)
    take, run = out / "take", out / "run"
    stage(
        StageConfig(
            take,
            preset="small",
            cameras=config.cameras,
            frames=config.frames,
            width=512,
            height=384,
            fps=10.0,
            seed=config.seed,
            gloss=0.5,
            light="studio",
            hair=config.hair,
        )
    )
    # no start mesh: the demo shows what pictures, calibration and a few landmarks give
    capture(
        CaptureConfig(source=take, out=run, no_start=True, texture_size=1024, textures="static")
    )
    finished = open_run(run)
    source = open_source(finished)
    assert source is not None, "the take was staged a moment ago"
    picture = write_performance_sheet(finished, source, out / "performance.png")
    measured = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    return DemoResult(
        report=run / "report.html",
        sequence=run / "sequence.glb",
        picture=picture,
        meshes=run / "frames",
        surface_median_mm=measured["metrics"]["surface"]["median_mm"],
    )
