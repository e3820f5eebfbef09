"""FLAME (Li et al. 2017) from the user's own licensed file, as CAP4D's tracker poses it.

Nothing of FLAME ships. The pickle is read without the programs that wrote it (chumpy, SciPy): what
it names is looked up in a short list, and anything else is refused rather than run.

CAP4D (Taubner et al. 2025) uses it without a jaw: 150 directions of shape, 65 of expression (300 to
364, the last one replaced by a blink of its own, which stands in another file). Joints lie where
the shape *with* expression puts them, each turns about itself, and the pose's correctives
subtract the identity twice.
"""

import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation
from torch import Tensor

from topohead.core import InputError

SHAPES, EXPRESSIONS, FIRST_EXPRESSION = 150, 65, 300
VERTICES = 5023
BLINK = "blink_blendshape.pkl"
"""CAP4D's file with the direction of its last expression, looked for beside the model."""

EYE_JOINTS = (3, 4)
_NEEDED = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "f")


@dataclass(frozen=True)
class Flame:
    """The model in its own frame: metres, y up, the face along +z; float64.

    `blinks` says whether the last expression has a direction; without it that number is unheard.
    """

    template: Float[Tensor, "5023 3"]
    shapes: Float[Tensor, "150 5023 3"]
    expressions: Float[Tensor, "65 5023 3"]
    correctives: Float[Tensor, "36 5023 3"]
    joints: Float[Tensor, "5 5023"]
    weights: Float[Tensor, "5023 5"]
    faces: Int[Tensor, "F 3"]
    blinks: bool

    def vertices(
        self,
        shape: Float[Tensor, " 150"],
        expressions: Float[Tensor, "T 65"],
        eyes: Float[Tensor, "T 3"],
        neck: Float[Tensor, "T 3"] | None = None,
    ) -> Float[Tensor, "T 5023 3"]:
        """Heads before their own rotation and translation; `eyes` and `neck` are axis and angle."""
        person = self.template + torch.tensordot(shape.double(), self.shapes, 1)
        return torch.stack(
            [
                self._posed(
                    person + torch.tensordot(row.double(), self.expressions, 1),
                    eyes[t], None if neck is None else neck[t],
                )
                for t, row in enumerate(expressions)
            ]
        )  # fmt: skip

    def _posed(
        self,
        shaped: Float[Tensor, "5023 3"],
        eyes: Float[Tensor, "3"],
        neck: Float[Tensor, "3"] | None,
    ) -> Float[Tensor, "5023 3"]:
        turns = torch.eye(3, dtype=torch.float64).repeat(5, 1, 1)
        for joint in EYE_JOINTS:
            turns[joint] = _matrix(eyes)
        if neck is not None:
            turns[0] = _matrix(neck)
        joints = self.joints @ shaped
        feature = (turns[1:] - 2 * torch.eye(3).double()).reshape(36)
        moved = shaped + torch.tensordot(feature, self.correctives, 1)
        # each joint about itself: Σ w (R (v − j) + j)
        arms = moved[:, None] - joints
        placed = torch.einsum("jab,vjb->vja", turns, arms) + joints
        return (self.weights[..., None] * placed).sum(1)


