"""`topohead train`: one loop for every network of the package, resumable, on one GPU or many."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from topohead.core.errors import InputError
from topohead.synthesis.splits import SEEDS

if TYPE_CHECKING:
    import torch

    from topohead.io.runs import RunFolder
    from topohead.solvers.training import Task, Training

log = logging.getLogger(__name__)

CHECKPOINT_EVERY_S = 60.0

FITTED_AFTER = 0.25
"""Share of the warm-up after which steps are timed, to turn --minutes into their number."""


@dataclass(frozen=True)
class TrainConfig:
    """A network of the package, trained on made people.

    The same command goes on after an interruption.
    """

    name: Literal["register", "register-perceiver", "head-vae"]
    """register: scans to heads; register-perceiver: to compare; head-vae: heads to tokens."""
    out: Path
    """Folder of the run."""
    preset: Literal["xs", "s", "l"] = "s"
    """xs: seconds on a CPU, for tests; s: what ships, minutes on a GPU; l: several GPUs."""
    families: Literal["all", "anny", "ict"] = "all"
    """Whose heads register learns from; tests then also show the others, as strangers."""
    seed: int = 0
    """Decides first weights and data; same seed, same curve. 0 to 599, others are for tests."""
    start: Path | None = None
    """Weights to go on from, of a network of the same size (rounds may have been alike there)."""
    rate: float | None = None
    """Highest learning rate; by default the preset's. From trained weights two thirds do."""
    batch: int | None = None
    """Samples a step, over all processes; by default the preset's. n times as many bear √n times
    the rate."""
    tested: int | None = None
    """Scans of each kind that register is evaluated on; by default the preset's."""
    steps: int | None = None
    """Number of steps; by default the preset's."""
    minutes: float | None = None
    """As many steps as fit into this time, measured during the warm-up; at most --steps."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto: cuda where there is one."""
    devices: int = 1
    """GPUs (or CPU processes) of this machine; torchrun decides where it started us."""
    dashboard: bool = False
    """A page on this machine while it trains: curves of the losses, and a stop button."""
    dashboard_port: int | None = None
    """Its port on 127.0.0.1; by default 8766, or a free one when that is taken."""
    restart: str | None = None
    """Start over from a stage: train or evaluate."""
    json: bool = False
    """Print one JSON object instead of lines."""


@dataclass(frozen=True)
class Trained:
    """Where the weights are, their hash, and what they reach on test samples."""

    out: Path
    weights: Path
    hash: str
    steps: int
    metrics: Mapping[str, Any]

    def summary(self) -> str:
        return f"{self.steps} steps, weights {self.hash[:12]} in {self.weights}\n" + table(
            self.metrics
        )


def _register(config: TrainConfig, device: "torch.device") -> "Task":
    from topohead.workflows.training.register import register_task

    assert config.name in ("register", "register-perceiver")
    return register_task(
        config.preset,
        config.seed,
        device,
        config.families,
        config.name,
        config.tested,
        config.batch,
    )


def _head_vae(config: TrainConfig, device: "torch.device") -> "Task":
    from topohead.workflows.training.head_vae import head_vae_task

    if config.batch is not None:
        raise InputError("--batch is for register; head-vae takes its preset's")
    return head_vae_task(config.preset, config.seed, device)


TASKS: Mapping[str, Callable[[TrainConfig, "torch.device"], "Task"]] = {
    "register": _register,
    "register-perceiver": _register,
    "head-vae": _head_vae,
}
"""How each network's task is made."""


def train(config: TrainConfig) -> Trained | None:
    """Train into `config.out`; None on processes other than the first."""
    from topohead.workflows.training import processes

    _check(config)
    fabric = processes.fabric_of(config.device, config.devices)
    fabric.launch()
    first = fabric.global_rank == 0
    with _run_folder(config) if first else nullcontext() as run:
        return _trained(config, fabric, run)


