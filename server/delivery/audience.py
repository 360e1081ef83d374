"""Who sees what: the one filter between the log and anybody who reads it.

Three audiences (``docs/reference/protocol.md``, "Who may see and do what"): ``owner`` is the person of the
conversation, ``agent`` somebody who helps (``conversations:read|write``), ``full`` somebody who may
inspect. An event names the least of them that may see it; what is left is filtered inside ``data``.
Pure; events, acks, snapshots, history and REST all go through here.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from server.auth.principal import Principal
from server.engine.views import iso
from storage.models import Audience, Conversation, Event

_SEES: Final[Mapping[Audience, frozenset[str]]] = {
    "owner": frozenset({"owner"}),
    "agent": frozenset({"owner", "agent"}),
    "full": frozenset({"owner", "agent", "full"}),
}
_TURN_ENDS: Final = frozenset({"turn.completed", "turn.failed"})
MESSAGE_EVENTS: Final = frozenset({"message.received", "message.completed"})


def audience_of(principal: Principal, record: Conversation) -> Audience | None:
    """Return as whom ``principal`` sees ``record``, or None: for them it does not exist.

    The widest that applies counts: an owner who may inspect sees everything.
    """
    if principal.tenant_id != record.tenant_id:
        return None
    return audience_for(principal, record.user_id)


def audience_for(principal: Principal, owner: str | None) -> Audience | None:
    """Return as whom ``principal`` sees a conversation of ``owner`` in its own tenant, or None."""
    if principal.may("conversations:inspect"):
        return "full"
    if owner is not None and principal.user_id == owner:
        return "owner"
    if principal.may("conversations:read") or principal.may("conversations:write"):
        return "agent"
    return None


def event_views(
    events: Iterable[Event], audience: Audience, owner: str | None = None
) -> list[dict[str, Any]]:
    """Return those of ``events`` that ``audience`` may see, as they stand on the wire.

    ``owner`` is the conversation's user, for requests that name whom they are meant for.
    """
    sees = _SEES[audience]
    time_ms, time = -1, ""  # the events of a commit have one time
    views = []
    for event in events:
        if event.audience not in sees or (audience == "agent" and event.type == "slots.updated"):
            continue
        if event.time != time_ms:
            time_ms, time = event.time, iso(event.time)
        type_, data = event.type, event.data
        if audience != "full" and (type_ in _TURN_ENDS or "pending" in data):
            data = data_view(type_, data, audience, owner)
        views.append(
            {
                "type": type_,
                "offset": event.offset,
                "time": time,
                "execution_id": event.execution_id,
                "step_id": event.step_id,
                "command_id": event.command_id,
                "cause": event.cause,
                "data": data,
            }
        )
    return views


def event_view(event: Event, audience: Audience, owner: str | None = None) -> dict[str, Any] | None:
    """Return one event as ``event_views`` does, or None where ``audience`` may not see it."""
    return next(iter(event_views((event,), audience, owner)), None)


def data_view(
    event_type: str, data: Mapping[str, Any], audience: Audience, owner: str | None = None
) -> Mapping[str, Any]:
    """Return an event's ``data`` as ``audience`` sees it; ``full`` sees it as it is."""
    if audience == "full":
        return data
    if event_type in _TURN_ENDS:
        return turn_view(data, audience)
    if audience == "owner" and "pending" in data:
        return {**data, "pending": [request for request in data["pending"] if _is_for(request, owner)]}
    return data


def turn_view(data: Mapping[str, Any], audience: Audience) -> Mapping[str, Any]:
    """Return the data of a ``turn.*`` event (also an ack's ``result``) as ``audience`` sees it."""
    if audience == "full":
        return data
    view = dict(data)
    if "actions_performed" in view:
        view["actions_performed"] = []
    if audience == "agent" and "context_updates" in view:
        view["context_updates"] = {**view["context_updates"], "slots": {}}
    return view


def _is_for(request: Mapping[str, Any], owner: str | None) -> bool:
    """Tell whether a pending request is the owner's to see: nobody is named, or the owner is."""
    by = request.get("by")
    return by is None or (owner is not None and by.get("user") == owner)
