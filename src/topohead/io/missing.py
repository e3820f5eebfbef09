"""The exception for a picture that a take may go without."""

from topohead.core.errors import InputError


class MissingFrame(InputError):
    """This camera has no usable picture of this frame, and the take was opened to bear that."""
