"""Fill docs/register-accuracy.md with the numbers of a result file, and draw its pictures.

    python benchmarks/register_page.py benchmarks/results/register.json --docs docs

Between `<!-- name -->` and `<!-- /name -->` the page holds a table of that name; the words around
are kept.
"""

import argparse
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from register_charts import grouped_bars, paired_bars

METHODS = ("template", "pca", "pca+refine", "nricp", "perceiver", "network", "network+refine")
PLACES: dict[str, tuple[str, str]] = {
    "H1": ("H1", "clean"),
    "H2 ICT unseen": ("H2", "ICT unseen"),
    "H2 anny unseen": ("H2", "anny unseen"),
    "H3 seen": ("H3", "seen"),
    "H3 fused": ("H3", "fused"),
    "H3 scattered": ("H3", "scattered"),
    "H3 fused 1 mm": ("H3", "fused 1 mm"),
    "H3 scattered 50 k": ("H3", "scattered 50 k"),
}
"""Columns of the first tables: section and cell."""

BEST = "network+refine"
APART = ("commit", "hardware", "flags")
"""Entries of a section that are no cells."""

PAGE = "register-accuracy.md"


def main() -> None:
    """Write the page and its pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    args = parser.parse_args()
    result = json.loads(args.results.read_text())
    page = args.docs / PAGE
    page.write_text(filled(page.read_text(), result))
    for name, draw in PICTURES.items():
        (args.docs / "images" / f"register-{name}.svg").write_text(draw(result))


def filled(text: str, result: Mapping[str, Any]) -> str:
    """The page with every table that its marks name made anew."""

    def table(found: re.Match[str]) -> str:
        name = found[1]
        return f"<!-- {name} -->\n{TABLES[name](result)}\n<!-- /{name} -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", table, text, flags=re.DOTALL)


def targets(result: Mapping[str, Any]) -> str:
    """What was wanted, what was found, whether that is enough."""
    best = {name: _cell(result, *place, BEST) for name, place in PLACES.items()}
    network, pca = (_cell(result, "H1", "clean", name) for name in ("network", "pca"))
    h4 = result.get("H4", {})
    cells = [h4[c][BEST] for c in h4 if c not in APART and BEST in h4[c]]
    known = [cell["face"] for cell in cells if "face" in cell]
    flags = h4.get("flags", {}).get(BEST, {})
    lost, failed, scans = (flags.get(n) for n in ("failed_and_warned", "failed", "scans"))
    slides = [_cell(result, "H1", "clean", m).get("slide") for m in ("nricp", BEST)]
    rows = [row[BEST] for n, row in result.get("H5", {}).items() if n not in APART and BEST in row]
    real = [row.get("p2s_written", row["p2s"]) for row in rows]
    h1 = best["H1"].get("face")
    seen = best["H3 seen"].get("face")
    pairs = (("H3 fused", "H3 scattered"), ("H3 fused 1 mm", "H3 scattered 50 k"))
    (coarse, coarse_seen), (fine, fine_seen) = (
        [max((gap for n in names if (gap := _gap(best[n].get("face"), than)) is not None),
             default=None) for than in (h1, seen)]
        for names in pairs
    )  # fmt: skip
    rows = [
        _row("H1, network before refining, vertices", network.get("face"), 0.6),
        _row("H1, vertices beyond pca's in its own family", _gap(h1, pca.get("face")), 0.0),
        _row("H2, ICT unseen, vertices", best["H2 ICT unseen"].get("face"), 1.5),
        _row("less its convention", best["H2 ICT unseen"].get("face_less_convention"), 1.5),
        _row("H2, ICT unseen, to the surface", best["H2 ICT unseen"].get("p2s"), 0.25),
        _row("H2, anny unseen, vertices", best["H2 anny unseen"].get("face"), 1.5),
        _row("H2, anny unseen, to the surface", best["H2 anny unseen"].get("p2s"), 0.25),
        _row("H3 beyond H1, vertices", coarse, 0.1),
        _row("beyond points of what it shows", coarse_seen, 0.1),
        _row("H3 beyond H1, in 1 mm and of 50,000", fine, 0.1),
        _row("beyond points of what it shows", fine_seen, 0.1),
        _row("H4, worst cell, vertices", max(known, default=None), 1.5),
        _row("H4, share of failures", _share(failed, scans), 0.02),
        _row("H4, failed and not told", _share(failed and failed - (lost or 0), scans), 0.0),
        _row("H1, slide of this / of nricp", _share(slides[1], slides[0]), 0.5),
        _row("H5, worst scan, to the written surface", max(real, default=None), 0.2),
        _row("seconds of one core, 20 k points", best["H1"].get("cpu_seconds"), 3.0),
    ]
    return _table(["what", "at most", "found", ""], rows)


def _row(what: str, found: float | None, limit: float) -> list[str]:
    if found is None:
        return [what, f"{limit:g}", "not measured", ""]
    return [what, f"{limit:g}", _digits(found), "met" if found <= limit else "missed"]


def _gap(found: float | None, other: float | None) -> float | None:
    return None if found is None or other is None else found - other


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def vertices(result: Mapping[str, Any]) -> str:
    """Vertex-to-vertex distance on the face by method and section."""
    return _by_place(result, "face")


def surfaces(result: Mapping[str, Any]) -> str:
    """Point-to-surface distance on the face by method and section."""
    return _by_place(result, "p2s")


def conventions(result: Mapping[str, Any]) -> str:
    """H2 as it is and without the family's mean slide."""
    columns = {"": ("face", "vertices"), " c": ("face_less_convention", "less convention")}
    head = [f"{cell}, {told}" for cell in ("ICT unseen", "anny unseen") for _, told in
            columns.values()]  # fmt: skip
    rows = []
    for method in METHODS:
        row = [
            _number(_cell(result, "H2", cell, method), name)
            for cell in ("ICT unseen", "anny unseen")
            for name, _ in columns.values()
        ]
        if any(row):
            rows.append([method, *row])
    return _table(["method", *head], rows)


