"""`topohead train`: a run that is stopped or killed ends in the same bytes; bad input is told."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from interrupting import At
from topohead import cli
from topohead.core import InputError
from topohead.io.weights import read_weights
from topohead.models.registration import Registration, RegistrationSize, template_of
from topohead.workflows import train as workflow
from topohead.workflows.progress import Sight, showing
from topohead.workflows.train import TrainConfig, Trained, train
from topohead.workflows.training import register
from topohead.workflows.training.register import PRESETS

PEOPLE = cache(register.population)


@pytest.fixture(autouse=True, scope="module")
def tiny() -> Iterator[None]:
    """xs with two heads a step and one test head: seconds become a second."""
    preset = PRESETS["xs"]
    schedule = dataclasses.replace(preset.schedule, batch=2, warmup=4, told=2, validated=4)
    icp = dataclasses.replace(preset.size.icp, points=256)
    size = dataclasses.replace(preset.size, icp=icp)
    small = dataclasses.replace(preset, size=size, schedule=schedule, tested=1, points=256, pool=8)
    torch.set_num_threads(min(2, torch.get_num_threads()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(register, "PRESETS", {"xs": small})
        patch.setattr(register, "population", PEOPLE)
        yield


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory, tiny: None) -> Trained:
    """A run of two steps that several tests read and none changes."""
    return train(config(tmp_path_factory.mktemp("trained") / "run", steps=2))


class Button:
    """A watcher whose user wants the end once there is something to see."""

    def __init__(self) -> None:
        self.stopping = False
        self.seen: list[Sight] = []

    def begin(self, what: str, total: int, done: int) -> None: ...

    def end(self) -> None: ...

    def advance(self) -> None: ...

    def show(self, sight: Sight) -> None:
        self.seen.append(sight)
        self.stopping = True


def config(out: Path, **changes: Any) -> TrainConfig:
    plain = TrainConfig("register", out, preset="xs", steps=7, device="cpu")
    return dataclasses.replace(plain, **changes)


def results(out: Path) -> dict[str, bytes]:
    names = ("register.safetensors", "curve.jsonl", "evaluation.json", "curve.html")
    return {name: (out / name).read_bytes() for name in names}


def crash() -> None:
    raise ZeroDivisionError


@pytest.mark.slow
def test_stopped_and_killed_runs_end_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(config(tmp_path / "whole"))
    wanted = results(tmp_path / "whole")
    rows = [json.loads(line) for line in wanted["curve.jsonl"].splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 7]
    assert "validation network" in rows[1]
    assert "validation network" in rows[3]
    assert "validation network" not in rows[0]

    stopped = tmp_path / "stopped"
    with (
        showing(At(3, lambda: os.kill(os.getpid(), signal.SIGTERM))),
        pytest.raises(KeyboardInterrupt),
    ):
        train(config(stopped))
    assert not (stopped / "register.safetensors").exists()
    assert torch.load(stopped / "checkpoint.pt", weights_only=True)["step"] in (3, 4)
    again = train(config(stopped))
    assert again.hash == whole.hash
    assert results(stopped) == wanted

    asked, button = tmp_path / "asked", Button()
    with showing(button), pytest.raises(KeyboardInterrupt):
        train(config(asked))
    assert [sight.step for sight in button.seen] == ["2"]
    assert button.seen[0].values["loss"] == rows[0]["loss"]
    assert torch.load(asked / "checkpoint.pt", weights_only=True)["step"] == 2
    train(config(asked))
    assert results(asked) == wanted

    killed = tmp_path / "killed"
    monkeypatch.setattr(workflow, "CHECKPOINT_EVERY_S", 0.0)
    kept = b""

    def keep() -> None:
        nonlocal kept
        kept = (killed / "checkpoint.pt").read_bytes()

    with showing(At(3, keep)):
        train(config(killed))
    # the disk as a crash leaves it: an older checkpoint, a longer curve, a torn row
    for name in ("register.safetensors", "curve.html", "evaluation.json"):
        (killed / name).unlink()
    for done in (killed / "stages").rglob("done.json"):
        done.unlink()
    (killed / "checkpoint.pt").write_bytes(kept)
    with (killed / "curve.jsonl").open("a") as stream:
        stream.write('{"step": 9, "lo')
    train(config(killed))
    assert results(killed) == wanted


def test_weights_build_the_network_again(two_steps: Trained) -> None:
    from topohead.io.assets import reference_head

    weights = read_weights(two_steps.weights, two_steps.hash)
    size = RegistrationSize.from_plain(weights.config["size"])
    network = Registration(size, template_of(reference_head(0), size.icp.nodes))
    state = {name: value.float() if value.is_floating_point() else value.long()
             for name, value in weights.tensors.items()}  # fmt: skip
    network.load_state_dict(state)
    assert weights.config["steps"] == 2
    assert set(weights.metrics) == {"clean", "corrupted"}
    assert set(weights.metrics["clean"]) == {"template", "linear", "network",
                                             "network, true pose"}  # fmt: skip
    assert all(value.dtype == torch.float16 for name, value in weights.tensors.items()
               if name in dict(network.named_parameters()))  # fmt: skip


def test_training_goes_on_from_weights(tmp_path: Path, two_steps: Trained) -> None:
    first = two_steps
    still = train(config(tmp_path / "still", steps=1, start=first.weights, rate=1e-9, seed=1))
    before, after = read_weights(first.weights), read_weights(still.weights)
    assert after.config["start"] == first.hash
    for name, value in before.tensors.items():
        if name != "icp.sigma.bias":  # calibrated after either
            assert torch.allclose(after.tensors[name], value, atol=1e-6), name
    with pytest.raises(InputError, match="another size"):
        train(config(tmp_path / "other", name="register-perceiver", start=first.weights))


@pytest.mark.slow
def test_minutes_become_steps(tmp_path: Path) -> None:
    result = train(config(tmp_path / "run", steps=9, minutes=100))
    assert result.steps == 9
    result = train(config(tmp_path / "short", steps=None, minutes=1e-4))
    assert result.steps == 4  # the warm-up is the least


def test_other_settings_are_refused_in_one_line(
    tmp_path: Path, two_steps: Trained, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(two_steps.weights.parent, tmp_path / "run")
    words = ["train", "register", "--preset", "xs", "--steps", "2", "--device", "cpu"]
    capsys.readouterr()
    for extra in (["--seed", "3"], ["--steps", "5"], ["--minutes", "2"]):
        assert cli.run([*words, "--out", str(tmp_path / "run"), *extra]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert extra[0].removeprefix("--") in said
    assert cli.run(["train", "nothing", "--out", str(tmp_path / "new")]) == 2
    assert cli.run([*words[:-2], "--device", "cuda", "--out", str(tmp_path / "new")]) == (
        2 if not torch.cuda.is_available() else 0
    )
    for bad in ({"steps": 0}, {"minutes": -1.0}, {"devices": 0}, {"rate": 0.0},
                {"tested": 0}, {"start": tmp_path / "nothing.safetensors"}):  # fmt: skip
        with pytest.raises(InputError):
            train(config(tmp_path / "bad", **bad))
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="--restart train"):
        train(config(tmp_path / "run", steps=2))
    assert train(config(tmp_path / "run", steps=3, restart="train")).steps == 3


@pytest.mark.slow
def test_two_processes_see_what_one_sees(tmp_path: Path) -> None:
    """torchrun with two CPU processes: the same losses to rounding."""
    words = ["-m", "topohead", "train", "register", "--preset", "xs", "--steps", "4"]
    words += ["--device", "cpu", "--out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    starter = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    subprocess.run([sys.executable, *words, tmp_path / "one"], check=True, env=environment)
    subprocess.run([*starter, *words, tmp_path / "two"], check=True, env=environment)
    one, two = (
        json.loads((tmp_path / name / "curve.jsonl").read_text().splitlines()[-1])
        for name in ("one", "two")
    )
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert two[name] == pytest.approx(value, rel=1e-2), name
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
