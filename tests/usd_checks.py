"""What usd-core's own validators say of a stage."""

from pathlib import Path


def complaints(path: Path) -> list[str]:
    """Of every validator that usd-core ships."""
    from pxr import Usd, UsdValidation

    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    found = UsdValidation.ValidationContext(validators).Validate(Usd.Stage.Open(str(path)))
    return [f"{error.GetName()}: {error.GetMessage()}" for error in found]
