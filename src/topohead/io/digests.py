"""What two calls of a verb are compared by: plain settings, and short hashes of input files."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any


def digest(*paths: Path, sampled: int | None = 65_536) -> str:
    """A short hash of files, or of all files in folders: names, sizes, first and last 64 KiB.

    Whole images are not read: encoders end a file differently when any pixel changes size or
    value, and a take of thousands of large images must open in seconds. Run folders and hidden
    files inside a folder do not count. Moving or copying the inputs changes nothing. With `sampled`
    None all of every file is read: a mesh may change in its middle alone.
    """
    state = hashlib.sha256()
    for path in paths:
        for file in _files_below(path):
            name = file.name if path.is_file() else file.relative_to(path).as_posix()
            size = file.stat().st_size
            state.update(f"{name}\0{size}\0".encode())
            with file.open("rb") as stream:
                if sampled is None:
                    state.update(hashlib.file_digest(stream, "sha256").digest())
                    continue
                state.update(stream.read(sampled))
                if size > sampled:
                    stream.seek(max(sampled, size - sampled))
                    state.update(stream.read(sampled))
    return state.hexdigest()[:16]


def _files_below(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for child in sorted(path.iterdir()):
        if child.name.startswith("."):
            continue
        if child.is_file():
            yield child
        elif child.is_dir() and not (child / "run.json").exists():
            yield from _files_below(child)


def plain(value: Any) -> Any:
    """Settings as YAML and JSON can hold them; paths become absolute."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return str(Path(value).resolve())
    return value
