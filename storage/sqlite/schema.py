"""The tables, and how a file of an earlier release becomes one of this release.

``PRAGMA user_version`` holds the number of migrations that a file has had; each is applied in one
transaction together with its number. A migration that was released is never edited.

Why the tables look as they do (measured, in groups of 50 commits): what costs is
the number of pages that a group dirties. So events are appended to a rowid table (clustering them by
conversation took a third of the speed), they name their conversation by the integer ``id`` (texts in the
two unique indexes cost 10 %), and there is no index on anything that every turn changes: the partial
ones hold only conversations that wait for a time, are leased, or are deleted. What lists and inboxes need is
in tables of its own (``listing``, ``waiting``), which only a change of what they hold writes to.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final

from storage.base import StoreTooNew, StoreUnavailable

APPLICATION_ID: Final = 0x5061726C  # "Parl"

_VERSION_1: Final = """
CREATE TABLE conversations (
    id              INTEGER PRIMARY KEY,
    tenant_id       TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    revision        INTEGER NOT NULL,
    fence           INTEGER NOT NULL,
    epoch           TEXT NOT NULL,
    last_offset     INTEGER NOT NULL,
    lease_owner     TEXT,
    lease_until     INTEGER,
    wake_at         INTEGER,
    expires_at      INTEGER,
    deleted_at      INTEGER,
    doc             BLOB NOT NULL
);
CREATE UNIQUE INDEX conversations_key ON conversations (tenant_id, conversation_id);
CREATE INDEX conversations_wake ON conversations (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX conversations_lease ON conversations (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX conversations_expiry ON conversations (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE events (
    conversation  INTEGER NOT NULL,
    epoch         TEXT NOT NULL,
    first_offset  INTEGER NOT NULL,
    last_offset   INTEGER NOT NULL,
    commit_id     TEXT NOT NULL,
    key           TEXT,
    body_hash     TEXT,
    execution_id  TEXT,
    messages      INTEGER NOT NULL,
    ended         TEXT,
    events        BLOB NOT NULL
);
CREATE UNIQUE INDEX events_offset ON events (conversation, first_offset, epoch);
CREATE UNIQUE INDEX events_key ON events (conversation, key) WHERE key IS NOT NULL;

CREATE TABLE executions (
    tenant_id       TEXT NOT NULL,
    execution_id    TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    PRIMARY KEY (tenant_id, execution_id)
) WITHOUT ROWID;

CREATE TABLE flows (
    tenant_id      TEXT NOT NULL,
    flow_id        TEXT NOT NULL,
    name           TEXT NOT NULL,
    description    TEXT NOT NULL,
    status         TEXT NOT NULL,
    is_default     INTEGER NOT NULL,
    latest_version INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL,
    published_at   INTEGER,
    PRIMARY KEY (tenant_id, flow_id)
) WITHOUT ROWID;

CREATE TABLE flow_versions (
    tenant_id    TEXT NOT NULL,
    flow_id      TEXT NOT NULL,
    version      INTEGER NOT NULL,
    sha256       TEXT NOT NULL,
    source       TEXT NOT NULL,
    source_name  TEXT NOT NULL,
    label        TEXT,
    published_by TEXT,
    published_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, flow_id, version)
);

CREATE TABLE probe (id INTEGER PRIMARY KEY, filler BLOB);
"""

_VERSION_2: Final = """
ALTER TABLE executions ADD COLUMN first_offset INTEGER NOT NULL DEFAULT 0;

CREATE TABLE listing (
    tenant_id       TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    status          TEXT NOT NULL,
    flow_id         TEXT NOT NULL,
    user_id         TEXT,
    project_id      TEXT,
    active_at       INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, conversation_id)
) WITHOUT ROWID;
CREATE INDEX listing_time ON listing (tenant_id, active_at, conversation_id);
CREATE INDEX listing_status ON listing (tenant_id, status, active_at, conversation_id)
    WHERE status NOT IN ('completed', 'waiting_input');
CREATE INDEX listing_user ON listing (tenant_id, user_id, active_at, conversation_id);

CREATE TABLE waiting (
    tenant_id       TEXT NOT NULL,
    decider         TEXT NOT NULL,
    since           INTEGER NOT NULL,
    wait_id         TEXT NOT NULL,
    kind            TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    PRIMARY KEY (tenant_id, decider, since, wait_id, conversation_id)
) WITHOUT ROWID;
CREATE INDEX waiting_conversation ON waiting (tenant_id, conversation_id);

INSERT INTO listing
SELECT tenant_id, conversation_id, execution ->> 'status', execution ->> 'flow_id', user_id,
    execution ->> 'project_id', execution ->> 'updated_at'
FROM (
    SELECT tenant_id, conversation_id, CAST(doc AS TEXT) -> 'execution' AS execution,
        CAST(doc AS TEXT) ->> 'user_id' AS user_id
    FROM conversations WHERE deleted_at IS NULL
)
WHERE execution ->> 'status' IS NOT NULL;
"""
"""Lists and inboxes. Most executions wait for input or are completed: who asks for those finds them by time
soon enough, and a turn between the two leaves the index over the status alone. No release before this one
had steps that wait for people, so ``waiting`` begins empty."""

_VERSION_3: Final = """
INSERT INTO listing (tenant_id, conversation_id, status, flow_id, user_id, project_id, active_at)
SELECT tenant_id, conversation_id, 'idle', '', doc ->> 'user_id', doc ->> 'project_id',
    doc ->> 'last_activity'
FROM (
    SELECT tenant_id, conversation_id, CAST(doc AS TEXT) AS doc FROM conversations WHERE deleted_at IS NULL
)
WHERE true
ON CONFLICT DO NOTHING
"""
"""Conversations are listed beside executions: those without one were in no list."""

_VERSION_4: Final = """
CREATE TABLE api_keys (
    tenant_id             TEXT NOT NULL,
    key_id                TEXT NOT NULL,
    prefix                TEXT NOT NULL,
    sha256                TEXT NOT NULL,
    name                  TEXT NOT NULL,
    description           TEXT NOT NULL,
    user_id               TEXT,
    role                  TEXT NOT NULL,
    scopes                TEXT NOT NULL,
    tier                  TEXT NOT NULL,
    rate_limit_per_minute INTEGER,
    origins               TEXT NOT NULL,
    expires_at            INTEGER,
    is_active             INTEGER NOT NULL,
    created_by            TEXT,
    created_at            INTEGER NOT NULL,
    last_used_at          INTEGER,
    PRIMARY KEY (tenant_id, key_id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX api_keys_hash ON api_keys (sha256);
CREATE INDEX api_keys_time ON api_keys (tenant_id, created_at, key_id);

CREATE TABLE api_key_origins (
    origin    TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    key_id    TEXT NOT NULL,
    PRIMARY KEY (origin, tenant_id, key_id)
) WITHOUT ROWID;
CREATE INDEX api_key_origins_key ON api_key_origins (tenant_id, key_id)
"""
"""Keys of tenants, and the pages that they are for."""

MIGRATIONS: Final[Sequence[str]] = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4)


def migrate(connection: sqlite3.Connection, migrations: Sequence[str] = MIGRATIONS) -> list[str]:
    """Bring the file to the newest version, or leave it as it is; return what was done.

    Raises what ``check`` does.
    """
    version = check(connection, len(migrations))
    done = list(range(version + 1, len(migrations) + 1))
    for number in done:
        _apply(connection, number, migrations[number - 1])
    return [f"version {number}" for number in done]


def check(connection: sqlite3.Connection, newest: int = len(MIGRATIONS)) -> int:
    """Return the version of a file that this release can have; 0: it is new. Changes nothing.

    Raises:
        StoreTooNew: a newer release wrote it.
        StoreUnavailable: it is somebody else's database.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise StoreUnavailable("the file is a SQLite database, but not one of Parley's; name another file")
    if version > newest:
        raise StoreTooNew(
            f"the file has version {version}, this Parley knows {newest}: "
            "start the newer Parley that wrote it, or name another file"
        )
    return int(version)


def _apply(connection: sqlite3.Connection, number: int, script: str) -> None:
    """Apply one migration and its number together."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in script.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
