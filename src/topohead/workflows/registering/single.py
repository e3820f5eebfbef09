"""One scan: read, brought to metres, registered, judged, textured, written."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

import topohead
from topohead.core import ARKIT_52, InputError, Mesh
from topohead.core.scans import ScanFit
from topohead.geometry.bridge import Bridge
from topohead.io.assets import reference_head
from topohead.io.atomic import atomic_files, atomic_folder, write_text
from topohead.io.digests import digest, plain
from topohead.io.images import write_image
from topohead.io.scan_pictures import read_picture
from topohead.io.scans import check_file, companions, open_scan
from topohead.solvers.scan_texture import bake_color, bake_heights, is_finer, look_up
from topohead.workflows.progress import track as progress
from topohead.workflows.register import RegisterConfig, RegisteredScan
from topohead.workflows.registering.cutting import cropped, mirrored
from topohead.workflows.registering.files import Place, place_of, write_head
from topohead.workflows.registering.finding import Prepared, found_in
from topohead.workflows.registering.heads import registered_head
from topohead.workflows.registering.methods import fine_vertices
from topohead.workflows.registering.proof import proof
from topohead.workflows.registering.request import read_manifest, request_hash, weights_hash
from topohead.workflows.registering.topologies import bridges_for, write_in_topology
from topohead.workflows.registering.units import find_unit, in_metres, metres_in, unit_name

if TYPE_CHECKING:
    from topohead.solvers.scan_quality import ScanQuality


def register_scan(config: RegisterConfig) -> RegisteredScan:
    """The head of one scan, written; or what an earlier call with the same request has written."""
    place = place_of(config.out)
    check_file(config.source)
    asked = request_hash(config)
    known = finished(place, asked)
    if known is not None and not config.restart:
        return _told(config, known, kept=True)
    check_replaceable(config)
    bridges = bridges_for(config)
    watch = Stopwatch()
    prepared = prepare(config)
    watch.lap("read")
    for _ in progress(range(1), f"registering {config.source.name}"):
        prepared, fit, quality, doubts = found_in(prepared, config)
    warnings = (*prepared.notes, *doubts, *accepted(config, quality, fit))
    watch.lap("register")
    with _whole(config.out) as out:
        written = place_of(out)
        document = write_all(config, written, prepared, fit, bridges, watch)
        document = {
            "verb": "register",
            "topohead": topohead.__version__,
            "request": asked,
            **about(config, prepared, fit, quality, warnings),
            **document,
            "seconds": watch.seconds,
        }
        write_text(written.manifest, json.dumps(_finite(document), indent=2) + "\n")
    return _told(config, document, kept=False)


def about(
    config: RegisterConfig,
    prepared: Prepared,
    fit: ScanFit,
    quality: "ScanQuality",
    warnings: tuple[str, ...],
) -> dict[str, Any]:
    """What the manifest says of the scan, the method and the fit."""
    settings, whole = plain(config), prepared.file.scan
    return {
        "source": settings["source"],
        "input": digest(config.source),
        "settings": {k: v for k, v in settings.items() if k not in ("source", "out", "json")},
        "method": config.method,
        "weights": weights_hash(config),
        "seed": config.seed,
        "unit": unit_name(prepared.unit),
        "unit_metres": metres_in(prepared.unit),
        "scan": {"points": len(whole.points), "triangles": len(whole.triangles)},
        "pose": fit.pose.tolist(),
        "expression": {
            name: round(value, 4)
            for name, value in zip(ARKIT_52, fit.expression.tolist(), strict=True)
        },
        "quality": plain(quality),
        "warnings": list(warnings),
    }


class Stopwatch:
    """Seconds since the lap before, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._since
        self._since = now


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """Where to write: a folder, or a named mesh and what goes with it, appears whole."""
    if not out.suffix or out.is_dir():
        with atomic_folder(out) as folder:
            yield folder
        return
    place = place_of(out)
    known = read_manifest(place.manifest) or {}
    older = known.get("files", ()) if known.get("head") == out.name else ()
    with atomic_files(out.parent, place.manifest.name, older) as folder:
        yield folder / out.name


def prepare(config: RegisterConfig) -> Prepared:
    """The scan in metres."""
    file = open_scan(config.source)
    if config.unit != "auto":  # it names the unit of the file's own numbers
        own = file.scan.points.double() / file.metres_per_unit
        file = replace(file, scan=replace(file.scan, points=own.float()))
    colored = file.picture is not None or file.scan.colors is not None
    if config.texture is not None:
        path = config.texture
        if file.scan.uv is None:
            raise InputError(f"{config.source} has no UVs for the picture --texture {path}")
        file = replace(file, picture=lambda: read_picture(path))
    elif not (colored or file.notes) and file.scan.uv is not None:
        file = replace(file, notes=("has UVs and names no picture: --texture FILE gives it one",))
    if config.crop is not None:
        file = replace(file, scan=cropped(file.scan, config.crop, str(config.source)))
    if config.mirror:
        file = replace(file, scan=mirrored(file.scan))
    if config.unit != "auto":
        unit, doubt = config.unit, ()
    else:
        unit, doubt = find_unit(file.scan, str(config.source), file.metric)
    return Prepared(file, in_metres(file.scan, unit), unit, (*file.notes, *doubt))


def accepted(config: RegisterConfig, quality: "ScanQuality", fit: ScanFit) -> tuple[str, ...]:
    """The warnings about a fit; an InputError where the scan shows no head, unless forced."""
    failures = [*quality.failures.values(), *_fallen(config, fit)]
    if failures and not config.force:
        raise InputError(
            f"{config.source}: {'; '.join(failures)}; nothing was written "
            "(--force writes the best head found, --unit names the unit, --crop cuts out a box)"
        )
    return (*quality.warnings.values(), *failures)


