"""`topohead register` refuses what is no single head, in one line, and writes nothing."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trimesh

from planted_scan import planted, two_heads, written
from topohead import cli


def fine_box(path: Path) -> None:
    box = trimesh.creation.box(extents=(20, 25, 20))
    for _ in range(4):
        box = box.subdivide()
    box.export(path)


def huge_promise(path: Path) -> None:
    head = "ply\nformat binary_little_endian 1.0\nelement vertex 170000000\n"
    head += "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
    path.write_bytes(head.encode() + bytes(120))


def no_faces(path: Path) -> None:
    path.write_text("".join(f"v {i} 0 {i}\n" for i in range(300)))


def not_numbers(path: Path) -> None:
    scan = planted(seed=3).scan
    points = scan.points.clone()
    points[7, 2] = torch.nan
    written(replace(planted(seed=3), scan=replace(scan, points=points)), path)


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("a.obj", lambda path: path.write_text("# empty\n"), "no vertices"),
        ("a.ply", lambda path: trimesh.creation.box().export(path), "8 points and 12 triangles"),
        ("a.ply", not_numbers, "not a finite position"),
        ("a.obj", no_faces, "300 points and no surface"),
        ("a.ply", huge_promise, "cut off"),
        ("a.ply", fine_box, "no human head|no head was found"),
        ("a.ply", two_heads, "several heads"),
    ],
    ids=["empty", "cube", "nan", "no faces", "2 GB header", "fine cube", "two heads"],
)
def test_no_head_is_one_line_and_no_file(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    make: Callable[[Path], object],
    says: str,
) -> None:
    make(tmp_path / name)
    words = ["register", str(tmp_path / name), "--out", str(tmp_path / "out"), "--method", "pca"]
    assert cli.run([*words, "--texture-size", "0"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and re.search(says, told), told
    assert not (tmp_path / "out").exists()


def test_what_is_read_is_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor a file that somebody else wrote."""
    scan = written(planted(seed=3), tmp_path / "scan.ply")
    (tmp_path / "notes.obj").write_text("# mine")
    before = scan.read_bytes()
    for name in ("scan.ply", "notes.obj"):
        words = ["register", str(scan), "--out", str(tmp_path / name), "--method", "template"]
        assert cli.run(words) == 2
        assert "choose another" in capsys.readouterr().err
    assert scan.read_bytes() == before and (tmp_path / "notes.obj").read_text() == "# mine"
    assert {file.name for file in tmp_path.iterdir()} == {"scan.ply", "notes.obj"}


def test_flags_without_meaning_for_sequences_are_refused(tmp_path: Path) -> None:
    for flag in ("--neutral", "--reference-frame"):
        words = ["register", str(tmp_path), "--out", str(tmp_path / "run"), "--sequence", flag]
        assert cli.run(words) == 2


def test_a_topology_that_cannot_be_used_is_told_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    written(planted(seed=3), scans / "a.ply")
    (tmp_path / "mine.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 2\n")
    for source, target in ((scans, out), (scans / "a.ply", tmp_path / "a.obj")):
        words = ["register", str(source), "--out", str(target), "--topology"]
        assert cli.run([*words, str(tmp_path / "mine.obj")]) == 2
        assert "uses a vertex twice" in capsys.readouterr().err
    assert {file.name for file in tmp_path.iterdir()} == {"scans", "mine.obj"}