def regions(result: Mapping[str, Any]) -> str:
    """H1 by region."""
    names = ("face", "face_median", "face_p95", "lips", "eyelids", "nose", "ears", "neck", "scalp")
    return _plain(result, "H1", "clean", names, ("face", "median", "95 %", *names[3:]))


def slide(result: Mapping[str, Any]) -> str:
    """H1: errors along and across the skin."""
    names = ("normal", "slide", "p2s", "s2p", "round_trip", "round_trip_p95", "f_1mm")
    told = ("across the skin", "along the skin", "to the surface", "and back", "UV there and back",
            "its 95 %", "F at 1 mm")  # fmt: skip
    return _plain(result, "H1", "clean", names, told)


def meshes(result: Mapping[str, Any]) -> str:
    """H1: what else a head has to be."""
    names = ("normal_cosine", "landmarks", "flipped", "pierced", "pierced_true", "slits_crossed",
             "angle_min", "angle_p1", "angle_p99", "angle_max", "rig", "rig_worst",
             "expression")  # fmt: skip
    told = ("cosine of normals", "68 landmarks, mm", "flipped", "pierced", "in truth",
            "lips or lids crossed", "least angle", "1 %", "99 %", "greatest", "52 actions, mm",
            "worst action, mm", "coefficients off by")  # fmt: skip
    return _plain(result, "H1", "clean", names, told)


def calibration(result: Mapping[str, Any]) -> str:
    """Share of vertices within the ball that σ says holds 50 and 90 %."""
    rows = []
    for method in METHODS:
        row = []
        for place in PLACES.values():
            cell = _cell(result, *place, method)
            shares = [f"{100 * cell[f'within_{n}']:.0f}" for n in (50, 90) if f"within_{n}" in cell]
            row.append(" / ".join(shares))
        if any(row):
            rows.append([method, *row])
    return _table(["method", *PLACES], rows)