def _fallen(config: RegisterConfig, fit: ScanFit) -> list[str]:
    """That the head which was found does not stand along the axis that was named."""
    if config.up == "auto":
        return []
    axis = {"y": 1, "z": 2}[config.up]
    up = torch.nn.functional.normalize(fit.pose[:3, 1].double(), dim=0)
    if float(up[axis]) > 0.5:
        return []
    told = ", ".join(f"{value:.2f}" for value in up.tolist())
    return [f"the head that was found stands along ({told}), not along {config.up}"]


def write_all(
    config: RegisterConfig,
    place: Place,
    prepared: Prepared,
    fit: ScanFit,
    bridges: Mapping[str, Bridge],
    watch: Stopwatch,
) -> dict[str, Any]:
    """All files but the manifest; gives what the manifest says of them."""
    assert config.method is not None, "resolved"
    base = reference_head(0)
    fine = fine_vertices(prepared.scan, fit, base, config.method, config.level, config.device)
    on_scan = registered_head(fit, config.level, False, fine)
    head = registered_head(fit, config.level, True, fine) if config.reference_frame else on_scan
    watch.lap("level 1")
    texture, heights, facts = bake_maps(config, prepared, on_scan.mesh)
    watch.lap("texture")
    files = write_head(head, place, texture, heights, config.neutral)
    for name, bridge in bridges.items():
        files += write_in_topology(head, bridge, name, place, texture)
    shown = proof(prepared.scan, _picture(prepared), on_scan.mesh, on_scan.rig, texture)
    files.append(place.name("proof.png"))
    write_image(files[-1], shown)
    watch.lap("write")
    sigma_mm = head.sigma.double() * 1000
    return {
        "head": place.head.name,
        "files": [file.relative_to(place.manifest.parent).as_posix() for file in files],
        "frame": "reference" if config.reference_frame else "scan",
        "level": config.level,
        "vertices": len(head.sigma),
        "sigma_mm": {
            "median": float(sigma_mm.median()),
            "p95": float(sigma_mm.quantile(0.95)),
            "max": float(sigma_mm.max()),
        },
        **facts,
    }


def _picture(prepared: Prepared) -> Float[Tensor, "H W 3"] | None:
    return None if prepared.file.picture is None else prepared.file.picture()


def bake_maps(
    config: RegisterConfig, prepared: Prepared, mesh: Mesh
) -> tuple[Float[Tensor, "S S 3"] | None, Float[Tensor, "S S"] | None, dict[str, Any]]:
    """Texture and displacement as far as the scan has them, and what the manifest says of them."""
    scan, size = prepared.scan, config.texture_size
    colored = prepared.file.picture is not None or scan.colors is not None
    relief = is_finer(scan, mesh)
    facts: dict[str, Any] = {"texture": None, "displacement": None}
    if size == 0 or not (colored or relief):
        return None, None, facts
    looked = look_up(scan, mesh, size, config.seed) if len(scan.triangles) else None
    texture, heights = None, None
    if colored:
        texture, seen = bake_color(scan, _picture(prepared), mesh, size, looked)
        facts["texture"] = {"size": size, "seen": seen}
    if relief and looked is not None:
        heights = bake_heights(mesh, size, looked)
        facts["displacement"] = {
            "size": size,
            "rms_mm": float(heights.square().mean().sqrt() * 1e3),
        }
    return texture, heights, facts


# What is on the disk


def finished(place: Place, asked: str) -> Mapping[str, Any] | None:
    """The manifest of an earlier call with this request whose files are all there."""
    known = read_manifest(place.manifest)
    if known is None or known.get("request") != asked or known.get("head") != place.head.name:
        return None
    there = all((place.manifest.parent / name).exists() for name in known.get("files", ()))
    return known if there else None


def check_replaceable(config: RegisterConfig) -> None:
    """Only an earlier head is replaced: nothing that we did not write, nor what is read."""
    out, place = config.out, place_of(config.out)
    known = read_manifest(place.manifest) or {}
    ours = {place.manifest.name, *known.get("files", ())}
    if out.is_dir():
        names = (f.relative_to(out).as_posix() for f in sorted(out.rglob("*")) if f.is_file())
        foreign = next((name for name in names if name not in ours), None)
    else:
        foreign = out.name if out.exists() and not known else None
    if foreign is not None:
        raise InputError(
            f"--out {out} holds {foreign!r}, which `topohead register` did not write there; "
            "choose an empty or a new folder"
            if out.is_dir()
            else f"--out {out} is a file that `topohead register` did not write; choose another"
        )
    if known.get("head") != place.head.name:
        ours = set[str]()  # those of another mesh stay
    written = {place.head.parent.resolve() / name for name in ours}
    read = (config.source, config.texture, *config.topology, *companions(config.source))
    for path in read:
        if path is not None and path.resolve() in written | {place.head.resolve()}:
            raise InputError(f"--out {out} would replace {path}, which is read; choose another")


def _told(config: RegisterConfig, document: Mapping[str, Any], kept: bool) -> RegisteredScan:
    """What the result says of a manifest."""
    quality = document["quality"]
    place = place_of(config.out)
    return RegisteredScan(
        config.source,
        place.manifest.parent / document["head"],
        document["method"],
        document["unit"],
        quality["whole"]["median_mm"],
        quality["whole"]["p95_mm"],
        document["sigma_mm"]["median"],
        sum(document["seconds"].values()),
        kept,
        tuple(document["warnings"]),
    )


def _finite(value: Any) -> Any:
    """JSON has no word for what is no number."""
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
