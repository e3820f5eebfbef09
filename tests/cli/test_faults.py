"""Faulty takes through the command line: one clear line, exit code 2, earlier frames intact."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from topohead import cli
from topohead.core import Mesh
from topohead.io.assets import reference_head
from topohead.io.meshes import read_mesh, write_obj
from topohead.workflows.stage import StageConfig, stage

FRAMES = ("000001", "000002", "000003")
SMALL = ("--textures", "none", "--no-report")


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four cameras, three frames, pictures as small as tracking allows, a start mesh of level 0.

    The vertices that level 1 has in common with level 0 come first.
    """
    out = tmp_path_factory.mktemp("staged") / "take"
    stage(
        StageConfig(
            out, preset="tiny", cameras=4, frames=3, width=160, height=120, seed=11,
            supersampling=1, texture_size=256, turned=0.0,
        )
    )  # fmt: skip
    coarse = reference_head(0).topology
    fine = read_mesh(out / "start.obj", "m")
    write_obj(Mesh(coarse, fine.vertices[: coarse.vertex_count]), out / "start.obj")
    return out


@pytest.fixture
def take(staged: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(staged, tmp_path / "take"))


def run_capture(take: Path, *words: str) -> list[str]:
    return ["capture", str(take), "--out", str(take.parent / "run"), *SMALL, *words]


def a_camera(take: Path) -> str:
    return sorted(path.stem for path in (take / "frames" / FRAMES[0]).iterdir())[0]


def picture(take: Path, frame: str = FRAMES[0]) -> Path:
    return take / "frames" / frame / f"{a_camera(take)}.png"


def remove_camera(take: Path) -> None:
    for path in [picture(take, frame) for frame in FRAMES]:
        path.unlink()


