"""What Blender makes of our files: shapes by name, quads, and every vertex to 1e-5 m.

Set TOPOHEAD_BLENDER to a Python that has bpy; its module is GPL and stays in that process.
"""

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporting import FRAMES, RATE, add_rig, heads, world, write_run
from planted_run import ellipsoid_topology
from topohead.core import ARKIT_52, InputError
from topohead.geometry.placement import placement
from topohead.workflows.export import ExportConfig, export

BLENDER = os.environ.get("TOPOHEAD_BLENDER", "")
DUMP = Path(__file__).parents[1] / "blender_dump.py"
needs_blender = pytest.mark.skipif(
    "python" not in Path(BLENDER).name, reason="needs TOPOHEAD_BLENDER, a Python with bpy"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("blender"))


@pytest.fixture(scope="module")
def rigged_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A run with a rig, and the rig's meshes in Blender's axes."""
    path = write_run(tmp_path_factory.mktemp("blender-rig"))
    place = placement(torch.linalg.inv(world()), "z-up")
    return path, place.points(add_rig(path).vertices())


def seen(path: Path, first: int) -> dict[str, np.ndarray]:
    """What Blender shows of a file at as many frames as the run has, from `first` on."""
    out = path.with_suffix(".npz")
    frames = [str(first + k) for k in range(FRAMES)]
    done = subprocess.run(
        [BLENDER, str(DUMP), str(path), str(out), str(RATE), *frames],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(np.load(out))


def there(run: Path, out: Path, to: Any, **settings: Any) -> Path:
    result = export(ExportConfig(run, to, out=out, **settings))
    return next(p for p in sorted(result.folder.iterdir()) if p.suffix in (
        ".glb", ".usdc", ".fbx", ".abc", ".obj", ".ply"))  # fmt: skip


@needs_blender
@pytest.mark.parametrize(
    ("to", "settings", "first"),
    [
        ("glb", {}, 0),  # Blender puts a glTF's first second at frame 0
        ("usd", {}, 1),
        ("usd", {"units": "cm", "axis": "z-up"}, 1),
        ("fbx", {}, 1),
        ("fbx", {"units": "cm", "axis": "z-up"}, 1),
    ],
)
def test_rigs_play_in_blender(
    rigged_run: tuple[Path, torch.Tensor], tmp_path: Path, to: str, settings: Any, first: int
) -> None:
    run, expected = rigged_run
    if to == "usd":
        pytest.importorskip("pxr")
    found = seen(there(run, tmp_path / "out", to, **settings), first)
    assert found["keys"].tolist() == ["Basis", *ARKIT_52]
    wanted = expected.numpy()
    if to == "glb":
        wanted = wanted[:, found["source"].round().astype(int)]
    else:
        assert (found["sizes"] == 4).all()
    assert np.abs(found["posed"] - wanted).max() < 1e-5


@needs_blender
@pytest.mark.parametrize(("to", "unit"), [("usd", "m"), ("abc", "m"), ("abc", "cm"), ("fbx", "m")])
def test_sequences_play_in_blender(run: Path, tmp_path: Path, to: str, unit: Any) -> None:
    if to == "usd":
        pytest.importorskip("pxr")
    found = seen(there(run, tmp_path / "out", to, units=unit), 1)
    # Alembic tells no unit: numbers arrive as they stand
    wanted = placement(None, "z-up", {"m": 1.0, "cm": 0.01}[unit]).points(heads()).numpy()
    assert np.abs(found["posed"] - wanted).max() < 1e-5 * (100 if unit == "cm" else 1)
    topology = ellipsoid_topology()
    assert (found["sizes"] == 4).all()
    assert np.array_equal(found["corners"].reshape(-1, 4), topology.faces.numpy())
    corners = found["uv"].reshape(-1, 4, 2)
    assert np.abs(corners - topology.uv[topology.face_uv].numpy()).max() < 1e-6


@needs_blender
@pytest.mark.parametrize("to", ["obj", "ply"])
def test_a_mesh_lies_as_it_should(to: str, run: Path, tmp_path: Path) -> None:
    found = seen(there(run, tmp_path / "out", to, frames="2:2"), 1)
    wanted = placement(None, "z-up").points(heads()[1]).numpy()
    assert np.abs(found["posed"][0] - wanted).max() < 1e-5


def test_a_program_that_is_no_blender_is_told(run: Path, tmp_path: Path) -> None:
    liar = tmp_path / "blender"
    liar.write_text("#!/bin/sh\necho no such scene >&2\nexit 3\n")
    liar.chmod(0o755)
    with pytest.raises(InputError, match="wrote no abc: no such scene"):
        export(ExportConfig(run, "abc", out=tmp_path / "out", blender=liar))
    assert not (tmp_path / "out").exists()
