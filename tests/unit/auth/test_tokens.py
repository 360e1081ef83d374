"""Tokens: what is taken, what is refused and how, and how long a verdict is kept."""

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ErrorCode, Refused
from server.auth.roles import ROLES, SCOPES
from server.auth.tokens import (
    CACHE_S,
    LEEWAY_S,
    MAX_TOKEN_CHARS,
    ClaimNames,
    TokenVerifier,
    Trust,
    issue_token,
)
from server.settings import Settings

NOW = 1_800_000_000
KEY = b"k" * 32
TRUST = Trust(KEY)
GOOD = {"sub": "ann", "tenant_id": "acme", "iss": "parley", "aud": "parley", "exp": NOW + 60}


def part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(
    claims: Any, header: dict[str, Any] | None = None, key: bytes = KEY, digest: str = "sha256"
) -> str:
    """Make a token by hand, so that it can be as wrong as it likes."""
    head = {"alg": "HS256", "typ": "JWT"} if header is None else header
    body = f"{part(head)}.{part(claims)}"
    return f"{body}.{part(hmac.new(key, body.encode(), digest).digest())}"


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


def verifier(**options: Any) -> TokenVerifier:
    return TokenVerifier(TRUST, **options)


def refusal(token: str, now_s: float = NOW, **options: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        verifier(**options).verify(token, now_s)
    return caught.value


def test_a_good_token_becomes_its_principal() -> None:
    principal = verifier().verify(signed({**GOOD, "role": "operator", "tier": "premium"}), NOW)
    assert (principal.user_id, principal.tenant_id) == ("ann", "acme")
    assert (principal.role, principal.tier, principal.expires_at) == ("operator", "premium", NOW + 60)
    assert principal.scopes == ROLES["operator"]


def test_what_is_issued_is_taken() -> None:
    token = issue_token(
        TRUST,
        user_id="ann",
        tenant_id="acme",
        role="service",
        scopes=["audit:read"],
        ttl_s=60,
        now_s=NOW + 0.7,
    )
    principal = verifier().verify(token, NOW + 59)
    assert principal.scopes == ROLES["service"] | {"audit:read"}
    assert principal.expires_at == NOW + 60


RSA = """-----BEGIN PUBLIC KEY-----
MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBANDiE2+Xi/WnO+s120NiiJhNyIButVu6
zxqlVzz0wy2j4kQVUC4ZRZD80IY+4wIiX2YxKBZKGnd2TtPkcJ/ljkUCAwEAAQ==
-----END PUBLIC KEY-----"""

BAD = {
    "empty": "",
    "no JWT": "hello",
    "an API key": "sk_0123456789abcdef0123456789abcdef",
    "two parts": signed(GOOD).rpartition(".")[0],
    "four parts": signed(GOOD) + ".x",
    "five parts, as encrypted ones have": ".".join(["a"] * 5),
    "no ASCII": signed(GOOD)[:-2] + "é",
    "lone surrogate": signed(GOOD)[:-2] + "\ud800",
    "spaces around it": f" {signed(GOOD)} ",
    "with its scheme": f"Bearer {signed(GOOD)}",
    "NUL": signed(GOOD) + "\0",
    "too long": "x" * (MAX_TOKEN_CHARS + 1),
    "header no JSON": f"{part(b'{')}.{part(GOOD)}.x",
    "header no object": f"{part([1])}.{part(GOOD)}.x",
    "header nested deep": f"{part(b'[' * 3000)}.{part(GOOD)}.x",
    "claims no JSON": signed(b"{"),
    "claims no object": signed([1]),
    "claims a text": signed("ann"),
    "claims nested deep": signed(b'{"a":' + b"[" * 1500 + b"]" * 1500 + b"}"),
    "claims no UTF-8": signed(b'{"sub":"\xff"}'),
    "no algorithm": signed(GOOD, {"typ": "JWT"}),
    "algorithm none": f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(GOOD)}.",
    "algorithm None": f"{part({'alg': 'None', 'typ': 'JWT'})}.{part(GOOD)}.",
    "algorithm nOnE, signed": signed(GOOD, {"alg": "nOnE", "typ": "JWT"}),
    "algorithm HS512": signed(GOOD, {"alg": "HS512", "typ": "JWT"}, digest="sha512"),
    "algorithm RS256": signed(GOOD, {"alg": "RS256", "typ": "JWT"}),
    "algorithm in lower case": signed(GOOD, {"alg": "hs256", "typ": "JWT"}),
    "algorithm a list": signed(GOOD, {"alg": ["HS256"], "typ": "JWT"}),
    "type none": signed(GOOD, {"alg": "HS256", "typ": "none"}),
    "type JOSE": signed(GOOD, {"alg": "HS256", "typ": "JOSE"}),
    "type a number": signed(GOOD, {"alg": "HS256", "typ": 1}),
    "unknown critical extension": signed(GOOD, {"alg": "HS256", "typ": "JWT", "crit": ["x"], "x": 1}),
    "unencoded payload": signed(GOOD, {"alg": "HS256", "typ": "JWT", "b64": False, "crit": ["b64"]}),
    "known critical extension": signed(GOOD, {"alg": "HS256", "typ": "JWT", "b64": True, "crit": ["b64"]}),
    "another key": signed(GOOD, key=b"x" * 32),
    "signed with a public key": signed(GOOD, key=RSA.encode()),
    "key in its own header": signed(
        GOOD, {"alg": "HS256", "typ": "JWT", "jwk": {"kty": "oct", "k": part(b"x" * 32)}}, b"x" * 32
    ),
    "key named by path": signed(GOOD, {"alg": "HS256", "typ": "JWT", "kid": "/dev/null"}, b""),
    "no signature": f"{signed(GOOD).rpartition('.')[0]}.",
    "signature of other claims": f"{part({'alg': 'HS256'})}.{part({**GOOD, 'sub': 'root'})}."
    + signed(GOOD).rpartition(".")[2],
    "no end": signed(without("exp")),
    "end null": signed({**GOOD, "exp": None}),
    "end a text": signed({**GOOD, "exp": str(NOW + 60)}),
    "end true": signed({**GOOD, "exp": True}),
    "end negative": signed({**GOOD, "exp": -1}),
    "end infinite": signed(b'{"sub":"a","tenant_id":"t","iss":"parley","aud":"parley","exp":1e999}'),
    "end not a number": signed(b'{"sub":"a","tenant_id":"t","iss":"parley","aud":"parley","exp":NaN}'),
    "end too far": signed({**GOOD, "exp": 2**60}),
    "not yet": signed({**GOOD, "nbf": NOW + LEEWAY_S + 1}),
    "not before a text": signed({**GOOD, "nbf": "soon"}),
    "no user": signed(without("sub")),
    "user empty": signed({**GOOD, "sub": "  "}),
    "user too long": signed({**GOOD, "sub": "x" * 129}),
    "user a number": signed({**GOOD, "sub": 7}),
    "user with a line break": signed({**GOOD, "sub": "a\nb"}),
    "user with an escape": signed({**GOOD, "sub": "a\x1b[31mb"}),
    "user turned around": signed({**GOOD, "sub": "a\u202eb"}),
    "no issuer": signed(without("iss")),
    "another issuer": signed({**GOOD, "iss": "https://evil.example"}),
    "issuer in a list": signed({**GOOD, "iss": ["parley"]}),
    "no audience": signed(without("aud")),
    "another audience": signed({**GOOD, "aud": "shop"}),
    "other audiences": signed({**GOOD, "aud": ["shop", "parley2"]}),
    "audience an object": signed({**GOOD, "aud": {"parley": 1}}),
    "no tenant": signed(without("tenant_id")),
    "tenant empty": signed({**GOOD, "tenant_id": ""}),
    "tenant with a slash": signed({**GOOD, "tenant_id": "a/b"}),
    "tenant of everybody": signed({**GOOD, "tenant_id": "*"}),
    "tenant an operator": signed({**GOOD, "tenant_id": {"$ne": ""}}),
    "tenant too long": signed({**GOOD, "tenant_id": "x" * 101}),
    "tenant with a line break": signed({**GOOD, "tenant_id": "acme\n"}),
}


