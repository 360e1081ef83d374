"""The intermediate form of a flow: what the loader makes of its YAML and the reducer runs.

Everything here is immutable and free of positions but for ``StepCommon.line``; a flow that exists has
no errors. Step kinds live in ``server.engine.steps`` and derive from ``Step``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, NamedTuple, Protocol, get_args

from server.engine.flow.expressions import Expression
from server.engine.flow.templates import Template

Json = Any
Path = tuple[str, ...]
Severity = Literal["error", "warning"]
Effect = Literal["read", "idempotent", "write"]
SlotType = Literal[
    "text",
    "number",
    "integer",
    "boolean",
    "choice",
    "date",
    "time",
    "datetime",
    "email",
    "phone",
    "url",
    "list",
]

SLOT_TYPES: Final[tuple[SlotType, ...]] = get_args(SlotType)
ITEM_TYPES: Final[tuple[SlotType, ...]] = tuple(
    kind for kind in SLOT_TYPES if kind not in {"list", "boolean"}
)
"""What a list may be made of."""
MAX_ITEMS: Final = 100
RETRY_REASONS: Final = ("timeout", "unavailable", "error", "bad_result")
"""Why an attempt may be repeated: too slow, its service is away, it raised, it returned no JSON."""

MAX_TIMEOUT_MS: Final = 2 * 3600 * 1000
MAX_RETRIES: Final = 10


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a flow file; ``line`` and ``column`` count from 1."""

    file: str
    line: int
    column: int
    severity: Severity
    rule: str
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        hint = f" (did you mean {self.suggestion}?)" if self.suggestion else ""
        return f"{self.file}:{self.line}:{self.column}: {self.severity} [{self.rule}] {self.message}{hint}"


class FlowInvalid(Exception):  # noqa: N818 - what happened
    """A flow does not compile. ``problems`` holds all of them, warnings included, in file order."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Validation:
    """A rule for a slot's value: where ``if_`` is true of ``value``, ``say`` tells what is wrong."""

    if_: Expression
    say: Template


@dataclass(frozen=True, slots=True)
class Slot:
    """A named piece of information that the conversation gathers.

    ``prompt`` is asked where a step brings no question of its own. ``default`` (normalised, null for
    none) is its value at a flow's start. ``keep`` says that starting the flow leaves it filled.
    ``options`` of a boolean are what its yes and its no are called. ``region`` (ISO 3166) says whose
    phone numbers those without a country code are. A list has ``minimum`` to ``maximum`` ``items``.
    """

    name: str
    type: SlotType
    options: tuple[str, ...] = ()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    validate: tuple[Validation, ...] = ()
    pii: bool = False
    keep: bool = False
    prompt: Template | None = None
    default: Json = None
    region: str | None = None
    items: "Slot | None" = None
    minimum: int = 1
    maximum: int = 20


@dataclass(frozen=True, slots=True)
class Intent:
    """What starts a flow: keywords, examples with the least overlap, payloads of buttons."""

    name: str
    keywords: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    minimum: float = 0.6
    payloads: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and when an attempt is repeated: ``delay_ms * factor ** (attempt - 1)`` after each."""

    max: int
    delay_ms: int = 1_000
    factor: float = 2.0
    on: tuple[str, ...] = ("timeout", "unavailable")


@dataclass(frozen=True, slots=True)
class StepCommon:
    """The fields that every step may have."""

    step_id: str
    if_: Expression | None = None
    goto: str | None = None
    timeout_ms: int | None = None
    retry: Retry | None = None
    save: Path | None = None
    on_error: str | None = None
    effect: Effect | None = None
    expose: bool = False
    while_waiting: Template | None = None
    line: int = 0


class Step(Protocol):
    """One node of a flow, as the loader, the linter and tools see it.

    The kinds are the classes of ``server.engine.steps``; what the reducer does with them is said there.
    """

    keyword: ClassVar[str]

    @property
    def common(self) -> StepCommon:
        """The fields that every step has."""
        ...

    def targets(self) -> tuple[str, ...]:
        """Return the steps it names itself, beside ``goto`` and ``on_error``."""
        ...

    def expressions(self) -> tuple[Expression, ...]:
        """Return what it evaluates."""
        ...


class Link(NamedTuple):
    """What a step saves, and the names that this rests on. A step may have several, or save nothing."""

    step_id: str
    reads: frozenset[Path]
    saves: frozenset[Path]


@dataclass(frozen=True, slots=True)
class Flow:
    """A compiled flow.

    ``index`` finds a step's place in ``steps``; ``exposed`` are the variables that the conversation's
    owner may see; ``warnings`` are the problems that did not stop it; ``subflows`` are the ids of the flows
    that it calls or goes over to; ``links`` say which step's results rest on what.
    """

    flow_id: str
    name: str
    description: str
    is_default: bool
    triggers: tuple[Intent, ...]
    interruptible_by: tuple[str, ...]
    slots: Mapping[str, Slot]
    variables: Mapping[str, Json]
    timeout_ms: int | None
    steps: tuple[Step, ...]
    index: Mapping[str, int]
    exposed: frozenset[str]
    source_name: str
    sha256: str
    warnings: tuple[Problem, ...] = ()
    subflows: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()

    def step(self, step_id: str) -> Step:
        """Return a step.

        Raises:
            KeyError: there is none with this id.
        """
        return self.steps[self.index[step_id]]

    def next_of(self, step_id: str) -> str | None:
        """Return where a step leads when it is done: its ``goto``, else the next one in the list."""
        return self.step(step_id).common.goto or self.after(step_id)

    def after(self, step_id: str) -> str | None:
        """Return the step below in the list: where a skipped step leads."""
        place = self.index[step_id]
        return self.steps[place + 1].common.step_id if place + 1 < len(self.steps) else None
