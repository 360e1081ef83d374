"""Writes ``src/parley_client/_sync.py``, the synchronous surface, from the asynchronous one.

``--check`` only tells whether it is current. Signatures and docstrings are taken over word by word, but for
the words that differ; each method hands its call to the client's thread (``_portal``).
"""

import argparse
import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
SOURCE: Final = HERE / "src" / "parley_client"
TARGET: Final = SOURCE / "_sync.py"

CLASSES: Final = {
    "AsyncExecution": ("_execution.py", "SyncExecution"),
    "AsyncConversation": ("_conversation.py", "Conversation"),
    "AsyncParley": ("_async.py", "Parley"),
}
WORDS: Final = (
    ("a function (async or not) that returns one", "a function that returns one"),
    ("async for", "for"),
    ("async with", "with"),
    ("await ", ""),
    *((name, sync) for name, (_, sync) in CLASSES.items()),
    ("AsyncIterator", "Iterator"),
    ("StopAsyncIteration", "StopIteration"),
    (
        "It belongs to the event loop in which it connects.",
        """Its work is done in a thread of its own. Use it from any thread, and where an event loop runs
    already (Jupyter); a forked child needs a client of its own. Callbacks are called in the client's
    thread, so they must neither wait nor call the client; a ``token`` function may take its time.""",
    ),
)
HEAD: Final = '''"""The synchronous client: names, parameters and errors of ``AsyncParley``, no ``await``.

Written by clients/python/generate.py from ``_async``, ``_conversation`` and ``_execution``: change those,
then run it.
"""

import os
import random as random_module
import weakref
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from ._async import EVENT_BUFFER, OPEN_TIMEOUT_S, AsyncParley, _new_id
from ._clock import Clock
from ._connection import ConnectionEvent, Token
from ._conversation import REQUEST_TIMEOUT_S, AsyncConversation
from ._execution import AsyncExecution
from ._outbox import OUTBOX_BYTES
from ._portal import Portal
from ._session import OUTBOX_LIMIT
from ._sync_stream import SyncStream, SyncTurnStream
from ._threads import unblocked
from .events import AnyEvent, InboxEvent
from .records import (
    Execution,
    HistoryPage,
    InboxItem,
    Message,
    Pending,
    Receipt,
    Snapshot,
    State,
    Turn,
)

Json = Any
_Inner = TypeVar("_Inner")
_Face = TypeVar("_Face")


def _face(portal: Portal, inner: _Inner, make: Callable[[Portal, _Inner], _Face]) -> _Face:
    """Return the one wrapper of an object of the asynchronous client."""
    return portal.face(inner, lambda: make(portal, inner))
'''


def spoken(text: str) -> str:
    """Return a text in the words of the synchronous client."""
    for word, other in WORDS:
        text = text.replace(word, other)
    return re.sub(r"\b(Turn)?Stream\b", r"Sync\1Stream", text)


def docstring(node: ast.AST, indent: int) -> str:
    """Return a node's docstring with its quotes, as it stands in the source."""
    pad = " " * indent
    raw = ast.get_docstring(node, clean=False)  # type: ignore[arg-type]
    return f'{pad}"""{spoken(raw)}"""\n' if raw else ""


def arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return the arguments with which to pass on a call."""
    spec = node.args
    passed = [each.arg for each in (*spec.posonlyargs, *spec.args) if each.arg != "self"]
    passed += [f"{each.arg}={each.arg}" for each in spec.kwonlyargs]
    if spec.kwarg is not None:
        passed.append(f"**{spec.kwarg.arg}")
    return ", ".join(passed)


def method(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return the synchronous method for one of the asynchronous."""
    returns = ast.unparse(node.returns) if node.returns is not None else "None"
    head = f"    def {node.name}({spoken(ast.unparse(node.args))}) -> {spoken(returns)}:\n"
    is_property = any(isinstance(each, ast.Name) and each.id == "property" for each in node.decorator_list)
    reach = f"lambda: self._inner.{node.name}" + ("" if is_property else f"({arguments(node)})")
    if is_property:
        head, body = "    @property\n" + head, f"self._portal.peek({reach})"
    elif node.name == "close":
        body = (
            "self._portal.close(self._inner.close)"
            if isinstance(node, ast.AsyncFunctionDef)
            else f"self._portal.peek({reach})"
        )
    elif returns.startswith("AsyncIterator"):
        body = f"self._portal.iterate({reach})"
    else:
        body = f"self._portal.{'call' if isinstance(node, ast.AsyncFunctionDef) else 'now'}({reach})"
    bare = returns.partition("[")[0]
    if bare in CLASSES:
        made = CLASSES[bare][1]
        body = f"_face(self._portal, {body}, {made})"
    elif bare in ("Stream", "TurnStream"):
        body = f"Sync{bare}(self._portal, {body})"
    return f"{head}{docstring(node, 8)}        return {body}\n"


