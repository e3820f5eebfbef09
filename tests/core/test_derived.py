"""What is worked out once is worked out for that very object, and is forgotten in turn."""

from topohead.core import derived as module
from topohead.core.derived import derived


def test_each_object_has_a_value_of_its_own_made_once() -> None:
    made: list[list[int]] = []

    def doubled(numbers: list[int]) -> list[int]:
        made.append(numbers)
        return [2 * number for number in numbers]

    first, equal = [1, 2], [1, 2]
    assert derived(first, doubled) is derived(first, doubled)
    assert derived(equal, doubled) is not derived(first, doubled)
    assert derived(first, len) == 2
    assert len(made) == 2


def test_the_oldest_is_forgotten_first() -> None:
    owners = [[number] for number in range(module.MOST + 1)]
    values = [derived(owner, list.copy) for owner in owners[:-1]]
    assert derived(owners[0], list.copy) is values[0]  # asked for again: not the oldest now
    derived(owners[-1], list.copy)
    assert derived(owners[0], list.copy) is values[0]
    assert derived(owners[1], list.copy) is not values[1]
