"""A run folder keeps what was finished, whatever ends the process."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from topohead.core import InputError
from topohead.io.atomic import atomic_write
from topohead.io.digests import digest
from topohead.io.runs import RunFolder, Stage, read_metrics

STAGES = (
    Stage("first", outputs=("first/*",)),
    Stage("coarse", settings=("solver",), outputs=("frames/*/mesh.obj",)),
    Stage("texture", settings=("texture_size",), outputs=("frames/*/texture_srgb.png",)),
)


@dataclass(frozen=True)
class Settings:
    capture: Path
    out: Path
    units: str = "m"
    solver: str = "newton"
    texture_size: int = 1024
    restart: str | None = None


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "take", tmp_path / "run")


def open_run(settings: Settings, **inputs: str) -> RunFolder:
    return RunFolder(
        settings.out, "capture", settings, STAGES, inputs=inputs, restart=settings.restart
    )


def test_file_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "mesh.obj"
    with pytest.raises(KeyError), atomic_write(path) as temporary:
        temporary.write_text("half")
        assert temporary.suffix == ".obj"
        raise KeyError
    assert list(path.parent.iterdir()) == []
    for text in ("old", "new"):
        with atomic_write(path) as temporary:
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_disk_is_one_line(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "texture.png"
    with pytest.raises(InputError, match=r"disk is full.*texture\.png") as caught:  # noqa: SIM117
        with atomic_write(path):
            raise error
    assert "\n" not in str(caught.value)
    assert not path.exists()


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a"):
        raise ZeroDivisionError
    with pytest.raises(PermissionError), atomic_write(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "no")


def test_reopens_where_it_stopped(settings: Settings) -> None:
    with open_run(settings, images="a1") as run:
        assert not run.is_done("first")
        run.finish("first", seconds=2.5)
        with run.write("frames/000001/mesh.obj") as path:
            path.write_text("v 0 0 0\n")
        run.append_metrics("coarse", "000001", residual=0.01)
    with open_run(settings, images="a1") as run:
        assert run.is_done("first") and not run.is_done("coarse")
        assert run.facts("first") == {"seconds": 2.5}
        assert run.has("frames/000001/mesh.obj")
        assert not run.has("frames/000001/mesh.obj", "frames/000002/mesh.obj")
        assert run.metrics() == [{"stage": "coarse", "frame": "000001", "residual": 0.01}]
    record = json.loads((settings.out / "run.json").read_text())
    assert record["verb"] == "capture" and record["inputs"] == {"images": "a1"}
    assert (settings.out / "log.txt").read_text().count("resumed") == 1


def test_other_settings_are_refused_with_the_stage_to_restart(settings: Settings) -> None:
    with open_run(settings, images="a1"):
        pass
    with pytest.raises(InputError, match=r"'units' \(m is now mm\).*--restart first"):
        open_run(replace(settings, units="mm"), images="a1").__enter__()
    with pytest.raises(InputError, match=r"'texture_size'.*--restart texture"):
        open_run(replace(settings, texture_size=2048), images="a1").__enter__()
    with pytest.raises(InputError, match=r"input 'images'.*--restart first"):
        open_run(settings, images="b2").__enter__()
    with pytest.raises(InputError, match="run of `topohead capture`"):
        RunFolder(settings.out, "stage", settings, STAGES).__enter__()
    with pytest.raises(InputError, match="expected one of first, coarse, texture"):
        open_run(replace(settings, restart="detail"))
    with open_run(settings, images="a1"):  # a refusal holds no lock and changes nothing
        pass


def test_restart_deletes_that_stage_and_later_ones_only(settings: Settings) -> None:
    with open_run(settings) as run:
        for name in ("first/start.obj", "frames/1/mesh.obj", "frames/1/texture_srgb.png"):
            with run.write(name) as path:
                path.write_text("x")
        for stage in STAGES:
            run.append_metrics(stage.name, "1")
            run.finish(stage.name)
    changed = replace(settings, solver="published", restart="coarse")
    with open_run(changed) as run:
        assert [run.is_done(s.name) for s in STAGES] == [True, False, False]
        assert run.has("first/start.obj")
        assert not run.has("frames/1/mesh.obj") and not run.has("frames/1/texture_srgb.png")
        assert [row["stage"] for row in run.metrics()] == ["first"]
    with open_run(replace(changed, restart=None)) as run:
        assert run.is_done("first")
    # a setting of an earlier stage may not hide behind a later restart
    with pytest.raises(InputError, match="'units'"):
        open_run(replace(changed, units="mm", restart="texture")).__enter__()


def test_metrics_survive_a_torn_line_and_redone_frames(settings: Settings) -> None:
    with open_run(settings) as run:
        run.append_metrics("coarse", "1", residual=1)
        run.append_metrics("coarse", "2", residual=2)
    with (settings.out / "metrics.jsonl").open("a") as stream:
        stream.write('{"stage": "coarse", "fra')
    with open_run(settings) as run:
        run.append_metrics("coarse", "2", residual=3)
        run.append_metrics("texture", "2", seconds=1)
        run.append_metrics("package")
    rows = read_metrics(settings.out)
    assert [(r["stage"], r.get("frame")) for r in rows] == [
        ("coarse", "1"), ("coarse", "2"), ("texture", "2"), ("package", None),
    ]  # fmt: skip
    assert rows[1]["residual"] == 3
    assert (settings.out / "metrics.jsonl").read_text().endswith("\n")


def test_two_processes_do_not_write_one_run(settings: Settings) -> None:
    with (
        open_run(settings),
        pytest.raises(InputError, match=f"written by process {os.getpid()}"),
        open_run(settings),
    ):
        pass
    with open_run(settings):
        pass


def _hold_forever(settings: Settings, ready: Any) -> None:
    with open_run(settings) as run, run.write("frames/1/mesh.obj") as path:
        path.write_text("half a mesh")
        ready.set()
        signal.pause()


def test_kill_9_leaves_no_lock_and_no_half_file(settings: Settings) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    child = context.Process(target=_hold_forever, args=(settings, ready))
    child.start()
    assert ready.wait(20)
    with pytest.raises(InputError, match=f"process {child.pid}"):
        open_run(settings).__enter__()
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    with open_run(settings) as run:
        assert not run.has("frames/1/mesh.obj")
        assert list((settings.out / "frames" / "1").iterdir()) == []


def test_folder_with_other_things_is_refused(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "holiday.jpg").touch()
    with pytest.raises(InputError, match=r"holiday\.jpg but no run\.json"):
        open_run(replace(settings, out=tmp_path / "full")).__enter__()
    with pytest.raises(InputError, match="is a file"):
        open_run(replace(settings, out=tmp_path / "full" / "holiday.jpg")).__enter__()
    with pytest.raises(InputError, match="cannot be made"):
        open_run(replace(settings, out=tmp_path / "full" / "holiday.jpg" / "run")).__enter__()


def test_too_small_a_disk_is_told_in_gigabytes(settings: Settings) -> None:
    with open_run(settings) as run:
        run.require_space(1)
        with pytest.raises(InputError, match=r"needs about 1000000000\.0 GB"):
            run.require_space(10**18)


def test_digest_follows_content_and_names_not_places(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "frames").mkdir(parents=True)
        (tmp_path / folder / "frames" / "x.png").write_bytes(bytes(300_000) + b"end")
        (tmp_path / folder / "cameras.json").write_text("{}")
    same = digest(tmp_path / "a")
    assert digest(tmp_path / "b") == same
    run = tmp_path / "b" / "run"
    run.mkdir()
    (run / "run.json").touch()
    assert digest(tmp_path / "b") == same
    (tmp_path / "b" / "frames" / "x.png").write_bytes(bytes(300_000) + b"enD")
    assert digest(tmp_path / "b") != same
    (tmp_path / "a" / "cameras.json").rename(tmp_path / "a" / "rig.json")
    assert digest(tmp_path / "a") != same


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_really_full_disk(tmp_path: Path) -> None:
    """On a file system of 64 KiB: the frame that fits stays, the next one is one clear line."""
    small = tmp_path / "small"
    small.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)],
        capture_output=True,
        check=False,
    )
    if mount.returncode != 0:
        pytest.skip("may not mount a small file system")
    try:
        with RunFolder(small / "run", "capture", {}, STAGES) as run:
            with run.write("frames/1/mesh.obj") as path:
                path.write_bytes(bytes(8_000))
            with pytest.raises(InputError, match="disk is full"):  # noqa: SIM117
                with run.write("frames/2/mesh.obj") as path:
                    path.write_bytes(bytes(100_000))
            assert run.has("frames/1/mesh.obj") and not run.has("frames/2/mesh.obj")
            assert list((small / "run" / "frames" / "2").iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)
