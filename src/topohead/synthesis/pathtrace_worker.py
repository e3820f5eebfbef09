"""The child process of `synthesis.pathtrace`: reads a job folder, renders it with Mitsuba 3.

Run as a module with the folder as its argument. Uses the compiled variant when libLLVM is found
(Mitsuba needs version 19 or later), else the plain one, which is several times slower.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

BOUNCES = 3
"""Reflections followed; more adds about 1 % on skin."""

SPECULAR = 0.35
"""Mitsuba's measure of f0 = 0.028: skin and eyes."""


def render_job(folder: Path) -> None:
    """Write NAME.npy for every camera of the job: linear RGB, premultiplied, and coverage."""
    mitsuba = _load_mitsuba()
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    arrays = dict(np.load(folder / "scene.npz"))
    scenes = [_scene(mitsuba, job | {"light": light}, arrays) for light in _lights(job["light"])]
    for index, camera in enumerate(job["cameras"]):
        sensor = mitsuba.load_dict(_sensor(mitsuba, camera, job["samples"]))
        images = [
            np.array(mitsuba.render(scene, sensor=sensor, seed=job["seed"] + index), np.float32)
            for scene in scenes
        ]
        whole = sum(images[1:], images[0])
        whole[..., 3] = images[0][..., 3]
        np.save(folder / f"{camera['name']}.npy", whole)


def _lights(light: dict[str, Any]) -> list[dict[str, Any]]:
    """The light as one, or `apart`: the sky, then each lamp without the others.

    Apart, lamps do not stand in each other's way, and no sample goes to the wrong one.
    """
    if not light.get("apart"):
        return [light]
    alone = [light | {"lamps": [lamp], "sky": False} for lamp in light["lamps"]]
    return [light | {"lamps": []}, *alone]


def _load_mitsuba() -> Any:
    # an optional extra, only here
    import mitsuba  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    try:
        mitsuba.set_variant("llvm_ad_rgb")
        import drjit  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

        float(drjit.sum(mitsuba.Float([1.0, 2.0]))[0])  # fails when libLLVM is missing
    except Exception:
        mitsuba.set_variant("scalar_rgb")
    return mitsuba


def _scene(mitsuba: Any, job: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    light = job["light"]
    parts: dict[str, Any] = {
        "type": "scene",
        "integrator": {"type": "path", "max_depth": BOUNCES + 1, "hide_emitters": True},
        "skin": _skin(mitsuba, job, arrays),
    }
    if light.get("sky", True):
        parts["sky"] = {"type": "envmap", "bitmap": mitsuba.Bitmap(_sky(light, arrays))}
    if "prop_vertices" in arrays:
        parts["prop"] = _prop(mitsuba, arrays)
    transform = mitsuba.ScalarTransform4f
    for number, lamp in enumerate(light["lamps"]):
        radiance = {"type": "rgb", "value": list(lamp["radiance"])}
        if light.get("balls"):
            parts[f"lamp{number}"] = {
                "type": "sphere",
                "center": lamp["position"],
                "radius": lamp["radius"],
                "emitter": {"type": "area", "radiance": radiance},
            }
            continue
        place = transform().look_at(lamp["position"], job["center"], [0, 1, 0])
        parts[f"lamp{number}"] = {
            "type": "disk",
            "to_world": place @ transform().scale(lamp["radius"]),
            "emitter": {"type": "area", "radiance": radiance},
        }
    return mitsuba.load_dict(parts)


def _sky(light: dict[str, Any], arrays: dict[str, np.ndarray], rows: int = 64) -> np.ndarray:
    """Radiance by direction, top row straight up: as given, or linear in the height."""
    if "sky" in arrays:
        return arrays["sky"].astype(np.float32)
    blend = 0.5 + 0.5 * np.cos(np.pi * (np.arange(rows) + 0.5) / rows)
    below, above = np.array(light["below"]), np.array(light["above"])
    column = below + blend[:, None] * (above - below)
    return np.repeat(column[:, None], 2 * rows, 1).astype(np.float32)


def _skin(mitsuba: Any, job: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    def texture(name: str) -> dict[str, Any]:
        values = arrays[name].astype(np.float32)
        bitmap = mitsuba.Bitmap(values if values.ndim == 3 else values[..., None])
        return {"type": "bitmap", "bitmap": bitmap, "raw": True, "wrap_mode": "clamp"}

    if job["gloss"] > 0:
        surface = {
            "type": "principled",
            "base_color": texture("albedo"),
            "roughness": texture("roughness"),
            "specular": min(1.0, SPECULAR * job["gloss"]),
        }
    else:
        surface = {"type": "diffuse", "reflectance": texture("albedo")}
    bumpy = {"type": "bumpmap", "height": texture("height"), "surface": surface}
    return _mesh(
        mitsuba,
        "skin",
        arrays["skin_vertices"],
        arrays["skin_triangles"],
        bumpy,
        arrays["skin_normals"],
        arrays["skin_uv"],
    )


def _prop(mitsuba: Any, arrays: dict[str, np.ndarray]) -> Any:
    color = {"type": "mesh_attribute", "name": "vertex_color"}
    surface = {"type": "diffuse", "reflectance": color}
    mesh = _mesh(mitsuba, "prop", arrays["prop_vertices"], arrays["prop_triangles"], surface)
    mesh.add_attribute("vertex_color", 3, arrays["prop_colors"].astype(np.float32).ravel())
    return mesh


def _mesh(
    mitsuba: Any,
    name: str,
    vertices: np.ndarray,
    triangles: np.ndarray,
    surface: dict[str, Any],
    normals: np.ndarray | None = None,
    uv: np.ndarray | None = None,
) -> Any:
    properties = mitsuba.Properties()
    properties["bsdf"] = mitsuba.load_dict(surface)
    mesh = mitsuba.Mesh(
        name,
        vertex_count=len(vertices),
        face_count=len(triangles),
        has_vertex_normals=normals is not None,
        has_vertex_texcoords=uv is not None,
        props=properties,
    )
    values = mitsuba.traverse(mesh)
    values["vertex_positions"] = np.ascontiguousarray(vertices, np.float32).ravel()
    values["faces"] = np.ascontiguousarray(triangles, np.uint32).ravel()
    if normals is not None:
        values["vertex_normals"] = np.ascontiguousarray(normals, np.float32).ravel()
    if uv is not None:
        values["vertex_texcoords"] = _flipped(uv).ravel()
    values.update()
    return mesh


def _flipped(uv: np.ndarray) -> np.ndarray:
    """Mitsuba reads a bitmap's first row at v = 0; ours is at v = 1."""
    return np.stack([uv[:, 0], 1 - uv[:, 1]], 1).astype(np.float32)


def _sensor(mitsuba: Any, camera: dict[str, Any], samples: int) -> dict[str, Any]:
    """A centred ideal camera; Mitsuba's looks along +z with x to the left and y up."""
    to_world = np.linalg.inv(np.array(camera["world_to_camera"])) @ np.diag([-1.0, -1.0, 1.0, 1.0])
    width, height = camera["size"]
    return {
        "type": "perspective",
        "fov": float(np.degrees(2 * np.arctan(0.5 * width / camera["focal"]))),
        "fov_axis": "x",
        "to_world": mitsuba.ScalarTransform4f(to_world),
        "near_clip": 0.05,
        "film": {
            "type": "hdrfilm",
            "width": width,
            "height": height,
            "pixel_format": "rgba",
            "component_format": "float32",
            "rfilter": {"type": "box"},
        },
        "sampler": {"type": "independent", "sample_count": samples},
    }


if __name__ == "__main__":
    render_job(Path(sys.argv[1]))
