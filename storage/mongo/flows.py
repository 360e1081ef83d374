"""Flows and their versions. Nothing here is hot.

A version is inserted under its number, which is unique: of two instances that publish at once, one is
given the next. The tenant's default is the flow that was made it last, so there is never more than one
for a reader, whoever is in the middle of publishing.
"""

from dataclasses import asdict, fields, replace
from typing import Any, Final

from pymongo.errors import DuplicateKeyError

from storage.base import StoreUnavailable
from storage.models import Flow, FlowVersion, TimeMs
from storage.mongo.documents import Document, number, plain, text
from storage.mongo.failures import reading

_VERSION: Final = {field.name: 1 for field in fields(FlowVersion)} | {"_id": 0}
_TRIES: Final = 50


def _key(tenant_id: str, flow_id: str) -> Document:
    return {"tenant_id": text(tenant_id), "flow_id": text(flow_id)}


async def publish(
    database: Any, version: FlowVersion, name: str, description: str, is_default: bool, now: TimeMs
) -> FlowVersion:
    """See ``FlowStore.publish``."""
    key = _key(version.tenant_id, version.flow_id)
    async with reading():
        published = await _numbered(database, version, key, now)
        head = {
            "name": name,
            "description": description,
            "status": "active",
            "updated_at": now,
            "published_at": published.published_at,
        }
        change: Document = {
            "$set": head,
            "$max": {"latest_version": published.version},
            "$setOnInsert": {"created_at": now},
        }
        if not is_default:
            change["$unset"] = {"default_since": ""}
        await _upsert(database.flows, key, change)
        if is_default:
            await _make_default(database, key, now)
    return published


async def _upsert(collection: Any, key: Document, change: Document) -> None:
    try:
        await collection.update_one(key, change, upsert=True)
    except DuplicateKeyError:  # somebody was the first; now it is there
        await collection.update_one(key, change)


async def _numbered(database: Any, version: FlowVersion, key: Document, now: TimeMs) -> FlowVersion:
    """Return the newest version if it is this one, else store this one as the next."""
    for _ in range(_TRIES):
        newest = await _newest(database, key)
        if newest is not None and newest.sha256 == version.sha256:
            return newest
        latest = 0 if newest is None else newest.version
        published = replace(version, version=latest + 1, published_at=version.published_at or now)
        try:
            await database.flow_versions.insert_one(asdict(published))
        except DuplicateKeyError:
            continue
        return published
    raise StoreUnavailable(f"too many publish {version.flow_id} at once")


async def _newest(database: Any, key: Document) -> FlowVersion | None:
    found = await database.flow_versions.find(key, _VERSION).sort("version", -1).limit(1).to_list(1)
    return FlowVersion(**plain(found[0])) if found else None


async def _make_default(database: Any, key: Document, now: TimeMs) -> None:
    """Make a flow the default: above all others that are, which are unmade afterwards."""
    asked = {"tenant_id": key["tenant_id"], "default_since": {"$exists": True}}
    others = await database.flows.find(asked, {"_id": 0, "flow_id": 1, "default_since": 1}).to_list(None)
    since = max([now, *(other["default_since"] + 1 for other in others)])
    await database.flows.update_one(key, {"$set": {"default_since": since}})
    for other in others:
        if other["flow_id"] != key["flow_id"]:
            await database.flows.update_one(
                {**_key(key["tenant_id"], other["flow_id"]), "default_since": other["default_since"]},
                {"$unset": {"default_since": ""}, "$set": {"updated_at": now}},
            )


async def flow_version(database: Any, tenant_id: str, flow_id: str, version: int) -> FlowVersion | None:
    """See ``FlowStore.flow_version``."""
    async with reading():
        wanted = {**_key(tenant_id, flow_id), "version": number(version)}
        found = await database.flow_versions.find_one(wanted, _VERSION)
    return None if found is None else FlowVersion(**plain(found))


async def flows(database: Any, tenant_id: str) -> list[Flow]:
    """See ``FlowStore.flows``."""
    asked = {"tenant_id": text(tenant_id), "status": {"$ne": "archived"}}
    async with reading():
        found = await database.flows.find(asked, {"_id": 0}).sort("flow_id", 1).to_list(None)
    marked = [head for head in found if "default_since" in head]
    default = max(marked, key=lambda head: (head["default_since"], head["flow_id"]), default=None)
    return [_flow(head, is_default=head is default) for head in found]


def _flow(head: Document, *, is_default: bool) -> Flow:
    fields_ = {name: value for name, value in plain(head).items() if name != "default_since"}
    return Flow(**fields_, is_default=is_default)


async def archive_flow(database: Any, tenant_id: str, flow_id: str, now: TimeMs) -> bool:
    """See ``FlowStore.archive_flow``."""
    wanted = {**_key(tenant_id, flow_id), "status": {"$ne": "archived"}}
    change = {"$set": {"status": "archived", "updated_at": now}, "$unset": {"default_since": ""}}
    async with reading():
        result = await database.flows.update_one(wanted, change)
    return bool(result.modified_count)
