"""The stages of `topohead capture`, each resumable.

ingest, first, track, texture, detail, package.
"""

from topohead.workflows.capturing.detail import detail
from topohead.workflows.capturing.first import Head, first, read_head, recognised, show_head
from topohead.workflows.capturing.package import package, report
from topohead.workflows.capturing.take import Take, bytes_needed, ingest, open_take
from topohead.workflows.capturing.texture import texture
from topohead.workflows.capturing.tracking import track_frames

__all__ = [
    "Head",
    "Take",
    "bytes_needed",
    "detail",
    "first",
    "ingest",
    "open_take",
    "package",
    "read_head",
    "recognised",
    "report",
    "show_head",
    "texture",
    "track_frames",
]
