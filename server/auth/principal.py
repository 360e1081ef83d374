"""Who is connected, as every other room of the server sees it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified identity. Made only from a credential; the tenant never comes from anywhere else.

    ``expires_at`` is the credential's end in seconds since the epoch, or None. ``key_id`` is the API key
    that the credential is, or was made with: when that ends, so does this. ``key_sha256`` is set where it
    is the key: when that gets a new text, this ends, too. ``origin`` is the page that brought it, None: no
    browser.
    """

    user_id: str
    tenant_id: str
    role: str = "user"
    scopes: frozenset[str] = frozenset()
    tier: str = "standard"
    expires_at: int | None = None
    key_id: str | None = None
    origin: str | None = None
    key_sha256: str | None = field(default=None, repr=False)

    def may(self, scope: str) -> bool:
        """Tell whether the principal has ``scope`` (``admin`` has them all)."""
        return scope in self.scopes or "admin" in self.scopes

    def to_wire(self) -> dict[str, Any]:
        """Return the ``principal`` object of ``welcome``."""
        return {
            "user_id": self.user_id,
            "tenant_id": self.tenant_id,
            "role": self.role,
            "scopes": sorted(self.scopes),
            "tier": self.tier,
        }

    def to_record(self) -> dict[str, Any]:
        """Return what an inbox entry keeps of the principal (the credential is not part of it)."""
        return self.to_wire()

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Principal":
        """Read back what ``to_record`` wrote."""
        return cls(
            user_id=record["user_id"],
            tenant_id=record["tenant_id"],
            role=record["role"],
            scopes=frozenset(record["scopes"]),
            tier=record["tier"],
        )
