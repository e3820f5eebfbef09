"""A pickle with the arrays of FLAME and none of its numbers."""

import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from scipy import sparse

from cap4d_photos import identity, planted_points
from topohead.core import ARKIT_52
from topohead.geometry.correspondence import interpolate
from topohead.io.assets import reference_head


def planted_flame() -> dict[str, Any]:
    """Points of the reference head as vertices; its jaw and smile as expressions 300 and 301."""
    head, points = reference_head(0), planted_points()
    triangles = head.topology.triangles
    random = np.random.default_rng(4)

    def at(values: Any) -> np.ndarray:
        return interpolate(points, triangles, values.double()).numpy()

    person = head.vertices(identity()[None], torch.zeros(1, 52))[0]
    directions = 1e-4 * random.normal(size=(5023, 3, 400))
    directions[..., 300] = at(head.expression_basis[ARKIT_52.index("jawOpen")])
    directions[..., 301] = at(head.expression_basis[ARKIT_52.index("mouthSmileLeft")])
    weights = random.random((5023, 5))
    rows = np.repeat(np.arange(5), 4)
    columns = random.integers(0, 5023, 20)
    return {
        "v_template": at(person),
        "shapedirs": directions,
        "posedirs": 1e-5 * random.normal(size=(5023, 3, 36)),
        "J_regressor": sparse.csc_matrix((np.full(20, 0.25), (rows, columns)), (5, 5023)),
        "weights": weights / weights.sum(1, keepdims=True),
        "f": random.integers(0, 5023, (30, 3)),
    }


class Ch:
    """Pickles as a chumpy array does: of a library that readers lack, with all of its state."""

    def __init__(self, x: np.ndarray) -> None:
        self._dirty_vars = {"x"}
        self._itr = None
        self._make_dense = self._make_sparse = False
        self._depends_on_deps = {}
        self.x = x


def write_flame(path: Path, arrays: dict[str, Any], chumpy: bool = False) -> Path:
    """The arrays as a pickle of protocol 2, bare or as the published files have them.

    Those were written by Python 2: arrays within chumpy objects, whole numbers of 32 bits, the
    regressor by SciPy's old module, and words beside them that nobody reads.
    """
    held = dict(arrays)
    if chumpy:
        module = ModuleType("chumpy.ch")
        kind = type("Ch", (Ch,), {"__module__": "chumpy.ch", "__qualname__": "Ch"})
        module.Ch = kind  # pyright: ignore[reportAttributeAccessIssue]
        sys.modules |= {"chumpy": ModuleType("chumpy"), "chumpy.ch": module}
        names = ("v_template", "shapedirs", "posedirs", "weights")
        held |= {name: kind(held[name]) for name in names}
        held |= {
            "f": held["f"].astype(np.uint32),
            "J": np.zeros((5, 3)),
            "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], range(5)], np.uint32),
            "bs_style": "lbs",
            "bs_type": "lrotmin",
        }
    try:
        stored = pickle.dumps(held, protocol=2)
        old = stored.replace(b"cscipy.sparse._csc\n", b"cscipy.sparse.csc\n")
        path.write_bytes(old if chumpy else stored)
    finally:
        for name in ("chumpy", "chumpy.ch"):
            sys.modules.pop(name, None)
    return path