def faults(result: Mapping[str, Any]) -> str:
    """H4: vertices on the face by fault, failures beside."""
    section = result.get("H4", {})
    cells = [name for name in section if name not in APART]
    found = [m for m in METHODS if any(m in section[c] for c in cells)]
    rows = [[cell, *(_number(section[cell].get(m, {}), "face") for m in found)] for cell in cells]
    return _table(["fault", *found], rows)


def flagged(result: Mapping[str, Any]) -> str:
    """H4: failures and what tells them."""
    told = result.get("H4", {}).get("flags", {})
    rows = []
    for method in METHODS:
        if method not in told:
            continue
        row = told[method]
        bad, good = row["failed"], row["scans"] - row["failed"]
        areas = [row.get(f"area_{name}") for name in ("sigma", "judged_p2s")]
        rows.append([
            method, f"{bad} of {row['scans']}",
            f"{row['failed_and_refused']} of {bad}", f"{row['failed_and_warned']} of {bad}",
            f"{row['good_but_refused']} of {good}", f"{row['good_but_warned']} of {good}",
            *("" if area is None else f"{area:.2f}" for area in areas),
        ])  # fmt: skip
    head = ["method", "failed", "of these refused", "refused or warned", "good but refused",
            "good but refused or warned", "AUC of σ", "AUC of distance"]  # fmt: skip
    return _table(head, rows)


def strangers(result: Mapping[str, Any]) -> str:
    """What is no head, and what is said of it."""
    section = result.get("strangers", {})
    kinds = [name for name in section if name not in APART]
    found = [m for m in METHODS if any(m in section[kind] for kind in kinds)]
    rows = []
    for kind in kinds:
        row = []
        for method in found:
            told = section[kind].get(method, {"refused": [], "warned": []})
            said = [f"refused: {', '.join(told['refused'])}"] if told["refused"] else []
            said += [f"warned: {', '.join(told['warned'])}"] if told["warned"] else []
            row.append("; ".join(said) or "–")
        rows.append([kind, *row])
    return _table(["scan", *found], rows)


def real(result: Mapping[str, Any]) -> str:
    """H5."""
    names = {"p2s": "scan to head", "p2s_p95": "its 95 %", "p2s_written": "as written",
             "s2p": "head to scan",
             "landmarks": "landmarks", "landmarks_brows": "brows", "landmarks_nose": "nose",
             "landmarks_eyes": "eyes", "landmarks_mouth": "mouth", "sigma": "σ",
             "pierced": "pierced", "cpu_seconds": "seconds"}  # fmt: skip
    rows = []
    for scan, found in result.get("H5", {}).items():
        if scan in APART:
            continue
        for method in METHODS:
            if method in found:
                row = found[method]
                rows.append([scan, method, *(_digits(row.get(name)) for name in names)])
    return _table(["scan", "method", *names.values()], rows)


def costs(result: Mapping[str, Any]) -> str:
    """Seconds, memory, repetition."""
    section = result.get("cost", {})
    sizes = ("20000", "200000", "1000000")
    rows = []
    for method in METHODS:
        h1, row = _cell(result, "H1", "clean", method), section.get(method, {})
        if not h1:
            continue
        first = row.get(sizes[0], {})
        same = first.get("same_again") and first.get("repeats")
        rows.append(
            [
                method,
                _digits(h1.get("cpu_seconds")),
                *(_digits(row.get(size, {}).get("cpu_seconds")) for size in sizes[1:]),
                *(f"{row[size]['process_mib']:.0f}" if size in row else "" for size in sizes[::2]),
                ("yes" if same else "no") if first else "",
            ]
        )
    head = ["method", "20 k points, s", "200 k, s", "1 M, s", "20 k, MiB", "1 M, MiB",
            "same bytes again"]  # fmt: skip
    return _table(head, rows)


def triangulations(result: Mapping[str, Any]) -> str:
    """How far the true skin lies from the scans of H3."""
    told = {"face": "face", "face_p50": "its median", "face_p95": "its 95 %", "lips": "lips",
            "eyelids": "lids", "nose": "nose", "ears": "ears"}  # fmt: skip
    cells = result.get("off skin", {})
    rows = [[name, *(_digits(cells[name].get(key)) for key in told)]
            for name in cells if name not in APART]  # fmt: skip
    return _table(["scan", *told.values()], rows)