def _matrix(axis: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    return torch.from_numpy(Rotation.from_rotvec(axis.double().numpy()).as_matrix())


def read_flame(path: Path) -> Flame:
    """The model in a pickle of FLAME 2023 (or 2020: the same arrays)."""
    told = _unpickled(path)
    if not isinstance(told, dict):
        raise InputError(f"{path} holds a {type(told).__name__}; expected FLAME's dictionary")
    missing = [name for name in _NEEDED if name not in told]
    if missing:
        raise InputError(f"{path} is no FLAME model: it has no {missing[0]!r}")
    rows = {name: _dense(told[name], path, name) for name in _NEEDED}
    shapes = rows["shapedirs"]
    wanted = {
        "v_template": (VERTICES, 3), "posedirs": (VERTICES, 3, 36), "J_regressor": (5, VERTICES),
        "weights": (VERTICES, 5),
    }  # fmt: skip
    for name, size in wanted.items():
        if rows[name].shape != size:
            raise InputError(f"{path}: {name} is {rows[name].shape}, expected {size}")
    least = FIRST_EXPRESSION + EXPRESSIONS - 1
    if shapes.shape[:2] != (VERTICES, 3) or shapes.shape[2] < least:
        raise InputError(
            f"{path}: shapedirs is {shapes.shape}, expected ({VERTICES}, 3, 400): 300 of shape and "
            "100 of expression"
        )
    expressions = np.zeros((VERTICES, 3, EXPRESSIONS))
    expressions[..., :-1] = shapes[..., FIRST_EXPRESSION:least]
    blink = path.parent / BLINK
    if blink.is_file():
        expressions[..., -1] = _dense(_unpickled(blink), blink, "blink").reshape(VERTICES, 3)

    def first(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, 2, 0)))

    return Flame(
        torch.from_numpy(rows["v_template"]), first(shapes[..., :SHAPES]), first(expressions),
        first(rows["posedirs"]), torch.from_numpy(rows["J_regressor"]),
        torch.from_numpy(rows["weights"]), torch.from_numpy(rows["f"].astype(np.int64)),
        blink.is_file(),
    )  # fmt: skip


class _Stub:
    """Stands for an object of a library that need not be here: its state, unread."""

    name = ""

    def __init__(self, *_: Any) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {"x": state}


def _stub(module: str, name: str) -> type[_Stub]:
    return type(name, (_Stub,), {"name": f"{module}.{name}"})


_PLAIN = {"object": object, "set": set, "frozenset": frozenset}
"""Of Python itself; every chumpy array has a set of what changed in it."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What a pickle names, from a short list."""
        if module.split(".", maxsplit=1)[0] == "chumpy" or module.startswith("scipy.sparse"):
            return _stub(module, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in (
            "_reconstruct", "scalar",
        ):  # fmt: skip
            return getattr(np._core.multiarray, name)  # pyright: ignore
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) in (("copy_reg", "_reconstructor"), ("copyreg", "_reconstructor")):
            return _rebuilt
        if module in ("__builtin__", "builtins") and name in _PLAIN:
            return _PLAIN[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("_codecs", "encode"):  # bytes of Python 2
            return lambda text, _: text.encode("latin1")
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no FLAME model needs")


def _rebuilt(kind: Any, *_: Any) -> Any:
    return kind()


def _unpickled(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _Reader(file, encoding="latin1").load()
    except OSError as error:
        raise InputError(f"--flame {path} cannot be read ({error.strerror})") from None
    except Exception as error:  # a broken pickle can raise anything
        raise InputError(
            f"--flame {path} is no FLAME pickle ({error}); expected flame2023.pkl or its like from "
            "flame.is.tue.mpg.de"
        ) from None


def _dense(value: Any, path: Path, name: str) -> np.ndarray:
    """An array, whatever held it: numpy, chumpy (its `x`), SciPy's compressed rows or columns."""
    if isinstance(value, _Stub):
        state = value.state
        if "indptr" in state:
            return _uncompressed(value)
        held = state.get("x", state.get("_x"))
        if isinstance(held, _Stub):
            return _dense(held, path, name)
        if held is None:  # a product or a choice, say, which chumpy would work out
            raise InputError(
                f"{path}: {name} is a {value.name} and no plain array; with chumpy installed, "
                f"store numpy.array(model[{name!r}]) in its place"
            )
        value = held
    try:
        found = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        found = np.full(1, np.nan)
    if not found.size or not np.isfinite(found).all():
        raise InputError(f"{path}: {name} is no array of numbers")
    return found


def _uncompressed(value: _Stub) -> np.ndarray:
    state = value.state
    shape = tuple(state["_shape"] if "_shape" in state else state["shape"])
    by_column = "csc" in value.name
    dense = np.zeros(shape if not by_column else shape[::-1])
    for row, (start, end) in enumerate(zip(state["indptr"][:-1], state["indptr"][1:], strict=True)):
        np.add.at(dense[row], state["indices"][start:end], state["data"][start:end])
    return dense.T.copy() if by_column else dense
