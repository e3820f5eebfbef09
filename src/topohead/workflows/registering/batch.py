"""A folder of scans: a folder of heads, a manifest of them all, a page to look at them."""

import json
import logging
import multiprocessing
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import topohead
from topohead.core.errors import InputError
from topohead.io.atomic import remove_stale, write_text
from topohead.io.digests import plain
from topohead.io.scans import SCANS
from topohead.workflows.progress import track as progress
from topohead.workflows.register import RegisterConfig, RegisteredScan, RegisterResult
from topohead.workflows.registering.files import WRITERS
from topohead.workflows.registering.request import read_manifest
from topohead.workflows.registering.single import register_scan
from topohead.workflows.registering.topologies import bridges_for
from topohead.workflows.workers import stop_with_caller

log = logging.getLogger(__name__)


def register_folder(config: RegisterConfig) -> RegisterResult:
    """Every scan of a folder; those an earlier call has finished are kept, a bad one is listed."""
    if config.out.suffix.lower() in WRITERS or config.out.is_file():
        raise InputError(f"--out {config.out} is a file; a folder of scans needs a folder")
    scans = scans_in(config.source, config.out)
    known = config.out / "manifest.json"
    if known.exists() and "heads" not in (read_manifest(known) or {}):
        raise InputError(f"--out {config.out} holds another result; choose an empty or new folder")
    ours = {"manifest.json", "report.html", *(name for name, _ in scans)}
    if not known.exists() and config.out.is_dir():
        present = (path.name for path in sorted(config.out.iterdir()) if path.name[0] != ".")
        if foreign := next((name for name in present if name not in ours), None):
            raise InputError(f"--out {config.out} holds {foreign!r}; choose an empty or new folder")
    bridges_for(config)  # a mesh that cannot be used is told once, and bridges are made once
    config.out.mkdir(parents=True, exist_ok=True)
    remove_stale(config.out)
    found: list[RegisteredScan] = []
    requests = [replace(config, source=scan, out=config.out / name) for name, scan in scans]
    for one in progress(_registered(requests, config.jobs), "scans", len(scans)):
        tell_warnings(one)
        if one.failure is not None:
            log.warning("%s: no head: %s", one.source.name, one.failure)
        found.append(one)
    write_manifest(config, found)
    report = None
    if config.report:
        from topohead.workflows.registering.page import write_page

        report = write_page(config, found)
    return RegisterResult(config.out, tuple(found), report)


def scans_in(folder: Path, out: Path | None = None) -> list[tuple[str, Path]]:
    """Every scan below a folder but those below `out`, in order, each under a name of its own."""
    files = sorted(
        (
            file
            for file in _files_below(folder)
            if file.suffix.lower() in SCANS
            and file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(folder).parts)
            and (out is None or out.resolve() not in file.resolve().parents)
        ),
        key=lambda file: _in_order(file.relative_to(folder)),
    )
    if not files:
        raise InputError(f"{folder} holds no scans; expected files {', '.join(SCANS)}")
    # no dots: what follows one would be taken for a format
    stems = [
        "_".join(file.relative_to(folder).with_suffix("").parts).replace(".", "_") for file in files
    ]
    named = [
        stem if stems.count(stem) == 1 else f"{stem}_{file.suffix[1:].lower()}"
        for stem, file in zip(stems, files, strict=True)
    ]
    return [
        (name if named.count(name) == 1 else f"{name}_{k}", file)
        for k, (name, file) in enumerate(zip(named, files, strict=True), 1)
    ]


def _files_below(folder: Path) -> Iterator[Path]:
    """All files of a folder and those in it; what cannot be looked into is told."""

    def tell(error: OSError) -> None:
        log.warning("%s cannot be read (%s): left out", error.filename, error.strerror)

    for place, _, names in os.walk(folder, onerror=tell):
        yield from (Path(place) / name for name in names)


def _in_order(path: Path) -> list[list[tuple[int, int, str]]]:
    """What paths are sorted by: folder by folder, numbers in names by their value."""
    return [
        [(0, int(part), "") if part.isdecimal() else (1, 0, part)
         for part in re.split(r"(\d+)", name) if part]
        for name in path.parts
    ]  # fmt: skip


def tell_warnings(scan: RegisteredScan) -> None:
    """Logs what is doubtful about a head."""
    for warning in scan.warnings:
        log.warning("%s: %s", scan.source.name, warning)


def _registered(requests: Sequence[RegisterConfig], jobs: int) -> Iterator[RegisteredScan]:
    """What became of each, in order."""
    if jobs == 1 or len(requests) == 1:
        yield from map(attempt, requests)
        return
    with _workers(min(jobs, len(requests))) as hands:
        yield from hands.map(attempt, requests)


@contextmanager
def _workers(count: int) -> Iterator[Executor]:
    """Processes that share the cores; leaving the block stops what they do."""
    context = multiprocessing.get_context("spawn")  # torch and numba bear no fork
    threads = max(1, (os.cpu_count() or 1) // count)
    before = set(multiprocessing.active_children())
    hands = ProcessPoolExecutor(count, context, _begin, (threads,))
    try:
        yield hands
    finally:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        hands.shutdown(cancel_futures=True)


def _begin(threads: int) -> None:
    """Makes a worker of this process: with its share of the cores, stopped by the caller alone."""
    import torch

    stop_with_caller()
    torch.set_num_threads(threads)
    os.environ["NUMBA_NUM_THREADS"] = str(threads)  # numba reads it when its first kernel starts


def attempt(config: RegisterConfig) -> RegisteredScan:
    """A scan's head or the reason why it has none: one bad scan does not stop the others."""
    try:
        return register_scan(config)
    except InputError as error:
        reason = str(error).removeprefix(f"{config.source}").lstrip(": ")
        return RegisteredScan(config.source, None, config.method or "", failure=reason)
    except PermissionError as error:
        reason = f"cannot be read or written ({error.filename}: {error.strerror})"
        return RegisteredScan(config.source, None, config.method or "", failure=reason)
    except Exception as error:
        log.exception("%s", config.source)
        reason = f"a fault of the program: {type(error).__name__}: {error}"
        return RegisteredScan(config.source, None, config.method or "", failure=reason)


def write_manifest(config: RegisterConfig, found: Sequence[RegisteredScan]) -> None:
    """manifest.json: what became of every scan."""
    rows = [
        plain(replace(one, source=Path(one.source.name)))
        | {"source": str(one.source), "head": _below(one.head, config.out)}
        for one in found
    ]
    document = {
        "verb": "register",
        "topohead": topohead.__version__,
        "source": str(config.source.resolve()),
        "method": config.method,
        "registered": sum(one.head is not None for one in found),
        "failed": sum(one.head is None for one in found),
        "heads": rows,
    }
    write_text(config.out / "manifest.json", json.dumps(document, indent=2) + "\n")


def _below(path: Path | None, folder: Path) -> str | None:
    return None if path is None else path.relative_to(folder).as_posix()
