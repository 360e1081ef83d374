"""What a test file says, once it is read: suites of cases, the lines of a conversation, stubs.

Everything is immutable and knows its line and column.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from server.auth.principal import Principal
from server.engine.inputs import FailureKind
from server.testing.matching import Matcher, Place

if TYPE_CHECKING:
    from server.testing.expectations import Expectation

TENANT: Final = "test"
DEFAULT_USER: Final = "user"
FAILURE_KINDS: Final[tuple[FailureKind, ...]] = ("error", "timeout", "unavailable", "bad_result")

DoingKind = Literal[
    "user", "press", "wait", "accept", "reject", "answer", "reset", "cancel",
    "start", "signal", "pause", "resume", "retry",
]  # fmt: skip
DOINGS: Final[tuple[DoingKind, ...]] = (
    "user", "press", "wait", "accept", "reject", "answer", "reset", "cancel",
    "start", "signal", "pause", "resume", "retry",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stub:
    """What stands for an action.

    Attributes:
        place: line and column.
        arguments: which calls it answers; None: all.
        returns: its result.
        fails: how it fails instead; ``message`` says why, ``unknown`` that it may have happened.
        after_ms: how long it takes, in virtual time.
        times: how many calls it answers; None: all that come.
        real: the project's own function is called.
    """

    place: Place
    arguments: Matcher | None = None
    returns: Any = None
    fails: FailureKind | None = None
    message: str = "It failed."
    unknown: bool = False
    after_ms: int = 0
    times: int | None = None
    real: bool = False


@dataclass(frozen=True, slots=True)
class Doing:
    """What happens in a line. ``body`` holds the command's own fields, and ``ms`` of a wait."""

    kind: DoingKind
    body: Mapping[str, Any]
    place: Place


@dataclass(frozen=True, slots=True)
class Line:
    """One item of a conversation: something is done, and something is expected of it.

    ``at_once`` says that the next line does not wait until the actions of this one have ended.
    """

    place: Place
    doing: Doing | None
    who: Principal
    at_once: bool
    expected: "tuple[Expectation, ...]"


@dataclass(frozen=True, slots=True)
class Case:
    """One test. ``called`` is how often each action has been called in the end."""

    name: str
    place: Place
    lines: tuple[Line, ...]
    stubs: Mapping[str, tuple[Stub, ...]]
    now_ms: int
    timezone: str | None = None
    locale: str | None = None
    channel: str = "web"
    session_ms: int | None = None
    skip: str | None = None
    expected: "tuple[Expectation, ...]" = ()


@dataclass(frozen=True, slots=True)
class Suite:
    """A test file. ``flows`` is where its flows are, None: in the project's folder."""

    file: str
    name: str
    cases: tuple[Case, ...]
    flows: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
