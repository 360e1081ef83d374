"""Presence over Redis: each instance says who is connected to it, and that it is alive.

A conversation has a hash with a field for each (instance, user); it does not expire soon. What expires is
the one key by which an instance says that it lives: fields of an instance without it count for nothing
and are cleared by whoever reads them. So ten thousand conversations cost one write every ten seconds.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Coroutine
from typing import Any, Final

import orjson

from storage.base import PRESENCE_TTL_MS, Present
from storage.memory.presence import Connected, Key, added_up
from storage.redis.client import Client, Command
from storage.redis.server import Away

VERSION: Final = 1
BEAT_S: Final = 10.0
GATHER_S: Final = 0.05
"""Comings and goings of so long are passed on together."""
REENTER_S: Final = 6 * 3600.0
ENTRY_TTL_MS: Final = 24 * 3600 * 1000
CHUNK: Final = 500


class RedisPresence:
    """A ``Presence`` of all instances.

    Whenever the connection was lost, or Redis has forgotten that we live, we take another name and say
    everything anew: what was said under the old name ends with it.

    Args:
        client: where it is kept.
        prefix: of its keys.
    """

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._prefix = f"{prefix}parley:"
        self._connected = Connected()
        self._changed: dict[tuple[Key, str], None] = {}
        self._name = ""
        self._lives = -1
        self._renew_at = 0.0
        self._beat_at = 0.0
        self._gathering: asyncio.TimerHandle | None = None
        self._beating: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._saying = asyncio.Lock()

    def enter(self, tenant_id: str, conversation_id: str, user_id: str) -> None:
        """See ``Presence.enter``."""
        key = (tenant_id, conversation_id)
        self._connected.enter(key, user_id)
        self._change(key, user_id)

    def leave(self, tenant_id: str, conversation_id: str, user_id: str) -> None:
        """See ``Presence.leave``."""
        key = (tenant_id, conversation_id)
        self._connected.leave(key, user_id)
        self._change(key, user_id)

    async def present(self, tenant_id: str, conversation_id: str) -> list[Present]:
        """See ``Presence.present``."""
        key = (tenant_id, conversation_id)
        here = self._connected.of(key)
        try:
            return added_up(here, *await self._elsewhere(key))
        except Away:
            return added_up(here)

    def tick(self) -> None:
        """Say that we live, if it is time. Called about once a second."""
        now = asyncio.get_running_loop().time()
        busy = self._beating is not None and not self._beating.done()
        if not busy and (now >= self._beat_at or self._client.lives != self._lives):
            self._beat_at = now + BEAT_S
            self._beating = self._spawn(self._beat(now))

    async def close(self) -> None:
        """Say that we are gone."""
        if self._gathering is not None:
            self._gathering.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._name:
            with contextlib.suppress(Away):
                await self._client.tell([("UNLINK", self._alive(self._name))])
            self._name = ""

    # --- what we say ------------------------------------------------------------------------------

    async def _beat(self, now: float) -> None:
        lives = self._client.lives
        try:
            async with self._saying:
                if lives != self._lives or now >= self._renew_at or not await self._say_alive(self._name):
                    name = secrets.token_hex(8)
                    await self._say_alive(name)
                    before, self._name = self._name, name
                    self._lives, self._renew_at = lives, now + REENTER_S
                    if before:
                        await self._client.tell([("UNLINK", self._alive(before))])
                    await self._say(self._connected.all())
        except Away:
            self._lives = -1  # as soon as it is back

    async def _say_alive(self, name: str) -> bool:
        """Return whether Redis still knew that we live. Raises Away."""
        key = self._alive(name)
        known = await self._client.call(
            lambda redis: redis.set(key, str(VERSION), px=PRESENCE_TTL_MS, get=True)
        )
        return known is not None

    def _change(self, key: Key, user_id: str) -> None:
        self._changed[key, user_id] = None
        if self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(GATHER_S, self._pass_on)

    def _pass_on(self) -> None:
        self._gathering = None
        changed, self._changed = self._changed, {}
        if self._name:
            self._spawn(self._say_changed(list(changed)))

    async def _say_changed(self, changed: list[tuple[Key, str]]) -> None:
        try:
            async with self._saying:
                await self._say(changed)
        except Away:
            self._lives = -1

    async def _say(self, who: list[tuple[Key, str]]) -> None:
        """Say how each of them is connected now, some at a time: one word after the other. Raises Away."""
        for start in range(0, len(who), CHUNK):
            commands: list[Command] = []
            for key, user_id in who[start : start + CHUNK]:
                commands += self._words(key, user_id)
            await self._client.tell(commands)

    def _words(self, key: Key, user_id: str) -> list[Command]:
        place, field = self._place(key), orjson.dumps([self._name, user_id])
        connections = self._connected.of(key).get(user_id)
        if connections is None:
            return [("HDEL", place, field)]
        value = orjson.dumps({"v": VERSION, "n": connections})
        return [("HSET", place, field, value), ("PEXPIRE", place, ENTRY_TTL_MS)]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- what others say --------------------------------------------------------------------------

    async def _elsewhere(self, key: Key) -> list[dict[str, int]]:
        """Return who is connected to each other instance that lives. Raises Away."""
        place = self._place(key)
        entries: Any = await self._client.call(lambda redis: redis.hgetall(place))
        said: dict[str, dict[str, int]] = {}
        fields: dict[str, list[bytes]] = {}
        for field, value in entries.items():
            name, user_id, connections = _read(field, value)
            if name != self._name:
                said.setdefault(name, {})[user_id] = connections
                fields.setdefault(name, []).append(field)
        alive = await asyncio.gather(*(self._lives_still(name) for name in said))
        for name, lives in zip(said, alive, strict=True):
            if not lives:
                await self._client.tell([("HDEL", place, *fields[name])])
        return [said[name] for name, lives in zip(said, alive, strict=True) if lives]

    async def _lives_still(self, name: str) -> bool:
        key = self._alive(name)
        return bool(await self._client.call(lambda redis: redis.exists(key)))

    def _alive(self, name: str) -> bytes:
        return f"{self._prefix}i:{name}".encode()

    def _place(self, key: Key) -> bytes:
        return f"{self._prefix}p:{key[0]}:{key[1]}".encode()


def _read(field: bytes, value: bytes) -> tuple[str, str, int]:
    """Return (instance, user, connections); what is none of ours belongs to nobody who lives."""
    try:
        name, user_id = orjson.loads(field)
        said: Any = orjson.loads(value)
        if said["v"] == VERSION and isinstance(name, str) and isinstance(user_id, str):
            return name, user_id, int(said["n"])
    except (ValueError, TypeError, KeyError):
        pass
    return "", "", 0
