"""What follows a take's frames, in this process or in several."""

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import closing, contextmanager
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch

from topohead.core import Photographs, Views
from topohead.io.undistortion import views_and_photographs
from topohead.workflows import tracking_state
from topohead.workflows.background import ahead
from topohead.workflows.capture import CaptureConfig
from topohead.workflows.capturing.chunks import Answer, Chunk, Tracked, track_chunk
from topohead.workflows.capturing.first import Head, read_head
from topohead.workflows.capturing.take import Take, calibrated, open_take
from topohead.workflows.progress import Sight, show
from topohead.workflows.tracking_state import State
from topohead.workflows.workers import stop_with_caller


class Tracker:
    """A take's solver and the pictures it asks for, read ahead.

    `device` may have a number; `keep` is given the pictures that `follow` reads, as stored.
    """

    def __init__(
        self,
        take: Take,
        head: Head,
        config: CaptureConfig,
        device: str | None = None,
        keep: Callable[[Photographs], None] | None = None,
    ) -> None:
        self.take, self._config, self._device = take, config, device or config.device
        self._keep = keep
        # a device leaves the cores to the decoders; a solver on the cores needs them itself
        cores = (os.cpu_count() or 1) // config.jobs
        self._readers = max(1, cores - 1) if config.device == "cuda" else 1
        views = self._read(take.capture.frames[0])
        start = tracking_state.Start(head.mesh, head.basis, -head.expression, head.upright, views)
        self._solver = tracking_state.SOLVERS[config.solver](start, config.seed, self._device)

    def follow(self, frames: Sequence[str], last: State | None) -> Iterator[Answer]:
        """Every frame's answer; `last` is the state before them."""
        read = self._read if self._keep is None else self._read_and_keep
        # two frames at a time: the cores that are done with one begin with the next
        threads = 2 if self._readers > 1 else 1
        with closing(ahead(read, frames, threads=threads)) as pictures:
            yield from self._solver.follow(_shown(pictures), last)

    def outline(self, frames: Sequence[str]) -> Iterator[State]:
        """A rough state after every frame from the first on."""
        assert isinstance(self._solver, tracking_state.Newton)
        with closing(ahead(self._read, frames)) as pictures:
            yield from self._solver.outline(pictures)

    def _read(self, frame: str) -> Views:
        return self.take.views(frame, self._config.height, self._readers, self._device)

    def _read_and_keep(self, frame: str) -> Views:
        assert self._keep is not None
        take, height = self.take, self._config.height
        views, photographs = views_and_photographs(
            take.capture, frame, take.names, height, self._readers, self._device
        )
        self._keep(photographs)
        return views


@contextmanager
def workers(config: CaptureConfig, run: Path) -> Iterator[Executor]:
    """`config.jobs` processes for `work`, spread over the CUDA devices where those track.

    Leaving the block stops what they do.
    """
    context = multiprocessing.get_context("spawn")
    numbers: SimpleQueue[int] = context.SimpleQueue()
    for number in range(config.jobs):
        numbers.put(number)
    before = set(multiprocessing.active_children())
    hands = ProcessPoolExecutor(config.jobs, context, _begin, (config, run, numbers))
    try:
        yield hands
    finally:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        hands.shutdown(cancel_futures=True)


def work(chunk: Chunk, state: State | None) -> Tracked:
    """`track_chunk` in a worker."""
    return track_chunk(_trackers[0].follow, chunk, state)


def _shown(pictures: Iterable[Views]) -> Iterator[Views]:
    """The pictures, shown as they are taken in hand."""
    for views in pictures:
        show(Sight(views.frame, images=dict(zip(views.cameras.names, views.images, strict=True))))
        yield views


_trackers: list[Tracker] = []
"""A worker's own."""


def _begin(config: CaptureConfig, run: Path, numbers: "SimpleQueue[int]") -> None:
    """Makes a worker of this process."""
    stop_with_caller()
    device = config.device
    if device == "cuda":
        device = f"cuda:{numbers.get() % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    logging.disable(logging.WARNING)  # the caller has said what there is to say of the take
    take = calibrated(open_take(config), run)
    logging.disable(logging.NOTSET)
    _trackers.append(Tracker(take, read_head(run / "first" / "head.safetensors"), config, device))
