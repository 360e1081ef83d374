"""The history of a run: what every client did and saw, and what every effect did to the world.

``Recorder`` writes one JSONL file a client: the raw frames in both directions, and what the application
was told. ``EffectLog`` is the world outside: lines that a test's actions append and sync. With the log in
the store (``durable_log.Log``) they are what ``checker.check`` decides on.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TextIO

from storage.models import Audience

Kind = Literal[
    "opened", "closed", "sent", "received", "invoke", "settled", "refused", "unknown", "shown", "skipped"
]
Frame = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a history. ``n`` is its place among all clients' lines of the run.

    ``opened`` and ``closed``: the socket. ``sent`` and ``received``: ``body`` is the frame. ``invoke``: the
    application hands a command over (``body`` is the frame without ``id``); it ends as ``settled`` (``body``
    is ``{completed, data}``), ``refused`` (the error) or ``unknown``. ``shown``: an event reached the
    application; ``skipped``: it was told that a snapshot of that offset replaces what it knew.
    """

    n: int
    at: float
    client: str
    kind: Kind
    conversation_id: str | None = None
    key: str | None = None
    body: Any = None


class History:
    """All recorders of a run, over one counter: what is written first has the lower ``n``.

    Args:
        folder: where each client's ``NAME.jsonl`` is written, line by line; None keeps it in memory.

    Attributes:
        epoch_s: the Unix time at which the entries' ``at`` is 0.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self.entries: list[Entry] = []
        self.audiences: dict[str, Audience] = {}
        self.epoch_s = time.time() - time.monotonic()
        self._files: dict[str, TextIO] = {}

    def client(self, name: str, audience: Audience = "owner") -> "Recorder":
        """Return the recorder of one client (one device: one SDK instance)."""
        self.audiences[name] = audience
        if self._folder is not None and name not in self._files:
            self._files[name] = (self._folder / f"{name}.jsonl").open("a", encoding="utf-8")
        return Recorder(self, name)

    def add(self, client: str, kind: Kind, conversation_id: str | None, key: str | None, body: Any) -> None:
        """Append an entry."""
        entry = Entry(len(self.entries), time.monotonic(), client, kind, conversation_id, key, body)
        self.entries.append(entry)
        file = self._files.get(client)
        if file is not None:
            line = {name: getattr(entry, name) for name in Entry.__slots__ if name != "client"}
            file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    @classmethod
    def load(cls, folder: Path, audiences: Mapping[str, Audience]) -> Self:
        """Read a recorded run back."""
        history = cls()
        history.audiences = dict(audiences)
        for path in sorted(folder.glob("*.jsonl")):
            if path.stem in audiences:
                lines = path.read_text(encoding="utf-8").splitlines()
                history.entries += [Entry(client=path.stem, **json.loads(line)) for line in lines]
        history.entries.sort(key=lambda entry: entry.n)
        return history


class Recorder:
    """Writes one client's part of the history."""

    def __init__(self, history: History, name: str) -> None:
        self._history = history
        self.name = name

    def opened(self) -> None:
        self._history.add(self.name, "opened", None, None, None)

    def closed(self, code: int | None = None) -> None:
        self._history.add(self.name, "closed", None, None, code)

    def sent(self, text: str) -> None:
        frame = json.loads(text)
        frame.pop("token", None)  # a history is an artefact of a failed run, and no place for a token
        self._history.add(
            self.name, "sent", frame.get("conversation_id"), frame.get("idempotency_key"), frame
        )

    def received(self, text: str) -> None:
        frame = json.loads(text)
        self._history.add(self.name, "received", frame.get("conversation_id"), frame.get("command_id"), frame)

    def invoke(self, conversation_id: str, key: str, frame: Frame) -> None:
        self._history.add(self.name, "invoke", conversation_id, key, dict(frame))

    def settled(self, conversation_id: str, key: str, *, completed: bool, data: Any) -> None:
        self._history.add(self.name, "settled", conversation_id, key, {"completed": completed, "data": data})

    def refused(self, conversation_id: str, key: str, error: Any) -> None:
        self._history.add(self.name, "refused", conversation_id, key, error)

    def unknown(self, conversation_id: str, key: str) -> None:
        self._history.add(self.name, "unknown", conversation_id, key, None)

    def shown(self, conversation_id: str, offset: int) -> None:
        self._history.add(self.name, "shown", conversation_id, None, {"offset": offset})

    def skipped(self, conversation_id: str, offset: int) -> None:
        self._history.add(self.name, "skipped", conversation_id, None, {"offset": offset})


@dataclass(frozen=True, slots=True)
class EffectLine:
    """What an action wrote into the effect log before and after it changed the world.

    ``key`` is the attempt's constant key, ``execution:frame:step:visit``; ``arguments`` are what
    the action was given.
    """

    phase: Literal["before", "after"]
    action: str
    effect: Literal["read", "idempotent", "write"]
    key: str
    attempt: int
    conversation_id: str
    pid: int
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> tuple[str, str, int]:
        """(execution, step, visit)."""
        execution_id, _, step_id, visit = self.key.split(":")
        return execution_id, step_id, int(visit)


class EffectLog:
    """A file of effect lines that survives the writer's death: each line is one synced append."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, line: EffectLine) -> None:
        data = json.dumps({name: getattr(line, name) for name in line.__slots__}).encode() + b"\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self) -> list[EffectLine]:
        if not self.path.exists():
            return []
        return [EffectLine(**json.loads(line)) for line in self.path.read_text(encoding="utf-8").splitlines()]
