"""Colour pictures of scans: those that an OBJ's materials name, several in one, any format."""

import codecs
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from topohead.core import InputError
from topohead.core.scans import Scan
from topohead.io.images import IMAGE_SUFFIXES, read_image
from topohead.io.polygons import pieces
from topohead.rendering.shading import linear_to_srgb

Picture = Callable[[], Float[Tensor, "H W 3"]]


@dataclass(frozen=True)
class ScanFile:
    """A scan, its colour picture (srgb, read when called), and what was odd about the file.

    `metric` says that the file tells its unit: its points come in metres, and were
    `metres_per_unit` apart for every one of the file's own units.
    """

    scan: Scan
    picture: Picture | None = None
    metric: bool = False
    notes: tuple[str, ...] = ()
    metres_per_unit: float = 1.0


LARGEST_TILE, TEXELS = 4096, 2**26
"""Texels along a picture's side where several share one, and of all of them; larger ones are
shrunk."""


def obj_lines(path: Path) -> list[bytes]:
    """The lines of an OBJ, whatever ends them; one that ends in a backslash goes on."""
    text = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    if b"\\" in text:
        text = text.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ")
    lone = b"\r" in text and b"\n" not in text
    return text.split(b"\r" if lone else b"\n")


def obj_pictures(path: Path) -> dict[str, Path]:
    """The colour picture of each material of an OBJ that names one, in the file's order.

    A path of another machine is looked for beside the material file by its name alone.
    """
    found: dict[str, Path] = {}
    for material in obj_libraries(path):
        name = ""
        for line in material.read_text("utf-8-sig", "replace").splitlines():
            words = line.split(None, 1)
            if len(words) == 2 and words[0] == "newmtl":
                name = words[1].strip()
            elif len(words) == 2 and words[0].lower() == "map_kd":
                found.setdefault(name, _picture_named(material.parent, words[1]))
    return found


def obj_libraries(path: Path) -> list[Path]:
    """The material files that an OBJ names and that are there."""
    named = [line[7:] for line in obj_lines(path) if line[:7] in (b"mtllib ", b"mtllib\t")]
    told = (name.decode(errors="replace").strip() for name in named)
    return [file for library in told for file in _libraries(path.parent, library)]


def _libraries(folder: Path, named: str) -> list[Path]:
    """The material files of a `mtllib` line: one whose name may have spaces, or several."""
    whole = _beside(folder, named)
    files = [whole] if whole.is_file() else [_beside(folder, name) for name in named.split()]
    return [file for file in files if file.is_file()]


def _picture_named(folder: Path, text: str) -> Path:
    """The picture of a `map_Kd` line, which may have options before and a remark behind it."""
    name = _without_options(text)
    picture = _beside(folder, name)
    return picture if picture.is_file() else _beside(folder, name.split(" #")[0])


def udim_tiles(picture: Path) -> dict[int, Path]:
    """The pictures of a UDIM layout by their tile (1001 at the origin); none where it is not one.

    Either the name holds `<UDIM>`, or it is the first tile's and others lie beside it.
    """
    first = re.search(r"<udim>|(?<!\d)1001(?!\d)", picture.name, re.IGNORECASE)
    if first is None or not picture.parent.is_dir():
        return {}
    start, end = picture.name[: first.start()], picture.name[first.end() :]
    tile = re.compile(re.escape(start) + r"(1\d{3})" + re.escape(end), re.IGNORECASE)
    known = ((tile.fullmatch(file.name), file) for file in sorted(picture.parent.iterdir()))
    return {int(match[1]): file for match, file in known if match is not None}


def _beside(folder: Path, name: str) -> Path:
    """A file as it is named, else one of its last name in the folder, in whatever case."""
    name = name.strip().strip('"')
    if (folder / name).is_file():
        return folder / name
    turned = folder / name.replace("\\", "/")
    if turned.is_file():
        return turned
    last = PureWindowsPath(name).name
    same = (p for p in sorted(folder.iterdir()) if p.name.lower() == last.lower())
    return next(same, folder / last)


