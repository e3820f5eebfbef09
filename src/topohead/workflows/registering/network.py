"""The registration network from the weights that come with the package, or from a training run;
and the people that it knows."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from topohead.models.linear import LinearHead
    from topohead.models.registration import Registration


def load_registration(path: Path | None = None) -> "Registration":
    """The network in evaluation mode on the CPU; `path` is another weights file than the shipped.

    InputError if there are no such weights, or they are damaged or another network's.
    """
    from topohead.core import InputError
    from topohead.io.assets import reference_head
    from topohead.io.weights import read_weights, shipped_weights
    from topohead.models.registration import Registration, RegistrationSize, template_of

    weights = shipped_weights("register") if path is None else read_weights(path)
    if not str(weights.config.get("network", "")).startswith("register"):
        raise InputError(
            f"{path} holds weights of '{weights.config.get('network')}', expected 'register'"
        )
    try:
        size = RegistrationSize.from_plain(weights.config["size"])
        network = Registration(size, template_of(reference_head(0), size.icp.nodes))
        network.load_state_dict(dict(weights.tensors))
    except (TypeError, KeyError, RuntimeError) as error:
        raise InputError(
            f"{path or 'the shipped weights'} fit another version of the network; train it again "
            "with `topohead train register`"
        ) from error
    return network.eval()


@cache
def load_people() -> "LinearHead":
    """The people that the shipped network was trained on: the reference head's topology and
    actions, their mean and principal modes, one deviation each."""
    from topohead.io.assets import reference_head
    from topohead.io.weights import shipped_weights
    from topohead.models.linear import LinearHead

    stored, head = shipped_weights("register-people").tensors, reference_head(0)
    mean, modes = stored["mean"].float(), stored["modes"].float()
    return LinearHead(head.topology, mean, modes, head.expression_basis)
