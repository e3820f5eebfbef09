"""Scans come back from every format as they were written, and what is no scan is told in a line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from topohead.core import InputError
from topohead.io.scans import open_scan, read_scan
from topohead.io.usd import pxr


@pytest.fixture(scope="module")
def ball() -> trimesh.Trimesh:
    """An egg of 642 vertices off the origin, coloured by place."""
    ball = trimesh.creation.icosphere(3, radius=0.1)
    ball.vertices = ball.vertices * [0.8, 1.2, 1.0] + [0.01, 0.3, -0.2]
    shade = (255 * (ball.vertices - ball.bounds[0]) / np.ptp(ball.bounds, axis=0)).astype(np.uint8)
    ball.visual.vertex_colors = np.column_stack([shade, np.full(len(shade), 255, np.uint8)])
    return ball


def same_places(points: torch.Tensor, ball: trimesh.Trimesh, tolerance: float = 1e-6) -> None:
    distance, _ = torch.cdist(torch.tensor(ball.vertices), points.double()).min(1)
    assert float(distance.max()) < tolerance
    assert len(points) == len(ball.vertices)


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".stl", ".glb", ".off"])
def test_surfaces(ball: trimesh.Trimesh, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    ball.export(path)
    found = open_scan(path)
    same_places(found.scan.points, ball)
    assert len(found.scan.triangles) == len(ball.faces)
    assert found.notes == ()
    corners = found.scan.points[found.scan.triangles].double()
    volume = torch.linalg.det(corners).sum() / 6
    assert float(volume) == pytest.approx(ball.volume, rel=1e-4)  # so the winding stayed
    assert found.metric == (suffix == ".glb")


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".glb"])
def test_colours_of_vertices(ball: trimesh.Trimesh, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    ball.export(path)
    scan = read_scan(path)
    nearest = torch.cdist(scan.points.double(), torch.tensor(ball.vertices)).argmin(1)
    wanted = torch.tensor(ball.visual.vertex_colors[:, :3] / 255.0)[nearest]
    assert scan.colors is not None
    assert float((scan.colors - wanted).abs().max()) < 3e-3


@pytest.mark.parametrize("encoding", ["ascii", "binary"])
def test_ply_of_triangles_among_quads_in_both_byte_orders(tmp_path: Path, encoding: str) -> None:
    side = 24
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) / side
    points = np.column_stack([grid, 0.3 - 0.2 * np.square(grid - 0.5).sum(1)])
    quads = [[r * side + c, r * side + c + 1, (r + 1) * side + c + 1, (r + 1) * side + c]
             for r in range(side - 1) for c in range(side - 1)]  # fmt: skip
    faces = [quads[0][:3], *quads[1:]]
    head = (
        "ply\r\nformat {}\r\ncomment a scan\r\nelement vertex {}\r\nproperty float x\r\n"
        "property float y\r\nproperty float z\r\nelement face {}\r\n"
        "property list uchar int vertex_index\r\nend_header\r\n"
    )
    for order, name in (
        [("", "ascii")]
        if encoding == "ascii"
        else [
            ("<", "binary_little_endian"),
            (">", "binary_big_endian"),
        ]
    ):
        path = tmp_path / f"scan{order == '>'}.ply"
        start = head.format(f"{name} 1.0", len(points), len(faces)).encode()
        if encoding == "ascii":
            rows = [" ".join(map(str, p)) for p in points]
            rows += [" ".join(map(str, [len(f), *f])) for f in faces]
            path.write_bytes(start + "\n".join(rows).encode() + b"\n")
        else:
            body = points.astype(f"{order}f4").tobytes() + b"".join(
                bytes([len(f)]) + np.array(f, f"{order}i4").tobytes() for f in faces
            )
            path.write_bytes(start + body)
        scan = read_scan(path)
        assert torch.allclose(scan.points, torch.tensor(points).float())
        assert len(scan.triangles) == 1 + 2 * (len(faces) - 1)
        assert scan.triangles[0].tolist() == faces[0]


def test_clouds_with_colours_and_normals(ball: trimesh.Trimesh, tmp_path: Path) -> None:
    normals = ball.vertex_normals
    colors = ball.visual.vertex_colors[:, :3]
    table = np.column_stack([ball.vertices, colors, normals])
    np.savetxt(tmp_path / "a.xyz", table, header="x y z r g b nx ny nz", comments="")
    np.savetxt(tmp_path / "b.xyz", np.column_stack([ball.vertices, -normals]), delimiter=",")
    with_intensity = np.column_stack([ball.vertices, np.arange(len(table)), colors])
    np.savetxt(tmp_path / "c.pts", with_intensity, header=str(len(table)), comments="")
    cloud = trimesh.PointCloud(ball.vertices, colors=ball.visual.vertex_colors)
    cloud.export(tmp_path / "d.ply")

    a, b = open_scan(tmp_path / "a.xyz"), open_scan(tmp_path / "b.xyz")
    c, d = open_scan(tmp_path / "c.pts"), open_scan(tmp_path / "d.ply")
    # as MeshLab writes a cloud: a list of faces with none in it
    begin = b"ply\nformat binary_little_endian 1.0\nelement vertex %d\n" % len(table)
    begin += b"".join(b"property float %c\n" % axis for axis in b"xyz")
    begin += b"element face 0\nproperty list uchar int vertex_indices\nend_header\n"
    (tmp_path / "e.ply").write_bytes(begin + ball.vertices.astype("<f4").tobytes())
    e = open_scan(tmp_path / "e.ply")
    for found in (a, b, c, d, e):
        assert torch.allclose(found.scan.points.double(), torch.tensor(ball.vertices), atol=1e-6)
        assert len(found.scan.triangles) == 0
    for found in (a, c, d):
        assert found.scan.colors is not None
        assert torch.allclose(found.scan.colors, torch.tensor(colors / 255.0).float(), atol=1e-3)
    assert a.scan.normals is not None and b.scan.normals is not None
    assert torch.allclose(a.scan.normals.double(), torch.tensor(normals), atol=1e-5)
    assert torch.allclose(a.scan.normals, b.scan.normals, atol=1e-5)
    assert a.notes == () and "turned over" in b.notes[0] and "without normals" in c.notes[0]


def test_normals_that_point_both_ways_are_left_out(ball: trimesh.Trimesh, tmp_path: Path) -> None:
    sign = np.where(np.arange(len(ball.vertices)) % 2, 1.0, -1.0)[:, None]
    np.savetxt(tmp_path / "a.xyz", np.column_stack([ball.vertices, sign * ball.vertex_normals]))
    found = open_scan(tmp_path / "a.xyz")
    assert found.scan.normals is None and "both ways" in found.notes[0]


def test_a_surface_turned_inside_out_is_turned_back(ball: trimesh.Trimesh, tmp_path: Path) -> None:
    inside = ball.copy()
    inside.invert()
    inside.export(tmp_path / "scan.ply")
    found = open_scan(tmp_path / "scan.ply")
    corners = found.scan.points[found.scan.triangles].double()
    assert float(torch.linalg.det(corners).sum()) > 0
    assert "clockwise" in found.notes[0]


def test_picture_of_an_obj_and_of_a_glb(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 255, (8, 16, 3), dtype=np.uint8)
    image = Image.fromarray(codes)
    ball = trimesh.creation.uv_sphere(radius=0.1, count=[40, 40])
    uv = np.random.default_rng(1).random((len(ball.vertices), 2))
    material = trimesh.visual.material.SimpleMaterial(image=image)
    ball.visual = trimesh.visual.TextureVisuals(uv=uv, image=image, material=material)
    ball.export(tmp_path / "scan.obj")
    ball.export(tmp_path / "scan.glb")
    for name in ("scan.obj", "scan.glb"):
        found = open_scan(tmp_path / name)
        assert found.picture is not None
        assert torch.allclose(found.picture(), torch.tensor(codes / 255.0).float(), atol=1e-6)
        scan = found.scan
        assert scan.uv is not None and scan.triangle_uv is not None
        # the same place has the same UV
        places = scan.points[scan.triangles].reshape(-1, 3).double()
        there = torch.cdist(places, torch.tensor(ball.vertices)).argmin(1)
        told = scan.uv[scan.triangle_uv].reshape(-1, 2).double()
        assert float((told - torch.tensor(uv)[there]).abs().max()) < 1e-3


def test_an_obj_of_several_pictures_keeps_each(tmp_path: Path) -> None:
    """Every face has the colour of its own picture, found under another machine's path or case; a
    face without UVs is grey."""
    ball = trimesh.creation.uv_sphere(radius=0.1, count=[40, 40])
    shades = {"left": (200, 40, 40), "right": (40, 40, 200)}
    for name, shade in shades.items():
        pixels = np.full((4, 4 if name == "left" else 8, 3), shade, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name} side.PNG")
    (tmp_path / "m.mtl").write_text(
        "newmtl a b\nmap_Kd -s 1 1 1 -o 0 0 C:\\scans\\left side.png\n"
        "newmtl other\nMap_Kd right side.PNG\n"
    )
    lines = [f"v {x} {y} {z}" for x, y, z in ball.vertices]
    lines += ["vt 0.1 0.1", "vt 1.0 0.2", "vt 0.3 1.0", "vt 1.1 3.1", "vt 2 3.2", "vt 1.3 4"]
    wanted = []
    for number, corners in enumerate((ball.faces + 1).tolist()):
        kind = number % 3
        lines.append("usemtl " + ("a b" if kind == 0 else "other"))
        shifts = ((1, 2, 3), (4, 5, 6), ())[kind]  # the second's lie in another tile
        words = zip(corners, shifts, strict=True) if shifts else corners
        lines.append("f " + " ".join(f"{w[0]}/{w[1]}" if shifts else str(w) for w in words))
        wanted.append((*shades.values(), (128, 128, 128))[kind])
    (tmp_path / "scan.obj").write_text("\n".join(["mtllib m.mtl", *lines]))
    found = open_scan(tmp_path / "scan.obj")
    scan = found.scan
    assert found.picture is not None and scan.uv is not None and scan.triangle_uv is not None
    assert any("no picture" in note for note in found.notes)
    picture, uv = found.picture(), scan.uv[scan.triangle_uv].mean(1)
    row = ((1 - uv[:, 1]) * picture.shape[0]).long()
    seen = picture[row, (uv[:, 0] * picture.shape[1]).long()]
    assert float((seen - torch.tensor(wanted) / 255).abs().max()) < 5e-3
    assert float((scan.uv - scan.uv.clamp(0, 1)).abs().max()) == 0


def test_a_glb_of_several_pictures_keeps_each(tmp_path: Path) -> None:
    """Parts have the colours of their own pictures, one without has its own colour."""
    shades = ((200, 40, 40), (40, 40, 200), (30, 180, 60))
    scene = trimesh.Scene()
    for number, shade in enumerate(shades):
        ball = trimesh.creation.uv_sphere(radius=0.1, count=[20, 20])
        ball.apply_translation([0.3 * number, 0, 0])
        if number < 2:
            image = Image.fromarray(np.full((4 + 4 * number, 8, 3), shade, np.uint8))
            uv = np.random.default_rng(number).random((len(ball.vertices), 2))
            material = trimesh.visual.material.PBRMaterial(baseColorTexture=image)
            ball.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
        else:
            ball.visual.vertex_colors = [*shade, 255]  # pyright: ignore
        scene.add_geometry(ball)
    scene.export(tmp_path / "scan.glb")
    found = open_scan(tmp_path / "scan.glb")
    scan = found.scan
    assert found.picture is not None and scan.uv is not None and scan.triangle_uv is not None
    picture, uv = found.picture(), scan.uv[scan.triangle_uv].mean(1)
    row = ((1 - uv[:, 1]) * picture.shape[0]).long()
    seen = picture[row, (uv[:, 0] * picture.shape[1]).long()]
    part = (scan.points[scan.triangles][..., 0].mean(1) / 0.3).round().long()
    assert float((seen - torch.tensor(shades)[part] / 255).abs().max()) < 5e-3


def test_a_package_as_phones_write_it(tmp_path: Path) -> None:
    """Two meshes in their places, centimetres and z up, a picture inside the package."""
    pytest.importorskip("pxr")
    Gf, Sdf, Usd, UsdGeom, UsdShade, UsdUtils = pxr(
        "Gf", "Sdf", "Usd", "UsdGeom", "UsdShade", "UsdUtils"
    )
    ball = trimesh.creation.uv_sphere(radius=5, count=[40, 40])
    Image.fromarray(np.full((4, 8, 3), (200, 40, 40), np.uint8)).save(tmp_path / "skin.png")
    stage = Usd.Stage.CreateNew(str(tmp_path / "scan.usda"))
    UsdGeom.SetStageUpAxis(stage, "Z")
    UsdGeom.SetStageMetersPerUnit(stage, 0.01)
    for name, shift in (("head", 3.0), ("hair", 20.0)):
        place = UsdGeom.Xform.Define(stage, f"/{name}")
        place.AddTranslateOp().Set(Gf.Vec3d(0, 0, shift))
        mesh = UsdGeom.Mesh.Define(stage, f"/{name}/mesh")
        mesh.CreatePointsAttr(np.tile(ball.vertices, (2, 1)).astype(np.float32))
        mesh.CreateFaceVertexCountsAttr(np.full(len(ball.faces), 3))
        corners = ball.faces + len(ball.vertices) * (np.arange(len(ball.faces)) % 2)[:, None]
        mesh.CreateFaceVertexIndicesAttr(corners.ravel().astype(np.int32))
        if name == "head":
            kind = Sdf.ValueTypeNames.TexCoord2fArray
            uv = UsdGeom.PrimvarsAPI(mesh).CreatePrimvar("st", kind, "vertex")
            uv.Set(np.full((2 * len(ball.vertices), 2), 0.5, np.float32))
            material = UsdShade.Material.Define(stage, "/look")
            surface = UsdShade.Shader.Define(stage, "/look/surface")
            reader = UsdShade.Shader.Define(stage, "/look/picture")
            reader.CreateInput("file", Sdf.ValueTypeNames.Asset).Set("skin.png")
            color = surface.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f)
            color.ConnectToSource(reader.ConnectableAPI(), "rgb")
            UsdShade.MaterialBindingAPI.Apply(mesh.GetPrim()).Bind(material)
    stage.GetRootLayer().Save()
    assert UsdUtils.CreateNewUsdzPackage(str(tmp_path / "scan.usda"), str(tmp_path / "scan.usdz"))
    for name in ("scan.usda", "scan.usdz"):
        found = open_scan(tmp_path / name)
        scan = found.scan
        assert found.metric and found.picture is not None
        assert len(scan.points) == 2 * len(ball.vertices)  # a seam's points were there twice
        # z up becomes y up
        low, high = scan.points.amin(0)[1], scan.points.amax(0)[1]
        assert (float(low), float(high)) == pytest.approx((-0.02, 0.25), abs=2e-3)
        picture = found.picture()
        assert scan.uv is not None and scan.triangle_uv is not None
        at = (scan.uv[scan.triangle_uv].mean(1) * torch.tensor([picture.shape[1], 1])).long()
        seen = picture[0, at[:, 0]]
        head = scan.points[scan.triangles].mean(1)[:, 1] < 0.1
        assert float((seen[head] - torch.tensor([200, 40, 40]) / 255).abs().max()) < 5e-3
        assert float((seen[~head] - 0.5).abs().max()) < 5e-3


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".tga"])
def test_pictures_in_formats_of_scanners(tmp_path: Path, suffix: str) -> None:
    from topohead.io.scan_pictures import read_picture

    codes = np.random.default_rng(0).integers(0, 255, (8, 16, 3), dtype=np.uint8)
    Image.fromarray(codes).save(tmp_path / f"skin{suffix}")
    assert torch.equal(
        read_picture(tmp_path / f"skin{suffix}"), torch.tensor(codes / 255.0).float()
    )
    (tmp_path / f"skin{suffix}").write_bytes(b"no picture")
    with pytest.raises(InputError, match="save it as PNG"):
        read_picture(tmp_path / f"skin{suffix}")


def test_a_picture_that_is_not_there_is_told(tmp_path: Path) -> None:
    ball = trimesh.creation.uv_sphere(radius=0.1, count=[40, 40])
    lines = [f"v {x} {y} {z}\nvt {x} {y}" for x, y, z in ball.vertices]
    faces = [f"f {a}/{a} {b}/{b} {c}/{c}" for a, b, c in (ball.faces + 1).tolist()]
    (tmp_path / "m.mtl").write_text("newmtl m\nmap_Kd gone.png\n")
    (tmp_path / "scan.obj").write_text("\n".join(["mtllib m.mtl", *lines, *faces]))
    found = open_scan(tmp_path / "scan.obj")
    assert found.picture is None and "gone.png" in found.notes[0]


def _ply_promise(path: Path) -> None:
    path.write_bytes(
        b"ply\nformat binary_little_endian 1.0\nelement vertex 200000000\n"
        b"property float x\nproperty float y\nproperty float z\nend_header\n" + b"\0" * 24
    )


def _list_promise(path: Path) -> None:
    path.write_bytes(
        b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\n"
        b"property float y\nproperty float z\nelement face 1\n"
        b"property list uint int vertex_indices\nend_header\n" + b"\0" * 12 + b"\xff\xff\xff\x7f"
    )


def _nan_cloud(path: Path) -> None:
    table = np.random.default_rng(0).random((900, 3))
    table[41, 1] = np.nan
    np.savetxt(path, table)


def _few(path: Path) -> None:
    np.savetxt(path, np.random.default_rng(0).random((499, 3)))


FAULTS: list[tuple[str, Callable[[Path], object], tuple[str, ...]]] = [
    ("a.ply", lambda path: None, ("no scan at", "a.ply")),
    ("a.ply", lambda path: path.write_bytes(b""), ("empty",)),
    ("a.obj", lambda path: path.write_text("# nothing\n"), ("no vertices",)),
    ("a.ply", _ply_promise, ("cut off", "200000000", "2400000000")),
    ("a.ply", _list_promise, ("does not hold",)),
    ("a.stl", lambda path: path.write_bytes(b"\0" * 80 + b"\xff\xff\xff\x02"), ("cut off",)),
    ("a.stl", lambda p: p.write_text("solid a\n" + 900 * "facet normal 0 0 1\n"), ("cut off",)),
    (
        "a.xyz",
        lambda p: np.savetxt(p, 1e6 + np.random.default_rng(0).random((600, 3))),
        ("from the origin", "move it"),
    ),
    (
        "a.off",
        lambda p: p.write_text("OFF 3 9 0\n" + "0 0 1\n0 1 0\n1 0 0\n3 0 1 2\n" + " " * 99),
        ("cut off", "9 faces"),
    ),
    ("a.off", lambda path: path.write_text("OFF\n90000000 1 0\n0 0 0\n"), ("cut off",)),
    ("a.glb", lambda path: path.write_bytes(b"glTF" + b"\2\0\0\0" + b"\xff" * 4), ("cut off",)),
    ("a.pts", lambda path: path.write_text("100000\n1 2 3\n"), ("cut off", "100000")),
    ("a.xyz", _nan_cloud, ("point 42 of 900", "finite")),
    ("a.xyz", _few, ("499 points", "no surface", "500")),
    ("a.xyz", lambda path: path.write_text("1 2 3\n" * 600), ("one place",)),
    ("a.xyz", lambda path: path.write_text("1 2 3\n4 5 six\n"), ("point 2", "4 5 six")),
    ("a.obj", lambda p: trimesh.creation.box().export(p), ("8 points", "12 triangles", "head")),
    ("a.ply", lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), ("LFS",)),
    ("a.glb", lambda path: path.write_text("<!DOCTYPE html><html>"), ("web page",)),
    ("a.obj", lambda path: path.write_bytes(b"PK\x03\x04abc"), ("archive",)),
    ("a.foo", lambda path: path.write_text("hello"), ("unknown scan format",)),
    ("a.ply", lambda path: path.write_text("hello"), ("no PLY",)),
    ("a.glb", lambda path: path.write_bytes(b"glTF\2\0\0\0\x14\0\0\0" + b"?" * 8), ("GLB",)),
]


@pytest.mark.parametrize(("name", "make", "says"), FAULTS)
def test_faults_are_told_in_one_line(
    tmp_path: Path, name: str, make: Callable[[Path], object], says: tuple[str, ...]
) -> None:
    make(tmp_path / name)
    with pytest.raises(InputError) as fault:
        open_scan(tmp_path / name)
    assert all(word in str(fault.value) for word in says), str(fault.value)
    assert "\n" not in str(fault.value)


def test_real_scans(shared_data: Path) -> None:
    face = open_scan(shared_data / "scans" / "vtk-fran" / "scan.obj")
    assert len(face.scan.points) == 2205 and "clockwise" in face.notes[0]
    head = open_scan(shared_data / "scans" / "flame-fitting-scan" / "scan.obj")
    assert len(head.scan.triangles) == 94445 and head.notes == ()
