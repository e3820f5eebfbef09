"""Pictures: 8/16-bit PNG and JPEG as srgb, EXR as linear; what is broken says so by name."""

import io
import logging
import zlib
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from topohead.core.errors import InputError
from topohead.io.atomic import atomic_write

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".exr")
"""What `read_image` reads, by extension."""
JPEG_SUFFIXES = (".jpg", ".jpeg")

_PNG_START = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8\xff"
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"
_JPEG_HEAD = 2**18  # bytes; Exif data comes first, in a segment of 64 KiB
_EXIF_ORIENTATION = 0x0112
_EXIF_MARKS = (b"Exif\0\0", b"eXIf")
"""In JPEG and in PNG files that have such data."""
_TAIL = 64  # bytes at a file's end in which its end mark is looked for first

logging.getLogger("PIL").setLevel(logging.INFO)  # its debug lines name every chunk


def read_image(path: Path) -> Float[Tensor, "H W 3"]:
    """The picture as srgb float32 in [0, 1], pixels as stored.

    Grey becomes three equal channels, alpha is dropped, 16 bits keep their precision. EXR is
    linear on disk: it is encoded to srgb here, and what is brighter than white is cut off.
    """
    return torch.from_numpy(_as_float(_colors(path)))


def read_stored_image(path: Path) -> Float[Tensor, "H W 3"] | UInt8[Tensor, "H W 3"]:
    """`read_image`, but the codes themselves where they are 8 bits deep: a quarter of the bytes."""
    pixels = _colors(path)
    return torch.from_numpy(pixels if pixels.dtype == np.uint8 else _as_float(pixels))


def _colors(path: Path) -> np.ndarray:
    pixels = read_pixels(Path(path))
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, -1)
    return pixels[..., :3]


def write_image(
    path: Path,
    image: Float[Tensor, "H W C"] | Float[Tensor, "H W"],
    bits: int = 8,
    quality: int = 95,
    compression: int = 1,
) -> None:
    """Writes srgb in [0, 1] (grey, RGB or RGBA) as PNG or JPEG by extension, atomically.

    `bits` is 8 or 16 (PNG only), `quality` is JPEG's, `compression` PNG's: level 1 writes several
    times faster than the usual 6 and costs some 10 % in size.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".png", ".jpg", ".jpeg") or (bits == 16 and suffix != ".png"):
        raise ValueError(f"cannot write {bits}-bit {suffix or 'files without extension'}: {path}")
    peak, kind = (255, np.uint8) if bits == 8 else (65535, np.uint16)
    whole = torch.uint8 if bits == 8 else torch.int32
    codes = image.detach().clamp(0, 1).mul(peak).round().to(whole)
    if codes.ndim == 3 and codes.shape[2] >= 3:
        codes = torch.cat([codes[..., :3].flip(-1), codes[..., 3:]], -1)
    values = codes.cpu().numpy().astype(kind, copy=False)  # quantised where it was: fewer bytes
    _write_values(path, values, quality, compression)


def write_codes(
    path: Path, codes: UInt8[np.ndarray, "H W 3"] | UInt8[np.ndarray, "H W"], compression: int = 1
) -> None:
    """Writes 8-bit codes, grey or RGB, as PNG, atomically."""
    _write_values(Path(path), codes[..., ::-1] if codes.ndim == 3 else codes, 95, compression)


def _write_values(path: Path, values: np.ndarray, quality: int, compression: int) -> None:
    """Grey or BGR(A) numbers as they are to be encoded."""
    suffix = path.suffix.lower()
    options = (
        [cv2.IMWRITE_PNG_COMPRESSION, compression]
        if suffix == ".png"
        else [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    done, encoded = cv2.imencode(suffix, values, options)
    if not done:
        raise ValueError(f"cannot encode {values.shape} as {suffix}: {path}")
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def write_heights(path: Path, heights: Float[Tensor, "H W"]) -> None:
    """Writes one channel Y of half floats as EXR, in the unit of the values, atomically."""
    import OpenEXR

    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    values = np.ascontiguousarray(heights.detach().cpu().numpy(), np.float16)
    with atomic_write(Path(path)) as temporary, OpenEXR.File(header, {"Y": values}) as file:
        file.write(str(temporary))


def read_heights(path: Path) -> Float[Tensor, "H W"]:
    """What `write_heights` wrote, float32."""
    values = _read_exr(Path(path))
    if values.ndim != 2:
        raise InputError(
            f"{path} holds {values.shape[2]} channels; expected heights, one channel Y"
        )
    return torch.from_numpy(values)


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) from the header alone.

    Also catches, without decoding, what would fail later: no image, cut off, turned by EXIF.
    """
    path = Path(path)
    if path.suffix.lower() == ".exr":
        height, width = _read_exr(path).shape[:2]
        return width, height
    try:
        with path.open("rb") as file:
            _check_whole(path, file)
            with Image.open(file) as picture:
                _check_orientation(path, picture)
                return picture.size
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise _unreadable(path, error) from error


