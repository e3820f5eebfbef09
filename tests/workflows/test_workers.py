"""Worker processes do not outlive a caller that was killed."""

import os
import signal
import subprocess
import sys
import time

CALLER = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from topohead.workflows.workers import stop_with_caller

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, stop_with_caller) as hands:
        print(hands.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""


def test_workers_leave_with_a_killed_caller() -> None:
    with subprocess.Popen([sys.executable, "-c", CALLER], stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        worker = int(caller.stdout.readline())
        os.kill(worker, 0)  # it is there
        caller.send_signal(signal.SIGKILL)
        caller.wait()
    until = time.monotonic() + 10
    while _there(worker) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _there(worker)


def _there(process: int) -> bool:
    """Whether a process runs; one that has ended and waits to be buried does not."""
    try:
        with open(f"/proc/{process}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
