"""Ctrl-C while modules are imported, before there is anything to put in order."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from server.cli.errors import INTERRUPTED


@contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C end the process at once, in silence, with the exit code for it.

    An exception would not do in the middle of an import: it shows as a traceback, and C code that calls
    back into Python may swallow it, so that a server starts that was told not to.
    """
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
