"""What is asked for, with everything filled in, and whether an earlier call has answered it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import topohead
from topohead.core.errors import InputError
from topohead.io.bridges import ICT, landmark_file
from topohead.io.digests import digest, plain
from topohead.io.scans import companions
from topohead.io.weights import SHIPPED, read_weights
from topohead.workflows.register import RegisterConfig
from topohead.workflows.registering.topologies import topology_name

NETWORK = "register"
"""The name of the network's weights."""

WITHOUT_EFFECT = (
    "source", "out", "weights", "jobs", "restart", "report", "json", "sequence", "force",
)  # fmt: skip
"""Settings that say where and how to work, not what comes out for one scan; weights have a hash of
their own."""


def resolved(config: RegisterConfig) -> RegisterConfig:
    """The settings with what depends on the machine and on the weights filled in."""
    import torch

    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda: torch finds no CUDA device; leave --device out, "
            "or see what `topohead doctor` says is missing"
        )
    topologies = tuple(Path(path) for path in config.topology)
    if topologies and config.level != 1:
        raise InputError("--topology starts from level 1; leave --level out")
    names = [topology_name(path) for path in topologies]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--topology: two are called {name}, and so would be their files")
    if config.sequence:
        for flag, given in (
            ("topology", topologies), ("neutral", config.neutral),
            ("reference-frame", config.reference_frame),
        ):  # fmt: skip
            if given:
                raise InputError(
                    f"--{flag} is for single scans; of a sequence's run, `topohead export` and "
                    "`topohead rig` make it"
                )
    asked = [("topology", path) for path in topologies if str(path) != ICT]
    for flag, path in [*asked, ("texture", config.texture)]:
        if path is not None and not Path(path).exists():
            raise InputError(f"--{flag} {path}: no such file")
    there = config.weights is not None or NETWORK in SHIPPED
    method = config.method or ("network+refine" if there else "pca+refine")
    if method.startswith("network") and not there:
        raise InputError(
            f"--method {method} needs the network's weights, which this package does not have; "
            "use --method pca+refine, or train them (`topohead train register --out RUN`) and "
            "name them with --weights"
        )
    if config.weights is not None and not method.startswith("network"):
        raise InputError(f"--weights is for the network, not for --method {method}")
    return replace(
        config, source=Path(config.source), out=Path(config.out), method=method, device=device,
        topology=topologies,
    )  # fmt: skip


def weights_hash(config: RegisterConfig) -> str | None:
    """The hash of the network's weights, where the method uses it."""
    if config.method is None or not config.method.startswith("network"):
        return None
    return SHIPPED[NETWORK] if config.weights is None else read_weights(config.weights).hash


def request_hash(config: RegisterConfig) -> str:
    """16 digits that two requests share when they must come to the same head."""
    settings = {k: v for k, v in plain(config).items() if k not in WITHOUT_EFFECT}
    named = (path for path in (*config.topology, config.texture) if path and path.exists())
    guides = (landmark_file(path) for path in config.topology)
    inputs = [config.source, *companions(config.source), *named, *(g for g in guides if g.exists())]
    hashes = weights_hash(config), digest(*inputs, sampled=None)
    told = json.dumps([topohead.__version__, settings, *hashes], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def read_manifest(path: Path) -> Mapping[str, Any] | None:
    """A manifest of `register`; None where there is none or it cannot be read."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("verb") == "register" else None
