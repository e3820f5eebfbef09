"""Rows of numbers as text, as C's printf writes them, without Python's lock."""

import numpy as np
from numba import njit

LONGEST = 17
"""Bytes that a number takes at most, a blank before it included."""


@njit(nogil=True, cache=True)
def write_rows(keyword, values, out):
    """Fills `out` with a line a row of `values`, each number as "%.9g"; returns the bytes.

    `keyword` uint8 [L] begins a line; `values` float32 [N K]; `out` uint8 has room for N lines of
    L + K `LONGEST` + 1. −1 where a number is not 0 and its size below 1e-8, or 1e9 and more, or
    none: printf has to write those.
    """
    bits = values.view(np.int32)
    at = 0
    for row in range(values.shape[0]):
        for letter in keyword:
            out[at] = letter
            at += 1
        for column in range(values.shape[1]):
            value = np.float64(values[row, column])
            size = abs(value)
            out[at] = 32
            at += 1
            if bits[row, column] < 0:
                out[at] = 45
                at += 1
            if size == 0:
                out[at] = 48
                at += 1
            elif 1e-8 <= size < 1e9:
                digits, power = _digits(bits[row, column], size)
                at = _write(digits, power, out, at)
            else:
                return -1
        out[at] = 10
        at += 1
    return at


@njit(nogil=True, cache=True)
def _digits(bits, size):
    """The nine leading decimal digits of a float32, as one number, and the power of its first.

    Exact: a float32 is m·2^q, and m·5^p with p ≤ 16 fits 64 bits.
    """
    mantissa = np.int64(bits & 0x7FFFFF)
    exponent = (bits >> 23) & 0xFF
    if exponent:
        mantissa += 1 << 23
    else:
        exponent = 1
    power = int(np.floor(np.log10(size)))
    while True:
        number = _scaled(mantissa, exponent - 150, 8 - power)
        if number < 100_000_000:
            power -= 1
        elif number >= 1_000_000_000:
            power += 1
        else:
            return number, power


@njit(nogil=True, cache=True)
def _scaled(mantissa, exponent, p):
    """mantissa · 2^exponent · 10^p, rounded, halves to even."""
    number = mantissa
    for _ in range(p):
        number *= 5
    shift = exponent + p
    if shift >= 0:
        return number << shift
    down = -shift
    whole = number >> down
    rest = number - (whole << down)
    half = np.int64(1) << (down - 1)
    if rest > half or (rest == half and whole & 1):
        whole += 1
    return whole


@njit(nogil=True, cache=True)
def _write(number, power, out, at):
    """Nine digits whose first stands for 10^power, trailing zeros left out; the place after them.

    Plain from 1e-4 on, else with an exponent.
    """
    count = 9
    while count > 1 and number % 10 == 0:
        number //= 10
        count -= 1
    plain = power >= -4
    if plain and power < 0:
        out[at] = 48
        out[at + 1] = 46
        at += 2
        for _ in range(-power - 1):
            out[at] = 48
            at += 1
    before = power + 1 if plain else 1
    scale = np.int64(1)
    for _ in range(count - 1):
        scale *= 10
    for place in range(max(count, before)):
        if place == before and place > 0 and not (plain and power < 0):
            out[at] = 46
            at += 1
        digit = np.int64(0)
        if place < count:
            digit = number // scale
            number -= digit * scale
            scale //= 10
        out[at] = 48 + digit
        at += 1
    if not plain:
        out[at] = 101
        out[at + 1] = 45
        out[at + 2] = 48
        out[at + 3] = 48 - power
        at += 4
    return at
