"""Camera calibrations of several programs, read to and written from one `Rig` in metres."""

from pathlib import Path

from topohead.core import InputError, Rig
from topohead.io.calibration.entries import METRES
from topohead.io.calibration.ours import read_ours, write_ours

__all__ = ["METRES", "find_calibration", "read_rig", "write_rig"]


def find_calibration(path: Path) -> Path:
    found = path / "cameras.json"
    if not found.exists():
        raise InputError(f"no calibration in {path}; expected cameras.json")
    return found


def read_rig(path: Path | str, units: str | None = None, *, component: str | None = None) -> Rig:
    """The rig of a calibration file, or of the one that a folder holds, in metres."""
    path = Path(path)
    if path.is_dir():
        path = find_calibration(path)
    if not path.exists():
        raise InputError(f"no calibration at {path}; expected cameras.json")
    return read_ours(path, units)


def write_rig(rig: Rig, path: Path | str, format: str = "ours") -> None:
    """Writes a rig, metres."""
    write_ours(rig, Path(path))
