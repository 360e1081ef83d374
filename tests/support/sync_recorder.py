"""What a server asked of its kernel, in order: WAL writes, syncs, and what left on its sockets.

SIGKILL proves nothing about a sync (the page cache survives the process), so this looks at the system
calls themselves, by ``strace``. An acknowledgement is *covered* if, before its bytes are handed to a
socket, a sync of the WAL has returned that began after the frame which commits its transaction was
written. The WAL's format: https://www.sqlite.org/fileformat2.html#walformat.
"""

import codecs
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Self

FRAME_HEADER_BYTES: Final = 24
OPTIONS: Final = ("--seccomp-bpf", "-D", "-f", "-q", "-y", "-s", "70000", "-ttt")
SYSCALLS: Final = "fsync,fdatasync,pwrite64,pwritev,write,writev,sendto,sendmsg,exit_group"
_SOCKET: Final = re.compile(r"^(socket|TCP|TCPv6|UNIX)\b")
_LINE: Final = re.compile(r"^(?P<pid>\d+) +(?P<at>[\d.]+) (?P<rest>.*)$")
_CALL: Final = re.compile(r"^(?P<name>\w+)\((?P<fd>-?\d+)<(?P<path>[^>]*(?:->[^>]*)?)>+(?P<rest>.*)$")
_RESUMED: Final = re.compile(r"^<\.\.\. (?P<name>\w+) resumed>.*\) += (?P<result>-?\d+)")
_RESULT: Final = re.compile(r"\) += (?P<result>-?\d+)")
_TEXT: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_COMMAND: Final = re.compile(rb'"command_id":"([^"]+)"')

Kind = Literal["header", "last header", "page", "commit", "sync", "send", "effect"]
"""``last header`` announces the frame that commits, ``commit`` is that frame's page."""


def command(trace: Path) -> tuple[str, ...]:
    """Return what to put before a server's command line. ``-D``: the server stays our own child."""
    return ("strace", *OPTIONS, "-e", f"trace={SYSCALLS}", "-e", "signal=none", "-o", str(trace))


@dataclass(slots=True)
class Call:
    """One system call that matters. ``began`` and ``ended`` are line numbers: the kernel's order."""

    kind: Kind
    began: int
    ended: int | None
    data: bytes
    result: int | None = None


@dataclass
class Trace:
    """The calls of one server, in order."""

    calls: list[Call] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path, *, within_s: float = 10) -> Self:
        """Read a trace; the tracer may need a moment behind the server's end."""
        end = time.monotonic() + within_s
        while "+++" not in (text := path.read_text(encoding="latin-1"))[-200:] and time.monotonic() < end:
            time.sleep(0.05)
        return cls.parse(text.splitlines())

    @classmethod
    def parse(cls, lines: Sequence[str]) -> Self:
        trace = cls()
        waiting: dict[str, Call] = {}
        last_header = False
        for number, line in enumerate(lines):
            found = _LINE.match(line)
            if found is None:
                continue
            resumed = _RESUMED.match(found["rest"])
            if resumed is not None:
                call = waiting.pop(found["pid"], None)
                if call is not None:
                    call.ended, call.result = number, int(resumed["result"])
                continue
            call = _call(number, found["rest"])
            if call is not None:
                if call.kind == "page" and last_header:
                    call.kind = "commit"
                last_header = call.kind == "last header" or (last_header and call.kind != "commit")
                trace.calls.append(call)
                if call.ended is None:
                    waiting[found["pid"]] = call
        return trace

    # --- what must hold ---------------------------------------------------------------------------

    def acked(self) -> dict[str, int]:
        """Return for each command when the first bytes that tell of it were handed to a socket."""
        first: dict[str, int] = {}
        for call in self.calls:
            if call.kind == "send":
                for key in _COMMAND.findall(call.data):
                    first.setdefault(key.decode(), call.began)
        return first

    def begun_effects(self) -> dict[str, int]:
        """Return for each effect's key when the effect was first seen in the world."""
        first: dict[str, int] = {}
        for call in self.calls:
            if call.kind == "effect":
                for key in re.findall(rb'"key": "([^"]+)"', call.data):
                    first.setdefault(key.decode(), call.began)
        return first

    def uncovered(self, told: dict[str, int]) -> Iterator[str]:
        """Yield what became visible at the moments ``told`` before a sync had made it durable."""
        for key, moment in told.items():
            synced = self.synced(key)
            if synced is None:
                yield f"{key} became visible at line {moment} and was never synced"
            elif synced >= moment:
                yield f"{key} became visible at line {moment}, the sync returned at line {synced}"

    def synced(self, key: str) -> int | None:
        """Return when the sync that covers the first commit with these bytes returned, or None."""
        written = committed = False
        for call in self.calls:
            if call.kind in ("page", "commit"):
                written = written or key.encode() in call.data
                committed = committed or (written and call.kind == "commit")
            elif call.kind == "sync" and committed:
                return call.ended if call.result == 0 else None
        return None


def _call(number: int, text: str) -> Call | None:
    found = _CALL.match(text)
    if found is None:
        return None
    data = b"".join(_bytes(part) for part in _TEXT.findall(found["rest"]))
    kind = _kind(found["name"], found["path"], data)
    if kind is None:
        return None
    result = _RESULT.search(found["rest"])
    unfinished = text.endswith("<unfinished ...>")
    done = int(result["result"]) if result is not None and not unfinished else None
    return Call(kind, number, None if unfinished else number, data, done)


def _kind(name: str, path: str, data: bytes) -> Kind | None:
    if path.endswith("-wal"):
        if name in ("fsync", "fdatasync"):
            return "sync"
        # A frame is its header and then its page; the size of the database in the header (bytes 4 to 8) is
        # not zero in the frame that commits.
        if len(data) == FRAME_HEADER_BYTES:
            return "last header" if data[4:8] != b"\0\0\0\0" else "header"
        return "page"
    if name in ("fsync", "fdatasync"):
        return None
    if path.endswith("effects.log"):
        return "effect"
    return "send" if _SOCKET.match(path) else None


def _bytes(text: str) -> bytes:
    return codecs.decode(text, "unicode_escape").encode("latin-1")
