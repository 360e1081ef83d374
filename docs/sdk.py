"""The reference page of the Python SDK, made from its docstrings and signatures."""

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import parley_client
from parley_client import errors, events, records

HEAD: Final = """<!-- Written by docs/sdk.py from the docstrings of clients/python. -->

# The Python SDK

`pip install parley-client`, then `from parley_client import Parley`;
[its README](../../clients/python/README.md) begins at the beginning. Everything here is shown for `Parley`.
`AsyncParley` has the same names and parameters: what waits is awaited, what iterates is iterated with
`async for`, and a context manager is entered with `async with`.

| in `Parley` | in `AsyncParley` |
|---|---|
| `Conversation` | `AsyncConversation` |
| `SyncExecution` | `AsyncExecution` |
| `SyncStream`, `SyncTurnStream` | `Stream`, `TurnStream` |
"""
CLASSES: Final[tuple[type, ...]] = (
    parley_client.Parley,
    parley_client.Conversation,
    parley_client.SyncExecution,
    parley_client.SyncStream,
    parley_client.SyncTurnStream,
    parley_client.ConnectionEvent,
)
SECTIONS: Final = re.compile(r"^(Args|Attributes|Raises):$")
ENTRY: Final = re.compile(r"^    (\S[^:]*): (.*)$")


def sdk_page() -> str:
    """Return ``reference/python-sdk.md``."""
    lines = [HEAD]
    for cls in CLASSES:
        lines += _class(cls)
    lines += ["## Events", "", *_prose(inspect.getdoc(events) or "")]
    lines += _records(events, [name for name in events.__all__ if inspect.isclass(getattr(events, name))])
    lines += ["## Records", "", *_prose(inspect.getdoc(records) or "")]
    lines += _records(records, [name for name in records.__all__ if inspect.isclass(getattr(records, name))])
    lines += ["## Errors", "", *_prose(inspect.getdoc(errors) or "")]
    found = [getattr(errors, name) for name in errors.__all__ if inspect.isclass(getattr(errors, name))]
    for kind in found:
        lines += [f"### `{kind.__name__}`", "", f"Code `{kind.default_code}`.", "", *_prose(_doc(kind))]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _doc(thing: Any) -> str:
    found = inspect.getdoc(thing)
    assert found is not None, thing
    return found


def _class(cls: type) -> list[str]:
    lines = [f"## `{cls.__name__}`", ""]
    if cls is parley_client.Parley:
        lines += _signature(cls, "__init__", "Parley")
    lines += _prose(_doc(cls))
    for name, member in _own(cls):
        if isinstance(member, property):
            if _doc(member) != "See the class.":
                lines += [f"### `{name}`", "", *_prose(_doc(member))]
        else:
            lines += [f"### `{name}()`", "", *_signature(cls, name, name), *_prose(_doc(member))]
    return lines


def _own(cls: type) -> Iterator[tuple[str, Any]]:
    for name, member in vars(cls).items():
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            yield name, member


def _signature(cls: type, name: str, shown: str) -> list[str]:
    """Return the signature as it stands in the source; that of the running code has no names for types."""
    node = next(each for each in _source(cls).body if isinstance(each, ast.FunctionDef) and each.name == name)
    node.args.args = node.args.args[1:] if not node.args.posonlyargs else node.args.args
    node.args.posonlyargs = node.args.posonlyargs[1:]
    pieces = _pieces(node.args)
    given = ", ".join(pieces)
    if len(given) > 60:
        given = "\n" + "".join(f"    {piece},\n" for piece in pieces)
    returns = "" if name == "__init__" or node.returns is None else f" -> {ast.unparse(node.returns)}"
    return ["```text", f"{shown}({given}){returns}", "```", ""]


def _source(cls: type) -> ast.ClassDef:
    path = inspect.getsourcefile(cls)
    assert path is not None
    tree = ast.parse(Path(path).read_text())
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls.__name__)


def _pieces(given: ast.arguments) -> list[str]:
    """Split what ``ast.unparse`` writes at the commas between the arguments."""
    pieces, depth = [""], 0
    for letter in ast.unparse(given):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += letter
    return [re.sub(r"(?<=[\w\]])=(?=\S)", " = ", piece.strip()) for piece in pieces if piece]


def _records(module: Any, names: list[str]) -> list[str]:
    lines: list[str] = []
    for name in names:
        cls: type = getattr(module, name)
        if not dataclasses.is_dataclass(cls):
            continue
        lines += [f"### `{name}`", "", *_prose(_doc(cls))]
        fields = [each for each in _source(cls).body if isinstance(each, ast.AnnAssign)]
        shown = [(ast.unparse(each.target), ast.unparse(each.annotation)) for each in fields]
        own = [f"{field}: {kind}" for field, kind in shown if not kind.startswith("ClassVar")]
        base = cls.__mro__[1]
        if dataclasses.is_dataclass(base):
            lines += [f"It has what `{base.__name__}` has" + (", and:" if own else "."), ""]
        lines += [*(["**Fields**", ""] if own else []), *(f"- `{each}`" for each in own), ""]
    return lines


def _prose(text: str) -> list[str]:
    """Return a docstring in Markdown: literals, code blocks, and its sections as lists."""
    lines: list[str] = []
    in_section, in_code = False, False
    for line in text.splitlines():
        if in_code and line and not line.startswith("    "):
            while lines[-1] == "":
                lines.pop()
            lines += ["```", ""]
            in_code = False
        if in_code:
            lines.append(line.removeprefix("    "))
        elif line.endswith("::"):
            head = line.removesuffix("::").rstrip()
            tree = "tree" in line
            lines += [*([head + ":"] if head else []), "", "```text" if tree else "```python"]
            in_code = True
        elif heading := SECTIONS.match(line):
            lines += [f"**{heading[1]}**", ""]
            in_section = True
        elif in_section and (entry := ENTRY.match(line)):
            lines.append(f"- `{entry[1]}`: {entry[2]}".replace("``", "`"))
        elif in_section:
            lines.append("  " + line.strip().replace("``", "`") if line.strip() else "")
        else:
            lines.append(line.replace("``", "`"))
    if in_code:
        lines.append("```")
    # a code block begins behind one empty line and not with one
    tidy: list[str] = []
    for line in lines:
        if line == "" and tidy and tidy[-1].startswith("```") and tidy[-1] != "```":
            continue
        tidy.append(line)
    return [*tidy, ""]
