"""What the shipped autoencoder of heads can do beyond its training's own evaluation.

    python benchmarks/head_vae.py OUT.json [head-vae.safetensors] [ict_face_model.npz]

Region swaps: how far from a region anything changes, how like the other head's the region is, and
what the border's normals do. What is lost region by region, and what σ says of it. Times on a CPU.
Test people of seed 720 alone.
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
from topohead.geometry.registered import coverage
from topohead.geometry.subdivision import catmull_clark, refine
from topohead.io.assets import ict_head, reference_head
from topohead.models.head_queries import bridged, subdivided
from topohead.models.head_vae import HeadVae
from topohead.models.latents import mirrored, reached, region_of, swapped, token_shares
from topohead.models.registration import umeyama
from topohead.synthesis.datasets import PosedPeople
from topohead.synthesis.expressions import draw_expressions
from topohead.synthesis.shapes import Shapes, load_shapes
from topohead.workflows.head_vae import load_head_vae

SEED, PAIRS, LOST = 720, 12, 64
SEEN = 1e-4
"""Change that counts as one, metres."""
REGIONS = {"nose": ("nose",), "mouth": ("lips",), "ears": ("ears",),
           "eyes": ("eyelids", "eyes", "eye_sockets", "brows")}  # fmt: skip
LOST_IN = ("face", "lips", "eyelids", "ears", "scalp", "mouth_interior")


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
        "lost": lost(network, shapes),
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
    border = (changed & ~region)[triangles].any(1) & ~region[triangles].all(1)
    apart = torch.cdist(rest.double(), rest[region].double()).amin(1) * 1e3
    like, kept, bent, plain, seen = [], [], [], [], []
    for head, other in heads.view(PAIRS, 2, *heads.shape[1:]):
        tokens = swapped(network, head, other, region)
        pair = network.encode(torch.stack([head, other])).mean
        result, own, theirs = network.decode(torch.cat([tokens[None], pair])).points
        shape = umeyama(theirs[None, region], result[None, region]).apply(theirs[None, region])
        like.append((shape[0] - result[region]).norm(dim=-1).mean() * 1e3)
        kept.append((result - own)[~changed].norm(dim=-1).max() * 1e3)
        before, after, far = (face_normals(v, triangles)[border] for v in (own, result, theirs))
        seen.append(apart[(result - own).norm(dim=-1) > SEEN].max())
        bent.append(torch.rad2deg((before * after).sum(-1).clamp(-1, 1).acos()).mean())
        plain.append(torch.rad2deg((before * far).sum(-1).clamp(-1, 1).acos()).mean())
    named = {
        "region_to_other_mm": like,
        "changed_by_a_tenth_within_mm": seen,
        "border_normals_deg": bent,
        "border_normals_of_both_heads_deg": plain,
    }
    means = {name: float(torch.stack(values).mean()) for name, values in named.items()}
    return means | {
        "unchanged_max_mm": float(torch.stack(kept).max()),
        "reach_mm": float(apart[changed].max()),
        "vertices_changed": int(changed.sum()),
        "vertices_of_region": int(region.sum()),
    }


def lost(network: HeadVae, shapes: Shapes) -> dict[str, float]:
    """People, half of them moving, less what their tokens say: mm by region and the worst vertex,
    and the shares of vertices where σ says that 50 and 90 per cent lie."""
    truth, _ = PosedPeople(shapes, draw_expressions, SEED).at(torch.arange(LOST))
    found = network.decode(network.encode(truth).mean)
    error = 1e3 * (found.points - truth).norm(dim=-1)
    regions = {name: float(error[:, shapes.topology.regions[name]].mean()) for name in LOST_IN}
    sigma = 1e-3 * found.log_sigma.exp().flatten()
    within = {
        f"within_{k}": float(coverage(found.points.flatten(0, 1), truth.flatten(0, 1), sigma, k))
        for k in (50, 90)
    }
    return {"people": LOST} | regions | {"worst_mm": float(error.max())} | within


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
    face = finer.triangles[finer.triangle_mask("face")]
    rows = {}
    for name, found in ways.items():
        cosine = (face_normals(found, face) * face_normals(truth, face)).sum(-1)
        rows[name] = {
            "skin_mm": float((found - truth)[:, skin].norm(dim=-1).mean() * 1e3),
            "normals_deg": float(torch.rad2deg(cosine.clamp(-1, 1).acos()).mean()),
        }
    return rows


def elsewhere(network: HeadVae, heads: Tensor, ict: Path) -> dict[str, float]:
    """Another topology asked of the tokens, or carried from level 0's answer by the bridge, against
    the true heads carried there; mm."""
    other = ict_head(ict)
    bridge, _ = fit_bridge(reference_head(0), Mesh(other.topology, other.template))
    basis = network.basis(bridged(network.queries, bridge))
    tokens = network.encode(heads).mean
    near = bridge.near
    ways = {
        "asked": network.decode(tokens, basis).points,
        "carried": torch.stack([bridge.vertices(p) for p in network.decode(tokens).points]),
    }
    truth = torch.stack([bridge.vertices(head) for head in heads])
    return {"vertices": int(near.sum())} | {
        f"{name}_mm": float((found - truth)[:, near].norm(dim=-1).mean() * 1e3)
        for name, found in ways.items()
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
