"""Scans in the dialects of other programs: odd lines, tiles, quantised numbers, subsets."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from topohead.core import InputError
from topohead.io.scan_pictures import ScanFile
from topohead.io.scans import open_scan
from topohead.io.usd import pxr

BALL = trimesh.creation.uv_sphere(radius=0.1, count=[24, 24])
UV = np.random.default_rng(0).random((len(BALL.vertices), 2))
CODES = np.random.default_rng(1).integers(0, 255, (16, 32, 3), dtype=np.uint8)


def same(found: ScanFile, codes: np.ndarray = CODES, shift: float = 0.0) -> None:
    """Every corner is where it was, and looks at its own texel of the picture."""
    scan = found.scan
    assert found.picture is not None and scan.uv is not None and scan.triangle_uv is not None
    places = scan.points[scan.triangles].reshape(-1, 3).double()
    distance, there = torch.cdist(places, torch.tensor(BALL.vertices)).min(1)
    assert float(distance.max()) < 2e-5 and len(scan.triangles) == len(BALL.faces)
    told = scan.uv[scan.triangle_uv].reshape(-1, 2).double() - torch.tensor([shift, 0])
    assert float((told - torch.tensor(UV)[there]).abs().max()) < 1e-4
    assert torch.allclose(found.picture(), torch.tensor(codes / 255).float(), atol=1e-6)


def obj_lines(start: str = "", use: str = "usemtl skin", scale: int = 1) -> list[str]:
    lines = [start, *(f"v {x} {y} {z}" for x, y, z in BALL.vertices)]
    lines += [f"vt {scale * u} {v}" for u, v in UV]
    return [*lines, use, *(f"f {a}/{a} {b}/{b} {c}/{c}" for a, b, c in (BALL.faces + 1).tolist())]


@pytest.mark.parametrize(
    ("end", "mark", "library", "material", "picture"),
    [
        ("\r", "", "mtllib scan.mtl", "newmtl skin", "map_Kd skin.png"),
        ("\n", "\ufeff", "mtllib scan.mtl", "newmtl skin", "map_Kd skin.png"),
        ("\r\n", "", "mtllib\tscan.mtl", "newmtl\tskin", "\tmap_Kd\tskin.png"),
        ("\n", "", "mtllib gone.mtl scan.mtl", "newmtl skin", "map_Kd -bm 1 skin.png # colours"),
    ],
    ids=["old Mac", "byte order mark", "tabs", "two libraries and a remark"],
)
def test_lines_of_an_obj(
    tmp_path: Path, end: str, mark: str, library: str, material: str, picture: str
) -> None:
    Image.fromarray(CODES).save(tmp_path / "skin.png")
    (tmp_path / "scan.mtl").write_bytes((mark + end.join([material, picture])).encode())
    use = "usemtl\tskin" if "\t" in library else "usemtl skin"
    (tmp_path / "scan.obj").write_bytes((mark + end.join(obj_lines(library, use))).encode())
    same(open_scan(tmp_path / "scan.obj"))


def test_a_byte_order_mark_hides_no_point(tmp_path: Path) -> None:
    text = "\n".join(obj_lines()[1:])
    (tmp_path / "scan.obj").write_text("\ufeff" + text)
    (tmp_path / "scan.xyz").write_text(
        "\ufeff" + "\n".join(map("{} {} {}".format, *BALL.vertices.T))
    )
    for name in ("scan.obj", "scan.xyz"):
        assert len(open_scan(tmp_path / name).scan.points) == len(BALL.vertices)


@pytest.mark.parametrize("name", ["skin.<UDIM>.png", "skin.1001.png"])
def test_tiles_of_one_material(tmp_path: Path, name: str) -> None:
    """Either way in which programs name the pictures of several tiles; one of them is not there."""
    shades = {1001: (200, 40, 40), 1002: (40, 40, 200)}
    for tile, shade in shades.items():
        Image.fromarray(np.full((4, 4, 3), shade, np.uint8)).save(tmp_path / f"skin.{tile}.png")
    (tmp_path / "m.mtl").write_text(f"newmtl skin\nmap_Kd {name}\n")
    lines = ["mtllib m.mtl", *(f"v {x} {y} {z}" for x, y, z in BALL.vertices)]
    lines += [f"vt {tile + 0.1 + 0.8 * u} {v}" for tile in range(3) for u, v in UV]
    lines += ["usemtl skin"]
    for number, row in enumerate((BALL.faces + 1).tolist()):
        shift = number % 3 * len(UV)
        lines.append("f " + " ".join(f"{corner}/{corner + shift}" for corner in row))
    (tmp_path / "scan.obj").write_text("\n".join(lines))
    found = open_scan(tmp_path / "scan.obj")
    scan = found.scan
    assert found.picture is not None and scan.uv is not None and scan.triangle_uv is not None
    assert any("no picture" in note for note in found.notes)
    picture, uv = found.picture(), scan.uv[scan.triangle_uv].mean(1)
    seen = picture[0, (uv[:, 0] * picture.shape[1]).long()]
    wanted = torch.tensor([*shades.values(), (128, 128, 128)])[torch.arange(len(uv)) % 3] / 255
    assert float((seen - wanted).abs().max()) < 5e-3


def test_colours_under_other_names(tmp_path: Path) -> None:
    codes = np.random.default_rng(2).integers(0, 255, (len(BALL.vertices), 3))
    rows = np.column_stack([BALL.vertices, codes])
    np.savetxt(tmp_path / "a.xyz", np.column_stack([rows, np.full(len(rows), 255)]))
    head = f"ply\nformat ascii 1.0\nelement vertex {len(rows)}\n"
    head += "".join(f"property float {axis}\n" for axis in "xyz")
    head += "".join(f"property uchar diffuse_{name}\n" for name in ("red", "green", "blue"))
    text = "\n".join("{:.8f} {:.8f} {:.8f} {:.0f} {:.0f} {:.0f}".format(*row) for row in rows)
    (tmp_path / "b.ply").write_text(f"{head}end_header\n{text}\n")
    for name in ("a.xyz", "b.ply"):
        colors = open_scan(tmp_path / name).scan.colors
        assert colors is not None
        assert torch.allclose(colors, torch.tensor(codes / 255).float(), atol=1e-4)


class Gltf:
    """A document by hand: what trimesh and our own writer never write."""

    def __init__(self) -> None:
        self.buffer = b""
        self.document: dict[str, Any] = {
            "asset": {"version": "2.0"}, "bufferViews": [], "accessors": [], "scene": 0,
            "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
        }  # fmt: skip

    def view(self, data: bytes, **more: Any) -> int:
        self.buffer += bytes(-len(self.buffer) % 4)
        told = {"buffer": 0, "byteOffset": len(self.buffer), "byteLength": len(data), **more}
        self.document["bufferViews"].append(told)
        self.buffer += data
        return len(self.document["bufferViews"]) - 1

    def rows(self, values: np.ndarray, component: int, kind: str, **more: Any) -> int:
        told = {"componentType": component, "count": len(values), "type": kind, **more}
        self.document["accessors"].append({"bufferView": self.view(values.tobytes()), **told})
        return len(self.document["accessors"]) - 1

    def skinned(self, attributes: dict[str, int], **texture: Any) -> None:
        corners = self.rows(BALL.faces.astype("<u4").ravel(), 5125, "SCALAR")
        primitive = {"attributes": attributes, "indices": corners, "material": 0}
        self.document["meshes"] = [{"primitives": [primitive]}]
        self.document["textures"] = [{"source": 0}]
        info = {"index": 0, **texture}
        self.document["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": info}}]
        self.document["images"] = [{"uri": "the%20skin.png"}]

    def write(self, path: Path) -> Path:
        """As a GLB, with a second buffer that is nowhere, as meshopt's fallbacks are."""
        body = self.buffer + bytes(-len(self.buffer) % 4)
        self.document["buffers"] = [{"byteLength": len(body)}, {"byteLength": 9}]
        text = json.dumps(self.document).encode()
        text += b" " * (-len(text) % 4)
        start = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(body))
        parts = ((b"JSON", text), (b"BIN\0", body))
        path.write_bytes(
            start + b"".join(struct.pack("<I4s", len(part), kind) + part for kind, part in parts)
        )
        return path


