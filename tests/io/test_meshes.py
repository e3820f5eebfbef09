import numpy as np
import pytest
import torch

from topohead.core import InputError, Mesh, Topology
from topohead.io.meshes import check_mesh, read_mesh, write_obj

CUBE = """# comment
v 0 0 0 0.5 0.5 0.5
v 1 0 0 0.5 0.5 0.5
v 1 1 0 0.5 0.5 0.5
v 0 1 0 0.5 0.5 0.5
v 0.5 0.5 1 0.5 0.5 0.5
vt 0 0
vt 1 0
vt 1 1
vt 0 1
vt 0.5 0.5
vn 0 0 1
o part
f 4/4 3/3 2/2 1/1
s off
f 1/1 2/2 5/5
f 2/1 3/2 5/5
f -3/1 -2/2 -1/-1
f 4/1 1/2 5/5
"""


def write(tmp_path, text: str, name: str = "mesh.obj"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def grid(rows: int, columns: int, triangles: bool = False) -> Mesh:
    """A sheet of quads, UVs equal to positions; optionally its last face is a triangle."""
    index = torch.arange((rows + 1) * (columns + 1)).reshape(rows + 1, columns + 1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = torch.stack([a, b, c, d], -1).reshape(-1, 4)
    if triangles:
        faces[-1, 3] = faces[-1, 2]
    y, x = torch.meshgrid(torch.arange(rows + 1.0), torch.arange(columns + 1.0), indexing="ij")
    points = torch.stack([x, y, 0 * x], -1).reshape(-1, 3)
    return Mesh(Topology(len(points), faces, points[:, :2] / 10, faces), points)


def test_reads_mixed_faces_seams_colours_and_negative_indices(tmp_path):
    mesh = read_mesh(write(tmp_path, CUBE))
    assert mesh.topology.faces.tolist() == [
        [3, 2, 1, 0], [0, 1, 4, 4], [1, 2, 4, 4], [2, 3, 4, 4], [3, 0, 4, 4],
    ]  # fmt: skip
    assert mesh.topology.face_uv[2].tolist() == [0, 1, 4, 4]
    assert mesh.topology.face_uv[3].tolist() == [0, 1, 4, 4]
    assert mesh.vertices[4].tolist() == [0.5, 0.5, 1.0]
    check_mesh(mesh, uv_required=True)


@pytest.mark.parametrize("ending", ["\r\n", "\r", " \t\r\n"])
def test_line_ends_do_not_matter(tmp_path, ending):
    plain = read_mesh(write(tmp_path, CUBE))
    other = read_mesh(write(tmp_path, CUBE.replace("\n", ending), "other.obj"))
    assert torch.equal(plain.vertices, other.vertices)
    assert torch.equal(plain.topology.face_uv, other.topology.face_uv)


def test_corner_forms_agree(tmp_path):
    head = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\nvt 0 0\nvt 1 1\nvn 0 0 1\n"
    for faces in ("f 1/1/1 2/2/1 3/1/1\n", "f 1/1 2/2 3/1\n", "f 1/1 2/2/1 3/1\n"):
        mesh = read_mesh(write(tmp_path, head + faces))
        assert mesh.topology.faces.tolist() == [[0, 1, 2, 2]]
        assert mesh.topology.face_uv.tolist() == [[0, 1, 0, 0]]
    for faces in ("f 1 2 4 3\n", "f 1//1 2//1 4//1 3//1\n", "f 1 \\\n2 4 3\n"):
        mesh = read_mesh(write(tmp_path, head + faces))
        assert mesh.topology.faces.tolist() == [[0, 1, 3, 2]]
        assert len(mesh.topology.uv) == 0


def test_polygons_become_fans_in_place(tmp_path):
    rim = "".join(f"v {np.cos(a)} {np.sin(a)} 0\n" for a in np.arange(6))
    mesh = read_mesh(write(tmp_path, rim + "f 1 2 3\nf 1 2 3 4 5 6\nf 3 4 5 6\n"))
    assert mesh.topology.faces.tolist() == [
        [0, 1, 2, 2], [0, 1, 2, 2], [0, 2, 3, 3], [0, 3, 4, 4], [0, 4, 5, 5], [2, 3, 4, 5],
    ]  # fmt: skip


@pytest.mark.parametrize("triangles", [False, True])
@pytest.mark.parametrize("with_uv", [False, True])
def test_round_trip_is_exact_to_float32(tmp_path, triangles, with_uv):
    mesh = grid(3, 4, triangles)
    topology = mesh.topology
    generator = torch.Generator().manual_seed(0)
    vertices = torch.randn(mesh.vertices.shape, generator=generator) * 0.1 + 1e-4
    if with_uv:  # a seam: the first face has corners of its own
        uv = torch.cat([topology.uv, torch.rand(4, 2, generator=generator)])
        face_uv = topology.face_uv.clone()
        face_uv[0] = torch.arange(4) + len(topology.uv)
    else:
        uv, face_uv = torch.zeros(0, 2), torch.zeros_like(topology.face_uv)
    mesh = Mesh(Topology(len(vertices), topology.faces, uv, face_uv), vertices)
    write_obj(mesh, tmp_path / "out.obj", texture="skin.png")
    again = read_mesh(tmp_path / "out.obj")
    assert torch.equal(again.vertices, mesh.vertices)
    assert torch.equal(again.topology.faces, topology.faces)
    assert torch.equal(again.topology.uv, uv)
    assert torch.equal(again.topology.face_uv, face_uv)
    assert "map_Kd skin.png" in (tmp_path / "out.mtl").read_text()


def test_units_scale(tmp_path):
    path = write(tmp_path, CUBE)
    assert torch.allclose(read_mesh(path, "mm").vertices, read_mesh(path).vertices / 1000)
    with pytest.raises(InputError, match="unknown unit 'inch'"):
        read_mesh(path, "inch")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vn 0 0 1\n", "no vertices"),
        ("v 0 0 0\nv 1 0\nf 1 2 1\n", "'v 1 0' should hold 3 numbers"),
        ("v 0 0 0\nv 1 x 0\nf 1 2 1\n", "'v 1 x 0' should hold 3 numbers"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2\n", "line 4: a face needs at least 3"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "face 1 names vertex 9 of 3"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 -9\n", "line 4: a face names a vertex"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 a\n", "'a' is not a face corner"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nf 1 2 3\nf 3/1 2/1 1/1\n", "face 1 has no UVs"),
    ],
)
def test_bad_files_are_explained(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_mesh(write(tmp_path, text))


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(InputError, match="no mesh at"):
        read_mesh(tmp_path / "none.obj")
    with pytest.raises(InputError, match="unknown mesh format"):
        read_mesh(write(tmp_path, "", "head.blend"))


def test_check_names_the_first_bad_face():
    good = grid(2, 2)
    topology = good.topology
    check_mesh(good, uv_required=True)

    def changed(faces):
        return Mesh(Topology(topology.vertex_count, faces, topology.uv, faces), good.vertices)

    nan = good.vertices.clone()
    nan[4, 1] = float("nan")
    with pytest.raises(InputError, match="vertex 5 is not a finite"):
        check_mesh(Mesh(topology, nan))
    with pytest.raises(InputError, match="no faces"):
        check_mesh(changed(topology.faces[:0]))
    with pytest.raises(InputError, match="face 1 shares the edge"):
        check_mesh(changed(torch.cat([topology.faces, torch.tensor([[4, 1, 8, 8]])])))
    with pytest.raises(InputError, match="opposite ways"):
        check_mesh(changed(torch.cat([topology.faces[:3], topology.faces[3:].flip(1)])))
    with pytest.raises(InputError, match="face 1 uses a vertex twice"):
        check_mesh(changed(torch.tensor([[0, 1, 1, 3]])))
    bare = Topology(topology.vertex_count, topology.faces, torch.zeros(0, 2), 0 * topology.faces)
    with pytest.raises(InputError, match="no UV coordinates"):
        check_mesh(Mesh(bare, good.vertices), uv_required=True)


@pytest.mark.parametrize("suffix", ["ply", "stl", "glb", "off"])
def test_other_formats_merge_what_seams_split(tmp_path, suffix):
    import trimesh

    box = trimesh.creation.box()
    apart = trimesh.Trimesh(
        box.vertices[box.faces].reshape(-1, 3), np.arange(36).reshape(12, 3), process=False
    )
    apart.export(tmp_path / f"box.{suffix}")
    mesh = check_mesh(read_mesh(tmp_path / f"box.{suffix}"))
    assert mesh.topology.vertex_count == 8
    assert len(mesh.topology.triangles) == 12
    assert len(mesh.topology.edges) == 18


def test_glb_keeps_uv_seams(tmp_path):
    import trimesh

    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], float)
    uv = np.array([[0, 0], [0.4, 0], [0, 0.4], [0.6, 1], [1, 0.6], [1, 1]])
    visual = trimesh.visual.TextureVisuals(uv=uv)
    trimesh.Trimesh(points, [[0, 1, 2], [3, 5, 4]], visual=visual, process=False).export(
        tmp_path / "two.glb"
    )
    topology = read_mesh(tmp_path / "two.glb").topology
    assert topology.vertex_count == 4
    assert topology.uv[topology.face_uv[1, :3]].numpy() == pytest.approx(uv[[3, 5, 4]])


def test_numbers_are_written_as_printf_writes_them(tmp_path):
    """Any float32 from 1e-8 to 1e9 as nine digits; ties, carries, zeros; and what is beyond."""
    bits = np.random.default_rng(0).integers(0x322BCC78, 0x4E6E6B27, size=(3000, 3))
    values = bits.astype(np.int32).view(np.float32)
    values[::2] *= -1
    odd = [[0, -0.0, 1e-4], [9.9999999e-5, 999999.95, 1e8], [1.5, 2**-20, 1e-5], [1 / 64, 7, 0.1]]
    for rows in (np.concatenate([values, np.float32(odd)]), np.float32([[1e-12, 1e9, 3]])):
        form = "v %.9g %.9g %.9g\n" * len(rows)
        none = torch.zeros(0, 4, dtype=torch.long)
        topology = Topology(len(rows), none, torch.zeros(0, 2), none)
        write_obj(Mesh(topology, torch.from_numpy(rows)), tmp_path / "a.obj")
        expected = form % tuple(rows.astype(np.float64).ravel().tolist())
        assert (tmp_path / "a.obj").read_text() == expected
