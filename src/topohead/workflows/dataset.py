"""`topohead dataset`: training sets of made people on disk, for networks that train elsewhere."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from topohead.core.errors import InputError, check_ranges
from topohead.synthesis.splits import SEEDS, Split, check_split

if TYPE_CHECKING:
    import torch

    from topohead.synthesis.people import PortraitPeople
    from topohead.synthesis.stored import Stored
    from topohead.synthesis.views import HeadViews

log = logging.getLogger(__name__)

SIZES = {"portraits": 256, "tracks": 256, "views": 256, "heads": 512}
"""Pixels a side by default."""

FREE = ("out", "shard", "device", "json")
"""Settings that do not decide what a dataset holds."""

RANGES = {
    "count": (1, float("inf")), "shard_size": (1, float("inf")), "looks": (1, 100_000),
    "size": (16, 8192), "texture_size": (16, 8192), "references": (1, 64), "targets": (1, 64),
    "points": (64, 1_000_000), "grooms": (1, 4),
}  # fmt: skip
"""What the numbers may be; a person has four grooms (`synthesis.views.GROOMS`)."""


@dataclass(frozen=True)
class DatasetConfig:
    """A training set of made people. The same command goes on after an interruption."""

    kind: Literal["portraits", "scans", "tracks", "views", "heads"]
    """portraits; scans of heads; tracks: crops with the pixel of every vertex; views: sets of one
    person from several cameras; heads: one person with and without hair."""
    out: Path
    """Folder of the dataset."""
    count: int = 1024
    """Number of samples; of people with --layout synhead100."""
    split: Split = "train"
    """Whose seeds: train, validation and test never share a person, a look or a scene."""
    seed: int | None = None
    """Decides everything; one of the split's, by default its first."""
    size: int | None = None
    """Pixels a side; by default 256, 512 for heads."""
    looks: int = 64
    """Skins with hair and teeth that people share; each takes seconds to paint."""
    texture_size: int = 512
    """Side of a skin's maps in texels."""
    references: int = 4
    """Views of a set to imagine others from."""
    targets: int = 4
    """Views of a set to imagine."""
    points: int = 4096
    """Most points of a scan."""
    layout: Literal["webdataset", "synhead100"] = "webdataset"
    """webdataset: tar files of samples; synhead100: folders of heads, 53 expressions x 72 views."""
    grooms: int = 1
    """Hair styles of each person with --layout synhead100, beside the bald one."""
    shard_size: int = 1024
    """Samples of a tar file."""
    shard: str = "0/1"
    """I/N: write every N-th file (or person) from the I-th on; N processes write all."""
    ict: Path | None = None
    """ICT-FaceKit model file, for more shapes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where samples are made; auto: cuda where there is one."""
    json: bool = False
    """Print one JSON object instead of lines."""


@dataclass(frozen=True)
class WrittenDataset:
    """Where the dataset is, and how many of its samples and files this call left there."""

    out: Path
    kind: str
    seed: int
    samples: int
    files: int

    def summary(self) -> str:
        return f"{self.samples} {self.kind} of seed {self.seed} in {self.files} files in {self.out}"


def dataset(config: DatasetConfig) -> WrittenDataset:
    """Write samples into `config.out`; files that are there already are kept."""
    from topohead.io.shards import write_shards
    from topohead.workflows.progress import track

    seed, (part, parts) = _checked(config), _part(config.shard)
    _begin(config, seed)
    device = _device(config.device)
    if config.layout == "synhead100":
        return _rings(config, seed, part, parts, device)
    stored = _stored(config, seed, device)
    firsts = range(part * config.shard_size, config.count, parts * config.shard_size)
    written = write_shards(config.out, config.count, stored.samples, config.shard_size, part, parts)
    files = list(track(written, "dataset", total=len(firsts)))
    samples = sum(min(config.shard_size, config.count - first) for first in firsts)
    if part == 0 and stored.picture:
        _contact_sheet(files[0], stored.picture, config.out / "contact.jpg")
    return WrittenDataset(config.out, config.kind, seed, samples, len(files))


def _checked(config: DatasetConfig) -> int:
    check_ranges(vars(config), RANGES)
    if config.layout == "synhead100" and config.kind != "heads":
        raise InputError(f"--layout synhead100 is for heads, not {config.kind}")
    seed = SEEDS[config.split].start if config.seed is None else config.seed
    try:
        return check_split(seed, config.split)
    except ValueError as error:
        raise InputError(f"--seed {seed}: {error}") from error


def _part(text: str) -> tuple[int, int]:
    words = text.split("/")
    if len(words) == 2 and all(word.isdigit() for word in words) and int(words[0]) < int(words[1]):
        return int(words[0]), int(words[1])
    raise InputError(f"--shard {text}: expected I/N with 0 <= I < N, such as 0/4")


def _begin(config: DatasetConfig, seed: int) -> None:
    """Says in `dataset.json` what is written; refuses a folder of anything else."""
    from topohead.io.atomic import write_text

    settings = {k: v for k, v in asdict(config).items() if k not in FREE}
    settings |= {"seed": seed, "ict": None if config.ict is None else str(config.ict)}
    path = config.out / "dataset.json"
    if path.exists():
        before = json.loads(path.read_text())["settings"]
        for name, value in settings.items():
            if before.get(name) != value:
                flag = "--" + name.replace("_", "-")
                raise InputError(
                    f"{config.out} was begun with {flag} {before.get(name)}, not {value}; give the "
                    "same settings or another folder"
                )
        return
    if config.out.exists() and any(config.out.iterdir()):
        raise InputError(f"{config.out} holds something else; give an empty or a new folder")
    config.out.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"settings": settings}, indent=1) + "\n")