def flipped(uv: np.ndarray) -> np.ndarray:
    return np.column_stack([uv[:, 0], 1 - uv[:, 1]])


def quantised(gltf: Gltf) -> None:
    """Positions in shares of 16 bits with a row of padding, as gltfpack writes them."""
    codes = np.zeros((len(BALL.vertices), 4), "<i2")
    codes[:, :3] = np.round(BALL.vertices / 0.1 * 32767)
    more = {"componentType": 5122, "count": len(codes), "type": "VEC3", "normalized": True}
    view = gltf.view(codes.tobytes(), byteStride=8)
    gltf.document["accessors"].append({"bufferView": view, **more})
    gltf.document["nodes"] = [{"mesh": 0, "scale": [0.1] * 3}]
    uv = np.round(flipped(UV) * 65535).astype("<u2")
    gltf.skinned({"POSITION": 0, "TEXCOORD_0": gltf.rows(uv, 5123, "VEC2", normalized=True)})


def sparse(gltf: Gltf) -> None:
    values, few = BALL.vertices.astype("<f4"), np.arange(0, len(BALL.vertices), 5)
    blank = values.copy()
    blank[few] = 0
    place = gltf.rows(blank, 5126, "VEC3")
    gltf.document["accessors"][place]["sparse"] = {
        "count": len(few),
        "indices": {"bufferView": gltf.view(few.astype("<u4").tobytes()), "componentType": 5125},
        "values": {"bufferView": gltf.view(values[few].tobytes())},
    }
    uv = gltf.rows(flipped(UV).astype("<f4"), 5126, "VEC2")
    gltf.skinned({"POSITION": place, "TEXCOORD_0": uv})


