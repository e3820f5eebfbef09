"""Every frame's mesh."""

import logging
from collections.abc import Callable, Generator
from contextlib import closing

from safetensors.torch import load_file, save_file
from torch import Tensor

from topohead.core import Mesh, Photographs, Topology, TrackedFrame
from topohead.io.meshes import write_obj
from topohead.io.runs import RunFolder
from topohead.workflows.background import Behind
from topohead.workflows.capture import CaptureConfig
from topohead.workflows.capturing.chunks import Answer, chunks_of, one_by_one, together
from topohead.workflows.capturing.first import Head, packed
from topohead.workflows.capturing.take import Take
from topohead.workflows.capturing.texture import on_the_way
from topohead.workflows.capturing.tracker import Tracker, work, workers
from topohead.workflows.progress import Sight, show, watched
from topohead.workflows.progress import track as progress
from topohead.workflows.tracking_state import State

_KEYS = "track/keys.safetensors"
"""The states from which chunks of a long take set out."""

log = logging.getLogger(__name__)


def track_frames(run: RunFolder, take: Take, head: Head, config: CaptureConfig) -> None:
    """Every frame's mesh, from the last one that is there on."""
    frames = take.capture.frames
    done = 0
    while done < len(frames) and run.has(*_frame_files(frames[done])):
        done += 1
    if done == len(frames):
        run.finish("track")
        return
    last = _stored_answer(run, frames[done - 1]) if done else None
    _show_finished(run, set(frames[:done]))
    with Behind() as writer, on_the_way(run, take, head, config) as textures:
        keep = None if textures is None else textures.keep
        with closing(_answers(run, take, head, config, done, last, keep)) as answers:
            for state, answer in progress(answers, "tracking", len(frames), done):
                writer.do(_write_frame, run, head.mesh.topology, state, answer)
                mesh = Mesh(head.mesh.topology, answer.vertices)
                # where its texture follows at once, the mesh comes with that
                meshes = {"head": mesh} if textures is None else {}
                show(Sight(answer.frame, _curves(answer.residual, answer.seconds), meshes))
                if textures is not None:
                    textures.tracked(answer.frame, answer.vertices)
    run.finish("track")


def _show_finished(run: RunFolder, frames: set[str]) -> None:
    """The curves of frames that an earlier call has tracked."""
    for row in run.metrics() if watched() else ():
        if row.get("stage") == "track" and row.get("frame") in frames:
            show(Sight(row["frame"], _curves(row["residual"], row["seconds"])))


def _curves(residual: float, seconds: float) -> dict[str, float]:
    return {"colour residual, %": residual * 100, "tracking, s a frame": seconds}


def _answers(
    run: RunFolder,
    take: Take,
    head: Head,
    config: CaptureConfig,
    done: int,
    last: Answer | None,
    keep: Callable[[Photographs], None] | None,
) -> Generator[Answer]:
    """The answers of all frames but the first `done`; `last` is that of the frame before."""
    if config.solver != "newton":
        yield from Tracker(take, head, config).follow(
            take.capture.frames[done:], None if last is None else last[0]
        )
        return
    chunks = chunks_of(take.capture.frames, done)
    borders = [chunk.run_up[0] for chunk in chunks if chunk.run_up]
    keys = _known_keys(run, borders)
    if config.jobs == 1 or keys is None:
        tracker = Tracker(take, head, config, keep=keep)
        if keys is None:
            keys = _find_keys(run, tracker, borders)
        if config.jobs == 1 or len(chunks) == 1:
            yield from one_by_one(chunks, keys, tracker.follow, last)
            return
        del tracker  # its device memory is the workers' now
    with workers(config, run.path) as hands:
        yield from together(chunks, keys, hands, work, config.jobs + 1, last)


def _known_keys(run: RunFolder, borders: list[str]) -> dict[str, State] | None:
    """States before these frames, as far as an earlier call has found them all."""
    if not borders:
        return {}
    if not run.has(_KEYS):
        return None
    keys: dict[str, State] = {}
    for name, tensor in _aligned(load_file(run.path / _KEYS)).items():
        frame, key = name.split("/", 1)
        keys.setdefault(frame, {})[key] = tensor
    return keys if all(frame in keys for frame in borders) else None


def _find_keys(run: RunFolder, tracker: Tracker, borders: list[str]) -> dict[str, State]:
    """States before these frames, from a pass over all coarse pictures."""
    frames = tracker.take.capture.frames
    # the take's other borders too: a later call may need fewer of them, never more
    wanted = {chunk.run_up[0] for chunk in chunks_of(frames) if chunk.run_up}
    count = max(frames.index(frame) for frame in wanted)
    keys: dict[str, State] = {}
    for at, state in enumerate(progress(tracker.outline(frames[:count]), "outline", count)):
        if frames[at + 1] in wanted:
            keys[frames[at + 1]] = state
    flat = {f"{frame}/{key}": t for frame, state in keys.items() for key, t in state.items()}
    with run.write(_KEYS) as path:
        save_file(packed(flat), path)
    return {frame: keys[frame] for frame in borders}


def _stored_answer(run: RunFolder, frame: str) -> Answer:
    """A frame's answer as it was written."""
    stored = _aligned(load_file(run.path / "frames" / frame / "state.safetensors"))
    vertices, pose, gains = stored["vertices"], stored["pose"], stored["gains"]
    return stored, TrackedFrame(frame, vertices, pose, gains, 0.0, False, 0.0)


def _aligned(stored: State) -> State:
    """The tensors where an allocator would put them.

    In a file they begin anywhere; matrix products of such memory differ in the last bit, and a
    resumed run would differ from an undisturbed one.
    """
    return packed(stored)


def _frame_files(frame: str) -> tuple[str, str]:
    return f"frames/{frame}/mesh.obj", f"frames/{frame}/state.safetensors"


def _write_frame(
    run: RunFolder, topology: Topology, state: dict[str, Tensor], answer: TrackedFrame
) -> None:
    """A frame's files; its state comes last and says that the frame is done."""
    folder = run.path / "frames" / answer.frame
    write_obj(Mesh(topology, answer.vertices), folder / "mesh.obj")
    run.append_metrics(
        "track",
        answer.frame,
        seconds=answer.seconds,
        residual=answer.residual,
        doubtful=answer.doubtful,
    )
    if answer.doubtful:
        log.warning("frame %s is doubtful: few views agree with the first frame", answer.frame)
    common = {"vertices": answer.vertices, "pose": answer.pose, "gains": answer.gains}
    with run.write(f"frames/{answer.frame}/state.safetensors") as path:
        save_file(packed(state | common), path)
