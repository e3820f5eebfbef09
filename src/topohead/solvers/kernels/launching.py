"""How Triton kernels of this package are started."""

import os


def block_size(on_device: int) -> int:
    """Items of one program: `on_device`, or many under Triton's interpreter, where programs run
    one after another and each costs the same."""
    return 4096 if os.environ.get("TRITON_INTERPRET") == "1" else on_device
