"""What the documentation says exists, exists."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from topohead.cli.verbs import VERBS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOREIGN_FLAGS = {"--help", "--version", "--nproc-per-node"}


def known_flags() -> set[str]:
    flags = set(FOREIGN_FLAGS)
    for verb in VERBS.values():
        for field in fields(verb.load()[0]):
            name = field.name.replace("_", "-")
            flags |= {f"--{name}", f"--no-{name}"}
    return flags


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_and_verbs_in_the_documentation_exist(page: Path) -> None:
    text = re.sub(r"`[^`]*benchmarks/[^`]*`", "", page.read_text())  # they have flags of their own
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert told <= known_flags(), told - known_flags()
    assert set(re.findall(r"\btopohead ([a-z]+) [A-Z`-]", text)) <= set(VERBS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_verbs_in_messages_and_docstrings_exist() -> None:
    known = {word for verb in VERBS for word in (verb, verb.split()[0])}
    for path in sorted((ROOT / "src" / "topohead").rglob("*.py")):
        text = path.read_text()
        told = set(re.findall(r"(?:`|use |with: |run )topohead ([a-z]+)", text))
        assert told <= known, f"{path.name}: {told - known}"


def test_positional_fields_exist() -> None:
    for verb in VERBS.values():
        names = {field.name for field in fields(verb.load()[0])}
        assert set(verb.positional) <= names


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
