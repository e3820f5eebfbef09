"""Every element of a PLY as columns: text or binary, either byte order, lists of any lengths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topohead.core.errors import InputError

_KINDS = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2",
    "ushort": "u2", "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
_LONGEST_HEADER = 1 << 18


@dataclass(frozen=True)
class Lists:
    """A list in every row: its length, and all items one after the other."""

    lengths: NDArray[np.int64]
    items: NDArray


Columns = dict[str, NDArray | Lists]


@dataclass(frozen=True)
class _Property:
    name: str
    kind: np.dtype
    length: np.dtype | None
    """Type of a list's length; None for a single number."""


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: tuple[_Property, ...]

    def least_bytes(self, text: bool) -> int:
        """What the rows take at least: lists may be empty, a number in text has a digit."""
        if text:
            return 2 * self.count * len(self.properties)
        row = sum((p.length or p.kind).itemsize for p in self.properties)
        return self.count * row


def read_ply_elements(path: Path) -> tuple[Mapping[str, Columns], tuple[str, ...]]:
    """Columns of every element by name, and the header's comments.

    A header that promises more than the file holds is an error before anything is allocated.
    """
    elements, order, comments, start = _header(path)
    size, text = path.stat().st_size, order == ""
    promised = sum(element.least_bytes(text) for element in elements)
    if promised > size - start + 1:  # the last number of a text may stand without a line's end
        told = ", ".join(f"{element.count} rows of {element.name!r}" for element in elements)
        raise InputError(
            f"{path} is cut off: its header promises {told}, at least {promised} bytes, and "
            f"{size - start} follow; copy or save it again"
        )
    data = path.read_bytes()[start:]
    try:
        return (_from_text if text else _from_bytes)(elements, data), comments
    except (ValueError, IndexError, OverflowError) as error:
        raise InputError(
            f"{path} does not hold what its header promises ({error}); copy or save it again"
        ) from None


def ply_comments(path: Path) -> tuple[str, ...]:
    """The comments of a header, the rest of the file unread."""
    return _header(path)[2]


def _header(path: Path) -> tuple[list[_Element], str, tuple[str, ...], int]:
    with path.open("rb") as stream:
        head = stream.read(_LONGEST_HEADER)
    mark = head.find(b"end_header")
    end = head.find(b"\n", mark)
    if head[:3] != b"ply" or mark < 0 or end < 0:
        raise InputError(f"{path} is no PLY file; expected 'ply' at its beginning and 'end_header'")
    order, comments = None, []
    elements: list[tuple[str, int, list[_Property]]] = []
    try:
        for line in head[:mark].decode("utf-8", "replace").splitlines():
            match line.split():
                case ["format", name, _]:
                    order = _ORDERS[name]
                case ["comment", *_]:
                    comments.append(line.strip().removeprefix("comment "))
                case ["element", name, count]:
                    elements.append((name, _count(count), []))
                case ["property", "list", length, kind, name]:
                    kinds = (np.dtype((order or "") + _KINDS[k]) for k in (kind, length))
                    elements[-1][2].append(_Property(name, *kinds))
                case ["property", kind, name]:
                    dtype = np.dtype((order or "") + _KINDS[kind])
                    elements[-1][2].append(_Property(name, dtype, None))
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"{path} has a PLY header that cannot be understood ({error})") from None
    if order is None:
        raise InputError(f"{path} has a PLY header without a format; expected {', '.join(_ORDERS)}")
    whole = [_Element(name, count, tuple(found)) for name, count, found in elements]
    return whole, order, tuple(comments), end + 1


def _count(word: str) -> int:
    count = int(word)
    if count < 0:
        raise ValueError(f"a count of {count}")
    return count


# Binary


def _from_bytes(elements: Sequence[_Element], data: bytes) -> dict[str, Columns]:
    found, at = {}, 0
    for element in elements:
        found[element.name], at = _binary_rows(element, data, at)
    return found


def _binary_rows(element: _Element, data: bytes, at: int) -> tuple[Columns, int]:
    """The element's columns, and where the next one begins."""
    lengths = _first_lengths(element, data, at)
    rows = _table(element, lengths)
    end = at + element.count * rows.itemsize
    if element.count and end <= len(data):
        table = np.frombuffer(data, rows, element.count, at)
        if all(bool((table[f"#{name}"] == length).all()) for name, length in lengths.items()):
            return _columns(element, table, lengths), end
    elif not lengths:
        if element.count:
            raise ValueError(f"{element.count} rows of {element.name!r} do not fit")
        return {p.name: np.empty(0, p.kind) for p in element.properties}, at
    return _uneven_rows(element, data, at)


