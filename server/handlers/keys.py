"""API keys of a tenant: made, listed, changed, given a new text, revoked. All of it takes ``keys:manage``."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from protocol.errors import ErrorCode, Refused
from server.auth.keys import PUBLISHABLE, SECRET, Keys, hash_of, make_text
from server.auth.principal import Principal
from server.auth.roles import SCOPES, scopes_of
from server.engine.views import iso
from server.settings import normal_origin
from storage.models import ApiKey, KeyPlace, TimeMs

SCOPE: Final = "keys:manage"
ACT_SCOPE: Final = "users:act"
MAX_ORIGINS: Final = 100
_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a new key shall be; see ``storage.models.ApiKey``."""

    publishable: bool
    name: str | None = None
    description: str = ""
    origins: Sequence[str] = ()
    tier: str = "standard"
    rate_limit_per_minute: int | None = None
    expires_at: TimeMs | None = None
    user_id: str | None = None
    role: str = "service"
    scopes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Made:
    """A key and its text, which is shown now and never again."""

    key: ApiKey
    text: str


async def create_key(keys: Keys, principal: Principal, wanted: Wanted) -> Made:
    """Make a key. Raises Refused: what it would be is wrong, or more than the caller may give."""
    _must_manage(principal)
    new = new_key(principal, wanted, keys.store.now())
    if not await keys.store.create_api_key(new.key):
        raise Refused(ErrorCode.INTERNAL, "The key could not be made.", retry_after_ms=1000)
    keys.changed(new.key)
    return new


def new_key(principal: Principal, wanted: Wanted, now: TimeMs) -> Made:
    """Return the key that ``wanted`` describes, not yet stored. Raises Refused."""
    origins = normal_origins(wanted.origins)
    if wanted.expires_at is not None and wanted.expires_at <= now:
        raise _bad("expires_at", "expires_at must be in the future.")
    if wanted.publishable:
        if not origins:
            raise _bad(
                "origins",
                "A publishable key needs the origins of the pages that it is for.",
                "For example https://shop.example: scheme, host and port, without a path.",
            )
        if wanted.scopes or wanted.user_id or wanted.role not in ("service", "visitor"):
            raise _bad("scopes", "A publishable key makes visitors: it has no user, role or scopes.")
    elif wanted.rate_limit_per_minute is not None:
        raise _bad("rate_limit_per_minute", "The rate counts visitors: it is for publishable keys.")
    else:
        _must_have(principal, wanted.role, wanted.scopes, wanted.user_id)
    prefix = PUBLISHABLE if wanted.publishable else SECRET
    text, key_id = make_text(prefix), f"key_{secrets.token_hex(8)}"
    key = ApiKey(
        key_id=key_id,
        tenant_id=principal.tenant_id,
        prefix="pk_" if wanted.publishable else "sk_",
        sha256=hash_of(text),
        name=wanted.name or (origins[0] if origins else key_id),
        description=wanted.description,
        user_id=wanted.user_id,
        role="visitor" if wanted.publishable else wanted.role,
        scopes=tuple(sorted(set(wanted.scopes))),
        tier=wanted.tier,
        rate_limit_per_minute=wanted.rate_limit_per_minute,
        origins=origins,
        expires_at=wanted.expires_at,
        created_by=principal.user_id,
        created_at=now,
    )
    return Made(key, text)


async def list_keys(
    keys: Keys, principal: Principal, *, after: KeyPlace | None, limit: int
) -> tuple[list[dict[str, Any]], KeyPlace | None]:
    """Return keys of the tenant, the newest first, and the place behind them; None at the end."""
    _must_manage(principal)
    found = await keys.store.api_keys(principal.tenant_id, after=after, limit=limit + 1)
    place = KeyPlace(found[limit - 1].created_at, found[limit - 1].key_id) if len(found) > limit else None
    return [key_view(key) for key in found[:limit]], place


async def show_key(keys: Keys, principal: Principal, key_id: str) -> ApiKey:
    """Return a key of the tenant. Raises Refused: ``not_found``."""
    _must_manage(principal)
    place = (principal.tenant_id, key_id)
    found = (await keys.store.api_keys_by_id([place])).get(place)
    if found is None:
        raise Refused(
            ErrorCode.NOT_FOUND,
            "There is no such key.",
            suggestion="`parley keys list` shows them all.",
        )
    return found


async def revoke_key(keys: Keys, principal: Principal, key_id: str) -> ApiKey:
    """Let a key, and all that rests on it, work no more; for good. Of a revoked one: nothing happens."""

    def revoke(key: ApiKey) -> ApiKey:
        return replace(key, is_active=False)

    return await _change(keys, principal, key_id, revoke)


