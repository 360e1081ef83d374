"""Roles are named sets of scopes."""

from server.auth.principal import Principal
from server.auth.roles import ROLES, SCOPES, scopes_of


def test_every_role_holds_scopes_that_exist() -> None:
    assert all(scopes <= SCOPES for scopes in ROLES.values())


def test_users_and_visitors_have_none() -> None:
    assert ROLES["user"] == ROLES["visitor"] == frozenset()


def test_an_admin_may_do_everything() -> None:
    admin = Principal("u", "t", scopes=scopes_of("admin", frozenset()))
    assert all(admin.may(scope) for scope in SCOPES)


def test_granted_scopes_come_on_top_and_unknown_ones_fall_away() -> None:
    granted = frozenset({"audit:read", "openid"})
    assert scopes_of("service", granted) == ROLES["service"] | {"audit:read"}
    assert scopes_of("editor", granted) == {"audit:read"}
