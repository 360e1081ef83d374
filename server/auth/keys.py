"""API keys as one instance knows them: found by their text, remembered for a minute, forgotten when told.

A key is 256 random bits; what is stored is their SHA-256, so that finding one costs the same however many
there are, and checking one costs nothing that an attacker could make us pay. What ends a key (revocation, a
new secret, an origin that is taken away) is told to the other instances at once, and looked up every few
seconds beside that: a bus may lose what it is told.
"""

import asyncio
import contextlib
import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, Protocol

import orjson
import structlog

from protocol.errors import CloseCode, ErrorCode, Refused
from server.auth.origins import OriginPolicy, patterns_of
from server.auth.principal import Principal
from storage.base import AccountStore, EventBus, StorageError
from storage.models import ApiKey, TimeMs

CHANNEL: Final = "parley:keys"
"""Where instances tell each other that a key has changed."""
PUBLISHABLE: Final = "pk_"
SECRET: Final = "sk_"  # noqa: S105 - what such a key begins with

CACHE_MS: Final = 60_000
CACHE_ENTRIES: Final = 10_000
UNKNOWN_MS: Final = 5_000
"""How long an origin that no key names is not asked for again: the store sees no flood of strangers."""
LOOK_S: Final = 4.0
"""Every key that a live connection rests on is looked up this often."""
LOOK_BATCH: Final = 500
TOUCH_MS: Final = 30_000
_VERSION: Final = 1
_TEXT: Final = re.compile(r"(?:pk|sk)_[A-Za-z0-9_-]{43}")

Place = tuple[str, str]
"""Tenant and key id."""

_log = structlog.get_logger(__name__)


def make_text(prefix: str) -> str:
    """Return a new key: what its owner is shown, once."""
    return prefix + secrets.token_urlsafe(32)


def hash_of(text: str) -> str:
    """Return what is stored of a key's text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class KeyStore(AccountStore, Protocol):
    """What is needed of a store."""

    def now(self) -> TimeMs:
        """Return the store's time."""


class Holder(Protocol):
    """A connection that may rest on a key."""

    principal: Principal

    def key_ended(self, why: Refused) -> None:
        """End, because the key no longer lets this connection be."""


