"""The parent of several workers, with workers that are no servers."""

import os
import signal
import subprocess
import sys

from server.cli.errors import FAILED
from server.cli.supervisor import OVERTIME_S
from server.settings import Settings

WORKER_THAT_HANGS = """
import signal, sys
from server.cli.supervisor import Supervisor
from server.settings import Settings

settings = Settings(
    port=0, workers=2, drain_seconds=0, store="mongodb://nowhere.example/none", bus="redis://nowhere.example"
)
found = Supervisor(settings, lambda url: None).run()
if isinstance(found, int):
    sys.exit(found)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("hangs", file=sys.stderr, flush=True)
while True:
    signal.pause()
"""
WORKER_THAT_IS_READY_WHEN_IT_IS_TOLD_TO_STOP = """
import os, select, signal, sys
from server.cli.supervisor import Supervisor
from server.settings import Settings

def say(*words):
    os.write(2, (" ".join(map(str, words)) + "\\n").encode())

settings = Settings(
    port=0, workers=2, drain_seconds=1, store="mongodb://nowhere.example/none", bus="redis://nowhere.example"
)
found = Supervisor(settings, lambda url: say("all")).run()
if isinstance(found, int):
    say("over")
    sys.exit(found)

def told(*_):
    os.write(found.ready_fd, b"http://127.0.0.1")
    heard = select.poll()
    heard.register(found.ready_fd, select.POLLERR)
    heard.poll()
    say("heard")

signal.signal(signal.SIGTERM, told)
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
say("worker", found.number)
while True:
    signal.pause()
"""


def test_a_parent_that_is_told_to_stop_starts_nobody_any_more() -> None:
    """Also where the first worker has just become ready, which the others wait for."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKER_THAT_IS_READY_WHEN_IT_IS_TOLD_TO_STOP],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stderr is not None
        said = map(str.strip, parent.stderr)
        assert next(said) == "worker 1"
        os.kill(parent.pid, signal.SIGTERM)
        assert next(said) == "heard"
        os.kill(parent.pid, signal.SIGINT)
        assert list(said) == ["over"]
    assert parent.returncode == 0


def test_a_worker_that_hangs_is_killed_and_told_of() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WORKER_THAT_HANGS], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as parent:
        assert parent.stderr is not None
        assert parent.stderr.readline() == b"hangs\n"
        parent.send_signal(signal.SIGTERM)
    assert parent.returncode == FAILED
    assert Settings.model_fields["drain_seconds"].default + OVERTIME_S <= 30
