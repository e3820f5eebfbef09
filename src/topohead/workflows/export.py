"""`topohead export`: a run, its rig or a single mesh in the files that other programs open."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

Format = Literal["obj", "glb", "usd", "ply", "fbx", "abc", "cameras", "expression"]

APPLIES: dict[str, tuple[Format, ...]] = {
    "topology": ("obj", "glb", "usd", "ply", "fbx", "abc"),
    "axis": ("obj", "usd", "ply", "fbx", "abc", "cameras"),
    "units": ("obj", "usd", "ply", "fbx", "abc", "cameras"),
    "origin": ("obj", "glb", "usd", "ply", "fbx", "abc", "cameras"),
    "sequence": ("glb", "usd", "fbx"),
    "textures": ("obj", "glb", "usd", "ply", "fbx"),
    "texture": ("obj", "glb", "usd", "ply", "fbx"),
    "texture_size": ("obj", "glb", "usd", "ply", "fbx"),
    "no_normals": ("glb", "usd"),
    "usd_type": ("usd",),
    "cameras": ("usd",),
    "camera_format": ("cameras",),
    "pictures": ("cameras",),
    "splats": ("glb", "ply", "usd"),
    "gaussians": ("glb", "ply", "usd"),
    "layout": ("ply",),
    "delta_bits": ("ply",),
    "rate": ("expression",),
    "blender": ("fbx", "abc"),
}
"""Which formats a flag is about; given with another one it is an error."""


@dataclass(frozen=True)
class ExportConfig:
    """A run's meshes, rig, cameras or expression curves as files of another program.

    One policy for all formats: right-handed, y up with the face along +z, metres, the middle
    between the first frame's eyes at the origin. Everything lands in one folder with an export.json
    that says so; a folder that holds anything else than an earlier export is never replaced.
    """

    run: Path
    """The run folder that `topohead capture --out` wrote; an avatar, or a clip of one; or one mesh
    (OBJ, PLY, GLB, USD, STL)."""
    to: Format
    """What to write; usd, fbx and abc need optional packages."""
    out: Path | None = None
    """Folder to write (default: RUN/export/FORMAT, beside a mesh MESH_FORMAT)."""
    topology: str | None = None
    """Write the heads in this topology: a mesh of a head, a .bridge.safetensors file, or ict."""
    frames: str | None = None
    """Frames A:B (both included), A:B:STEP; by default all."""
    units: Literal["m", "cm", "mm"] = "m"
    """Unit of length in the file."""
    axis: Literal["y-up", "z-up"] = "y-up"
    """z-up: the face looks along -y, as in Blender."""
    origin: Literal["head", "world"] = "head"
    """world: the calibration's own axes and origin, taken as y up."""
    from_units: Literal["m", "cm", "mm"] | None = None
    """Unit of a single mesh that is exported; metres when left out."""
    sequence: bool = False
    """GLB, USD, FBX: the tracked frames even where the run has a rig (RUN/rig/rig.glb)."""
    splats: bool = False
    """Gaussians. GLB: bound to the mesh, which moves them (`topohead view` plays it); PLY, y down,
    and USD: each frame's own (--solver published), else those of its surface."""
    gaussians: int = 100_000
    """How many Gaussians lie on the surface, at least one a triangle."""
    layout: Literal["3dgs", "cap4d"] | None = None
    """PLY of Gaussians: 3dgs, a file a frame (default), or cap4d, one file that plays."""
    delta_bits: Literal["8", "16"] = "16"
    """cap4d: bits of a vertex's motion along each axis."""
    textures: Literal["first", "all", "none"] = "first"
    """The first exported frame's texture, every frame's own (OBJ, PLY, USD), or none."""
    texture: Path | None = None
    """Texture of a single mesh (default: the one that the OBJ's material names)."""
    texture_size: int | None = None
    """Shrink textures to this edge in texels (default: as they are)."""
    no_normals: bool = False
    """GLB, USD: leave out normals, which halves the size of a sequence."""
    usd_type: Literal["usdc", "usda", "usdz"] = "usdc"
    """Binary, text, or one package with its textures."""
    cameras: bool = False
    """USD: the run's cameras as well."""
    camera_format: Literal["all", "colmap", "metashape", "nerfstudio", "opencv", "ours"] = "all"
    """One program's camera file; all: every one that can hold this rig."""
    pictures: bool = False
    """COLMAP cameras: the first exported frame's pictures, undistorted, beside their pinholes."""
    rate: float | None = None
    """expression: resample the curves to this many frames a second."""
    blender: Path | None = None
    """FBX, Alembic: Blender, or a Python that has bpy (default: TOPOHEAD_BLENDER, or found)."""
    json: bool = False
    """Print one JSON object instead of lines."""


@dataclass(frozen=True)
class ExportResult:
    """What was written: the folder, its files, the frames in it and what had to be left out."""

    folder: Path
    files: tuple[str, ...]
    frames: int
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """Lines for people."""
        shown = ", ".join(self.files[:3]) + (", ..." if len(self.files) > 3 else "")
        plural = "" if self.frames == 1 else "s"
        lines = [f"{self.frames} frame{plural} in {self.folder}: {shown}"]
        return "\n".join([*lines, *self.notes])


def export(config: ExportConfig) -> ExportResult:
    """Write the export's folder, whole or not at all."""
    from topohead.core.errors import InputError
    from topohead.workflows import exporting

    defaults = {field.name: field.default for field in fields(ExportConfig)}
    for name, formats in APPLIES.items():
        if config.to not in formats and getattr(config, name) != defaults[name]:
            flag = name.replace("_", "-")
            always = {"axis": "y up", "units": "metres"}.get(name) if config.to == "glb" else None
            because = f"; glTF is always in {always}" if always else ""
            raise InputError(
                f"--{flag} does not go with --to {config.to}{because}; "
                f"it is for {', '.join(formats)}"
            )
    return exporting.run(config)
