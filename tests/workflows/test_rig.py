"""`topohead rig` on a planted run: weights, files, another head, and what it says to bad input."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from planted_run import write_planted_run
from topohead import cli
from topohead.core import Mesh
from topohead.geometry.skinning import placed, posed
from topohead.io.assets import reference_head, topology_tensors
from topohead.io.expressions import Performance, read_live_link, write_live_link
from topohead.io.gltf import write_glb
from topohead.io.gltf_rig import read_rig_glb
from topohead.io.meshes import read_mesh, write_obj
from topohead.io.results import open_run
from topohead.synthesis.performances import euler, scripted, with_head_motion
from topohead.workflows.rig import RigConfig, RigResult, rig

FRAMES, RATE = 8, 12.0


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the reference head, turned in its world, with the truth beside its source."""
    folder = tmp_path_factory.mktemp("rig")
    model = reference_head(0)
    motion = with_head_motion(scripted(FRAMES, RATE, 2), torch.tensor([0.0, -0.07, -0.02]), 1)
    place = torch.eye(4, dtype=torch.float64)
    place[:3, :3] = euler(torch.tensor([0.9, -0.4, 0.2], dtype=torch.float64))
    place[:3, 3] = torch.tensor([0.3, 1.2, -0.8])
    basis = (model.expression_basis.double() @ place[:3, :3].T).float()
    neutral = placed(model.template[None], place[None])[0]
    poses = place @ motion.poses @ torch.linalg.inv(place)
    tracked = posed(neutral, basis, motion.coefficients, poses)
    source = folder / "take"
    (source / "truth").mkdir(parents=True)
    write_obj(Mesh(model.topology, tracked[0]), source / "truth" / "mesh.obj")
    track = Performance(
        torch.arange(FRAMES).double() / RATE,
        motion.coefficients,
        torch.zeros(FRAMES, 3),
        torch.zeros(FRAMES, 2, 3),
    )
    write_live_link(track, source / "truth" / "expression.csv")
    run = write_planted_run(folder, tracked, model.topology)
    (run / "config.yaml").write_text(f"source: {source}\n")
    write_glb(run / "sequence.glb", model.topology, tracked, None, RATE)
    tensors = topology_tensors(model.topology) | {
        "vertices": neutral,
        "basis": basis.contiguous(),
        "expression": torch.zeros(52),
        "upright": torch.linalg.inv(place),
    }
    (run / "first").mkdir()
    packed = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(packed, run / "first" / "head.safetensors")
    return run


@pytest.fixture
def run(planted: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    return Path(shutil.copytree(planted, tmp_path / "run"))


@pytest.fixture(scope="module")
def rigged(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> RigResult:
    """A copy's rig, to read."""
    run = Path(shutil.copytree(planted, tmp_path_factory.mktemp("rigged") / "run"))
    return rig(RigConfig(run))


def test_rig_plays_the_take(rigged: RigResult) -> None:
    result, run = rigged, rigged.folder.parent
    assert result.model_mm < 0.05 and result.personal_mm < 0.05
    assert result.likeness is not None and result.likeness["correlation"] > 0.99
    assert "true weights" in result.summary()
    played = read_rig_glb(run / "rig" / "rig.glb")
    tracked = open_run(run).vertices
    face = reference_head(0).topology.regions["face"]
    assert (played.vertices() - tracked)[:, face].norm(dim=-1).max() < 1e-3
    assert played.frames_per_second == RATE
    kept = load_file(run / "rig" / "blendshapes.safetensors")
    assert kept["blendshapes"].shape == (52, reference_head(0).topology.vertex_count, 3)
    rows = json.loads((run / "rig" / "rig.json").read_text())["frames"]
    assert [row["frame"] for row in rows] == list(open_run(run).frames)


def test_expression_csv_is_what_was_played(rigged: RigResult) -> None:
    """Weights, times, and head angles in the head's frame, however the world is turned."""
    track = read_live_link(rigged.folder / "expression.csv")
    motion = with_head_motion(scripted(FRAMES, RATE, 2), torch.tensor([0.0, -0.07, -0.02]), 1)
    assert (track.coefficients - motion.coefficients).abs().mean() < 0.01
    assert (track.times - torch.arange(FRAMES) / RATE).abs().max() < 1e-4
    # as the stage reads them: yaw and pitch are counted the other way round
    rotation = euler(track.head_rotation * torch.tensor([-1.0, -1.0, 1.0]).double())
    assert (rotation - motion.poses[:, :3, :3]).abs().max() < 2e-3


def test_another_head_plays_the_take(run: Path, tmp_path: Path) -> None:
    """A mesh of a topology that nobody knows is bridged and makes the same faces."""
    model = reference_head(0)
    other = model.neutral(0.7 * torch.ones(len(model.identity_basis)))
    write_obj(other, tmp_path / "other.obj")
    result = rig(RigConfig(run, target=str(tmp_path / "other.obj"), obj=True))
    assert result.retargeted == run / "rig" / "retarget.glb"
    played = read_rig_glb(result.retargeted)
    assert torch.equal(played.rig.topology.faces, other.topology.faces)
    motion = with_head_motion(scripted(FRAMES, RATE, 2), torch.tensor([0.0, -0.07, -0.02]), 1)
    true = other.vertices + torch.tensordot(motion.coefficients.float(), model.expression_basis, 1)
    still = played.rig.vertices(played.weights, torch.eye(4).repeat(FRAMES, 1, 1))
    face = model.topology.regions["face"]
    assert (still - true)[:, face].norm(dim=-1).mean() < 5e-4
    last = read_mesh(run / "rig" / "retarget" / f"{FRAMES:06d}.obj")
    assert (last.vertices - played.vertices()[-1]).abs().max() < 1e-5
    # and what was written is a target itself
    again = rig(RigConfig(run, target=str(result.retargeted)))
    assert again.retargeted is not None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{run}/nothing"], "no run folder"),
        (["{run}", "--target", "nobody"], "expected reference, ict, a mesh or a rig.glb"),
        (["{run}", "--target", "{run}/run.json"], "unknown mesh format"),
        (["{run}", "--target", "ict", "--ict", "{run}/none.npz"], "no ICT-FaceKit model"),
        (["{run}", "--obj"], "name one with --target"),
        (["{run}", "--units", "km"], "invalid choice"),
        ([], "RUN"),
    ],
)
def test_bad_input_is_one_line(
    planted: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert cli.run(["rig", *(word.format(run=planted) for word in words)]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


@pytest.mark.parametrize("missing", ["sequence.glb", "first/head.safetensors"])
def test_unfinished_runs_are_refused(
    run: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    (run / missing).unlink()
    assert cli.run(["rig", str(run)]) == 2
    assert f"has no {missing}" in capsys.readouterr().err
