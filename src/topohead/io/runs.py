"""Run folders: what a long verb leaves on disk, so that a kill at any moment loses nothing.

Three rules carry it. A file appears under its final name complete or not at all (`atomic_write`).
A frame is done when its files exist, a stage when `stages/NAME/done.json` does. Settings and
inputs are written down at the start; a later call with other ones is refused, not mixed in.
"""

import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import yaml

import topohead
from topohead.core.errors import InputError
from topohead.io.atomic import TEMPORARY, atomic_write, disk_full_as_input_error, write_text
from topohead.io.digests import plain

log = logging.getLogger(__name__)

UNCOMPARED = ("out", "json", "restart", "jobs", "report", "dashboard", "dashboard_port")
"""Settings that say where, how to talk and with how many hands, not what to compute."""

_OWN_FILES = {"lock", "config.yaml", "log.txt"}


@dataclass(frozen=True)
class Stage:
    """A step of a workflow: the settings and inputs only it and later steps depend on, its files.

    `outputs` are glob patterns below the run folder, deleted when the stage starts over.
    """

    name: str
    settings: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


class RunFolder:
    """One run on disk, held by one process at a time; use as a context manager.

    `settings` (a Config dataclass or mapping) and `inputs` (name → digest) are compared with
    those of the run that is there. A key that no stage names belongs to the first stage.
    `restart` names the stage to start over: its files and those of later stages are deleted, and
    their settings may differ from before.
    """

    def __init__(
        self,
        path: Path,
        verb: str,
        settings: Any,
        stages: Sequence[Stage],
        *,
        inputs: Mapping[str, str] | None = None,
        restart: str | None = None,
    ) -> None:
        self.path = Path(path)
        self.verb = verb
        self.stages = tuple(stages)
        self._settings = {k: v for k, v in plain(settings).items() if k not in UNCOMPARED}
        self._inputs = dict(inputs or {})
        self._restart = restart
        self._metrics_keys: set[tuple[Any, Any]] = set()
        self._lock: TextIO | None = None
        self._log_handler: logging.Handler | None = None
        if restart is not None and restart not in self._stage_names:
            known = ", ".join(self._stage_names)
            raise InputError(f"--restart {restart}: no such stage; expected one of {known}")

    # -- opening and closing

    def __enter__(self) -> "RunFolder":
        self._create_folder()
        self._take_lock()
        try:
            with disk_full_as_input_error(self.path):
                self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            # for log.txt only: whoever called gets the exception itself
            log.info("stopped: %s: %s", type(error).__name__, error)
        self.close()

    def close(self) -> None:
        """Gives the log file and the lock back."""
        if self._log_handler is not None:
            logging.getLogger("topohead").removeHandler(self._log_handler)
            self._log_handler.close()
            self._log_handler = None
        if self._lock is not None:
            self._lock.close()  # closing the descriptor releases the lock
            self._lock = None

    def _open(self) -> None:
        for stale in self.path.rglob(f"{TEMPORARY}*"):
            stale.unlink(missing_ok=True)
        known = self._read_json("run.json")
        if known is not None:
            self._check_unchanged(known)
        if self._restart is not None:
            self._start_over(self._restart)
        self._repair_metrics()
        self._write_settings(known or {})
        self._log_handler = logging.FileHandler(self.path / "log.txt", encoding="utf-8")
        self._log_handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
        )
        package = logging.getLogger("topohead")
        package.addHandler(self._log_handler)
        if package.level == logging.NOTSET:
            package.setLevel(logging.INFO)
        log.info("%s: %s", "resumed" if known else "started", " ".join(sys.argv))

    def _create_folder(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--out {self.path} is a file; expected a folder for the run")
        if self.path.is_dir() and not (self.path / "run.json").exists():
            strangers = [
                child.name
                for child in self.path.iterdir()
                if child.name not in _OWN_FILES and not child.name.startswith(TEMPORARY)
            ]
            if strangers:
                raise InputError(
                    f"--out {self.path} holds {strangers[0]} but no run.json, so it is no run "
                    "folder; choose a new or empty one"
                )
        try:
            with disk_full_as_input_error(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"--out {self.path} cannot be made ({error.strerror}); choose another folder"
            ) from error

    def _take_lock(self) -> None:
        """Locks through the kernel, so a dead process's lock is free whatever its file says."""
        try:
            self._lock = (self.path / "lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"--out {self.path} cannot be written ({error.strerror}); choose another folder"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "another process"
            self.close()
            raise InputError(
                f"{self.path} is being written by {holder}; wait for it or choose another --out"
            ) from None
        with disk_full_as_input_error(self.path):
            self._lock.truncate(0)
            self._lock.write(f"process {os.getpid()} on {platform.node()}\n")
            self._lock.flush()

    # -- settings

    @property
    def _stage_names(self) -> list[str]:
        return [stage.name for stage in self.stages]

    def _stage_of(self, key: str) -> int:
        """The first stage that a setting or input changes."""
        for index, stage in enumerate(self.stages):
            if key in stage.settings:
                return index
        return 0

    def _check_unchanged(self, known: Mapping[str, Any]) -> None:
        if known.get("verb") != self.verb:
            raise InputError(
                f"{self.path} is a run of `topohead {known.get('verb')}`; "
                f"choose another --out for `topohead {self.verb}`"
            )
        redone = len(self.stages)
        if self._restart is not None:
            redone = self._stage_names.index(self._restart)
        stored = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8")) or {}
        missing = object()
        for old, new, what in (
            (stored, self._settings, "setting"),
            (known.get("inputs", {}), self._inputs, "input"),
        ):
            for key in dict.fromkeys([*new, *old]):
                stage = self._stage_of(key)
                before, now = old.get(key, missing), new.get(key, missing)
                if before == now or stage >= redone:
                    continue
                change = "its files changed"
                if what == "setting":
                    change = " is now ".join(
                        "absent" if value is missing else str(value) for value in (before, now)
                    )
                name = self.stages[stage].name
                raise InputError(
                    f"{self.path} was made with another {what} '{key}' ({change}); choose another "
                    f"--out, or add `--restart {name}` to redo it from there"
                )

    def _write_settings(self, known: Mapping[str, Any]) -> None:
        # config.yaml first: run.json is what makes the folder a run
        write_text(
            self.path / "config.yaml",
            yaml.safe_dump(self._settings, sort_keys=False, allow_unicode=True),
        )
        record = {
            "verb": self.verb,
            "topohead": topohead.__version__,
            "python": platform.python_version(),
            "started": known.get("started", time.strftime("%Y-%m-%dT%H:%M:%S%z")),
            "stages": self._stage_names,
            "inputs": self._inputs,
        }
        self.write_json("run.json", record)

    # -- stages

    def is_done(self, stage: str) -> bool:
        """Whether a stage was finished with these settings and inputs."""
        marker = self._read_json(f"stages/{stage}/done.json")
        return marker is not None and marker.get("hash") == self._stage_hash(stage)

    def finish(self, stage: str, **facts: Any) -> None:
        """Marks a stage done; `facts` (seconds, counts) are kept beside the hash."""
        self.write_json(
            f"stages/{stage}/done.json", {"hash": self._stage_hash(stage), **plain(facts)}
        )

    def facts(self, stage: str) -> dict[str, Any]:
        """What `finish` was told about a stage; empty when it is not done."""
        marker = self._read_json(f"stages/{stage}/done.json") or {}
        return {key: value for key, value in marker.items() if key != "hash"}

    def _stage_hash(self, stage: str) -> str:
        """Hash of every setting and input that this stage or one before it depends on."""
        last = self._stage_names.index(stage)
        everything = {**self._settings, **{f"input {k}": v for k, v in self._inputs.items()}}
        relevant = {
            key: value
            for key, value in everything.items()
            if self._stage_of(key.removeprefix("input ")) <= last
        }
        text = json.dumps(relevant, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _start_over(self, first: str) -> None:
        redone = self.stages[self._stage_names.index(first) :]
        for stage in redone:
            (self.path / "stages" / stage.name / "done.json").unlink(missing_ok=True)
            for pattern in stage.outputs:
                for file in self.path.glob(pattern):
                    if file.is_file():
                        file.unlink()
        names = {stage.name for stage in redone}
        self._rewrite_metrics(row for row in self.metrics() if row.get("stage") not in names)

    # -- metrics

    def append_metrics(self, stage: str, frame: str | None = None, /, **values: Any) -> None:
        """Adds one line to metrics.jsonl; a line of the same stage and frame is replaced.

        Append before writing the frame's last file: then a done frame has its line, and a frame
        that is done again after a kill replaces it.
        """
        key = {"stage": stage} if frame is None else {"stage": stage, "frame": frame}
        if (stage, frame) in self._metrics_keys:
            self._rewrite_metrics(
                row for row in self.metrics() if _metrics_key(row) != (stage, frame)
            )
        self._metrics_keys.add((stage, frame))
        path = self.path / "metrics.jsonl"
        with disk_full_as_input_error(path), path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({**key, **plain(values)}) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        """All complete lines of metrics.jsonl."""
        return read_metrics(self.path)

    def _repair_metrics(self) -> None:
        """Cuts what a kill left of a last line, so that the next line starts on its own."""
        path = self.path / "metrics.jsonl"
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            self._rewrite_metrics(self.metrics())
        self._metrics_keys = {_metrics_key(row) for row in self.metrics()}

    def _rewrite_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(row) + "\n" for row in list(rows))
        write_text(self.path / "metrics.jsonl", text)

    # -- files

    def write(self, name: str) -> AbstractContextManager[Path]:
        """`atomic_write` of a file below the run folder."""
        return atomic_write(self.path / name)

    def write_json(self, name: str, value: Any) -> None:
        """Writes one JSON file atomically."""
        write_text(self.path / name, json.dumps(plain(value), indent=2) + "\n")

    def has(self, *names: str) -> bool:
        """Whether all these files exist below the run folder, which means they are complete."""
        return all((self.path / name).exists() for name in names)

    def require_space(self, needed: int) -> None:
        """Refuses early when the disk has fewer than `needed` bytes free."""
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise InputError(
                f"--out {self.path} needs about {needed / 1e9:.1f} GB but its disk has "
                f"{free / 1e9:.1f} GB free; free some space or choose another --out"
            )

    def _read_json(self, name: str) -> dict[str, Any] | None:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except json.JSONDecodeError as error:
            raise InputError(
                f"{self.path / name} is no JSON (line {error.lineno}); it was changed by hand: "
                "delete the run folder or choose another --out"
            ) from error


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All complete lines of a run folder's metrics.jsonl; a torn last line does not count."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return []
    complete, _, _ = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    return [json.loads(line) for line in complete.splitlines() if line]


def _metrics_key(row: Mapping[str, Any]) -> tuple[Any, Any]:
    return row.get("stage"), row.get("frame")
