"""What tracked frames' files say."""

from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from topohead.io.runs import RunFolder


def frame_vertices(run: RunFolder, frame: str) -> Float[Tensor, "V 3"]:
    """The frame's mesh, metres in the world."""
    return load_file(run.path / "frames" / frame / "state.safetensors")["vertices"]


def frame_gaze(run: RunFolder, frame: str) -> Float[Tensor, "2 2"] | None:
    """Yaw and pitch of both eyes, None where the mesh has no eyes."""
    return load_file(run.path / "frames" / frame / "state.safetensors").get("gaze")
