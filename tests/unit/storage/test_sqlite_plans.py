"""No statement of the SQLite adapter walks a table: what it costs does not grow with what is stored."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from storage.codec import UnknownFormat
from storage.listing import ExecutionFilter, ListPlace, WaitPlace
from storage.sqlite import flows, queries, statements, writes
from storage.sqlite.connection import Database
from storage.sqlite.schema import migrate
from tests.support.records import ID, NOW, TENANT, entry

Run = Callable[[sqlite3.Connection], Any]
LEAF_SCANS = ("SCAN k VIRTUAL TABLE",)
"""The rows of ``json_each``: as many as were asked for."""


def executions(connection: sqlite3.Connection, wanted: ExecutionFilter) -> object:
    return queries.executions(connection, TENANT, wanted, ListPlace(5, ID), 10, 1000)


READS: dict[str, Run] = {
    "load": lambda c: queries.load(c, TENANT, ID),
    "events": lambda c: queries.events(c, TENANT, ID, "e1", 5, 10, 1000),
    "batch_at": lambda c: queries.batch_at(c, TENANT, ID, "e1", 1),
    "find_key": lambda c: queries.find_key(c, TENANT, ID, "k1"),
    "turn_end": lambda c: queries.turn_end(c, TENANT, ID, "e1", "k1", 1),
    "messages": lambda c: queries.messages(c, TENANT, ID, "e1", None, 0, 10),
    "load_many": lambda c: queries.load_many(c, [(TENANT, ID)]),
    "due": lambda c: queries.due(c, NOW, 10),
    "offsets": lambda c: queries.offsets(c, [(TENANT, ID)]),
    "conversation_ids": lambda c: queries.conversation_ids(c, TENANT, "b", 10),
    "find_execution": lambda c: queries.find_execution(c, TENANT, "x1"),
    "executions": lambda c: executions(c, ExecutionFilter()),
    "executions_of_status": lambda c: executions(c, ExecutionFilter(status="paused")),
    "executions_of_user": lambda c: executions(c, ExecutionFilter(user_id="u", since=1, until=9)),
    "executions_of_flow": lambda c: executions(c, ExecutionFilter(flow_id="f", project_id="p")),
    "conversations": lambda c: queries.executions(c, TENANT, ExecutionFilter(), None, 10, 1000, idle=True),
    "idle_conversations": lambda c: queries.executions(
        c, TENANT, ExecutionFilter(status="idle"), None, 10, 1000, idle=True
    ),
    "count_conversations": lambda c: queries.count_conversations(c, TENANT, ExecutionFilter(user_id="u")),
    "waiting": lambda c: queries.waiting(c, TENANT, ["user:u", "scope:s", "scope:t"], WaitPlace(5, "p1"), 10),
    "flow_version": lambda c: flows.flow_version(c, TENANT, "f", 1),
    "flows": lambda c: flows.flows(c, TENANT),
}
WRITES: dict[str, Run] = {
    "void_leases": lambda c: writes.void_leases(c, NOW),
    "renew": lambda c: writes.renew(c.cursor(), TENANT, ID, 1, "i1", NOW, NOW),
    "enqueue": lambda c: writes.enqueue(c.cursor(), TENANT, ID, entry("k1"), NOW),
    "remove_some_events": lambda c: writes.remove_some_events(c.cursor(), TENANT, ID),
    "expire_tombstones": lambda c: writes.expire_tombstones(c.cursor(), NOW, 10),
    "update_record": lambda c: c.execute(statements.UPDATE_RECORD, [None] * 14),
    "insert_batch": lambda c: c.execute(statements.INSERT_BATCH, [None] * 12),
    "insert_batch_if": lambda c: c.execute(statements.INSERT_BATCH_IF, [None] * 14),
    "upsert_listing": lambda c: c.execute(statements.UPSERT_LISTING, (TENANT, ID, "s", "f", None, None, 1)),
    "delete_listing": lambda c: c.execute(statements.DELETE_LISTING, (TENANT, ID)),
    "delete_waiting": lambda c: c.execute(statements.DELETE_WAITING, (TENANT, ID)),
    "record_is_at": lambda c: c.execute(statements.RECORD_IS_AT, [None] * 4),
}


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A store's file with one deleted conversation and one batch, so that every statement is reached."""
    connection = Database(tmp_path / "parley.db").connect_writer()
    migrate(connection)
    connection.execute(
        "INSERT INTO conversations VALUES (1, ?, ?, 1, 0, 'e1', 1, NULL, NULL, NULL, 1, 1, ?)",
        (TENANT, ID, b"{}"),
    )
    connection.execute("INSERT INTO events VALUES (1, 'e1', 1, 1, 'c1', 'k1', 'h', 'x1', 1, NULL, '[]')")
    yield connection
    connection.close()


@pytest.mark.parametrize("name", READS | WRITES)
def test_every_statement_searches_an_index(connection: sqlite3.Connection, name: str) -> None:
    ran: list[str] = []
    connection.set_trace_callback(ran.append)
    with suppress(UnknownFormat):
        (READS | WRITES)[name](connection)
    connection.set_trace_callback(None)
    assert ran
    for sql in ran:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
        walks = [step for step in plan if "SCAN" in step and not any(leaf in step for leaf in LEAF_SCANS)]
        assert not walks, sql
        assert not any("TEMP B-TREE" in step for step in plan if name != "expire_tombstones"), sql


def test_a_list_is_found_by_the_index_of_what_is_asked(connection: sqlite3.Connection) -> None:
    """The planner takes the narrow index, not merely one."""
    asked = {
        "listing_time": ExecutionFilter(flow_id="f"),
        "listing_status": ExecutionFilter(status="paused"),
        "listing_user": ExecutionFilter(user_id="u"),
    }
    for index, wanted in asked.items():
        ran: list[str] = []
        connection.set_trace_callback(ran.append)
        executions(connection, wanted)
        connection.set_trace_callback(None)
        plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {ran[0]}"))
        assert f"USING COVERING INDEX {index}" in plan or f"USING INDEX {index}" in plan, plan