def moved(gltf: Gltf) -> None:
    """The second UVs, scaled, turned by a right angle and moved; below two nodes."""
    there = flipped(UV) - [0.3, 0.1]
    back = np.column_stack([there[:, 1], -there[:, 0]]) / [0.5, 0.25]
    place = np.eye(4)
    place[:3, :3], place[:3, 3] = (
        0.01 * np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]]),
        (0.1, 0.2, 0.3),
    )
    local = (BALL.vertices - place[:3, 3]) @ np.linalg.inv(place[:3, :3]).T
    turned = {"matrix": place.T.ravel().tolist(), "children": [1]}
    gltf.document["nodes"] = [turned, {"mesh": 0, "translation": [1, 2, 3]}]
    columns = {"POSITION": gltf.rows((local - [1, 2, 3]).astype("<f4"), 5126, "VEC3")}
    columns["TEXCOORD_0"] = gltf.rows(np.zeros((len(UV), 2), "<f4"), 5126, "VEC2")
    columns["TEXCOORD_1"] = gltf.rows(back.astype("<f4"), 5126, "VEC2")
    told = {"offset": [0.3, 0.1], "rotation": np.pi / 2, "scale": [0.5, 0.25]}
    gltf.skinned(columns, texCoord=1, extensions={"KHR_texture_transform": told})


@pytest.mark.parametrize("make", [quantised, sparse, moved])
def test_gltf_as_other_programs_write_it(tmp_path: Path, make: Callable[[Gltf], None]) -> None:
    Image.fromarray(CODES).save(tmp_path / "the skin.png")
    gltf = Gltf()
    make(gltf)
    same(open_scan(gltf.write(tmp_path / "scan.glb")))
    gltf.document["images"] = [{"uri": "gone.png"}]
    found = open_scan(gltf.write(tmp_path / "scan.glb"))
    assert found.picture is None and "gone.png" in found.notes[0]


