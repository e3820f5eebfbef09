"""Every way of keeping textures comes back through one reader, deltas within their tolerance."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from topohead.core.errors import InputError
from topohead.io import texture_deltas
from topohead.io.images import read_image, write_codes
from topohead.io.texture_deltas import TOLERANCE, DeltaFile, read_delta
from topohead.io.textures import (
    BASE,
    WRINKLES,
    delta_file,
    find_texture,
    picture_file,
    read_texture,
)


def write_delta(path: Path, codes: np.ndarray, base: np.ndarray, *tolerance: int) -> None:
    with ThreadPoolExecutor(2) as workers:
        texture_deltas.write_delta(path, codes, base, workers, *tolerance)


def codes(seed: int, size: int = 144) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


@pytest.mark.parametrize("tolerance", [1, 2, 5, 64])
def test_no_code_is_off_by_more_than_the_tolerance(tmp_path: Path, tolerance: int) -> None:
    """On the worst there is, noise over noise; the size is no multiple of a tile."""
    base, frame = codes(0), codes(1)
    write_delta(tmp_path / "d", frame, base, tolerance)
    off = np.abs(read_delta(tmp_path / "d", base).astype(int) - frame)
    assert off.max() <= tolerance
    # rounded to the nearest step, errors are even over −tolerance to +tolerance
    assert off.mean() < (tolerance + 1) / 2 + 0.02


def test_what_does_not_change_costs_nearly_nothing(tmp_path: Path) -> None:
    base = np.clip(codes(0, 512), 4, 250)
    noisy = base + np.random.default_rng(2).integers(-TOLERANCE, TOLERANCE + 1, base.shape)
    write_delta(tmp_path / "same", noisy.astype(np.uint8), base)
    assert (tmp_path / "same").stat().st_size < 1024
    assert (read_delta(tmp_path / "same", base) == base).all()
    changed = base.copy()
    changed[100:110, 300:310] += 5
    write_delta(tmp_path / "spot", changed, base)
    assert DeltaFile(tmp_path / "spot").kept_share == 1 / 64
    assert (tmp_path / "spot").stat().st_size < 2048
    assert (read_delta(tmp_path / "spot", base) == changed).all()


def test_equal_textures_are_equal_files(tmp_path: Path) -> None:
    """As a run that was resumed must give the bytes of one that was not."""
    for name in "abcdefgh":
        write_delta(tmp_path / name, codes(1), codes(0))
    assert len({(tmp_path / name).read_bytes() for name in "abcdefgh"}) == 1


def test_a_row_of_tiles_is_read_alone(tmp_path: Path) -> None:
    base, frame = codes(0, 256), codes(1, 256)
    write_delta(tmp_path / "d", frame, base, 1)
    strip = DeltaFile(tmp_path / "d").strip(2, base[128:192])
    assert np.abs(strip.astype(int) - frame[128:192]).max() <= 1


def test_faults_are_told(tmp_path: Path) -> None:
    base = codes(0)
    write_delta(tmp_path / "d", codes(1), base)
    with pytest.raises(InputError, match="another base"):
        read_delta(tmp_path / "d", codes(2))
    with pytest.raises(InputError, match="another base"):
        read_delta(tmp_path / "d", codes(2, 128))
    (tmp_path / "torn").write_bytes((tmp_path / "d").read_bytes()[:-100])
    with pytest.raises(InputError, match=r"torn cannot be read.*--restart texture"):
        read_delta(tmp_path / "torn", base)
    save_file({"x": np.zeros(1)}, tmp_path / "other")
    with pytest.raises(InputError, match="no texture delta"):
        read_delta(tmp_path / "other", base)
    with pytest.raises(ValueError, match="1 to 64"):
        write_delta(tmp_path / "e", base, base, 0)


def test_one_reader_for_every_way_of_keeping(tmp_path: Path) -> None:
    base, frame = codes(0), codes(1)
    for name in ("000001", "000002"):
        (tmp_path / "frames" / name).mkdir(parents=True)
    assert read_texture(tmp_path, "000002") is None

    write_codes(tmp_path / picture_file("000001"), frame)
    static = read_texture(tmp_path, "000002")
    assert static is not None
    assert torch.equal(static, read_image(tmp_path / picture_file("000001")))
    assert torch.equal(static, torch.from_numpy(frame).float() / 255)
    (tmp_path / picture_file("000001")).unlink()

    write_codes(tmp_path / BASE, base)
    write_delta(tmp_path / delta_file("000002"), frame, base)
    delta = read_texture(tmp_path, "000002")
    assert delta is not None
    assert (delta - static).abs().max() <= (TOLERANCE + 1e-3) / 255
    assert read_texture(tmp_path, "000001") is None, "not made yet"
    kept = find_texture(tmp_path, "000002", ("000001", "000002"))
    assert kept is not None and kept.size == 144 and kept.picture == tmp_path / BASE
    (tmp_path / delta_file("000002")).unlink()

    brighter = np.full_like(base, 128 + 127)
    write_codes(tmp_path / "textures" / "wrinkle_01.png", brighter)
    maps = {"maps": [{"file": "wrinkle_01.png", "scale": 0.5}]}
    weights = {"frames": {"000001": [0.0], "000002": [-2.0]}}
    (tmp_path / WRINKLES).write_text(json.dumps(maps | weights))
    rest, halved = read_texture(tmp_path, "000001"), read_texture(tmp_path, "000002")
    assert rest is not None and halved is not None
    assert torch.allclose(rest, torch.from_numpy(base).float() / 255, atol=1e-5)
    linear = [((x.double() + 0.055) / 1.055) ** 2.4 for x in (rest, halved)]
    bright = rest > 0.2
    assert torch.allclose(linear[1][bright], linear[0][bright] / 2, rtol=1e-4)
