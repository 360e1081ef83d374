"""Opening connections, and what SQLite's errors mean here."""

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.base import StorageError, StoreUnavailable
from storage.sqlite.schema import check

OLDEST_SQLITE: Final = (3, 35, 0)
"""Upserts came with 3.24, JSON functions are part of every later build; older ones are not tried."""

CHECKPOINT_PAGES: Final = 1000
"""Four and sixteen times as many gave the same speed (within 3 %) and p99 latencies 1.5 times as long."""

WAL_KEPT_BYTES: Final = 64 * 1024 * 1024
CACHE_KIB: Final = 64 * 1024
BUSY_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Database:
    """Where the file is and how it is opened. ``max_pages`` bounds the file (4 KiB each), None: no bound."""

    path: Path
    max_pages: int | None = None

    def connect_writer(self) -> sqlite3.Connection:
        """Open (and create) the file for the one connection that writes.

        Raises StoreUnavailable, StoreTooNew: then what is there is as it was.
        """
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise StoreUnavailable(f"SQLite {sqlite3.sqlite_version} is too old, 3.35 or newer is needed")
        try:
            # Conversations are private: SQLite gives the -wal and -shm files the mode of this one.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StoreUnavailable(f"cannot open {self.path}: {error.strerror}") from error
        connection = self._connect()
        try:
            check(connection)  # before the file is told to have its log written ahead, and keeps that
            self._prepare_writer(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare_writer(self, connection: sqlite3.Connection) -> None:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreUnavailable(f"{self.path} lies on a file system without shared memory (WAL needs it)")
        for pragma in (
            "synchronous = FULL",
            "fullfsync = ON",  # macOS: only F_FULLFSYNC reaches the disk; elsewhere without effect
            "checkpoint_fullfsync = ON",
            f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
            f"journal_size_limit = {WAL_KEPT_BYTES}",
            f"cache_size = -{CACHE_KIB}",
            *([f"max_page_count = {self.max_pages}"] if self.max_pages else []),
        ):
            connection.execute(f"PRAGMA {pragma}")

    def connect_reader(self) -> sqlite3.Connection:
        """Open the file for reading."""
        connection = self._connect()
        connection.execute("PRAGMA query_only = ON")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB // 4}")
        return connection

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self.path,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,  # opened in one thread, used in one other, closed there
            cached_statements=256,
        )


def translate(error: Exception, path: Path) -> Exception:
    """Return what the caller of a store is told of ``error``; errors of our own pass unchanged."""
    if isinstance(error, sqlite3.IntegrityError):
        return StorageError(f"{path}: the write contradicts what is stored ({error})")
    if isinstance(error, sqlite3.DataError | sqlite3.InterfaceError | sqlite3.ProgrammingError):
        return StorageError(f"{path}: a value cannot be stored ({error})")
    if isinstance(error, sqlite3.Error):
        return StoreUnavailable(f"{path}: {error}")
    if isinstance(error, OverflowError):
        return StorageError(f"{path}: a value cannot be stored ({error})")
    return error
