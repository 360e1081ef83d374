"""Tokens of visitors: people without an account, whose user id lives in their token."""

import secrets
from dataclasses import dataclass
from typing import Final

from protocol.errors import ErrorCode, Refused
from server.auth.principal import Principal
from server.auth.tokens import ClaimNames, TokenVerifier, Trust, claim_names_of, issue_token, trust_of
from server.settings import Settings
from storage.models import ApiKey

TTL_S: Final = 3600
"""How long a token is good that was made without a key, in development."""
KEY_TTL_S: Final = 900
"""How long one is good that was made with a key: a page asks for the next by itself."""
RENEWABLE_S: Final = 30 * 24 * 3600
"""How long after its end a visitor's token may still be exchanged for a fresh one."""

_ROLE = "visitor"


@dataclass(frozen=True, slots=True)
class Terms:
    """Whose visitors they are, and for how long their tokens are good (seconds).

    ``key_id``: the key that the tokens are made with; when it is revoked, they are good no more.
    """

    tenant_id: str
    ttl_s: int = TTL_S
    key_id: str | None = None
    tier: str | None = None

    @classmethod
    def of_key(cls, key: ApiKey) -> "Terms":
        """Return the terms of a publishable key."""
        return cls(key.tenant_id, KEY_TTL_S, key.key_id, key.tier)


@dataclass(frozen=True, slots=True)
class Visitor:
    """A visitor's fresh credential; ``expires_in`` is in seconds."""

    token: str
    user_id: str
    expires_in: int


class Visitors:
    """Makes and renews visitors' tokens.

    Args:
        trust: what the tokens are signed with.
        claims: what the claims are called.
    """

    def __init__(self, trust: Trust, *, claims: ClaimNames | None = None) -> None:
        self._trust = trust
        self._claims = claims or ClaimNames()
        self._verifier = TokenVerifier(trust, claims=self._claims)

    @classmethod
    def from_settings(cls, settings: Settings) -> "Visitors":
        """Make it as ``settings`` say; they must have a ``jwt_secret``."""
        return cls(trust_of(settings), claims=claim_names_of(settings))

    def make(self, terms: Terms, now_s: float) -> Visitor:
        """Return a new visitor; the user id is 128 random bits."""
        return self._issue(terms, f"visitor-{secrets.token_hex(16)}", now_s)

    def renew(self, terms: Terms, token: str, now_s: float) -> Visitor:
        """Exchange a visitor's token, expired for at most 30 days, for a fresh one of the same user.

        It need not have been made with the same key: who replaces a key keeps the visitors.

        Raises:
            Refused: ``token_expired`` beyond that; ``unauthorized`` if it is not this tenant's visitor.
        """
        principal = self._verify_lately(token, now_s)
        if principal.role != _ROLE or principal.tenant_id != terms.tenant_id or principal.scopes:
            raise Refused(ErrorCode.UNAUTHORIZED, "Only a visitor's token of this tenant can be renewed.")
        return self._issue(terms, principal.user_id, now_s)

    def _verify_lately(self, token: str, now_s: float) -> Principal:
        """Verify as of now, or as of 30 days ago: whichever the token's end asks for."""
        try:
            return self._verifier.verify(token, now_s)
        except Refused as refused:
            if refused.code is not ErrorCode.TOKEN_EXPIRED:
                raise
        return self._verifier.verify(token, now_s - RENEWABLE_S)

    def _issue(self, terms: Terms, user_id: str, now_s: float) -> Visitor:
        token = issue_token(
            self._trust,
            user_id=user_id,
            tenant_id=terms.tenant_id,
            role=_ROLE,
            ttl_s=terms.ttl_s,
            now_s=now_s,
            tier=terms.tier,
            key_id=terms.key_id,
            claims=self._claims,
        )
        return Visitor(token, user_id, terms.ttl_s)
