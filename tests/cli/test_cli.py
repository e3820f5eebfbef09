"""The command line's contract: exit codes, one line for bad input, help at once."""

import io
import json
import logging
import os
import pty
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from topohead import cli
from topohead.cli import verbs
from topohead.cli.progress import Lines
from topohead.core import InputError
from topohead.workflows.progress import showing, track


@dataclass(frozen=True)
class PolishConfig:
    """Polish a thing."""

    source: Path
    """The thing."""
    out: Path | None = None
    """Where to."""
    units: Literal["mm", "cm", "m"] | None = None
    """Of the thing."""
    size: int | None = None
    """Of the thing, too."""
    box: tuple[float, float] | None = None
    """For the thing."""
    shine: bool = True
    """Make it shine."""
    fault: str = ""
    """What goes wrong."""
    json: bool = False
    """One JSON object."""


def polish(config: PolishConfig) -> dict[str, Any]:
    """Does nothing but what the tests look at."""
    for _ in track([1, 2], "polishing"):
        pass
    logging.getLogger("topohead.polish").warning("three views are few")
    if config.fault == "input":
        raise InputError("expected a thing,\n got dust")
    if config.fault == "disk":
        raise OSError(28, "No space left on device")
    if config.fault == "forbidden":
        raise PermissionError(13, "Permission denied", "/vault/.tmp-17-42-door")
    if config.fault == "stop":
        raise KeyboardInterrupt
    if config.fault == "bug":
        raise ZeroDivisionError
    return {"out": config.source / "shiny", "error_mm": float("nan"), "units": config.units}


@pytest.fixture(autouse=True)
def polish_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    verb = verbs.Verb(__name__, "PolishConfig", "polish", "polish", {"source": "THING"})
    monkeypatch.setitem(verbs.VERBS, "polish", verb)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])


def test_result_and_progress_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["polish", "door", "--units", "cm"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "polishing: 2 of 2" in out and "warning: three views" in out
    assert "out: door/shiny\n" in out and "units: cm\n" in out


def test_json_is_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["polish", "door", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {
        "out": "door/shiny", "error_mm": None, "units": None, "warnings": ["three views are few"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["polish", "door", "--fault", "input"], 2, "expected a thing, got dust"),
        (["polish", "door", "--fault", "disk"], 2, "disk is full"),
        (["polish", "door", "--fault", "stop"], 130, "the same command continues"),
        (["polish", "door", "--units", "km"], 2, "invalid choice 'km' for argument '--units'"),
        (["polish", "door", "--unitz", "cm"], 2, "--unitz"),
        (["polish", "door", "--size", "two"], 2, "--size: expected INT, got 'two'; see"),
        (["polish", "door", "--box", "1"], 2, "--box: expected {FLOAT FLOAT}, got '1'; see"),
        (["polish", "door", "--size"], 2, "missing value for argument '--size'; see"),
        (["polish"], 2, "topohead polish: missing THING; see"),
        (["avatar"], 2, "expected avatar fit or avatar animate"),
        (["polish", "door", "--fault", "forbidden"], 2, "/vault/door: Permission denied"),
        (["polihs", "door"], 2, "did you mean polish?"),
        (["sing"], 2, "expected one of demo, stage, capture, register, "),
    ],
)
def test_faults_are_one_line_and_a_code(
    capsys: pytest.CaptureFixture[str], words: list[str], code: int, says: str
) -> None:
    assert cli.run(words) == code
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1 and err.endswith("\n"), err


def test_places_that_cannot_be_written_are_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    assert cli.run(["polish", "door", "--out", str(tmp_path / "file" / "x"), "--fault", "bug"]) == 2
    assert "is a file" in capsys.readouterr().err
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    assert cli.run(["polish", "door", "--out", str(tmp_path / "x"), "--fault", "bug"]) == 2
    assert f"no permission in {tmp_path}" in capsys.readouterr().err


def test_bugs_are_not_dressed_up() -> None:
    with pytest.raises(ZeroDivisionError):
        cli.run(["polish", "door", "--fault", "bug"])


def test_help_lists_the_verbs_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in verbs.VERBS)
    assert cli.run(["polish", "--help"]) == 0
    out = capsys.readouterr().out
    assert "THING" in out and "--units" in out and "Of the thing." in out
    assert "(default: None)" not in out
    assert "--no-shine" in out and "Make it shine. (on; this flag turns it off)" in out
    assert cli.run(["avatar", "--help"]) == 0
    out = capsys.readouterr().out
    assert "avatar fit" in out and "avatar animate" in out and "register" not in out


REAL_VERBS = ["demo", "stage", "capture", "register", "evaluate", "rig", "doctor"]


@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in REAL_VERBS)])
def test_help_needs_no_torch(words: list[str]) -> None:
    """Help answers in under a second because nothing heavy is imported for it."""
    script = (
        "import sys; from topohead.cli import run; assert run(sys.argv[1:]) == 0; "
        "heavy = {'torch', 'numpy', 'numba', 'scipy', 'cv2', 'jaxtyping'} & set(sys.modules); "
        "sys.exit(f'help imported {heavy}' if heavy else 0)"
    )
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - begin
    assert done.returncode == 0, done.stderr
    assert "usage: topohead" in done.stdout
    assert seconds < 5  # 0.1 s measured; a busy machine may take its time


def test_bar_on_a_terminal() -> None:
    """A real terminal gets the bar on stderr; stdout stays clean for the result."""
    script = (
        "import sys; from topohead.cli.progress import listener_for; "
        "from topohead.workflows.progress import showing, track\n"
        "with showing(listener_for(sys.stderr, sys.stdout)):\n"
        "    for _ in track(range(3), 'tracking', total=5, done=2):\n"
        "        for _ in track(range(2), 'levels'): pass\n"
        "print('result')"
    )
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=theirs, text=True
    )
    os.close(theirs)
    drawn = b""
    try:
        while chunk := os.read(ours, 65536):
            drawn += chunk
    except OSError:  # Linux says EIO when the other end has closed
        pass
    os.close(ours)
    assert child.communicate()[0] == "result\n"
    assert child.returncode == 0
    assert "tracking" in drawn.decode() and "5/5" in drawn.decode()


def test_lines_estimate_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("topohead.cli.progress.time.monotonic", lambda: now)
    stream = io.StringIO()
    with showing(Lines(stream)):
        for _ in track(range(8), "tracking", total=10, done=2):
            now += 4.0
    lines = stream.getvalue().splitlines()
    assert lines[0] == "tracking: 3 of 10, 4.00 s each, about 28 s left"
    assert lines[1] == "tracking: 6 of 10, 4.00 s each, about 16 s left"  # ten seconds later
    assert lines[-1] == "tracking: 10 of 10, 4.00 s each"


def test_loops_pass_items_on_and_close_when_left_early() -> None:
    assert list(track("abc", "letters")) == ["a", "b", "c"]
    lines = Lines(None)
    with showing(lines):
        for _ in track(iter("abc"), "letters", total=3):
            break
        assert lines._loops == []
