"""Bearer tokens: from the text of a JWT to a ``Principal``, and back for ``parley token`` and dev.

What is trusted is fixed before any token is looked at: an issuer has one algorithm and one key
(``Trust``), and nothing in a token's header chooses either (RFC 8725, 3.1). Today there is one trust, a
shared secret; keys of an identity provider will be further trusts, told apart by the ``iss`` claim.

Not here: revocation, API keys, and who may see what (``roles``, ``delivery.audience``).
"""

import hashlib
import math
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt
import orjson
from jwt.api_jws import PyJWS

from protocol.errors import ErrorCode, Refused
from server.auth.principal import Principal
from server.auth.roles import ROLES, TIERS, scopes_of
from server.settings import MIN_SECRET_BYTES, Settings

MAX_TOKEN_CHARS: Final = 8192
LEEWAY_S: Final = 5
"""How far the clocks of issuer and server may differ, in seconds."""
CACHE_S: Final = 300
CACHE_ENTRIES: Final = 10_000

_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})  # RFC 7519, 5.1; RFC 9068, 2.1
KEY_CLAIM: Final = "parley_key"
"""Id of the API key that a visitor's token was made with. Its name is no setting: nobody else writes it."""

_TENANT = re.compile(r"[A-Za-z0-9_-]{1,100}")
_MAX_USER_CHARS = 128
_HOW_TO = "`parley token --user U` makes a token that this server takes."


@dataclass(frozen=True, slots=True)
class ClaimNames:
    """What the claims are called; of ``scopes`` the first that a token has counts."""

    user: str = "sub"
    tenant: str = "tenant_id"
    role: str = "role"
    tier: str = "tier"
    scopes: tuple[str, ...] = ("scope", "scopes", "permissions")


@dataclass(frozen=True, slots=True)
class Trust:
    """An issuer that is believed, and the one algorithm and key that its tokens are signed with.

    ``issuer`` and ``audience`` empty: the claim is not required and not looked at.
    """

    key: bytes
    issuer: str = "parley"
    audience: str = "parley"
    algorithm: str = "HS256"

    def __post_init__(self) -> None:
        if len(self.key) < MIN_SECRET_BYTES:
            raise ValueError(f"a key of at least {MIN_SECRET_BYTES} bytes is needed")


