"""Visitors: a user id that lives in its token, and may be carried on for 30 days."""

import pytest

from protocol.errors import ErrorCode, Refused
from server.auth.tokens import LEEWAY_S, TokenVerifier, Trust, issue_token
from server.auth.visitors import RENEWABLE_S, TTL_S, Terms, Visitors
from server.settings import Settings

NOW = 1_800_000_000
TRUST = Trust(b"k" * 32)
VISITORS = Visitors(TRUST)
TERMS = Terms("acme")


def refusal(token: str, now_s: float, visitors: Visitors = VISITORS) -> ErrorCode:
    with pytest.raises(Refused) as caught:
        visitors.renew(TERMS, token, now_s)
    return caught.value.code


def issued(**changes: str) -> str:
    values = {"user_id": "u", "tenant_id": "acme", "role": "visitor", **changes}
    return issue_token(TRUST, ttl_s=60, now_s=NOW, **values)  # type: ignore[arg-type]


def test_a_visitors_token_is_taken_and_has_no_scopes() -> None:
    visitor = VISITORS.make(TERMS, NOW)
    principal = TokenVerifier(TRUST).verify(visitor.token, NOW)
    assert (principal.user_id, principal.tenant_id, principal.role) == (visitor.user_id, "acme", "visitor")
    assert principal.scopes == frozenset()
    assert principal.expires_at == NOW + visitor.expires_in


def test_two_visitors_are_two_users() -> None:
    assert VISITORS.make(TERMS, NOW).user_id != VISITORS.make(TERMS, NOW).user_id


@pytest.mark.parametrize("age_s", [0, TTL_S - 1, TTL_S + LEEWAY_S, TTL_S + RENEWABLE_S])
def test_a_token_is_renewed_for_the_same_user_until_30_days_after_its_end(age_s: int) -> None:
    visitor = VISITORS.make(TERMS, NOW)
    renewed = VISITORS.renew(TERMS, visitor.token, NOW + age_s)
    assert renewed.user_id == visitor.user_id
    assert TokenVerifier(TRUST).verify(renewed.token, NOW + age_s).expires_at == NOW + age_s + TTL_S


def test_a_token_older_than_that_is_expired() -> None:
    visitor = VISITORS.make(TERMS, NOW)
    assert refusal(visitor.token, NOW + TTL_S + RENEWABLE_S + LEEWAY_S) is ErrorCode.TOKEN_EXPIRED


def test_a_renewed_token_can_be_renewed_again() -> None:
    visitor, now = VISITORS.make(TERMS, NOW), NOW
    for _ in range(5):
        now += TTL_S + RENEWABLE_S - 1
        visitor = VISITORS.renew(TERMS, visitor.token, now)
    assert visitor.user_id == VISITORS.renew(TERMS, visitor.token, now).user_id


@pytest.mark.parametrize("now_s", [NOW, NOW + 3600])
@pytest.mark.parametrize(
    "token",
    [
        issued(role="user"),
        issued(role="admin"),
        issued(tenant_id="other"),
        issue_token(
            TRUST, user_id="u", tenant_id="acme", role="visitor", scopes=["admin"], ttl_s=60, now_s=NOW
        ),
        issue_token(Trust(b"x" * 32), user_id="u", tenant_id="acme", role="visitor", ttl_s=60, now_s=NOW),
        "hello",
    ],
    ids=["user", "admin", "other tenant", "with scopes", "other key", "no token"],
)
def test_nothing_but_this_tenants_visitors_is_renewed(token: str, now_s: int) -> None:
    assert refusal(token, now_s) is ErrorCode.UNAUTHORIZED


def test_settings_name_the_claims() -> None:
    settings = Settings(jwt_secret="k" * 32, jwt_claim_tenant="org", jwt_issuer="x")
    visitor = Visitors.from_settings(settings).make(TERMS, NOW)
    assert TokenVerifier.from_settings(settings).verify(visitor.token, NOW).tenant_id == "acme"


def test_a_token_names_the_key_that_it_was_made_with() -> None:
    visitor = VISITORS.make(Terms("acme", 900, "key_1", "free"), NOW)
    principal = TokenVerifier(TRUST).verify(visitor.token, NOW)
    assert (principal.key_id, principal.tier, principal.expires_at) == ("key_1", "free", NOW + 900)
    assert "key_1" not in str(principal.to_wire())


def test_a_visitor_is_renewed_with_another_key_of_the_tenant() -> None:
    visitor = VISITORS.make(Terms("acme", key_id="key_1"), NOW)
    renewed = VISITORS.renew(Terms("acme", key_id="key_2"), visitor.token, NOW)
    assert renewed.user_id == visitor.user_id
    assert TokenVerifier(TRUST).verify(renewed.token, NOW).key_id == "key_2"
    with pytest.raises(Refused):
        VISITORS.renew(Terms("other", key_id="key_3"), visitor.token, NOW)
