"""What every presence owes: the same tests over the one in the process and the one over Redis."""

import pytest

from storage.base import Presence, Present, Shared


@pytest.fixture
def presence(shared: Shared) -> Presence:
    return shared.presence


async def test_who_is_connected_is_told_with_the_number_of_connections(presence: Presence) -> None:
    for user_id in ("u2", "u1", "u2"):
        presence.enter("acme", "c1", user_id)
    assert await presence.present("acme", "c1") == [Present("u1", 1), Present("u2", 2)]
    presence.leave("acme", "c1", "u2")
    presence.leave("acme", "c1", "u1")
    assert await presence.present("acme", "c1") == [Present("u2", 1)]
    presence.leave("acme", "c1", "u2")
    assert await presence.present("acme", "c1") == []


async def test_conversations_and_tenants_are_apart(presence: Presence) -> None:
    presence.enter("acme", "c1", "u1")
    assert await presence.present("acme", "c2") == []
    assert await presence.present("other", "c1") == []


async def test_who_leaves_without_having_come_changes_nothing(presence: Presence) -> None:
    presence.enter("acme", "c1", "u1")
    presence.leave("acme", "c1", "u2")
    presence.leave("acme", "c2", "u1")
    assert await presence.present("acme", "c1") == [Present("u1", 1)]
    assert await presence.present("acme", "c2") == []
