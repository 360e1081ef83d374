"""The reference page of the JavaScript SDK, and the table that holds it beside the Python SDK.

Both are made from ``clients/javascript/surface.json``, which ``npm run generate`` writes from the types, so
that this needs no Node. A name of either SDK that has no counterpart and no reason here ends in an error.
"""

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import parley_client
from parley_client import errors, events, records

ROOT: Final = Path(__file__).resolve().parents[1]
SURFACE: Final = ROOT / "clients" / "javascript" / "surface.json"
PACKAGE: Final = "parley-client"
Surface = Mapping[str, Any]

CLASSES: Final[Mapping[type, str]] = {
    parley_client.Parley: "Parley",
    parley_client.Conversation: "Conversation",
    parley_client.SyncExecution: "ExecutionHandle",
    parley_client.Stream: "Stream",
    parley_client.TurnStream: "TurnStream",
    parley_client.ConnectionEvent: "ConnectionEvent",
    parley_client.Clock: "Clock",
}
"""Python's classes with members that JavaScript writes its way; records, events and errors follow by name."""
SAME_CLASS: Final = {
    "AsyncParley": "Parley",
    "AsyncConversation": "Conversation",
    "AsyncExecution": "ExecutionHandle",
    "SyncStream": "Stream",
    "SyncTurnStream": "TurnStream",
}
"""Python has each of them twice, for programs with and without a loop; JavaScript has a loop always."""
OTHERWISE: Final[Mapping[str, str]] = {
    "Parley.on_connection": '`parley.on("connection", listener)`',
    "Parley.open_timeout": "`timeoutMs` of `parley.connect`",
    "Parley.connect_options": "the option `WebSocket`, a class of your own; browsers have no more",
    "Parley.start.timeout": "`timeoutMs`",
    "Conversation.answer.by_id": "the second argument, `{ part: ... }`: JavaScript has no keywords",
    "ExecutionHandle.answer.by_id": "the second argument, `{ part: ... }`: JavaScript has no keywords",
    "Conversation.answer_with": "`chat.answer(pending, answers, options)`",
    "ExecutionHandle.answer_with": "`execution.answer(pending, answers, options)`",
    "Stream.poll": "none: nothing reads a stream from another thread",
    "Stream.arrival": "none: nothing reads a stream from another thread",
    "Stream.on_leave": "none: it is for the package itself",
    "Stream.push": "none: it is for the package itself",
    "Stream.finish": "none: it is for the package itself",
    "Stream.aclose": "`stream.close()`, which `break` calls",
    "Stream.leave": "`stream.close()`",
    "Clock.call_later.delay": "`delayMs`",
    "Timer": "what `clock.callLater` returns: a function that takes the call back",
    "ClientMisused": "none: there is neither a fork nor a thread of its own to misuse it from",
    "ParleyError.message": "`error.message`, as every `Error` has it",
    "ParleyError.fresh": "none: an `Error` may be thrown again",
    "ParleyError.default_code": "`ParleyError.code`, of the class",
    "ParleyError.default_temporary": "`ParleyError.temporary`, of the class",
    "parse_time": "`new Date(text)`",
    "__version__": "`VERSION`",
    "errors": "the errors are exported by themselves, so that a page loads no namespace",
    "records": "the records are types, exported by themselves",
    "ConnectionEvent.retry_in": "`retryInMs`",
    "State.raw": "the record itself: it is what came",
    "Event.wire_type": "`event.type`",
    "UnknownEvent.type": "`unknown`; its type on the wire is `event.event_type`",
}
"""What is otherwise in JavaScript, and why or where."""
ADDED: Final[Mapping[str, str]] = {
    "browserOutbox": "Python's outbox is a file, named by its path",
    "node:fileOutbox": "Python's outbox is a file, named by its path",
    "OutboxStore": "the port behind both",
    "KeptCommand": "the port behind both",
    "SocketClass": "of the option `WebSocket`",
    "SocketLike": "of the option `WebSocket`",
    "Cursor": "Python's is a tuple",
    "Principal": "Python's is a mapping",
    "JsonObject": "Python's is a `Mapping[str, Any]`",
    "Token": "Python's type of the argument `token`",
    "ErrorOptions": "Python's keywords of `ParleyError`",
    "CommandOptions": "Python's keywords",
    "ConversationOptions": "Python's keywords",
    "DecisionOptions": "Python's keywords",
    "ListOptions": "Python's keywords",
    "ParleyOptions": "Python's keywords",
    "SendOptions": "Python's keywords",
    "StartOptions": "Python's keywords",
    "WaitOptions": "Python's keywords; `signal` is what cancelling a task is in Python",
    "ConversationEvents": "what `chat.on` listens to",
    "Conversation.on": "listeners, beside `chat.events()`, as JavaScript is used to",
    "Parley.on": "listeners, beside `parley.connectionEvents()`",
    "ConnectionEvent.type": "told apart from the events of conversations",
    "EventBase": "Python's class `Event`, of which `Event` here is the union",
    "Stream.next": "how JavaScript iterates",
    "Stream.return": "how JavaScript leaves an iteration",
    "wire": "the types of the frames, generated from `protocol/schema.json`",
}
"""What JavaScript has and Python has not under a name, and why."""

