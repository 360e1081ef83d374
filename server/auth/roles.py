"""Scopes, and roles as named sets of them."""

from collections.abc import Mapping
from typing import Final

SCOPES: Final = frozenset(
    {
        "conversations:read",
        "conversations:write",
        "conversations:inspect",
        "conversations:delete",
        "users:act",
        "flows:read",
        "flows:write",
        "flows:publish",
        "acceptance:decide",
        "tools:invoke",
        "webhooks:manage",
        "keys:manage",
        "tenants:manage",
        "audit:read",
        "analytics:read",
        "admin",
    }
)

ROLES: Final[Mapping[str, frozenset[str]]] = {
    "user": frozenset(),
    "visitor": frozenset(),
    "operator": frozenset(
        {
            "conversations:read",
            "conversations:write",
            "conversations:inspect",
            "flows:read",
            "acceptance:decide",
            "analytics:read",
        }
    ),
    "service": frozenset({"conversations:read", "conversations:write", "users:act"}),
    "admin": frozenset({"admin"}),
}
"""A user or a visitor acts on its own conversations, which needs no scope."""

TIERS: Final = frozenset({"free", "basic", "standard", "premium", "enterprise"})


def scopes_of(role: str, granted: frozenset[str]) -> frozenset[str]:
    """Return the scopes of ``role`` and those of ``granted`` that exist.

    Identity providers put scopes of their own (``openid profile``) into the same claim; they mean
    nothing here and are dropped.
    """
    return ROLES.get(role, frozenset()) | (granted & SCOPES)