def _trained(config: TrainConfig, fabric: Any, run: "RunFolder | None") -> Trained | None:
    from topohead.solvers.training import Training
    from topohead.workflows.training import files, graphs, processes

    fabric.barrier()  # a refused run folder must stop everyone before the work begins
    task = TASKS[config.name](config, fabric.device)
    if task.schedule.batch % fabric.world_size:
        raise InputError(
            f"a batch of {task.schedule.batch} does not divide among {fabric.world_size} "
            "processes; choose another --devices or --batch"
        )
    if config.rate is not None:
        task = replace(task, schedule=replace(task.schedule, rate=config.rate))
    if config.start is not None:
        task = replace(task, describe={**task.describe, "start": _started(task, config.start)})
    steps = config.steps if config.minutes else config.steps or task.schedule.steps
    training = Training(task.network, task.schedule, None if config.minutes else steps)
    files.resume(config.out, training)
    fabric.barrier()
    if run is not None:
        files.cut_curve(config.out, training.step)
    if fabric.device.type == "cuda":
        graphs.fused(task.network)
    forward = fabric.setup_module(task.network)
    try:
        with processes.asked_to_stop() as stop, processes.repeatable(fabric.device):
            for _ in _steps(config, fabric, task, training, forward):
                _tell(config, fabric, task, training)
                if processes.agreed(fabric, stop(), training.step % task.schedule.told == 0):
                    raise KeyboardInterrupt
    except KeyboardInterrupt:  # a signal, or the dashboard's button, always between two steps
        if run is not None:
            files.save_checkpoint(config.out, training)
        log.info("stopped at step %d", training.step)
        raise
    if run is None:
        return None
    files.save_checkpoint(config.out, training)
    run.finish("train", steps=training.step)
    return _finished(config, run, task, training)


def _started(task: "Task", path: Path) -> str:
    """The network takes the weights of a file, whose hash is returned."""
    from topohead.io.weights import read_weights

    weights = read_weights(path)
    try:
        task.network.load_state_dict(dict(weights.tensors))
    except RuntimeError as error:
        raise InputError(
            f"{path} holds weights of '{weights.config.get('network')}' of another size; choose "
            "the --preset that they were trained with, or leave --start out"
        ) from error
    return weights.hash


def _steps(
    config: TrainConfig, fabric: Any, task: "Task", training: "Training", forward: Any
) -> Iterator[int]:
    """The steps, with a checkpoint every minute and, under --minutes, their number found."""
    from topohead.solvers.training import train as optimise
    from topohead.workflows.progress import track
    from topohead.workflows.training import files
    from topohead.workflows.training.graphs import repeated
    from topohead.workflows.training.processes import synchronised

    def batch_of(step: int) -> Any:
        return task.batch(step, fabric.global_rank, fabric.world_size)

    def losses_of(batch: Any) -> Any:
        return task.loss(forward, batch)

    def averaged(gradients: "torch.Tensor") -> None:
        import torch.distributed

        torch.distributed.all_reduce(gradients)
        gradients.div_(fabric.world_size)

    ways: dict[str, Any] = {"hastened": repeated} if fabric.device.type == "cuda" else {}
    ways |= {"averaged": averaged} if fabric.world_size > 1 else {}
    steps = optimise(training, batch_of, losses_of, fabric.backward, **ways)
    done = training.step
    total = training.steps or config.steps or task.schedule.steps
    saved = began = time.monotonic()
    timed_from = done + max(1, round(FITTED_AFTER * task.schedule.warmup))
    if fabric.global_rank == 0:
        steps = track(steps, f"train {config.name}", total=total, done=done)
    for step in steps:
        now = time.monotonic()
        if step == timed_from:
            timed = synchronised(fabric)
        if training.steps is None and step >= max(task.schedule.warmup, timed_from + 1):
            pace = (synchronised(fabric) - timed) / (step - timed_from)
            left = 60 * (config.minutes or 0) - (time.monotonic() - began)
            fitting = min(step + max(0, int(left / pace)), config.steps or 1 << 60)
            training.steps = fabric.broadcast(fitting)
            log.info("%.1f steps a second: %d steps", 1 / pace, training.steps)
        yield step
        if fabric.global_rank == 0 and now - saved > CHECKPOINT_EVERY_S:
            files.save_checkpoint(config.out, training)
            saved = now