HEAD: Final = """<!-- Written by docs/javascript.py from the types of clients/javascript. -->

"""


class Unlike(Exception):  # noqa: N818 - it says what is
    """One SDK has what the other has not, and nothing here says why."""


def camel(name: str) -> str:
    """Return a Python name as JavaScript writes it; units stand in names there."""
    first, *rest = name.split("_")
    return {"timeout": "timeoutMs"}.get(name, first + "".join(part.capitalize() for part in rest))


def surface() -> Surface:
    """Return the public surface of the JavaScript SDK."""
    found: Surface = json.loads(SURFACE.read_text())
    return found


# --- parity ---------------------------------------------------------------------------------------


def parity_page() -> str:
    """Return ``reference/sdk-parity.md``."""
    found = surface()
    js = found[PACKAGE]
    seen: set[str] = set()
    rows = [
        *_class_rows(js, seen),
        *_record_rows("event", events, js["events"]["exports"], "events.", seen),
        *_record_rows("record", records, js, "", seen),
        *_error_rows(js, seen),
        *_other_rows(js, seen),
    ]
    _nothing_left(found, seen)
    lines = [
        HEAD + "# The two SDKs side by side",
        "",
        "Every public name of the [Python SDK](python-sdk.md), and what it is in the",
        "[JavaScript SDK](javascript-sdk.md). What is called is written as each language writes it; what comes over",
        "the wire keeps its names in both. The table is made from both surfaces, and `make check` fails where a name",
        "of one is not accounted for.",
        "",
        "| Python | JavaScript |",
        "|---|---|",
        *(f"| {python} | {javascript} |" for python, javascript in rows),
        "",
        "## Only in JavaScript",
        "",
        "| name | why |",
        "|---|---|",
        *(f"| `{name}` | {why} |" for name, why in ADDED.items()),
    ]
    return "\n".join(lines) + "\n"


def _names(declared: Mapping[str, Any]) -> dict[str, Any]:
    return {member["name"]: member for member in declared.get("members", ())}


def _row(python: str, place: str, javascript: str | None) -> tuple[str, str]:
    """Return a row: by name, or as ``OTHERWISE`` says."""
    if javascript is not None:
        return f"`{python}`", f"`{javascript}`"
    if place not in OTHERWISE:
        raise Unlike(f"JavaScript has no {place}, and docs/javascript.py does not say why")
    return f"`{python}`", OTHERWISE[place]


def _class_rows(js: Surface, seen: set[str]) -> Iterator[tuple[str, str]]:
    for cls, name in CLASSES.items():
        declared = js[name]
        seen.add(name)
        yield _row(cls.__name__, name, name)
        members = {**_names(js["Stream"]), **_names(declared)} if name == "TurnStream" else _names(declared)
        if cls is parley_client.Parley:
            taken = _taken(declared)
            for parameter in _parameters(cls.__init__):
                there = camel(parameter) if camel(parameter) in taken else None
                yield _row(f"Parley({parameter}=)", f"Parley.{parameter}", there)
        for python in _members(cls):
            here = camel(python)
            member = members.get(here)
            seen.add(f"{name}.{here}")
            yield _row(f"{cls.__name__}.{python}", f"{name}.{python}", f"{name}.{here}" if member else None)
            if member and "parameters" in member:
                yield from _parameter_rows(cls, name, python, member)


