"""The people that the registration network knows, as principal modes: what σ is judged by.

    python benchmarks/known_people.py --ict ict_face_model.npz --out src/topohead/weights

Of the linear head that stands beside the network in benchmarks/register.py, some vertices of the
face are kept. `SHIPPED` in topohead.io.weights names the hash that is printed.
"""

import argparse
from pathlib import Path

from register_methods import HEADS, MODES, TRAINING_SEED, linear_head
from register_scans import Bench

from topohead.io.weights import write_weights
from topohead.solvers.scan_known import KnownPeople
from topohead.synthesis.mixture import SOURCES
from topohead.synthesis.shapes import load_shapes


def main() -> None:
    """Draw the people, keep their modes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ict", type=Path, help="ict_face_model.npz")
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--work", type=Path, default=Path("register-work"), help="not published")
    args = parser.parse_args()
    bench = Bench(load_shapes("cpu", args.ict), TRAINING_SEED)
    head = linear_head(bench, SOURCES, args.work)
    known = KnownPeople.of(head.topology, head.template, head.identity_basis)
    tensors = {"rows": known.rows.short(), "mean": known.mean, "modes": known.modes.half()}
    config = {"network": "register-people", "sources": list(SOURCES), "people": HEADS,
              "modes": MODES, "seed": TRAINING_SEED}  # fmt: skip
    print(write_weights(args.out / "register-people.safetensors", tensors, config, {}))


if __name__ == "__main__":
    main()
