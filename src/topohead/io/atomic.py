"""Files that appear complete or not at all, and a full disk told in one line."""

import errno
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from topohead.core.errors import InputError

TEMPORARY = ".tmp-"
"""How the name of an unfinished file begins; the rest names the process and the final file."""

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_DISK_FULL_WORDS = ("no space left on device", "disk quota exceeded")
_TOO_LARGE_WORDS = "file too large"


@contextmanager
def disk_full_as_input_error(path: Path) -> Iterator[None]:
    """Turns a full disk or quota, as any library reports it, into one line for the user."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        path = final_path(path)
        # safetensors and PyAV wrap the system's errno in exceptions of their own
        words = str(error).lower()
        if getattr(error, "errno", None) in _DISK_FULL or any(w in words for w in _DISK_FULL_WORDS):
            raise InputError(
                f"the disk is full: could not write {path}; what was finished before is intact, "
                "free some space and run the same command again"
            ) from error
        if getattr(error, "errno", None) == errno.EFBIG or _TOO_LARGE_WORDS in words:
            raise InputError(
                f"files may not become as large here as {path} would; what was finished before is "
                "intact, raise the limit (ulimit -f) or choose another disk"
            ) from error
        raise


def final_path(path: Path) -> Path:
    """A path as it will be called when the unfinished files and folders in it are finished."""
    named = re.compile(rf"{re.escape(TEMPORARY)}\d+-\d+-(.*)")
    parts = ((match[1] if (match := named.fullmatch(part)) else part) for part in path.parts)
    return Path(*(part for part in parts if part))


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `path` when the block ends well.

    The extension stays, for writers that choose a format by it. Data reaches the disk before the
    name does, so a crash leaves the old file or the new one. On an error nothing is left.
    """
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{time.monotonic_ns()}-{path.name}")
    try:
        with disk_full_as_input_error(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` that takes its name, and replaces it, when the block ends well.

    On an error the old folder stays. Two renames make the change: a crash between them leaves the
    old folder under a temporary name, none of it lost.
    """
    path = Path(path)
    stem = f"{TEMPORARY}{os.getpid()}-{time.monotonic_ns()}-"
    fresh, old = path.with_name(f"{stem}{path.name}"), path.with_name(f"{stem}old-{path.name}")
    try:
        with disk_full_as_input_error(path):
            fresh.mkdir(parents=True)
            yield fresh
            for file in fresh.rglob("*"):
                _sync(file)
            if path.exists():
                path.rename(old)
            fresh.rename(path)
            _sync(path.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def atomic_files(folder: Path, first: str, replaced: Collection[str] = ()) -> Iterator[Path]:
    """A temporary folder whose files (no folders) move into `folder` when the block ends well.

    Those of `replaced` go before, then `first` comes, then the others: `first`, which says what
    belongs to it, never stands beside older ones. On an error nothing changes.
    """
    folder = Path(folder)
    fresh = folder / f"{TEMPORARY}{os.getpid()}-{time.monotonic_ns()}-"
    try:
        with disk_full_as_input_error(folder / first):
            fresh.mkdir(parents=True)
            yield fresh
            files = sorted(fresh.iterdir(), key=lambda file: file.name != first)
            for file in files:
                _sync(file)
            for name in (first, *replaced):
                (folder / name).unlink(missing_ok=True)
            for file in files:
                file.replace(folder / file.name)
            _sync(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def remove_stale(folder: Path) -> None:
    """Removes unfinished files and folders right below a folder whose process is no more."""
    for stale in folder.glob(f"{TEMPORARY}*"):
        writer = stale.name.removeprefix(TEMPORARY).split("-")[0]
        if writer.isdigit() and not _alive(int(writer)):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # asks, sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Writes a small UTF-8 file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
