"""What the worker processes of every verb have in common: they end with their caller."""

import multiprocessing
import os
import signal
import threading


def stop_with_caller() -> None:
    """Leaves interrupts to the caller, and ends with it: one that is killed stops nobody.

    For the initializer of a pool's processes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave, daemon=True).start()


def _leave() -> None:
    caller = multiprocessing.parent_process()
    if caller is not None:
        caller.join()
        os._exit(1)
