"""The effective size of a texture that was blurred by a known amount, in any layout."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter, shift

from planted_run import (
    ellipsoid,
    ellipsoid_topology,
    performance,
    write_planted_run,
    write_planted_truth,
)
from topohead.core import Topology
from topohead.io.images import write_image
from topohead.rendering.mesh import interpolate, rasterize_uv
from topohead.rendering.shading import linear_to_srgb
from topohead.synthesis.charts import Chart, draw
from topohead.workflows.evaluate import EvaluateConfig, evaluate

SIZE, SIGMA = 1024, 1.3
CHART = Chart("nose", (0.0, 0.0, 0.0948), (1.0, 0, 0), (0.0, 1, 0), (0.0, 0, 1), radius=0.03)


def _topology(rings: int, sectors: int, scale: float) -> Topology:
    """The ellipsoid; its layout is about even at the front and `scale` of the square wide."""
    topology = ellipsoid_topology(rings, sectors)
    middle = torch.tensor([0.5, 0.5])
    uv = middle + (topology.uv - middle) * scale * torch.tensor([1.0, 0.60])
    return replace(topology, uv=uv)


def _star_texture(topology: Topology, vertices: torch.Tensor) -> np.ndarray:
    """Linear texture [S S 3] of even skin with the chart."""
    raster = rasterize_uv(topology.uv, topology.triangle_uv, (SIZE, SIZE))
    points = interpolate(vertices.double(), topology.triangles, raster)[raster.covered]
    albedo = torch.full((len(points), 3), 0.4)
    tones = (torch.full((3,), 0.4),)
    albedo, _ = draw((CHART,), points, 0.0002, albedo, torch.zeros(len(points)), tones)
    texture = torch.full((SIZE, SIZE, 3), 0.4)
    texture[raster.covered] = albedo
    return texture.numpy()


def _evaluated(folder: Path, texture: np.ndarray, topology: Topology, rings: int, sectors: int):
    tracked = performance(2, rings, sectors)
    run = write_planted_run(folder, tracked, topology)
    true_topology = _topology(24, 32, 1.0)
    truth = write_planted_truth(folder, performance(2), true_topology)
    for path, picture in (
        (run / "frames" / "000001" / "texture_srgb.png", texture),
        (truth / "lit_srgb.png", _star_texture(true_topology, ellipsoid())),
    ):
        write_image(path, linear_to_srgb(torch.from_numpy(picture)))
    save_file({"vertices": ellipsoid().float()}, truth / "template.safetensors")
    described = {"settings": {"blur": 0.45}, "charts": [asdict(CHART)]}
    (truth / "truth.json").write_text(json.dumps(described))
    result = evaluate(EvaluateConfig(run, truth, report=False))
    assert json.loads((run / "evaluation.json").read_text())["sharpness"] == result.sharpness
    assert "as sharp as" in result.summary()
    return result.sharpness


@pytest.mark.parametrize(("rings", "sectors", "scale"), [(24, 32, 1.0), (30, 44, 0.8)])
def test_a_known_blur_comes_back(tmp_path: Path, rings: int, sectors: int, scale: float) -> None:
    topology = _topology(rings, sectors, scale)
    sharp = _star_texture(topology, ellipsoid(rings, sectors))
    blurred = gaussian_filter(sharp, (SIGMA, SIGMA, 0))
    # half a millimetre out of place is not a lack of sharpness
    moved = shift(blurred, (0.8, -0.6, 0), order=3, mode="nearest")
    found = _evaluated(tmp_path, moved, topology, rings, sectors)
    assert found is not None and found["charts"]["nose"]["is"] == "at"
    expected = 2 * SIZE * math.sqrt(math.log(2) / 2) / (math.pi * SIGMA)
    assert found["effective_size"] == pytest.approx(expected, rel=0.1)
    assert found["size"] == SIZE


def test_the_true_texture_is_as_sharp_as_its_size(tmp_path: Path) -> None:
    topology = _topology(24, 32, 1.0)
    found = _evaluated(tmp_path, _star_texture(topology, ellipsoid()), topology, 24, 32)
    assert found is not None and found["charts"]["nose"]["is"] == "at least"
    assert 0.9 * SIZE < found["effective_size"] <= SIZE


def test_without_charts_nothing_is_claimed(tmp_path: Path) -> None:
    topology = _topology(24, 32, 1.0)
    run = write_planted_run(tmp_path, performance(2), topology)
    truth = write_planted_truth(tmp_path, performance(2), topology)
    assert evaluate(EvaluateConfig(run, truth, report=False)).sharpness is None
