"""What the shipped autoencoder of heads can do beyond its training's own evaluation.

    python benchmarks/head_vae.py OUT.json [head-vae.safetensors] [ict_face_model.npz]

Region swaps: how far from a region anything changes, how like the other head's the region is, and
what the border's normals do. Times on a CPU. Test people of seed 720 alone.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from measured_on import commit, hardware
from torch import Tensor

from topohead.core import Mesh, Topology
from topohead.geometry.bridge import fit_bridge
from topohead.geometry.meshes import face_normals
from topohead.geometry.subdivision import catmull_clark, refine
from topohead.io.assets import ict_head, reference_head
from topohead.models.head_queries import bridged, subdivided
from topohead.models.head_vae import HeadVae
from topohead.models.latents import mirrored, reached, region_of, swapped, token_shares
from topohead.models.registration import umeyama
from topohead.synthesis.shapes import load_shapes
from topohead.workflows.head_vae import load_head_vae

SEED, PAIRS = 720, 12
REGIONS = {"nose": ("nose",), "mouth": ("lips",), "ears": ("ears",),
           "eyes": ("eyelids", "eyes", "eye_sockets", "brows")}  # fmt: skip


def main(out: Path, weights: Path | None, ict: Path | None) -> None:
    shapes, network = load_shapes(ict=ict), load_head_vae(weights)
    topology = shapes.topology
    heads = shapes.draw(SEED, range(2 * PAIRS)).rest
    rows = {
        name: swaps(network, region_of(network, topology, *names), heads, topology.triangles)
        for name, names in REGIONS.items()
    }
    flip = torch.tensor([-1.0, 1, 1])
    assert topology.mirror is not None
    tokens = network.encode(heads).mean
    twin = network.encode(heads[:, topology.mirror] * flip).mean
    opposite = network.decode(mirrored(tokens)).points
    expected = network.decode(tokens).points[:, topology.mirror] * flip
    found = {
        "commit": commit(),
        "hardware": hardware(),
        "seed": SEED,
        "swaps": rows,
        "mirror": {
            "tokens_apart": float((twin - mirrored(tokens)).abs().max()),
            "points_apart_mm": float((opposite - expected).norm(dim=-1).max() * 1e3),
        },
        "seconds": times(network, heads, topology),
    }
    found["level 1"] = level_1(network, heads, topology)
    if ict:
        found["ICT-FaceKit's topology"] = elsewhere(network, heads, ict)
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def swaps(
    network: HeadVae, region: Bool[Tensor, " V"], heads: Tensor, triangles: Tensor
) -> dict[str, float]:
    """Means over pairs: of the region against the other head's, mm; of normals at the border."""
    shares = token_shares(network, region)
    changed = reached(network, shares)
    rest = network.rest
    away = torch.cdist(rest[changed].double(), rest[region].double()).amin(1).max()
    border = (changed & ~region)[triangles].any(1) & ~region[triangles].all(1)
    like, kept, bent, plain = [], [], [], []
    for head, other in heads.view(PAIRS, 2, *heads.shape[1:]):
        tokens = swapped(network, head, other, region)
        pair = network.encode(torch.stack([head, other])).mean
        result, own, theirs = network.decode(torch.cat([tokens[None], pair])).points
        shape = umeyama(theirs[None, region], result[None, region]).apply(theirs[None, region])
        like.append((shape[0] - result[region]).norm(dim=-1).mean() * 1e3)
        kept.append((result - own)[~changed].norm(dim=-1).max() * 1e3)
        before, after, far = (face_normals(v, triangles)[border] for v in (own, result, theirs))
        bent.append(torch.rad2deg((before * after).sum(-1).clamp(-1, 1).acos()).mean())
        plain.append(torch.rad2deg((before * far).sum(-1).clamp(-1, 1).acos()).mean())
    means = {name: float(torch.stack(values).mean()) for name, values in
             (("region_to_other_mm", like), ("border_normals_deg", bent),
              ("border_normals_of_both_heads_deg", plain))}  # fmt: skip
    return means | {
        "unchanged_max_mm": float(torch.stack(kept).max()),
        "reach_mm": float(away * 1e3),
        "vertices_changed": int(changed.sum()),
        "vertices_of_region": int(region.sum()),
    }


def level_1(network: HeadVae, heads: Tensor, topology: Topology) -> dict[str, dict[str, float]]:
    """The finer level, subdivided from level 0's answer or asked for itself; mm, and degrees on
    the face."""
    finer, matrix = catmull_clark(topology)
    tokens = network.encode(heads).mean
    asked = network.basis(subdivided(network.queries, matrix))
    ways = {
        "subdivided": refine(matrix, network.decode(tokens).points),
        "asked": torch.cat([network.decode(part, asked).points for part in tokens.split(4)]),
    }
    truth = refine(matrix, heads)
    skin = finer.region_mask("skin")
    face = finer.triangles[finer.region_mask("face")[finer.triangles].all(1)]
    rows = {}
    for name, found in ways.items():
        cosine = (face_normals(found, face) * face_normals(truth, face)).sum(-1)
        rows[name] = {
            "skin_mm": float((found - truth)[:, skin].norm(dim=-1).mean() * 1e3),
            "normals_deg": float(torch.rad2deg(cosine.clamp(-1, 1).acos()).mean()),
        }
    return rows


def elsewhere(network: HeadVae, heads: Tensor, ict: Path) -> dict[str, float]:
    """Another topology asked of the tokens, against the true heads carried there, mm."""
    other = ict_head(ict)
    bridge, _ = fit_bridge(reference_head(0), Mesh(other.topology, other.template))
    basis = network.basis(bridged(network.queries, bridge))
    found = network.decode(network.encode(heads).mean, basis).points
    truth = torch.stack([bridge.vertices(head) for head in heads])
    error = (found - truth).norm(dim=-1)[:, bridge.near].flatten().sort().values * 1e3
    return {
        "vertices": int(bridge.near.sum()),
        "mean_mm": float(error.mean()),
        "p95_mm": float(error[int(0.95 * (len(error) - 1))]),
    }


def times(network: HeadVae, heads: Tensor, topology: Topology) -> dict[str, float]:
    """Best of five, seconds for one head whose basis was made before, and for the basis."""
    _, matrix = catmull_clark(topology)
    tokens = network.encode(heads[:1]).mean
    own = network.basis(network.queries)
    work = {
        "encode": lambda: network.encode(heads[:1]),
        "decode level 0": lambda: network.decode(tokens, own),
        "decode level 1": lambda: refine(matrix, network.decode(tokens, own).points),
        "basis": lambda: network.basis(network.queries),
    }
    return {name: best(each) for name, each in work.items()}


def best(work: Callable[[], Any]) -> float:
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


if __name__ == "__main__":
    given = [Path(word) for word in sys.argv[1:]]
    file = next((path for path in given[1:] if path.suffix == ".safetensors"), None)
    main(given[0], file, next((path for path in given[1:] if path.suffix == ".npz"), None))