def _device(name: str) -> "torch.device":
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: there is no CUDA device; give --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _stored(config: DatasetConfig, seed: int, device: "torch.device") -> "Stored":
    """The samples of a kind and what is kept of them."""
    from topohead.synthesis import stored, views

    batch = 64 if device.type == "cuda" else 4
    if config.kind == "scans":
        return stored.stored_scans(_scans(config, seed, device), batch)
    if config.kind == "heads":
        return stored.stored_heads(_heads(config, seed, device), batch)
    people = _people(config, seed, device)
    if config.kind == "tracks":
        return stored.stored_tracks(views.Tracks(people), batch)
    if config.kind == "views":
        source = views.ViewSets(people, config.references, config.targets)
        return stored.stored_views(source, max(batch // 8, 1))
    return stored.stored_portraits(people, batch)


def _people(config: DatasetConfig, seed: int, device: "torch.device") -> "PortraitPeople":
    from topohead.synthesis.people import load_people
    from topohead.synthesis.views import HAIR

    size, bare = config.size or SIZES[config.kind], config.kind == "heads"
    return load_people(
        seed, (size, size), config.looks, config.texture_size, device, config.ict,
        rooted=not bare, dressed=not bare, hair=HAIR if bare else None,
        told=lambda done: log.info("painted %d of %d looks", done, config.looks),
    )  # fmt: skip


def _heads(config: DatasetConfig, seed: int, device: "torch.device") -> "HeadViews":
    from topohead.synthesis.views import HeadViews

    return HeadViews(_people(config, seed, device))


def _scans(config: DatasetConfig, seed: int, device: "torch.device") -> Any:
    from topohead.synthesis.datasets import PosedPeople, ScanSource
    from topohead.synthesis.expressions import draw_expressions
    from topohead.synthesis.scan_surface import scan_surface
    from topohead.synthesis.shapes import load_shapes

    shapes = load_shapes(device, config.ict)
    people = PosedPeople(shapes, draw_expressions, seed)
    return ScanSource(
        people,
        scan_surface(shapes.topology, shapes.head.template.cpu()).to(device),
        seed,
        config.points,
    )


def _rings(
    config: DatasetConfig, seed: int, part: int, parts: int, device: "torch.device"
) -> WrittenDataset:
    """People in every expression from all round, bald and with their hair, person by person."""
    from topohead.io import synhead100
    from topohead.workflows.progress import track

    source = _heads(config, seed, device)
    names = [f"{person:04d}" for person in range(config.count)]
    mine = range(part, config.count, parts)
    for person in track(mine, "dataset"):
        if not synhead100.identity_done(config.out, names[person]):
            _ring(source, person, names[person], config)
    joined = synhead100.join_labels(config.out, names)
    files = len(mine) * (1 + config.grooms) * 53 * 72
    if not joined:
        log.info("label files follow once all people are there")
    return WrittenDataset(config.out, config.kind, seed, len(mine), files)


def _ring(source: "HeadViews", person: int, name: str, config: DatasetConfig) -> None:
    import torch

    from topohead.core import ARKIT_52, Mesh
    from topohead.geometry.correspondence import interpolate
    from topohead.io import synhead100
    from topohead.synthesis.stored import pictures

    topology = source.people.shapes.topology
    size = source.people.scenes.size[0]
    cameras: dict[str, list[float]] = {}
    actions: dict[str, list[float]] = {}
    for number, expression in enumerate(("neutral", *ARKIT_52)):
        face = torch.zeros(len(ARKIT_52))
        if number:
            face[number - 1] = 1.0
        for slot in range(config.grooms):
            made = source.ring(person, face, slot)
            sets: Sequence[tuple[bool, str, Any, Any]] = [
                (False, f"{name}_{slot}", made.rgb, made.alpha)
            ]
            if slot == 0:
                vertices = made.vertices[0].cpu()
                lips = interpolate(topology.landmarks["ibug68"], topology.triangles, vertices)
                mesh = Mesh(topology, vertices)
                synhead100.write_shape(config.out, name, expression, mesh, lips[48:60])
                sets = [*sets, (True, name, made.bald, made.bald_alpha)]
            for bald, identity, rgb, alpha in sets:
                paths = synhead100.write_pictures(
                    config.out, bald, identity, expression, pictures(rgb, alpha), size
                )
                for k, path in enumerate(paths):
                    camera = (made.world_to_camera[k].cpu(), made.intrinsics[k].cpu())
                    cameras[path] = synhead100.camera_label(*camera, size)
                    actions[path] = face.tolist()
    synhead100.write_labels(config.out, name, cameras, actions)


def _contact_sheet(shard: Path, picture: str, out: Path) -> None:
    """The first samples' pictures of a shard side by side, at most 1,024 pixels wide."""
    import tarfile

    import cv2
    import numpy as np

    from topohead.io.atomic import atomic_write

    tiles = []
    with tarfile.open(shard) as archive:
        for entry in archive:
            stream = archive.extractfile(entry) if entry.name.endswith(f".{picture}") else None
            if stream is not None:
                tiles.append(cv2.imdecode(np.frombuffer(stream.read(), np.uint8), 1))
            if len(tiles) == 16:
                break
    across = max(1024 // tiles[0].shape[1], 1)
    rows = [tiles[k : k + across] for k in range(0, len(tiles), across)]
    rows = [row for row in rows if len(row) == len(rows[0])]
    sheet = np.concatenate([np.concatenate(row, 1) for row in rows])
    if sheet.shape[1] > 1024:
        part = 1024 / sheet.shape[1]
        sheet = cv2.resize(sheet, None, fx=part, fy=part, interpolation=cv2.INTER_AREA)
    with atomic_write(out) as temporary:
        cv2.imwrite(str(temporary), sheet, [cv2.IMWRITE_JPEG_QUALITY, 85])
