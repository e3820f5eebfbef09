"""Files that belong together appear together, or not at all."""

import errno
from pathlib import Path

import pytest

from topohead.core import InputError
from topohead.io.atomic import TEMPORARY, atomic_files, atomic_folder, disk_full_as_input_error


def test_files_replace_what_was_theirs(tmp_path: Path) -> None:
    for name in ("list.json", "old.obj", "foreign.txt"):
        (tmp_path / name).write_text("old")
    with pytest.raises(RuntimeError), atomic_files(tmp_path, "list.json", ["old.obj"]) as fresh:
        (fresh / "new.obj").write_text("new")
        raise RuntimeError
    assert {file.name for file in tmp_path.iterdir()} == {"list.json", "old.obj", "foreign.txt"}
    with atomic_files(tmp_path, "list.json", ["old.obj"]) as fresh:
        (fresh / "new.obj").write_text("new")
        (fresh / "list.json").write_text("new")
    told = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert told == {"list.json": "new", "new.obj": "new", "foreign.txt": "old"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_no_room_is_told_of_the_final_file(tmp_path: Path, number: int) -> None:
    with (
        pytest.raises(InputError, match=str(tmp_path / "heads" / "head.obj")) as told,
        atomic_folder(tmp_path / "heads") as fresh,
        disk_full_as_input_error(fresh / "head.obj"),
    ):
        raise OSError(number, "no room")
    assert TEMPORARY not in str(told.value) and not list(tmp_path.iterdir())
