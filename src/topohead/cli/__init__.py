"""The command `topohead`: a verb, a Config from its flags, the workflow's function.

Exit codes: 0 success; 2 bad input or usage, one line on stderr, or a batch some of whose inputs
were bad, told in its summary; 1 a bug, with its traceback; 130 stopped by the user. Results and
plain progress lines go to stdout; with `--json` stdout holds one JSON object and nothing else.
"""

import contextlib
import difflib
import errno
import json
import logging
import math
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import topohead
from topohead.cli.verbs import VERBS, UsageError, parse

# threads that spin while they wait cost up to 10x when torch's and numba's pools share the cores
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# a broken image is reported by us, in one line; the decoder's own remarks would be a second
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)
"""What the system says about places where this user cannot read or write."""


def main(words: Sequence[str] | None = None) -> None:
    """The entry point: runs a verb and exits with its code."""
    words = sys.argv[1:] if words is None else words
    try:
        code = run(words)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def run(words: Sequence[str]) -> int:
    """Runs `topohead WORDS` in this process and returns the exit code; bugs raise."""
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0 if words else 2
    if words[0] == "--version":
        print(topohead.__version__)
        return 0
    name, rest = _verb(words)
    if pairs := [known for known in VERBS if known.startswith(f"{words[0]} ")]:
        if words[1:2] in (["-h"], ["--help"]):
            print(overview(pairs))
            return 0
        if len(words) == 1:
            return _fail(
                "topohead", f"'{words[0]}' alone is no verb; expected {' or '.join(pairs)}"
            )
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, 1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(VERBS)}"
        return _fail("topohead", f"unknown verb '{name}'; {hint}")
    verb = VERBS[name]
    config_class, function = verb.load()
    try:
        config = parse(name, config_class, verb.positional, rest)
    except UsageError as error:
        return _fail(f"topohead {name}", str(error))
    except SystemExit:  # help was asked for and printed
        return 0
    return _call(name, function, config)


def _verb(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The verb, of one word or two ("avatar fit"), and what follows it."""
    firsts = {name.split()[0] for name in VERBS if " " in name}
    count = 2 if words[0] in firsts else 1
    return " ".join(words[:count]), words[count:]


def overview(names: Collection[str] = VERBS) -> str:
    """The verbs of these names, a line each."""
    width = max(map(len, names))
    lines = [f"  {name:<{width}}  {VERBS[name].summary}" for name in names]
    return "\n".join(
        [
            f"usage: topohead VERB ...       (version {topohead.__version__})",
            "",
            "Studio-topology human heads from calibrated cameras or any scan.",
            "",
            *lines,
            "",
            "`topohead VERB --help` tells a verb's flags.",
        ]
    )


def _call(name: str, function: Any, config: Any) -> int:
    from topohead.cli.progress import listener_for
    from topohead.core.errors import InputError
    from topohead.io.atomic import disk_full_as_input_error, final_path
    from topohead.workflows.progress import showing

    as_json = getattr(config, "json", False)
    warnings = _Warnings(None if as_json else sys.stdout)
    package = logging.getLogger("topohead")
    package.addHandler(warnings)
    _silence_third_parties()
    try:
        _check_place(getattr(config, "out", None))
        with (
            disk_full_as_input_error(getattr(config, "out", None) or Path()),
            _dashboard(name, config) as pages,
            showing(listener_for(sys.stderr, None if as_json else sys.stdout), *pages),
        ):
            result = function(config)
    except InputError as error:
        return _fail(f"topohead {name}", str(error))
    except OSError as error:
        if error.errno not in _NOT_OURS or error.filename is None:
            raise
        path = final_path(Path(str(error.filename)))
        return _fail(f"topohead {name}", f"{path}: {error.strerror}; choose another place")
    except KeyboardInterrupt:
        _fail(f"topohead {name}", "stopped; the same command continues where it was")
        return 130
    finally:
        package.removeHandler(warnings)
    if as_json:
        print(json.dumps({**_mapping(result), "warnings": warnings.lines}, indent=2))
    else:
        print(_text(result), end="")
    if hasattr(result, "wait"):  # a page that is served until an interrupt
        sys.stdout.flush()
        result.wait()
    return getattr(result, "exit_code", 0)  # a batch of which some parts failed


def _check_place(out: Path | None) -> None:
    """Refuses an output that cannot be made, before anything is computed for it."""
    from topohead.core.errors import InputError

    if out is None:
        return
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if there != out and not there.is_dir():
        raise InputError(f"{out} cannot be made: {there} is a file")
    if not os.access(there, os.W_OK):
        raise InputError(f"{out} cannot be written: no permission in {there}; choose another place")


@contextlib.contextmanager
def _dashboard(name: str, config: Any) -> Iterator[list[Any]]:
    """The page of a verb that was asked for one by --dashboard; none for all others."""
    if not getattr(config, "dashboard", False):
        yield []
        return
    from topohead.viewer.dashboard import Dashboard

    out = getattr(config, "out", None)
    title = f"{name} {Path(out).name if out else ''}".strip()
    page = Dashboard(title, getattr(config, "dashboard_port", None))
    print(f"dashboard: {page.url}", file=sys.stderr, flush=True)
    last_words = "finished"
    try:
        yield [page]
    except KeyboardInterrupt:
        last_words = "stopped; the same command continues where it was"
        raise
    except BaseException as error:
        last_words = f"failed: {error}"
        raise
    finally:
        page.close(last_words)


def _silence_third_parties() -> None:
    """Python warnings of libraries are for developers (`-W` or PYTHONWARNINGS show them)."""
    if not sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")


def _fail(who: str, message: str) -> int:
    print(f"{who}: {' '.join(message.split())}", file=sys.stderr)
    return 2


class _Warnings(logging.Handler):
    """The package's warnings, kept for JSON and shown as lines on `stream`."""

    def __init__(self, stream: Any) -> None:
        super().__init__(logging.WARNING)
        self.stream = stream
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        if self.stream is not None:
            print(f"warning: {record.getMessage()}", file=self.stream, flush=True)


def _mapping(result: Any) -> dict[str, Any]:
    value = _plain(result)
    if value is None:
        return {}
    return value if isinstance(value, dict) else {"result": value}


def _plain(value: Any) -> Any:
    """A workflow's result as JSON can hold it: paths as text, numbers that are none as null."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
    if hasattr(value, "tolist"):  # tensors and numpy's numbers
        return _plain(value.tolist())
    return str(value)


def _text(result: Any) -> str:
    """What a person reads: the result's own `summary()`, or a line for each of its values."""
    if result is None:
        return ""
    if hasattr(result, "summary"):
        return result.summary().rstrip("\n") + "\n"
    if isinstance(result, str | Path):
        return f"{result}\n"
    return "".join(f"{key}: {value}\n" for key, value in _mapping(result).items())
