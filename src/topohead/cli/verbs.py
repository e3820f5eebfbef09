"""The verbs of the command line and how their words become a Config."""

import contextlib
import importlib
import io
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn


@dataclass(frozen=True)
class Verb:
    """One verb: where its Config and function live, and which fields are given by position.

    `positional` maps a field of the Config to its name in the help. Modules are imported when
    their verb is called, so that help answers at once.
    """

    module: str
    config: str
    function: str
    summary: str
    positional: Mapping[str, str] = field(default_factory=dict)

    def load(self) -> tuple[type, Callable[[Any], Any]]:
        """The Config class and the function that takes one."""
        module = importlib.import_module(self.module)
        return getattr(module, self.config), getattr(module, self.function)


VERBS: dict[str, Verb] = {
    "demo": Verb(
        "topohead.workflows.demo", "DemoConfig", "demo",
        "stage a short performance, capture it, write a report and a GLB",
    ),
    "stage": Verb(
        "topohead.workflows.stage", "StageConfig", "stage",
        "render a virtual light-stage capture with ground truth",
        {"out": "OUT"},
    ),
    "capture": Verb(
        "topohead.workflows.capture", "CaptureConfig", "capture",
        "calibrated multi-view sequence to a mesh per frame and textures; resumable",
        {"source": "IN"},
    ),
    "register": Verb(
        "topohead.workflows.register", "RegisterConfig", "register",
        "a scan, mesh or point cloud, or a folder of them, to heads of one topology",
        {"source": "SCAN"},
    ),
    "evaluate": Verb(
        "topohead.workflows.evaluate", "EvaluateConfig", "evaluate",
        "a run's metrics and report, against ground truth where there is some",
        {"run": "RUN"},
    ),
    "rig": Verb(
        "topohead.workflows.rig", "RigConfig", "rig",
        "a run's ARKit-52 weights, own blendshapes, an animated GLB; another head playing it",
        {"run": "RUN"},
    ),
    "avatar fit": Verb(
        "topohead.workflows.avatar", "FitConfig", "fit",
        "a capture, or tracked photos, to a Gaussian head that can be driven; resumable",
        {"source": "RUN"},
    ),
    "avatar animate": Verb(
        "topohead.workflows.avatar", "AnimateConfig", "animate",
        "an avatar played by curves, tracked photos or a capture, as MP4 and numbers",
        {"avatar": "AVATAR"},
    ),
    "export": Verb(
        "topohead.workflows.export", "ExportConfig", "export",
        "a run, its rig or a mesh as OBJ, GLB, USD, PLY, FBX, Alembic; its cameras and curves",
        {"run": "RUN"},
    ),
    "view": Verb(
        "topohead.viewer.view", "ViewConfig", "view",
        "any result in the browser, or as one offline file",
        {"path": "PATH"},
    ),
    "train": Verb(
        "topohead.workflows.train", "TrainConfig", "train",
        "train one of the package's networks on made people; resumable, one GPU or many",
        {"name": "NAME"},
    ),
    "dataset": Verb(
        "topohead.workflows.dataset", "DatasetConfig", "dataset",
        "training sets of made people: portraits, scans, tracks, view sets, heads",
        {"kind": "KIND", "out": "OUT"},
    ),
    "doctor": Verb(
        "topohead.workflows.doctor", "DoctorConfig", "doctor",
        "what this machine can do, and the command that adds what is missing",
    ),
}  # fmt: skip


class UsageError(Exception):
    """The words on the command line make no call."""


def parse(name: str, config: type, positional: Mapping[str, str], words: Sequence[str]) -> Any:
    """A Config from the words after the verb. Help exits; bad words raise `UsageError`."""
    import tyro

    _mark_fields(config, positional)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                config,
                prog=f"topohead {name}",
                args=list(words),
                config=(
                    tyro.conf.FlagCreatePairsOff,
                    tyro.conf.DisallowNone,
                    tyro.conf.UseAppendAction,
                ),
            )
    except SystemExit as stop:
        if stop.code:
            _raise_usage(name, said.getvalue())
        raise


def _mark_fields(config: type, positional: Mapping[str, str]) -> None:
    """Tells tyro which fields come by position, and what the help says of their defaults.

    On the class itself, because tyro finds a field's docstring in the source of the class that
    annotates it; and here, because tyro stays out of the workflows.
    """
    import tyro

    hints = typing.get_type_hints(config, include_extras=True)
    for entry in fields(config):
        kind, place = hints[entry.name], positional.get(entry.name)
        if entry.default is None:  # the docstring says what happens then
            kind = typing.Annotated[kind, tyro.conf.arg(metavar=place, help_behavior_hint="")]
        elif entry.default is True:  # the flag is --no-NAME
            off = "(on; this flag turns it off)"
            kind = typing.Annotated[kind, tyro.conf.arg(help_behavior_hint=off)]
        elif place is not None:
            kind = typing.Annotated[kind, tyro.conf.arg(metavar=place)]
        else:
            continue
        if place is not None:
            kind = tyro.conf.Positional[kind]
        entry.type = config.__annotations__[entry.name] = kind


def _raise_usage(name: str, box: str) -> NoReturn:
    """The framed message of tyro as one line, without the help text that it repeats."""
    lines = [re.sub(r"[╭╮╰╯│─]+|^[+|]|[+|]$|-{3,}", " ", line).strip() for line in box.splitlines()]
    text = " ".join(line for line in lines if line)
    text = re.sub(r"\s*For full helptext.*$", "", text)
    # the box's title and its first sentence often say the same
    text = re.sub(r"^(Unrecognized options) \1", r"\1", text)
    text = re.sub(r"^Invalid choice (?=invalid)", "", text)
    text = re.sub(r"^Missing argument Missing (.*?)\. Expected 1 values.*$", r"missing \1", text)
    if missing := re.match(r"Required options Missing from topohead [^:]*: (.*)", text):
        told = (part.split()[0] for part in missing[1].split("(required)") if part.strip())
        text = f"missing {' and '.join(told)}"
    elif wrong := re.search(r"Error parsing (\S+): (.*?)(?: Argument helptext.*)?$", text):
        kind = re.match(r"no type matching (.*?) could be .*? from (\[.*?\])", wrong[2])
        got = kind and f"expected {kind[1]}, got {kind[2][1:-1] or 'nothing'}"
        text = f"{wrong[1]}: {got or wrong[2]}"
    raise UsageError(f"{text.rstrip('.')}; see `topohead {name} --help`")