def _first_lengths(element: _Element, data: bytes, at: int) -> dict[str, int]:
    """Lengths of the first row's lists; most files repeat them in every row."""
    lengths: dict[str, int] = {}
    for entry in element.properties:
        if entry.length is None:
            at += entry.kind.itemsize
        elif element.count:
            lengths[entry.name] = int(np.frombuffer(data, entry.length, 1, at)[0])
            at += entry.length.itemsize + lengths[entry.name] * entry.kind.itemsize
        else:
            lengths[entry.name] = 0
    return lengths


def _table(element: _Element, lengths: Mapping[str, int]) -> np.dtype:
    """The type of a row whose lists are this long; NAME's length is called #NAME."""
    fields: list[tuple] = []
    for entry in element.properties:
        if entry.length is None:
            fields.append((entry.name, entry.kind))
        else:
            fields.append((f"#{entry.name}", entry.length))
            fields.append((entry.name, entry.kind, (lengths[entry.name],)))
    return np.dtype(fields)


def _columns(element: _Element, table: NDArray, lengths: Mapping[str, int]) -> Columns:
    columns: Columns = {}
    for entry in element.properties:
        values = table[entry.name]
        if entry.length is not None:
            same = np.full(len(table), lengths[entry.name], np.int64)
            columns[entry.name] = Lists(same, values.reshape(-1))
        else:
            columns[entry.name] = values
    return columns


def _uneven_rows(element: _Element, data: bytes, at: int) -> tuple[Columns, int]:
    """Row by row, for triangles among quads."""
    numbers: dict[str, list] = {entry.name: [] for entry in element.properties}
    lengths: dict[str, list[int]] = {entry.name: [] for entry in element.properties}
    for _ in range(element.count):
        for entry in element.properties:
            count = 1
            if entry.length is not None:
                count = int(np.frombuffer(data, entry.length, 1, at)[0])
                lengths[entry.name].append(count)
                at += entry.length.itemsize
            if at + count * entry.kind.itemsize > len(data):
                raise ValueError(f"{element.count} rows of {element.name!r} do not fit")
            numbers[entry.name].append(np.frombuffer(data, entry.kind, count, at))
            at += count * entry.kind.itemsize
    columns: Columns = {}
    for entry in element.properties:
        values = np.concatenate(numbers[entry.name] or [np.empty(0, entry.kind)])
        plain = entry.length is None
        columns[entry.name] = (
            values if plain else Lists(np.array(lengths[entry.name], np.int64), values)
        )
    return columns, at


# Text


def _from_text(elements: Sequence[_Element], data: bytes) -> dict[str, Columns]:
    words = np.array(data.split())
    numbers = words.astype(np.float64) if len(words) else np.empty(0)
    found, at = {}, 0
    for element in elements:
        found[element.name], at = _text_rows(element, numbers, at)
    return found


def _text_rows(element: _Element, numbers: NDArray, at: int) -> tuple[Columns, int]:
    if all(entry.length is None for entry in element.properties):
        width = len(element.properties)
        end = at + element.count * width
        if end > len(numbers):
            raise ValueError(f"{element.count} rows of {element.name!r} do not fit")
        table = numbers[at:end].reshape(element.count, width)
        return {p.name: table[:, k] for k, p in enumerate(element.properties)}, end
    starts: dict[str, list[tuple[int, int]]] = {p.name: [] for p in element.properties}
    for _ in range(element.count):
        for entry in element.properties:
            count = 1
            if entry.length is not None:
                count = int(numbers[at])
                at += 1
            starts[entry.name].append((at, count))
            at += count
    if at > len(numbers):
        raise ValueError(f"{element.count} rows of {element.name!r} do not fit")
    columns: Columns = {}
    for entry in element.properties:
        pieces = [numbers[begin : begin + count] for begin, count in starts[entry.name]]
        values = np.concatenate(pieces or [np.empty(0)])
        lengths = np.array([count for _, count in starts[entry.name]], np.int64)
        columns[entry.name] = values if entry.length is None else Lists(lengths, values)
    return columns, at
