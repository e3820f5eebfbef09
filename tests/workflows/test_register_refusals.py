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
