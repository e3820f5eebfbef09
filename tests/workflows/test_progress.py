"""What workflows tell reaches every listener; a wish to stop is heeded between two steps."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from topohead.workflows.progress import Sight, Stopped, show, showing, track, watched


@dataclass
class Person:
    """A watcher that wants the end after so many steps."""

    patience: int
    stopping: bool = False
    told: list[str] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)

    def begin(self, what: str, total: int, done: int) -> None:
        self.told.append(f"{what} {done}/{total}")

    def advance(self) -> None:
        self.told.append("step")
        self.patience -= 1
        self.stopping = self.patience <= 0

    def end(self) -> None:
        self.told.append("end")

    def show(self, sight: Sight) -> None:
        self.sights.append(sight)


@dataclass
class Bar:
    """A listener that shows loops alone."""

    steps: int = 0

    def begin(self, what: str, total: int, done: int) -> None: ...
    def end(self) -> None: ...
    def advance(self) -> None:
        self.steps += 1


def test_stopping_keeps_the_step_in_hand_and_begins_no_other() -> None:
    person, bar, made, finished = Person(patience=2), Bar(), [], []

    def solver() -> Iterator[int]:
        for step in range(5):
            made.append(step)
            yield step

    with pytest.raises(Stopped), showing(bar, person):
        for step in track(solver(), "solving", total=5):
            show(Sight(str(step), {"loss": 1.0 / (step + 1)}))
            finished.append(step)
    assert made == finished == [0, 1]
    assert person.told == ["solving 0/5", "step", "step", "end"] and bar.steps == 2
    assert [sight.values["loss"] for sight in person.sights] == [1.0, 0.5]


def test_a_loop_that_is_through_is_not_stopped_but_the_next_one_is() -> None:
    person, through = Person(patience=1), False
    with pytest.raises(Stopped), showing(person):
        for _ in track(range(1), "once"):
            pass
        through = True
        for _ in track(range(3), "next"):
            raise AssertionError("no further step begins")
    assert through and person.told == ["once 0/1", "step", "end", "next 0/3", "end"]


def test_to_a_workflow_it_is_an_interrupt() -> None:
    assert issubclass(Stopped, KeyboardInterrupt)


def test_nobody_need_watch() -> None:
    assert not watched()
    show(Sight("1"))
    with showing(Bar()):
        assert not watched()
        show(Sight("1"))
    with showing(Person(3)):
        assert watched()
