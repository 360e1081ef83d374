"""Looks at a database file from outside, without a trace: what ``parley doctor`` tells of it."""

import fcntl
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.sqlite.connection import OLDEST_SQLITE
from storage.sqlite.schema import APPLICATION_ID, MIGRATIONS

OLD_SQLITE: Final = sqlite3.sqlite_version_info < OLDEST_SQLITE


@dataclass(frozen=True, slots=True)
class FileState:
    """What was found.

    Attributes:
        size: bytes, the log beside it included; 0 where there is no file yet.
        server: the process that has it open, None if none.
        problem: why a server could not use it, with what to do; None if it could.
    """

    size: int
    server: str | None
    problem: str | None


def inspect(path: Path) -> FileState:
    """Look at ``path``, which need not exist. Writes nothing."""
    folder = path.parent
    if not folder.is_dir():
        return FileState(0, None, f"{folder} does not exist: make it, or name another file in PARLEY_STORE")
    if not os.access(folder, os.W_OK | os.X_OK):
        return FileState(0, None, f"{folder} cannot be written: give the server's user the permission")
    if OLD_SQLITE:
        return FileState(0, None, f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or newer is needed")
    if not path.exists():
        return FileState(0, None, None)
    if not os.access(path, os.R_OK | os.W_OK):
        return FileState(0, None, f"{path} cannot be written: give the server's user the permission")
    size = sum(part.stat().st_size for part in (path, Path(f"{path}-wal")) if part.exists())
    server = _server_of(path.with_name(path.name + "-lock"))
    return FileState(size, server, None if server else _problem_of(path))


def _server_of(lock: Path) -> str | None:
    """Return the process that holds the lock."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
    else:
        return None
    finally:
        os.close(descriptor)


def _problem_of(path: Path) -> str | None:
    # Read-only, and without the log: opened otherwise, SQLite would check-point and remove it.
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        return f"{path} is no database that can be read ({error}): restore it from a backup, or name another"
    if application != APPLICATION_ID and (application or tables):
        return f"{path} is not one of Parley's: name another file in PARLEY_STORE"
    if version > len(MIGRATIONS):
        return f"{path} was written by a newer Parley: start that one, or name another file"
    return None
