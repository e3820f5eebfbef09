"""`topohead train head-vae`: it learns eight heads, and a stopped run ends in the same bytes."""

import dataclasses
import json
import os
import signal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from interrupting import At
from topohead.core import InputError
from topohead.io.weights import read_weights
from topohead.models.head_vae import VaeSize
from topohead.models.population import Phenotypes, phenotype_weights
from topohead.solvers.training import Training
from topohead.solvers.training import train as optimise
from topohead.synthesis.attributes import ATTRIBUTES, attributes, phenotypes
from topohead.synthesis.device_draws import draws
from topohead.workflows.head_vae import load_head_vae
from topohead.workflows.progress import showing
from topohead.workflows.train import TrainConfig, train
from topohead.workflows.training import head_vae as task_file
from topohead.workflows.training.head_vae import PRESETS, head_vae_task, nudged
from topohead.workflows.training.head_vae_scores import linear_model, projected

PEOPLE = cache(task_file.population)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """xs with eight people, seen whole in every step."""
    preset = PRESETS["xs"]
    schedule = dataclasses.replace(preset.schedule, warmup=5, told=2, validated=4)
    small = dataclasses.replace(preset, schedule=schedule, pool=8, tested=4, fitted=8)
    monkeypatch.setattr(task_file, "PRESETS", {"xs": small})
    monkeypatch.setattr(task_file, "population", PEOPLE)
    torch.set_num_threads(min(2, torch.get_num_threads()))


def config(out: Path, **changes: Any) -> TrainConfig:
    plain = TrainConfig("head-vae", out, preset="xs", steps=5, device="cpu")
    return dataclasses.replace(plain, **changes)


def test_it_learns_eight_heads() -> None:
    """Below 1.8 mm along each axis in seconds; every weight learns."""
    task = head_vae_task("xs", 0, torch.device("cpu"))
    training = Training(task.network, task.schedule, 26)
    errors = []
    for _ in optimise(
        training,
        lambda step: task.batch(step, 0, 1),
        lambda batch: task.loss(task.network, batch),
        lambda loss: loss.backward(),
    ):
        for name, parameter in task.network.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
        errors.append(training.told()["vertices"])
    assert min(errors[:2]) > 3
    assert max(errors[-3:]) < 1.8, errors


@pytest.mark.slow
def test_a_stopped_run_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole = train(config(tmp_path / "whole"))
    stopped = tmp_path / "stopped"
    with (
        showing(At(3, lambda: os.kill(os.getpid(), signal.SIGTERM))),
        pytest.raises(KeyboardInterrupt),
    ):
        train(config(stopped))
    assert torch.load(stopped / "checkpoint.pt", weights_only=True)["step"] in (3, 4)
    again = train(config(stopped))
    assert again.hash == whole.hash
    for name in ("head-vae.safetensors", "curve.jsonl", "evaluation.json"):
        assert (stopped / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    rows = [json.loads(row) for row in (stopped / "curve.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 5]
    assert "validation" in rows[1]

    network = load_head_vae(again.weights)
    weights = read_weights(again.weights, again.hash)
    assert VaeSize.from_plain(weights.config["size"]) == PRESETS["xs"].size
    assert set(weights.metrics["meanings"]) == set(ATTRIBUTES)
    assert not torch.equal(network.latent_deviation, torch.ones_like(network.latent_deviation))
    other = train(config(tmp_path / "other", seed=1))
    assert other.hash != whole.hash


def test_without_weights_the_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="topohead train head-vae"):
        load_head_vae(tmp_path / "head-vae.safetensors")


def test_nudged_heads_are_the_same_heads_elsewhere() -> None:
    head, _, _ = task_file.population(torch.device("cpu"))
    count = 200
    heads = head.template.expand(count, -1, -1)[:, ::50]
    found = nudged(heads, draws(0, torch.arange(count)))
    moved = (found - heads).norm(dim=-1).amax(1) > 1e-6
    assert 0.15 < float(moved.float().mean()) < 0.35
    size = torch.cdist(found, found) / (torch.cdist(heads, heads) + torch.eye(heads.shape[1]))
    for each in size[moved]:  # one factor for all distances
        ratio = each[each > 0.5]
        assert float(ratio.max() - ratio.min()) < 1e-2
        assert 0.94 < float(ratio.mean()) < 1.06


def test_labels_are_what_people_were_made_with() -> None:
    _, shapes, _ = task_file.population(torch.device("cpu"))
    rows = torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
    race = torch.softmax(torch.randn(5, 3, generator=torch.Generator().manual_seed(1)), 1)
    who = Phenotypes(*rows.double().numpy(), race.double().numpy())
    names = shapes.space.named("control")
    weights = torch.zeros(5, len(shapes.space.names))
    control = weights[:, shapes.space.groups["control"]]
    for name, value in phenotype_weights(who).items():
        control[:, names.index(name)] = torch.from_numpy(value).float()
    female, old, muscle, fat, _ = rows
    wanted = torch.cat([torch.stack([female, old, muscle, fat], 1), race], 1)
    assert torch.allclose(phenotypes(shapes.space, weights), wanted, atol=1e-5)
    heads = shapes.draw(3, torch.arange(8))
    known = attributes(heads)
    assert known.values.shape == known.known.shape == (8, len(ATTRIBUTES))
    assert known.known[:, -1].all()
    assert 120 < float(known.values[:, ATTRIBUTES.index("face width")].mean()) < 160


def test_all_modes_of_a_linear_model_give_its_heads_back() -> None:
    heads = torch.randn(9, 40, 3, generator=torch.Generator().manual_seed(0)).cumsum(0)
    linear = linear_model(heads, 100)
    assert len(linear.modes) == 8
    gram = linear.modes @ linear.modes.T
    assert torch.allclose(gram, torch.eye(8).double(), atol=1e-8)
    assert torch.allclose(projected(linear, heads, 8), heads, atol=1e-5)
    errors = [float((projected(linear, heads, k) - heads).square().sum()) for k in range(1, 8)]
    assert errors == sorted(errors, reverse=True)
    singular = torch.linalg.svdvals((heads - heads.mean(0)).flatten(1))
    assert errors[2] == pytest.approx(float(singular[3:].square().sum()), rel=1e-4)
