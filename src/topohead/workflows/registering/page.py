"""report.html of a folder of scans: every head on its scan, and every scan without one."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import jinja2

import topohead
from topohead.io.atomic import write_text
from topohead.workflows.register import RegisterConfig, RegisteredScan


def write_page(config: RegisterConfig, found: Sequence[RegisteredScan]) -> Path:
    """Write OUT/report.html; its pictures are the heads' own proof.png, beside them."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("topohead.workflows.registering", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    heads = [one for one in found if one.head is not None]
    heads.sort(key=lambda one: -(one.median_mm or 0))
    page = environment.get_template("page.html.j2").render(
        name=config.out.resolve().name,
        source=str(config.source),
        method=config.method,
        version=topohead.__version__,
        figures=_figures(found),
        failed=[one for one in found if one.head is None],
        heads=[{"folder": one.head.parent.name, "scan": one} for one in heads if one.head],
    )
    write_text(config.out / "report.html", page)
    return config.out / "report.html"


def _figures(found: Sequence[RegisteredScan]) -> list[dict[str, str]]:
    """The few numbers on top."""
    heads = [one for one in found if one.head is not None]
    figures = [{"value": f"{len(heads)} of {len(found)}", "unit": "", "label": "registered"}]
    medians = [one.median_mm for one in heads if one.median_mm is not None]
    if medians:
        value = f"{statistics.median(medians):.2f}"
        figures.append({"value": value, "unit": "mm", "label": "median distance from the scan"})
    doubted = sum(bool(one.warnings) for one in heads)
    figures.append({"value": str(doubted), "unit": "", "label": "with warnings"})
    if heads:
        value = f"{statistics.median(one.seconds for one in heads):.1f}"
        figures.append({"value": value, "unit": "s", "label": "for one scan"})
    return figures
