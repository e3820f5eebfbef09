"""A head that is known on the reference topology, as a head of any topology that has a bridge."""

import torch

from topohead.geometry.bridge import Bridge
from topohead.geometry.skinning import FaceRig, rigged


def rig_in_topology(rig: FaceRig, bridge: Bridge) -> FaceRig:
    """The same person and actions on the bridge's target, in the rig's frame, metres.

    The rig must be of the bridge's source topology. Regions and landmarks are those of
    `bridge.target`; actions follow the carried skin, eyeballs and teeth keep their shape, the neck
    relaxes from the target's rim.
    """
    if rig.topology.fingerprint != bridge.source.fingerprint:
        raise ValueError(
            f"a bridge from {bridge.source.name} with {bridge.source.vertex_count} vertices cannot "
            f"carry a rig of {rig.topology.vertex_count}"
        )
    neutral = bridge.vertices(rig.neutral)
    blendshapes = bridge.deltas(rig.neutral, rig.blendshapes)
    return rigged(bridge.target, neutral, blendshapes, rig.upright)


def sigma_in_topology(sigma: torch.Tensor, bridge: Bridge) -> torch.Tensor:
    """Expected errors [V0] of the source's vertices as those of the target's [V]."""
    return bridge.values(sigma[:, None])[:, 0]