@pytest.mark.parametrize("token", BAD.values(), ids=BAD)
def test_a_bad_token_is_unauthorized_with_a_reason_and_without_an_echo(token: str) -> None:
    refused = refusal(token)
    assert refused.code is ErrorCode.UNAUTHORIZED
    assert refused.message.endswith(".")
    assert refused.suggestion
    if len(token) > 20:
        assert token[:20] not in str(refused.to_wire())


def test_an_expired_token_is_told_from_a_bad_one() -> None:
    token = signed(GOOD)
    assert verifier().verify(token, NOW + 60 + LEEWAY_S - 0.001)
    assert refusal(token, NOW + 60 + LEEWAY_S).code is ErrorCode.TOKEN_EXPIRED


@pytest.mark.parametrize("wrong", [{"aud": "x"}, {"iss": "x"}, {"sub": ""}, {"tenant_id": "a b"}])
def test_a_token_that_is_bad_and_expired_is_bad(wrong: dict[str, str]) -> None:
    assert refusal(signed({**GOOD, **wrong}), NOW + 999).code is ErrorCode.UNAUTHORIZED


def test_a_clock_may_be_a_little_behind() -> None:
    assert verifier().verify(signed({**GOOD, "nbf": NOW + LEEWAY_S}), NOW)


@pytest.mark.parametrize(
    "header", [{"alg": "HS256"}, {"alg": "HS256", "typ": "jwt"}, {"alg": "HS256", "typ": "at+jwt"}]
)
def test_a_missing_type_and_access_tokens_are_taken(header: dict[str, str]) -> None:
    assert verifier().verify(signed(GOOD, header), NOW)


