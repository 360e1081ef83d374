"""Looks at a Redis from outside, and changes nothing: what ``parley doctor`` tells of it."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any, Final

from redis.exceptions import RedisError

from storage.base import BusRefused
from storage.inspection import Finding, access, clocks, is_local
from storage.redis.address import Address
from storage.redis.server import Away, ask, told, visiting

ANSWER_S: Final = 3.0
LEAST_BUFFER_BYTES: Final = 8 * 1024 * 1024
"""An instance that is paused for a moment under load has about so much waiting for it."""
FORM: Final = "rediss://USER:PASSWORD@HOST"
_PUBSUB: Final = "CONFIG SET client-output-buffer-limit 'pubsub 67108864 16777216 30'"


async def inspect(url: str) -> list[Finding]:
    """Return what is found. Raises nothing: what cannot be reached is a finding.

    Args:
        url: as in ``PARLEY_BUS``.
    """
    try:
        address = Address.parse(url)
    except ValueError as error:
        return [Finding("problem", "redis", f"PARLEY_BUS {error}", "Correct PARLEY_BUS.")]
    try:
        return await _look(address)
    except BusRefused as error:
        return [Finding("problem", "redis", *_told(str(error)))]
    except (Away, RedisError, TimeoutError) as error:
        what = f"Redis at {address} {error if isinstance(error, Away) else 'does not answer'}"
        fix = "Start it, or correct PARLEY_BUS; until it is there, instances hear of each other late."
        return [Finding("warning", "redis", what, fix)]


def _told(sentence: str) -> tuple[str, str]:
    """Split "what is wrong: what to do"."""
    what, _, fix = sentence.rpartition(": ")
    return what, f"{fix[:1].upper()}{fix[1:]}."


async def _look(address: Address) -> list[Finding]:
    async with visiting(address, address.host, address.port) as (connection, server):
        async with asyncio.timeout(ANSWER_S):
            asked = time.time()
            time_ = await ask(connection, "TIME")
            here = (asked + time.time()) / 2
            memory = await ask(connection, "INFO", "memory")
            buffers = await ask(connection, "CONFIG", "GET", "client-output-buffer-limit")
    kind = "a cluster" if server.cluster else "one server"
    version = ".".join(map(str, server.version)) or "of a version it does not tell"
    found = [Finding("ok", "redis", f"{address}, {version}, {kind}"), _eviction(memory), _buffers(buffers)]
    found += _clock(time_, here)
    found.append(
        access(
            "redis access",
            local=is_local(address.host),
            encrypted=address.tls is not None,
            credentials=address.password is not None,
            setting="PARLEY_BUS",
            form=FORM,
        )
    )
    return found


def _eviction(reply: Any) -> Finding:
    """Without a limit nothing is evicted; with one, ``noeviction`` is what says so aloud."""
    subject = "redis eviction"
    fields = told(reply) if isinstance(reply, bytes) else {}
    policy, limit = fields.get("maxmemory_policy"), int(fields.get("maxmemory", 0))
    if policy is None:
        return _untold(subject, "maxmemory-policy", "noeviction")
    if limit and policy != "noeviction":
        what = f"with maxmemory-policy {policy}, rate limits and presence vanish where memory is short"
        return Finding("warning", subject, what, "CONFIG SET maxmemory-policy noeviction, in its file too.")
    return Finding("ok", subject, policy if limit else "there is no limit to its memory")


def _buffers(reply: Any) -> Finding:
    """A subscriber that stalls is to be cut off, not too early, and before it fills Redis' memory."""
    subject = "redis buffers"
    if not isinstance(reply, list) or len(reply) < 2:
        return _untold(subject, "client-output-buffer-limit", "pubsub 64mb 16mb 30")
    words = iter(reply[1].decode().split())
    limits = {kind: (int(hard), int(soft)) for kind, hard, soft, _ in zip(*[words] * 4, strict=False)}
    hard, soft = limits.get("pubsub", (0, 0))
    least = min((size for size in (hard, soft) if size), default=0)
    if not hard:
        what = "a subscriber that does not read may fill its memory: pubsub has no hard limit"
        return Finding("warning", subject, what, f"{_PUBSUB}, in its file too.")
    if least < LEAST_BUFFER_BYTES:
        what = f"an instance that pauses for a moment is cut off: pubsub has only {least / 1e6:.1f} MB"
        return Finding("warning", subject, what, f"{_PUBSUB}, in its file too.")
    return Finding("ok", subject, f"pubsub {hard / 1e6:.0f} MB, {soft / 1e6:.0f} MB for a while")


def _untold(subject: str, setting: str, right: str) -> Finding:
    fix = f"Allow CONFIG GET to the user of PARLEY_BUS, or see to it that {setting} is {right}."
    return Finding("warning", subject, f"it does not tell its {setting}", fix)


def _clock(reply: Any, here_s: float) -> Iterator[Finding]:
    if isinstance(reply, list):
        seconds, micros = map(int, reply)
        yield clocks("redis clock", seconds + micros / 1e6, here_s)
