"""What can be expected of a line, each a class of its own: it reads itself and checks a ``Scene``."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, get_args

from protocol.errors import ErrorCode, Refused
from protocol.events import EventType
from server.engine.flow.node import Findings, Node, did_you_mean
from server.engine.flow.source import Fields, Items, Leaf, Tree
from server.testing.matching import Each, Having, Matcher, Mismatch, Place, read_matcher, shown
from storage.models import Event, ExecutionStatus

_STATUSES: Final = (*get_args(ExecutionStatus), "idle")
_NOTHING: Final = "nothing"


@dataclass(frozen=True, slots=True)
class Call:
    """A call of an action, with its rendered arguments."""

    action: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Scene:
    """What a line brought about.

    Attributes:
        events: those that happened in it.
        state: the ``state`` record after it, everything in it.
        output: the execution's.
        calls: the calls of actions in it.
        called: how often each action has been called in the test so far.
        refused: the refusal of the line's command.
        failed: the error that the line's turn ended in.
    """

    events: Sequence[Event]
    state: Mapping[str, Any]
    output: Any = None
    calls: Sequence[Call] = ()
    called: Mapping[str, int] = field(default_factory=dict)
    refused: Refused | None = None
    failed: Mapping[str, Any] | None = None

    @property
    def replies(self) -> list[str]:
        """What the flow said."""
        return [event.data["text"] or "" for event in self.events if _is_reply(event)]

    @property
    def buttons(self) -> list[str]:
        """The titles of the buttons of what it said last."""
        last = next((event for event in reversed(self.events) if _is_reply(event)), None)
        return [button["title"] for button in last.data["buttons"]] if last is not None else []


@dataclass(frozen=True, slots=True)
class Failure:
    """An expectation that was not met. ``got`` is None where there is nothing to be compared."""

    place: Place
    what: str
    expected: str
    got: str | None = None


class Expectation(Protocol):
    """An expectation of a line."""

    @property
    def place(self) -> Place:
        """Its line and column."""
        ...

    def check(self, scene: Scene) -> Iterator[Failure]:
        """Yield what is not met."""
        ...


def _is_reply(event: Event) -> bool:
    return event.type == "message.completed"


def _failures(what: str, mismatch: Mismatch | None) -> Iterator[Failure]:
    if mismatch is not None:
        path = mismatch.path
        name = what if not path else f"{what}{path}" if path.startswith("[") else f"{what}.{path}"
        yield Failure(mismatch.place, name, mismatch.expected, mismatch.got)


# --- what is said ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Texts:
    """``reply`` and ``buttons``: one text, or just these in this order; an empty list is none."""

    name: str
    wanted: Matcher
    place: Place
    of: Callable[[Scene], list[str]]

    @classmethod
    def reader(cls, name: str, of: Callable[[Scene], list[str]]) -> "Reader":
        """Return what reads it under this name."""

        def read(tree: Tree, findings: Findings) -> "Texts":
            wanted = read_matcher(tree, findings, as_text=True)
            return cls(name, wanted, (tree.line, tree.column), of)

        return read

    def check(self, scene: Scene) -> Iterator[Failure]:
        """Compare one with one, several with several."""
        said = self.of(scene)
        if isinstance(self.wanted, Each):
            yield from _failures(self.name, self._in_order(self.wanted, said))
        elif len(said) == 1:
            yield from _failures(self.name, self.wanted.differ(said[0]))
        else:
            yield Failure(self.place, self.name, str(self.wanted), shown(said) if said else _NOTHING)

    def _in_order(self, wanted: Each, said: list[str]) -> Mismatch | None:
        for number, (matcher, text) in enumerate(zip(wanted.items, said, strict=False)):
            found = matcher.differ(text, f"[{number}]")
            if found is not None:
                return found
        if len(said) > len(wanted.items):
            extra = "\n".join(map(shown, said[len(wanted.items) :]))
            return Mismatch("", self.place, "nothing more" if wanted.items else _NOTHING, extra)
        if len(said) < len(wanted.items):
            missing = wanted.items[len(said)]
            return Mismatch(f"[{len(said)}]", missing.place, str(missing), _NOTHING)
        return None


# --- where it stands ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Standing:
    """``state``, ``status``, ``flow`` and ``output``."""

    name: str
    wanted: Matcher
    place: Place
    of: Callable[[Scene], Any]

    @classmethod
    def reader(cls, name: str, of: Callable[[Scene], Any], known: Sequence[str] = ()) -> "Reader":
        """Return what reads it under this name; ``known`` are all values that it can have."""

        def read(tree: Tree, findings: Findings) -> "Standing":
            if known and isinstance(tree, Leaf) and tree.text not in known:
                hint = did_you_mean(tree.text, known)
                message = f'"{name}" should be one of: {", ".join(known)}'
                findings.add("unknown-option", message, (tree.line, tree.column), hint)
            return cls(name, read_matcher(tree, findings), (tree.line, tree.column), of)

        return read

    def check(self, scene: Scene) -> Iterator[Failure]:
        """Compare."""
        yield from _failures(self.name, self.wanted.differ(self.of(scene)))


@dataclass(frozen=True, slots=True)
class Pendings:
    """``pending``: the open requests, in order; a mapping is one, an empty list none."""

    wanted: Each
    place: Place

    @classmethod
    def read(cls, tree: Tree, findings: Findings) -> "Pendings":
        """Read it."""
        wanted = read_matcher(tree, findings)
        place = (tree.line, tree.column)
        return cls(wanted if isinstance(wanted, Each) else Each((wanted,), place), place)

    def check(self, scene: Scene) -> Iterator[Failure]:
        """Compare."""
        yield from _failures("pending", self.wanted.differ(scene.state["pending"]))


# --- what happened --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Happening:
    """One expected event: its type, and perhaps more of it."""

    type: str
    fields: Having
    place: Place

    @classmethod
    def read(cls, tree: Tree, findings: Findings) -> "Happening | None":
        """Read a type, or a mapping with ``type``, ``step``, ``cause``, ``data``."""
        place = (tree.line, tree.column)
        if isinstance(tree, Leaf):
            name, fields = tree.text, dict[str, Matcher]()
        elif isinstance(tree, Fields):
            node = Node(tree, findings, "an event")
            name, fields = node.text("type", "", required=True), {}
            for key in ("step", "cause", "data"):
                inner = node.tree(key)
                if inner is not None:
                    fields[key] = read_matcher(inner, findings)
            node.finish()
            place = node.place("type")
        else:
            findings.add("wrong-type", "an event is a type, or a mapping with it", place)
            return None
        known = tuple(str(kind) for kind in EventType)
        if name and name not in known:
            hint = did_you_mean(name, known)
            findings.add("unknown-event", f'there is no event "{name[:60]}"', place, hint)
        return cls(name, Having(fields, place), place)

    def fits(self, event: Event) -> bool:
        """Tell whether it is this event."""
        if event.type != self.type:
            return False
        view = {"step": event.step_id, "cause": event.cause, "data": event.data}
        return self.fields.differ(view) is None

    def __str__(self) -> str:
        return f"{self.type} {self.fields}" if self.fields.fields else self.type


@dataclass(frozen=True, slots=True)
class Events:
    """``events``: these happened, in this order, others between or not. ``no_events``: none of these did."""

    wanted: tuple[Happening, ...]
    place: Place
    absent: bool

    @classmethod
    def reader(cls, absent: bool) -> "Reader":
        """Return what reads the one or the other."""

        def read(tree: Tree, findings: Findings) -> "Events":
            items = tree.items if isinstance(tree, Items) else (tree,)
            found = (Happening.read(item, findings) for item in items)
            return cls(tuple(h for h in found if h is not None), (tree.line, tree.column), absent)

        return read

    def check(self, scene: Scene) -> Iterator[Failure]:
        """Look for them."""
        if self.absent:
            for happening in self.wanted:
                if any(map(happening.fits, scene.events)):
                    yield Failure(happening.place, "no_events", f"no {happening}", _listed(scene.events))
            return
        left = iter(scene.events)
        for happening in self.wanted:
            if not any(happening.fits(event) for event in left):
                yield Failure(happening.place, "events", str(happening), _listed(scene.events))
                return


def _listed(events: Sequence[Event]) -> str:
    named = (f"{event.type} {event.step_id}" if event.step_id else event.type for event in events)
    return "\n".join(named) or _NOTHING


# --- actions --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExpectedCall:
    """A call of an action, perhaps with these arguments, perhaps several in a row."""

    action: str
    arguments: Matcher | None
    times: int
    place: Place


@dataclass(frozen=True, slots=True)
class Calls:
    """``calls``: just these calls of actions happened in the line, in this order."""

    wanted: tuple[ExpectedCall, ...]
    place: Place

    @classmethod
    def read(cls, tree: Tree, findings: Findings) -> "Calls":
        """Read names, or mappings with ``action``, ``with`` and ``times``."""
        items = tree.items if isinstance(tree, Items) else (tree,)
        return cls(tuple(cls._call(item, findings) for item in items), (tree.line, tree.column))

    @staticmethod
    def _call(tree: Tree, findings: Findings) -> ExpectedCall:
        place = (tree.line, tree.column)
        if isinstance(tree, Fields):
            node = Node(tree, findings, "a call")
            name = node.text("action", "", required=True)
            with_ = node.tree("with")
            arguments = read_matcher(with_, findings) if with_ is not None else None
            call = ExpectedCall(name, arguments, node.integer("times", 1, 1_000, 1), node.place("action"))
            node.finish()
        else:
            name = tree.text if isinstance(tree, Leaf) else ""
            call = ExpectedCall(name, None, 1, place)
        _check_action(name, call.place, findings)
        return call

    def check(self, scene: Scene) -> Iterator[Failure]:
        """Compare one by one."""
        wanted = [call for call in self.wanted for _ in range(call.times)]
        for number, call in enumerate(scene.calls):
            if number >= len(wanted):
                nothing = "no more calls" if wanted else "no calls"
                yield Failure(self.place, "calls", nothing, _told(scene.calls[number:]))
                return
            expected = wanted[number]
            if call.action != expected.action:
                yield Failure(expected.place, "calls", expected.action, _told(scene.calls[number:]))
                return
            if expected.arguments is not None:
                found = expected.arguments.differ(call.arguments)
                if found is not None:
                    yield from _failures(call.action, found)
                    return
        if len(scene.calls) < len(wanted):
            missing = wanted[len(scene.calls)]
            yield Failure(missing.place, "calls", missing.action, _told(scene.calls))


@dataclass(frozen=True, slots=True)
class Called:
    """``called``: how often each action has been called since the test began."""

    wanted: Mapping[str, tuple[int, Place]]
    place: Place

    def check(self, scene: Scene) -> Iterator[Failure]:
        """Compare the counts."""
        for action, (times, place) in self.wanted.items():
            found = scene.called.get(action, 0)
            if found != times:
                yield Failure(place, f"called {action}", _times(times), _times(found))


def read_called(tree: Tree, findings: Findings) -> Called:
    """Read a mapping of actions to numbers."""
    place = (tree.line, tree.column)
    if not isinstance(tree, Fields):
        findings.add("wrong-type", '"called" should be a mapping of actions to numbers', place)
        return Called({}, place)
    node = Node(tree, findings, '"called"')
    wanted = {}
    for name in node.keys():  # noqa: SIM118 - a Node is no dict
        _check_action(name, node.key_place(name), findings)
        wanted[name] = (node.integer(name, 0, 10_000, 0, required=True), node.place(name))
    return Called(wanted, place)


def _check_action(name: str, place: Place, findings: Findings) -> None:
    known = findings.actions
    if known is not None and name not in known:
        hint = did_you_mean(name, known)
        findings.add("unknown-action", f'no flow calls an action "{name[:100]}"', place, hint)


def _told(calls: Sequence[Call]) -> str:
    return "\n".join(f"{call.action} {shown(dict(call.arguments))}" for call in calls) or "no call"


def _times(number: int) -> str:
    return f"{number} time{'' if number == 1 else 's'}"


# --- what goes wrong ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wrong:
    """``refused``: the command is refused with this code. ``fails``: the turn ends in such an error."""

    name: str
    wanted: Matcher
    place: Place

    @classmethod
    def reader(cls, name: str) -> "Reader":
        """Return what reads the one or the other."""

        def read(tree: Tree, findings: Findings) -> "Wrong":
            known = tuple(str(code) for code in ErrorCode)
            if isinstance(tree, Leaf) and tree.text not in known:
                hint = did_you_mean(tree.text, known)
                message = f'there is no error code "{tree.text[:60]}"'
                findings.add("unknown-option", message, (tree.line, tree.column), hint)
            wanted = read_matcher(tree, findings)
            return cls(name, wanted, (tree.line, tree.column))

        return read

    def check(self, scene: Scene) -> Iterator[Failure]:
        """Compare code with code, or a mapping with the whole error."""
        found: Mapping[str, Any] | None = scene.failed
        if self.name == "refused":
            found = scene.refused.to_wire() if scene.refused is not None else None
        if found is None:
            happened = "it was accepted" if self.name == "refused" else "it went well"
            yield Failure(self.place, self.name, str(self.wanted), happened)
        elif isinstance(self.wanted, Having):
            yield from _failures(self.name, self.wanted.differ(found))
        else:
            yield from _failures(self.name, self.wanted.differ(str(found["code"])))


Reader = Callable[[Tree, Findings], Expectation]


def _output(scene: Scene) -> Any:
    return scene.output


EXPECTATIONS: Final[Mapping[str, Reader]] = {
    "reply": Texts.reader("reply", lambda scene: scene.replies),
    "buttons": Texts.reader("buttons", lambda scene: scene.buttons),
    "state": Standing.reader("state", lambda scene: scene.state["current_state"]),
    "status": Standing.reader("status", lambda scene: scene.state["status"], _STATUSES),
    "flow": Standing.reader("flow", lambda scene: scene.state["flow_id"]),
    "slots": Standing.reader("slots", lambda scene: scene.state["slots"]),
    "variables": Standing.reader("variables", lambda scene: scene.state["variables"]),
    "output": Standing.reader("output", _output),
    "pending": Pendings.read,
    "events": Events.reader(absent=False),
    "no_events": Events.reader(absent=True),
    "calls": Calls.read,
    "called": read_called,
    "refused": Wrong.reader("refused"),
    "fails": Wrong.reader("fails"),
}
"""What may be expected of a line, by its key."""

__all__ = ["EXPECTATIONS", "Call", "Expectation", "Failure", "Scene", "Wrong", "read_called"]
