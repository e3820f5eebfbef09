"""`topohead rig`: what the face of a finished run does, and a rig of it that plays the take."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class RigConfig:
    """ARKit-52 weights, head motion and the person's own blendshapes of a captured take.

    Writes RUN/rig/expression.csv (Live Link Face), rig.glb (morph targets, joints, animation),
    blendshapes.safetensors and rig.json; with a target also retarget.glb.
    """

    run: Path
    """The run folder that `topohead capture --out` wrote."""
    target: str | None = None
    """Another head that plays the take: reference, ict, a mesh at rest (OBJ...), or a rig.glb."""
    units: Literal["mm", "cm", "m"] | None = None
    """Unit of the target mesh; metres when left out."""
    ict: Path | None = None
    """ICT-FaceKit model file for --target ict (default: where it was found before)."""
    obj: bool = False
    """Also write the target's meshes, RUN/rig/retarget/FRAME.obj."""
    json: bool = False
    """Print one JSON object instead of lines."""


@dataclass(frozen=True)
class RigResult:
    """Where the rig is and how well it plays the take.

    Errors are medians over the face's vertices in all frames, mm: with the head model's
    blendshapes and with the person's. `likeness` compares weights with a staged take's true ones.
    """

    folder: Path
    frames: int
    model_mm: float
    personal_mm: float
    likeness: Mapping[str, float] | None
    retargeted: Path | None

    def summary(self) -> str:
        """Lines for people."""
        lines = [
            f"{self.frames} frames in {self.folder / 'rig.glb'}",
            f"median distance to the tracked face: {self.model_mm:.3f} mm with the model's "
            f"blendshapes, {self.personal_mm:.3f} mm with the person's",
        ]
        if self.likeness is not None:
            lines.append(
                f"against true weights: correlation {self.likeness['correlation']:.3f} (median of "
                f"{self.likeness['actions']:.0f} actions), "
                f"mean error {self.likeness['mean_error']:.3f}"
            )
        if self.retargeted is not None:
            lines.append(f"retargeted: {self.retargeted}")
        return "\n".join(lines)


def rig(config: RigConfig) -> RigResult:
    """Solves and writes the rig of a run; quick, so every call starts anew."""
    from topohead.workflows import rigging

    take = rigging.open_tracked(Path(config.run))
    target = rigging.open_target(config)
    folder = take.run.path / "rig"
    solved = rigging.solve(take)
    rigging.write(take, solved, folder)
    result = RigResult(
        folder=folder,
        frames=len(take.run.frames),
        model_mm=solved.model_mm,
        personal_mm=solved.personal_mm,
        likeness=rigging.likeness(take, solved),
        retargeted=rigging.write_retarget(take, solved, target, folder, config.obj),
    )
    rigging.write_summary(take, solved, result)
    return result
