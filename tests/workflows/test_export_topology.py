"""`topohead export --topology`: a run of the reference head in the topology of someone else."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from exporting import write_run
from planted_run import striped_texture, write_planted_run
from topohead.core import InputError, Mesh, Topology
from topohead.geometry.bridge import bind
from topohead.geometry.bridge_quality import BridgeQuality
from topohead.geometry.skinning import RigPerformance, rigged
from topohead.io.assets import reference_head, topology_tensors
from topohead.io.bridges import CheckedBridge, save_checked
from topohead.io.gltf_rig import read_rig_glb, write_rig_glb
from topohead.io.images import read_image, write_image
from topohead.io.meshes import read_mesh
from topohead.workflows.export import ExportConfig, export


@pytest.fixture(scope="module")
def bridge_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To the control mesh as a stranger would have it: its UVs upside down, nothing named."""
    t = reference_head(0).topology
    mine = Topology(t.vertex_count, t.faces, 1 - t.uv, t.face_uv, name="mine")
    bridge = bind(reference_head(1).neutral(), Mesh(mine, reference_head(0).template))
    path = tmp_path_factory.mktemp("bridges") / "mine.bridge.safetensors"
    save_checked(CheckedBridge(bridge, BridgeQuality(), ("they only follow",)), path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three frames of a jaw that opens, on the finer reference head, with a rig and a texture."""
    head = reference_head(1)
    weights = torch.stack([head.expressions(jawOpen=w) for w in (0.0, 0.4, 0.8)])
    shapes = head.vertices(torch.zeros(3, 80), weights)
    run = write_planted_run(tmp_path_factory.mktemp("take"), shapes, head.topology)
    (run / "first").mkdir()
    tensors = topology_tensors(head.topology) | {"vertices": shapes[0], "upright": torch.eye(4)}
    save_file(
        {k: v.contiguous().clone() for k, v in tensors.items()}, run / "first/head.safetensors"
    )
    write_image(
        run / "frames/000001/texture_srgb.png", torch.from_numpy(striped_texture()).float() / 255
    )
    return run


def test_every_frame_comes_in_that_topology(run: Path, bridge_file: Path, tmp_path: Path) -> None:
    done = export(ExportConfig(run, "obj", tmp_path / "out", topology=str(bridge_file)))
    coarse = reference_head(0)
    files = sorted((tmp_path / "out").glob("*.obj"))
    assert len(files) == 3
    opened = read_mesh(files[2])
    assert torch.equal(opened.topology.faces, coarse.topology.faces)
    wanted = coarse.vertices(torch.zeros(80), coarse.expressions(jawOpen=0.8))
    face = coarse.topology.region_mask("face")
    assert (opened.vertices - wanted)[face].norm(dim=1).mean() < 5e-4
    assert "they only follow" in done.notes
    assert json.loads((tmp_path / "out" / "export.json").read_text())["topology"] == "mine"
    # upside down in UVs that are upside down: the picture turns by half
    ours = read_image(next((tmp_path / "out").glob("*texture*.png")))
    theirs = read_image(run / "frames/000001/texture_srgb.png").flip(0, 1)
    assert (ours - theirs).abs().mean() < (ours - theirs.flip(0)).abs().mean() / 2


def test_a_rig_plays_in_that_topology(run: Path, bridge_file: Path, tmp_path: Path) -> None:
    head = reference_head(1)
    weights = torch.stack([head.expressions(jawOpen=w) for w in (0.0, 0.4, 0.8)])
    poses = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    rig = rigged(head.topology, head.template, head.expression_basis, torch.eye(4))
    (run / "rig").mkdir(exist_ok=True)
    write_rig_glb(run / "rig/rig.glb", RigPerformance(rig, weights, poses, 24.0))
    out = tmp_path / "out"
    export(ExportConfig(run, "glb", out, topology=str(bridge_file), textures="none"))
    played = read_rig_glb(next(out.glob("*.glb")))
    coarse = reference_head(0)
    assert played.rig.topology.vertex_count == coarse.topology.vertex_count
    wanted = coarse.vertices(torch.zeros(80), coarse.expressions(jawOpen=0.8))
    face = coarse.topology.region_mask("face")
    assert (played.vertices()[2] - wanted)[face].norm(dim=1).mean() < 5e-4


def test_what_cannot_be_carried_is_told(run: Path, bridge_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Gaussians lie on the run's own mesh"):
        export(ExportConfig(run, "ply", tmp_path / "a", splats=True, topology=str(bridge_file)))
    with pytest.raises(InputError, match="not of the reference head's topology"):
        other = write_run(tmp_path / "other")
        export(ExportConfig(other, "obj", tmp_path / "b", topology=str(bridge_file)))
    with pytest.raises(InputError, match="--topology does not go with --to cameras"):
        export(ExportConfig(run, "cameras", tmp_path / "c", topology=str(bridge_file)))
    with pytest.raises(InputError, match="no mesh at"):
        export(ExportConfig(run, "obj", tmp_path / "d", topology=str(tmp_path / "none.obj")))
