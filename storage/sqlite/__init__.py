"""The embedded adapter: one SQLite file, one server."""

from storage.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