def test_one_of_several_audiences_is_enough() -> None:
    assert verifier().verify(signed({**GOOD, "aud": ["shop", "parley"]}), NOW)


def test_an_emptied_issuer_or_audience_is_not_asked_for() -> None:
    trust = Trust(KEY, issuer="", audience="")
    claims = {"sub": "ann", "tenant_id": "acme", "exp": NOW + 1}
    assert TokenVerifier(trust).verify(signed(claims), NOW)
    assert TokenVerifier(trust).verify(signed({**claims, "iss": "x", "aud": "y"}), NOW)


def test_a_short_key_is_refused_before_any_token() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Trust(b"k" * 31)


def test_a_token_without_tenant_gets_the_default_one() -> None:
    assert verifier(default_tenant="home").verify(signed(without("tenant_id")), NOW).tenant_id == "home"
    assert verifier(default_tenant="home").verify(signed(GOOD), NOW).tenant_id == "acme"


def test_the_user_is_trimmed() -> None:
    assert verifier().verify(signed({**GOOD, "sub": " ann "}), NOW).user_id == "ann"


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": "conversations:read audit:read"}, {"conversations:read", "audit:read"}),
        ({"scopes": ["conversations:read"]}, {"conversations:read"}),
        ({"permissions": ["flows:read", 7, None, "no:such"]}, {"flows:read"}),
        ({"scope": "openid profile email"}, set()),
        ({"scope": "", "scopes": ["admin"]}, set()),
        ({"scope": 7, "scopes": ["flows:read"]}, {"flows:read"}),
        ({"scope": {"admin": True}}, set()),
        ({"scopes": "admin"}, {"admin"}),
        ({}, set()),
    ],
)
def test_scopes_are_read_from_the_first_claim_that_has_them(claims: dict[str, Any], scopes: set[str]) -> None:
    assert verifier().verify(signed({**GOOD, **claims}), NOW).scopes == scopes


@pytest.mark.parametrize("role", ["editor", "Admin", "", 7, None, ["admin"], {"a": 1}])
def test_a_role_that_is_not_ours_is_a_user_without_scopes(role: Any) -> None:
    principal = verifier().verify(signed({**GOOD, "role": role}), NOW)
    assert (principal.role, principal.scopes) == ("user", frozenset())


@pytest.mark.parametrize("tier", ["gold", 7, None, ["premium"]])
def test_an_unknown_tier_is_standard(tier: Any) -> None:
    assert verifier().verify(signed({**GOOD, "tier": tier}), NOW).tier == "standard"


def test_the_names_of_claims_are_settings() -> None:
    settings = Settings(
        jwt_secret=KEY.decode(),
        jwt_issuer="https://idp.example",
        jwt_audience="",
        jwt_claim_user="email",
        jwt_claim_tenant="https://idp.example/org",
        jwt_claim_role="r",
        jwt_claim_tier="t",
        jwt_claim_scopes=("perms",),
    )
    claims = {
        "email": "a@b.c",
        "https://idp.example/org": "acme",
        "r": "admin",
        "t": "free",
        "perms": ["flows:read"],
        "iss": "https://idp.example",
        "exp": NOW + 1,
    }
    principal = TokenVerifier.from_settings(settings).verify(signed(claims), NOW)
    assert (principal.user_id, principal.tenant_id, principal.tier) == ("a@b.c", "acme", "free")
    assert principal.scopes == {"admin", "flows:read"}


