"""A CPU and a CUDA device register a scan alike, and a device twice the same."""

import dataclasses

import pytest
import torch

from topohead.core import Scan
from topohead.io.assets import reference_head
from topohead.solvers.scan_detail import refine_level1
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_network import network_fit
from topohead.solvers.scan_quality import judge
from topohead.solvers.scan_refine import refine
from topohead.synthesis.shapes import load_shapes
from topohead.workflows.registering.network import load_registration

NETWORK_MM, REFINED_MM = 0.02, 0.02
"""Greatest distance between a vertex of two devices' heads: through the network, and from the same
start."""


def made(points: int) -> Scan:
    """A made person's outside as points with normals and 0.15 mm of noise, on its side."""
    head = ScanHead.of(reference_head(0).topology)
    surface = head.surface(load_shapes(ict=None).draw(3, [1]).rest[0].double())
    random = torch.Generator().manual_seed(1)
    corners = head.triangles[~head.inner[head.triangles].all(1)]
    chosen = corners[torch.randint(len(corners), (points,), generator=random)]
    weights = torch.rand(points, 3, generator=random, dtype=torch.float64)
    weights /= weights.sum(1, keepdim=True)
    mixed, normals = (
        (weights[..., None] * part[chosen]).sum(1) for part in (surface, head.normals(surface))
    )
    mixed += 1.5e-4 * torch.randn(points, 3, generator=random, dtype=torch.float64)
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]).double()
    none = torch.zeros(0, 3, dtype=torch.long)
    return Scan((mixed @ turn.T + 0.3).float(), none, (normals @ turn.T).float())


@pytest.mark.gpu
def test_devices_agree():
    head, scan = reference_head(0), made(20_000)
    networks = {device: load_registration().to(device) for device in ("cpu", "cuda")}
    starts = {device: network_fit(scan, networks[device], head) for device in networks}
    assert apart(starts["cpu"], starts["cuda"]) < NETWORK_MM
    fits = {device: refine(scan.to(device), starts["cpu"], head).to("cpu") for device in networks}
    assert apart(fits["cpu"], fits["cuda"]) < REFINED_MM
    again = refine(scan.to("cuda"), starts["cpu"], head).to("cpu")
    for entry in dataclasses.fields(again):
        assert torch.equal(getattr(again, entry.name), getattr(fits["cuda"], entry.name))
    fine = [refine_level1(scan.to(d), fits["cpu"], head).vertices.cpu() for d in networks]
    assert 1e3 * float((fine[0] - fine[1]).norm(dim=1).max()) < REFINED_MM
    here, there = (judge(scan.to(device), fits["cpu"], head) for device in networks)
    assert abs(here.face.median_mm - there.face.median_mm) < 1e-4
    assert abs(here.whole_to_scan.p95_mm - there.whole_to_scan.p95_mm) < 1e-4
    assert abs(here.face_seen - there.face_seen) < 1e-3
    assert (here.failures, here.warnings) == (there.failures, there.warnings)


@pytest.mark.gpu
@pytest.mark.parametrize("points", [3_000, 70_000])
def test_bare_points_few_and_many_serve_what_was_recorded_for_others(points):
    head, scan = reference_head(0), dataclasses.replace(made(points), normals=None)
    start = network_fit(scan, load_registration(), head)
    assert apart(start, network_fit(scan, load_registration().to("cuda"), head)) < 0.1
    fits = [refine(scan.to(device), start, head).to("cpu") for device in ("cpu", "cuda")]
    assert apart(*fits) < REFINED_MM
    assert int((fits[0].inliers != fits[1].inliers).sum()) <= 2
    here, there = (judge(scan.to(device), fits[0], head) for device in ("cpu", "cuda"))
    assert abs(here.whole_to_scan.p95_mm - there.whole_to_scan.p95_mm) < 1e-4
    assert (here.flipped, here.failures, here.warnings) == (
        there.flipped, there.failures, there.warnings
    )  # fmt: skip


@pytest.mark.gpu
def test_a_million_points_on_a_device():
    head, scan = reference_head(0), made(1_000_000)
    fit = refine(scan.to("cuda"), network_fit(scan, load_registration().to("cuda"), head), head)
    quality = judge(scan.to("cuda"), fit, head)
    assert not quality.failures
    assert quality.face.median_mm < 0.15


def apart(one, other) -> float:
    """Greatest distance between the same vertices, mm."""
    return 1e3 * float((one.vertices - other.vertices).norm(dim=1).max())