class TokenVerifier:
    """Verifies tokens. A verdict is kept for at most five minutes and never beyond the token's end.

    Only good verdicts are kept, by the SHA-256 of the token, the least recently used falling out first;
    so neither a flood of bad tokens nor one of good ones grows it.

    Args:
        trust: the issuer that is believed.
        default_tenant: tenant of tokens that name none; None refuses them.
        claims: what the claims are called.
        cache_entries: how many verdicts are kept.
    """

    def __init__(
        self,
        trust: Trust,
        *,
        default_tenant: str | None = None,
        claims: ClaimNames | None = None,
        cache_entries: int = CACHE_ENTRIES,
    ) -> None:
        self._trust = trust
        self._default_tenant = default_tenant
        self._claims = claims or ClaimNames()
        self._cache_entries = cache_entries
        self._cache: OrderedDict[bytes, tuple[Principal, float, float]] = OrderedDict()
        self._jws = PyJWS(algorithms=[trust.algorithm])

    @classmethod
    def from_settings(cls, settings: Settings) -> "TokenVerifier":
        """Make the verifier that ``settings`` describe; they must have a ``jwt_secret``."""
        return cls(
            trust_of(settings), default_tenant=settings.default_tenant, claims=claim_names_of(settings)
        )

    def verify(self, token: str, now_s: float) -> Principal:
        """Return whose token it is.

        Args:
            token: the JWT in compact form, without ``Bearer``.
            now_s: seconds since the epoch.

        Raises:
            Refused: ``unauthorized``, or ``token_expired`` where nothing but the time is wrong.
        """
        if len(token) > MAX_TOKEN_CHARS:
            raise _unauthorized(
                "The token is too long.", f"A token has at most {MAX_TOKEN_CHARS} characters."
            )
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        cached = self._cache.get(digest)
        if cached is not None and cached[1] <= now_s < cached[2]:
            self._cache.move_to_end(digest)
            return cached[0]
        principal = self._principal(self.claims(token), now_s)
        self._keep(digest, principal, now_s)
        return principal

    def claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a token whose signature, type, issuer and audience are right.

        Times are not looked at; ``verify`` does that, and a visitor's renewal in its own way.

        Raises:
            Refused: ``unauthorized``.
        """
        trust = self._trust
        try:
            decoded = self._jws.decode_complete(
                token, trust.key, algorithms=[trust.algorithm], options={"verify_signature": True}
            )
            claims = _object(decoded["payload"])
        except jwt.InvalidSignatureError:
            raise _unauthorized("The token's signature does not match this server's secret.") from None
        except jwt.InvalidAlgorithmError:
            raise _unauthorized(f"The token must be signed with {trust.algorithm}.") from None
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise _unauthorized("The token is not a signed JWT.") from None
        _check_header(decoded["header"])
        self._check_issuer(claims)
        return claims

    def _check_issuer(self, claims: Mapping[str, Any]) -> None:
        trust = self._trust
        if trust.issuer and claims.get("iss") != trust.issuer:
            raise _unauthorized("The token's issuer (`iss`) is missing or not the one this server trusts.")
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if trust.audience and trust.audience not in audiences:
            raise _unauthorized("The token's audience (`aud`) is missing or does not name this server.")

    def _principal(self, claims: Mapping[str, Any], now_s: float) -> Principal:
        names = self._claims
        expires = _time(claims, "exp")
        if expires is None:
            raise _unauthorized("The token has no end (`exp`).")
        principal = Principal(
            user_id=_user(claims.get(names.user), names.user),
            tenant_id=self._tenant(claims),
            role=_role(claims.get(names.role)),
            scopes=scopes_of(_role(claims.get(names.role)), _granted(claims, names.scopes)),
            tier=_tier(claims.get(names.tier)),
            expires_at=math.floor(expires),
            key_id=_key_id(claims),
        )
        not_before = _time(claims, "nbf")
        if not_before is not None and now_s < not_before - LEEWAY_S:
            raise _unauthorized("The token is not valid yet (`nbf`).")
        if now_s >= expires + LEEWAY_S:
            raise Refused(ErrorCode.TOKEN_EXPIRED, "The token has expired.", suggestion="Send a fresh one.")
        return principal

    def _tenant(self, claims: Mapping[str, Any]) -> str:
        tenant = claims.get(self._claims.tenant)
        if tenant is None:
            tenant = self._default_tenant
            if tenant is None:
                raise _unauthorized(
                    f"The token names no tenant (`{self._claims.tenant}`).",
                    "Put the claim into the token, or set PARLEY_DEFAULT_TENANT on the server.",
                )
        if not isinstance(tenant, str) or _TENANT.fullmatch(tenant) is None:
            raise _unauthorized(f"The token's `{self._claims.tenant}` is not 1 to 100 of A-Z a-z 0-9 _ -.")
        return tenant

    def _keep(self, digest: bytes, principal: Principal, now_s: float) -> None:
        assert principal.expires_at is not None
        until = min(now_s + CACHE_S, principal.expires_at)
        if until > now_s:
            self._cache[digest] = (principal, now_s, until)
            self._cache.move_to_end(digest)
        while len(self._cache) > self._cache_entries:
            self._cache.popitem(last=False)


def issue_token(
    trust: Trust,
    *,
    user_id: str,
    tenant_id: str | None,
    role: str = "user",
    scopes: Iterable[str] = (),
    ttl_s: int,
    now_s: float,
    tier: str | None = None,
    key_id: str | None = None,
    claims: ClaimNames | None = None,
) -> str:
    """Return a token that a ``TokenVerifier`` of the same ``trust`` takes until ``now_s + ttl_s``."""
    names = claims or ClaimNames()
    issued = math.floor(now_s)
    payload: dict[str, Any] = {names.user: user_id, "iat": issued, "exp": issued + ttl_s, names.role: role}
    granted = " ".join(sorted(scopes))
    optional = {
        "iss": trust.issuer,
        "aud": trust.audience,
        names.tenant: tenant_id,
        names.tier: tier,
        names.scopes[0]: granted,
        KEY_CLAIM: key_id,
    }
    payload |= {name: value for name, value in optional.items() if value}
    return jwt.encode(payload, trust.key, algorithm=trust.algorithm)


def trust_of(settings: Settings) -> Trust:
    """Return the trust that ``settings`` describe; they must have a ``jwt_secret``."""
    assert settings.jwt_secret is not None
    return Trust(
        key=settings.jwt_secret.get_secret_value().encode(),
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
    )


def claim_names_of(settings: Settings) -> ClaimNames:
    """Return the names of the claims in ``settings``."""
    return ClaimNames(
        user=settings.jwt_claim_user,
        tenant=settings.jwt_claim_tenant,
        role=settings.jwt_claim_role,
        tier=settings.jwt_claim_tier,
        scopes=settings.jwt_claim_scopes,
    )


def _unauthorized(message: str, suggestion: str = _HOW_TO) -> Refused:
    return Refused(ErrorCode.UNAUTHORIZED, message, suggestion=suggestion)


def _check_header(header: Mapping[str, Any]) -> None:
    """Refuse what is no plain JWT: another type, or extensions that would have to be understood."""
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise _unauthorized("The token's type (`typ`) is not JWT.")
    if "crit" in header or "b64" in header:
        raise _unauthorized("The token asks for extensions (`crit`) that this server does not have.")


def _object(payload: bytes) -> dict[str, Any]:
    claims = orjson.loads(payload)
    if not isinstance(claims, dict):
        raise ValueError("claims are an object")
    return claims


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a NumericDate (RFC 7519, 2), None if it is not there."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 2**53:
        raise _unauthorized(f"The token's `{name}` is not a time in seconds since 1970.")
    return float(value)


def _user(value: object, name: str) -> str:
    user = value.strip() if isinstance(value, str) else ""
    if not 1 <= len(user) <= _MAX_USER_CHARS or not user.isprintable():
        raise _unauthorized(f"The token names no user: `{name}` must be 1 to 128 printable characters.")
    return user


def _role(value: object) -> str:
    """Return the role; one that is not ours (an identity provider's own word) gives a plain user."""
    return value if isinstance(value, str) and value in ROLES else "user"


def _tier(value: object) -> str:
    return value if isinstance(value, str) and value in TIERS else "standard"


def _key_id(claims: Mapping[str, Any]) -> str | None:
    key_id = claims.get(KEY_CLAIM)
    if key_id is not None and not isinstance(key_id, str):
        raise _unauthorized(f"The token's `{KEY_CLAIM}` is no key's id.")
    return key_id


def _granted(claims: Mapping[str, Any], names: Iterable[str]) -> frozenset[str]:
    for name in names:
        value = claims.get(name)
        if isinstance(value, str):
            return frozenset(value.split())
        if isinstance(value, list):
            return frozenset(item for item in value if isinstance(item, str))
    return frozenset()
