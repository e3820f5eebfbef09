"""Scans that several files of tests look at."""

import pytest

from topohead.synthesis.datasets import PosedPeople, ScanSource
from topohead.synthesis.expressions import draw_expressions
from topohead.synthesis.scan_surface import scan_surface
from topohead.synthesis.shapes import load_shapes


@pytest.fixture(scope="module")
def source() -> ScanSource:
    shapes = load_shapes("cpu")
    people = PosedPeople(shapes, draw_expressions, 5)
    return ScanSource(
        people, scan_surface(shapes.topology, shapes.head.template.cpu()), 5, 1024, "all"
    )
