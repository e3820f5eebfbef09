"""`topohead export`: Gaussians laid on the mesh, in every file that can hold them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from exporting import RATE, add_rig, heads, write_run
from khronos import issues
from planted_run import ellipsoid_topology
from topohead.geometry.binding import posed_splats, similarity_frames
from topohead.geometry.correspondence import TriangleTree
from topohead.io.animated_ply import read_animated_ply
from topohead.io.gltf import read_glb
from topohead.io.gltf_rig import read_rig_glb
from topohead.io.gltf_splats import read_bound_splats
from topohead.io.images import read_image
from topohead.io.splat_ply import read_splat_ply
from topohead.rendering.mesh import rasterize
from topohead.rendering.shading import portrait_camera, render_mesh, sample_texture
from topohead.rendering.splats import render
from topohead.workflows.export import ExportConfig, ExportResult, export

COUNT = 6000
TOPOLOGY = ellipsoid_topology()
DOWN = torch.tensor([1.0, -1.0, -1.0])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def exported(run: Path, to: Any, **settings: Any) -> ExportResult:
    return export(ExportConfig(run, to, gaussians=COUNT, **settings))


def closest(means: torch.Tensor, vertices: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Triangle, barycentrics and distance of the nearest points of a surface."""
    tree = TriangleTree(vertices[TOPOLOGY.triangles].double().numpy())
    return tuple(torch.from_numpy(part) for part in tree.closest(means.double().numpy()))


def distance(means: torch.Tensor, vertices: torch.Tensor) -> torch.Tensor:
    return closest(means, vertices)[2]


def test_a_ply_a_frame_lies_on_the_mesh(run: Path) -> None:
    """Means on the surface, y down; the third axis is its normal; colours are the texture's."""
    result = exported(run, "ply", splats=True, frames="1:4:3")
    texture = read_image(run / "frames" / "000001" / "texture_srgb.png")
    for name, frame in (("run_000001.ply", 0), ("run_000004.ply", 3)):
        splats, shape = read_splat_ply(result.folder / name), heads()[frame].float() * DOWN
        assert len(splats.means) == COUNT
        triangle, weights, off = closest(splats.means, shape)
        assert off.max() < 1e-6
        corners = shape[TOPOLOGY.triangles[triangle]]
        normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normal = torch.nn.functional.normalize(normal, dim=1)
        turn = Rotation.from_quat(splats.quats.numpy(), scalar_first=True).as_matrix()
        assert (torch.from_numpy(turn[:, :, 2]).float() * normal).sum(1).abs().min() > 0.999
        assert (splats.scales[:, 2] < 0.5 * splats.scales[:, 1]).float().mean() > 0.99
        uv = TOPOLOGY.uv[TOPOLOGY.triangle_uv[triangle]]
        place = (weights.float()[:, :, None] * uv).sum(1)
        assert (splats.colors - sample_texture(texture, place)).abs().mean() < 0.01


def test_gaussians_look_like_the_mesh(run: Path) -> None:
    """No holes, and the picture of the textured mesh, from three sides."""
    path = exported(run, "ply", splats=True, frames="1:1").folder / "run.ply"
    splats, shape = read_splat_ply(path), heads()[0] * DOWN.double()
    texture = read_image(run / "frames" / "000001" / "texture_srgb.png")
    size = (120, 150)
    turn = torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))
    for yaw in (0.0, 1.3, 2.6):
        pose, lens = portrait_camera(heads()[0], size, yaw=yaw)
        pose = pose @ turn
        flat = render_mesh(
            shape, TOPOLOGY, texture, pose, lens, size, shading="texture", background=(0, 1, 0)
        )
        image, alpha = render(
            splats.means, splats.quats, splats.scales, splats.opacities, splats.colors,
            pose.float(), lens.float(), size, torch.tensor([0.0, 1, 0]),
        )  # fmt: skip
        covered = rasterize(shape.float(), TOPOLOGY.triangles, pose, lens, size).covered.float()
        inside = -torch.nn.functional.max_pool2d(-covered[None], 7, 1, 3)[0] > 0
        assert alpha[inside].min() > 0.9
        assert -10 * (image - flat)[inside].square().mean().log10() > 30
        outside = torch.nn.functional.max_pool2d(covered[None], 9, 1, 4)[0] < 1
        assert alpha[outside].mean() < 0.02


@pytest.mark.parametrize("bits", ["16", "8"])
def test_cap4d_plays_the_take(run: Path, bits: Any) -> None:
    """Frame 0 is that of 3DGS; later ones follow the mesh within half a step."""
    result = exported(run, "ply", layout="cap4d", delta_bits=bits)
    assert [f for f in result.files if f != "export.json"] == ["run_animation.ply"]
    clip = read_animated_ply(result.folder / "run_animation.ply")
    assert clip.frames_per_second == RATE
    expected = heads().float() * DOWN
    moved = (expected - expected[0]).amax((0, 1)) - (expected - expected[0]).amin((0, 1))
    half = moved / (2 ** int(bits) - 1) / 2
    assert bool(((clip.vertices - expected).abs().amax((0, 1)) <= half * 1.01 + 1e-7).all())
    told = float(next(note for note in result.notes if "vertices to" in note).split()[2])
    assert told == pytest.approx(1000 * float(half.max()), rel=0.01)
    still = exported(run, "ply", splats=True, frames="1:1", out=run.parent / "still").folder
    first = read_splat_ply(still / "run.ply")
    posed = posed_splats(clip.splats, clip.faces, clip.vertices[0], similarity_frames)
    assert (posed.means - first.means).abs().max() < 1e-6
    assert (posed.scales / first.scales - 1).abs().max() < 2e-3
    last = posed_splats(clip.splats, clip.faces, clip.vertices[-1], similarity_frames)
    assert (
        distance(last.means, expected[-1]).max() < 2e-4
    )  # similarity: off the plane where faces shear


@pytest.mark.parametrize("kind", ["rig", "sequence"])
def test_a_bundle_moves_as_its_mesh(run: Path, kind: str) -> None:
    if kind == "rig":
        add_rig(run)
    path = exported(run, "glb", splats=True).folder / "run.glb"
    splats, topology = read_bound_splats(path)
    assert len(splats) == COUNT and issues(path) == []
    shapes = read_rig_glb(path).vertices() if kind == "rig" else read_glb(path).vertices
    for shape in (shapes[0], shapes[4]):
        posed = posed_splats(splats, topology.triangles, shape.float())
        assert distance(posed.means, shape).max() < 1e-6


def test_usd_holds_them_too(run: Path) -> None:
    pytest.importorskip("pxr")
    from pxr import Usd, UsdVol

    if not hasattr(UsdVol, "ParticleField3DGaussianSplat"):
        pytest.skip("this usd-core knows no Gaussians")
    path = exported(run, "usd", splats=True).folder / "run.usdc"
    stage = Usd.Stage.Open(str(path))
    positions = stage.GetPrimAtPath("/run/splats").GetAttribute("positions")
    found = torch.from_numpy(np.array(positions.Get(4)))
    assert found.shape == (COUNT, 3)
    assert distance(found, heads()[3]).max() < 1e-6


def test_a_mesh_without_texture_is_grey(run: Path, tmp_path: Path) -> None:
    result = exported(
        run / "frames" / "000001" / "mesh.obj", "ply", splats=True, out=tmp_path / "grey"
    )
    splats = read_splat_ply(result.folder / "mesh.ply")
    assert splats.colors.std() < 1e-6 and 0.4 < float(splats.colors.mean()) < 0.8
