"""Which browser pages may connect: the ``Origin`` header against a list."""

from collections.abc import Iterable
from typing import Final

from server.settings import normal_origin

LOCAL_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")
"""What a machine calls itself."""
_ANY_LABEL: Final = "://*."


class OriginPolicy:
    """Matches origins exactly by scheme, host and port.

    A pattern may have one wildcard, as its whole leftmost label: ``https://*.example.com`` allows
    ``https://shop.example.com`` but neither ``https://example.com`` nor ``https://a.b.example.com``.

    Args:
        origins: origins and patterns, in any case, with or without a default port.

    Raises:
        ValueError: one of them is no origin.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        self._exact: set[str] = set()
        self._below: set[str] = set()
        self.allow(origins)

    def allow(self, origins: Iterable[str]) -> None:
        """Allow more origins and patterns. Raises ValueError."""
        for pattern in map(normal_origin, origins):
            if _ANY_LABEL in pattern:
                self._below.add(pattern.replace(_ANY_LABEL, "://", 1))
            else:
                self._exact.add(pattern)

    def allows(self, origin: str | None) -> bool:
        """Tell whether a connection with this ``Origin`` header may be served.

        None (no such header: not a browser) is allowed. ``null``, which sandboxed frames and local
        files send, never is: any page can make itself look so.
        """
        if origin is None:
            return True
        try:
            normal = normal_origin(origin)
        except ValueError:
            return False
        if "*" in normal:
            return False
        if normal in self._exact:
            return True
        scheme, _, host = normal.partition("://")
        parent = host.partition(".")[2]
        return f"{scheme}://{parent}" in self._below