def attributes(init: ast.FunctionDef) -> str:
    """Return a property for each public attribute that is set in ``__init__`` from an argument."""
    types = {
        each.arg: ast.unparse(each.annotation)
        for each in (*init.args.args, *init.args.kwonlyargs)
        if each.annotation is not None
    }
    found = ""
    for node in ast.walk(init):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            name = node.targets[0].attr
            if not name.startswith("_"):
                found += (
                    f"    @property\n    def {name}(self) -> {types[name]}:\n"
                    '        """See the class."""\n'
                    f"        return self._portal.peek(lambda: self._inner.{name})\n\n"
                )
    return found


def synchronous(name: str) -> str:
    """Return the synchronous class for the asynchronous one of this name."""
    path, sync = CLASSES[name]
    tree = ast.parse((SOURCE / path).read_text())
    cls = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    methods = [node for node in cls.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    init = next(node for node in methods if node.name == "__init__")
    assert isinstance(init, ast.FunctionDef)
    text = f"\n\nclass {sync}:\n{docstring(cls, 4)}\n"
    if name == "AsyncParley":
        given = arguments(init).replace("url, token", "url, unblocked(token)")
        text += (
            f"    def __init__({ast.unparse(init.args)}) -> None:\n        self._portal = Portal()\n"
            f"        self._inner = {name}({given})\n"
            "        weakref.finalize(self, self._portal.end).atexit = False\n\n"
        )
    else:
        text += (
            f"    def __init__(self, portal: Portal, inner: {name}) -> None:\n"
            "        self._portal = portal\n        self._inner = inner\n\n"
        )
        text += attributes(init)
    for node in methods:
        if not node.name.startswith(("_", "on_")):
            text += method(node) + "\n"
    enter = next((node for node in methods if node.name == "__aenter__"), None)
    if enter is not None:
        first = "connect" if name == "AsyncParley" else "ready"
        text += (
            f"    def __enter__(self) -> Self:\n        self.{first}()\n        return self\n\n"
            "    def __exit__(\n        self, kind: type[BaseException] | None, error: BaseException | None, "
            "traceback: TracebackType | None\n    ) -> None:\n        self.close()\n"
        )
    return text


def module() -> str:
    """Return the text of ``_sync.py``."""
    text = HEAD + "".join(synchronous(name) for name in CLASSES)
    command = [sys.executable, "-m", "ruff"]
    for step in (["check", "--fix-only", "--select", "I,F401"], ["format"]):
        done = subprocess.run(  # noqa: S603 - our own linter
            [*command, *step, "--quiet", "--stdin-filename", str(TARGET), "-"],
            input=text, capture_output=True, text=True, check=True,
        )  # fmt: skip
        text = done.stdout
    return text.replace(
        "        input: Any = None,\n", "        input: Any = None,  # noqa: A002 - as there\n"
    )


def main() -> int:
    """Write the module, or check it."""
    parser = argparse.ArgumentParser(description="Write the synchronous surface of the Python client.")
    parser.add_argument("--check", action="store_true", help="only tell whether it is current")
    check, text = parser.parse_args().check, module()
    if TARGET.exists() and TARGET.read_text() == text:
        return 0
    if check:
        sys.stderr.write("_sync.py is not current: run python clients/python/generate.py\n")
        return 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
