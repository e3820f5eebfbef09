"""Long takes in chunks of frames that may be tracked at the same time.

A quick pass over coarse pictures gives a state near every border. A chunk sets out from there a few
frames early, until nothing of that rough state is left; then, on the frame before its own, it must
have come to the surface that the chunk before found there. If it has not, it goes on from that
surface instead. So what is tracked from what depends on the frames alone, not on how many chunks
are in work at a time.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, replace

from topohead.core import TrackedFrame
from topohead.workflows.progress import stop_if_asked
from topohead.workflows.tracking_state import State

CHUNK = 120
"""Frames of a chunk."""
RUN_UP = 4
"""Frames that a chunk sets out earlier; a frame passes on half its deviation from the model."""
AGREE = 2e-4
"""Metres within which 95 % of the vertices must lie at a border."""

Answer = tuple[State, TrackedFrame]
Follow = Callable[[Sequence[str], State | None], Iterator[Answer]]
"""Frames and the state before them; every frame's answer."""
Tracked = tuple[Answer | None, list[Answer]]
"""What a chunk's run-up came to, and its own frames' answers."""


@dataclass(frozen=True)
class Chunk:
    """Frames to track, and those before them on which to set out: none, and they go on."""

    run_up: tuple[str, ...]
    frames: tuple[str, ...]


def chunks_of(
    frames: Sequence[str], done: int = 0, length: int = CHUNK, run_up: int = RUN_UP
) -> list[Chunk]:
    """The chunks of a take whose first `done` frames are finished."""
    found = []
    for begin in range(0, len(frames), length):
        own = tuple(frames[max(begin, done) : begin + length])
        fresh = begin > 0 and done <= begin
        if own:
            found.append(Chunk(tuple(frames[begin - run_up : begin]) if fresh else (), own))
    return found


def one_by_one(
    chunks: Sequence[Chunk], keys: Mapping[str, State], follow: Follow, last: Answer | None
) -> Iterator[Answer]:
    """Every frame's answer; `last` is that of the frame before, None at the take's start.

    `keys` has the state before each chunk's run-up, by the name of its first frame.
    """
    for chunk in chunks:
        state = None if last is None else last[0]
        if chunk.run_up:
            reached = _reached(chunk, keys, follow)
            if last is not None and agree(reached[1], last[1]):
                state = reached[0]
        for answer in follow(chunk.frames, state):
            yield answer
            last = answer


def together(
    chunks: Sequence[Chunk],
    keys: Mapping[str, State],
    workers: Executor,
    work: Callable[[Chunk, State | None], Tracked],
    waiting: int,
    last: Answer | None,
) -> Iterator[Answer]:
    """The answers of `one_by_one`, `waiting` chunks ahead; `work` is `track_chunk` elsewhere."""
    ahead: deque[Future[Tracked]] = deque()
    todo = iter(chunks)
    for chunk in chunks:
        while len(ahead) < waiting and (one := next(todo, None)) is not None:
            state = keys[one.run_up[0]] if one.run_up else None if last is None else last[0]
            ahead.append(workers.submit(work, one, state))
        reached, answers = _awaited(ahead.popleft())
        if reached is not None and last is not None and not agree(reached[1], last[1]):
            _, answers = _awaited(workers.submit(work, replace(chunk, run_up=()), last[0]))
        yield from answers
        last = answers[-1]


def _awaited(chunk: Future[Tracked]) -> Tracked:
    """What a worker comes to; a chunk takes minutes, and a wish to stop is heeded meanwhile."""
    while not wait((chunk,), timeout=0.5).done:
        stop_if_asked()
    return chunk.result()


def track_chunk(follow: Follow, chunk: Chunk, state: State | None) -> Tracked:
    """A chunk from its run-up on, or from the state before it when it has none."""
    reached = None
    if chunk.run_up:
        assert state is not None, "a run-up sets out from a key state"
        reached = _reached(chunk, {chunk.run_up[0]: state}, follow)
        state = reached[0]
    return reached, list(follow(chunk.frames, state))


def agree(one: TrackedFrame, other: TrackedFrame) -> bool:
    """Whether two ways have come to the same surface."""
    far = (one.vertices - other.vertices).norm(dim=1)
    return bool(far.quantile(0.95) < AGREE)


def _reached(chunk: Chunk, keys: Mapping[str, State], follow: Follow) -> Answer:
    """What the last frame of a run-up comes to."""
    (last,) = deque(follow(chunk.run_up, keys[chunk.run_up[0]]), maxlen=1)
    return last
