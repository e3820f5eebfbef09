"""The one exception that means: the input is at fault, not the program."""

from collections.abc import Mapping
from typing import Any


class InputError(ValueError):
    """Bad input or usage: one line that says what was expected, what came, what to do.

    The command line prints it and exits with code 2.
    """


def check_ranges(settings: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raises InputError for the first number that lies outside its closed range or is NaN.

    `ranges` maps a setting's name to its least and largest value; infinity is none. A setting that
    is None was not given. The message names the setting as a flag.
    """
    for name, (least, most) in ranges.items():
        value = settings[name]
        if value is None or least <= value <= most:
            continue
        wanted = f"at least {least}" if most == float("inf") else f"{least} to {most}"
        raise InputError(f"--{name.replace('_', '-')} expects {wanted}, got {value}")
