"""How many connections are open, by principal and in all."""

from collections.abc import Hashable
from enum import Enum


class ConnectionRefusal(Enum):
    """Which cap a connection would exceed."""

    PRINCIPAL = "principal"
    INSTANCE = "instance"


class ConnectionCounter:
    """Counts the open connections of one server process against two caps.

    A socket is entered when it is accepted (``open``), gets its principal when that is known
    (``identify``), and leaves once (``close``); memory is kept only for principals with connections.

    Args:
        per_principal: most connections of one principal, by (tenant, user).
        per_instance: most connections in all, those without a principal yet included.
    """

    def __init__(self, *, per_principal: int, per_instance: int) -> None:
        self._per_principal = per_principal
        self._per_instance = per_instance
        self._of: dict[Hashable, int] = {}
        self.count = 0

    def open(self) -> ConnectionRefusal | None:
        """Enter a connection; if that is refused, it is not entered."""
        if self.count >= self._per_instance:
            return ConnectionRefusal.INSTANCE
        self.count += 1
        return None

    def identify(self, principal: Hashable) -> ConnectionRefusal | None:
        """Enter whose it is; if that is refused, it stays without a principal."""
        held = self._of.get(principal, 0)
        if held >= self._per_principal:
            return ConnectionRefusal.PRINCIPAL
        self._of[principal] = held + 1
        return None

    def close(self, principal: Hashable | None = None) -> None:
        """Take out a connection; ``principal`` if it was identified."""
        self.count -= 1
        if principal is None:
            return
        held = self._of[principal] - 1
        if held:
            self._of[principal] = held
        else:
            del self._of[principal]

    def of(self, principal: Hashable) -> int:
        """Return how many connections a principal has."""
        return self._of.get(principal, 0)

    @property
    def principals(self) -> int:
        """How many principals are connected."""
        return len(self._of)
