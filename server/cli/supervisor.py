"""``serve --workers N``: a parent that starts N servers behind one port, and sees to it that they live.

The parent forks each worker and does nothing else: it has no socket that listens, no store and no event
loop, so there is little in it that can fail. ``docs/decisions/0038`` says why the workers share the port by
``SO_REUSEPORT``, and when each of them is started, told to stop, and started again.
"""

import contextlib
import os
import random
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import structlog

from server.cli.errors import FAILED, OK
from server.settings import Settings
from server.workers import Place

FIRST_DELAY_S: Final = 0.5
LONGEST_DELAY_S: Final = 30.0
"""A worker that died is started again after the first, then after twice as long each time, up to the last."""
SOUND_S: Final = 60.0
"""One that lived for so long begins anew with the delays."""
OVERTIME_S: Final = 5.0
"""What workers may take beyond the time of running steps. They end before, or hang and are killed."""
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Slot:
    """A place for one worker: who has it now, or when the next one is started."""

    number: int
    pid: int | None = None
    ready_fd: int | None = None
    ready: bool = False
    started_at: float = 0.0
    start_at: float | None = None
    failures: int = 0


class Supervisor:
    """Keeps ``settings.workers`` workers running until it is told to stop.

    Args:
        settings: with ``workers``.
        on_ready: called once, in the parent, with the URL: when all of them serve.
    """

    def __init__(self, settings: Settings, on_ready: Callable[[str], None]) -> None:
        self._settings = settings
        self._on_ready = on_ready
        self._slots = [_Slot(number) for number in range(1, settings.workers + 1)]
        self._slots[0].start_at = 0.0
        self._up = False
        self._told: list[int] = []
        self._stopping = False
        self._deadline: float | None = None
        self._code = OK
        self._folder = Path()
        self._port = 0

    def run(self) -> int | Place:
        """Return the exit code, in the parent; in each worker return its place, at once.

        What a worker then does ends its process as if it had been started by itself.

        Raises:
            OSError: the port cannot be had.
        """
        held = hold_port(self._settings.host, self._settings.port)
        self._port = held.getsockname()[1]
        self._folder = Path(tempfile.mkdtemp(prefix="parley-"))
        life = os.pipe()
        parent = os.getpid()
        wake_r, wake_w = socket.socketpair()
        wake_r.setblocking(False)
        wake_w.setblocking(False)
        former = {number: signal.signal(number, self._note) for number in SIGNALS}
        former_fd = signal.set_wakeup_fd(wake_w.fileno(), warn_on_full_buffer=False)
        try:
            while not self._is_over():
                for slot in self._slots:
                    if slot.start_at is not None and slot.start_at <= time.monotonic():
                        place = self._start(slot, life)
                        if place is not None:
                            return place
                self._wait(wake_r)
            return self._code
        finally:
            signal.set_wakeup_fd(former_fd)
            for number, handler in former.items():
                signal.signal(number, handler)
            held.close()
            wake_r.close()
            wake_w.close()
            os.close(life[1])
            if os.getpid() == parent:
                os.close(life[0])
                shutil.rmtree(self._folder, ignore_errors=True)
            # From here on a worker is ended by what it is told.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        """Only note it: what is to be done is done by the loop, between two system calls."""
        if number != signal.SIGCHLD:
            self._told.append(number)

    # --- starting ---------------------------------------------------------------------------------

    def _start(self, slot: _Slot, life: tuple[int, int]) -> Place | None:
        """Fork. In the worker return its place."""
        ready = os.pipe()
        sys.stdout.flush()  # or what waits to be written is written by both
        # A signal between the fork and the worker's own handlers waits for these.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        pid = os.fork()
        if pid == 0:
            os.close(ready[0])
            for other in self._slots:
                if other.ready_fd is not None:
                    os.close(other.ready_fd)
            return Place(slot.number, len(self._slots), self._port, self._folder, ready[1], life[0])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.close(ready[1])
        slot.pid, slot.ready_fd, slot.ready = pid, ready[0], False
        slot.started_at, slot.start_at = time.monotonic(), None
        _log.info("worker_started", worker=slot.number, pid=pid)
        return None

    # --- what happens -----------------------------------------------------------------------------

    def _wait(self, wake: socket.socket) -> None:
        """Wait until something has happened or is due, and see to it."""
        now = time.monotonic()
        due = [slot.start_at for slot in self._slots if slot.start_at is not None]
        due += [self._deadline] if self._deadline is not None else []
        timeout = max(0.0, min(due) - now) if due else None
        pipes = {slot.ready_fd: slot for slot in self._slots if slot.ready_fd is not None}
        found, _, _ = select.select([wake.fileno(), *pipes], [], [], timeout)
        if wake.fileno() in found:
            wake.recv(4096)
        for fd, slot in pipes.items():
            if fd in found:
                self._hear(slot, os.read(fd, 4096).decode())
        while self._told:
            self._tell(self._told.pop(0))
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._signal(signal.SIGKILL)
            self._deadline = None
        self._reap()

    def _hear(self, slot: _Slot, url: str) -> None:
        """A worker serves, or (the end of its pipe) will not."""
        assert slot.ready_fd is not None
        os.close(slot.ready_fd)
        slot.ready_fd = None
        slot.ready = bool(url)
        if not url or self._up or self._stopping:
            return  # one that is told to stop may serve for a moment yet: nobody follows it then
        if slot is self._slots[0]:
            # What is wrong with settings or flows is told once, by the first; the others follow it.
            for other in self._slots[1:]:
                # They may have been started already, if the first has died since.
                if other.pid is None and other.start_at is None:
                    other.start_at = 0.0
        if all(other.ready for other in self._slots):
            self._up = True
            self._on_ready(url)

    def _tell(self, number: int) -> None:
        """Drain all workers; a second Ctrl-C does not wait any longer.

        The first one is passed on as SIGTERM, because a terminal sends its Ctrl-C to the workers as well.
        """
        if not self._stopping:
            self._stop()
        elif number == signal.SIGINT:
            self._signal(number)

    def _stop(self) -> None:
        self._stopping = True
        self._deadline = time.monotonic() + self._settings.drain_seconds + OVERTIME_S
        for slot in self._slots:
            slot.start_at = None
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        for slot in self._slots:
            if slot.pid is not None:
                os.kill(slot.pid, number)

    def _reap(self) -> None:
        """Take note of who has ended; in a container also of what the actions' own processes leave to us."""
        slots = {slot.pid: slot for slot in self._slots if slot.pid is not None}
        with contextlib.suppress(ChildProcessError):  # there is none left
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                slot = slots.get(ended[0])
                if slot is not None:
                    slot.pid = None
                    self._ended(slot, os.waitstatus_to_exitcode(ended[1]))

    def _ended(self, slot: _Slot, code: int) -> None:
        if self._stopping:
            # One that was told before it listened for that ends by the signal.
            ended_well = code in (OK, -signal.SIGTERM, -signal.SIGINT)
            self._code = self._code or (OK if ended_well else max(code, FAILED))
        elif not self._up and not slot.ready:
            self._code = code if code > 0 else FAILED  # it cannot start, and has said why
            self._stop()
        else:
            self._start_again(slot, code)

    def _start_again(self, slot: _Slot, code: int) -> None:
        now = time.monotonic()
        slot.failures = 0 if code == OK or now - slot.started_at >= SOUND_S else slot.failures + 1
        delay = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(slot.failures, 10))
        delay *= random.uniform(0.75, 1.25)  # noqa: S311 - no secret
        slot.start_at, slot.ready = now + delay, False
        _log.warning(
            "worker_ended", worker=slot.number, code=code, again_in_s=round(delay, 1), failures=slot.failures
        )

    def _is_over(self) -> bool:
        return self._stopping and all(slot.pid is None for slot in self._slots)


def hold_port(host: str, port: int) -> socket.socket:
    """Return a socket that keeps a port for sockets of this user that share it; it does not listen itself.

    Raises:
        OSError: somebody listens there already, be it another server that would share the port.
    """
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    socket.create_server(address[:2], family=family).close()
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        held.bind(address)
    except OSError:
        held.close()
        raise
    return held


__all__ = ["Supervisor", "hold_port"]
