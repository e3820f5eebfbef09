"""What follows from an object alone and takes long to work out is worked out once."""

from collections.abc import Callable
from threading import Lock
from typing import Any, TypeVar

Owner = TypeVar("Owner")
Value = TypeVar("Value")

MOST = 24
"""Values that are kept, the ones that were asked for last."""

_kept: dict[tuple[int, Callable[..., Any]], tuple[Any, Any]] = {}
_one = Lock()


def derived(owner: Owner, make: Callable[[Owner], Value]) -> Value:
    """`make(owner)`, remembered for this very object.

    `owner` must not change afterwards, and nobody may change the value. `make` must be a function
    of a module, not one made anew for each call.
    """
    key = id(owner), make
    # the owner is kept with its value, so no other object can get its id meanwhile
    _, value = _kept.get(key) or (owner, make(owner))
    with _one:
        _kept.pop(key, None)
        _kept[key] = owner, value
        while len(_kept) > MOST:
            del _kept[next(iter(_kept))]
    return value
