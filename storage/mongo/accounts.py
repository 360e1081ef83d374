"""Keys of tenants, in MongoDB: one document a key."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Final

from pymongo import UpdateOne
from pymongo.errors import DuplicateKeyError

from storage.base import StorageError
from storage.models import ApiKey, KeyPlace, TimeMs
from storage.mongo.documents import Document, number, plain, text
from storage.mongo.failures import reading

_FIELDS: Final = {field.name: 1 for field in fields(ApiKey)} | {"_id": 0}
_STAYS: Final = ("key_id", "tenant_id", "prefix", "created_by", "created_at", "last_used_at")


def _place(tenant_id: str, key_id: str) -> Document:
    return {"tenant_id": text(tenant_id), "key_id": text(key_id)}


def _key(document: Mapping[str, Any]) -> ApiKey:
    lists = {name: tuple(document[name]) for name in ("scopes", "origins")}
    return ApiKey(**{**plain(document), **lists})


async def create_api_key(database: Any, key: ApiKey) -> bool:
    """See ``AccountStore.create_api_key``."""
    async with reading():
        try:
            await database.api_keys.insert_one(asdict(key))
        except DuplicateKeyError:
            return False
    return True


async def api_key_by_hash(database: Any, sha256: str) -> ApiKey | None:
    """See ``AccountStore.api_key_by_hash``."""
    async with reading():
        found = await database.api_keys.find_one({"sha256": text(sha256)}, _FIELDS)
    return None if found is None else _key(found)


async def api_keys_by_id(database: Any, ids: Sequence[tuple[str, str]]) -> dict[tuple[str, str], ApiKey]:
    """See ``AccountStore.api_keys_by_id``."""
    if not ids:
        return {}
    async with reading():
        cursor = database.api_keys.find({"$or": [_place(*id_) for id_ in ids]}, _FIELDS)
        keys = map(_key, await cursor.to_list(len(ids)))
    return {(key.tenant_id, key.key_id): key for key in keys}


async def api_keys(database: Any, tenant_id: str, after: KeyPlace | None, limit: int) -> list[ApiKey]:
    """See ``AccountStore.api_keys``. The index ``api_keys.time``."""
    asked: Document = {"tenant_id": text(tenant_id)}
    if after is not None:
        created_at, key_id = number(after.created_at), text(after.key_id)
        asked["$or"] = [
            {"created_at": {"$lt": created_at}},
            {"created_at": created_at, "key_id": {"$lt": key_id}},
        ]
    async with reading():
        cursor = database.api_keys.find(asked, _FIELDS).sort([("created_at", -1), ("key_id", -1)])
        return list(map(_key, await cursor.limit(limit).to_list(limit)))


async def change_api_key(database: Any, before: ApiKey, after: ApiKey) -> bool:
    """See ``AccountStore.change_api_key``: a compare-and-set."""
    wanted = _place(before.tenant_id, before.key_id) | {
        "sha256": text(before.sha256),
        "is_active": before.is_active is True,
        "origins": [text(origin) for origin in before.origins],
    }
    new = {name: value for name, value in asdict(after).items() if name not in _STAYS}
    async with reading():
        try:
            result = await database.api_keys.update_one(wanted, {"$set": new})
        except DuplicateKeyError:
            raise StorageError("another key has this hash") from None
    return bool(result.matched_count)


async def touch_api_keys(database: Any, used: Mapping[tuple[str, str], TimeMs]) -> None:
    """See ``AccountStore.touch_api_keys``."""
    requests = [UpdateOne(_place(*id_), {"$max": {"last_used_at": number(at)}}) for id_, at in used.items()]
    if requests:
        async with reading():
            await database.api_keys.bulk_write(requests, ordered=False)


async def has_origin(database: Any, patterns: Sequence[str], now: TimeMs, tenant_id: str | None) -> bool:
    """See ``AccountStore.has_origin``. The index ``api_keys.origin``."""
    asked: Document = {
        "origins": {"$in": [text(pattern) for pattern in patterns]},
        "prefix": "pk_",
        "is_active": True,
        "$or": [{"expires_at": None}, {"expires_at": {"$gt": number(now)}}],
    }
    if tenant_id is not None:
        asked["tenant_id"] = text(tenant_id)
    async with reading():
        return await database.api_keys.find_one(asked, {"_id": 1}) is not None
