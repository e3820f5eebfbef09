"""Pictures of one person with the head that was found in them: what avatars are fitted to."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from topohead.core.errors import InputError
from topohead.core.topology import Topology
from topohead.core.views import Views


@dataclass(frozen=True)
class PosedViews:
    """One person in T instants: pictures, and the head's vertices in each, world metres.

    `weights` follow `ARKIT_52`. `gaze` is yaw (to the person's left) and pitch (up) of the left and
    right eye against those of the resting head, radians. `poses` move the head from rest to the
    instant, in the world; `upright` moves the world to the y-up head frame at rest.
    """

    topology: Topology
    views: tuple[Views, ...]
    vertices: Float[Tensor, "T V 3"]
    weights: Float[Tensor, "T 52"]
    gaze: Float[Tensor, "T 2 2"]
    poses: Float[Tensor, "T 4 4"]
    upright: Float[Tensor, "4 4"]
    frames_per_second: float = 30.0

    def __post_init__(self) -> None:
        count = len(self.views)
        rows = {len(x) for x in (self.vertices, self.weights, self.gaze, self.poses)}
        if rows != {count} or not count:
            raise InputError(f"{count} instants with pictures but {sorted(rows)} posed heads")
        if self.vertices.shape[1] != self.topology.vertex_count:
            raise InputError(
                f"heads of {self.vertices.shape[1]} vertices for a topology of "
                f"{self.topology.vertex_count}"
            )
        for view in self.views:
            if not view.images:
                raise InputError(f"no camera has a picture of frame {view.frame}")
            for index, image in enumerate(view.images):
                size = (image.shape[1], image.shape[0])
                if size != view.cameras.size(index):
                    raise InputError(
                        f"camera {view.cameras.names[index]!r} has pictures of "
                        f"{view.cameras.size(index)} pixels, frame {view.frame} one of {size}"
                    )