def read_pixels(path: Path) -> np.ndarray:
    """Numbers as stored: grey [H W] or RGB(A) [H W 3|4], uint8 or uint16; float32 srgb of EXR."""
    if path.suffix.lower() == ".exr":
        return _srgb(_read_exr(path))
    data = read_encoded(path)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise InputError(f"image {path} cannot be decoded; it is damaged, copy it again")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(f"image {path} holds {pixels.dtype}; expected 8 or 16 bits a channel")
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        swap = cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
        pixels = cv2.cvtColor(pixels, swap)
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


def read_encoded(path: Path) -> bytes:
    """The bytes of a PNG or JPEG file that is whole and that no tag turns."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not data:
        raise InputError(f"image {path} is empty (0 bytes); copy it again")
    # without the mark opening would be a millisecond under the lock for nothing; so would be
    # looking for it among pixels
    if data.startswith(_PNG_START):
        marked = _check_png(path, data)
    elif data.startswith(_JPEG_START):
        _check_jpeg(path, data)
        marked = _is_marked(data, 0, _JPEG_HEAD)
    else:
        raise InputError(f"image {path} is neither PNG, JPEG nor EXR; convert it")
    if marked:
        try:
            with Image.open(io.BytesIO(data)) as picture:
                _check_orientation(path, picture)
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise _unreadable(path, error) from error
    return data


def _as_float(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.float32:
        return pixels
    peak = 255 if pixels.dtype == np.uint8 else 65535
    return np.divide(pixels, np.float32(peak), dtype=np.float32)


def _check_whole(path: Path, file: io.BufferedReader) -> None:
    """Looks for the end mark near the end; reads the whole file only when it is not there."""
    size = file.seek(0, io.SEEK_END)
    if size == 0:
        raise InputError(f"image {path} is empty (0 bytes); copy it again")
    file.seek(max(0, size - _TAIL))
    tail = file.read()
    file.seek(0)
    if _JPEG_END not in tail and b"IEND" not in tail:
        data = file.read()
        if data.startswith(_JPEG_START):
            _check_jpeg(path, data)
        elif data.startswith(_PNG_START):
            _check_png(path, data)
        file.seek(0)


def _check_jpeg(path: Path, data: bytes) -> None:
    """Decoders paint the rest of a cut-off JPEG grey and go on, so look for its end mark.

    An embedded thumbnail has an end mark too, but it comes before the picture's last scan.
    """
    end = data.rfind(_JPEG_END)
    # looked for from the near side: the whole way takes milliseconds under Python's lock
    if end < 0 or data.find(_JPEG_SCAN, end) >= 0 or _JPEG_SCAN not in data:
        raise InputError(f"image {path} is cut off ({len(data)} bytes); copy it again")


def _is_marked(data: bytes, begin: int, end: int) -> bool:
    """Whether a part of a file speaks of Exif data."""
    return any(data.find(mark, begin, end) >= 0 for mark in _EXIF_MARKS)


def _check_png(path: Path, data: bytes) -> bool:
    """Walks the chunks: each must be whole and match its checksum, and the last is IEND.

    Says whether one that holds no pixels speaks of Exif data.
    """
    at, marked = len(_PNG_START), False
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 12 + length
        if end > len(data):
            break
        body = memoryview(data)[at + 4 : end - 4]
        if zlib.crc32(body) != int.from_bytes(data[end - 4 : end], "big"):
            raise InputError(f"image {path} is damaged (checksum at byte {at}); copy it again")
        kind = bytes(body[:4])
        if kind == b"IEND":
            return marked
        marked = marked or (kind != b"IDAT" and _is_marked(data, at + 4, end - 4))
        at = end
    raise InputError(f"image {path} is cut off ({len(data)} bytes); copy it again")


def _check_orientation(path: Path, picture: Image.Image) -> None:
    orientation = picture.getexif().get(_EXIF_ORIENTATION, 1)
    if orientation not in (0, 1):
        raise InputError(
            f"image {path} carries EXIF orientation {orientation}; expected 1: "
            "strip the tag (pixels as calibrated), or turn the pixels and calibrate those"
        )


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"image {path} does not exist")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"image {path} cannot be read ({reason}); is it a picture, and whole?")


def _read_exr(path: Path) -> np.ndarray:
    """Linear float32 [H W 3 or 4] or [H W]."""
    import OpenEXR

    if not path.is_file():
        raise InputError(f"image {path} does not exist")
    try:
        with OpenEXR.File(str(path)) as file:
            found = cast(dict, file.channels())
            # copied, because closing the file takes its arrays away
            channels = {name: np.array(c.pixels, np.float32) for name, c in found.items()}
    except Exception as error:  # the binding raises bare exceptions of several kinds
        raise _unreadable(path, error) from error
    for name in ("RGB", "RGBA", "Y"):
        if name in channels:
            return channels[name]
    raise InputError(f"image {path} has channels {', '.join(channels)}; expected R, G, B or Y")


def _srgb(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1 encoding of the colours; alpha stays."""
    encoded = np.clip(linear, 0, 1)
    colour = encoded[..., :3] if encoded.ndim == 3 else encoded
    curve = np.where(colour <= 0.0031308, 12.92 * colour, 1.055 * colour ** (1 / 2.4) - 0.055)
    if encoded.ndim == 3:
        encoded[..., :3] = curve
        return encoded
    return curve.astype(np.float32)