def _tell(config: TrainConfig, fabric: Any, task: "Task", training: "Training") -> None:
    """A row of the curve now and then; the measures on validation samples less often."""
    import torch

    from topohead.solvers.training import rate_at
    from topohead.workflows.progress import Sight, show
    from topohead.workflows.training import files
    from topohead.workflows.training.processes import measured_network

    step, schedule = training.step, task.schedule
    last = step == training.steps
    if step % schedule.told and not last:
        return
    means = training.told()
    if fabric.world_size > 1:
        values = torch.tensor(list(means.values()), device=fabric.device)
        values = fabric.all_reduce(values, reduce_op="mean")
        means = dict(zip(means, values.tolist(), strict=True))
    if fabric.global_rank:
        return
    if not means["loss"] < float("inf"):
        raise RuntimeError(f"the loss is {means['loss']} at step {step}")
    show(Sight(str(step), means))
    rate = rate_at(step - 1, training.steps or schedule.warmup, schedule)
    row: dict[str, Any] = {"step": step, "rate": rate, **means}
    if step % schedule.validated == 0 or last:
        with measured_network(training) as network:
            row |= task.validate(network)
    files.append_row(config.out, row)


def _finished(config: TrainConfig, run: "RunFolder", task: "Task", training: "Training") -> Trained:
    """Evaluation and the weights file."""
    from topohead.io.weights import read_weights, write_weights
    from topohead.workflows.training import files
    from topohead.workflows.training.processes import measured_network

    path = config.out / f"{config.name}.safetensors"
    if not run.is_done("evaluate"):
        with measured_network(training) as network:
            metrics = task.evaluate(network)
            tensors = _stored(network)
        described = {"network": config.name, "preset": config.preset, "seed": config.seed,
                     "steps": training.step, **task.describe}  # fmt: skip
        write_weights(path, tensors, described, metrics)
        run.write_json("evaluation.json", metrics)
        title = f"topohead train {config.name} --preset {config.preset} --seed {config.seed}"
        files.write_page(config.out, title, table(metrics))
        run.finish("evaluate")
    weights = read_weights(path)
    return Trained(config.out, path, weights.hash, training.step, weights.metrics)


def _stored(network: Any) -> dict[str, Any]:
    """Parameters as float16; buffers, which are facts, as they are (indices in 32 bits)."""
    import torch

    parameters = {name: value.detach().half() for name, value in network.named_parameters()}
    kept = network.state_dict()
    buffers = {
        name: value.int() if value.dtype == torch.int64 else value
        for name, value in network.named_buffers()
        if name in kept
    }
    return parameters | buffers


def table(metrics: Mapping[str, Any]) -> str:
    """Nested numbers as lines of text."""
    lines = []
    for kind, rows in metrics.items():
        for name, row in rows.items():
            values = "  ".join(f"{key} {value:.3g}" for key, value in row.items())
            lines.append(f"{kind:<10} {name:<20} {values}")
    return "\n".join(lines) + "\n"


# What the loop stands on


def _check(config: TrainConfig) -> None:
    if config.steps is not None and config.steps < 1:
        raise InputError(f"--steps must be at least 1, got {config.steps}")
    if config.minutes is not None and not config.minutes > 0:
        raise InputError(f"--minutes must be positive, got {config.minutes}")
    if config.seed not in SEEDS["train"]:
        raise InputError(
            f"--seed {config.seed} is not for training; expected {SEEDS['train'].start} to "
            f"{SEEDS['train'].stop - 1}"
        )
    if config.rate is not None and not config.rate > 0:
        raise InputError(f"--rate must be positive, got {config.rate}")
    if config.batch is not None and config.batch < 1:
        raise InputError(f"--batch must be at least 1, got {config.batch}")
    if config.tested is not None and config.tested < 1:
        raise InputError(f"--tested must be at least 1, got {config.tested}")
    if config.devices < 1:
        raise InputError(f"--devices must be at least 1, got {config.devices}")
    if config.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise InputError("--device cuda: torch finds no CUDA device; leave --device out")


def _run_folder(config: TrainConfig) -> "RunFolder":
    from topohead.io.runs import RunFolder, Stage
    from topohead.workflows.training import files

    settings = {name: getattr(config, name) for name in ("name", "preset", "families", "seed",
                                                          "start", "rate", "batch",
                                                          "steps", "minutes")}  # fmt: skip
    stages = [
        Stage("train", tuple(settings), (files.CHECKPOINT, files.CURVE)),
        Stage("evaluate", (), (f"{config.name}*.safetensors", "evaluation.json", files.PAGE)),
    ]
    return RunFolder(config.out, "train", settings, stages, restart=config.restart)
