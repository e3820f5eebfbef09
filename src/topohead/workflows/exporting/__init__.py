"""The steps of `topohead export`: open what there is, place it, write one folder."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from topohead.core import InputError
from topohead.io.atomic import atomic_folder, write_text
from topohead.workflows.export import APPLIES, ExportConfig, ExportResult
from topohead.workflows.exporting import meshes, others, scenes
from topohead.workflows.exporting.source import Source, open_source

RECORD = "export.json"

WRITERS: dict[str, Callable[[Source, ExportConfig, Path], list[str]]] = {
    "obj": meshes.write_objs,
    "ply": meshes.write_plys,
    "glb": scenes.write_gltf,
    "usd": scenes.write_stage,
    "fbx": scenes.write_filmbox,
    "abc": scenes.write_point_cache,
    "cameras": others.write_cameras,
    "expression": others.write_curves,
}
"""What writes each format into an empty folder; gives what is worth telling the user."""


def run(config: ExportConfig) -> ExportResult:
    """The whole export."""
    out = _destination(config)
    _refuse_foreign(out)
    source = open_source(config)
    if source.worn is not None and config.to in APPLIES["splats"]:
        config = replace(config, splats=True)  # an avatar is Gaussians
    with atomic_folder(out) as folder:
        notes = list(source.bridge.notes) if source.bridge is not None else []
        notes += WRITERS[config.to](source, config, folder)
        files = sorted(
            file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
        )
        write_text(folder / RECORD, json.dumps(_record(source, config, files), indent=2) + "\n")
    return ExportResult(out, tuple(files), len(source.sequence), tuple(notes))


def _destination(config: ExportConfig) -> Path:
    path = Path(config.run)
    if config.out is not None:
        return Path(config.out)
    if path.is_dir():
        return path / "export" / config.to
    return path.with_name(f"{path.stem}_{config.to}")


def _refuse_foreign(out: Path) -> None:
    """Only an earlier export is replaced: a folder with nothing in it that we did not write."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"--out {out} is a file; name a folder, the files in it have fixed names")
    ours = {RECORD}
    if (out / RECORD).is_file():
        try:
            ours |= set(json.loads((out / RECORD).read_text("utf-8"))["files"])
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{out / RECORD} was changed by hand; choose another --out") from None
    present = (file for file in sorted(out.rglob("*")) if not file.is_dir())
    foreign = [
        name for name in (file.relative_to(out).as_posix() for file in present) if name not in ours
    ]
    if foreign:
        raise InputError(
            f"--out {out} holds {foreign[0]!r}, which no export wrote; "
            "choose an empty or a new folder"
        )


def _record(source: Source, config: ExportConfig, files: list[str]) -> dict[str, object]:
    """export.json: where the numbers stand and what was written."""
    sequence = source.sequence
    return {
        "to": config.to,
        "source": str(Path(config.run).resolve()),
        "units": config.units,
        "axis": config.axis,
        "origin": config.origin if source.run is not None else "file",
        "topology": sequence.topology.name,
        "frames": list(sequence.frames),
        "frames_per_second": sequence.frames_per_second,
        "files": files,
    }
