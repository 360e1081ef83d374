"""From what a request or a socket brings to its principal: tokens, secret keys, and their page."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from protocol.errors import ErrorCode, Refused
from server.auth.keys import PUBLISHABLE, SECRET, Keys, admits, revoked, wrong_page
from server.auth.origins import OriginPolicy
from server.auth.principal import Principal
from server.auth.roles import scopes_of
from server.auth.tokens import TokenVerifier
from storage.models import ApiKey

BLOCKED: Final = (
    "Allow the page: PARLEY_ORIGINS for all tenants, or `parley origins add ORIGIN --key KEY_ID` for a key's."
)


class Credentials:
    """Verifies whoever comes.

    Args:
        verifier: for tokens.
        keys: for API keys.
        origins: the pages of the settings, which may come with anybody's credential.
        wall_s: seconds since the epoch.
    """

    def __init__(
        self, verifier: TokenVerifier, keys: Keys, origins: OriginPolicy, wall_s: Callable[[], float]
    ) -> None:
        self.keys = keys
        self._verifier = verifier
        self._origins = origins
        self._wall_s = wall_s

    async def may_ask(self, origin: str | None) -> bool:
        """Tell whether a page of this origin may ask at all, before it is known who asks.

        Whether it may with the credential that it brings, ``principal`` tells.

        Raises:
            StoreUnavailable: it cannot be told.
        """
        return self._origins.allows(origin) or (origin is not None and await self.keys.name_origin(origin))

    async def principal(self, credential: str, origin: str | None) -> Principal:
        """Return whose credential it is: a token or a secret key.

        Args:
            credential: without ``Bearer``.
            origin: the ``Origin`` that it came with; None: no browser.

        Raises:
            Refused: ``unauthorized``, ``token_expired``, or ``origin_not_allowed``: the page may not use it.
            StoreUnavailable: a key is asked for, and cannot be found out about.
        """
        if credential.startswith(SECRET):
            key = await self.keys.by_text(credential)
            if key is None:
                raise Refused(
                    ErrorCode.UNAUTHORIZED,
                    "There is no such API key, or it was revoked or has expired.",
                    suggestion="`parley keys list` shows the keys.",
                )
            principal = _of_key(key)
        elif credential.startswith(PUBLISHABLE):
            raise Refused(
                ErrorCode.UNAUTHORIZED,
                "A publishable key is no token.",
                suggestion="POST /v1/visitors makes a visitor's token of it.",
            )
        else:
            principal = self._verifier.verify(credential, self._wall_s())
        await self._check_page(principal, origin)
        return principal if origin is None else replace(principal, origin=origin)

    async def _check_page(self, principal: Principal, origin: str | None) -> None:
        if principal.key_id is not None:
            key = await self.keys.by_id(principal.tenant_id, principal.key_id)
            if key is None:
                raise revoked()
            if not admits(key, origin):
                raise wrong_page(key, origin)
            if key.origins:
                return
        if self._origins.allows(origin):
            return
        # A page with a key of its tenant may also bring that tenant's users, who have tokens of their own.
        assert origin is not None
        if not await self.keys.name_origin(origin, principal.tenant_id):
            raise Refused(
                ErrorCode.ORIGIN_NOT_ALLOWED,
                "This page's origin may not use this credential.",
                suggestion=BLOCKED,
            )


def _of_key(key: ApiKey) -> Principal:
    return Principal(
        user_id=key.user_id or f"key:{key.key_id}",
        tenant_id=key.tenant_id,
        role=key.role,
        scopes=scopes_of(key.role, frozenset(key.scopes)),
        tier=key.tier,
        expires_at=None if key.expires_at is None else key.expires_at // 1000,
        key_id=key.key_id,
        key_sha256=key.sha256,
    )
