"""What this package's Triton kernels share: rows of three, and how many one program works on."""

# inside kernels, Triton's own types stand for values that pyright takes for Python's
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportMissingImports=false

import os

import triton
import triton.language as tl


def cdiv(count: int, size: int) -> int:
    """How many blocks of a size hold so many items."""
    return triton.cdiv(count, size)


def block_size(on_device: int, items: int) -> int:
    """Items of one program: `on_device`, or up to 16384 under Triton's interpreter, where programs
    run one after another and a large one costs little more than a small one."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return on_device
    return min(triton.next_power_of_2(items), 16384)


@triton.jit
def load_row(values, row, live):
    """The three values of each row [N 3], zero where not `live`."""
    a = tl.load(values + 3 * row, mask=live, other=0)
    b = tl.load(values + 3 * row + 1, mask=live, other=0)
    c = tl.load(values + 3 * row + 2, mask=live, other=0)
    return a, b, c


@triton.jit
def store_row(out, row, live, a, b, c):
    """Three values into each row [N 3] that is `live`."""
    tl.store(out + 3 * row, a, mask=live)
    tl.store(out + 3 * row + 1, b, mask=live)
    tl.store(out + 3 * row + 2, c, mask=live)
