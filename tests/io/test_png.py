"""Pictures written by several threads read back as they were, whoever reads."""

import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from topohead.io import png
from topohead.io.images import image_size, read_pixels


@pytest.mark.parametrize("shape", [(67, 45, 3), (1, 1, 1), (40, 33, 4), (300, 2, 3)])
def test_bands_join_to_one_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(png, "_BAND_BYTES", 1000)
    generator = np.random.default_rng(5)
    pixels = generator.integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / "a.png"
    with ThreadPoolExecutor(3) as workers:
        png.write_png(path, pixels, workers)
    squeezed = pixels[..., 0] if shape[2] == 1 else pixels
    assert np.array_equal(read_pixels(path), squeezed)  # checks every chunk's checksum
    assert image_size(path) == (shape[1], shape[0])
    with Image.open(path) as picture:
        picture.verify()
    with Image.open(path) as picture:
        assert np.array_equal(np.asarray(picture), squeezed)
    read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert read is not None
    assert read.shape[:2] == shape[:2]


def test_the_stream_carries_its_true_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """zlib itself refuses a stream whose Adler-32 is wrong; most picture readers do not look."""
    monkeypatch.setattr(png, "_BAND_BYTES", 500)
    pixels = np.random.default_rng(1).integers(0, 256, (64, 31, 3), dtype=np.uint8)
    with ThreadPoolExecutor(2) as workers:
        png.write_png(tmp_path / "a.png", pixels, workers)
    data = (tmp_path / "a.png").read_bytes()
    stream, at = b"", 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            stream += data[at + 8 : at + 8 + length]
        at += 12 + length
    rows = np.frombuffer(zlib.decompress(stream), np.uint8).reshape(64, -1)
    assert (rows[:, 0] == 2).all()
    assert np.array_equal(rows[:, 1:].cumsum(0, dtype=np.uint8), pixels.reshape(64, -1))


def test_nothing_is_left_when_a_band_fails(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as workers, pytest.raises(ValueError):
        png.write_png(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8), workers, level=77)
    assert not list(tmp_path.iterdir())
