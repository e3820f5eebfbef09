"""A frame's texture as what differs from the take's base: tiles of quantised code differences.

The file is a safetensors container. With 8-bit srgb codes c of the frame and b of the base,
q = round((c − b) / step), step = 2 · tolerance + 1, is kept for tiles in which any q is not zero;
b + step · q, cut off at 0 and 255, is within `tolerance` codes of c everywhere.

    metadata   "topohead.texture_delta": JSON of version 1, size, tile, tolerance
    base       int64 [R]     CRC-32 of the base's codes in each row of tiles
    kept       uint8 [R R]   1 where a tile is kept
    row_0000   uint8 [n]     the row's kept tiles, left to right: int8 [tile tile] of red, green and
                             blue each, zlib; absent where none is kept

Rows of tiles stand by themselves, so strips of many frames can be read without whole textures.
"""

import json
import zlib
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
from jaxtyping import Int8, UInt8

from topohead.core.errors import InputError
from topohead.io.atomic import atomic_write

TILE = 64
"""Texels along a tile's side."""

TOLERANCE = 2
"""Largest error of a decoded code, of 255."""

_FORMAT = "topohead.texture_delta"
_VERSION = 1
_LEVEL = 1  # zlib's fastest: higher levels take several times longer and save a few per cent


def write_delta(
    path: Path,
    codes: UInt8[np.ndarray, "S S 3"],
    base: UInt8[np.ndarray, "S S 3"],
    workers: Executor,
    tolerance: int = TOLERANCE,
) -> None:
    """Write a frame's texture as its difference from the base, atomically.

    Rows of tiles are packed by `workers`; must not be called by one of them.
    """
    from safetensors.numpy import save_file

    # one code of tolerance is the least for which all differences fit int8
    if not 1 <= tolerance <= 64:
        raise ValueError(f"tolerance must be 1 to 64 codes, got {tolerance}")
    count = tile_rows(len(base))
    kept, checks = np.zeros((count, count), np.uint8), np.zeros(count, np.int64)

    def packed(row: int) -> bytes:
        strip = strip_rows(row, len(base))
        checks[row] = zlib.crc32(np.ascontiguousarray(base[strip]).data)
        tiles = _as_tiles(_quantised(codes[strip], base[strip], tolerance))
        kept[row] = tiles.any((1, 2, 3))
        return zlib.compress(tiles[kept[row] > 0].tobytes(), _LEVEL) if kept[row].any() else b""

    rows = enumerate(workers.map(packed, range(count)))
    tensors = {f"row_{row:04d}": np.frombuffer(data, np.uint8) for row, data in rows if data}
    facts = {"version": _VERSION, "size": len(base), "tile": TILE, "tolerance": tolerance}
    with atomic_write(path) as temporary:
        # one entry, because the library writes several in any order: equal runs, equal bytes
        everything: dict[str, np.ndarray] = {"kept": kept, "base": checks, **tensors}
        save_file(everything, temporary, {_FORMAT: json.dumps(facts)})


class DeltaFile:
    """An open delta file; reads the rows of tiles that are asked for and nothing else."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = Path(path)
        try:
            self._file = safe_open(self.path, "numpy")
            facts = json.loads((self._file.metadata() or {}).get(_FORMAT, "{}"))
            if facts.get("version") != _VERSION:
                raise InputError(f"{path} is no texture delta of version {_VERSION}")
            self._kept = self._file.get_tensor("kept")
            self._base = self._file.get_tensor("base")
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{path} cannot be read ({error}); it is damaged, run the capture again with "
                "`--restart texture`"
            ) from None
        self.size, self.tile, self.tolerance = (facts[k] for k in ("size", "tile", "tolerance"))

    @property
    def kept_share(self) -> float:
        """Share of tiles in which the frame differs from the base."""
        return float(self._kept.mean())

    def strip(self, row: int, base: UInt8[np.ndarray, "h S 3"]) -> UInt8[np.ndarray, "h S 3"]:
        """The frame's codes in one row of tiles, given the base's there (`strip_rows`)."""
        if base.shape[1] != self.size or zlib.crc32(base.tobytes()) != self._base[row]:
            raise InputError(
                f"{self.path} was made over another base texture; run the capture again with "
                "`--restart texture`"
            )
        if not self._kept[row].any():
            return base.copy()
        tile = self.tile
        tiles = np.zeros((len(self._kept), 3, tile, tile), np.int8)
        packed = zlib.decompress(self._file.get_tensor(f"row_{row:04d}").tobytes())
        tiles[self._kept[row] > 0] = np.frombuffer(packed, np.int8).reshape(-1, 3, tile, tile)
        steps = tiles.transpose(2, 0, 3, 1).reshape(tile, -1, 3)[: len(base), : self.size]
        changed = base + steps.astype(np.int16) * np.int16(2 * self.tolerance + 1)
        return np.clip(changed, 0, 255).astype(np.uint8)


def read_delta(path: Path, base: UInt8[np.ndarray, "S S 3"]) -> UInt8[np.ndarray, "S S 3"]:
    """A frame's texture, each code to within the file's tolerance."""
    file = DeltaFile(path)
    codes = np.empty_like(base)
    for row in range(tile_rows(len(base))):
        strip = strip_rows(row, len(base), file.tile)
        codes[strip] = file.strip(row, base[strip])
    return codes


def tile_rows(size: int, tile: int = TILE) -> int:
    """Rows of tiles in a texture; the last may reach over its edge."""
    return -(-size // tile)


def strip_rows(row: int, size: int, tile: int = TILE) -> slice:
    """The texture's rows that a row of tiles covers."""
    return slice(row * tile, min((row + 1) * tile, size))


def _quantised(
    codes: UInt8[np.ndarray, "h S 3"], base: UInt8[np.ndarray, "h S 3"], tolerance: int
) -> Int8[np.ndarray, "h S 3"]:
    """Differences in steps, rounded to the nearest."""
    # a table of all differences: division is slow
    change = np.arange(-255, 256)
    steps = np.sign(change) * ((np.abs(change) + tolerance) // (2 * tolerance + 1))
    return steps.astype(np.int8)[codes.astype(np.int16) - base + np.int16(255)]


def _as_tiles(steps: Int8[np.ndarray, "h S 3"]) -> Int8[np.ndarray, "R 3 tile tile"]:
    """A strip cut into tiles, channel by channel, zero beyond the texture's edge."""
    height, size = steps.shape[:2]
    count = tile_rows(size)
    padded = np.zeros((TILE, count * TILE, 3), np.int8)
    padded[:height, :size] = steps
    return padded.reshape(TILE, count, TILE, 3).transpose(1, 3, 0, 2)
