"""A registered head in a topology of the user's own, over a bridge from the reference head."""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from topohead.core import InputError, Mesh
from topohead.core.scans import Scan
from topohead.geometry.bridge import Bridge
from topohead.geometry.carried_rigs import rig_in_topology, sigma_in_topology
from topohead.io.bridges import ENDING, bridge_to
from topohead.io.images import write_image
from topohead.rendering.uv_carrying import carried_texture
from topohead.workflows.register import RegisterConfig
from topohead.workflows.registering.files import Place, write_mesh
from topohead.workflows.registering.heads import RegisteredHead, level_one
from topohead.workflows.registering.methods import fit_scan, means_of
from topohead.workflows.registering.network import load_people
from topohead.workflows.registering.units import find_unit, in_metres, metres_in, units_of_head


def topology_name(path: Path) -> str:
    """What the files of a topology are called after."""
    return path.name.removesuffix(ENDING) if path.name.endswith(ENDING) else path.stem


def bridges_for(config: RegisterConfig) -> dict[str, Bridge]:
    """The bridge to each `--topology`, by its name; InputError where one cannot be made."""
    return {topology_name(path): bridge_for(config, path) for path in config.topology}


def bridge_for(config: RegisterConfig, topology: Path) -> Bridge:
    """The bridge to a `--topology`: made once with the method that registers scans, then cached."""
    assert config.method is not None
    method = config.method

    def find(mesh: Mesh) -> Float[Tensor, "V 3"]:
        scan = Scan(mesh.vertices, mesh.topology.triangles)
        unit, _ = find_unit(scan, str(topology))
        if not isinstance(unit, str) and not method.startswith("network"):
            raise InputError(
                f"{topology} is as large as a head in no unit, and --method {method} cannot tell: "
                "leave --method out, or give it 68 landmarks"
            )
        fit, _ = fit_scan(in_metres(scan, unit), load_people(), method, means_of(config))
        if not isinstance(unit, str):
            unit = units_of_head(fit, unit)[0]
            fit, _ = fit_scan(in_metres(scan, unit), load_people(), method, means_of(config))
        return level_one(fit) / metres_in(unit)

    return bridge_to(topology, find)


def write_in_topology(
    head: RegisteredHead,
    bridge: Bridge,
    name: str,
    place: Place,
    texture: Float[Tensor, "S S 3"] | None,
) -> list[Path]:
    """The files of a head of level 1 in the bridge's target, called after it; gives their paths.

    The texture goes into the target's UVs, where it has some.
    """
    there = RegisteredHead(
        Mesh(bridge.target, bridge.vertices(head.mesh.vertices)),
        rig_in_topology(head.rig, bridge),
        head.expression,
        sigma_in_topology(head.sigma, bridge),
    )
    written: list[Path] = []
    picture = None
    if texture is not None and len(bridge.target.uv):
        picture = place.name(f"textures/{name}_albedo_srgb.png")
        write_image(picture, carried_texture(texture, bridge, len(texture)))
        written.append(picture)
    for suffix in place.formats:
        path = place.head.with_name(f"{place.head.stem}_{name}{suffix}")
        written += write_mesh(there, path, picture)
    return written
