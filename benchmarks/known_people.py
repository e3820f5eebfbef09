"""The people that the registration network knows, as principal modes: what scans are fitted with.

    python benchmarks/known_people.py --ict ict_face_model.npz --out src/topohead/weights

They are the linear head that stands beside the network in benchmarks/register.py. `SHIPPED` in
topohead.io.weights names the hash that is printed.
"""

import argparse
from pathlib import Path

from register_methods import HEADS, MODES, TRAINING_SEED, linear_head
from register_scans import Bench

from topohead.io.weights import write_weights
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
    tensors = {"mean": head.template, "modes": head.identity_basis.half()}
    config = {"network": "register-people", "sources": list(SOURCES), "people": HEADS,
              "modes": MODES, "seed": TRAINING_SEED}  # fmt: skip
    print(write_weights(args.out / "register-people.safetensors", tensors, config, {}))


if __name__ == "__main__":
    main()