class Keys:
    """The keys that one instance works with.

    Args:
        store: where they are kept.
        bus: the way to other instances; None where there are none.
        look_s: how often what live connections rest on is looked up.
    """

    def __init__(self, store: KeyStore, bus: EventBus | None = None, *, look_s: float = LOOK_S) -> None:
        self.store = store
        self._look_s = look_s
        self._bus = bus
        self._known: OrderedDict[Place, tuple[ApiKey, TimeMs]] = OrderedDict()
        self._places: dict[str, Place] = {}
        self._origins: OrderedDict[tuple[str, str | None], tuple[bool, TimeMs]] = OrderedDict()
        self._holders: dict[Place, set[Holder]] = {}
        self._used: dict[Place, TimeMs] = {}
        self._touched_at: TimeMs = 0
        self._changes = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # --- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to listen and to look."""
        if self._bus is not None:
            await self._bus.subscribe(CHANNEL, self._receive)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End both, and note when keys were used last. Idempotent."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        with contextlib.suppress(StorageError):
            await self._touch()

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._look_s):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self.look()
                if self.store.now() - self._touched_at >= TOUCH_MS:
                    await self._touch()
            except StorageError as error:
                _log.warning("keys_not_looked_up", error=str(error))
            except Exception:  # noqa: BLE001 - nobody else looks whether keys have ended: go on looking
                _log.exception("keys_not_looked_up")

    # --- finding ----------------------------------------------------------------------------------

    async def by_text(self, text: str) -> ApiKey | None:
        """Return the key with this text if it works now, and note that it was used.

        Raises:
            StoreUnavailable: it cannot be told.
        """
        if _TEXT.fullmatch(text) is None:
            return None
        sha256 = hash_of(text)
        place = self._places.get(sha256)
        key = None if place is None else self._fresh(place)
        if key is None or key.sha256 != sha256:
            changes = self._changes
            key = await self.store.api_key_by_hash(sha256)
            self._remember([key] if key is not None else [], changes)
        if key is None or not key.works_at(self.store.now()):
            return None
        self._used[key.tenant_id, key.key_id] = self.store.now()
        return key

    async def by_id(self, tenant_id: str, key_id: str) -> ApiKey | None:
        """Return a key if it works now. Raises StoreUnavailable."""
        place = (tenant_id, key_id)
        key = self._fresh(place)
        if key is None:
            changes = self._changes
            key = (await self.store.api_keys_by_id([place])).get(place)
            self._remember([key] if key is not None else [], changes)
        return key if key is not None and key.works_at(self.store.now()) else None

    async def name_origin(self, origin: str, tenant_id: str | None = None) -> bool:
        """Tell whether a publishable key (of this tenant; None: of any) names a page's origin.

        Raises:
            StoreUnavailable: it cannot be told.
        """
        asked, now = (origin, tenant_id), self.store.now()
        answer = self._origins.get(asked)
        if answer is not None and now < answer[1]:
            return answer[0]
        patterns = patterns_of(origin)
        if not patterns:
            return False
        changes = self._changes
        named = await self.store.has_origin(patterns, now, tenant_id=tenant_id)
        if changes == self._changes:
            self._origins[asked] = (named, now + (CACHE_MS if named else UNKNOWN_MS))
            self._origins.move_to_end(asked)
            while len(self._origins) > CACHE_ENTRIES:
                self._origins.popitem(last=False)
        return named

    def _fresh(self, place: Place) -> ApiKey | None:
        known = self._known.get(place)
        if known is None or self.store.now() - known[1] >= CACHE_MS:
            return None
        self._known.move_to_end(place)
        return known[0]

    def _remember(self, keys: Iterable[ApiKey], changes: int) -> None:
        """Keep what was read, unless something changed while it was."""
        if changes != self._changes:
            return
        now = self.store.now()
        for key in keys:
            place = (key.tenant_id, key.key_id)
            self._forget(place)
            self._known[place] = (key, now)
            self._places[key.sha256] = place
        while len(self._known) > CACHE_ENTRIES:
            self._forget(next(iter(self._known)))

    def _forget(self, place: Place) -> None:
        known = self._known.pop(place, None)
        if known is not None:
            self._places.pop(known[0].sha256, None)

    # --- what rests on keys -----------------------------------------------------------------------

    def hold(self, holder: Holder) -> None:
        """Tell ``holder`` when the key of its principal ends, if it has one."""
        principal = holder.principal
        if principal.key_id is not None:
            self._holders.setdefault((principal.tenant_id, principal.key_id), set()).add(holder)

    def release(self, holder: Holder) -> None:
        """The connection is gone, or about to take another principal."""
        principal = holder.principal
        if principal.key_id is None:
            return
        place = (principal.tenant_id, principal.key_id)
        holders = self._holders.get(place)
        if holders is not None:
            holders.discard(holder)
            if not holders:
                del self._holders[place]

    async def look(self) -> None:
        """Look up every key that connections rest on, and end those that it no longer lets be.

        Raises:
            StoreUnavailable: it cannot be told; nothing was ended.
        """
        places = list(self._holders)
        for start in range(0, len(places), LOOK_BATCH):
            part = places[start : start + LOOK_BATCH]
            changes = self._changes
            found = await self.store.api_keys_by_id(part)
            self._remember(found.values(), changes)
            for place in part:
                self._check(place, found.get(place))

    def _check(self, place: Place, key: ApiKey | None) -> None:
        works = key is not None and key.works_at(self.store.now())
        for holder in list(self._holders.get(place, ())):
            if key is None or not works or holder.principal.key_sha256 not in (None, key.sha256):
                holder.key_ended(revoked())
            elif not admits(key, holder.principal.origin):
                holder.key_ended(wrong_page(key, holder.principal.origin))

    # --- changes ----------------------------------------------------------------------------------

    def restored(self) -> None:
        """The bus is back: forget all that may have changed while nobody could say so, and look."""
        self._changes += 1
        self._known.clear()
        self._places.clear()
        self._origins.clear()
        self._wake.set()

    def changed(self, key: ApiKey) -> None:
        """A key was made or changed here: act on it, and tell the other instances."""
        self._invalidate((key.tenant_id, key.key_id))
        self._check((key.tenant_id, key.key_id), key)
        if self._bus is not None:
            told = {"v": _VERSION, "tenant": key.tenant_id, "key": key.key_id}
            self._bus.publish(CHANNEL, orjson.dumps(told))

    def _receive(self, payload: bytes) -> None:
        """Another instance changed a key."""
        try:
            told = orjson.loads(payload)
            place = (str(told["tenant"]), str(told["key"]))
        except (orjson.JSONDecodeError, KeyError, TypeError):
            _log.warning("bus_payload_malformed", channel=CHANNEL)
            return
        self._invalidate(place)
        if place in self._holders:
            self._wake.set()

    def _invalidate(self, place: Place) -> None:
        self._changes += 1
        self._forget(place)
        self._origins.clear()

    async def _touch(self) -> None:
        used, self._used = self._used, {}
        self._touched_at = self.store.now()
        if used:
            await self.store.touch_api_keys(used)


def admits(key: ApiKey, origin: str | None) -> bool:
    """Tell whether a key lets a page of this origin in; None (no browser) may always, as for sockets."""
    return not key.origins or OriginPolicy(key.origins).allows(origin)


def revoked() -> Refused:
    """Return the refusal of what rests on a key that works no more."""
    return Refused(
        ErrorCode.UNAUTHORIZED,
        "The API key behind this credential was revoked or has expired.",
        suggestion="`parley keys list` shows the keys; `parley keys create` makes one.",
    )


def closing_of(why: Refused) -> tuple[CloseCode, str]:
    """Return how a live connection ends that a key does not let be any more: for good."""
    if why.code is ErrorCode.ORIGIN_NOT_ALLOWED:
        return CloseCode.ORIGIN_NOT_ALLOWED, "this page's origin may no longer connect; see `parley origins`"
    return CloseCode.UNAUTHORIZED, "the API key was revoked or has expired"


def wrong_page(key: ApiKey, origin: str | None) -> Refused:
    """Return the refusal of a page that a key does not name."""
    patterns = patterns_of(origin or "")
    shown = patterns[0] if patterns else "ORIGIN"
    said = f"The origin {shown} is not among this key's." if patterns else "This page's origin is none."
    return Refused(
        ErrorCode.ORIGIN_NOT_ALLOWED,
        said if origin is not None else "A publishable key is for pages: the request has no Origin.",
        suggestion=f"Allow the page: parley origins add {shown} --key {key.key_id}",
    )
