"""Weights files: what was written comes back, and nothing else is taken for it."""

from pathlib import Path

import pytest
import torch

from topohead.core import InputError
from topohead.io.weights import read_weights, shipped_weights, write_weights

CONFIG = {"network": "toy", "size": {"width": 3}}
METRICS = {"clean": {"network": {"mean_mm": 0.5}}}


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "b.weight": torch.randn(64, 32, generator=generator).half(),
        "a.scale": torch.tensor(2.5),
        "nodes": torch.arange(100, dtype=torch.int32),
        "template": torch.randn(50, 3, generator=generator),
    }


def test_round_trip_and_same_bytes(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    state = write_weights(tmp_path / "toy.safetensors", tensors, CONFIG, METRICS)
    found = read_weights(tmp_path / "toy.safetensors", state)
    assert found.hash == state
    assert (found.config, found.metrics) == (CONFIG, METRICS)
    assert found.tensors.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found.tensors[name].dtype == value.dtype
        assert torch.equal(found.tensors[name], value)
    reordered = dict(reversed(tensors.items()))
    write_weights(tmp_path / "again.safetensors", reordered, CONFIG, METRICS)
    first, second = (tmp_path / f"{name}.safetensors" for name in ("toy", "again"))
    assert first.read_bytes() == second.read_bytes()


def test_large_weights_come_in_pieces(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "toy.safetensors"
    state = write_weights(path, tensors, CONFIG, METRICS, largest=1000)
    pieces = sorted(tmp_path.iterdir())
    assert [piece.name for piece in pieces] == [f"toy-{k}-of-3.safetensors" for k in (1, 2, 3)]
    found = read_weights(path, state)
    assert all(torch.equal(found.tensors[name], value) for name, value in tensors.items())
    pieces[1].unlink()
    with pytest.raises(InputError, match="one of 3 pieces, found 2"):
        read_weights(path)
    write_weights(path, tensors, CONFIG, METRICS)
    assert [file.name for file in tmp_path.iterdir()] == ["toy.safetensors"]


def test_wrong_hash_damage_and_absence_are_told(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "toy.safetensors"
    state = write_weights(path, tensors, CONFIG, METRICS)
    with pytest.raises(InputError, match=f"holds weights {state[:12]}, expected ffffff"):
        read_weights(path, "f" * 64)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="is damaged"):
        read_weights(path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="cannot be read as weights"):
        read_weights(path)
    with pytest.raises(InputError, match="topohead train other"):
        read_weights(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="no weights of 'nothing'"):
        shipped_weights("nothing")
