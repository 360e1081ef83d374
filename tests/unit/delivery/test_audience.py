"""Who sees what."""

from typing import Any

import pytest

from server.auth.principal import Principal
from server.delivery.audience import audience_of, event_view, turn_view
from storage.models import Audience, Conversation, Event

RECORD = Conversation("t1", "c1", "u1", "e1")
TURN: dict[str, Any] = {
    "conversation_id": "c1",
    "current_state": "idle",
    "response": {"messages": []},
    "context_updates": {"slots": {"email": "a@b"}, "variables": {"shown": 1}},
    "actions_performed": [{"name": "shop.buy"}],
}


def principal(user: str = "x", *scopes: str, tenant: str = "t1") -> Principal:
    return Principal(user, tenant, scopes=frozenset(scopes))


def event(type_: str, audience: Audience = "owner", **data: object) -> Event:
    return Event(7, 0, type_, None, None, None, None, data, audience)


@pytest.mark.parametrize(
    ("who", "audience"),
    [
        (principal("u1"), "owner"),
        (principal("u2"), None),
        (principal("u2", "conversations:read"), "agent"),
        (principal("u2", "conversations:write"), "agent"),
        (principal("u2", "conversations:inspect"), "full"),
        (principal("u2", "admin"), "full"),
        (principal("u1", "conversations:read"), "owner"),
        (principal("u1", "conversations:inspect"), "full"),
        (principal("u2", "users:act", "flows:write"), None),
        (principal("u1", tenant="t2"), None),
        (principal("u1", "admin", tenant="t2"), None),
    ],
)
def test_a_principal_sees_as_the_widest_audience_it_belongs_to(who: Principal, audience: str | None) -> None:
    assert audience_of(who, RECORD) == audience


def test_nobody_owns_a_conversation_without_a_user() -> None:
    headless = Conversation("t1", "c1", None, "e1")
    assert audience_of(principal("u1"), headless) is None
    assert audience_of(principal("u1", "conversations:read"), headless) == "agent"


@pytest.mark.parametrize(
    ("least", "seen_by"),
    [("owner", {"owner", "agent", "full"}), ("agent", {"agent", "full"}), ("full", {"full"})],
)
def test_an_event_is_seen_by_its_least_audience_and_those_above(least: Audience, seen_by: set[str]) -> None:
    audiences: tuple[Audience, ...] = ("owner", "agent", "full")
    assert {a for a in audiences if event_view(event("x.y", least), a) is not None} == seen_by


def test_an_event_on_the_wire_has_its_eight_fields_and_no_audience() -> None:
    view = event_view(event("message.completed", text="hi"), "owner")
    assert view == {
        "type": "message.completed",
        "offset": 7,
        "time": "1970-01-01T00:00:00.000Z",
        "execution_id": None,
        "step_id": None,
        "command_id": None,
        "cause": None,
        "data": {"text": "hi"},
    }


def test_an_agent_never_sees_slots() -> None:
    assert event_view(event("slots.updated", slots={"email": "a@b"}), "agent") is None
    assert event_view(event("slots.updated", slots={"email": "a@b"}), "owner") is not None
    assert turn_view(TURN, "agent")["context_updates"] == {"slots": {}, "variables": {"shown": 1}}
    assert turn_view(TURN, "owner")["context_updates"]["slots"] == {"email": "a@b"}


def test_only_full_sees_which_actions_ran() -> None:
    assert turn_view(TURN, "owner")["actions_performed"] == []
    assert turn_view(TURN, "agent")["actions_performed"] == []
    assert turn_view(TURN, "full")["actions_performed"] == [{"name": "shop.buy"}]


def test_filtering_leaves_the_event_itself_alone() -> None:
    turn = event("turn.completed", "owner", **TURN)
    event_view(turn, "agent")
    assert turn.data == TURN


def test_the_owner_sees_requests_for_nobody_in_particular_and_for_themselves() -> None:
    requests = [{"id": 1, "by": None}, {"id": 2, "by": {"user": "u1"}}, {"id": 3, "by": {"scope": "s"}}]
    waiting = event("execution.waiting", pending=requests)

    def seen(audience: Audience) -> list[int]:
        view = event_view(waiting, audience, "u1")
        assert view is not None
        return [request["id"] for request in view["data"]["pending"]]

    assert seen("owner") == [1, 2]
    assert seen("agent") == [1, 2, 3]
    assert seen("full") == [1, 2, 3]
