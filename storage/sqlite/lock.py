"""The exclusive lock that keeps a second server out of a file."""

import contextlib
import fcntl
import os
from pathlib import Path

from storage.base import StoreLocked, StoreUnavailable


class FileLock:
    """A lock on a file beside the database, held by the kernel as long as the process lives.

    It is a file of its own, because SQLite's POSIX locks on the database are dropped whenever any
    descriptor of it is closed (sqlite.org/howtocorrupt.html, 2.2). The file stays when the lock goes:
    removing it would let two servers lock two files of one name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises StoreLocked, StoreUnavailable."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"cannot open {self._path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise StoreLocked(
                f"{self._path} is locked by another Parley server (process {holder or 'unknown'}): stop it, "
                "or name another file in PARLEY_STORE; several servers need one mongodb:// store"
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise StoreUnavailable(f"cannot lock {self._path}: {error.strerror}") from error
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # the number is for people; a full disk does not matter here
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
