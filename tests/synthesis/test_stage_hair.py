"""Hair of staged takes: tubes are round and closed to their sides, pictures and truth agree."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from topohead.core import InputError
from topohead.geometry.cameras import project_through_lens
from topohead.geometry.tubes import SIDES, tube_triangles, tube_vertices
from topohead.io import assets
from topohead.io.calibration import read_rig
from topohead.io.curves import read_curves_npz
from topohead.io.images import read_image
from topohead.synthesis import stage_hair
from topohead.workflows.stage import StageConfig, stage

BALD = StageConfig(
    Path("take"), preset="tiny", seed=11, cameras=3, width=128, height=96, frames=2,
    texture_size=128, supersampling=2, fps=10.0, turned=0.0,
)  # fmt: skip


def test_a_tube_stands_off_its_curve_and_faces_outward() -> None:
    turn = torch.linspace(0, 2, 9)
    curve = torch.stack([turn.cos(), turn.sin(), 0.3 * turn], -1)
    points = torch.stack([curve, curve.flip(0) + 5])
    widths = torch.linspace(0.02, 0.01, 9).expand(2, 9)
    vertices, triangles = tube_vertices(points, widths), tube_triangles(2, 9)
    rings = vertices.view(2, 9, SIDES, 3)
    off = rings - points[:, :, None]
    assert torch.allclose(off.norm(dim=-1), 0.5 * widths[..., None], atol=1e-6)
    corner = vertices[triangles]
    normal = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    axis = points.repeat_interleave(SIDES, 1).reshape(-1, 3)[triangles].mean(1)
    assert (((corner.mean(1) - axis) * normal).sum(1) > 0).all()
    assert int(triangles.unique().numel()) == len(vertices)


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory):
    """A take with a crew cut of few strands on the coarse head."""
    level_1, asymmetry, scalp = assets.reference_head, assets.asymmetry_basis, stage_hair.SCALP
    assets.reference_head = lambda level=0: level_1(level)
    assets.asymmetry_basis = lambda level=0: asymmetry(level)
    stage_hair.SCALP = 600
    out = tmp_path_factory.mktemp("staged") / "take"
    stage(replace(BALD, out=out, hair="crew cut"))
    yield out
    assets.reference_head, assets.asymmetry_basis, stage_hair.SCALP = level_1, asymmetry, scalp


@pytest.mark.slow  # a take is staged
def test_pictures_of_hair_show_the_strands_of_the_truth(crew: Path) -> None:
    rig, strands = (
        read_rig(crew / "truth" / "cameras.json"),
        read_curves_npz(crew / "truth" / "hair.npz"),
    )
    topology = assets.reference_head().topology
    for frame in ("000001", "000002"):
        truth = load_file(crew / "truth" / "frames" / f"{frame}.safetensors")
        hair = truth["hair"]
        assert hair.shape == strands.points.shape
        # roots stand on the head that is to be found, in every frame
        corners = truth["vertices"][topology.triangles[strands.root_triangle]]
        roots = (corners * strands.root_barycentrics[..., None]).sum(1)
        assert (hair[:, 0] - roots).norm(dim=1).max() < 1e-5
        fine = torch.lerp(hair[:, :-1, None], hair[:, 1:, None], torch.tensor([[0.0], [0.5]]))
        pixels, _ = project_through_lens(rig, fine.reshape(-1, 3).double())
        for index, name in enumerate(rig.cameras.names):
            seen = read_image(crew / "truth" / "hair" / frame / f"{name}.png")[..., 0]
            mask = read_image(crew / "masks" / frame / f"{name}.png")[..., 0]
            assert 0.01 < float(seen.mean()) < 0.5
            assert (seen <= mask + 0.01).all()  # hair is part of the subject
            row, column = (seen > 0.9).nonzero().unbind(1)
            spot = torch.stack([column, row], 1) + 0.5
            away = torch.cdist(spot.double(), pixels[index]).amin(1)
            assert away.max() < 2.0
            # the far side is hidden by the head: strands project where no hair is seen
            inside = pixels[index].floor().long()
            shown = seen[inside[:, 1].clamp(0, 95), inside[:, 0].clamp(0, 127)]
            assert (shown == 0).float().mean() > 0.1
    assert json.loads((crew / "truth" / "truth.json").read_text())["groom"]["length_top"] > 0


@pytest.mark.slow  # a take is staged
def test_a_take_without_hair_does_not_speak_of_it(crew: Path, tmp_path: Path) -> None:
    stage(replace(BALD, out=tmp_path / "a", frames=1, hair="none"))
    told = json.loads((tmp_path / "a" / "truth" / "truth.json").read_text())
    assert "groom" not in told and "hair" not in told["settings"]
    assert not (tmp_path / "a" / "truth" / "hair").exists()
    for other in ("brows", None):
        with pytest.raises(InputError, match="a take with hair crew cut, now"):
            stage(replace(BALD, out=crew, hair=other))
    with pytest.raises(InputError, match="a take with hair None, now crew cut"):
        stage(replace(BALD, out=tmp_path / "a", hair="crew cut"))
    with pytest.raises(InputError, match="'mullet' is not known; there are none, brows, random"):
        stage(replace(BALD, out=tmp_path / "b", hair="mullet"))


@pytest.mark.gpu
def test_cuda_stages_the_same_hair(crew: Path, tmp_path: Path) -> None:
    stage(replace(BALD, out=tmp_path / "there", hair="crew cut", device="cuda"))
    for path in sorted((crew / "truth" / "hair").rglob("*.png")):
        ours = read_image(path)
        theirs = read_image(tmp_path / "there" / path.relative_to(crew))
        assert (ours - theirs).abs().mean() < 1e-3
