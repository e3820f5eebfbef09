"""Chunks of a take give the same answers however many are tracked at the same time."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from topohead.core import TrackedFrame
from topohead.io.runs import RunFolder, Stage
from topohead.workflows.capturing.chunks import (
    AGREE,
    Answer,
    chunks_of,
    one_by_one,
    together,
    track_chunk,
)
from topohead.workflows.capturing.tracking import _stored_answer
from topohead.workflows.tracking_state import State

FRAMES = tuple(f"{number:06d}" for number in range(1, 24))


def follow(frames: Sequence[str], state: State | None) -> Iterator[Answer]:
    """A solver that comes half way to each frame's surface, from wherever it was."""
    place = 0.0 if state is None else float(state["place"])
    for frame in frames:
        place = 0.5 * place + 0.5 * 0.001 * int(frame)
        vertices = torch.full((5, 3), place)
        state = {"place": torch.tensor(place, dtype=torch.float64)}
        yield state, TrackedFrame(frame, vertices, torch.eye(4), torch.ones(2, 3), 0.1, False, 0.0)


def keys(wrong: str = "") -> dict[str, State]:
    """Rough states before every run-up; one may be far off."""
    rough = {}
    for chunk in chunks_of(FRAMES, 0, 7, 5):
        if chunk.run_up:
            off = 0.5 if chunk.run_up[0] == wrong else 1e-4
            place = 0.001 * (int(chunk.run_up[0]) - 1) + off
            rough[chunk.run_up[0]] = {"place": torch.tensor(place, dtype=torch.float64)}
    return rough


@pytest.mark.parametrize("done", [0, 3, 7, 9, 22])
def test_chunks_hold_every_frame_once_and_set_out_before_it(done: int):
    chunks = chunks_of(FRAMES, done, 7, 5)
    assert sum((chunk.frames for chunk in chunks), ()) == FRAMES[done:]
    for chunk in chunks:
        begin = FRAMES.index(chunk.frames[0])
        begun = begin % 7 > 0 or begin == 0
        assert chunk.run_up == (() if begun else FRAMES[begin - 5 : begin])
    assert len(chunks_of(FRAMES)) == 1


@pytest.mark.parametrize("wrong", ["", "000010"])
def test_answers_do_not_depend_on_how_many_are_in_work(wrong: str):
    chunks = chunks_of(FRAMES, 0, 7, 5)
    expected = list(one_by_one(chunks, keys(wrong), follow, None))
    assert [answer.frame for _, answer in expected] == list(FRAMES)
    for jobs in (1, 2, 5):
        with ThreadPoolExecutor(jobs) as workers:
            work = partial(track_chunk, follow)
            found = list(together(chunks, keys(wrong), workers, work, jobs + 1, None))
        assert [state["place"] for state, _ in found] == [state["place"] for state, _ in expected]
    # and none on where an earlier run stopped
    for done in (3, 7, 14, 16):
        last = expected[done - 1]
        rest = list(one_by_one(chunks_of(FRAMES, done, 7, 5), keys(wrong), follow, last))
        assert [state["place"] for state, _ in rest] == [s["place"] for s, _ in expected[done:]]


def test_a_border_that_disagrees_is_tracked_from_the_frame_before():
    straight = list(follow(FRAMES, None))
    chunks = chunks_of(FRAMES, 0, 7, 5)
    right, wrong = (list(one_by_one(chunks, keys(k), follow, None)) for k in ("", "000010"))
    places = [
        torch.stack([state["place"] for state, _ in answers])
        for answers in (straight, right, wrong)
    ]
    assert (places[0] - places[1]).abs().max() < AGREE, "run-ups lead to the same surface"
    assert not torch.equal(places[0][14:21], places[1][14:21]), "but not by the same way"
    assert torch.equal(
        places[2][14:21], torch.stack([s["place"] for s, _ in follow(FRAMES[14:21], right[13][0])])
    )


def test_a_stored_state_lies_in_memory_as_a_fresh_one(tmp_path: Path) -> None:
    """Products of unaligned memory differ in the last bit, and so would a resumed run."""
    run = RunFolder(tmp_path / "run", "capture", {}, (Stage("track"),))
    state = {
        "a": torch.zeros(3, dtype=torch.float32), "gains": torch.ones(2, 3),
        "pose": torch.eye(4, dtype=torch.float64), "vertices": torch.rand(5, 3),
    }  # fmt: skip
    path = tmp_path / "run" / "frames" / "1" / "state.safetensors"
    path.parent.mkdir(parents=True)
    save_file(state, path)
    assert any(tensor.data_ptr() % 64 for tensor in load_file(path).values())
    stored, answer = _stored_answer(run, "1")
    assert all(tensor.data_ptr() % 64 == 0 for tensor in stored.values())
    assert all(torch.equal(stored[name], tensor) for name, tensor in state.items())
    assert torch.equal(answer.vertices, state["vertices"])