async def rotate_key(keys: Keys, principal: Principal, key_id: str) -> Made:
    """Give a key a new text; the former one works no more. Visitors keep their tokens.

    Whoever gets the text can do what the key can: so it takes what making such a key takes.

    Raises:
        Refused: ``wrong_state`` where it was revoked; ``permission_denied`` where it can more than they.
    """
    text = ""

    def rotate(key: ApiKey) -> ApiKey:
        nonlocal text
        if not key.is_active:
            raise Refused(ErrorCode.WRONG_STATE, "The key was revoked.", suggestion="Make another one.")
        if key.prefix == SECRET:
            _must_have(principal, key.role, key.scopes, key.user_id)
        text = make_text(key.prefix)
        return replace(key, sha256=hash_of(text))

    key = await _change(keys, principal, key_id, rotate)
    return Made(key, text)


async def change_origins(
    keys: Keys, principal: Principal, key_id: str, *, add: Sequence[str], remove: Sequence[str]
) -> ApiKey:
    """Add origins to a key, and take others away; what is there, or is not, already is no error.

    Raises:
        Refused: one is no origin, or a publishable key would have none left.
    """
    added, removed = normal_origins(add, "add_origins"), normal_origins(remove, "remove_origins")

    def change(key: ApiKey) -> ApiKey:
        origins = tuple(dict.fromkeys([*(o for o in key.origins if o not in removed), *added]))
        if key.prefix == PUBLISHABLE and not origins:
            raise _bad(
                "remove_origins", "The key would be for no page at all.", f"`parley keys revoke {key.key_id}`"
            )
        if len(origins) > MAX_ORIGINS:
            raise _bad("add_origins", f"A key has at most {MAX_ORIGINS} origins.")
        return replace(key, origins=origins)

    return await _change(keys, principal, key_id, change)


async def _change(
    keys: Keys,
    principal: Principal,
    key_id: str,
    change: Callable[[ApiKey], ApiKey],
) -> ApiKey:
    for _ in range(_TRIES):
        before = await show_key(keys, principal, key_id)
        after = change(before)
        if after == before:
            return before
        if await keys.store.change_api_key(before, after):
            keys.changed(after)
            return after
    raise Refused(ErrorCode.OVERLOADED, "Others change this key at the same time.", retry_after_ms=1000)


def key_view(key: ApiKey) -> dict[str, Any]:
    """Return a key as the API shows it: neither its text nor its hash."""
    return {
        "key_id": key.key_id,
        "tenant_id": key.tenant_id,
        "prefix": key.prefix,
        "name": key.name,
        "description": key.description,
        "user_id": key.user_id,
        "role": key.role,
        "scopes": list(key.scopes),
        "tier": key.tier,
        "rate_limit_per_minute": key.rate_limit_per_minute,
        "origins": list(key.origins),
        "expires_at": _time(key.expires_at),
        "is_active": key.is_active,
        "created_by": key.created_by,
        "created_at": _time(key.created_at),
        "last_used_at": _time(key.last_used_at),
    }


def made_view(made: Made) -> dict[str, Any]:
    """Return a key with its text, for this one time."""
    return {"key": made.text, **key_view(made.key)}


def normal_origins(origins: Sequence[str], field: str = "origins") -> tuple[str, ...]:
    """Return origins in their normal form, each once. Raises Refused."""
    if len(origins) > MAX_ORIGINS:
        raise _bad(field, f"A key has at most {MAX_ORIGINS} origins.")
    found: dict[str, None] = {}
    for origin in origins:
        try:
            found[normal_origin(origin.strip())] = None
        except ValueError:
            raise _bad(
                field,
                "An origin is the scheme, host and port of a page, without a path.",
                "https://shop.example, http://localhost:3000 or https://*.example.com would be right.",
            ) from None
    return tuple(found)


def _time(at: TimeMs | None) -> str | None:
    return None if at is None else iso(at)


def _must_manage(principal: Principal) -> None:
    if not principal.may(SCOPE):
        raise Refused(
            ErrorCode.PERMISSION_DENIED, "This takes the scope keys:manage.", details={"scope": SCOPE}
        )


def _must_have(principal: Principal, role: str, scopes: Sequence[str], user_id: str | None) -> None:
    """Nobody holds a key that can do what they cannot: with a scope that they lack, or as another user."""
    unknown = sorted(set(scopes) - SCOPES)
    if unknown:
        raise _bad("scopes", f"There is no scope {unknown[0][:64]}.", f"One of: {', '.join(sorted(SCOPES))}.")
    needed = scopes_of(role, frozenset(scopes))
    if user_id not in (None, principal.user_id):
        needed |= {ACT_SCOPE}
    missing = sorted(scope for scope in needed if not principal.may(scope))
    if missing:
        raise Refused(
            ErrorCode.PERMISSION_DENIED,
            f"Nobody can have a key that can do more than they can themselves: {', '.join(missing)}.",
            details={"scopes": missing},
        )


def _bad(field: str, message: str, suggestion: str | None = None) -> Refused:
    return Refused(ErrorCode.BAD_REQUEST, message, field=field, suggestion=suggestion)
