"""The report of a run: one HTML file that opens from disk, needs no network and reads on a phone.

It lives in workflows, not in the viewer, because capture, demo and evaluate end with it and layers
import only downward.
"""

from topohead.workflows.report.page import write_report

__all__ = ["write_report"]
