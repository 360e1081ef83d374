"""What each route takes and answers: the table that the OpenAPI document is made of.

A route that is not here, and an entry without a route, fail ``tests/integration/test_openapi.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel

from protocol.errors import ErrorCode
from protocol.events import TurnCompletedData, TurnFailedData
from protocol.records import HistoryResult, StateRecord
from server.gateway.rest import answers as a
from server.gateway.rest import bodies as b
from server.gateway.rest.filters import EXECUTION_STATUSES, STATUSES

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
HTML: Final = "text/html; charset=utf-8"
CSS: Final = "text/css; charset=utf-8"
TEXT: Final = "text/plain"
YAML: Final = "application/yaml"
E = ErrorCode


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the query or a header, always optional."""

    name: str
    description: str
    schema: Mapping[str, Any]
    place: str = "query"


@dataclass(frozen=True, slots=True)
class Reply:
    """One successful answer; several models are alternatives, none means no JSON."""

    description: str
    models: tuple[type[BaseModel], ...] = ()
    media: str | None = JSON
    stream: tuple[str, type[BaseModel] | None] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    example: Any = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    Attributes:
        replies: successful answers by status.
        errors: the codes that it refuses by, beside those that all of its kind have.
        body_required: whether a request without a body is refused.
        keyed: whether it takes ``Idempotency-Key``.
        open: whether it is served without a token.
        endless: whether its answer does not end by itself.
    """

    method: str
    path: str
    operation_id: str
    tag: str
    summary: str
    replies: Mapping[int, Reply]
    errors: tuple[ErrorCode, ...] = ()
    body: type[BaseModel] | None = None
    body_required: bool = False
    example: Any = None
    parameters: tuple[Parameter, ...] = ()
    keyed: bool = False
    open: bool = False
    endless: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """Return method and path."""
        return self.method, self.path


TAGS: Final = MappingProxyType(
    {
        "conversations": "Say something, hear the answer, read and follow what is there.",
        "executions": "Runs of flows, and what can be done to them.",
        "inbox": "What waits for people.",
        "access": "Who may ask.",
        "health": "Probes and numbers.",
        "reference": "These pages.",
    }
)
LIMIT: Final = Parameter(
    "limit", "How many, 1 to 100.", {"type": "integer", "minimum": 1, "maximum": 100, "default": 50}
)
CURSOR: Final = Parameter(
    "cursor",
    "The `cursor` of the page before.",
    {"type": "string", "maxLength": 700, "pattern": "^[A-Za-z0-9_-]+$"},
)
TIME: Final = {"type": "string", "format": "date-time"}
NAME: Final = {"type": "string", "minLength": 1, "maxLength": 128}
PREFER: Final = Parameter(
    "Prefer",
    "`wait=N` waits up to N seconds (60 at most), `respond-async` not at all (RFC 7240).",
    {"type": "string", "examples": ["respond-async", "wait=10"]},
    "header",
)
LAST_EVENT: Final = Parameter(
    "Last-Event-ID",
    "`epoch:offset` of the last event that was seen.",
    {"type": "string", "examples": ["e0a1b2:17"]},
    "header",
)
RECEIPTS: Final = {
    200: Reply("The command was accepted, and its turn has ended.", (a.ReceiptAnswer,)),
    202: Reply("The command was accepted; its turn goes on, or waits.", (a.ReceiptAnswer,)),
}
COMMAND: Final = (
    E.CONVERSATION_BUSY, E.IDEMPOTENCY_CONFLICT, E.PERMISSION_DENIED, E.RATE_LIMITED, E.INBOX_FULL,
    E.OVERLOADED,
)  # fmt: skip
ONE: Final = "/v1/conversations/{conversation_id}"
RUN: Final = "/v1/executions/{execution_id}"
KEY: Final = "/v1/keys/{key_id}"
HELLO: Final = {"content": {"type": "text", "text": "I need an appointment"}}


def _probe(path: str, name: str, summary: str, model: type[BaseModel], down: str | None) -> Operation:
    replies = {200: Reply("It is.", (model,))}
    if down is not None:
        replies[503] = Reply(down, (model,))
    return Operation("GET", path, name, "health", summary, replies, open=True)


def _page(path: str, name: str, summary: str, media: str) -> Operation:
    replies = {200: Reply("Here it is.", media=media)}
    return Operation("GET", path, name, "reference", summary, replies, open=True)


def _act(
    what: str, summary: str, body: type[BaseModel], example: Any, *errors: ErrorCode, required: bool = False
) -> Operation:
    return Operation(
        "POST", f"{RUN}/{what}", f"{what}Execution", "executions", summary, RECEIPTS,
        (*COMMAND, E.EXECUTION_NOT_FOUND, E.WRONG_STATE, *errors),
        body, required, example, keyed=True,
    )  # fmt: skip


def _filters(statuses: tuple[str, ...]) -> tuple[Parameter, ...]:
    return (
        Parameter("status", "Only of this status.", {"enum": list(statuses)}),
        Parameter("flow_id", "Only of this flow.", NAME),
        Parameter("user_id", "Only of this user.", NAME),
        Parameter("project_id", "Only of this project.", NAME),
        Parameter("since", "Only active at or after this time.", TIME),
        Parameter("until", "Only active before this time.", TIME),
    )


OPERATIONS: Final = (
    Operation(
        "GET", "/v1/conversations", "listConversations", "conversations",
        "List conversations, the most recent first",
        {200: Reply("A page.", (a.ConversationsAnswer,))},
        parameters=(
            LIMIT, CURSOR, *_filters(STATUSES),
            Parameter("count", "Whether `total` tells how many there are.", {"enum": ["true", "false"]}),
        ),
    ),
    Operation(
        "POST", "/v1/conversations", "createConversation", "conversations", "Make a conversation id",
        {201: Reply("A new id; nothing is stored yet.", (a.ConversationMade,),
                    headers={"Location": "The conversation's address."})},
        body=b.NewConversationBody, example={}, keyed=True,
    ),
    Operation(
        "GET", ONE, "getConversation", "conversations", "Show where a conversation stands, and who is there",
        {200: Reply("Where it stands.", (a.ConversationAnswer,))}, (E.CONVERSATION_NOT_FOUND,),
    ),
    Operation(
        "DELETE", ONE, "deleteConversation", "conversations", "Delete a conversation with all of its content",
        {204: Reply("It is gone.", media=None)},
        (E.CONVERSATION_NOT_FOUND, E.CONVERSATION_BUSY, E.RATE_LIMITED, E.OVERLOADED),
    ),
    Operation(
        "POST", f"{ONE}/process", "process", "conversations", "Say something and wait for the answer",
        {200: Reply("The data of `turn.completed`, or of `turn.failed`.", (TurnCompletedData, TurnFailedData),
                    stream=("The turn as it is said.", a.TurnPiece)),
         202: Reply("The message was accepted; its turn takes longer.", (a.ReceiptAnswer,))},
        (*COMMAND, E.CONVERSATION_NOT_FOUND, E.FLOW_NOT_FOUND, E.WRONG_STATE),
        b.ProcessBody, True, HELLO, (PREFER,), keyed=True,
    ),
    Operation(
        "GET", f"{ONE}/state", "getState", "conversations", "Show the state record",
        {200: Reply("The state record.", (StateRecord,))}, (E.CONVERSATION_NOT_FOUND,),
    ),
    Operation(
        "POST", f"{ONE}/reset", "reset", "conversations", "Cancel what runs and clear the context",
        RECEIPTS, (*COMMAND, E.CONVERSATION_NOT_FOUND), b.ResetBody, False, {"reason": "enough"}, keyed=True,
    ),
    Operation(
        "GET", f"{ONE}/context", "getContext", "conversations", "Show slots and variables",
        {200: Reply("Slots and variables.", (a.ContextAnswer,))}, (E.CONVERSATION_NOT_FOUND,),
    ),
    Operation(
        "PATCH", f"{ONE}/context", "amendContext", "conversations", "Set slots and variables",
        RECEIPTS, (*COMMAND, E.CONVERSATION_NOT_FOUND, E.WRONG_STATE), b.ContextBody, False,
        {"slots": {"colour": "green"}}, keyed=True,
    ),
    Operation(
        "GET", f"{ONE}/history", "getHistory", "conversations", "Show messages, oldest first",
        {200: Reply("The newest messages below `before`.", (HistoryResult,))}, (E.CONVERSATION_NOT_FOUND,),
        parameters=(LIMIT, Parameter("before", "Only messages below this offset.",
                                     {"type": "integer", "minimum": 0, "maximum": 2**53})),
    ),
    Operation(
        "GET", f"{ONE}/recording", "recordConversation", "conversations",
        "Write a conversation down as a test (in development only)",
        {200: Reply("A test file, what is personal masked.", media=YAML,
                    headers={"Content-Disposition": "What to save it as."})},
        (E.CONVERSATION_NOT_FOUND, E.WRONG_STATE, E.PAYLOAD_TOO_LARGE),
    ),
    Operation(
        "GET", f"{ONE}/events", "followConversation", "conversations", "Follow a conversation as it happens",
        {200: Reply("Events: the type is the name, `epoch:offset` the id, the event record the data.",
                    media=None, stream=("Events of the wire.", None))},
        (E.CONVERSATION_NOT_FOUND, E.RATE_LIMITED, E.OVERLOADED), parameters=(LAST_EVENT,), endless=True,
    ),
    Operation(
        "POST", "/v1/flows/{flow_id}/start", "startFlow", "executions", "Start a flow",
        {202: Reply("It was started.", (a.StartedAnswer,))},
        (*COMMAND, E.FLOW_NOT_FOUND, E.CONVERSATION_NOT_FOUND),
        b.StartBody, False, {"initial_context": {"item": "tea"}, "project_id": "shop"}, keyed=True,
    ),
    Operation(
        "GET", "/v1/executions", "listExecutions", "executions", "List executions, the most recent first",
        {200: Reply("A page.", (a.ExecutionsAnswer,))},
        parameters=(LIMIT, CURSOR, *_filters(EXECUTION_STATUSES)),
    ),
    Operation(
        "GET", RUN, "getExecution", "executions", "Show one execution",
        {200: Reply("The execution.", (a.ExecutionAnswer,))}, (E.EXECUTION_NOT_FOUND,),
    ),
    _act("acceptance", "Accept or reject", b.AcceptanceBody, {"accepted": True},
         E.PENDING_NOT_FOUND, E.PENDING_RESOLVED, E.PENDING_EXPIRED, required=True),
    _act("clarification", "Answer questions", b.ClarificationBody, {"answers": {"part": "morning"}},
         E.PENDING_NOT_FOUND, E.PENDING_RESOLVED, E.PENDING_EXPIRED, E.MISSING_ANSWERS, required=True),
    _act("pause", "Hold it until it is resumed, or for some time", b.PauseBody, {"deadline_ms": 60_000}),
    _act("resume", "Let it go on", b.ResumeBody, {"comment": "seen to"}),
    _act("cancel", "End it", b.CancelBody, {"reason": "no longer needed"}),
    _act("retry", "Try it again from the step that failed", b.RetryBody, {}),
    _act("signal", "Say that an event, which it waits for, has happened", b.SignalBody,
         {"name": "paid", "payload": {"amount": 5}}, required=True),
    Operation(
        "GET", "/v1/inbox", "getInbox", "inbox", "Show what waits for people, the oldest first",
        {200: Reply("A page.", (a.InboxAnswer,), stream=("`opened`, `settled` and `ready` events.", None))},
        (E.RATE_LIMITED,), parameters=(LIMIT, CURSOR),
    ),
    Operation(
        "POST", "/v1/visitors", "makeVisitor", "access",
        "Get a token for a page's visitor, or a fresh one for the same",
        {201: Reply("A token.", (a.VisitorAnswer,))},
        (E.UNAUTHORIZED, E.TOKEN_EXPIRED, E.PERMISSION_DENIED, E.ORIGIN_NOT_ALLOWED, E.RATE_LIMITED,
         E.STORE_UNAVAILABLE),
        b.VisitorBody, False, {"key": "pk_..."},
        (Parameter("X-API-Key", "The publishable key, where the body has none.", {"type": "string"},
                   "header"),),
        open=True,
    ),
    Operation(
        "GET", "/v1/keys", "listKeys", "access", "List API keys, the newest first",
        {200: Reply("A page.", (a.KeysAnswer,))}, (E.PERMISSION_DENIED,), parameters=(LIMIT, CURSOR),
    ),
    Operation(
        "POST", "/v1/keys", "createKey", "access", "Make an API key",
        {201: Reply("The key, with its text: it is shown this once.", (a.KeyMade,),
                    headers={"Location": "The key's address."})},
        (E.PERMISSION_DENIED,), b.NewKeyBody, True,
        {"publishable": True, "origins": ["https://shop.example"]},
    ),
    Operation(
        "GET", KEY, "getKey", "access", "Show an API key",
        {200: Reply("The key, without its text.", (a.KeyAnswer,))}, (E.PERMISSION_DENIED, E.NOT_FOUND),
    ),
    Operation(
        "PATCH", KEY, "changeKey", "access", "Add and remove origins of an API key",
        {200: Reply("The key as it is now.", (a.KeyAnswer,))},
        (E.PERMISSION_DENIED, E.NOT_FOUND, E.OVERLOADED), b.KeyChangeBody, True,
        {"add_origins": ["https://www.shop.example"]},
    ),
    Operation(
        "DELETE", KEY, "revokeKey", "access", "Revoke an API key, for good",
        {204: Reply("It works no more; its record stays.", media=None)},
        (E.PERMISSION_DENIED, E.NOT_FOUND, E.OVERLOADED),
    ),
    Operation(
        "POST", f"{KEY}/rotate", "rotateKey", "access", "Give an API key a new text",
        {200: Reply("The key, with its new text: it is shown this once.", (a.KeyMade,))},
        (E.PERMISSION_DENIED, E.NOT_FOUND, E.WRONG_STATE, E.OVERLOADED), b.RotateKeyBody, False, {},
    ),
    _probe("/livez", "livez", "Does the process run?", a.Alive, None),
    _probe("/readyz", "readyz", "Does it take new connections?", a.Ready, "It does not; `status` says why."),
    _probe("/startupz", "startupz", "Has it started?", a.Alive, "It is starting."),
    _probe("/health", "health", "One line for monitoring pages", a.HealthAnswer, "It is down."),
    _probe("/v1/status", "status", "What this server is and what it takes", a.StatusAnswer, None),
    _page("/metrics", "metrics", "All numbers, for Prometheus", TEXT),
    _page("/v1/openapi.json", "openapi", "This document", JSON),
    _page("/v1/asyncapi.json", "asyncapi", "The socket's frames, as AsyncAPI 3", JSON),
    _page("/docs", "docs", "This document, to read", HTML),
    _page("/docs/socket", "docsSocket", "The socket's frames, to read", HTML),
    _page("/docs/style.css", "docsStyle", "How these pages look", CSS),
)  # fmt: skip
