"""Which browser pages may connect: the ``Origin`` header against a list."""

from collections.abc import Iterable
from typing import Final

from server.settings import normal_origin

LOCAL_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")
"""What a machine calls itself."""


def patterns_of(origin: str) -> tuple[str, ...]:
    """Return what a list of origins would have to hold for this ``Origin`` header to be in it.

    That is the origin itself in its normal form, and the wildcard over its leftmost label. Nothing for
    ``null``, which sandboxed frames and local files send: any page can make itself look so.
    """
    try:
        normal = normal_origin(origin)
    except ValueError:
        return ()
    if "*" in normal:
        return ()
    scheme, _, host = normal.partition("://")
    return normal, f"{scheme}://*.{host.partition('.')[2]}"


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
        self._patterns: set[str] = set()
        self.allow(origins)

    def allow(self, origins: Iterable[str]) -> None:
        """Allow more origins and patterns. Raises ValueError."""
        self._patterns.update(map(normal_origin, origins))

    def allows(self, origin: str | None) -> bool:
        """Tell whether a connection with this ``Origin`` header may be served.

        None (no such header: not a browser) is allowed. ``null`` never is.
        """
        return origin is None or any(pattern in self._patterns for pattern in patterns_of(origin))