def test_issued_tokens_use_the_same_names() -> None:
    names = ClaimNames(user="email", tenant="org", role="r", tier="t", scopes=("perms", "scope"))
    token = issue_token(
        TRUST,
        user_id="u",
        tenant_id="x",
        scopes=["flows:read"],
        tier="free",
        ttl_s=9,
        now_s=NOW,
        claims=names,
    )
    principal = TokenVerifier(TRUST, claims=names).verify(token, NOW)
    assert (principal.user_id, principal.tenant_id, principal.tier) == ("u", "x", "free")
    assert principal.scopes == {"flows:read"}
    claims = jwt.decode(token, options={"verify_signature": False})
    assert "sub" not in claims


def test_a_verdict_is_kept_and_found_again() -> None:
    kept = verifier()
    token = signed({**GOOD, "exp": NOW + 9999})
    assert kept.verify(token, NOW) is kept.verify(token, NOW + CACHE_S - 1)


def test_a_verdict_is_made_anew_after_five_minutes() -> None:
    kept = verifier()
    token = signed({**GOOD, "exp": NOW + 9999})
    assert kept.verify(token, NOW) is not kept.verify(token, NOW + CACHE_S)


def test_a_kept_verdict_does_not_outlive_its_token() -> None:
    kept = verifier()
    token = signed(GOOD)
    kept.verify(token, NOW)
    with pytest.raises(Refused) as caught:
        kept.verify(token, NOW + 60 + LEEWAY_S)
    assert caught.value.code is ErrorCode.TOKEN_EXPIRED


def test_a_clock_that_was_set_back_uses_no_verdict_from_the_future() -> None:
    kept = verifier()
    token = signed({**GOOD, "nbf": NOW, "exp": NOW + 9999})
    kept.verify(token, NOW)
    with pytest.raises(Refused):
        kept.verify(token, NOW - 3600)


def test_as_many_verdicts_are_kept_as_allowed_and_the_least_used_goes_first() -> None:
    kept = verifier(cache_entries=2)
    tokens = [signed({**GOOD, "sub": name, "exp": NOW + 9999}) for name in "abc"]
    first, second = (kept.verify(token, NOW) for token in tokens[:2])
    assert kept.verify(tokens[0], NOW) is first
    kept.verify(tokens[2], NOW)
    assert kept.verify(tokens[0], NOW) is first
    assert kept.verify(tokens[1], NOW) is not second


def test_bad_tokens_are_not_kept() -> None:
    kept = verifier(cache_entries=1)
    token = signed({**GOOD, "exp": NOW + 9999})
    principal = kept.verify(token, NOW)
    for bad in list(BAD.values())[:20]:
        with pytest.raises(Refused):
            kept.verify(bad, NOW)
    assert kept.verify(token, NOW) is principal


@given(st.text(max_size=300))
def test_any_text_is_refused_and_raises_nothing_else(text: str) -> None:
    assert refusal(text).code is ErrorCode.UNAUTHORIZED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(["sub", "tenant_id", "role", "scope", "tier", "exp", "nbf", "iss", "aud"]), JSON
    )
)
def test_any_claims_give_a_sound_principal_or_a_refusal(claims: dict[str, Any]) -> None:
    try:
        principal = verifier().verify(signed({**GOOD, **claims}), NOW)
    except Refused:
        return
    assert 1 <= len(principal.user_id) <= 128
    assert principal.user_id.isprintable()
    assert principal.role in ROLES
    assert principal.scopes <= SCOPES
    assert principal.expires_at is not None


@given(st.integers(0, 2**16), st.integers(1, 255))
def test_no_flipped_bit_anywhere_is_taken(position: int, flip: int) -> None:
    token = bytearray(signed(GOOD).encode())
    index = position % len(token)
    token[index] = (token[index] ^ flip) & 0x7F or 0x41
    changed = token.decode()
    if changed.split(".")[:2] == signed(GOOD).split(".")[:2]:
        # The last character of a signature has bits that encode nothing.
        def raw(text: str) -> bytes:
            return base64.urlsafe_b64decode(text.rpartition(".")[2] + "==")

        if index == len(token) - 1 and changed[-1].isalnum() and raw(changed) == raw(signed(GOOD)):
            return
    if changed != signed(GOOD):
        assert refusal(changed).code is ErrorCode.UNAUTHORIZED


def test_the_digest_of_a_token_is_all_that_is_kept_of_it() -> None:
    kept = verifier()
    token = signed(GOOD)
    kept.verify(token, NOW)
    assert token not in repr(vars(kept))
    assert hashlib.sha256(token.encode()).digest() in vars(kept)["_cache"]
