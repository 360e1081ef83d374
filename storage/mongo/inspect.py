"""Looks at a MongoDB from outside, and changes nothing: what ``parley doctor`` tells of it."""

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qsl

from pymongo.errors import OperationFailure, PyMongoError

from storage.base import StorageError
from storage.inspection import Finding, access, clocks, is_local
from storage.mongo import server_info
from storage.mongo.driver import Driver, connect, disconnect, durable
from storage.mongo.schema import INDEXES, compare
from storage.mongo.server_info import ServerInfo

FORM: Final = "mongodb://USER:PASSWORD@HOST/parley?replicaSet=NAME&tls=true"
_NOBODY: Final = {"tenant_id": "", "conversation_id": ""}
_UNAUTHORIZED: Final = 13
_SUBJECT: Final = "mongodb"


async def inspect(url: str, driver: Driver = "pymongo") -> list[Finding]:
    """Return what is found. Raises nothing: what cannot be reached is a finding.

    Args:
        url: as in ``PARLEY_STORE``.
        driver: as in ``PARLEY_MONGO_DRIVER``.
    """
    try:
        client = connect(url, driver, {})
    except StorageError as error:
        return [_problem(error)]
    try:
        info = await server_info.inspect(client)
        found = [_server(info), _replicas(info, await server_info.hello(client)), await _clock(client)]
        found += [await _writes(client), await _indexes(client), _access(url)]
    except StorageError as error:
        return [_problem(error)]
    except PyMongoError as error:
        return [_problem(server_info.refusal(error))]
    else:
        return found
    finally:
        await disconnect(client)


def _problem(error: StorageError) -> Finding:
    """Behind the colon stands what to do."""
    what, _, fix = str(error).partition(": ")
    return Finding("problem", _SUBJECT, what, f"{fix[:1].upper()}{fix[1:]}.")


def _server(info: ServerInfo) -> Finding:
    retried = "writes are retried" if info.retries_writes else "writes are not retried"
    return Finding("ok", _SUBJECT, f"{'.'.join(map(str, info.version))}, {retried}")


def _replicas(info: ServerInfo, said: Mapping[str, Any]) -> Finding:
    """A majority of one survives nothing."""
    subject = "mongodb replicas"
    if info.is_router:
        return Finding("ok", subject, "a sharded cluster")
    if info.set_name is None:
        fix = "Make it a replica set, even of one: mongod --replSet rs0, then rs.initiate()."
        told = "it is a single server: a lost reply cannot be retried, a lost disk loses everything"
        return Finding("warning", subject, told, fix)
    members = len(said.get("hosts", ()))
    if members < 3:
        told = f"{info.set_name} has {members} member{'s' if members != 1 else ''} with data"
        fix = "Give it three, so that one may be lost."
        return Finding("warning", subject, told, fix)
    return Finding("ok", subject, f"{info.set_name}, {members} members with data")


async def _clock(client: Any) -> Finding:
    told: list[float] = []

    def take(theirs: datetime, asked_at: float, answered_at: float) -> None:
        told.extend((theirs.timestamp(), (asked_at + answered_at) / 2))

    await server_info.measure(client, take, time.time)
    if not told:
        return Finding("ok", "mongodb clock", "it does not tell its time")
    return clocks("mongodb clock", *told)


async def _writes(client: Any) -> Finding:
    """Remove what nobody has, as durably as a commit: a majority has to confirm even that."""
    subject = "mongodb writes"
    try:
        await durable(client).conversations.delete_one(_NOBODY)
    except OperationFailure as error:
        if error.code != _UNAUTHORIZED:
            raise
        fix = "Grant it the role readWrite on the database of PARLEY_STORE."
        return Finding("problem", subject, "the user of PARLEY_STORE may not write", fix)
    except PyMongoError:
        fix = "Look at rs.status(): a majority of the members has to be there, and to journal."
        return Finding("problem", subject, "no majority confirms a journaled write in time", fix)
    return Finding("ok", subject, "a majority confirms them (w=majority, j=true)")


async def _indexes(client: Any) -> Finding:
    subject = "mongodb indexes"
    missing, other = await compare(durable(client))
    if other:
        fix = "Drop them, then `parley migrate`."
        return Finding("problem", subject, f"{', '.join(map(str, other))}: not those that Parley makes", fix)
    if missing:
        fix = "`parley migrate` makes them; so does a server when it starts."
        return Finding("warning", subject, f"{len(missing)} of {len(INDEXES)} are missing", fix)
    return Finding("ok", subject, f"all {len(INDEXES)} are there")


def _access(url: str) -> Finding:
    options = {name.lower(): value.lower() for name, value in parse_qsl(url.partition("?")[2])}
    tls = options.get("tls", options.get("ssl", "true" if url.startswith("mongodb+srv:") else "false"))
    authority = url.partition("://")[2].partition("/")[0].partition("?")[0]
    hosts = authority.rpartition("@")[2].split(",")
    return access(
        "mongodb access",
        local=all(is_local(host.rpartition(":")[0] if _has_port(host) else host) for host in hosts),
        encrypted=tls == "true",
        credentials="@" in authority or "authmechanism" in options,
        setting="PARLEY_STORE",
        form=FORM,
    )


def _has_port(host: str) -> bool:
    return host.rpartition(":")[2].isdecimal() and not host.endswith("]")
