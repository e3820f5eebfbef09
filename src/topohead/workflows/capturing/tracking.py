"""Every frame's mesh."""

import logging

from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from topohead.core import (
    Mesh,
    Topology,
    TrackedFrame,
)
from topohead.io.meshes import write_obj
from topohead.io.runs import RunFolder
from topohead.workflows import tracking_state
from topohead.workflows.capture import CaptureConfig
from topohead.workflows.capturing.first import Head, packed
from topohead.workflows.capturing.take import Take
from topohead.workflows.progress import track as progress

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
    follow = tracking_state.SOLVERS[config.solver]
    last = None
    if done:
        last = load_file(run.path / "frames" / frames[done - 1] / "state.safetensors")
    pictures = (take.views(frame, config.height) for frame in frames[done:])
    first_views = take.views(frames[0], config.height)
    start = tracking_state.Start(head.mesh, head.basis, -head.expression, head.upright, first_views)
    answers = follow(start, pictures, last, config.seed, config.device)
    for state, answer in progress(answers, "tracking", len(frames), done):
        _write_frame(run, head.mesh.topology, state, answer)
    run.finish("track")


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


def frame_vertices(run: RunFolder, frame: str) -> Float[Tensor, "V 3"]:
    return load_file(run.path / "frames" / frame / "state.safetensors")["vertices"]


def frame_gaze(run: RunFolder, frame: str) -> Float[Tensor, "2 2"] | None:
    """Yaw and pitch of both eyes, None where the mesh has no eyes."""
    return load_file(run.path / "frames" / frame / "state.safetensors").get("gaze")
