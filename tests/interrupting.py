"""A watcher of progress that interferes at a chosen step."""

from typing import Any


class At:
    """Does something at the n-th step of progress."""

    def __init__(self, number: int, act: Any) -> None:
        self.left, self.act = number, act

    def begin(self, what: str, total: int, done: int) -> None: ...

    def end(self) -> None: ...

    def advance(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.act()
