"""Weights of trained networks as files: float16 safetensors that say what they are.

A file holds tensors, the network's configuration, the metrics that it reached, and a hash of all
of that. Whoever loads weights names the hash that it expects, so a wrong file never runs.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from topohead.core.errors import InputError
from topohead.io.atomic import atomic_write

LARGEST_PIECE = 16 << 20
"""Bytes beyond which weights are split over several files."""

SHIPPED: Mapping[str, str] = {
    "register": "c9aa5f83d04a51c458bcc424dec6bf60fcc05a1884139c1578bb77d44ae7452d",
    "register-people": "fa762b2a19a994fe323f21df57d0275fac8c5e10138d329c7591e0f55e39389d",
    "head-vae": "9ca5959dd41f16f2f6993a8b023dc27422b2d59bddc2e36b85784c5280d60d8d",
}
"""Networks whose weights come with the package, and the hash of each."""

FOLDER = Path(__file__).parents[1] / "weights"

_KEY = "topohead"


@dataclass(frozen=True)
class Weights:
    """A network's tensors by name, what builds it, what it reached, and the hash of all three."""

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    hash: str


def write_weights(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    largest: int = LARGEST_PIECE,
) -> str:
    """Writes NAME.safetensors, or NAME-1-of-3.safetensors and so on; returns the hash.

    Tensors are stored as they are given. Equal arguments give equal bytes.
    """
    stored = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    state = content_hash(stored, config, metrics)
    pieces = _pieces(stored, largest)
    described = {"config": config, "metrics": metrics, "hash": state, "pieces": len(pieces)}
    # one key: the library writes several in an order of its own
    note = {_KEY: json.dumps(described, sort_keys=True)}
    for stale in _files(path):
        stale.unlink()
    for number, piece in enumerate(pieces, 1):
        with atomic_write(_piece_path(path, number, len(pieces))) as temporary:
            save_file(piece, temporary, note)
    return state


def read_weights(path: Path, expected: str | None = None) -> Weights:
    """Reads what `write_weights` wrote, all pieces of it, and checks the hash.

    `expected` is the hash (or its beginning) of the weights that are wanted.
    """
    files = _files(path)
    if not files:
        raise InputError(f"no weights at {path}; `topohead train {path.stem}` makes them")
    tensors: dict[str, Tensor] = {}
    notes = [_read_piece(file, tensors) for file in files]
    note = notes[0]
    if len(files) != note["pieces"] or any(other["hash"] != note["hash"] for other in notes):
        raise InputError(
            f"{files[0]} is one of {note['pieces']} pieces, found {len(files)} that fit together; "
            "fetch the others"
        )
    actual = content_hash(tensors, note["config"], note["metrics"])
    if actual != note["hash"]:
        raise InputError(
            f"{files[0]} is damaged: its content has hash {actual[:12]}, expected "
            f"{note['hash'][:12]}; fetch it again"
        )
    if expected is not None and not actual.startswith(expected):
        raise InputError(
            f"{files[0]} holds weights {actual[:12]}, expected {expected[:12]}; fetch the weights "
            "that belong to this version"
        )
    return Weights(tensors, note["config"], note["metrics"], actual)


def shipped_weights(name: str) -> Weights:
    """The weights of a network that come with the package."""
    if name not in SHIPPED:
        raise InputError(
            f"no weights of '{name}' come with this version; `topohead train {name} --out RUN` "
            "makes them"
        )
    return read_weights(FOLDER / f"{name}.safetensors", SHIPPED[name])


def content_hash(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], metrics: Mapping[str, Any]
) -> str:
    """SHA-256 of configuration, metrics and tensors (name, type, shape, bytes), in hexadecimal."""
    state = hashlib.sha256(json.dumps([config, metrics], sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        state.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        state.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def _pieces(tensors: Mapping[str, Tensor], largest: int) -> list[dict[str, Tensor]]:
    """Tensors in groups of at most `largest` bytes; one that is larger stands alone."""
    pieces: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, value in tensors.items():
        if pieces[-1] and size + value.nbytes > largest:
            pieces.append({})
            size = 0
        pieces[-1][name] = value
        size += value.nbytes
    return pieces


def _piece_path(path: Path, number: int, count: int) -> Path:
    return path if count == 1 else path.with_stem(f"{path.stem}-{number}-of-{count}")


def _files(path: Path) -> list[Path]:
    whole = [path] if path.is_file() else []
    return whole or sorted(path.parent.glob(f"{path.stem}-*-of-*{path.suffix}"))


def _read_piece(file: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            note = (opened.metadata() or {}).get(_KEY)
            if note is None:
                raise InputError(f"{file} holds tensors but no note of ours; expected weights")
            tensors.update({key: opened.get_tensor(key) for key in opened.keys()})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} cannot be read as weights ({error}); fetch it again") from error
    return json.loads(note)
