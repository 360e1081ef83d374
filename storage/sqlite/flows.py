"""Flows and their versions, in SQLite: plain statements, nothing here is hot."""

import sqlite3
from dataclasses import astuple, replace
from typing import Final

from storage.models import Flow, FlowVersion, TimeMs

_HEAD: Final = """
    SELECT tenant_id, flow_id, name, description, status, is_default, latest_version, created_at,
        updated_at, published_at
    FROM flows WHERE tenant_id = ?
"""
_VERSION: Final = """
    SELECT tenant_id, flow_id, version, sha256, source, source_name, label, published_by, published_at
    FROM flow_versions WHERE tenant_id = ? AND flow_id = ? AND version = ?
"""
_UNMAKE_DEFAULT: Final = """
    UPDATE flows SET is_default = 0, updated_at = ? WHERE tenant_id = ? AND is_default
"""
_ARCHIVE: Final = """
    UPDATE flows SET status = 'archived', is_default = 0, updated_at = ?
    WHERE tenant_id = ? AND flow_id = ? AND status != 'archived'
"""


def _flow(row: tuple[object, ...]) -> Flow:
    flow = Flow(*row)  # type: ignore[arg-type]  # the columns are those of _HEAD
    return replace(flow, is_default=bool(flow.is_default))


def publish(
    cursor: sqlite3.Cursor,
    version: FlowVersion,
    name: str,
    description: str,
    is_default: bool,
    now: TimeMs,
) -> FlowVersion:
    """See ``FlowStore.publish``."""
    tenant_id, flow_id = version.tenant_id, version.flow_id
    row = cursor.execute(f"{_HEAD} AND flow_id = ?", (tenant_id, flow_id)).fetchone()
    head = _flow(row) if row is not None else Flow(tenant_id, flow_id, name, created_at=now)
    newest = flow_version(cursor, tenant_id, flow_id, head.latest_version)
    if newest is None or newest.sha256 != version.sha256:
        newest = replace(version, version=head.latest_version + 1, published_at=version.published_at or now)
        cursor.execute("INSERT INTO flow_versions VALUES (?,?,?,?,?,?,?,?,?)", astuple(newest))
    if is_default:
        cursor.execute(_UNMAKE_DEFAULT, (now, tenant_id))
    head = replace(
        head,
        name=name,
        description=description,
        status="active",
        is_default=is_default,
        latest_version=newest.version,
        updated_at=now,
        published_at=newest.published_at,
    )
    cursor.execute("INSERT OR REPLACE INTO flows VALUES (?,?,?,?,?,?,?,?,?,?)", astuple(head))
    return newest


def archive_flow(cursor: sqlite3.Cursor, tenant_id: str, flow_id: str, now: TimeMs) -> bool:
    """See ``FlowStore.archive_flow``; an archived flow is no default either."""
    return cursor.execute(_ARCHIVE, (now, tenant_id, flow_id)).rowcount == 1


def flow_version(
    connection: sqlite3.Connection | sqlite3.Cursor, tenant_id: str, flow_id: str, version: int
) -> FlowVersion | None:
    """See ``FlowStore.flow_version``."""
    row = connection.execute(_VERSION, (tenant_id, flow_id, version)).fetchone()
    return None if row is None else FlowVersion(*row)


def flows(connection: sqlite3.Connection, tenant_id: str) -> list[Flow]:
    """See ``FlowStore.flows``."""
    rows = connection.execute(f"{_HEAD} AND status != 'archived' ORDER BY flow_id", (tenant_id,))
    return [_flow(row) for row in rows.fetchall()]
