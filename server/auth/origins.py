"""Which browser pages may connect: the ``Origin`` header against a list."""

from collections.abc import Iterable

from server.settings import normal_origin

_ANY_LABEL = "://*."


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
        patterns = {normal_origin(origin) for origin in origins}
        self._exact = frozenset(pattern for pattern in patterns if _ANY_LABEL not in pattern)
        self._below = frozenset(
            pattern.replace(_ANY_LABEL, "://", 1) for pattern in patterns if _ANY_LABEL in pattern
        )

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