def test_vertex_colours_of_a_gltf(tmp_path: Path) -> None:
    """Bytes are srgb, as scanners have them; 16 bits are linear, as the format says."""
    codes = np.random.default_rng(3).integers(0, 255, (len(BALL.vertices), 4), dtype=np.uint8)
    linear = (codes / 255) ** 2.2
    for values, component in ((codes, 5121), (np.round(65535 * linear).astype("<u2"), 5123)):
        gltf = Gltf()
        place = gltf.rows(BALL.vertices.astype("<f4"), 5126, "VEC3")
        painted = gltf.rows(values, component, "VEC4", normalized=True)
        gltf.skinned({"POSITION": place, "COLOR_0": painted})
        gltf.document["materials"] = [{}]
        scan = open_scan(gltf.write(tmp_path / "scan.glb")).scan
        there = torch.cdist(scan.points.double(), torch.tensor(BALL.vertices)).argmin(1)
        assert scan.colors is not None
        wanted = torch.tensor(codes[:, :3] / 255).float()[there]
        assert float((scan.colors - wanted).abs().max()) < 0.04  # 2.2 is not quite srgb


def compressed(document: dict[str, Any]) -> None:
    del document["accessors"][0]["bufferView"]
    primitive = document["meshes"][0]["primitives"][0]
    primitive["extensions"] = {"KHR_draco_mesh_compression": {}}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (compressed, "KHR_draco_mesh_compression"),
        (lambda d: d["bufferViews"][0].update(buffer=1, extensions={"EXT_meshopt_compression": {}}),
         "EXT_meshopt_compression"),
        (lambda d: d["accessors"][0].update(count=10**9), "promises 1000000000"),
        (lambda d: d["accessors"][0].update(count=10**4), "do not fit"),
        (lambda d: d["nodes"][0].update(children=[0]), "below itself"),
        (lambda d: d["meshes"][0]["primitives"][0].update(indices=77), "no readable glTF"),
        (lambda d: d["asset"].update(version="1.0"), "expected 2.0"),
    ],
    ids=["draco", "meshopt", "promise", "short", "loop", "index", "version"],
)  # fmt: skip
def test_gltf_that_cannot_be_read(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], None], says: str
) -> None:
    gltf = Gltf()
    gltf.skinned({"POSITION": gltf.rows(BALL.vertices.astype("<f4"), 5126, "VEC3")})
    spoil(gltf.document)
    with pytest.raises(InputError, match=says) as fault:
        open_scan(gltf.write(tmp_path / "scan.glb"))
    assert "\n" not in str(fault.value)


def usd_ball(path: Path, **more: Any) -> Any:
    Usd, UsdGeom, Sdf = pxr("Usd", "UsdGeom", "Sdf")
    stage = Usd.Stage.CreateNew(str(path))
    mesh = UsdGeom.Mesh.Define(stage, "/ball")
    mesh.CreatePointsAttr(more.get("points", BALL.vertices).astype(np.float32))
    mesh.CreateFaceVertexCountsAttr(np.full(len(BALL.faces), 3))
    mesh.CreateFaceVertexIndicesAttr(BALL.faces.ravel().astype(np.int32))
    kind = Sdf.ValueTypeNames.TexCoord2fArray
    uv = UsdGeom.PrimvarsAPI(mesh).CreatePrimvar("some_uv", kind, "vertex")
    uv.Set(UV.astype(np.float32))
    return stage, mesh


