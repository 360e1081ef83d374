"""What goes into the engine and what comes out: commands, acceptances, publications."""

from collections.abc import Mapping
from typing import Any

from storage.models import CommandState, Conversation, EventBatch
from storage.record import record


@record(frozen=True, slots=True)
class Command:
    """A validated client command.

    ``body`` is the validated frame as plain JSON without ``id`` (and without ``idempotency_key``), all
    defaults written out; ``user_id`` in it is the user the command acts for. ``key`` is the
    idempotency key (made by the server where the client sent none); ``body_hash`` covers ``body``.
    ``locale`` and ``timezone`` are the client's, for a conversation that this command creates.
    """

    type: str
    conversation_id: str
    key: str
    body_hash: str
    body: Mapping[str, Any]
    correlation_id: str | None = None
    request_id: str | None = None
    locale: str | None = None
    timezone: str | None = None


@record(frozen=True, slots=True)
class Accepted:
    """A command was durably accepted.

    ``result`` is the ended turn's raw event data, to be filtered for the audience before it leaves;
    ``epoch`` and ``offset`` are the conversation's after that commit.
    """

    duplicate: bool
    command_id: str
    status: CommandState
    execution_id: str | None
    epoch: str
    offset: int
    result: Mapping[str, Any] | None
    record: Conversation


@record(frozen=True, slots=True)
class Publication:
    """A commit that happened: the record after it and the events in it (``batch`` None: no events)."""

    record: Conversation
    batch: EventBatch | None
