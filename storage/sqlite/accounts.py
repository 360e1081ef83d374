"""Keys of tenants, in SQLite: plain statements, nothing here is hot."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from storage.models import ApiKey, KeyPlace, TimeMs

_COLUMNS: Final = """tenant_id, key_id, prefix, sha256, name, description, user_id, role, scopes, tier,
    rate_limit_per_minute, origins, expires_at, is_active, created_by, created_at, last_used_at"""
_SELECT: Final = f"SELECT {_COLUMNS} FROM api_keys"  # noqa: S608 - constants only
_INSERT: Final = f"""
    INSERT INTO api_keys ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING
"""  # noqa: S608
_BY_HASH: Final = f"{_SELECT} WHERE sha256 = ?"
_BY_IDS: Final = f"""
    {_SELECT} WHERE (tenant_id, key_id) IN (
        SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)
    )
"""  # noqa: S608
_PAGE: Final = f"""
    {_SELECT} WHERE tenant_id = ? AND (created_at, key_id) < (?, ?)
    ORDER BY created_at DESC, key_id DESC LIMIT ?
"""
_CHANGE: Final = """
    UPDATE api_keys SET sha256 = ?, name = ?, description = ?, user_id = ?, role = ?, scopes = ?, tier = ?,
        rate_limit_per_minute = ?, origins = ?, expires_at = ?, is_active = ?
    WHERE tenant_id = ? AND key_id = ? AND sha256 = ? AND is_active = ? AND origins = ?
"""
_TOUCH: Final = """
    UPDATE api_keys SET last_used_at = max(coalesce(last_used_at, 0), ?) WHERE tenant_id = ? AND key_id = ?
"""
_FORGET_ORIGINS: Final = "DELETE FROM api_key_origins WHERE tenant_id = ? AND key_id = ?"
_ADD_ORIGIN: Final = "INSERT INTO api_key_origins (origin, tenant_id, key_id) VALUES (?, ?, ?)"
_HAS_ORIGIN: Final = """
    SELECT 1
    FROM json_each(:patterns) AS p CROSS JOIN api_key_origins AS o ON o.origin = p.value
        CROSS JOIN api_keys AS k ON k.tenant_id = o.tenant_id AND k.key_id = o.key_id
    WHERE (:tenant IS NULL OR o.tenant_id = :tenant) AND k.prefix = 'pk_' AND k.is_active
        AND (k.expires_at IS NULL OR k.expires_at > :now)
    LIMIT 1
"""
_FIRST: Final = KeyPlace(2**62, "")

Place = tuple[str, str]


def create(cursor: sqlite3.Cursor, key: ApiKey) -> bool:
    """See ``AccountStore.create_api_key``."""
    row = (
        key.tenant_id, key.key_id, key.prefix, key.sha256, key.name, key.description, key.user_id, key.role,
        json.dumps(key.scopes), key.tier, key.rate_limit_per_minute, json.dumps(key.origins), key.expires_at,
        key.is_active, key.created_by, key.created_at, key.last_used_at,
    )  # fmt: skip
    if not cursor.execute(_INSERT, row).rowcount:
        return False
    _add_origins(cursor, key)
    return True


def by_hash(connection: sqlite3.Connection, sha256: str) -> ApiKey | None:
    """See ``AccountStore.api_key_by_hash``."""
    row = connection.execute(_BY_HASH, (sha256,)).fetchone()
    return None if row is None else _key(row)


def by_id(connection: sqlite3.Connection, ids: Sequence[Place]) -> dict[Place, ApiKey]:
    """See ``AccountStore.api_keys_by_id``."""
    keys = map(_key, connection.execute(_BY_IDS, (json.dumps(ids),)))
    return {(key.tenant_id, key.key_id): key for key in keys}


def page(connection: sqlite3.Connection, tenant_id: str, after: KeyPlace | None, limit: int) -> list[ApiKey]:
    """See ``AccountStore.api_keys``."""
    return [_key(row) for row in connection.execute(_PAGE, (tenant_id, *(after or _FIRST), limit))]


def change(cursor: sqlite3.Cursor, before: ApiKey, after: ApiKey) -> bool:
    """See ``AccountStore.change_api_key``."""
    parameters = (
        after.sha256, after.name, after.description, after.user_id, after.role, json.dumps(after.scopes),
        after.tier, after.rate_limit_per_minute, json.dumps(after.origins), after.expires_at, after.is_active,
        before.tenant_id, before.key_id, before.sha256, before.is_active, json.dumps(before.origins),
    )  # fmt: skip
    if not cursor.execute(_CHANGE, parameters).rowcount:
        return False
    cursor.execute(_FORGET_ORIGINS, (before.tenant_id, before.key_id))
    _add_origins(cursor, replace(after, tenant_id=before.tenant_id, key_id=before.key_id))
    return True


def touch(cursor: sqlite3.Cursor, used: Mapping[Place, TimeMs]) -> None:
    """See ``AccountStore.touch_api_keys``."""
    cursor.executemany(_TOUCH, [(at, *place) for place, at in used.items()])


def has_origin(
    connection: sqlite3.Connection, patterns: Sequence[str], now: TimeMs, tenant_id: str | None
) -> bool:
    """See ``AccountStore.has_origin``."""
    asked = {"patterns": json.dumps(patterns), "now": now, "tenant": tenant_id}
    return connection.execute(_HAS_ORIGIN, asked).fetchone() is not None


def _add_origins(cursor: sqlite3.Cursor, key: ApiKey) -> None:
    cursor.executemany(_ADD_ORIGIN, [(origin, key.tenant_id, key.key_id) for origin in key.origins])


def _key(row: tuple[Any, ...]) -> ApiKey:
    values = dict(zip(_NAMES, row, strict=True))
    values["scopes"], values["origins"] = (tuple(json.loads(values[name])) for name in ("scopes", "origins"))
    values["is_active"] = bool(values["is_active"])
    return ApiKey(**values)


_NAMES: Final = tuple(name.strip() for name in _COLUMNS.split(","))
