"""Samples as WebDataset shards: tar files in which a sample's files share a name.

https://github.com/webdataset/webdataset. A shard is numbered by its first sample; it appears whole
or not at all, so a stopped writer continues with the shards that are missing.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from topohead.io.atomic import atomic_write


def write_shards(
    folder: Path,
    count: int,
    samples: Callable[[range], Iterable[Mapping[str, Any]]],
    size: int = 1024,
    part: int = 0,
    parts: int = 1,
) -> Iterator[Path]:
    """Writes samples 0 to `count` − 1 in shards of `size`; yields each shard's path.

    `samples(numbers)` gives for each number, in order, arrays (stored as NAME.npy), bytes (under a
    name with its extension) or what JSON can hold (NAME.json). Shards that are there already are
    kept. Same samples, same bytes: times and owners in the archives are zero. Of `parts` writers
    the `part`-th writes every `parts`-th shard.
    """
    for first in range(part * size, count, parts * size):
        path = folder / f"{first:08d}.tar"
        numbers = range(first, min(first + size, count))
        if not path.exists():
            with atomic_write(path) as temporary, tarfile.open(temporary, "w") as archive:
                for index, sample in zip(numbers, samples(numbers), strict=True):
                    for name, value in sample.items():
                        _add(archive, f"{index:08d}", name, value)
        yield path


def _add(archive: tarfile.TarFile, key: str, name: str, value: Any) -> None:
    if isinstance(value, bytes):
        data = value
    elif isinstance(value, np.ndarray):
        stream = io.BytesIO()
        np.save(stream, value)
        name, data = f"{name}.npy", stream.getvalue()
    else:
        name, data = f"{name}.json", json.dumps(value).encode()
    entry = tarfile.TarInfo(f"{key}.{name}")
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))
