"""WebDataset shards: read back by tarfile and by the webdataset package's naming rules."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from topohead.io.shards import write_shards


def samples(numbers: range) -> Iterator[dict[str, Any]]:
    return (sample(index) for index in numbers)


def sample(index: int) -> dict[str, Any]:
    return {"points": np.full((4, 3), index, np.float32), "pose": {"scale": index / 2},
            "note.txt": f"head {index}".encode()}  # fmt: skip


def test_samples_come_back_and_bytes_repeat(tmp_path: Path) -> None:
    paths = list(write_shards(tmp_path / "a", 10, samples, size=4))
    assert [path.name for path in paths] == ["00000000.tar", "00000004.tar", "00000008.tar"]
    with tarfile.open(paths[1]) as archive:
        names = archive.getnames()
        assert names[:3] == ["00000004.points.npy", "00000004.pose.json", "00000004.note.txt"]
        assert len(names) == 12
        read = archive.extractfile("00000006.points.npy").read()
        assert np.array_equal(np.load(io.BytesIO(read)), sample(6)["points"])
        pose = json.loads(archive.extractfile("00000007.pose.json").read())
        assert pose == {"scale": 3.5}
    again = list(write_shards(tmp_path / "b", 10, samples, size=4))
    assert [a.read_bytes() for a in paths] == [b.read_bytes() for b in again]


def test_a_stopped_writer_leaves_whole_shards_and_goes_on(tmp_path: Path) -> None:
    def failing(numbers: range) -> Iterator[dict[str, Any]]:
        for index in numbers:
            if index == 6:
                raise KeyboardInterrupt
            yield sample(index)

    with pytest.raises(KeyboardInterrupt):
        list(write_shards(tmp_path, 10, failing, size=4))
    assert [path.name for path in tmp_path.iterdir()] == ["00000000.tar"]
    made: list[int] = []

    def counting(numbers: range) -> Iterator[dict[str, Any]]:
        made.extend(numbers)
        return samples(numbers)

    assert len(list(write_shards(tmp_path, 10, counting, size=4))) == 3
    assert made == list(range(4, 10))


def test_writers_divide_the_shards_among_them(tmp_path: Path) -> None:
    whole = list(write_shards(tmp_path / "whole", 10, samples, size=2))
    parts = [
        list(write_shards(tmp_path / "parts", 10, samples, size=2, part=part, parts=3))
        for part in range(3)
    ]
    assert [len(part) for part in parts] == [2, 2, 1]
    names = sorted(path for part in parts for path in part)
    assert [p.read_bytes() for p in names] == [p.read_bytes() for p in whole]
