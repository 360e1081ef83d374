"""What the session tells its shell to do or to know; ``_session`` says when."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Json = Any


@dataclass(frozen=True, slots=True)
class Send:
    """Write this text frame. ``secret`` frames hold a token and must not be logged as they are."""

    text: str
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Close:
    """Give up the socket now, without waiting for the other side; then call ``closed``."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class NeedToken:
    """Get a fresh token and hand it to ``token``."""


@dataclass(frozen=True, slots=True)
class Online:
    """``welcome`` came."""

    welcome: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Offline:
    """The connection is gone.

    Attributes:
        reconnect: whether to open another one.
        code: the close code.
        reason: what the server said.
        error: the error object with which ``hello`` was refused.
        fresh_token: get a new token first.
        within_ms: the server asks to spread the return over this time.
        progress: something was acknowledged or dispatched, so the pause may begin short again.
    """

    reconnect: bool
    code: int
    reason: str
    error: Mapping[str, Json] | None
    fresh_token: bool
    within_ms: int | None
    progress: bool


@dataclass(frozen=True, slots=True)
class Dispatch:
    """These events are next, in order; the cursor is at ``to`` already."""

    conversation_id: str
    epoch: str
    to: int
    events: list[Mapping[str, Json]]


@dataclass(frozen=True, slots=True)
class Replace:
    """A ``snapshot`` frame replaces all that was known of the conversation."""

    conversation_id: str
    snapshot: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of a message that is being written (a ``message.delta`` frame)."""

    conversation_id: str
    frame: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Typing:
    """A ``typing`` frame."""

    conversation_id: str
    frame: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Watching:
    """The subscription stands; replay or snapshot, if any, follows."""

    conversation_id: str
    recovered: bool


@dataclass(frozen=True, slots=True)
class Detached:
    """The conversation is no longer watched. ``forget``: it is gone, cursor and outbox were dropped."""

    conversation_id: str
    error: Mapping[str, Json]
    forget: bool


@dataclass(frozen=True, slots=True)
class Accepted:
    """The command was acknowledged (once for each ack)."""

    conversation_id: str
    key: str
    ack: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Retry:
    """A temporary error; the command is sent again after ``after_ms``."""

    conversation_id: str
    key: str
    after_ms: int
    error: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Settled:
    """The command's turn has ended.

    ``through`` is the ack's (epoch, offset) where an ack told it: the turn's events lie at or below it.
    """

    conversation_id: str
    key: str
    completed: bool
    data: Mapping[str, Json]
    through: tuple[str | None, int] | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The command has ended in this error; it changed nothing."""

    conversation_id: str
    key: str
    error: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Answer:
    """The request's result, or the error that ended it."""

    request_id: int
    result: Json
    error: Mapping[str, Json] | None


@dataclass(frozen=True, slots=True)
class Complaint:
    """An error that belongs to no command or request: an unreadable frame, a refused ``auth``."""

    error: Mapping[str, Json]


Output = (
    Send
    | Close
    | NeedToken
    | Online
    | Offline
    | Dispatch
    | Replace
    | Delta
    | Typing
    | Watching
    | Detached
    | Accepted
    | Retry
    | Settled
    | Refusal
    | Answer
    | Complaint
)
