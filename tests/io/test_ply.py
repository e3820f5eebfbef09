"""PLY: meshes keep quads, order and seams; Gaussians come back as every 3DGS program has them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from planted_run import ellipsoid, ellipsoid_topology
from topohead.core import InputError, Mesh, Splats, Topology
from topohead.io.meshes import read_mesh
from topohead.io.ply import write_ply
from topohead.io.splat_ply import read_splat_ply, write_splat_ply


def mixed() -> Topology:
    """Quads and a triangle, a UV seam, and two vertices that could stand in one place."""
    return Topology(
        vertex_count=8,
        faces=torch.tensor([[0, 1, 2, 3], [3, 2, 4, 4], [1, 5, 6, 2]]),
        uv=torch.rand(9, 2, generator=torch.Generator().manual_seed(0)),
        face_uv=torch.tensor([[0, 1, 2, 3], [3, 2, 4, 4], [5, 6, 7, 8]]),
        name="patch",
    )


@pytest.mark.parametrize("bare", [False, True])
def test_mesh_comes_back(bare: bool, tmp_path: Path) -> None:
    topology = mixed()
    if bare:
        no_uv = torch.zeros_like(topology.face_uv)
        topology = replace(topology, uv=torch.zeros(0, 2), face_uv=no_uv)
    vertices = torch.rand(8, 3, generator=torch.Generator().manual_seed(1))
    vertices[5] = vertices[0]  # lips that touch must not become one
    write_ply(Mesh(topology, vertices), tmp_path / "a.ply")
    back = read_mesh(tmp_path / "a.ply")
    assert torch.equal(back.vertices, vertices)
    assert torch.equal(back.topology.faces, topology.faces)
    if not bare:
        there = back.topology.uv[back.topology.face_uv]
        assert torch.equal(there, topology.uv[topology.face_uv])
        # a seam stays a seam, and nothing else becomes one
        assert len(back.topology.uv) == len({*map(tuple, _wedges(topology))})


def _wedges(topology: Topology) -> list[list[float]]:
    corners = topology.faces.reshape(-1, 1).double()
    uv = topology.uv[topology.face_uv].reshape(-1, 2).double()
    return torch.cat([corners, uv], 1).tolist()


def test_other_programs_read_the_mesh(tmp_path: Path) -> None:
    topology, vertices = ellipsoid_topology(), ellipsoid().float()
    write_ply(Mesh(topology, vertices), tmp_path / "a.ply")
    seen = trimesh.load(tmp_path / "a.ply", process=False)
    assert isinstance(seen, trimesh.Trimesh)
    triangles = vertices.numpy()[topology.triangles.numpy()]
    assert seen.area == pytest.approx(
        trimesh.Trimesh(**trimesh.triangles.to_kwargs(triangles)).area
    )


def cloud(coefficients: int = 4) -> Splats:
    generator = torch.Generator().manual_seed(2)
    return Splats(
        torch.randn(7, 3, generator=generator),
        torch.nn.functional.normalize(torch.randn(7, 4, generator=generator), dim=1),
        torch.rand(7, 3, generator=generator) * 0.01 + 1e-4,
        torch.rand(7, generator=generator) * 0.9 + 0.05,
        torch.randn(7, coefficients, 3, generator=generator),
    )


@pytest.mark.parametrize("coefficients", [1, 4, 9, 16])
def test_gaussians_come_back(coefficients: int, tmp_path: Path) -> None:
    splats = cloud(coefficients)
    write_splat_ply(splats, tmp_path / "s.ply")
    back = read_splat_ply(tmp_path / "s.ply")
    for name in ("means", "quats", "scales", "opacities", "harmonics"):
        there, here = getattr(back, name), getattr(splats, name)
        assert torch.allclose(there, here, rtol=1e-5, atol=1e-6), name


def test_columns_are_those_of_3dgs(tmp_path: Path) -> None:
    """Read with numpy alone, as the format is written down."""
    splats = cloud(4)
    write_splat_ply(splats, tmp_path / "s.ply")
    data = (tmp_path / "s.ply").read_bytes()
    head, body = data.split(b"end_header\n", 1)
    names = [line.split()[-1] for line in head.decode().splitlines() if line.startswith("prop")]
    rows = np.frombuffer(body, "<f4").reshape(7, len(names))
    column = {name: rows[:, k] for k, name in enumerate(names)}
    assert names[:6] == ["x", "y", "z", "nx", "ny", "nz"]
    assert np.allclose(column["scale_1"], np.log(splats.scales[:, 1]), atol=1e-5)
    assert np.allclose(1 / (1 + np.exp(-column["opacity"])), splats.opacities, atol=1e-5)
    assert np.allclose(column["rot_0"], splats.quats[:, 0], atol=1e-6)
    # all of red before all of green
    assert np.allclose(column["f_rest_1"], splats.harmonics[:, 2, 0])
    assert np.allclose(column["f_rest_3"], splats.harmonics[:, 1, 1])


def test_opaque_stays_finite_and_colour_is_what_it_was(tmp_path: Path) -> None:
    count = 3
    colors = torch.rand(count, 3, generator=torch.Generator().manual_seed(4))
    splats = Splats.colored(
        torch.zeros(count, 3), torch.eye(4)[:1].repeat(count, 1), torch.ones(count, 3),
        torch.ones(count), colors,
    )  # fmt: skip
    write_splat_ply(splats, tmp_path / "s.ply")
    back = read_splat_ply(tmp_path / "s.ply")
    assert (back.opacities - 1).abs().max() < 1e-5
    assert (back.colors - colors).abs().max() < 1e-6


def test_bad_files_are_told_in_one_line(tmp_path: Path) -> None:
    write_ply(Mesh(mixed(), torch.rand(8, 3)), tmp_path / "mesh.ply")
    with pytest.raises(InputError, match=r"no 3DGS PLY.*opacity"):
        read_splat_ply(tmp_path / "mesh.ply")
    whole = (tmp_path / "mesh.ply").read_bytes()
    (tmp_path / "cut.ply").write_bytes(whole[:-20])
    with pytest.raises(InputError, match="cut off"):
        read_mesh(tmp_path / "cut.ply")
    (tmp_path / "text.ply").write_bytes(b"ply\nformat ascii 1.0\nend_header\n")
    with pytest.raises(InputError, match="little-endian"):
        read_splat_ply(tmp_path / "text.ply")
    write_splat_ply(cloud(), tmp_path / "s.ply")
    (tmp_path / "short.ply").write_bytes((tmp_path / "s.ply").read_bytes()[:-30])
    with pytest.raises(InputError, match="cut off"):
        read_splat_ply(tmp_path / "short.ply")