def _without_options(text: str) -> str:
    words = text.split()
    while words and words[0].startswith("-"):
        del words[:2]  # the option and its word, or the first of its numbers
        while words and _is_number(words[0]):
            words.pop(0)
    return " ".join(words)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def face_materials(path: Path) -> list[str]:
    """The material of every face of `read_obj`'s mesh, "" before the first `usemtl`."""
    names: list[str] = []
    sizes: list[int] = []
    name = ""
    for line in obj_lines(path):
        if line[:2] in (b"f ", b"f\t"):
            names.append(name)
            sizes.append(len(line.split()) - 1)
        elif line[:7] in (b"usemtl ", b"usemtl\t"):
            name = line[7:].decode(errors="replace").strip()
    return np.repeat(np.array(names, dtype=object), pieces(np.array(sizes, int))).tolist()


def side_by_side(
    corner_uv: Float[Tensor, "T 3 2"], owner: Int[Tensor, " T"], count: int
) -> Float[Tensor, "T 3 2"]:
    """UVs into `count` pictures that lie side by side, the triangle's own being `owner`."""
    inside = corner_uv - corner_uv.mean(1, keepdim=True).floor()  # tiles of a UDIM layout
    u = (inside[..., 0].clamp(0, 1) + owner[:, None]) / count
    return torch.stack([u, inside[..., 1].clamp(0, 1)], -1)


def joined_pictures(readers: Sequence[Picture]) -> Float[Tensor, "H W 3"]:
    """Pictures side by side, all in the size of the largest, at most `LARGEST_TILE` a side
    and `TEXELS` together.
    """
    pictures = [read() for read in readers]
    most = min(LARGEST_TILE, math.isqrt(TEXELS // len(pictures)))
    height = min(max(p.shape[0] for p in pictures), most)
    width = min(max(p.shape[1] for p in pictures), most)
    size = (height, width)
    tiles = [interpolate(p.movedim(-1, 0)[None], size, mode="bilinear", antialias=True)
             for p in pictures]  # fmt: skip
    return torch.cat(tiles, -1)[0].movedim(0, -1)


def grey() -> Float[Tensor, "H W 3"]:
    """Stands for a picture that is not there."""
    return torch.full((1, 1, 3), 0.5)


def read_picture(path: Path) -> Float[Tensor, "H W 3"]:
    """A scan's picture, srgb: what `read_image` reads, and BMP, TIFF, TGA or WebP by Pillow."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return read_image(path)
    try:
        return decoded(path.read_bytes(), path.name)
    except OSError as error:
        raise InputError(f"image {path} cannot be read ({error.strerror})") from None


def decoded(data: bytes, name: str) -> Float[Tensor, "H W 3"]:
    """The picture in the bytes of a file, srgb; alpha is dropped."""
    try:
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for damaged files
        raise InputError(f"image {name} cannot be decoded ({error}); save it as PNG") from None
    return torch.from_numpy(pixels.astype(np.float32) / 255)


def scan_colors(values: NDArray) -> Float[Tensor, "N 3"]:
    """Colours as floats, whether they were stored as shares or as codes."""
    peak = values.max(initial=0)
    scale = 255 if values.dtype.kind == "u" or peak > 1 else 1
    if peak > 255:
        scale = 65535
    return torch.from_numpy((values / scale).clip(0, 1).astype(np.float32))


def usable_normals(normals: NDArray | None) -> Float[Tensor, "N 3"] | None:
    """Normals of length one; None where a file has none, or none that can be used."""
    if normals is None or not np.isfinite(normals).all() or not normals.any():
        return None
    return torch.nn.functional.normalize(torch.from_numpy(normals.astype(np.float32)), dim=1)


def srgb_shares(linear: NDArray) -> NDArray[np.float64]:
    """Linear shares as srgb ones (IEC 61966-2-1), clipped to [0, 1]."""
    return linear_to_srgb(torch.from_numpy(linear.astype(np.float64)).clamp(0, 1)).numpy()