def test_subsets_of_a_stage_keep_their_pictures(tmp_path: Path) -> None:
    """One picture is not there, guides and empty meshes are left out, UVs have any name."""
    pytest.importorskip("pxr")
    UsdGeom, UsdShade, Sdf, Vt = pxr("UsdGeom", "UsdShade", "Sdf", "Vt")
    shades = ((200, 40, 40), (40, 40, 200), None)
    stage, mesh = usd_ball(tmp_path / "scan.usda")
    UsdGeom.SetStageMetersPerUnit(stage, 1)
    for number, shade in enumerate(shades):
        if shade is not None:
            Image.fromarray(np.full((4, 4, 3), shade, np.uint8)).save(tmp_path / f"{number}.png")
        rows = Vt.IntArray(range(number, len(BALL.faces), 3))
        part = UsdGeom.Subset.CreateGeomSubset(mesh, f"part{number}", "face", rows, "materialBind")
        material = UsdShade.Material.Define(stage, f"/look{number}")
        surface = UsdShade.Shader.Define(stage, f"/look{number}/surface")
        reader = UsdShade.Shader.Define(stage, f"/look{number}/picture")
        reader.CreateInput("file", Sdf.ValueTypeNames.Asset).Set(f"{number}.png")
        color = surface.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f)
        color.ConnectToSource(reader.ConnectableAPI(), "rgb")
        UsdShade.MaterialBindingAPI.Apply(part.GetPrim()).Bind(material)
    guide = UsdGeom.Mesh.Define(stage, "/guide")
    guide.CreatePointsAttr(np.eye(3, dtype=np.float32))
    guide.CreateFaceVertexCountsAttr([3])
    guide.CreateFaceVertexIndicesAttr([0, 1, 2])
    guide.CreatePurposeAttr("guide")
    UsdGeom.Mesh.Define(stage, "/empty")
    stage.GetRootLayer().Save()
    found = open_scan(tmp_path / "scan.usda")
    scan = found.scan
    assert len(scan.points) == len(BALL.vertices) and "2.png" in found.notes[0]
    assert found.picture is not None and scan.uv is not None and scan.triangle_uv is not None
    picture, uv = found.picture(), scan.uv[scan.triangle_uv].mean(1)
    seen = picture[0, (uv[:, 0] * picture.shape[1]).long()]
    wanted = torch.tensor([*shades[:2], (128, 128, 128)])[torch.arange(len(uv)) % 3] / 255
    assert float((seen - wanted).abs().max()) < 5e-3


def test_a_stage_that_tells_no_unit_is_taken_as_it_stands(tmp_path: Path) -> None:
    pytest.importorskip("pxr")
    (UsdGeom,) = pxr("UsdGeom")
    stage, mesh = usd_ball(tmp_path / "scan.usda")
    stage.GetRootLayer().Save()
    found = open_scan(tmp_path / "scan.usda")
    assert not found.metric and float(found.scan.points.norm(dim=1).max()) == pytest.approx(0.1)
    UsdGeom.SetStageMetersPerUnit(stage, 0.01)
    mesh.CreateDisplayColorPrimvar("vertex").Set(np.full((len(BALL.vertices), 3), 0.5, np.float32))
    stage.GetRootLayer().Save()
    found = open_scan(tmp_path / "scan.usda")
    assert found.metric and found.metres_per_unit == pytest.approx(0.01)
    assert float(found.scan.points.norm(dim=1).max()) == pytest.approx(0.001)
    assert found.scan.colors is not None
    assert float((found.scan.colors - 0.7354).abs().max()) < 1e-3  # linear in the file


@pytest.mark.parametrize("fault", ["counts", "corners", "uv"])
def test_a_stage_whose_numbers_do_not_fit(tmp_path: Path, fault: str) -> None:
    pytest.importorskip("pxr")
    (UsdGeom,) = pxr("UsdGeom")
    stage, mesh = usd_ball(tmp_path / "scan.usda")
    if fault == "counts":
        mesh.GetFaceVertexCountsAttr().Set(np.full(len(BALL.faces) + 1, 3).tolist())
    if fault == "corners":
        mesh.GetFaceVertexIndicesAttr().Set((BALL.faces.ravel() - 1).tolist())
    if fault == "uv":
        UsdGeom.PrimvarsAPI(mesh).GetPrimvar("some_uv").SetIndices([0, 1, 2])
    stage.GetRootLayer().Save()
    with pytest.raises(InputError, match=r"/ball has") as told:
        open_scan(tmp_path / "scan.usda")
    assert "\n" not in str(told.value)