def truncate(take: Path) -> None:
    data = picture(take, FRAMES[1]).read_bytes()
    picture(take, FRAMES[1]).write_bytes(data[: len(data) // 2])


def resize(take: Path) -> None:
    for frame in FRAMES:
        pixels = cv2.imread(str(picture(take, frame)))
        cv2.imwrite(str(picture(take, frame)), pixels[:, :100])


def remove_frame(take: Path) -> None:
    picture(take, FRAMES[1]).unlink()


def empty_mask(take: Path) -> None:
    path = take / "masks" / FRAMES[0] / f"{a_camera(take)}.png"
    cv2.imwrite(str(path), np.zeros_like(cv2.imread(str(path))))


def edit_start(take: Path, change: Callable[[list[str]], list[str]]) -> None:
    path = take / "start.obj"
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def drop_uvs(take: Path) -> None:
    def change(lines: list[str]) -> list[str]:
        kept = [line for line in lines if not line.startswith("vt ")]
        return [
            " ".join(["f", *(corner.split("/")[0] for corner in line.split()[1:])])
            if line.startswith("f ")
            else line
            for line in kept
        ]

    edit_start(take, change)


def double_faces(take: Path) -> None:
    def change(lines: list[str]) -> list[str]:
        faces = [line for line in lines if line.startswith("f ")]
        return [*lines, faces[0], faces[0]]

    edit_start(take, change)


def put_nan(take: Path) -> None:
    def change(lines: list[str]) -> list[str]:
        first = next(i for i, line in enumerate(lines) if line.startswith("v "))
        return [*lines[:first], "v nan 0 0", *lines[first + 1 :]]

    edit_start(take, change)


def scale_start(take: Path) -> None:
    """A start mesh in millimetres, where metres are due."""

    def change(lines: list[str]) -> list[str]:
        def scaled(line: str) -> str:
            values = (f"{1000 * float(word):.4f}" for word in line.split()[1:4])
            return " ".join(["v", *values])

        return [scaled(line) if line.startswith("v ") else line for line in lines]

    edit_start(take, change)


def scale_rig(factor: float) -> Callable[[Path], None]:
    def change(take: Path) -> None:
        path = take / "cameras.json"
        document = json.loads(path.read_text())
        for camera in document["cameras"].values():
            for row in camera["world_to_camera"][:3]:
                row[3] *= factor
        path.write_text(json.dumps(document))

    return change


def drop_camera_calibration(take: Path) -> None:
    path = take / "cameras.json"
    document = json.loads(path.read_text())
    del document["cameras"][a_camera(take)]
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (shutil.rmtree, ["no folder", "take"]),
        (lambda take: shutil.rmtree(take / "frames"), ["no pictures"]),
        (lambda take: (take / "cameras.json").unlink(), ["no calibration"]),
        (remove_camera, ["no pictures", "--views"]),
        (drop_camera_calibration, ["no calibration", "--views"]),
        (truncate, [FRAMES[1], "cut off"]),
        (resize, ["100×120", "160×120"]),
        (remove_frame, [FRAMES[1], "--allow-missing"]),
        (empty_mask, ["mask", "empty"]),
        (drop_uvs, ["start.obj", "UV"]),
        (double_faces, ["start.obj", "manifold"]),
        (put_nan, ["start.obj", "nan"]),
        (scale_start, ["start mesh", "0.001"]),
        (scale_rig(10), ["units"]),
        (scale_rig(0.1), ["units"]),
        (scale_rig(100), ["units"]),
        (scale_rig(0.01), ["units"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_fault_is_one_line(
    take: Path, capsys: pytest.CaptureFixture[str], fault: Callable[[Path], None], says: list[str]
) -> None:
    fault(take)
    assert cli.run(run_capture(take)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("topohead capture: "), err
    for words in says:
        assert words.lower() in err.lower(), err
    assert not list(take.parent.glob("run/frames/*/mesh.obj"))


def meshes(run: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in run.glob("frames/*/mesh.obj")}


@pytest.fixture(scope="module")
def finished(staged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a capture that nothing interrupts."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert cli.run(["capture", str(staged), "--out", str(run), *SMALL]) == 0
    return run


@pytest.fixture(scope="module")
def undisturbed(finished: Path) -> dict[str, bytes]:
    """Its meshes."""
    found = meshes(finished)
    assert sorted(found) == sorted(FRAMES)
    return found


@pytest.mark.slow
def test_damaged_picture_leaves_earlier_frames_and_is_resumable(
    take: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Damage that only shows when the picture is decoded, in the last frame.

    The check of the calibration would read that frame at the start, so it is off.
    """
    words = run_capture(take, "--keep-cameras")
    path = picture(take, FRAMES[2])
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[-14] ^= 0xFF  # the checksum of the last pixels, before the twelve bytes of IEND
    path.write_bytes(bytes(broken))
    assert cli.run(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "damaged" in err and FRAMES[2] in err, err
    earlier = meshes(take.parent / "run")
    assert sorted(earlier) == list(FRAMES[:2])
    path.write_bytes(whole)
    assert cli.run(words) == 0
    finished = meshes(take.parent / "run")
    assert sorted(finished) == list(FRAMES)
    assert {name: finished[name] for name in earlier} == earlier


@pytest.mark.slow
def test_full_disk_leaves_earlier_frames_and_is_resumable(
    take: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: dict[str, bytes],
) -> None:
    from topohead.io import atomic

    real = atomic._sync

    def full(path: Path) -> None:
        if "/frames/000003" in str(path):
            raise OSError(28, "No space left on device")
        real(path)

    monkeypatch.setattr(atomic, "_sync", full)
    assert cli.run(run_capture(take)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "disk is full" in err, err
    assert meshes(take.parent / "run") == {name: undisturbed[name] for name in FRAMES[:2]}
    monkeypatch.setattr(atomic, "_sync", real)
    assert cli.run(run_capture(take)) == 0
    assert meshes(take.parent / "run") == undisturbed


def test_kill_9_and_again_gives_the_same_bytes(take: Path, undisturbed: dict[str, bytes]) -> None:
    run = take.parent / "run"
    child = subprocess.Popen(
        [sys.executable, "-m", "topohead", *run_capture(take)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    deadline = time.monotonic() + 300
    while not (run / "frames" / FRAMES[1] / "mesh.obj").exists() and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, child.communicate()[1]
    assert cli.run(run_capture(take)) == 0
    assert meshes(run) == undisturbed


@pytest.mark.slow
def test_stopped_by_the_dashboard_and_again_gives_the_same_bytes(
    take: Path,
    undisturbed: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The page's button pressed while the second frame is in hand: that one is kept."""
    pytest.importorskip("viser")
    from topohead.viewer.dashboard import Dashboard
    from topohead.workflows.progress import Sight

    shown, real = [], Dashboard.show

    def show(self: Dashboard, sight: Sight) -> None:
        real(self, sight)
        shown.append(sight)
        if sight.step == FRAMES[1] and sight.images:
            self._stop()

    monkeypatch.setattr(Dashboard, "show", show)
    words = run_capture(take)
    assert cli.run([*words, "--dashboard", "--dashboard-port", "0"]) == 130
    address, stopped = capsys.readouterr().err.splitlines()
    assert address.startswith("dashboard: http://127.0.0.1:")
    assert stopped == "topohead capture: stopped; the same command continues where it was"
    assert meshes(take.parent / "run") == {name: undisturbed[name] for name in FRAMES[:2]}
    assert any(sight.cameras is not None and sight.meshes for sight in shown)
    assert [s.step for s in shown if "colour residual, %" in s.values] == list(FRAMES[:2])
    assert cli.run(words) == 0  # the dashboard is no setting of the result
    assert meshes(take.parent / "run") == undisturbed


@pytest.mark.slow
def test_chunks_in_two_processes_give_the_same_bytes(
    take: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two chunks; the second sets out from the first frame, whose state is exact."""
    from topohead.workflows.capturing import chunks, tracking

    short = partial(chunks.chunks_of, length=2, run_up=1)
    monkeypatch.setattr(tracking, "chunks_of", short)
    assert cli.run(run_capture(take, "--jobs", "2")) == 0
    assert (take.parent / "run" / "track" / "keys.safetensors").exists()
    assert meshes(take.parent / "run") == undisturbed
    # another number of jobs is no other setting
    assert cli.run(run_capture(take, "--jobs", "3")) == 0


def test_other_settings_are_refused(
    staged: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["capture", str(staged), "--out", str(finished), *SMALL]
    assert cli.run([*words, "--seed", "5"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "'seed'" in err and "--restart" in err, err
    assert cli.run(words) == 0  # with its own settings it is merely finished already
