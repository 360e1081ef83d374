"""An outbox in a file: commands that were taken and not yet acknowledged, over the end of the process.

The file is a log of lines, each a checksum and a JSON object: a header, whose commands these are, ``keep``
with a command's frame, ``done`` with its key. A command is on the disk (fsync) before it is sent. What a lost
``done`` line costs is a resend under the same key, which the server knows; only where the conversation was
deleted is the line made durable too, for a resend would bring the conversation back. There is no token in the
file, but there is what people said: only its owner may read it.
"""

import contextlib
import json
import logging
import os
import sys
import weakref
import zlib
from pathlib import Path
from typing import Any, Final

from . import _wire
from .errors import OutboxFull, OutboxUnusable

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

Json = Any
Key = tuple[str, str]

OUTBOX_BYTES: Final = 4 * 1024 * 1024
FORMAT: Final = 1
ROOM_TO_COMPACT: Final = 256 * 1024
"""Bytes of lines that say nothing any more, beyond which the file is written anew."""

logger = logging.getLogger("parley_client")


class Outbox:
    """The file. One client uses it at a time; its methods are called from that client's loop.

    Args:
        path: where it is, or is to be made; ``path.lock`` beside it tells that it is in use.
        url: the server's; commands for one server are not sent to another.
        max_bytes: how large the commands in it may be together.

    Raises:
        OutboxUnusable: in use, unreadable, of another server, or the folder does not take it.
    """

    def __init__(self, path: str | os.PathLike[str], url: str, *, max_bytes: int = OUTBOX_BYTES) -> None:
        self.path = Path(path)
        self._url = url
        self._max_bytes = max_bytes
        self._owner: list[str] | None = None
        self._kept: dict[Key, tuple[dict[str, Json], int]] = {}
        self._bytes = 0
        self._size = 0
        self._fds: list[int] = []
        self._finalizer = weakref.finalize(self, _close_all, self._fds)
        try:
            self._lock()
            self._load()
            self._rewrite()
        except OSError as error:
            self.close()
            raise self._unusable("outbox_unwritable", str(error)) from error
        except OutboxUnusable:
            self.close()
            raise

    @property
    def frames(self) -> list[dict[str, Json]]:
        """The commands in it, in the order in which they were taken."""
        return [frame for frame, _ in self._kept.values()]

    def own(self, owner: tuple[str, str]) -> bool:
        """Say as whom (tenant, user) its commands are sent; False where those in it are somebody else's."""
        if self._owner != list(owner):
            if self._owner is not None and self._kept:
                return False
            self._owner = list(owner)
            with contextlib.suppress(OSError):  # the next command fails by itself
                self._append({"owner": self._owner})
        return True

    def keep(self, frame: dict[str, Json], size: int) -> None:
        """Put a command of ``size`` bytes on the disk.

        Raises:
            OutboxFull: it would become larger than ``max_bytes``; nothing was taken.
            OutboxUnusable: the disk does not take it; nothing was taken.
        """
        if self._bytes + size > self._max_bytes:
            raise OutboxFull(f"{self._bytes} of {self._max_bytes} bytes wait for their acknowledgement")
        try:
            self._append({"keep": frame}, durable=True)
        except OSError as error:
            raise self._unusable("outbox_unwritable", str(error)) from error
        self._kept[_key(frame)] = (frame, size)
        self._bytes += size

    def release(self, conversation_id: str, key: str, *, durable: bool = False) -> None:
        """Drop a command, if it is here: it was acknowledged, or has ended."""
        found = self._kept.pop((conversation_id, key), None)
        if found is None or not self._fds:
            return
        self._bytes -= found[1]
        try:
            self._append({"done": [conversation_id, key]}, durable=durable)
            if self._size - self._bytes > ROOM_TO_COMPACT:
                self._rewrite()
        except OSError as error:
            logger.warning("the outbox %s could not be written: %s; a resend does no harm", self.path, error)

    def close(self) -> None:
        """Let another one use it; may be called twice."""
        self._finalizer()

    @property
    def _file(self) -> int:
        return self._fds[-1]

    def _lock(self) -> None:
        fd = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        self._fds.append(fd)
        try:
            if sys.platform == "win32":
                msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise self._unusable("outbox_in_use", "another client uses it now") from error

    def _load(self) -> None:
        """Read what an earlier process left. Its last line may be torn: that one was never sent."""
        lines = self.path.read_bytes().split(b"\n") if self.path.exists() else []
        torn = lines.pop() if lines else b""
        for number, line in enumerate(lines, 1):
            record = _read(line)
            if record is None:
                if number == len(lines) and not torn:
                    return
                raise self._unusable("outbox_unreadable", f"line {number} is damaged")
            if number == 1 and record.get("outbox") != FORMAT:
                raise self._unusable("outbox_unreadable", "this is not an outbox, or one of a newer version")
            self._replay(record)

    def _replay(self, record: dict[str, Json]) -> None:
        if "keep" in record:
            frame = record["keep"]
            size = len(_wire.encode(frame).encode())
            self._kept[_key(frame)] = (frame, size)
            self._bytes += size
        elif "done" in record:
            conversation_id, key = record["done"]
            found = self._kept.pop((conversation_id, key), None)
            self._bytes -= 0 if found is None else found[1]
        elif "owner" in record:
            self._owner = record["owner"]
        elif record.get("url") != self._url and "url" in record:
            raise self._unusable("outbox_of_another", f"its commands are for {record['url']}")

    def _rewrite(self) -> None:
        """Write what is left into a new file, and put it in the place of the old one."""
        records: list[dict[str, Json]] = [{"outbox": FORMAT, "url": self._url}]
        if self._owner is not None:
            records.append({"owner": self._owner})
        text = b"".join(map(_line, [*records, *({"keep": frame} for frame in self.frames)]))
        fresh = self.path.with_name(self.path.name + ".new")
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            _write(fd, text)
            os.fsync(fd)
            fresh.replace(self.path)
        except BaseException:
            os.close(fd)
            raise
        _sync_folder(self.path.parent)
        if len(self._fds) > 1:
            os.close(self._fds.pop())
        self._fds.append(fd)
        self._size = len(text)

    def _append(self, record: dict[str, Json], *, durable: bool = False) -> None:
        line = _line(record)
        try:
            _write(self._file, line)
            if durable:
                os.fsync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)  # half a line would hide those behind it
            raise
        self._size += len(line)

    def _unusable(self, code: str, why: str) -> OutboxUnusable:
        return OutboxUnusable(
            f"The outbox {self.path} cannot be used: {why}.",
            code=code,
            suggestion="Give each client a file of its own.",
        )


def _key(frame: dict[str, Json]) -> Key:
    return frame["conversation_id"], frame["idempotency_key"]


def _line(record: dict[str, Json]) -> bytes:
    body = _wire.encode(record).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _read(line: bytes) -> dict[str, Json] | None:
    """Return a line's record; None where its checksum does not fit."""
    checksum, _, body = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(body):
        return None
    found = json.loads(body)
    return found if isinstance(found, dict) else None


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _sync_folder(folder: Path) -> None:
    if sys.platform != "win32":  # which has no such thing
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _close_all(fds: list[int]) -> None:
    while fds:
        with contextlib.suppress(OSError):
            os.close(fds.pop())
