"""Tokens of visitors: people without an account, whose user id lives in their token."""

import secrets
from dataclasses import dataclass
from typing import Final

from protocol.errors import ErrorCode, Refused
from server.auth.principal import Principal
from server.auth.tokens import ClaimNames, TokenVerifier, Trust, claim_names_of, issue_token, trust_of
from server.settings import Settings

TTL_S: Final = 3600
RENEWABLE_S: Final = 30 * 24 * 3600
"""How long after its end a visitor's token may still be exchanged for a fresh one."""

_ROLE = "visitor"


@dataclass(frozen=True, slots=True)
class Visitor:
    """A visitor's fresh credential; ``expires_in`` is in seconds."""

    token: str
    user_id: str
    expires_in: int


class Visitors:
    """Makes and renews visitor tokens of one tenant.

    Args:
        trust: what the tokens are signed with.
        tenant_id: the tenant whose visitors they are.
        claims: what the claims are called.
        ttl_s: how long a token is good, in seconds.
    """

    def __init__(
        self, trust: Trust, tenant_id: str, *, claims: ClaimNames | None = None, ttl_s: int = TTL_S
    ) -> None:
        self._trust = trust
        self._tenant_id = tenant_id
        self._claims = claims or ClaimNames()
        self._ttl_s = ttl_s
        self._verifier = TokenVerifier(trust, default_tenant=tenant_id, claims=self._claims)

    @classmethod
    def from_settings(cls, settings: Settings, tenant_id: str) -> "Visitors":
        """Make it as ``settings`` say; they must have a ``jwt_secret``."""
        return cls(trust_of(settings), tenant_id, claims=claim_names_of(settings))

    def make(self, now_s: float) -> Visitor:
        """Return a new visitor; the user id is 128 random bits."""
        return self._issue(f"visitor-{secrets.token_hex(16)}", now_s)

    def renew(self, token: str, now_s: float) -> Visitor:
        """Exchange a visitor's token, expired for at most 30 days, for a fresh one of the same user.

        Raises:
            Refused: ``token_expired`` beyond that; ``unauthorized`` if it is not this tenant's visitor.
        """
        principal = self._verify_lately(token, now_s)
        if principal.role != _ROLE or principal.tenant_id != self._tenant_id or principal.scopes:
            raise Refused(ErrorCode.UNAUTHORIZED, "Only a visitor's token of this tenant can be renewed.")
        return self._issue(principal.user_id, now_s)

    def _verify_lately(self, token: str, now_s: float) -> Principal:
        """Verify as of now, or as of 30 days ago: whichever the token's end asks for."""
        try:
            return self._verifier.verify(token, now_s)
        except Refused as refused:
            if refused.code is not ErrorCode.TOKEN_EXPIRED:
                raise
        return self._verifier.verify(token, now_s - RENEWABLE_S)

    def _issue(self, user_id: str, now_s: float) -> Visitor:
        token = issue_token(
            self._trust,
            user_id=user_id,
            tenant_id=self._tenant_id,
            role=_ROLE,
            ttl_s=self._ttl_s,
            now_s=now_s,
            claims=self._claims,
        )
        return Visitor(token, user_id, self._ttl_s)