def _parameter_rows(
    cls: type, name: str, python: str, member: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    taken = _taken(member)
    for parameter in _parameters(getattr(cls, python)):
        here = camel(parameter)
        shown = f"{cls.__name__}.{python}({parameter}=)"
        there = f"{name}.{camel(python)}({here})" if here in taken else None
        yield _row(shown, f"{name}.{python}.{parameter}", there)


def _taken(member: Mapping[str, Any]) -> set[str]:
    """Return all that a function takes by name or place."""
    return {
        name
        for each in member["parameters"]
        for name in (each["name"].removeprefix("_"), *each.get("options", ()))
    }


def _members(cls: type) -> list[str]:
    found = [name for name in vars(cls) if not name.startswith("_")]
    if dataclasses.is_dataclass(cls):
        found = [each.name for each in dataclasses.fields(cls)]
    elif issubclass(cls, parley_client.TurnStream):
        found += ["command_id", "accepted", "duplicate", "turn"]
    return found


def _parameters(function: Any) -> list[str]:
    names = [name for name in inspect.signature(function).parameters if name != "self"]
    return [name.strip("*") for name in names]


def _record_rows(
    kind: str, module: Any, js: Surface, prefix: str, seen: set[str]
) -> Iterator[tuple[str, str]]:
    for python in module.__all__:
        thing: Any = getattr(module, python)
        is_class = inspect.isclass(thing)
        if not is_class:
            name = python if python[0].isupper() else camel(python)
            there = name if name in js else None
            seen.update({prefix + name, name})
            yield _row(f"{module.__name__.rpartition('.')[2]}.{python}", python, there)
            continue
        if python not in js:
            raise Unlike(f"JavaScript has no {kind} {python}")
        seen.add(prefix + python)
        fields = _names(js[python]) or _names(js.get("EventBase", {}))
        yield _row(f"{module.__name__.rpartition('.')[2]}.{python}", python, prefix + python)
        for each in dataclasses.fields(thing):
            own = each.name in inspect.get_annotations(thing)
            if own or kind == "record":
                there = f"{prefix}{python}.{each.name}" if each.name in fields else None
                yield _row(f"{python}.{each.name}", f"{python}.{each.name}", there)
        if kind == "record":
            for name, member in vars(thing).items():
                if isinstance(member, property):
                    place = f"{python}.{name}"
                    yield _row(place, place, place if name in fields else None)


def _error_rows(js: Surface, seen: set[str]) -> Iterator[tuple[str, str]]:
    base = ("code", "message", "temporary", "retry_after_ms", "field", "details", "suggestion", "docs")
    for python in errors.__all__:
        thing: Any = getattr(errors, python)
        is_class = inspect.isclass(thing)
        name = python if is_class else camel(python)
        seen.add(name)
        yield _row(f"errors.{python}", python, name if name in js else None)
        if not is_class or name not in js:
            continue
        if thing is not errors.ParleyError and thing.default_code != js[name]["code"]:
            raise Unlike(f"{python} is {thing.default_code} in Python and {js[name]['code']} in JavaScript")
        own = [member for member, what in vars(thing).items() if isinstance(what, property)]
        own += [
            each
            for each in inspect.signature(thing.__init__).parameters
            if "__init__" in vars(thing) and each not in ("self", "message", *base)
        ]
        members = _names(js[name])
        for member in (*base, "fresh") if thing is errors.ParleyError else own:
            there = f"{name}.{camel(member)}" if camel(member) in members else None
            yield _row(f"{python}.{member}", f"{python}.{member}", there)


def _other_rows(js: Surface, seen: set[str]) -> Iterator[tuple[str, str]]:
    classes = {cls.__name__ for cls in CLASSES}
    done = {*classes, *errors.__all__, *records.__all__, "AnyEvent", "Event"}
    for python in parley_client.__all__:
        if python in done:
            continue
        there = SAME_CLASS.get(python, python if python in js else None)
        seen.add(python)
        yield _row(python, python, there)
    seen.update({"AnyEvent", "Event", "InboxEvent", "events.EventBase", "events.parseEvent"})
    seen.update({"VERSION", "Stream.close", "ConnectionEvent.retryInMs"})  # counterparts named in OTHERWISE


def _nothing_left(found: Surface, seen: set[str]) -> None:
    """Refuse what only JavaScript has, and nothing says why; and reasons that are none any more."""
    js = found[PACKAGE]
    there = set(js) | {f"node:{name}" for name in found[f"{PACKAGE}/node"]}
    there |= {f"events.{name}" for name in js["events"]["exports"]}
    there |= {f"{name}.{member}" for name in CLASSES.values() for member in _names(js[name])}
    added = {f"events.{name}" if name == "EventBase" else name for name in ADDED}
    if left := sorted(there - seen - added):
        raise Unlike(f"only JavaScript has {', '.join(left)}, and docs/javascript.py does not say why")
    if gone := sorted(added - there):
        raise Unlike(f"docs/javascript.py gives a reason for what is not there: {', '.join(gone)}")


# --- reference ------------------------------------------------------------------------------------


def javascript_page() -> str:
    """Return ``reference/javascript-sdk.md``."""
    js, node = surface()[PACKAGE], surface()[f"{PACKAGE}/node"]
    names = list(dict.fromkeys(CLASSES.values()))
    functions = [name for name, each in js.items() if each["kind"] == "function"]
    kinds = {name for name, each in js.items() if each["kind"] == "class" and name not in names}
    types = [name for name, each in js.items() if each["kind"] == "type" and name not in names]
    lines = [
        HEAD + "# The JavaScript SDK",
        "",
        '`npm install parley-client`, then `import { Parley } from "parley-client"`;',
        "[its README](../../clients/javascript/README.md) begins at the beginning, and",
        "[how to build your own front end](../how-to/build-a-front-end.md) goes through its use.",
        "Methods and options are written as JavaScript writes them; events and records keep the names that they",
        "have on the wire, in REST and in the Python SDK ([side by side](sdk-parity.md)).",
        "",
    ]
    for name in names:
        lines += _declared(name, js[name], 2)
    for name in functions:
        lines += _declared(name, js[name], 2)
    lines += ["## `parley-client/node`", ""]
    for name, each in node.items():
        lines += _declared(name, each, 3)
    lines += ["## Options and records", ""]
    for name in types:
        lines += _declared(name, js[name], 3)
    lines += ["## Events", "", "Types of the namespace `events`; `event.type` tells them apart.", ""]
    for name, each in js["events"]["exports"].items():
        if each["kind"] == "type":
            lines += _declared(name, each, 3)
    lines += ["## Errors", "", "All of them are classes; `code` is the protocol's, or the client's own.", ""]
    lines += ["| class | extends | code | |", "|---|---|---|---|"]
    for name in sorted(kinds):
        each = js[name]
        told = " ".join(each["doc"].split())
        lines.append(f"| `{name}` | `{each.get('extends', 'Error')}` | `{each['code']}` | {told} |")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _declared(name: str, each: Mapping[str, Any], level: int) -> list[str]:
    lines = [f"{'#' * level} `{name}`", ""]
    if each["kind"] == "class" and "parameters" in each:
        lines += _code(f"new {name}({_arguments(each)})")
    elif each["kind"] == "function":
        lines += _code(f"{name}({_arguments(each)}): {each['returns']}")
    elif "type" in each:
        lines += _code(f"type {name} = {each['type']}")
    lines += _prose(each)
    plain = [member for member in each.get("members", ()) if "parameters" not in member]
    lines += [
        f"- `{member['name']}: {member['type']}`"
        + (f" · {' '.join(member['doc'].split())}" if member["doc"] else "")
        for member in plain
        if member["name"] not in ("next", "return")
    ]
    lines.append("")
    for member in each.get("members", ()):
        if "parameters" in member and member["name"] not in ("next", "return"):
            lines += [f"{'#' * (level + 1)} `{name}.{member['name']}()`", ""]
            lines += _code(f"{member['name']}({_arguments(member)}): {member['returns']}")
            lines += _prose(member)
    return lines


def _arguments(each: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{one['name'].removeprefix('_')}{'?' if one['optional'] else ''}: {one['type']}"
        for one in each["parameters"]
    )


def _code(text: str) -> list[str]:
    return ["```ts", text, "```", ""]


def _prose(each: Mapping[str, Any]) -> list[str]:
    """Return a comment as Markdown: prose, code where it is indented, what is taken, given and thrown."""
    lines: list[str] = []
    for is_code, found in groupby(each["doc"].split("\n"), key=lambda line: line.startswith("    ")):
        block = [line.removeprefix("    ") for line in found]
        lines += ["```js", *block, "```"] if is_code else block
    lines.append("")
    for tag, text in each["tags"]:
        name, _, what = " ".join(text.split()).partition(" ")
        if tag == "returns":
            lines.append(f"- Returns {name} {what}")
        else:
            lines.append(f"- {'Throws ' if tag == 'throws' else ''}`{name.rstrip(':')}`: {what}")
    return [*lines, ""]
