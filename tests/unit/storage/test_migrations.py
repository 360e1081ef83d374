"""Migrations: each applied once, whole or not at all."""

import sqlite3
from collections.abc import Iterator

import pytest

from storage.base import StoreTooNew, StoreUnavailable
from storage.sqlite.schema import APPLICATION_ID, MIGRATIONS, migrate

FIRST = "CREATE TABLE a (x); INSERT INTO a VALUES (1);"
SECOND = "ALTER TABLE a ADD COLUMN y; UPDATE a SET y = x + 1;"
BROKEN = "UPDATE a SET y = 9; CREATE TABLE b (z); INSERT INTO missing VALUES (1);"


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    yield connection
    connection.close()


def version(connection: sqlite3.Connection) -> tuple[int, int]:
    (number,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    return number, application


def test_a_new_file_gets_all_of_them(connection: sqlite3.Connection) -> None:
    migrate(connection, (FIRST, SECOND))
    assert connection.execute("SELECT * FROM a").fetchall() == [(1, 2)]
    assert version(connection) == (2, APPLICATION_ID)


def test_an_older_file_gets_what_it_lacks(connection: sqlite3.Connection) -> None:
    migrate(connection, (FIRST,))
    connection.execute("UPDATE a SET x = 10")
    migrate(connection, (FIRST, SECOND))
    assert connection.execute("SELECT * FROM a").fetchall() == [(10, 11)]


def test_a_current_file_is_left_alone(connection: sqlite3.Connection) -> None:
    migrate(connection)
    changes = connection.total_changes
    migrate(connection)
    assert connection.total_changes == changes
    assert version(connection)[0] == len(MIGRATIONS)


def test_a_migration_that_fails_leaves_the_version_before_it(connection: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, (FIRST, SECOND, BROKEN))
    assert connection.execute("SELECT * FROM a").fetchall() == [(1, 2)]
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("a",)]
    assert version(connection) == (2, APPLICATION_ID)
    migrate(connection, (FIRST, SECOND))


def test_a_newer_file_is_refused(connection: sqlite3.Connection) -> None:
    migrate(connection, (FIRST, SECOND))
    with pytest.raises(StoreTooNew, match="version 2, this Parley knows 1"):
        migrate(connection, (FIRST,))
    assert version(connection)[0] == 2


@pytest.mark.parametrize(
    "foreign", ["CREATE TABLE theirs (x)", "PRAGMA user_version = 1", "PRAGMA application_id = 5"]
)
def test_another_programs_file_is_refused(connection: sqlite3.Connection, foreign: str) -> None:
    connection.execute(foreign)
    with pytest.raises(StoreUnavailable, match="not one of Parley's"):
        migrate(connection)