def origin(result: Mapping[str, Any]) -> str:
    """What was measured, on what."""
    sections = {name: part for name, part in result.items() if isinstance(part, dict)}
    lines = []
    for name, part in sections.items():
        where = part["hardware"]
        cells = [cell for key, cell in part.items() if key not in APART]
        scans = [row["scans"] for c in cells for row in c.values()
                 if isinstance(row, dict) and "scans" in row]  # fmt: skip
        others = _others(cells, part["commit"])
        count = f", up to {max(scans)} scans a cell" if scans else ""
        lines.append(
            f"- {name}: revision `{part['commit']}`, {where['processor']}, {where['cores']} cores, "
            f"load {where['load']:.1f}, torch {where['torch']}{count}{others}"
        )
    return "\n".join([f"Seed {result['seed']} ({result['split']} split).", "", *lines])


def _others(cells: Iterable[Any], revision: str) -> str:
    """Which methods' rows are of revisions other than the section's."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        for method, row in cell.items() if isinstance(cell, dict) else ():
            own = row.get("commit", revision) if isinstance(row, dict) else revision
            if own != revision and method not in found.setdefault(own, []):
                found[own].append(method)
    return "".join(f"; {', '.join(found[own])} of `{own}`" for own in found)


def _by_place(result: Mapping[str, Any], name: str) -> str:
    rows = []
    for method in METHODS:
        row = [_number(_cell(result, *place, method), name) for place in PLACES.values()]
        if any(row):
            rows.append([method, *row])
    return _table(["method", *PLACES], rows)


def _plain(
    result: Mapping[str, Any], section: str, cell: str, names: Sequence[str], told: Sequence[str]
) -> str:
    rows = []
    for method in METHODS:
        found = _cell(result, section, cell, method)
        if found:
            rows.append([method, *(_digits(found.get(name)) for name in names)])
    return _table(["method", *told], rows)


def _cell(result: Mapping[str, Any], section: str, cell: str, method: str) -> Mapping[str, Any]:
    return result.get(section, {}).get(cell, {}).get(method, {})


def _number(cell: Mapping[str, Any], name: str) -> str:
    """A mean, and how many failed where some did."""
    if not cell:
        return ""
    told = _digits(cell[name]) if name in cell else "–"
    return f"{told} ({cell['failed']:.0f} of {cell['scans']} failed)" if cell["failed"] else told


def _digits(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return (
        f"{value:.3f}"
        if abs(value) < 0.1
        else f"{value:.2f}"
        if abs(value) < 10
        else f"{value:.1f}"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def by_section(result: Mapping[str, Any]) -> str:
    """Bars of vertex-to-vertex distance: sections across, methods in colours."""
    groups = {
        name: {m: _cell(result, *place, m).get("face") for m in METHODS}
        for name, place in PLACES.items()
    }
    return grouped_bars(groups, "mm, vertex to vertex on the face")


def by_fault(result: Mapping[str, Any]) -> str:
    """The same by fault of H4."""
    section = result.get("H4", {})
    groups = {
        cell: {m: section[cell].get(m, {}).get("face") for m in METHODS}
        for cell in section
        if cell not in APART
    }
    return grouped_bars(groups, "mm, vertex to vertex on the face, failed scans left out")


def parts(result: Mapping[str, Any]) -> str:
    """H1's error along and across the skin."""
    rows = {
        method: (cell["normal"], cell["slide"])
        for method in METHODS
        if "slide" in (cell := _cell(result, "H1", "clean", method))
    }
    return paired_bars(rows, ("across the skin", "along the skin"), "mm on the face, H1")


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    f.__name__: f
    for f in (targets, vertices, surfaces, conventions, triangulations, regions, slide, meshes,
              calibration, faults, flagged, strangers, real, costs, origin)
}  # fmt: skip
PICTURES = {"sections": by_section, "faults": by_fault, "slide": parts}

if __name__ == "__main__":
    main()
